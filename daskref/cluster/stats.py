"""What the hosts and processes of a cluster report, added up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict, cast

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
