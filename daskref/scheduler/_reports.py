"""What processes have counted, and what is stored, put together on the scheduler."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from dask.utils import key_split

from daskref.cluster.session import ClusterStore
from daskref.cluster.stats import STORED
from daskref.connectors.base import Key
from daskref.graph.nodes import references_in
from daskref.objects.reference import Metadata
from daskref.scheduler._events import Holder
from daskref.scheduler._state import State
from daskref.scheduler._table import StoredObject

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Objects that are described between two turns of the event loop.
_TURN = 500


class Reports:
    """Counts of the scheduler, of workers, and of clients as last told.

    Parameters
    ----------
    scheduler
        Dask's.
    session
        That of the scheduler; it has a store.
    state
        What is stored, and where.
    """

    _reports: dict[str, dict[str, Any]]

    def __init__(
        self, scheduler: Scheduler, session: ClusterStore, state: State
    ) -> None:
        self._scheduler = scheduler
        self._session = session
        self._state = state
        self._reports = {}

    def add(self, report: dict[str, Any], client: str | None = None) -> None:
        """Take note of what a process has counted: a client, as it leaves."""
        self._reports[report["process"]] = report

    async def stats(self) -> dict[str, Any]:
        """Ask the workers, and return what :func:`summarize` takes."""
        hosts = self._state.hosts
        others = [hosts.on(h, "worker") for h in hosts.hosts if h != self._state.home]
        counted, *stores = await asyncio.gather(
            self._ask("daskref_counters", None),
            self._session.run(self._stored, self._state.sizes),
            *map(self._ask_first, others),
        )
        for report in counted.values():
            if "process" in report:  # not of a worker that is just leaving
                self.add(report)
        return {
            "stores": [report for report in stores if report is not None],
            "processes": [*self._reports.values(), self._session.report()],
        }

    async def objects(self, most: int) -> list[dict[str, Any]]:
        """Return what :func:`daskref.list_objects` makes records of, the largest first.

        Parameters
        ----------
        most
            How many objects to return.
        """
        held = [each for each in self._state.objects.items() if each[1].holders]
        needed: dict[Any, dict[Key, Metadata]] = {}  # by task: one may need thousands
        found = []
        for number, (key, obj) in enumerate(
            nlargest(most, held, key=lambda each: each[1].nbytes)
        ):
            if number % _TURN == 0:
                await asyncio.sleep(0)
            found.append(self._describe(key, obj, needed))
        return found

    async def task(self, key: Any) -> list[dict[str, Any]]:
        """Return what :func:`daskref.explain` makes rows of: a task that Dask knows.

        Parameters
        ----------
        key
            The task's. What is known of its arguments are those that were stored.
        """
        ts = self._scheduler.tasks.get(key)
        if ts is None:
            return []
        arguments = [
            {
                "where": f"argument of {key}",
                "type": reference.metadata.type_name,
                "nbytes": reference.nbytes,
                "stored": True,
            }
            for reference in references_in(ts.run_spec)
        ]
        return [
            *arguments,
            *(self._result("result of", dep) for dep in ts.dependencies),
            *([self._result("result of", ts)] if ts.type is not None else []),
        ]

    def _result(self, where: str, ts: Any) -> dict[str, Any]:
        stored = [
            self._state.objects[key].nbytes
            for key in self._state.held.get(Holder("result", ts.key), ())
        ]
        return {
            "where": f"{where} {ts.key}",
            "type": str(ts.type or ""),
            "nbytes": stored[0] if stored else max(ts.nbytes, 0),
            "stored": bool(stored),
        }

    def _describe(
        self, key: Key, obj: StoredObject, needed: dict[Any, dict[Key, Metadata]]
    ) -> dict[str, Any]:
        holders, known = list(obj.holders), self._state.hosts.hosts
        tasks = [each.name for each in holders if each.kind != "client"]
        hosts = [known[h].hostname if h in known else h[:8] for h in obj.copies]
        name, shape = next(self._types(key, obj, needed), ("", None))
        return {
            "key": str(key[0]),
            "type": name,
            "shape": shape,
            "nbytes": obj.nbytes,
            "hosts": hosts or [socket.gethostname()],
            "prefixes": sorted({key_split(task) for task in tasks}),
            "keys": sorted({str(task) for task in tasks}),
            "clients": sorted(str(e.name) for e in holders if e.kind == "client"),
            "readers": len(obj.grants) + len(obj.readers),
            "age": time.monotonic() - obj.since,
        }

    def _types(
        self, key: Key, obj: StoredObject, needed: dict[Any, dict[Key, Metadata]]
    ) -> Iterator[tuple[str, Any]]:
        """Yield type and shape, as far as a task that holds the object tells them."""
        for holder in obj.holders:
            ts = self._scheduler.tasks.get(holder.name)
            if ts is not None and holder.kind == "result":
                yield str(ts.type or ""), None
            elif ts is not None and holder.kind == "key":
                if holder.name not in needed:
                    references = references_in(ts.run_spec)
                    needed[holder.name] = {r.key: r.metadata for r in references}
                if metadata := needed[holder.name].get(key):
                    yield metadata.type_name, metadata.shape

    async def _ask(self, op: str, workers: list[str] | None) -> dict[str, Any]:
        """Return what workers answer, those that do, by their addresses."""
        answers: dict[str, Any] = await self._scheduler.broadcast(
            msg={"op": op}, workers=workers, on_error="ignore"
        )
        return answers

    async def _ask_first(self, workers: tuple[str, ...]) -> dict[str, Any] | None:
        """Return what one host has stored: whoever of it answers looks."""
        for worker in workers:
            for report in (await self._ask("daskref_stored", [worker])).values():
                if "place" in report:
                    return dict(report)
        return None

    def _stored(self, sizes: list[int]) -> dict[str, Any]:
        try:
            return self._session.stored()
        except (AttributeError, NotImplementedError):  # it cannot tell: what is held
            return {
                **dict.fromkeys(STORED, 0),
                "place": "",
                "host": socket.gethostname(),
                "objects": len(sizes),
                "bytes": sum(sizes),
            }
