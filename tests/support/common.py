"""Shared helpers of the tests: values, processes of a cluster, sizes."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from daskref.testing.processes import DASK as DASK
from daskref.testing.processes import Process as Process
from daskref.testing.processes import children as children
from daskref.testing.processes import processes as processes
from daskref.testing.processes import start as start
from daskref.testing.processes import start_scheduler as start_scheduler
from daskref.testing.processes import start_worker as start_worker
from daskref.testing.processes import wait_until as wait_until

#: Values of this size in bytes go by reference under the default threshold.
LARGE = 2 << 20


def large(fill: float = 1.0, nbytes: int = LARGE) -> Any:
    """Return an array that goes by reference."""
    return np.full(nbytes // 8, fill)


async def until_idle() -> None:
    """Wait until all other tasks of this event loop have ended."""
    async with asyncio.timeout(10):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


def session_of(client: Any) -> Any:
    """Return what this process has of the session of a client's cluster."""
    return client._daskref.session


def status_kib(pid: int, field: str) -> int:
    """Return a field of ``/proc/<pid>/status`` in KiB, such as ``VmRSS``."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    raise KeyError(field)


def pss_kib(pid: int) -> int:
    """Return the proportional set size of a process in KiB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    raise KeyError("Pss")
