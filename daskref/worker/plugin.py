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
``Worker.state.nbytes``                            what is not the worker's own
``Worker.batched_send``, ``.batched_stream``       messages to the scheduler
``Scheduler.stream_handlers``                      what it is told of replicas
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

from dask.sizeof import sizeof
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.serialize import Serialize, to_serialize

from daskref.background import run_apart
from daskref.client.enabling import adopt, let_go
from daskref.cluster.connections import FAMILY, Connections, Streams
from daskref.cluster.family import register_family
from daskref.cluster.opening import pauses
from daskref.cluster.relay import RelayConnector, fetch
from daskref.cluster.session import ClusterStore
from daskref.cluster.views import ViewFactory, references_of
from daskref.connectors.base import Key
from daskref.exceptions import (
    ConnectorError,
    DaskrefError,
    WireError,
)
from daskref.graph.literals import is_small
from daskref.graph.nodes import VALUES, ReferenceNode
from daskref.objects.codec import Encoded
from daskref.objects.reference import Reference, imported_type
from daskref.objects.signing import add_asker, known_key
from daskref.proxy.proxy import Proxy, get_factory, is_proxy
from daskref.store.factory import (
    FailedFactory,
    StoreFactory,
    Unreadable,
    is_transparent,
    reveal,
)
from daskref.store.mapped import Mapped
from daskref.store.registry import register_store, unregister_store
from daskref.store.store import Store
from daskref.worker._boundary import Boundary, needs_boundary
from daskref.worker._data import ServedComm, peek
from daskref.worker._serving import Serving
from daskref.worker._spares import Spares
from daskref.worker._values import show_values
from daskref.worker.nanny import own_memory

if TYPE_CHECKING:
    from distributed.worker import Worker

logger = logging.getLogger(__name__)


class _Lent:
    """A result that lies in stored memory, and the proxy that takes its place."""

    __slots__ = ("proxy", "result", "taken")

    def __init__(self, result: Any, proxy: Any) -> None:
        self.result = result
        self.proxy = proxy
        self.taken = False


class ReferenceWorkerPlugin(WorkerPlugin):  # type: ignore[misc]
    """What a worker with daskref does.

    Parameters
    ----------
    info
        The session to join, pickled.
    """

    name = "daskref"

    worker: Worker
    session: ClusterStore
    _serving: Serving | None
    _undo: list[Callable[[], Any]]
    _converting: dict[Any, asyncio.Task[Any]]
    _spares: Spares
    #: What tasks have returned that lies in stored memory, until it is in their place.
    _lent: dict[Any, _Lent]

    def __init__(self, info: bytes) -> None:
        self._info = info
        self._serving = None
        self._undo = []
        self._converting = {}
        self._lent = {}

    async def setup(self, worker: Worker) -> None:
        """Join the session and take over the worker's seams."""
        register_family()
        self.worker = worker
        self._undo.append(show_values(worker, self._exchange))
        self._spares = Spares(worker.data.__contains__, worker.loop.add_callback)
        secrets = await worker.scheduler.daskref_secrets()
        info = replace(pickle.loads(self._info), secrets=secrets)
        session = self.session = await run_apart(ClusterStore.join, info)
        self.threshold = session.info.settings.threshold
        self._on_completion = session.info.settings.results == "on-completion"
        self._raises = session.info.settings.on_failure == "raise"
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
        self._replace_handler("get_data", self.get_data)
        self._replace_handler("actor_execute", self.actor_execute)
        self._replace_handler("actor_attribute", self.actor_attribute)
        worker.handlers["daskref_fetch"] = self.fetch
        worker.handlers["daskref_counters"] = self.counters
        worker.handlers["daskref_values"] = self.values
        worker.handlers["daskref_stored"] = self.stored
        for op in ("fetch", "counters", "values", "stored"):
            self._undo.append(partial(worker.handlers.pop, f"daskref_{op}"))
        self._replace_stream_handler("compute-task", self.compute_task)
        self._replace(worker, "_get_client", self._get_client)
        self._replace(
            worker.monitor,
            "get_process_memory",
            own_memory(worker.monitor.get_process_memory),
        )

    def _ask_key(self, store: str) -> bytes | None:
        """Ask the scheduler for the signing key of a store of a client's. Blocks."""
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            return None  # which must not wait for itself
        asked = asyncio.run_coroutine_threadsafe(
            self.worker.scheduler.daskref_secrets(), self.worker.loop.asyncio_loop
        )
        try:
            return known_key(store, asked.result(self.session.info.settings.timeout))
        except (OSError, TimeoutError):
            return None

    async def _take_part(self) -> None:
        """Send and get references, and serve other hosts, if the store is in reach."""
        worker, session = self.worker, self.session
        self._undo.append(session.inband.listen(self._log_event))
        if (connector := session.across_hosts) is not None:
            self._serving = Serving(worker, session, connector)
            await self._begin_serving(self._serving)
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
        self.session = session
        # at the end: tasks that run may still use its threads
        self._undo.append(before.leave)
        await self._take_part()
        if self.session.reachable:
            self.worker.batched_send({"op": "daskref-reachable"})
            logger.warning(
                "This process can see the cluster's store now: large values go by "
                "reference again."
            )

    async def _begin_serving(self, serving: Serving) -> None:
        try:
            await serving.start()
        except DaskrefError as exc:
            self._serving = None
            self.session.inband.lose_sight(exc)
        else:
            self._undo.append(serving.stop)

    async def teardown(self, worker: Worker) -> None:
        """Give the worker its seams back and leave the session."""
        while self._undo:
            self._undo.pop()()
        if not hasattr(self, "session"):  # setting up has failed
            return
        if worker.status.name not in ("closing", "closed"):
            await self._reveal_data(worker)
            await let_go(worker)
        await run_apart(self.session.leave)

    async def _reveal_data(self, worker: Worker) -> None:
        for key in list(worker.data):
            if is_proxy(value := worker.data[key]):
                worker.data[key] = await self.session.run(reveal, value)

    def _log_event(self, event: dict[str, Any]) -> None:
        self.worker.log_event("daskref", {**event, "worker": self.worker.address})

    def _replace_handler(self, op: str, handler: Callable[..., Any]) -> None:
        handlers = self.worker.handlers
        before = handlers[op]
        handlers[op] = handler
        self._undo.append(lambda: handlers.__setitem__(op, before))

    def _replace_stream_handler(self, op: str, handler: Callable[..., Any]) -> None:
        handlers = self.worker.stream_handlers
        before = handlers[op]
        handlers[op] = partial(handler, before)
        self._undo.append(lambda: handlers.__setitem__(op, before))

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        # an attribute of the instance hides the method of its class
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name))

    # Tasks

    def compute_task(
        self, compute: Callable[..., Any], key: Any, run_spec: Any, **kwargs: Any
    ) -> None:
        """Have a task done at once that only stands for a value.

        The worker gets the value as from a scatter, then is asked for the task that it
        has done: no thread has to be free. A key that something becomes of here takes
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
        """Let keys stand for other values."""
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
        if key in self._lent:
            self._settle(key, finish)
        if finish == "executing":
            ts = self.worker.state.tasks[key]
            if needs_boundary(ts.run_spec, bool(ts.dependencies)):
                ts.run_spec = Boundary(
                    ts.run_spec, self.session.run, self._keep, self._spares
                )
        elif finish == "memory":
            if start == "flight":
                self._check_arrived(key)
            elif self._on_completion:
                value = peek(self.worker.data, key)
                if value is None:  # on disk already
                    large = (self.worker.state.tasks[key].nbytes or 0) > self.threshold
                else:
                    large = self._may_go_by_reference(key, value)
                if large:
                    self.worker.loop.add_callback(self._complete, key)

    def _check_arrived(self, key: Any) -> None:
        value = peek(self.worker.data, key)
        if not is_transparent(value):
            return
        self._count_own(key, value)
        if self._raises and type(get_factory(value)) is FailedFactory:
            # after Dask's own message that this worker has it
            self.worker.loop.add_callback(self._disown, key)

    def _disown(self, key: Any) -> None:
        """Let nobody take what stands for a value that did not arrive for a replica.

        Dask might delete the real one.
        """
        self.worker.batched_send(
            {
                "op": "release-worker-data",
                "key": key,
                "stimulus_id": f"daskref-failed-{time.time()}",
            }
        )

    async def _complete(self, key: Any) -> None:
        value = self.worker.data.get(key)
        if value is not None:
            await self._refer(key, value)

    def _keep(self, key: Any, result: Any, mapped: list[Mapped]) -> None:
        """Do with a task's result what has to be done before the task has ended."""
        proxy = self.session.lend(result, mapped)
        if proxy is None:
            self.session.keep(result, self.worker.loop.add_callback)
        else:
            self._lent[key] = _Lent(result, proxy)

    def _exchange(self, key: Any, obj: Any) -> Any:
        """Return what goes into the worker's data in the place of an object.

        Dask has asked the object itself for its type and size by then.
        """
        if (lent := self._lent.get(key)) is None or lent.result is not obj:
            return obj
        lent.taken = True
        return lent.proxy

    def _settle(self, key: Any, state: str) -> None:
        """Let the scheduler own what a result is made of, if that is in its place."""
        lent = self._lent.pop(key)
        references = references_of(lent.proxy)
        if state != "memory" or not lent.taken:
            self.session.give_up(references)
            return
        self._count_own(key, lent.proxy)
        for reference in references:  # after Dask's own message that it is done
            self.worker.loop.add_callback(self._send_result, key, reference, False)

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
        """Serve results: as references to who takes them, as values to who does not."""
        served = ServedComm(comm, self._is_proxy, self._plain)
        if serializers is not None and FAMILY in serializers:
            refer = partial(self._refer, pickles="pickle" in serializers)
            served = ServedComm(comm, self._may_go_by_reference, refer)
            if str(comm.local_address).startswith("inproc://"):
                served = comm  # passed by pointer: nothing is faster
        return await type(self.worker).get_data(
            self.worker, served, keys, who=who, serializers=serializers
        )

    def _is_proxy(self, key: Any, value: Any) -> bool:
        return is_proxy(value)

    async def _plain(self, key: Any, value: Any) -> Any:
        try:
            return await self.session.run(reveal, value)
        except WireError as exc:
            return Unreadable(exc)

    def _may_go_by_reference(self, key: Any, value: Any) -> bool:
        if is_proxy(value):
            return True
        return self.session.reachable and not is_small(value, self.threshold)

    async def _refer(self, key: Any, value: Any, pickles: bool = False) -> Any:
        """Return a proxy in the place of a large result, put once.

        Parameters
        ----------
        key, value
            Of the result.
        pickles
            Whether a small result may be returned as its pickle, which was made to see
            that it is small.
        """
        if not self.session.reachable:
            return await self._plain(key, value)
        if is_transparent(value) and not self._goes_apart(get_factory(value)):
            self._count_kept(value)
            return value
        if is_transparent(value):
            value = await self.session.run(reveal, value)
        if is_proxy(value):  # the user's own
            return value
        converting = self._converting.get(key)
        if converting is None:
            converting = asyncio.create_task(self._put(key, value))
            self._converting[key] = converting
            converting.add_done_callback(lambda _: self._converting.pop(key))
        # several may ask at once, and each may go away
        converted = await asyncio.shield(converting)
        if type(converted) is Encoded:
            return (pickles and converted.serialized()) or value
        return converted

    def _goes_apart(self, factory: Any) -> bool:
        """Tell whether a result is better put than sent with what it is made of."""
        if not isinstance(factory, ViewFactory):
            return False
        if factory.private_nbytes > self.threshold:
            return True
        stored = sum(reference.nbytes for reference in factory.references)
        part = factory.recipe.stored_nbytes
        return self.session.across_hosts is not None and part < stored / 2

    async def _put(self, key: Any, value: Any) -> Any:
        session = self.session
        try:
            reference, put = await session.run(session.refer, value, self.threshold)
        except ConnectorError as exc:
            # Raised where the value is wanted: Dask would ask a failing handler again
            # and again.
            return Proxy(FailedFactory(exc))
        if reference is None:
            return value
        if isinstance(reference, Encoded):
            return reference
        self._send_result(key, reference, put)
        proxy = Proxy(StoreFactory(reference, transparent=True))
        self._count_kept(proxy)
        if key in self.worker.data:
            self.worker.data[key] = proxy
            self._count_own(key, proxy)
        return proxy

    def _count_own(self, key: Any, proxy: Any) -> None:
        """Count what a worker has itself of a value that lies in the store.

        The scheduler was told the size of the value.
        """
        ts, nbytes = self.worker.state.tasks[key], sizeof(proxy)
        self.worker.state.nbytes += nbytes - ts.nbytes
        ts.nbytes = nbytes

    def _send_result(self, key: Any, reference: Reference, put: bool) -> None:
        self.worker.batched_send(
            {
                "op": "daskref-result",
                "task": key,
                "object": (reference.key, reference.nbytes),
                "put": put,
            }
        )

    def _count_kept(self, proxy: Any) -> None:
        factory = get_factory(proxy)
        if isinstance(factory, StoreFactory):
            self.session.counters.add("bytes_kept", factory.reference.nbytes)

    async def actor_execute(
        self,
        actor: Any = None,
        function: Any = None,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        serializers: list[str] | None = None,
    ) -> dict[str, Any]:
        """Call an actor: with values, for a reference."""
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
        """Read an actor's attribute, for a reference."""
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
        """Send a stored object's bytes in-band, to a process out of reach."""
        return await fetch(self.session, key)

    async def counters(self) -> dict[str, Any]:
        """Return this process's counts."""
        return self.session.report()

    async def stored(self) -> dict[str, Any]:
        """Return what the store has on this host."""
        return await self.session.run(self.session.stored)
