"""Which process it is, and whether it still runs, for others on its host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache


def this_process() -> dict[str, str]:
    """Return what tells this process from others of this boot."""
    return {
        "machine": machine(),
        "pid": str(os.getpid()),
        "started": _started("self"),
        "pids": _namespace(),
    }


@cache
def machine() -> str:
    """Return what tells this host from others of its name, if anything does."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def process_gone(process: Mapping[str, str]) -> bool:
    """Tell whether a process of this boot is known to have ended.

    Parameters
    ----------
    process
        From :func:`this_process`, there. One of another container counts as running.
    """
    pid = process.get("pid", "")
    if not pid.isdigit() or process.get("pids") != _namespace() or not _namespace():
        return False
    try:
        return _started(pid) != process.get("started")
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False


def _started(pid: str) -> str:
    """Return when a process started, in ticks since boot: ids are used again."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        # Its name may have spaces and parentheses in it; fields are counted after it.
        fields = file.read().rpartition(")")[2].split()
    # A process that ended, and that its parent has not waited for, runs no more.
    return "" if fields[0] in "ZX" else fields[19]


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
