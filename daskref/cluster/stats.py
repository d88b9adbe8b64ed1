"""Reports of hosts and processes: added up, and exported to Prometheus.

Dask's scheduler and workers serve a page ``/metrics`` where ``prometheus_client`` is
installed, from the registry of the process; :func:`export` adds a collector to that.
A thread looks up sizes, since that reads file systems: a scrape shows the sizes of the
previous scrape.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypedDict, cast

from daskref.background import make_lock
from daskref.connectors.base import Key
from daskref.connectors.space import Footprint
from daskref.store.metrics import COUNTERS, INBAND

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


def summarize(
    puts: int, stores: Iterable[dict[str, Any]], processes: Iterable[dict[str, Any]]
) -> Stats:
    """Add up the reports of the hosts and processes of a cluster.

    Parameters
    ----------
    puts
        Since the start, as the scheduler knows.
    stores
        Reports, each with ``"place"``, ``"host"`` and :data:`STORED`; several reports
        of one place count once.
    processes
        Reports, each with ``"process"``, ``"host"``, :data:`COUNTERS` and ``"inband"``;
        several reports of one process count once.
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


def footprints(session: Any, keys: Iterable[Key]) -> list[Footprint | None]:
    """Return the sizes of objects in a ClusterStore on this host, if known. Blocks."""
    found = [tuple(key) for key in keys]
    if session.store is None:
        return [None for _ in found]
    told: list[Footprint | None] = session.store.connector.footprints(found)
    return told


def reads(session: Any, names: Iterable[str] | None) -> dict[str, Any]:
    """Return how often this process has read objects, by default all."""
    process = session.report()["process"]
    return {"process": process, "reads": session.counters.reads(names)}


_NAMES = {"bytes_kept": "kept_bytes"}
_STATES = ("memory", "disk", "pool", "pinned")

_lock = make_lock()
_exported = False


class Collector:
    """Yield the metrics of this process's sessions; *sessions* returns them."""

    _stored: dict[str, dict[str, Any]]

    def __init__(self, sessions: Callable[[], Iterable[Any]]) -> None:
        self._sessions = sessions
        self._stored = {}

    def describe(self) -> list[Any]:
        """Return nothing: a process without a session has no metrics."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics, and look up sizes for the next scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found = list(self._sessions())
        if not found:
            return
        reports = [session.report() for session in found]
        for name, meaning in COUNTERS.items():
            total = sum(report[name] for report in reports)
            name = f"daskref_{_NAMES.get(name, name)}"
            yield CounterMetricFamily(name, meaning.capitalize(), value=total)
        inband = CounterMetricFamily(
            "daskref_inband", "Values above the threshold in-band", labels=["reason"]
        )
        for reason in INBAND:
            total = sum(report["inband"][reason] for report in reports)
            inband.add_metric([reason], total)
        yield inband
        for session in found:
            with suppress(RuntimeError):  # it was left meanwhile
                session.executor.submit(self._look, session)
        alive = {session.info.id for session in found}
        self._stored = {id: told for id, told in self._stored.items() if id in alive}
        sizes: dict[str, dict[str, int]] = {}
        for told in self._stored.values():
            of_host = sizes.setdefault(told["host"], dict.fromkeys(STORED, 0))
            for name in STORED:
                of_host[name] += told[name]
        objects = GaugeMetricFamily(
            "daskref_host_objects", "Objects alive on this host", labels=["host"]
        )
        nbytes = GaugeMetricFamily(
            "daskref_host_bytes",
            "What the session takes of this host, by state",
            labels=["host", "state"],
        )
        budget = GaugeMetricFamily(
            "daskref_host_budget_bytes", "Memory that puts may fill", labels=["host"]
        )
        for host, size_of in sizes.items():
            objects.add_metric([host], size_of["objects"])
            budget.add_metric([host], size_of["budget"])
            for state in _STATES:
                nbytes.add_metric([host, state], size_of[state])
        yield from (objects, nbytes, budget)

    def _look(self, session: Any) -> None:
        with suppress(Exception):  # the store cannot tell, or does not answer
            self._stored[session.info.id] = session.stored()


def export(sessions: Callable[[], Iterable[Any]]) -> None:
    """Add the collector to this process's registry, once, if Dask uses one."""
    global _exported
    client: Any = sys.modules.get("prometheus_client")
    if client is None:
        return
    with _lock:
        if not _exported:
            client.REGISTRY.register(Collector(sessions))
            _exported = True
