"""A process's own resident memory, without the session's files.

A page of a mapped object belongs to the session until the process writes to it: then
the process has its own copy. Shared memory of a task, and its mappings of other files,
are its own, as in plain Dask.

``/proc/<pid>/smaps`` tells exactly. It costs some 15 ms for each GiB that is mapped in
small pages (measured), so it is read only when there are objects in
``/proc/<pid>/maps`` (0.1 ms, 1 ms with a thousand), when the shared pages have changed
since the last count, and for a small share of the time at most.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

#: Share of the time that counting may take.
_SHARE = 0.02
#: Seconds for which no object is mapped if none was, and no shared page has come or
#: gone: Dask asks a dozen times a second, and an idle worker has a thousand mappings.
_BELIEVED = 1.0
#: A mapping of an object's file, whole or in the making, or of one that is recycled.
_OURS = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) [^\n/]*/[^\n]*"
    rb"(?:/(?:\.[wfu]-)?[0-9a-f]{8}-[0-9a-f]{24}"
    rb"|/\.?daskref-[0-9]+-[^\n/]*/free/[0-9a-f]+-[0-9a-f]+-[0-9a-f]{8})"
    rb"(?: \(deleted\))?$",
    re.MULTILINE,
)
_SHARED = re.compile(rb"^Rss(?:File|Shmem):\s+(\d+)", re.MULTILINE)
_RESIDENT = re.compile(rb"^Rss:\s+(\d+)", re.MULTILINE)
#: Pages of a file's mapping that were written to, and copied for that.
_COPIED = re.compile(rb"^Anonymous:\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class _Count:
    shared: int
    mapped: int
    ours: int
    at: float
    seconds: float


@dataclass(eq=False, repr=False)
class OwnMemory:
    """Count a process's own memory. For one thread."""

    #: The process; ``"self"`` for this one.
    _pid: int | str = "self"
    _last: _Count | None = None
    #: Shared pages when no object was mapped, and until when that is believed.
    _unmapped: tuple[int, float] = (0, float("-inf"))

    def of(self, resident: int) -> int:
        """Return how many of the *resident* bytes are the process's own.

        Between two counts, new pages count as the session's, as far as objects are
        mapped: no worker is killed for pages that were not counted.
        """
        return max(0, resident - self._ours())

    def _ours(self) -> int:
        try:
            pages = _SHARED.findall(self._read("status"))
            shared = sum(map(int, pages)) * 1024
            if shared == self._unmapped[0] and time.monotonic() < self._unmapped[1]:
                return 0
            mapped = sum(_length(found) for found in _OURS.finditer(self._read("maps")))
        except OSError:  # it has ended
            return 0
        if not mapped:
            self._unmapped = shared, time.monotonic() + _BELIEVED
            return 0
        last = self._last
        if last is not None:
            if (last.shared, last.mapped) == (shared, mapped):
                return last.ours
            if time.monotonic() < last.at + last.seconds / _SHARE:
                come = max(0, shared - last.shared)
                return min(last.ours + come, mapped, shared)
        begin = time.monotonic()
        try:
            ours = sum(_session_pages(self._read("smaps")))
        except OSError:  # a kernel without it
            ours = min(mapped, shared)
        end = time.monotonic()
        self._last = _Count(shared, mapped, ours, end, end - begin)
        return ours

    def _read(self, name: str) -> bytes:
        with open(f"/proc/{self._pid}/{name}", "rb") as file:
            return file.read()


def _length(mapping: re.Match[bytes]) -> int:
    return int(mapping[2], 16) - int(mapping[1], 16)


def _session_pages(smaps: bytes) -> Iterator[int]:
    for found in _OURS.finditer(smaps):
        resident = _RESIDENT.search(smaps, found.end())
        copied = _COPIED.search(smaps, found.end())
        if resident and copied:
            yield (int(resident[1]) - int(copied[1])) * 1024
