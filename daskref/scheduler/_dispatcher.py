"""Between the scheduler and the state machine of its stored objects.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=============================================  =====================================
name                                           what for
=============================================  =====================================
``Scheduler.worker_send``, ``.report``         messages to one process, in order
``Scheduler.transitions``                      results that are to be computed again
=============================================  =====================================
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daskref.cluster.locating import Locator, ask, evict
from daskref.cluster.session import ClusterStore
from daskref.connectors.base import Key
from daskref.scheduler import _events as events
from daskref.scheduler._evictions import Evictions, evict_each
from daskref.scheduler._state import SCHEDULER, State

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Seconds for workers to begin to serve, before a client goes on without them.
_START = 5.0


class Dispatcher:
    """Feed events to the state machine, and carry its instructions out.

    For the scheduler's event loop.
    """

    state: State
    evictions: Evictions
    _timers: dict[events.Event, asyncio.TimerHandle]
    _asking: dict[tuple[str, Key, bool], asyncio.Future[dict[str, Any]]]

    def __init__(self, scheduler: Scheduler, session: ClusterStore) -> None:
        self._scheduler = scheduler
        self._session = session
        self.state = State()
        if (across := session.across_hosts) is not None:
            settings = session.info.settings
            lazily = settings.connector == "auto"
            self.state = State(across.host, settings.zmq_fan_out, lazily)
        self.evictions = Evictions(
            session,
            self._evict_now,
            lambda keys, failed: self.feed(events.Deleted(tuple(keys), tuple(failed))),
        )
        self._timers = {}
        self._asking = {}

    def feed(self, event: events.Event) -> None:
        """Handle an event that has happened just now."""
        for instruction in self.state.handle(event, time.monotonic()):
            try:
                self._carry_out(instruction)
            except Exception:  # processes may wait for the next instruction
                logger.exception("Could not carry out %s", instruction)

    async def close(self) -> None:
        """Answer all readers, and finish deletion, before the session is left."""
        for timer in self._timers.values():
            timer.cancel()
        for asker in list(self._asking):
            self._answer(asker, {"status": "left"})
        await self.evictions.close()

    # Messages and requests in a session with several hosts

    @property
    def stream_handlers(self) -> dict[str, Callable[..., None]]:
        """Handlers of messages in a session with several hosts."""
        return {
            "daskref-host": self.on_host,
            "daskref-fetched": self.on_fetched,
            "daskref-supplied": self.on_supplied,
        }

    @property
    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Handlers of requests in a session with several hosts."""
        return {
            "daskref_source": self.source,
            "daskref_copies": self.copies,
            "daskref_visit": self.visit,
        }

    def locator(self, loop: Any) -> Locator:
        """Return the sources of objects for the scheduler's own connector."""

        def ask_here(op: str, message: dict[str, Any]) -> Any:
            async def answer(**message: Any) -> Any:
                found = self.handlers[op](**message)
                return await found if inspect.isawaitable(found) else found

            return ask(loop, answer, message)

        def tell(message: dict[str, Any]) -> None:
            rest = {name: each for name, each in message.items() if name != "op"}
            loop.add_callback(self.stream_handlers[message["op"]], **rest)

        return Locator(repr(self._session.across_hosts), SCHEDULER, ask_here, tell)

    def on_host(
        self,
        worker: str,
        host: str,
        hostname: str,
        endpoint: str | None,
        names: list[str],
    ) -> None:
        """Record a worker's host; see :class:`Joined`."""
        if worker in self._scheduler.workers:  # else it has left meanwhile
            there = tuple(names)
            self.feed(events.Joined(worker, "worker", host, hostname, endpoint, there))

    async def visit(self, process: str, host: str, hostname: str) -> dict[str, Any]:
        """Record a client's host; see :class:`Joined`.

        Returns ``hosts``: host -> endpoints, of hosts that serve; ``home``: the
        scheduler's host; ``beside``: whether there are workers on the client's host.
        """
        if process in self._scheduler.clients:
            self.feed(events.Joined(process, "client", host, hostname))
        deadline = time.monotonic() + _START
        while self.state.starting and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        hosts = self.state.hosts
        endpoints = {each: hosts.endpoints(each) for each in hosts.hosts}
        return {
            "hosts": {each: found for each, found in endpoints.items() if found},
            "home": self.state.home,
            "beside": bool(hosts.on(host, "worker")),
        }

    async def source(
        self, process: str, object: Key, failed: list[str], last: bool = False
    ) -> dict[str, Any]:
        """Return the host to fetch an object from; see :class:`SourceAsked`."""
        key = tuple(object)
        if (process, key, last) not in self._asking:
            future = asyncio.get_running_loop().create_future()
            self._asking[process, key, last] = future
        answer = self._asking[process, key, last]
        self.feed(events.SourceAsked(process, key, tuple(failed), last))
        return await asyncio.shield(answer)

    def copies(self, process: str, object: Key) -> list[tuple[str, list[str]]]:
        """Return the hosts that have an object, and their endpoints."""
        return self.state.copies(tuple(object))

    def on_fetched(
        self,
        object: Key,
        copied: bool,
        worker: str | None = None,
        client: str | None = None,
    ) -> None:
        """Record that a worker, a client or the scheduler does not fetch any longer."""
        process = worker or client or SCHEDULER
        self.feed(events.Fetched(process, tuple(object), copied))

    def on_supplied(self, client: str, object: Key, host: str | None) -> None:
        """Record where a client has sent a sought object, if it has."""
        self.feed(events.Supplied(client, tuple(object), host))

    # Instructions

    def _carry_out(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Delete(keys, here, elsewhere):
                if self.state.home:  # the store counts its own
                    self._session.counters.add("evictions", len(keys))
                self.evictions.add(list(here))
                for to, objects in elsewhere:
                    self._send(to, {"op": "daskref-evict", "objects": list(objects)})
            case events.Send(to, message):
                self._send(to, message)
            case events.Answer(process, key, answer, last):
                self._answer((process, key, last), answer)
            case events.Recompute(tasks):
                self._recompute(tasks)
            case events.Later(when, event):
                loop = asyncio.get_running_loop()
                delay = when - time.monotonic()
                self._timers[event] = loop.call_later(delay, self._happen, event)
            case events.Log(found):
                self._scheduler.log_event("daskref", found)
            case events.Warn(text):
                logger.warning("%s", text)

    def _send(self, to: tuple[str, ...], message: dict[str, Any]) -> None:
        for process in to:
            if process in self._scheduler.workers:
                self._scheduler.worker_send(process, message)
            elif process in self._scheduler.clients:
                self._scheduler.report(message, client=process)
            else:
                continue
            return

    def _happen(self, event: events.Event) -> None:
        self._timers.pop(event, None)
        self.feed(event)

    def _answer(self, asker: tuple[str, Key, bool], answer: dict[str, Any]) -> None:
        waiting = self._asking.pop(asker, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _recompute(self, tasks: tuple[Any, ...]) -> None:
        known = self._scheduler.tasks
        again = {
            task: "released"
            for task in tasks
            if task in known and known[task].state == "memory"
        }
        if again:
            stimulus = f"daskref-lost-{time.time()}"
            self._scheduler.transitions(again, stimulus_id=stimulus)

    def _evict_now(self, keys: list[Key]) -> list[Key]:
        if (across := self._session.across_hosts) is not None:
            evict(across, keys)
            return []
        assert self._session.store is not None
        return evict_each(self._session.store, keys, self.evictions.outage)
