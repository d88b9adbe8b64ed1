"""What a store takes of its host's memory and disk, as the file systems tell.

Sizes are those of the files' blocks, in whole pages. A deleted object that a process
still reads is a locked file in the pool, which ``/proc/locks`` tells, or a file without
a name, which the maps of the session's processes tell.

Known limits: processes of another PID namespace (containers that share ``/dev/shm``)
are not seen. Objects that only they read count as ``pool``, or not at all if they have
no name; nor does a nameless file count that only a forked child maps, or a process
outside the session.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from daskref.connectors.files.names import ARRIVING, MOVING, NAME, PART, PUSHED

#: Bytes of a block of ``stat``, whatever the file system has.
_BLOCK = 512
_HIDDEN = "|".join(map(re.escape, (PART, ARRIVING, PUSHED, MOVING)))
_OBJECT = re.compile(f"(?:{_HIDDEN})?{NAME.pattern}")
_POOLED = re.compile(".*")
#: A shared lock: process, device, inode.
_LOCK = re.compile(
    rb"^\d+: FLOCK +\S+ +READ +(\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ", re.MULTILINE
)
_RESIDENT = re.compile(rb"^Rss: +(\d+)", re.MULTILINE)


class Space(NamedTuple):
    """Sizes in bytes, of one host. No page counts twice."""

    #: Objects in memory, complete or being written.
    memory: int = 0
    #: Objects on disk, likewise.
    disk: int = 0
    #: Deleted from memory and without readers, to be reused or freed.
    pool: int = 0
    #: Deleted from memory, but a process still has a view, or a mapping that keeps the
    #: pages.
    pinned: int = 0
    #: The budget for objects in memory.
    budget: int = 0
    #: Free bytes of the file system in memory, for all processes of the host.
    free: int = 0
    #: Free bytes of the disk's file system.
    disk_free: int = 0


class Footprint(NamedTuple):
    """What one object takes up on one host; all zero if it is not there."""

    #: Bytes in memory, and on disk, in whole pages.
    memory: int = 0
    disk: int = 0
    #: Number of processes with a mapping of it; ``None`` if unknown, as on disk.
    mapped: int | None = None
    #: Identifies its file on the host: an object may have several keys.
    file: str = ""


def of_names(
    names: Iterable[str], memory: str, disk: str | None
) -> list[Footprint | None]:
    """Return what objects take in memory or on disk, in the same order.

    *memory*, *disk*: their directories. An object that is being moved has its name in
    both.
    """
    readers = _readers(memory)
    found: list[Footprint | None] = []
    for name in names:
        each = Footprint()
        if (there := _stat(memory, name)) is not None:
            mapped = None if readers is None else len(readers.get(there.st_ino, ()))
            nbytes = there.st_blocks * _BLOCK
            each = Footprint(nbytes, 0, mapped, _identity(there))
        elif disk is not None and (there := _stat(disk, name)) is not None:
            each = Footprint(0, there.st_blocks * _BLOCK, None, _identity(there))
        found.append(each)
    return found


def _identity(there: os.stat_result) -> str:
    return f"{there.st_dev:x}-{there.st_ino:x}"


def _stat(path: str, name: str) -> os.stat_result | None:
    try:
        return os.lstat(f"{path}/{name}")
    except FileNotFoundError:
        return None


def of_objects(path: str) -> dict[int, int]:
    """Return the sizes of objects, and of those being written, by inode."""
    return _sizes(path, _OBJECT)


def of_deleted(path: str) -> tuple[dict[int, int], dict[int, int]]:
    """Return the sizes of deleted objects by inode: without readers, and pinned.

    *path*: the session's directory.
    """
    pool = _sizes(os.path.join(path, "free"), _POOLED)
    read, processes = _locks(path)
    pinned = _nameless(path, read, processes)
    pinned |= {inode: pool.pop(inode) for inode in pool.keys() & read}
    return pool, pinned


def left(path: str) -> int:
    """Return the free bytes of a file system; 0 if there is none."""
    try:
        there = os.statvfs(path)
    except OSError:
        return 0
    return there.f_bavail * there.f_frsize


def _sizes(path: str, pattern: re.Pattern[str]) -> dict[int, int]:
    sizes = {}
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    there = entry.stat(follow_symlinks=False)
                    sizes[there.st_ino] = there.st_blocks * _BLOCK
    return sizes


def _locks(path: str) -> tuple[set[int], set[int]]:
    """Return the inodes with a shared lock, and the processes of the session."""
    readers = _readers(path)
    if not readers or (lock := _stat(path, "lock")) is None:
        return set(), set()
    return set(readers), readers.get(lock.st_ino, set())


def _readers(path: str) -> dict[int, set[int]] | None:
    """Return which processes hold a shared lock, by the inode of the file.

    ``None`` if the session is gone, or this is no Linux that tells.
    """
    try:
        device = os.stat(os.path.join(path, "lock")).st_dev
        locks = _read("/proc/locks")
    except OSError:
        return None
    readers: dict[int, set[int]] = {}
    for pid, major, minor, inode in _LOCK.findall(locks):
        if os.makedev(int(major, 16), int(minor, 16)) == device:
            readers.setdefault(int(inode), set()).add(int(pid))
    return readers


def _nameless(path: str, read: set[int], processes: Iterable[int]) -> dict[int, int]:
    """Return the sizes of files without a name that still have pages, by inode."""
    mapping = re.compile(
        rb"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ (\d+) +"
        + re.escape(os.fsencode(os.path.realpath(path)))
        + rb"/[^\n]* \(deleted\)$",
        re.MULTILINE,
    )
    sizes: dict[int, int] = {}
    for pid in processes:
        try:
            if not mapping.search(_read(f"/proc/{pid}/maps")):
                continue
            smaps = _read(f"/proc/{pid}/smaps")
        except OSError:  # it has ended
            continue
        for found in mapping.finditer(smaps):
            start, stop, offset = (int(found[n], 16) for n in (1, 2, 3))
            inode = int(found[4])
            resident = _RESIDENT.search(smaps, found.end())
            # Without either, the file was cut to nothing when it was deleted.
            if inode in read or (resident is not None and int(resident[1])):
                sizes[inode] = max(sizes.get(inode, 0), offset + stop - start)
    return sizes


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
