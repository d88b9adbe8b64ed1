"""What the kernel tells of the pages of this process's mappings."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys

#: Size of a page's entry in the file, where in it the flags are, and how much to read
#: at once.
_ENTRY = 8
_FLAGS = 7 if sys.byteorder == "little" else 0
_PIECE = 64 * 2**10
#: How much memory to look at at once.
_STRETCH = 64 * 2**20
#: The flags: in memory, swapped out, and not a copy.
_PRESENT, _SWAPPED, _OF_FILE = 0x80, 0x40, 0x20
_UNWRITTEN = bytes(
    flags
    for flags in range(256)
    if flags & _OF_FILE or not flags & (_PRESENT | _SWAPPED)
)


class _Scan(ctypes.Structure):
    """``struct pm_scan_arg``."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len"),
            *("max_pages", "inverted", "mask", "any_of", "wanted"),
        )
    )


#: ``_IOWR('f', 16, struct pm_scan_arg)``, and the same flags there.
_PAGEMAP_SCAN = 3 << 30 | ctypes.sizeof(_Scan) << 16 | ord("f") << 8 | 16
_SCAN_OF_FILE, _SCAN_PRESENT, _SCAN_SWAPPED = 1 << 2, 1 << 3, 1 << 4


def is_unwritten(where: int, nbytes: int) -> bool:
    """Tell whether all pages of a private mapping are still the file's.

    A write makes a copy of its page that is the file's no more.

    Parameters
    ----------
    where, nbytes
        A mapping.

    Returns
    -------
    bool
        False too where the kernel does not tell.
    """
    try:
        # Never kept open: in a forked child it would still tell of the parent.
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        try:
            return scan(fd, where, nbytes)
        except OSError:
            return read(fd, where, nbytes)
    except OSError:
        return False
    finally:
        os.close(fd)


def scan(fd: int, where: int, nbytes: int) -> bool:
    """Do what :func:`is_unwritten` does; fast where no page was used (Linux 6.7)."""
    found = (ctypes.c_uint64 * 3)()
    end = where + -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    for start in range(where, end, _STRETCH):
        asked = _Scan(
            size=ctypes.sizeof(_Scan),
            start=start,
            end=min(start + _STRETCH, end),
            vec=ctypes.addressof(found),
            vec_len=1,
            max_pages=1,
            inverted=_SCAN_OF_FILE,
            mask=_SCAN_OF_FILE,
            any_of=_SCAN_PRESENT | _SCAN_SWAPPED,
            wanted=_SCAN_OF_FILE,
        )
        if fcntl.ioctl(fd, _PAGEMAP_SCAN, asked):
            return False
    return True


def read(fd: int, where: int, nbytes: int) -> bool:
    """Do what :func:`is_unwritten` does, from the file itself."""
    size = -(-nbytes // mmap.PAGESIZE) * _ENTRY
    start = where // mmap.PAGESIZE * _ENTRY
    for done in range(0, size, _PIECE):
        wanted = min(_PIECE, size - done)
        entries = os.pread(fd, wanted, start + done)
        if len(entries) != wanted:
            return False
        if entries[_FLAGS::_ENTRY].translate(None, _UNWRITTEN):
            return False
    return True
