"""Counters of one process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import perf_counter
from typing import Any, TypedDict, cast

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

#: Why values above the threshold went in-band, and what changes that.
INBAND = {
    "unreachable": "this process cannot see the cluster's store; daskref.connector "
    "names one that all hosts reach",
    "no-host": "no host of workers takes what this process puts; daskref.connector "
    "names a store that needs none",
    "gpu": "it is in a GPU's memory, which Dask moves by itself",
    "unpicklable": "it does not serialize to be stored, so Dask sends it its own way",
    "failed": "the store failed; daskref.on-failure: raise makes that an error",
}

#: What a host has, and what it means. The first two go by what was put, the others by
#: what the file systems say: ``memory``, ``pool`` and ``pinned`` are all that the
#: session takes of the host's memory, but for a few small files.
STORED = {
    "objects": "objects alive, copies of other hosts' included",
    "bytes": "their size",
    "memory": "what objects take up in memory",
    "disk": "what objects take up in the spill directory",
    "pool": "memory of deleted objects that waits to be written again",
    "pinned": "memory of deleted objects of which a process still has a view",
    "budget": "memory that puts may fill",
}


class HostStats(TypedDict):
    """:data:`STORED` and :data:`COUNTERS` of one host."""

    objects: int
    bytes: int
    memory: int
    disk: int
    pool: int
    pinned: int
    budget: int
    puts: int
    gets: int
    evictions: int
    fallbacks: int
    bytes_kept: int


class Stats(HostStats):
    """The same of a cluster, and of each of its hosts by name."""

    hosts: dict[str, HostStats]
    #: Reason, one of :data:`INBAND` -> how many large values went in-band for it.
    inband: dict[str, int]


class Counters:
    """Counts, by name. Thread-safe."""

    _counts: dict[str, int]
    _inband: dict[str, int]
    _lock: threading.Lock

    def __init__(self) -> None:
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._inband = dict.fromkeys(INBAND, 0)
        self._lock = make_lock()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to the count *name*, one of :data:`COUNTERS`."""
        with self._lock:
            self._counts[name] += amount

    def add_inband(self, reason: str) -> bool:
        """Count a large value that goes in-band; return whether it is the first so.

        Parameters
        ----------
        reason
            One of :data:`INBAND`.
        """
        with self._lock:
            self._inband[reason] += 1
            return self._inband[reason] == 1

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counts but those of values that went in-band."""
        with self._lock:
            return dict(self._counts)

    def inband(self) -> dict[str, int]:
        """Return how many large values went in-band, by reason."""
        with self._lock:
            return dict(self._inband)


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
    puts: int, stores: Iterable[dict[str, Any]], processes: Iterable[dict[str, Any]]
) -> Stats:
    """Add up what the hosts and processes of a cluster report.

    Parameters
    ----------
    puts
        Since the start, as the scheduler knows.
    stores
        Reports, each with ``"place"``, ``"host"`` and :data:`STORED`; those of one
        place, which may come several times, count once.
    processes
        Reports, each with ``"process"``, ``"host"``, :data:`COUNTERS` and ``"inband"``;
        likewise.
    """
    processes = list(processes)
    hosts: dict[str, dict[str, int]] = {}
    nothing = dict.fromkeys([*STORED, *COUNTERS], 0)
    for tells, names, reports in (
        ("place", STORED, stores),
        ("process", COUNTERS, processes),
    ):
        for report in {report[tells]: report for report in reports}.values():
            counts = hosts.setdefault(report["host"], dict(nothing))
            for name in names:
                counts[name] += report[name]
    total = {name: sum(counts[name] for counts in hosts.values()) for name in nothing}
    # A killed process took its counts with it; the scheduler has seen its puts.
    total["puts"] = max(puts, total["puts"])
    inband = dict.fromkeys(INBAND, 0)
    for report in {report["process"]: report for report in processes}.values():
        for reason, count in report["inband"].items():
            inband[reason] += count
    return cast("Stats", {**total, "hosts": hosts, "inband": inband})


_spent = threading.local()


def seconds_in_connectors() -> float:
    """Return the seconds that this thread has spent in all on reading stored bytes."""
    spent: float = getattr(_spent, "seconds", 0.0)
    return spent


def add_seconds_in_connectors(seconds: float) -> None:
    """Count what this thread has spent on reading stored bytes."""
    _spent.seconds = seconds_in_connectors() + seconds
