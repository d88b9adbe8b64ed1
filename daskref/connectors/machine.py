"""The memory of this machine, and of the container in which this process runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

#: The fields in use, each on its own line.
_FIELD = re.compile(
    rb"^(MemTotal:|MemFree:|MemAvailable:|inactive_file|total_inactive_file) +(\d+)",
    re.MULTILINE,
)
#: The kernel writes such a file in one piece, and none is as long.
_LONGEST = 2**16
#: Of the memory, what one session's objects are made for. The rest is the workers'.
SHARE = 0.5
#: Of the memory, what should stay available: for tasks, Dask and interpreters.
RESERVE = 0.2
#: What tasks may take beyond that, while objects are moved to disk: of the memory, or
#: bytes for each processor. The lesser counts.
AHEAD, AHEAD_EACH = 0.15, 128 * 2**20


class _Names(NamedTuple):
    """File names and fields of a version of control groups."""

    #: Above ``memory.high`` the kernel slows processes down and takes memory away.
    limits: tuple[str, ...]
    used: str
    droppable: bytes


_V2 = _Names(("memory.max", "memory.high"), "memory.current", b"inactive_file")
_V1 = _Names(
    ("memory.limit_in_bytes",), "memory.usage_in_bytes", b"total_inactive_file"
)


def memory(root: str = "/") -> tuple[int, int]:
    """Return the total and available bytes of this process's container or machine.

    The smallest of the machine and the control groups on the way up from this process
    counts. File pages that the kernel can drop count as available.

    *root*: the directory that contains ``proc`` and ``sys``.
    """
    meminfo = _fields(os.path.join(root, "proc/meminfo"))
    total = meminfo.get(b"MemTotal:", 0) * 1024
    left = meminfo.get(b"MemAvailable:", meminfo.get(b"MemFree:", 0)) * 1024
    if not total:
        page = os.sysconf("SC_PAGE_SIZE")
        total, left = (
            os.sysconf(name) * page for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES")
        )
    for limit, unused in _groups(root, total):
        total, left = min(total, limit), min(left, unused)
    return total, min(left, total)


def is_low(total: int, left: int) -> bool:
    """Tell whether memory should be freed."""
    return left < RESERVE * total


def least(total: int) -> int:
    """Return the bytes of memory that objects should leave available."""
    ahead = AHEAD_EACH * len(os.sched_getaffinity(0))
    return int(RESERVE * total) + min(int(AHEAD * total), ahead)


def _groups(root: str, total: int) -> Iterator[tuple[int, int]]:
    """Yield limit and rest of each control group with a limit below *total*."""
    try:
        text = os.fsdecode(_read(os.path.join(root, "proc/self/cgroup")))
    except OSError:
        return
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = os.path.join(root, "sys/fs/cgroup"), _V2
        elif "memory" in controllers.split(","):
            base, names = os.path.join(root, "sys/fs/cgroup/memory"), _V1
        else:
            continue
        # In a container the path may be the host's; its root is then the container's.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            folder = os.path.join(base, *parts[:depth])
            numbers = (_number(os.path.join(folder, name)) for name in names.limits)
            limits = [number for number in numbers if number is not None]
            # A group without one may have many below it, whose sums take long to tell.
            if limits and min(limits) < total:
                used = _number(os.path.join(folder, names.used)) or 0
                stat = _fields(os.path.join(folder, "memory.stat"))
                held = used - stat.get(names.droppable, 0)
                yield min(limits), max(0, min(limits) - held)


def _number(path: str) -> int | None:
    try:
        return int(_read(path))
    except (OSError, ValueError):  # "max"
        return None


def _fields(path: str) -> dict[bytes, int]:
    try:
        return {name: int(value) for name, value in _FIELD.findall(_read(path))}
    except OSError:
        return {}


def _read(path: str) -> bytes:
    # A third of the time that `open` takes.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LONGEST)
    finally:
        os.close(fd)
