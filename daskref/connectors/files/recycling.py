"""Recycled files: pages that exist take data several times faster than new ones.

An evicted file is renamed into the pool, whether it still has readers or not. A writer
that takes it from there needs its exclusive lock, and readers hold a shared lock for as
long as a view exists. So no page is overwritten that a reader can see.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from daskref.background import Background, forget_in_child
from daskref.connectors.files._mapping import SharedMapping
from daskref.connectors.files.locks import (
    EXCLUSIVE,
    exclusively,
    names,
    open_plain,
    try_lock,
    unlock,
)
from daskref.connectors.machine import is_low, memory

#: Bytes: smaller files are deleted at once.
SMALLEST = 64 * 2**10
#: Most files in the pool, and most kept mappings.
_COUNT = 256
#: Seconds between two looks at the pool, by a process that has added files.
_LOOK = 1.0


def reclaim(path: str) -> bool:
    """Delete a file and free its pages, unless it has readers.

    Returns whether this call deleted it.
    """
    try:
        with exclusively(path) as fd:
            if fd is None:
                return False
            if os.fstat(fd).st_nlink == 1:
                # Its writer may have kept a mapping, and with it all pages.
                os.ftruncate(fd, 0)
            os.unlink(path)
            return True
    except OSError:
        return False  # no descriptor left, or not ours to write


def discard(path: str) -> bool:
    """Delete a file, with readers or without; free its pages at once if it has none.

    Returns whether this call deleted it.
    """
    return reclaim(path) or unlink(path)


def unlink(path: str) -> bool:
    """Delete a file if it exists; return whether this call deleted it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


class Segment(NamedTuple):
    """A file in the pool."""

    time_ns: int
    nbytes: int
    inode: int
    path: str


class Claim(NamedTuple):
    """A file taken for a new object; its exclusive lock is held."""

    fd: int
    #: All pages of these first bytes exist.
    nbytes: int


@dataclass(eq=False, repr=False)
class Pool:
    """Evicted files of one session, kept for reuse by all of its processes."""

    #: The directory; made if it does not exist.
    path: str
    #: () -> bytes that the pool may hold.
    limit: Callable[[], int]
    #: Seconds after which a process that has added files deletes the unused ones.
    idle: float
    _asleep: bool = False
    _closed: bool = False

    def __post_init__(self) -> None:
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        self._background = Background(self._look, "daskref-pool")

    def segments(self) -> list[Segment]:
        """Return the files in the pool, the longest unused first."""
        found = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    time_ns, nbytes, _ = (int(n, 16) for n in entry.name.split("-"))
                    found.append(Segment(time_ns, nbytes, entry.inode(), entry.path))
        except FileNotFoundError:
            pass  # the session was removed
        return sorted(found)

    def add(self, path: str, nbytes: int, time_ns: int) -> bool:
        """Move a file of *nbytes* into the pool, deleting older files to make room.

        Returns False if the file does not fit: the caller discards it. Raises
        FileNotFoundError if another process moved or deleted the file first.
        """
        if nbytes < SMALLEST or nbytes > (limit := self.limit()):
            return False
        there = self.segments()
        excess = sum(segment.nbytes for segment in there) + nbytes - limit
        surplus = len(there) + 1 - _COUNT
        for segment in there:
            if excess <= 0 and surplus <= 0:
                break
            discard(segment.path)
            excess -= segment.nbytes
            surplus -= 1
        name = f"{time_ns:x}-{nbytes:x}-{os.urandom(4).hex()}"
        os.rename(path, os.path.join(self.path, name))
        if not self._closed:  # an object that another thread was just deleting
            self._background.start(_LOOK)
            if self._asleep:
                self._background.wake()
        return True

    def _look(self) -> float:
        before = time.time_ns()
        if not is_low(*memory()):
            before -= int(self.idle * 1e9)
        # Before the look: an `add` after it wakes this thread.
        self._asleep = True
        self._asleep = not self.give_back(before)
        return float("inf") if self._asleep else _LOOK

    def close(self) -> None:
        """Stop the background thread; the files stay. A second call is silent."""
        self._closed = True
        self._background.stop()

    def trim(self, nbytes: int) -> int:
        """Delete unread files, longest unused first, until *nbytes* are freed.

        Returns the bytes freed.
        """
        gained = 0
        for segment in self.segments():
            if gained >= nbytes:
                break
            if reclaim(segment.path):
                gained += segment.nbytes
        return gained

    def give_back(self, before_ns: int) -> int:
        """Delete the unread files added until *before_ns*; return how many files stay.

        Files with readers stay for the next look: their pages would stay in any case,
        without a name until the writer drops its mapping.
        """
        return sum(
            segment.time_ns > before_ns or not reclaim(segment.path)
            for segment in self.segments()
        )

    def claim(self, nbytes: int, path: str, preferred: set[int]) -> Claim | None:
        """Take a file for an object of *nbytes* and rename it to *path*.

        The file has at least *nbytes* and at most twice as many. Files whose inode is
        in *preferred* come first.
        """
        fitting = [s for s in self.segments() if nbytes <= s.nbytes <= 2 * nbytes]
        # Latest first: its pages may still be in the processor's cache.
        fitting.sort(key=lambda s: (s.inode not in preferred, s.nbytes, -s.time_ns))
        for segment in fitting[:8]:
            if claim := self._take(segment, path):
                return claim
        return None

    def _take(self, segment: Segment, path: str) -> Claim | None:
        try:
            fd = open_plain(segment.path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            if try_lock(fd, EXCLUSIVE):
                # 1. A opens the file. 2. B takes it, writes, publishes, unlocks it.
                # 3. A locks it: by now it is an object, and the name tells.
                if names(segment.path, fd):
                    there = os.fstat(fd)
                    if there.st_nlink == 1 and there.st_size >= segment.nbytes:
                        os.rename(segment.path, path)
                        return Claim(fd, there.st_size)
                    # An object still has these pages: `link` and `evict` overlapped.
                    os.unlink(segment.path)
                unlock(fd)
        except FileNotFoundError:
            unlock(fd)  # trimmed, or the session is gone
        os.close(fd)
        return None


class _Kept(NamedTuple):
    mapping: SharedMapping
    path: str


class KeptMappings:
    """Mappings of files that this process wrote, kept for the next write to the file.

    They hold no lock, so any process can recycle the files.

    *limit*: () -> bytes that may be mapped in all.
    """

    _kept: OrderedDict[int, _Kept]

    def __init__(self, limit: Callable[[], int]) -> None:
        self.limit = limit
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Drop all mappings: a forked child does not inherit them."""
        self._kept = OrderedDict()
        self._pruned = 0.0
        self._lock = Lock()

    def inodes(self) -> set[int]:
        """Return the inodes of the mapped files."""
        with self._lock:
            return set(self._kept)

    def pop(self, inode: int, nbytes: int) -> SharedMapping | None:
        """Take the mapping of a claimed file, if there is one of at least *nbytes*."""
        with self._lock:
            kept = self._kept.pop(inode, None)
        if kept is not None and kept.mapping.nbytes >= nbytes:
            return kept.mapping
        return None

    def peek(self, inode: int, nbytes: int) -> SharedMapping | None:
        """Return the mapping of a file, as :meth:`pop` does, and keep it."""
        with self._lock:
            kept = self._kept.get(inode)
        if kept is not None and kept.mapping.nbytes >= nbytes:
            return kept.mapping
        return None

    def keep(self, inode: int, mapping: SharedMapping, path: str) -> None:
        """Keep the mapping of the file at *path*."""
        dropped = []
        with self._lock:
            self._kept[inode] = _Kept(mapping, path)
            total = sum(kept.mapping.nbytes for kept in self._kept.values())
            while self._kept and (total > self.limit() or len(self._kept) > _COUNT):
                _, oldest = self._kept.popitem(last=False)
                total -= oldest.mapping.nbytes
                dropped.append(oldest)  # unmapped once the lock is released

    def prune(self, pool: Pool, interval: float = 1.0) -> None:
        """Drop the mappings of files that are neither objects nor in the pool.

        Does nothing if the last call was less than *interval* seconds ago.
        """
        with self._lock:
            if not self._kept or time.monotonic() < self._pruned + interval:
                return
            self._pruned = time.monotonic()
            kept = list(self._kept.items())
        gone = []
        for inode, (_, path) in kept:
            try:
                alive = os.lstat(path).st_ino == inode
            except OSError:
                alive = False
            if not alive:
                gone.append(inode)
        if not gone:
            return
        pooled = {segment.inode for segment in pool.segments()}
        with self._lock:
            dropped = [self._kept.pop(i, None) for i in gone if i not in pooled]
        del dropped
