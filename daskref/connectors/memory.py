"""Mappings and addresses, straight from the C library.

The standard ``mmap`` object keeps a descriptor per mapping, and an application that
holds many views would run out of them. The kernel keeps the file, and a lock on it,
for as long as the mapping itself lives.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

_PROT_NONE = 0
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_DONTFORK = 10
_POPULATE_WRITE = 23
_FAILED = ctypes.c_void_p(-1).value


class _PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


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


@cache
def _get_buffer() -> tuple[Any, Any]:
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
    release = ctypes.pythonapi.PyBuffer_Release
    release.argtypes = [ctypes.POINTER(_PyBuffer)]
    return get, release


def _map(fd: int, nbytes: int, flags: int, access: int = _READ_WRITE) -> int:
    where = _libc().mmap(None, nbytes, access, flags, fd, 0)
    if where == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    assert isinstance(where, int)
    return where


def raw(buffer: Any) -> memoryview:
    """Return the bytes of any contiguous buffer, not copied, whatever its format."""
    view = memoryview(buffer)
    if view.c_contiguous and view.nbytes:
        # Not a PickleBuffer of a memoryview: Python before 3.12.7 crashes when it
        # collects them in a cycle, such as an error's traceback (gh-77894).
        return view.cast("B")
    return pickle.PickleBuffer(buffer).raw()


def address(view: memoryview) -> int:
    """Return where the bytes lie; *view* must outlive the use of the address."""
    get, release = _get_buffer()
    info = _PyBuffer()
    get(view, ctypes.byref(info), 0)
    try:
        where = info.buf
        assert isinstance(where, int)
        return where
    finally:
        release(ctypes.byref(info))


def private_view(fd: int, nbytes: int) -> memoryview:
    """Map a file privately: writable, and writes stay in this process.

    Parameters
    ----------
    fd
        May be closed afterwards: a lock that it holds lasts as long as any view of the
        result.
    nbytes
        At least 1, and at most the size of the file.

    Raises
    ------
    OSError
        ENOMEM when this process has too many mappings.
    """
    where = map_private(fd, nbytes)
    return view_of(where, nbytes, _libc().munmap, where, nbytes)


def map_private(fd: int, nbytes: int) -> int:
    """Return the address of a new private mapping; raises as private_view does."""
    return _map(fd, nbytes, mmap.MAP_PRIVATE)


def map_holder(fd: int) -> int:
    """Map one page that nobody may touch: it keeps a lock of the file's, as views do.

    To be undone with ``unmap(address, mmap.PAGESIZE)``.
    """
    return _map(fd, mmap.PAGESIZE, mmap.MAP_PRIVATE, _PROT_NONE)


def unmap(where: int, nbytes: int) -> None:
    """Undo a mapping, of which no view may be left."""
    _libc().munmap(where, nbytes)


def view_of(
    where: int, nbytes: int, release: Callable[..., object], *args: int
) -> memoryview:
    """Return a view of mapped memory.

    Parameters
    ----------
    where, nbytes
        The memory.
    release, *args
        To be called once the last view is gone: anywhere, as finalizers are.
    """
    array = (ctypes.c_ubyte * nbytes).from_address(where)
    finalizer = weakref.finalize(array, release, *args)
    # At exit other finalizers may still look at the bytes; the kernel unmaps them.
    finalizer.atexit = False
    return raw(array)


class SharedMapping:
    """A file's pages, writable. Holds no descriptor and no lock.

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
    _pid: int

    def __init__(self, fd: int, nbytes: int) -> None:
        self._pid = 0
        self.populated = 0
        self.address = _map(fd, nbytes, mmap.MAP_SHARED)
        self.nbytes = nbytes
        self._pid = os.getpid()
        self._munmap = _libc().munmap
        _libc().madvise(self.address, nbytes, _DONTFORK)

    def populate(self, start: int, stop: int) -> None:
        """Make the pages of a range exist, and map them in one go.

        Raises
        ------
        OSError
            ``EFAULT`` where touching them would kill the process (the file system is
            full), ``EINVAL`` where the kernel cannot do this (before Linux 5.14).
        """
        start -= start % mmap.PAGESIZE
        if _libc().madvise(self.address + start, stop - start, _POPULATE_WRITE):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def __del__(self) -> None:
        # A forked child does not have the mapping; the addresses may be another's.
        if self._pid == os.getpid():
            self._munmap(self.address, self.nbytes)


@cache
def can_populate() -> bool:
    """Tell whether the kernel knows :meth:`SharedMapping.populate`."""
    where = _map(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        known: bool = not _libc().madvise(where, mmap.PAGESIZE, _POPULATE_WRITE)
        return known
    finally:
        _libc().munmap(where, mmap.PAGESIZE)
