"""Counters of one process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from distributed.metrics import context_meter

from daskref.background import make_lock

#: What is counted, and what it means.
COUNTERS = {
    "puts": "objects written into the store",
    "gets": "objects read from the store",
    "evictions": "objects deleted from the store",
    "fallbacks": "values that went to disk or in-band, for lack of room or of a store",
    "bytes_kept": "bytes that a reference replaced on the scheduler and the wire",
}


class Counters:
    """Counts, by name. Thread-safe."""

    _counts: dict[str, int]
    _lock: threading.Lock

    def __init__(self) -> None:
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._lock = make_lock()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to the count *name*, one of :data:`COUNTERS`."""
        with self._lock:
            self._counts[name] += amount

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counts."""
        with self._lock:
            return dict(self._counts)


class metered:
    """Report the time of a block to Dask's fine performance metrics.

    Parameters
    ----------
    label
        As in ``"daskref-put"``.

    Notes
    -----
    Nothing within a block may report to Dask as well: that time would count twice.
    """

    __slots__ = ("_begin", "_label")

    def __init__(self, label: str) -> None:
        self._label = label

    def __enter__(self) -> None:
        self._begin = perf_counter()

    def __exit__(self, *exc: object) -> None:
        context_meter.digest_metric(
            self._label, perf_counter() - self._begin, "seconds"
        )


def summarize(
    objects: int, bytes: int, puts: int, host: str, processes: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Add up what the processes of a cluster report.

    Parameters
    ----------
    objects, bytes, puts
        What the scheduler knows: alive now, and put since the start.
    host
        The host that has the objects.
    processes
        Reports, each with ``"process"``, ``"host"`` and :data:`COUNTERS`; those of one
        process, which may come several times, count once.
    """
    hosts: dict[str, dict[str, int]] = {}
    for report in {report["process"]: report for report in processes}.values():
        counts = hosts.setdefault(
            report["host"], {"objects": 0, "bytes": 0, **dict.fromkeys(COUNTERS, 0)}
        )
        for name in COUNTERS:
            counts[name] += report[name]
    hosts.setdefault(host, dict.fromkeys(COUNTERS, 0))
    hosts[host] |= {"objects": objects, "bytes": bytes}
    total = {name: sum(counts[name] for counts in hosts.values()) for name in COUNTERS}
    # A killed process took its counts with it; the scheduler has seen its puts.
    total["puts"] = max(puts, total["puts"])
    return {"objects": objects, "bytes": bytes, **total, "hosts": hosts}
