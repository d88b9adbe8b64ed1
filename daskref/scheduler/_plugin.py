"""The scheduler plugin: the one owner of the session and its stored objects.

It knows the holders of each stored object and deletes an object with its last holder.
Dask's transitions are the truth: a graph node's references live until the task is
forgotten, a result's reference until the result is released.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=============================================  =====================================
name                                           what for
=============================================  =====================================
``Scheduler.handlers``, ``.stream_handlers``   messages of clients and workers
``Scheduler.report``                           messages to one client, in order
``Scheduler.client_comms``, ``.stream_comms``  streams to clients and workers
=============================================  =====================================
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from daskref.background import run_apart
from daskref.cluster.connections import Streams
from daskref.cluster.notices import describe_session
from daskref.cluster.opening import SessionInfo
from daskref.cluster.relay import fetch
from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.connectors.base import Key
from daskref.exceptions import ConnectorError
from daskref.graph.nodes import references_in
from daskref.objects.reference import Reference
from daskref.scheduler import _events as events
from daskref.scheduler._dispatcher import Dispatcher
from daskref.scheduler._encryption import (
    check_transport,
    choose_transport,
    is_encryption_required,
)
from daskref.scheduler._events import Holder
from daskref.scheduler._reports import Reports
from daskref.scheduler._state import ENDING, State
from daskref.scheduler._values import Values
from daskref.scheduler._watches import Watches
from daskref.scheduler._workers import NAME, Workers
from daskref.scheduler.dashboard.mounting import mount
from daskref.scheduler.dashboard.sampling import Sampler

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)


class ReferenceSchedulerPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Own the session, and feed Dask's transitions to its state machine.

    *settings*: the first client's, over the scheduler's own configuration.
    """

    name = NAME
    idempotent = True

    scheduler: Scheduler
    session: ClusterStore
    #: Empty until the session is there.
    state: State
    watches: Watches
    _dispatcher: Dispatcher | None
    _reports: Reports
    _values: Values
    _workers: Workers

    def __init__(self, scheduler: Scheduler, settings: Settings) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.state = State()
        self.watches = Watches(self._tell, self._task)
        self._values = Values(scheduler, self._tell)
        self._workers = Workers(scheduler, self._log_event)
        self._dispatcher = None
        self._clients: set[str] = set()
        self._streams = Streams(settings.latency)
        self._ready: asyncio.Task[None] | None = None
        self._opened: dict[str, Any] = {}
        self._undo: list[Callable[[], None]] = [self._streams.restore_all]
        self._leave_network: Callable[[], None] = lambda: None

    @property
    def info(self) -> SessionInfo:
        """What a process needs to join the session."""
        return self.session.info

    # Life

    async def start(self, scheduler: Scheduler | None = None) -> None:
        """Create the session and set up the workers, once for any number of callers.

        Dask calls this too, with a scheduler that starts after the plugin was added.
        """
        if self._ready is None:
            self._ready = asyncio.create_task(self._start())
        await asyncio.shield(self._ready)

    async def _start(self) -> None:
        scheduler = self.scheduler
        answering = await self._workers.check()
        transport = choose_transport(self.settings.security_transport, scheduler)
        self.session = await run_apart(ClusterStore.create, self.settings, transport)
        assert self.session.store is not None
        connector = self.session.store.connector
        self._dispatcher = Dispatcher(scheduler, self.session)
        self.state = self._dispatcher.state
        check_transport(connector, is_encryption_required(scheduler.security))
        if (across := self.session.across_hosts) is not None:
            scheduler.handlers.update(self._dispatcher.handlers)
            scheduler.stream_handlers.update(self._dispatcher.stream_handlers)
            locator = self._dispatcher.locator(scheduler.loop)
            self._leave_network = across.attend(locator)
        self._reports = Reports(scheduler, self.session, self.state, self._clients)
        scheduler.handlers.update(
            {
                "daskref_fetch": self.fetch,
                "daskref_reachable": self._workers.reachable,
                "daskref_stats": self._reports.stats,
                "daskref_objects": self._reports.objects,
                "daskref_task": self._reports.task,
                "daskref_leave": self.leave,
                "daskref_leaving": self.leaving,
                "daskref_has": self._values.known,
                "daskref_values": self.values,
                "daskref_workers": self._workers.addresses,
                "daskref_secrets": self.secrets,
            }
        )
        scheduler.stream_handlers.update(
            {
                "daskref-put": self.on_put,
                "daskref-release": self.on_release,
                "daskref-result": self.on_result,
                "daskref-counters": self._reports.add,
                "daskref-unreachable": self._workers.on_unreachable,
                "daskref-reachable": self._workers.on_reachable,
                "daskref-read": self.on_read,
                "daskref-keys": self._workers.on_keys,
                "daskref-bind": self.on_bind,
                "daskref-watch": self.on_watch,
            }
        )
        await self._workers.set_up(self.info, answering)
        for stream in scheduler.stream_comms.values():
            self._streams.shorten(stream)
        interval = 1000 * self.settings.reconcile_interval
        reconciler = PeriodicCallback(self.reconcile, interval)
        reconciler.start()
        self._undo.append(reconciler.stop)
        budget = 0
        with suppress(ConnectorError):  # it is said in logs, and no more
            budget = (await run_apart(connector.space)).budget
        self._opened = describe_session(self.settings, budget)
        self._log_event("open", **self.opened())
        self._undo.append(mount(scheduler, Sampler(self._reports)))

    def opened(self) -> dict[str, Any]:
        """Return the session's log entry."""
        hosts = {ws.host for ws in self.scheduler.workers.values()}
        return {**self._opened, "hosts": sorted(hosts)}

    def _log_event(self, action: str, **details: Any) -> None:
        self.scheduler.log_event(NAME, {"action": action, **details})

    async def close(self) -> None:
        """Delete the remaining objects and leave the session."""
        while self._undo:
            try:
                self._undo.pop()()
            except Exception:  # the rest is undone all the same
                logger.warning("A part of daskref could not be removed", exc_info=True)
        self._values.close()
        if hasattr(self, "session"):
            if self._dispatcher is not None:
                await self._dispatcher.close()
            self._leave_network()
            await run_apart(self.session.leave)

    async def retire(self) -> None:
        """Remove the plugin: the last client left an empty store, or start failed."""
        scheduler = self.scheduler
        if scheduler.plugins.get(NAME) is not self:
            return
        scheduler.remove_plugin(name=NAME)
        self._values.close()  # before another plugin is made, while workers are told
        for op in [op for op in scheduler.handlers if op.startswith("daskref_")]:
            del scheduler.handlers[op]
        for op in [op for op in scheduler.stream_handlers if op.startswith("daskref-")]:
            # A message of this kind that is still under way must not end its stream.
            scheduler.stream_handlers[op] = lambda **message: None
        if self._opened:
            self._log_event("close")
        try:
            await self._workers.withdraw()
        finally:  # also if one of them is dying
            await self.close()

    # Holders

    def update_graph(
        self, scheduler: Scheduler, *, client: str, tasks: Any, **kwargs: Any
    ) -> None:
        """Let tasks hold the references in their graph nodes."""
        for key in tasks:
            ts = scheduler.tasks.get(key)
            if ts is None or ts.run_spec is None:
                continue
            self._hold(key, references_in(ts.run_spec))
            self._values.add(ts)
        if self.watches:
            self.watches.graph_arrived(client, tasks)

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any
    ) -> None:
        """Release the objects of a forgotten task or a released result."""
        # Nearly all tasks hold nothing: this is on the way of each of them.
        held = self.state.held
        if start == "memory" != finish and Holder("result", key) in held:
            ts = self.scheduler.tasks[key]
            wanted = bool(ts.who_wants or ts.waiters)
            self._feed(events.ResultReleased(key, wanted))
        if key in self._values.keys:
            self._values.transition(key, finish)
        if finish == "forgotten" and any(Holder(kind, key) in held for kind in ENDING):
            self._feed(events.TaskForgotten(key))
        if self.watches:
            self.watches.transition(key, finish)

    def restart(self, scheduler: Scheduler) -> None:
        """Release the objects of all tasks."""
        self._feed(events.TasksCleared())
        self._values.keys.clear()
        self.watches.restart()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Release the client's objects."""
        if client in self._clients:
            self._clients.remove(client)
            self._log_event("remove-client", client=client)
        self._workers.forget_keys(client)
        self._feed(events.Released(Holder("client", client)))
        self.watches.remove_client(client)
        self._feed(events.Left(client))

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Shorten the batching delay of messages to the worker."""
        self._streams.shorten(scheduler.stream_comms.get(worker))

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Forget the worker, and handle the loss of its host."""
        self._workers.forget(worker)
        self._feed(events.Left(worker))

    def on_put(self, client: str, object: tuple[Key, int], put: bool) -> None:
        """Let a client hold an object that it put."""
        self._reports.puts += put
        key, nbytes = tuple(object[0]), object[1]
        self._feed(events.Put(Holder("client", client), key, nbytes))
        if client not in self.scheduler.clients:  # it has left meanwhile
            self.remove_client(self.scheduler, client)

    def on_release(self, client: str, objects: list[Key]) -> None:
        """Let a client release objects."""
        keys = tuple(tuple(key) for key in objects)
        self._feed(events.Released(Holder("client", client), keys))

    def on_result(
        self, worker: str, task: Any, object: tuple[Key, int], put: bool
    ) -> None:
        """Let a task hold its result, which a worker put."""
        key, nbytes = tuple(object[0]), object[1]
        self._reports.puts += put
        ts = self.scheduler.tasks.get(task)
        holder = Holder("result", task)
        # No task can make Dask's own scattered values again.
        computable = ts is not None and ts.run_spec is not None
        self._feed(events.Put(holder, key, nbytes, computable))
        if ts is None or ts.state != "memory":  # released while the worker wrote
            self._feed(events.Released(holder, (key,)))

    def on_bind(
        self, client: str, task: Any, objects: list[tuple[Key, int]], bound: bool
    ) -> None:
        """Let a task hold objects until it is forgotten, or release them."""
        holder = Holder("bound", task)
        found = tuple((tuple(key), nbytes) for key, nbytes in objects)
        if bound:
            self._feed(events.Held(holder, found))
        if not bound or self._task(task) is None:
            self._feed(events.Released(holder, tuple(key for key, _ in found)))

    def on_watch(
        self, client: str, id: int, keys: list[Any], until: str | None
    ) -> None:
        """Start or end a client's watch; see :meth:`Watches.watch`."""
        self.watches.watch(client, id, keys, until)
        if client not in self.scheduler.clients:  # it has left meanwhile
            self.watches.remove_client(client)

    def on_read(self, worker: str, object: Key) -> None:
        """Delete an object whose only reader cannot delete it."""
        self._feed(events.ReadOnce(tuple(object)))

    def _feed(self, event: events.Event) -> None:
        if self._dispatcher is not None:  # else nothing is stored yet
            self._dispatcher.feed(event)

    def _hold(self, task: Any, references: Iterable[Reference]) -> None:
        objects = tuple((each.key, each.nbytes) for each in references)
        if objects:
            self._feed(events.Held(Holder("key", task), objects))

    def _task(self, key: Any) -> Any:
        return self.scheduler.tasks.get(key)

    def _tell(self, client: str, message: dict[str, Any]) -> None:
        self.scheduler.report(message, client=client)

    async def reconcile(self) -> None:
        """Delete expired leases, and dead processes' objects without holders."""
        grace = self.settings.reconcile_grace
        assert self._dispatcher is not None
        try:
            self._dispatcher.feed(events.Reconciled(grace))
        except Exception:  # the sweep goes on
            logger.exception("Reconciliation failed; it is tried again")
        known = [*self.state.known, *self.info.probes]
        await self._dispatcher.evictions.sweep(known, grace)

    # Requests

    def join(self, client: str) -> SessionInfo:
        """Admit a client."""
        if client not in self._clients:
            self._clients.add(client)
            self._log_event("add-client", client=client)
        self._streams.shorten(self.scheduler.client_comms.get(client))
        return self.info

    async def leave(self, client: str) -> bool:
        """Let a client return to plain Dask; True if the plugin was removed as well."""
        self._streams.restore(self.scheduler.client_comms.get(client))
        self.remove_client(self.scheduler, client)
        if self._clients or self.state.held:
            return False
        await self.retire()
        return True

    def leaving(self, client: str, keys: list[Any]) -> list[Any]:
        """Release the futures of a client that is about to leave.

        Returns those of the keys that Dask has forgotten by then.
        """
        if (state := self.scheduler.clients.get(client)) is not None:
            wanted = [ts.key for ts in state.wants_what]
            self.scheduler.client_releases_keys(keys=wanted, client=client)
        return [key for key in keys if self._task(key) is None]

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return the store's secrets and all signing keys, for a worker that joins."""
        return {**self.info.secrets, **self._workers.keys()}

    async def fetch(self, key: Key) -> dict[str, Any]:
        """Return a stored object's bytes to a process that cannot reach the store."""
        return await fetch(self.session, key)

    async def values(self, nodes: bytes) -> list[Any]:
        """Replace the values of keys; return the keys that workers have in memory."""
        found = pickle.loads(nodes)
        # A worker that just got a key would answer with the value of that message.
        await self._values.answered(found)
        changed, places = self._values.replace(found)
        held = self.state.held
        before = {key: set(held.get(Holder("key", key), ())) for key in changed}
        # Held before anybody is waited for: a key may be forgotten meanwhile.
        for key in changed:
            self._hold(key, found[key].references)
        await self._values.tell_workers(places)
        for key, is_read in changed.items():
            new = {reference.key for reference in found[key].references}
            old = tuple(before[key] - new)
            self._feed(events.ValueReplaced(key, old, is_read))
        return self._values.in_memory(found)
