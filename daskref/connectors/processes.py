"""Which process this is, and whether one that left its name still runs.

Known limit: of a process on another host, or in another container, nobody knows.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cache


@cache
def host() -> dict[str, str]:
    """Return what tells this host, and its present boot, from others."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return {"host": socket.gethostname(), "boot": boot}


def this_process() -> dict[str, str]:
    """Return what tells this process from all others. Plain values."""
    return {**_here(), "pid": str(os.getpid()), "started": _started("self")}


def has_ended(process: Mapping[str, object]) -> bool:
    """Tell whether a process is known to have ended.

    *process*: from :func:`this_process`, there. One of another host, boot or container,
    or one that is not described so, counts as running.
    """
    here = _here()
    pid, started = process.get("pid"), process.get("started")
    if not (here["namespace"] and isinstance(pid, str) and pid.isdigit() and started):
        return False
    if any(process.get(name) != value for name, value in here.items()):
        return False
    try:
        return _started(pid) != started
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False


@cache
def machine() -> str:
    """Return what tells this host from others of its name, if anything does."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _here() -> dict[str, str]:
    return {**host(), "machine": machine(), "namespace": _namespace()}


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
