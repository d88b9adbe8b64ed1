"""The worker plugin: values out as references, references in as values.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=================================================  =================================
name                                               what for
=================================================  =================================
``Worker.handlers``                                what other processes ask for
``Worker.get_data`` and its ``comm.write``         where a result leaves, with its key
``Worker.actor_execute``, ``.actor_attribute``     where actors are called
``Worker.stream_handlers``                         what the scheduler asks for
``Worker._get_client``                             clients that tasks make
``Worker.state.tasks[key].run_spec``               the task boundary
``Worker.batched_send``, ``.batched_stream``       messages to the scheduler
``Worker.update_data``                             values that are at hand
=================================================  =================================
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.serialize import Serialize, to_serialize

from daskref.background import is_on_event_loop, run_apart
from daskref.client.enabling import adopt, let_go
from daskref.cluster.connections import FAMILY, Connections, Streams
from daskref.cluster.family import register_family
from daskref.cluster.locating import ask
from daskref.cluster.opening import pauses
from daskref.cluster.relay import RelayConnector, fetch
from daskref.cluster.session import ClusterStore
from daskref.cluster.stats import footprints, reads
from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError
from daskref.graph.nodes import VALUES, ReferenceNode
from daskref.objects.reference import imported_type
from daskref.objects.signing import add_asker, known_key
from daskref.proxy.proxy import is_proxy
from daskref.store.factory import reveal
from daskref.store.registry import register_store, unregister_store
from daskref.store.store import Store
from daskref.worker._boundary import Boundary, needs_boundary
from daskref.worker._data import ServedComm
from daskref.worker._results import Results
from daskref.worker._serving import Serving
from daskref.worker._spares import Spares
from daskref.worker._values import show_values
from daskref.worker.nanny import own_memory

if TYPE_CHECKING:
    from distributed.worker import Worker

logger = logging.getLogger(__name__)


class ReferenceWorkerPlugin(WorkerPlugin):  # type: ignore[misc]
    """Join a worker to a session; *info*: the session, pickled."""

    name = "daskref"

    worker: Worker
    session: ClusterStore
    _serving: Serving | None
    _undo: list[Callable[[], Any]]
    _results: Results
    _spares: Spares

    def __init__(self, info: bytes) -> None:
        self._info = info
        self._serving = None
        self._undo = []

    async def setup(self, worker: Worker) -> None:
        """Join the session and replace the worker's methods and handlers."""
        register_family()
        self.worker = worker
        self._results = Results(worker)
        self._undo.append(show_values(worker, self._results.exchange))
        self._spares = Spares(worker.data.__contains__, worker.loop.add_callback)
        secrets = await worker.scheduler.daskref_secrets()
        info = replace(pickle.loads(self._info), secrets=secrets)
        session = await run_apart(ClusterStore.join, info)
        self._use(session)
        await self._take_part()
        if not session.reachable:
            name = session.info.store.name
            relay = RelayConnector(worker, session.info.settings.timeout)
            store = Store(
                name,
                relay,
                counters=session.counters,
                signing_key=known_key(name, session.info.secrets),
            )
            register_store(store, exist_ok=True)
            self._undo.append(lambda: unregister_store(name))
            worker.batched_send(
                {
                    "op": "daskref-unreachable",
                    "reason": "it takes no part in the store; its own log says why",
                }
            )
        streams = Streams(session.info.settings.latency)
        streams.shorten(worker.batched_stream)
        self._undo.append(streams.restore_all)
        self._undo.append(add_asker(self._ask_key))
        if session.store is None:
            trying = asyncio.create_task(self._try_again())
            self._undo.append(trying.cancel)
        self._replace_handler("get_data", self.get_data, worker.handlers)
        self._replace_handler("actor_execute", self.actor_execute, worker.handlers)
        self._replace_handler("actor_attribute", self.actor_attribute, worker.handlers)
        for handler in (
            self.fetch,
            self.counters,
            self.values,
            self.stored,
            self.footprints,
            self.reads,
        ):
            op = f"daskref_{handler.__name__}"
            worker.handlers[op] = handler
            self._undo.append(partial(worker.handlers.pop, op))
        compute = partial(self.compute_task, worker.stream_handlers["compute-task"])
        self._replace_handler("compute-task", compute, worker.stream_handlers)
        self._replace(worker, "_get_client", self._get_client)
        self._replace(
            worker.monitor,
            "get_process_memory",
            own_memory(worker.monitor.get_process_memory),
        )

    def _use(self, session: ClusterStore) -> None:
        self.session = self._results.session = session
        self._on_completion = session.info.settings.results == "on-completion"

    def _ask_key(self, store: str) -> bytes | None:
        """Ask the scheduler for the signing key of a client's own store. Blocks."""
        if is_on_event_loop():  # which may not wait
            return None
        timeout = self.session.info.settings.timeout
        secrets = self.worker.scheduler.daskref_secrets
        with suppress(OSError):
            return known_key(store, ask(self.worker.loop, secrets, {}, timeout))
        return None

    async def _take_part(self) -> None:
        """Exchange references, and serve other hosts, if the store is reachable."""
        worker, session = self.worker, self.session
        self._undo.append(session.inband.listen(self._log_event))
        if (connector := session.across_hosts) is not None:
            self._serving = serving = Serving(worker, session, connector)
            try:
                await serving.start()
            except DaskrefError as exc:
                self._serving = None
                session.inband.lose_sight(exc)
            else:
                self._undo.append(serving.stop)
        if session.reachable:
            connections = Connections(worker.rpc, worker.scheduler, session)
            self._undo.append(connections.restore)

    async def _try_again(self) -> None:
        """Take part as soon as the store can be opened here."""
        before = self.session
        for pause in pauses(before.info.settings.retry_interval):
            await asyncio.sleep(pause)
            session = await run_apart(ClusterStore.join, before.info)
            if session is not before:
                break
            await run_apart(session.leave)
        self._use(session)
        # at the end: tasks that run may still use its threads
        self._undo.append(before.leave)
        await self._take_part()
        if self.session.reachable:
            self.worker.batched_send({"op": "daskref-reachable"})
            logger.warning(
                "This process can see the cluster's store now: large values go by "
                "reference again."
            )

    async def teardown(self, worker: Worker) -> None:
        """Restore the worker and leave the session."""
        while self._undo:
            self._undo.pop()()
        if not hasattr(self, "session"):  # setting up has failed
            return
        if worker.status.name not in ("closing", "closed"):
            for key in list(worker.data):
                if is_proxy(value := worker.data[key]):
                    worker.data[key] = await self.session.run(reveal, value)
            await let_go(worker)
        await run_apart(self.session.leave)

    def _log_event(self, event: dict[str, Any]) -> None:
        self.worker.log_event("daskref", {**event, "worker": self.worker.address})

    def _replace_handler(self, op: str, handler: Any, handlers: dict[str, Any]) -> None:
        self._undo.append(partial(handlers.__setitem__, op, handlers[op]))
        handlers[op] = handler

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        # an attribute of the instance hides the method of its class
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name))

    # Tasks

    def compute_task(
        self, compute: Callable[..., Any], key: Any, run_spec: Any, **kwargs: Any
    ) -> None:
        """Finish a task at once that only stands for a stored value.

        The worker gets the value as from a scatter, and then is asked for a task that
        it has finished: no thread has to be free. Any other state of the key takes
        Dask's own way.
        """
        worker = self.worker
        known = worker.state.tasks.get(key)
        if isinstance(run_spec, VALUES) and (
            known is None or known.state == "released"
        ):
            with suppress(Exception):  # the task raises it
                start = time.time()
                worker.update_data({key: run_spec()})
                ts = worker.state.tasks[key]
                # or Dask assumes a time, and weighs all that wait again for each
                ts.startstops.append(
                    {"action": "compute", "start": start, "stop": time.time()}
                )
                if isinstance(run_spec, ReferenceNode):
                    name = run_spec.reference.metadata.type_name
                    with suppress(LookupError):
                        ts.type = imported_type(name)
        compute(key=key, run_spec=run_spec, **kwargs)

    def values(self, nodes: bytes) -> None:
        """Replace the values of keys."""
        for key, node in pickle.loads(nodes).items():
            if key in self.worker.data:
                self._spares.forget(key)
                self.worker.data[key] = node()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Put the boundary around a task that is about to run."""
        if (serving := self._serving) is not None and serving.looks_ahead:
            serving.transition(key, start, finish)
        if start == "memory":
            self._spares.forget(key)
        if key in self._results.lent:
            self._results.settle(key, finish)
        if finish == "executing":
            ts = self.worker.state.tasks[key]
            if needs_boundary(ts.run_spec, bool(ts.dependencies)):
                ts.run_spec = Boundary(
                    ts.run_spec, self.session.run, self._results.keep, self._spares
                )
        elif finish == "memory":
            if start == "flight":
                self._results.arrived(key)
            elif self._on_completion:
                self._results.done(key)

    def _get_client(self, timeout: float | None = None) -> Any:
        client = type(self.worker)._get_client(self.worker, timeout)
        return adopt(client, self.session.info)

    # Values out

    async def get_data(
        self,
        comm: Any,
        keys: Any,
        who: str | None = None,
        serializers: list[str] | None = None,
    ) -> Any:
        """Serve results: as references to peers with daskref, as values to others."""
        results = self._results
        served = ServedComm(comm, results.is_proxy, results.plain)
        if serializers is not None and FAMILY in serializers:
            refer = partial(results.refer, pickles="pickle" in serializers)
            served = ServedComm(comm, results.is_large, refer)
            if str(comm.local_address).startswith("inproc://"):
                served = comm  # passed by pointer: nothing is faster
        return await type(self.worker).get_data(
            self.worker, served, keys, who=who, serializers=serializers
        )

    async def actor_execute(
        self,
        actor: Any = None,
        function: Any = None,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        serializers: list[str] | None = None,
    ) -> dict[str, Any]:
        """Call an actor with values; return a reference."""
        run = self.session.run
        args = [await run(reveal, arg) if is_proxy(arg) else arg for arg in args]
        kwargs = {
            name: await run(reveal, arg) if is_proxy(arg) else arg
            for name, arg in (kwargs or {}).items()
        }
        response = await type(self.worker).actor_execute(
            self.worker, actor=actor, function=function, args=args, kwargs=kwargs
        )
        return await self._refer_result(response, serializers)

    async def actor_attribute(
        self,
        actor: Any = None,
        attribute: Any = None,
        serializers: list[str] | None = None,
    ) -> dict[str, Any]:
        """Read an actor's attribute; return a reference."""
        response = type(self.worker).actor_attribute(
            self.worker, actor=actor, attribute=attribute
        )
        return await self._refer_result(response, serializers)

    async def _refer_result(
        self, response: dict[str, Any], serializers: list[str] | None
    ) -> dict[str, Any]:
        result = response.get("result")
        if isinstance(result, Serialize) and serializers and FAMILY in serializers:
            value = await self.session.run(self.session.put_once, result.data)
            response["result"] = to_serialize(value)
        return response

    # Requests

    async def fetch(self, key: Key) -> dict[str, Any]:
        """Return a stored object's bytes to a process that cannot reach the store."""
        return await fetch(self.session, key)

    async def counters(self) -> dict[str, Any]:
        """Return this process's counts."""
        return self.session.report()

    async def stored(self) -> dict[str, Any]:
        """Return the state of the store on this host."""
        return await self.session.run(self.session.stored)

    async def footprints(self, keys: list[Key]) -> list[Any]:
        """Return what objects take up on this host."""
        return await self.session.run(footprints, self.session, keys)

    async def reads(self, names: list[str] | None) -> dict[str, Any]:
        """Return how often this process has read objects."""
        return reads(self.session, names)
