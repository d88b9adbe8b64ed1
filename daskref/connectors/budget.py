"""How much of a file system objects may take up."""

from __future__ import annotations

import os
import time
from threading import Lock

from daskref.background import forget_in_child
from daskref.connectors.machine import SHARE, memory

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
    """

    path: str
    limit: int | float
    _memory: float
    _lock: Lock
    _counted: int
    _counted_at: float

    def __init__(self, path: str, limit: int | float) -> None:
        self.path = path
        self.limit = limit
        self._memory = SHARE * memory()[0]
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
        if isinstance(self.limit, float):
            over = total - free + nbytes - int(self.limit * total)
            if (most := self.share(1.0)) < int(self.limit * total):
                over = max(over, self._used(nbytes, most) + nbytes - most)
        else:
            over = self._used(nbytes, self.limit) + nbytes - self.limit
        return max(nbytes - free, over, 0)

    def share(self, part: int | float) -> int:
        """Return *part* in bytes: a fraction (float) of the budget, or bytes."""
        limit = self.limit
        if isinstance(limit, float):
            whole = int(limit * min(_space(self.path)[0], self._memory))
        else:
            whole = limit
        return int(part * whole) if isinstance(part, float) else min(part, whole)

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
