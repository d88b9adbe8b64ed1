"""How much memory there is: of the machine, and of the container within it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

#: Of the memory, what one session's objects are made for. The rest is the workers'.
SHARE = 0.5
#: Of the memory, what should stay available.
_RESERVE = 0.1


class _Names(NamedTuple):
    """What a version of control groups calls its files, and a field of its counts."""

    #: Above ``memory.high`` the kernel slows processes down and takes memory away.
    limits: tuple[str, ...]
    used: str
    droppable: str


_V2 = _Names(("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def memory(root: str = "/") -> tuple[int, int]:
    """Return how many bytes this process's container or machine has, and has left.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    tuple of int
        Of what has the least: the machine, or a control group on the way up from this
        process's. Files that the kernel can drop count as left.
    """
    meminfo = _fields(os.path.join(root, "proc/meminfo"))
    total = meminfo.get("MemTotal:", 0) * 1024
    left = meminfo.get("MemAvailable:", meminfo.get("MemFree:", 0)) * 1024
    if not total:
        page = os.sysconf("SC_PAGE_SIZE")
        total, left = (
            os.sysconf(name) * page for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES")
        )
    for limit, unused in _groups(root):
        total, left = min(total, limit), min(left, unused)
    return total, min(left, total)


def is_low(total: int, left: int) -> bool:
    """Tell whether memory should be given back."""
    return left < _RESERVE * total


def _groups(root: str) -> Iterator[tuple[int, int]]:
    """Yield limit and rest of each control group that has a limit."""
    try:
        with open(os.path.join(root, "proc/self/cgroup"), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
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
            if limits:
                used = _number(os.path.join(folder, names.used)) or 0
                stat = _fields(os.path.join(folder, "memory.stat"))
                held = used - stat.get(names.droppable, 0)
                yield min(limits), max(0, min(limits) - held)


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # "max"
        return None


def _fields(path: str) -> dict[str, int]:
    fields = {}
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                name, value, *_ = line.split()
                fields[name] = int(value)
    except (OSError, ValueError):
        pass
    return fields
