"""A ``LocalCluster`` in a process of its own, whose scheduler can be measured.

An agent (:class:`daskref.testing.agents.Agent`) calls the functions here. Its process
holds the scheduler and the nannies of the worker processes, and measures itself: the
bytes that its TCP connections carried (:class:`daskref.demo.traffic.Meter`), and how
far its memory grew (``VmHWM``).
"""

from __future__ import annotations

import contextlib
import gc
import re
import threading
from pathlib import Path
from typing import Any

from distributed import LocalCluster

from daskref.demo.traffic import Meter, Traffic

#: Seconds between two readings of the connections' counts.
_INTERVAL = 0.05


def start_cluster(state: dict[str, Any], workers: int) -> str:
    """Start worker processes of one thread each; return the scheduler's address."""
    state["cluster"] = cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
    )
    address: str = cluster.scheduler_address
    return address


def stop_cluster(state: dict[str, Any]) -> None:
    """End what :func:`start_cluster` started."""
    state.pop("cluster").close()


def start_recording(state: dict[str, Any]) -> None:
    """Begin to measure."""
    state["recording"] = _Recording()


def stop_recording(state: dict[str, Any]) -> tuple[Traffic, int]:
    """Return the traffic since :func:`start_recording`, and the growth of the memory.

    The growth is that from the beginning to the peak, in bytes.
    """
    result: tuple[Traffic, int] = state.pop("recording").stop()
    return result


class _Recording:
    """Measure this process from now on, in a thread."""

    def __init__(self) -> None:
        gc.collect()
        # where this is forbidden, the peak is that since the process started: for a
        # fresh cluster about the same
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._meter, self._begin = Meter(), _memory("VmRSS")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._update, daemon=True)
        self._thread.start()

    def _update(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            self._meter.update()

    def stop(self) -> tuple[Traffic, int]:
        self._stopped.set()
        self._thread.join()
        return self._meter.update(), max(0, _memory("VmHWM") - self._begin)


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(rf"^{name}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
