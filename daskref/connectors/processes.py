"""Whether a process that was described elsewhere is still there."""

from __future__ import annotations

import json
import os

from daskref.connectors.spill import host


def _started(pid: int | str) -> str:
    """Return when a process started, in ticks since the machine did.

    Raises
    ------
    OSError
        If there is none, or one that nobody has waited for yet.
    """
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        raise ProcessLookupError(pid)
    return fields[19]


def own() -> str:
    """Describe this process: host, its start, process numbers' namespace, number."""
    here = {**host(), "pid": os.getpid()}
    try:
        here["namespace"] = os.readlink("/proc/self/ns/pid")
        here["started"] = _started("self")
    except OSError:
        pass  # without them nobody can tell
    return json.dumps(here, sort_keys=True)


def gone(described: str) -> bool:
    """Tell whether a process is known to have ended.

    Parameters
    ----------
    described
        What :func:`own` returned in it. Of what runs elsewhere nothing is known.
    """
    try:
        there = json.loads(described)
        here = json.loads(own())
        if any(there[name] != here[name] for name in ("host", "boot", "namespace")):
            return False
        pid, started = int(there["pid"]), str(there["started"])
    except (KeyError, TypeError, ValueError):
        return False
    try:
        return _started(pid) != started
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
