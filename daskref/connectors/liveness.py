"""Which process this is, and whether one that left its name lives.

Known limit: of a process on another host, or in another container, nobody knows.
"""

from __future__ import annotations

import os
from typing import Any

from daskref.connectors.spill import host


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others. Plain values."""
    return {
        **host(),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def has_ended(process: dict[str, Any]) -> bool:
    """Tell whether a process is known to have ended; see :func:`this_process`."""
    here = {**host(), "namespace": _namespace()}
    if any(process.get(name) != value for name, value in here.items()):
        return False
    started = process.get("started")
    return bool(started) and _started(int(process.get("pid", 0))) != started


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return the time since boot at which a process began; ``""`` if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie only waits for its parent to notice.
    return "" if fields[0] in "ZX" else fields[19]
