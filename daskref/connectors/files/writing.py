"""Write buffers into a file, through a mapping where that is faster.

Measured for new pages of a tmpfs, in GB/s: 10 through a mapping with huge pages, with
one thread or two. Without huge pages: 2.5 with ``pwrite``, which neither clears nor
maps pages; 1.6 through a mapping that `SharedMapping.populate` makes chunk by chunk,
3.0 with two such threads; 4.0 with one thread of each kind. ``pwrite`` locks the file,
so a second thread that calls it gains nothing.

To pages that exist and are mapped, a copy runs at the speed of memory, two to three
times that of ``pwrite``.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from ctypes import memmove
from functools import partial
from itertools import islice
from typing import NamedTuple

from daskref.background import start_thread
from daskref.connectors.buffers import address
from daskref.connectors.files._mapping import HUGE, SharedMapping, can_collapse
from daskref.connectors.files.locks import open_plain

#: Bytes from which objects are written through a mapping.
MAPPED = 2**20
#: Bytes from which several threads copy. Each holds the GIL between chunks only.
THREADED = 16 * 2**20
_CHUNK = HUGE
#: Buffers per system call, and bytes of each.
_VECTOR = 512
_LARGEST = 2**26
#: Bytes that are copied at a time to a disk.
_BUFFER = 4 * 2**20


def is_mapped(nbytes: int, existing: int) -> bool:
    """Tell whether to write an object through a mapping.

    *existing*: the file has all pages of its first *existing* bytes.
    """
    if existing >= nbytes:
        return nbytes >= MAPPED
    if can_collapse():
        return nbytes >= HUGE
    return nbytes >= THREADED and _threads() > 1


def _threads() -> int:
    return max(1, min(4, len(os.sched_getaffinity(0))))


def write_file(fd: int, views: Sequence[memoryview], offset: int = 0) -> None:
    """Write buffers, one after another, to a file from *offset* on.

    Raises OSError with ENOSPC when the file system is full.
    """
    pending = [view for view in views if view.nbytes]
    while pending:
        batch = []
        for view in islice(pending, _VECTOR):
            batch.append(view[:_LARGEST])
            if view.nbytes > _LARGEST:
                break
        written = os.pwritev(fd, batch, offset)
        offset += written
        complete = 0
        while complete < len(pending) and written >= pending[complete].nbytes:
            written -= pending[complete].nbytes
            complete += 1
        pending = pending[complete:]
        if written:
            pending[0] = pending[0][written:]


class _Chunk(NamedTuple):
    """The bytes for one huge page, or for the pages in its place."""

    start: int
    stop: int
    #: Bytes that lie there one after another.
    views: list[memoryview]


def _chunks(views: Sequence[memoryview]) -> Iterator[_Chunk]:
    start = stop = 0
    parts: list[memoryview] = []
    for view in views:
        done = 0
        while done < view.nbytes:
            part = view[done : done + start + _CHUNK - stop]
            parts.append(part)
            done += part.nbytes
            stop += part.nbytes
            if stop == start + _CHUNK:
                yield _Chunk(start, stop, parts)
                start, parts = stop, []
    if parts:
        yield _Chunk(start, stop, parts)


def write_mapped(
    mapping: SharedMapping, fd: int, views: Sequence[memoryview], existing: int
) -> None:
    """Copy buffers, one after another, into a mapped file.

    Raises OSError with ENOSPC when the file system is full.

    Parameters
    ----------
    mapping
        Of the file, long enough.
    fd
        The file; it has its final length.
    existing
        The file has all pages of its first *existing* bytes.
    """
    nbytes = sum(view.nbytes for view in views)
    # A deque hands each chunk to one thread.
    todo = deque(_chunks(views))
    unmapped = nbytes  # from here on pages are not mapped
    errors: list[BaseException] = []

    def copy() -> None:
        while todo and not errors:
            try:
                chunk = todo.popleft()
            except IndexError:
                return
            if existing < nbytes:
                mapping.make(chunk.start, chunk.stop)
            elif chunk.stop > mapping.populated:
                mapping.map(chunk.start, chunk.stop)
            where = mapping.address + chunk.start
            for view in chunk.views:
                memmove(where, address(view), view.nbytes)
                where += view.nbytes

    def write() -> None:
        """Take chunks from the end: the pages that ``copy`` maps have no gaps."""
        nonlocal unmapped
        while todo and not errors:
            try:
                chunk = todo.pop()
            except IndexError:
                return
            unmapped = chunk.start
            write_file(fd, chunk.views, chunk.start)

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as exc:
            errors.append(exc)

    count = _threads() if nbytes >= THREADED else 1
    others = [copy] * (count - 1)
    if others and existing < nbytes:
        run(partial(mapping.make_huge, 0))
        if not mapping.huge:
            others[0] = write
    threads = []
    try:
        for work in others:
            threads.append(start_thread(partial(run, work), "daskref-write"))
        run(copy)
    finally:
        # Also after an interrupt, no thread may write to the mapping after the return.
        todo.clear()
        for thread in threads:
            if thread is not None:
                thread.join()
    if not errors:
        mapping.populated = max(mapping.populated, unmapped)
        return
    exc = errors[0]
    errors.clear()
    try:
        if isinstance(exc, OSError) and exc.errno == errno.EFAULT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from exc
        raise exc
    finally:
        del exc  # or the error would keep itself alive, and the buffers with it


def copy_past_cache(
    source: int, nbytes: int, path: str, stops: Callable[[], bool]
) -> bool:
    """Copy a file to a new one on a disk, without keeping its pages in the page cache.

    Returns False if *stops* returned true, which is asked between blocks; raises
    OSError with ENOSPC when the disk is full. In both cases the new file stays.
    """
    fd = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        direct = _set_direct(fd, True)
        # Anonymous memory begins at a page, as the disk demands.
        view = memoryview(mmap.mmap(-1, _BUFFER))
        offset = 0
        while offset < nbytes:
            if stops():
                return False
            read = os.preadv(source, [view[: nbytes - offset]], offset)
            if not read:
                raise OSError(errno.EIO, "a file was cut short")
            # Whole pages; the file is cut to its length in the end.
            whole = -(-read // mmap.PAGESIZE) * mmap.PAGESIZE
            try:
                write_file(fd, [view[:whole]], offset)
            except OSError as exc:
                if not direct or exc.errno != errno.EINVAL:
                    raise
                direct = _set_direct(fd, False)
                continue
            if not direct:
                os.fdatasync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            offset += read
        os.ftruncate(fd, nbytes)
        return True
    finally:
        os.close(fd)


def _set_direct(fd: int, direct: bool) -> bool:
    """Make writes bypass the page cache, or not; return whether they do."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | (os.O_DIRECT if direct else 0))
    except OSError:  # not on this file system
        return False
    return direct
