"""Identify this process, and tell whether another identified process has ended.

Known limit: the processes of other hosts and containers cannot be checked.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from functools import cache
from typing import Any


@cache
def host() -> dict[str, str]:
    """Return the identity of this host and of its present boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return {"host": socket.gethostname(), "boot": boot}


def this_process() -> dict[str, str]:
    """Return the identity of this process, as plain values."""
    return {**_here(), "pid": str(os.getpid()), "started": _started("self")}


def has_ended(process: Mapping[str, object]) -> bool:
    """Tell whether a process is known to have ended.

    *process*: its :func:`this_process`. A process of another host, boot or container,
    or with a malformed identity, counts as running.
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


def load_record(text: bytes | str) -> dict[str, Any]:
    """Return the mapping in a JSON text; empty if there is none."""
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


@cache
def machine() -> str:
    """Return the identity of this host among others of its name; empty if unknown."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _here() -> dict[str, str]:
    return {**host(), "machine": machine(), "namespace": _namespace()}


def _started(pid: str) -> str:
    """Return when a process started, in ticks since boot: ids are reused."""
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
