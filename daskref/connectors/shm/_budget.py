"""How much of a file system objects may take up."""

from __future__ import annotations

import os
import time
from threading import Lock

from daskref.background import forget_in_child
from daskref.connectors.machine import SHARE, Reserve, memory

#: Seconds for which a count of the session's files is believed.
_BELIEVED = 0.5


class Budget:
    """The room for new files in one directory.

    Parameters
    ----------
    path
        The directory.
    limit
        A fraction (float): of the file system, whoever fills it, and of half of the
        memory of container or machine. Bytes (int): of what the directory's files take
        up.

    Notes
    -----
    Whatever the limit, a part of the memory stays available, see :class:`Reserve`.
    """

    path: str
    limit: int | float
    _memory: int
    _reserve: Reserve
    _lock: Lock
    _counted: int
    _counted_at: float

    def __init__(self, path: str, limit: int | float) -> None:
        self.path = path
        self.limit = limit
        self._memory = part_of(SHARE, memory()[0])
        self._reserve = Reserve()
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Count anew, in a forked child."""
        self._counted = 0
        self._counted_at = -_BELIEVED
        self._lock = Lock()

    def lacking(self, nbytes: int) -> int:
        """Return how many bytes must be freed before a file of *nbytes* may be made."""
        total, free = _space(self.path)
        lacking = max(0, nbytes - free)
        most, counts = self._most(total), True
        if isinstance(self.limit, float):
            fraction = part_of(self.limit, total)
            lacking = max(lacking, total - free + nbytes - fraction)
            counts = most < fraction  # else that says it all
        if counts:
            lacking = max(lacking, self._used(nbytes, most) + nbytes - most)
        return max(lacking, self._reserve.lacking(nbytes))

    def share(self, part: int | float) -> int:
        """Return *part* in bytes: a fraction (float) of the budget, or bytes."""
        return part_of(part, self._most(_space(self.path)[0]))

    def _most(self, total: int) -> int:
        """Return the budget in bytes, where the file system has *total*."""
        if isinstance(self.limit, float):
            total = min(total, self._memory)
        return part_of(self.limit, total)

    def _used(self, nbytes: int, limit: int) -> int:
        """Count the files, or estimate from the last count when the limit is far."""
        with self._lock:
            now = time.monotonic()
            recent = now - self._counted_at < _BELIEVED
            if recent and self._counted + 2 * nbytes <= limit:
                self._counted += nbytes
                return self._counted - nbytes
            self._counted = _count(self.path) + _count(os.path.join(self.path, "free"))
            self._counted_at = now
            used = self._counted
            self._counted += nbytes
            return used


def part_of(part: int | float, whole: int) -> int:
    """Return a fraction (float) of *whole*, or *part* as it is; never more than all."""
    # 1.0 of a large number may be more than that: it is rounded to a float.
    return min(int(part * whole) if isinstance(part, float) else part, whole)


def _space(path: str) -> tuple[int, int]:
    there = os.statvfs(path)
    if there.f_blocks:
        return there.f_blocks * there.f_frsize, there.f_bavail * there.f_frsize
    # A tmpfs without a limit of its own: the memory is the limit.
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


def _count(path: str) -> int:
    sizes = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    there = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if entry.is_file(follow_symlinks=False):
                    sizes[there.st_ino] = there.st_size
    except FileNotFoundError:
        pass
    return sum(sizes.values())
