"""Counts of all processes, and stored objects, collected on the scheduler."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice
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
from daskref.scheduler.asking.counts import Counts
from daskref.scheduler.asking.requests import ask_any, ask_worker
from daskref.scheduler.asking.survey import Survey
from daskref.store.metrics import object_name

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Objects that are described between two turns of the event loop.
_TURN = 500
#: Events that may need a user's action.
_WARNINGS = ("fallback", "unreachable", "remove-host")


@dataclass(eq=False, repr=False)
class Reports:
    """Counts of the scheduler and of workers, and the last counts of clients."""

    _scheduler: Scheduler
    _session: ClusterStore
    _state: State
    #: Clients that pass by reference.
    _clients: Collection[str]
    #: Since the start, of processes that have ended, too.
    puts: int = 0
    _counts: Counts = field(init=False)
    _survey: Survey = field(init=False)
    #: When hosts were last asked for their store's state, and the answers.
    _sizes: tuple[float, list[dict[str, Any]]] = field(
        default_factory=lambda: (float("-inf"), [])
    )

    def __post_init__(self) -> None:
        state, workers, clients = self._state, self._scheduler.workers, self._clients
        self._counts = Counts(lambda name: name in workers or name in clients)
        on = state.hosts.on
        self._survey = Survey(self._scheduler, self._session, state.home, on)

    def add(self, report: dict[str, Any], client: str) -> None:
        """Store a client's report; the last one stays after the client has ended."""
        self._counts.add(client, report)

    async def stats(self, share: float | None = None) -> dict[str, Any]:
        """Ask the workers, and return the arguments of :func:`summarize`.

        *share*: see :meth:`stores`.
        """
        processes, stores = await asyncio.gather(self.processes(), self.stores(share))
        return {"puts": self.puts, "processes": processes, "stores": stores}

    async def processes(self) -> list[dict[str, Any]]:
        """Return the counts of all processes; see :func:`summarize`.

        Clients answer later: their earlier reports count.
        """
        for client in self._clients:
            self._scheduler.report({"op": "daskref-count"}, client=client)
        for worker, report in (await self._ask("daskref_counters", None)).items():
            if "process" in report:  # not of a worker that is just leaving
                self._counts.add(worker, report)
        return [*self._counts.reports(), self._session.report()]

    async def stores(self, share: float | None = None) -> list[dict[str, Any]]:
        """Ask one worker of each host for its store's state; see :func:`summarize`.

        *share*: for repeated calls: part of a core that a host may spend on its answer.
        Until then, the last answers are returned. Default: each call asks.
        """
        now = time.monotonic()
        if share is not None:
            then, known = self._sizes
            cost = max((float(each["seconds"]) for each in known), default=0.0)
            if now - then < cost / share:
                return known
        hosts = self._state.hosts
        others = [hosts.on(h, "worker") for h in hosts.hosts if h != self._state.home]
        stores = await asyncio.gather(self._stored(), *map(self._ask_first, others))
        found = [report for report in stores if report is not None]
        self._sizes = now, found
        return found

    async def objects(
        self,
        most: int,
        holders: int | None = None,
        after: tuple[int, int] | None = None,
    ) -> dict[str, Any]:
        """Return the *most* largest objects, for :func:`daskref.list_objects`.

        Parameters
        ----------
        holders
            How many holders of each object to describe; default: all.
        after
            ``(nbytes, number)``: leave out what is larger, and the first *number*
            objects of that size.

        Returns
        -------
        dict
            ``objects``: the largest first, each with ``places``: host -> footprint,
            ``None`` for a host without an answer in time; ``processes``: those whose
            reads ``hits`` counts.
        """
        largest = await self._largest(most, holders, after)
        found = [(key, record) for key, record, _ in largest]
        processes = await self._survey.fill(found)
        return {"objects": [record for _, record in found], "processes": processes}

    async def largest(
        self, most: int, holders: int | None = None
    ) -> list[tuple[dict[str, Any], int]]:
        """Return the *most* largest objects, and how many holders each has.

        *holders*: how many holders of each to describe, as all tasks of a sweep may
        hold one object; default: all.
        """
        found = await self._largest(most, holders)
        return [(record, number) for _, record, number in found]

    async def _largest(
        self, most: int, holders: int | None, after: tuple[int, int] | None = None
    ) -> list[tuple[Key, dict[str, Any], int]]:
        found = []
        held: Iterator[tuple[Key, StoredObject]]
        held = (each for each in self._state.objects.items() if each[1].holders)
        if after is not None:
            held = _after(held, *after)
        needed: dict[Any, dict[Key, Metadata]] = {}  # by task: one may need thousands
        for number, (key, obj) in enumerate(
            nlargest(most, held, key=lambda each: each[1].nbytes)
        ):
            if number % _TURN == 0:
                await asyncio.sleep(0)
            told = list(islice(obj.holders, holders))
            record = self._describe(key, obj, told, needed)
            found.append((key, record, len(obj.holders)))
        return found

    async def task(self, key: Any) -> list[dict[str, Any]]:
        """Return rows for :func:`daskref.explain` of a task that Dask knows.

        Only those of its arguments that are stored are known.
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
        done = [ts] if ts.type is not None else []
        return [*arguments, *map(self._result, [*ts.dependencies, *done])]

    def _result(self, ts: Any) -> dict[str, Any]:
        stored = [
            self._state.objects[key].nbytes
            for key in self._state.held.get(Holder("result", ts.key), ())
        ]
        return {
            "where": f"result of {ts.key}",
            "type": str(ts.type or ""),
            "nbytes": stored[0] if stored else max(ts.nbytes, 0),
            "stored": bool(stored),
        }

    def _describe(
        self,
        key: Key,
        obj: StoredObject,
        holders: list[Holder],
        needed: dict[Any, dict[Key, Metadata]],
    ) -> dict[str, Any]:
        tasks = [each.name for each in holders if each.kind != "client"]
        hosts = list(obj.copies) or [self._state.home]
        name, shape = next(self._types(key, holders, needed), ("", None))
        return {
            "key": object_name(key),
            "type": name,
            "shape": shape,
            "nbytes": obj.nbytes,
            "hosts": list(map(self._name, hosts)),
            "places": dict.fromkeys(hosts),
            "prefixes": sorted({key_split(task) for task in tasks}),
            "keys": sorted({str(task) for task in tasks}),
            "clients": sorted(str(e.name) for e in holders if e.kind == "client"),
            "readers": len(obj.grants) + len(obj.readers),
            "age": time.monotonic() - obj.since,
        }

    def _name(self, host: str) -> str:
        if host == self._state.home:
            return socket.gethostname()
        known = self._state.hosts.hosts.get(host)
        return host[:8] if known is None else known.hostname

    def _types(
        self,
        key: Key,
        holders: Iterable[Holder],
        needed: dict[Any, dict[Key, Metadata]],
    ) -> Iterator[tuple[str, Any]]:
        """Yield type and shape, as told by tasks that hold the object."""
        for holder in holders:
            ts = self._scheduler.tasks.get(holder.name)
            if ts is not None and holder.kind == "result":
                yield str(ts.type or ""), None
            elif ts is not None and holder.kind == "key":
                if holder.name not in needed:
                    references = references_in(ts.run_spec)
                    needed[holder.name] = {r.key: r.metadata for r in references}
                if metadata := needed[holder.name].get(key):
                    yield metadata.type_name, metadata.shape

    def transfers(self, most: int) -> dict[str, Any]:
        """Return the traffic between hosts.

        Returns
        -------
        dict
            ``hosts``: the *most* busiest, each with ``host``, ``sent`` and ``received``
            (bytes), ``fetched`` (objects); ``now``: transfers under way, each with
            ``key``, ``nbytes``, ``source``, ``host``; ``moving``: how many objects are
            asked for.
        """
        busy = nlargest(
            most,
            self._state.hosts.hosts.items(),
            key=lambda named: named[1].sent + named[1].received,
        )
        moving = self._state.moving
        now = [
            {
                "key": object_name(key),
                "nbytes": self._state.objects[key].nbytes,
                "source": self._name(grant.source),
                "host": self._name(host),
            }
            for key in islice(moving, most)
            for host, grant in self._state.objects[key].grants.items()
        ]
        return {
            "hosts": [
                {
                    "host": self._name(host),
                    "sent": each.sent,
                    "received": each.received,
                    "fetched": each.fetched,
                }
                for host, each in busy
                if each.sent or each.received
            ],
            "now": now[:most],
            "moving": len(moving),
        }

    def warnings(self, most: int) -> list[tuple[float, dict[str, Any]]]:
        """Return the *most* recent events that may need a user's action, timed."""
        events = reversed(self._scheduler.get_events("daskref"))
        found = (
            (stamp, event)
            for stamp, event in events
            # users may log what they like under any topic
            if isinstance(event, dict)
            and event.get("action") in _WARNINGS
            and event.get("lost", True)
        )
        return list(islice(found, most))

    async def _ask(self, op: str, workers: list[str] | None) -> dict[str, Any]:
        """Return the answers of workers, by address; workers that fail are missing."""
        asked = list(self._scheduler.workers) if workers is None else workers
        answers = await asyncio.gather(
            *(ask_worker(self._scheduler, w, {"op": op}) for w in asked)
        )
        pairs = zip(asked, answers, strict=True)
        return {worker: answer for worker, answer in pairs if answer is not None}

    async def _ask_first(self, workers: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the first answer of a host's workers."""
        ask = {"op": "daskref_stored"}
        return await ask_any(self._scheduler, workers, ask, "place")

    async def _stored(self) -> dict[str, Any]:
        try:
            return await self._session.run(self._session.stored)
        except (AttributeError, NotImplementedError):  # it cannot tell: what is held
            sizes = self._state.sizes
            return {
                **dict.fromkeys(STORED, 0),
                "place": "",
                "host": socket.gethostname(),
                "objects": len(sizes),
                "bytes": sum(sizes),
                "seconds": 0.0,
            }


def _after(
    held: Iterable[tuple[Key, StoredObject]], nbytes: int, number: int
) -> Iterator[tuple[Key, StoredObject]]:
    """Yield the smaller objects, and those of that size but the first *number*."""
    for each in held:
        if each[1].nbytes == nbytes and number:
            number -= 1
        elif each[1].nbytes <= nbytes:
            yield each
