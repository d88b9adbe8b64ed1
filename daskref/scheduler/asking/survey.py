"""What hosts and processes know of single objects, and the scheduler does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskref.cluster.session import ClusterStore
from daskref.cluster.stats import footprints, reads
from daskref.connectors.base import Key
from daskref.scheduler.asking.requests import ask_worker

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Objects that a host is asked about in one message.
PART = 5000
#: Objects up to which a process is sent their names, to tell how often it has read
#: them; for more, it tells of all that it knows.
FEW = 1000
#: Processes that are asked about reads at a time.
AT_ONCE = 64
#: Seconds for a process to answer, and for a whole survey.
ANSWER, PATIENCE = 1.0, 3.0

#: An object, and its record.
Row = tuple[Key, dict[str, Any]]


@dataclass(eq=False, repr=False)
class Survey:
    """Asks one worker of each host, and all processes, about objects."""

    _scheduler: Scheduler
    #: Of the scheduler's process.
    _session: ClusterStore
    #: Identity of the scheduler's host.
    _home: str
    #: ``(host, role) -> names``: the processes of a host.
    _processes_on: Callable[[str, str], Sequence[str]]

    async def fill(self, rows: list[Row]) -> list[str]:
        """Enter the answers into records, within :data:`PATIENCE`.

        Parameters
        ----------
        rows
            Objects. ``key`` of a record is the name; ``places`` has each host that has
            the object, with ``None``, in the place of which its footprint comes if
            the host tells it. ``hits`` and ``object`` are added.

        Returns
        -------
        list of str
            The processes whose reads are in ``hits``.
        """
        processes: set[str] = set()
        by_host: dict[str, list[Row]] = {}
        for key, record in rows:
            record.update(object=key, hits=0)
            for host in record["places"]:
                by_host.setdefault(host, []).append((key, record))
        if not rows:
            return []
        looks = [self._look(host, found) for host, found in by_host.items()]
        jobs = [
            asyncio.create_task(job) for job in (*looks, self._count(rows, processes))
        ]
        try:
            done, _ = await asyncio.wait(jobs, timeout=PATIENCE)
        finally:
            for job in jobs:
                job.cancel()
        for job in done:
            if exc := job.exception():
                logger.debug("A host could not tell of its objects", exc_info=exc)
        return sorted(processes)

    async def _look(self, host: str, rows: list[Row]) -> None:
        for first in range(0, len(rows), PART):
            part = rows[first : first + PART]
            told = await self._footprints(host, [key for key, _ in part])
            for (_, record), each in zip(part, told, strict=True):
                record["places"][host] = each

    async def _footprints(self, host: str, keys: list[Key]) -> Any:
        if host == self._home:
            return await self._session.run(footprints, self._session, keys)
        for worker in self._processes_on(host, "worker"):
            told = await self._ask(worker, "daskref_footprints", keys=keys)
            if told is not None:
                return told
        return [None for _ in keys]

    async def _count(self, rows: list[Row], processes: set[str]) -> None:
        records = {record["key"]: record for _, record in rows}
        names = list(records) if len(records) <= FEW else None
        if names is None and len(self._scheduler.workers) > AT_ONCE:
            # all that they know would be a hundred megabytes of a thousand workers
            names = list(records)[:FEW]
            for name in list(records)[FEW:]:
                records.pop(name)["hits"] = None
        room = asyncio.Semaphore(AT_ONCE)

        def add(told: dict[str, Any]) -> None:
            if told["process"] not in processes:  # or it has answered as another worker
                processes.add(told["process"])
                for name in told["reads"].keys() & records.keys():
                    records[name]["hits"] += told["reads"][name]

        async def ask(worker: str) -> None:
            async with room:
                told = await self._ask(worker, "daskref_reads", names=names)
            if told is not None:
                add(told)

        add(reads(self._session, names))
        await asyncio.gather(*map(ask, list(self._scheduler.workers)))

    async def _ask(self, worker: str, op: str, **message: Any) -> Any:
        return await ask_worker(self._scheduler, worker, {"op": op, **message}, ANSWER)
