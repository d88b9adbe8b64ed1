"""Mappings and addresses, through the C library.

A standard ``mmap`` object keeps a descriptor, so an application with many views would
run out of descriptors. The kernel keeps the file, and a lock on it, for as long as the
mapping exists.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

_PROT_NONE = 0
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_DONTFORK = 10
_POPULATE_READ = 22
_POPULATE_WRITE = 23
_COLLAPSE = 25
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_FIXED = 0x10
#: Bytes of a huge page; where the processor has others, none are asked for.
HUGE = 2 * 2**20
_HUGE_NBYTES = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
#: Seconds to make one, after which no more are asked for; a tenth is usual (measured).
_SLOW = 1e-3
_FAILED = ctypes.c_void_p(-1).value
#: Addresses of the private mappings. A dict, because finalizers take no lock.
_private: dict[int, None] = {}


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    integer, offset = ctypes.c_int, ctypes.c_long
    libc.mmap.argtypes = [pointer, size, integer, integer, integer, offset]
    libc.mmap.restype = pointer
    libc.munmap.argtypes = [pointer, size]
    libc.madvise.argtypes = [pointer, size, integer]
    return libc


def _map(
    fd: int, nbytes: int, flags: int, access: int = _READ_WRITE, at: int | None = None
) -> int:
    where = _libc().mmap(at, nbytes, access, flags, fd, 0)
    if where == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    assert isinstance(where, int)
    return where


def _map_aligned(fd: int, nbytes: int, flags: int) -> int:
    """Map a file at an address at which its huge pages can be mapped as such."""
    where = _map(fd, nbytes, flags)
    if nbytes < HUGE or where % HUGE == 0:  # new kernels see to it
        return where
    _libc().munmap(where, nbytes)
    length = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    reserved = _map(-1, length + HUGE, _ANONYMOUS, _PROT_NONE)
    where = -(-reserved // HUGE) * HUGE
    try:
        _map(fd, nbytes, flags | _FIXED, at=where)
    except OSError:
        _libc().munmap(reserved, length + HUGE)
        raise
    if before := where - reserved:
        _libc().munmap(reserved, before)
    if after := HUGE - before:
        _libc().munmap(where + length, after)
    return where


def private_view(fd: int, nbytes: int) -> memoryview:
    """Map a file privately: writable, and writes stay in this process.

    Raises OSError with ENOMEM when this process has too many mappings.

    Parameters
    ----------
    fd
        May be closed afterwards: its lock lasts as long as any view of the result.
    nbytes
        At least 1, and at most the size of the file.
    """
    where = map_private(fd, nbytes)
    return view_of(where, nbytes, unmap, where, nbytes)


@cache
def _most_mappings() -> int:
    """Return how many mappings the kernel allows this process."""
    try:
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 2**16


def map_private(fd: int, nbytes: int) -> int:
    """Return the address of a new private mapping.

    Raises OSError: ENOMEM when this process has too many. Half of what the kernel
    allows is left to others, and to large objects: past it, Python gets no memory.
    """
    part = 0.9 if nbytes >= HUGE else 0.5
    if len(_private) >= part * _most_mappings():
        raise OSError(errno.ENOMEM, "too many mappings")
    where = _map_aligned(fd, nbytes, mmap.MAP_PRIVATE)
    _private[where] = None
    return where


def map_holder(fd: int) -> int:
    """Map one page without access, which holds the file's lock as a view does.

    Undo it with ``unmap(address, mmap.PAGESIZE)``.
    """
    where = _map(fd, mmap.PAGESIZE, mmap.MAP_PRIVATE, _PROT_NONE)
    _private[where] = None
    return where


def unmap(where: int, nbytes: int) -> None:
    """Undo a private mapping that has no views any more."""
    # before: another thread may get the address at once
    _private.pop(where, None)
    _libc().munmap(where, nbytes)


def view_of(
    where: int, nbytes: int, release: Callable[..., object], *args: object
) -> memoryview:
    """Return a view of mapped memory.

    ``release(*args)`` is called when the last view is collected, in any thread.
    """
    array = (ctypes.c_ubyte * nbytes).from_address(where)
    finalizer = weakref.finalize(array, release, *args)
    # At exit other finalizers may still look at the bytes; the kernel unmaps them.
    finalizer.atexit = False
    return memoryview(array).cast("B")


class SharedMapping:
    """The pages of a file, writable. Holds no descriptor and no lock.

    Parameters
    ----------
    fd
        Open for reading and writing.
    nbytes
        Length; pages past the end of the file must not be touched.
    """

    address: int
    nbytes: int
    #: The pages of these first bytes exist and are mapped, as its user says.
    populated: int
    #: Whether huge pages are worth asking for.
    huge: bool
    _pid: int

    def __init__(self, fd: int, nbytes: int) -> None:
        self._pid = 0
        self.huge = nbytes >= HUGE and can_collapse()
        self.populated = 0
        self.address = _map_aligned(fd, nbytes, mmap.MAP_SHARED)
        self.nbytes = nbytes
        self._pid = os.getpid()
        self._munmap = _libc().munmap
        _libc().madvise(self.address, nbytes, _DONTFORK)

    def make(self, start: int, stop: int) -> None:
        """Make the pages of a range that has none, or few; huge ones where possible.

        Huge pages are made several times faster, are mapped and freed at once, and are
        read at the speed of other memory. Raises as :meth:`populate` does.
        """
        while start < stop:
            if self.make_huge(start):
                start += HUGE
                continue
            # Small pages for the rest: a failed attempt at a huge page takes long.
            self.populate(start, stop)
            return

    def make_huge(self, start: int) -> bool:
        """Make a huge page at offset *start*; False if that fails or may take long.

        Notes
        -----
        ``MADV_COLLAPSE`` (Linux 6.1) makes this one page huge, whatever the mount
        options are. It needs one small page that exists.
        """
        if not self.huge or start % HUGE or start + HUGE > self.nbytes:
            return False
        self.populate(start, start + mmap.PAGESIZE)
        begin = time.perf_counter()
        made = not _libc().madvise(self.address + start, HUGE, _COLLAPSE)
        # The kernel may have to move others away first, and a virtual machine to get
        # the memory from its host: small pages can be had at once.
        self.huge = made and time.perf_counter() < begin + _SLOW
        return made

    def populate(self, start: int, stop: int) -> None:
        """Make the pages of a range exist, and map them.

        Raises
        ------
        OSError
            ``EFAULT`` where touching the pages would kill the process (the file system
            is full), ``EINVAL`` where the kernel cannot do this (before Linux 5.14).
        """
        self._advise(start, stop, _POPULATE_WRITE)

    def map(self, start: int, stop: int) -> None:
        """Map the pages of a range that exist; raises as :meth:`populate` does.

        Notes
        -----
        Takes less than half of the time of :meth:`populate` (measured for 1 MiB: 90 us
        against 200). The kernel treats the call as a read and maps several pages at a
        time, those of a tmpfs for writing as well.
        """
        self._advise(start, stop, _POPULATE_READ)

    def _advise(self, start: int, stop: int, advice: int) -> None:
        start -= start % mmap.PAGESIZE
        if _libc().madvise(self.address + start, stop - start, advice):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def __del__(self) -> None:
        # A forked child does not have the mapping; the addresses may be another's.
        if self._pid == os.getpid():
            self._munmap(self.address, self.nbytes)


@cache
def can_populate() -> bool:
    """Tell whether the kernel supports :meth:`SharedMapping.populate`."""
    where = _map(-1, mmap.PAGESIZE, _ANONYMOUS)
    try:
        known: bool = not _libc().madvise(where, mmap.PAGESIZE, _POPULATE_WRITE)
        return known
    finally:
        _libc().munmap(where, mmap.PAGESIZE)


@cache
def can_collapse() -> bool:
    """Tell whether the kernel makes huge pages of a file on request."""
    try:
        with open(_HUGE_NBYTES, encoding="ascii") as file:
            usual = int(file.read()) == HUGE
    except (OSError, ValueError):
        usual = False
    if not usual or not can_populate():
        return False
    where = _map(-1, mmap.PAGESIZE, _ANONYMOUS)
    try:
        # Of nothing: succeeds wherever it is known.
        known: bool = not _libc().madvise(where, 0, _COLLAPSE)
        return known
    finally:
        _libc().munmap(where, mmap.PAGESIZE)
