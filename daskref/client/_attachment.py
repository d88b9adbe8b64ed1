"""The state of a client that passes values by reference: attached and detached.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=====================================  =============================================
name                                   what for
=====================================  =============================================
``Client._send_to_scheduler``          messages in order with the graphs
``Client._stream_handlers``            what the scheduler says of keys and restarts
``Client._serializers``                whether its messages may hold pickles
``Client._deserializers``              whether those to it may
=====================================  =============================================
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import distributed
from distributed.core import clean_exception
from distributed.protocol.pickle import dumps

from daskref import config
from daskref.background import run_apart
from daskref.client._holdings import Holdings
from daskref.client._hosts import Visit
from daskref.client._scatter import Placing
from daskref.client._watches import Watches
from daskref.cluster import by_value, notices
from daskref.cluster.connections import Connections, Streams
from daskref.cluster.family import register_family
from daskref.cluster.joining import identify, lacking
from daskref.cluster.opening import SessionInfo, pauses
from daskref.cluster.sealing import seal
from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.exceptions import ConnectorError, IncompatibleError, NotInstalledError
from daskref.graph.packing import Packer
from daskref.lifetimes.bound import BoundObjects
from daskref.objects.signing import secret_of, told_here
from daskref.units import parse_size

logger = logging.getLogger(__name__)

#: Seconds that a closing client waits for the scheduler, and for deletions.
_PATIENCE = 10.0


class Attachment:
    """The state of a client that passes values by reference."""

    def __init__(
        self, client: Any, session: ClusterStore, threshold: int | str | None
    ) -> None:
        self.session = session
        self.holdings = Holdings(session, self.send, self._call_soon)
        self.watches = Watches(self.send)
        settings = session.info.settings
        self.bound = BoundObjects(settings.lease, settings.retry_interval)
        self._told_keys: set[str] = set()
        self.placing = Placing()
        self._client = client
        self._threshold = (
            None if threshold is None else parse_size(threshold, "daskref.threshold")
        )
        self._streams = Streams(session.info.settings.latency)
        self._streams.shorten(client.scheduler_comm)
        # Dask drops all futures at a restart, without telling one by one
        self._handlers = client._stream_handlers
        ours = {
            "restart": self._handle_restart,
            "task-erred": self._handle_task_erred,
            "cancelled-keys": self._handle_cancelled_keys,
            "daskref-count": self.tell_counts,
            "daskref-ended": self.watches.end,
            "daskref-no-worker": self.placing.give_up,
        }
        self._unlisten = session.inband.listen(self.log_event)
        self._visit: Visit | None = None
        if (connector := session.across_hosts) is not None:
            retreat = partial(self._call_soon, self._restore_connections)
            self._visit = Visit(
                client, session, connector, self.holdings, self.send, retreat
            )
            ours |= self._visit.handlers
        self._before = {op: self._handlers.get(op) for op in ours}
        self._handlers.update(ours)
        families = (client._serializers, client._deserializers)
        #: Whether the user lets values be pickled that do not belong to a graph.
        self.takes_pickles = all(
            "pickle" in names for names in families if names is not None
        )
        self._connections = None
        if session.reachable and self.takes_pickles:
            self._connections = Connections(client.rpc, client.scheduler, session)

    async def visit(self) -> None:
        """Look for the cluster's hosts, if there are several."""
        if self._visit is not None:
            await self._visit.begin()

    def _restore_connections(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.restore()

    def threshold(self) -> int:
        """Return the client's threshold in bytes, else the configured one."""
        config.look()
        return config.threshold() if self._threshold is None else self._threshold

    def packer(self) -> Packer:
        """Return the packer of the call that this thread is in."""
        threshold = self.threshold() if self.session.reachable else sys.maxsize
        return Packer(threshold, self.holdings.put, self.holdings.current.looked)

    def tell_counts(self) -> None:
        """Send this process's counts to the scheduler."""
        self.send({"op": "daskref-counters", "report": self.session.report()})

    async def leave(self) -> None:
        """Delete the objects bound to keys that end with this client.

        Objects bound to other keys stay until their lease ends.
        """
        client = self._client
        if keys := self.watches.waits_for_forgotten():
            if client.scheduler_comm is None or client.scheduler_comm.closed():
                self.watches.end_all()  # the scheduler is gone, its keys with it
            else:
                ask = client.scheduler.daskref_leaving(client=client.id, keys=keys)
                try:
                    gone = await asyncio.wait_for(ask, _PATIENCE)
                except Exception:
                    logger.debug("The scheduler does not answer", exc_info=True)
                else:
                    self.watches.end_forgotten(gone)
        if self.bound:
            with suppress(TimeoutError):
                await asyncio.wait_for(run_apart(self.bound.work), _PATIENCE)

    # Messages of the scheduler

    def _handle_restart(self) -> None:
        self._before["restart"]()
        self.holdings.release_keys()
        self.watches.end_all()

    def _handle_task_erred(self, key: Any, **kwargs: Any) -> Any:
        self.watches.fail([key])
        return self._before["task-erred"](key=key, **kwargs)

    def _handle_cancelled_keys(self, keys: Any, **kwargs: Any) -> Any:
        self.watches.fail(keys)
        return self._before["cancelled-keys"](keys=keys, **kwargs)

    def log_event(self, event: dict[str, Any]) -> None:
        """Put an event of this process into Dask's log. Thread-safe."""
        self._call_soon(self._send_event, event)

    async def _send_event(self, event: dict[str, Any]) -> None:
        client = self._client
        with suppress(OSError):  # the connection has ended
            message = {**event, "client": client.id}
            await client.scheduler.log_event(topic="daskref", msg=message)

    def detach(self) -> None:
        """Restore the client."""
        self._unlisten()
        for op, handler in self._before.items():
            if handler is None:
                self._handlers.pop(op, None)
            else:  # others may have added theirs meanwhile: those stay
                self._handlers[op] = handler
        self._restore_connections()
        self._streams.restore_all()
        if self._visit is not None:
            self._visit.end()
        self.holdings.clear()
        self.watches.close()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to the scheduler, in order with the client's graphs."""
        client = self._client
        if client._daskref is self:
            with suppress(distributed.client.ClosedClientError, RuntimeError):
                client._send_to_scheduler(message)

    def tell_keys(self) -> None:
        """Send signing keys of the user's own stores to the scheduler, each once."""
        if told_here.keys() <= self._told_keys:
            return
        names = told_here.keys() - self._told_keys
        self._told_keys |= names
        keys: dict[str, Any] = {}
        for name in names - {self.session.info.store.name}:
            keys |= secret_of(name, told_here[name])
        if keys:
            self.send({"op": "daskref-keys", "keys": keys})

    def keep(self, value: Any) -> None:
        """Keep a gathered value's stored object while the value lives."""
        self.session.keep(value, self._call_soon)

    def _call_soon(self, callback: Any, *args: Any) -> None:
        with suppress(RuntimeError, AttributeError):  # the loop has ended
            self._client.loop.add_callback(callback, *args)


async def attach(client: Any) -> None:
    """Let a connected client pass values by reference."""
    register_family()
    await detach(client)
    config.tell_unknown()
    settings = Settings.read()
    try:
        away = await _attach(client)
    except ValueError as exc:
        if "'run_function'" not in str(exc) or settings.on_failure == "raise":
            raise
        logger.warning(
            "The scheduler runs no functions for clients (its setting "
            "distributed.scheduler.blocked-handlers names run_function), so values "
            "travel in-band, as plain Dask sends them."
        )
        return
    if away is not None:
        logger.warning(
            "The store cannot be opened, so values travel in-band, as plain Dask "
            "sends them; it is tried again from time to time. Set daskref.connector "
            "for another store, or daskref.on-failure: raise to make this an error. "
            "The reason: %s",
            away,
        )
    state = client._daskref
    if state is None or state.session.store is None:
        trying = _try_again(client, settings.retry_interval)
        client._daskref_trying = asyncio.create_task(trying)


async def _try_again(client: Any, interval: float) -> None:
    """Attach a client as soon as it can have a store."""
    for pause in pauses(interval):
        await asyncio.sleep(pause)
        try:
            await _attach(client)
        except Exception:  # the connection has ended, or a worker lacks daskref
            logger.debug("The store was not tried again", exc_info=True)
        state = client._daskref
        if state is not None and state.session.store is not None:
            logger.warning(
                "The store can be opened now: large values go by reference again."
            )
            state.log_event({"action": "reachable"})
            return


async def _attach(client: Any) -> ConnectorError | None:
    """Attach a client, or return why it continues without a store."""
    options = client._daskref_options
    hidden = options.get("connector")
    settings = config.changed(
        threshold=options.get("threshold"),
        connector=None if hidden is None else hidden.value,
    )
    # the scheduler asks for them as soon as it knows the client
    client._stream_handlers.setdefault("daskref-count", lambda **message: None)
    info, opened = await _join(client, settings)
    if isinstance(info, ConnectorError):
        return info
    session = await run_apart(ClusterStore.join, info)
    if (before := client._daskref) is not None:  # it had no store
        if session is before.session:
            await run_apart(session.leave)
            return None
        client._daskref = None
        before.detach()
        await run_apart(before.session.leave)
    state = Attachment(client, session, options.get("threshold"))
    try:
        await state.visit()
    except BaseException:
        state.detach()
        await run_apart(session.leave)
        raise
    client._daskref = state
    notices.tell_overridden(settings, info.settings)
    if session.reachable:
        notices.tell_switched_on(opened)
    return None


async def _join(
    client: Any, settings: dict[str, Any]
) -> tuple[SessionInfo | ConnectorError, dict[str, Any]]:
    ours = identify()
    ask = partial(_run_on_scheduler, client)
    sent: Any = settings
    if "connector" in settings:  # it may name a password, and Dask logs what is sent
        pad = await ask(by_value.give_pad)
        # a text says why `join` will fail
        sent = {} if isinstance(pad, str) else seal(settings, *pad)
    told = await ask(by_value.join, ours, client.id, sent)
    scheduler = f"the scheduler {client.scheduler.address}"
    if isinstance(told, str):
        raise NotInstalledError([lacking(scheduler, told)])
    if told["protocol"] != ours["protocol"]:
        raise IncompatibleError(scheduler, told, {"this client": ours})
    answer = pickle.loads(told["answer"])
    if isinstance(answer, ConnectorError) and told.get("in-band"):
        return answer, {}
    if isinstance(answer, Exception):
        raise answer
    return answer, told["opened"]


async def _run_on_scheduler(client: Any, function: Any, *args: Any) -> Any:
    """Run a function on the scheduler, whatever serializers the client has."""
    response = await client.scheduler.run_function(
        function=dumps(function),
        args=dumps(args),
        kwargs=dumps({}),
        wait=True,
        serializers=["dask", "pickle"],
        deserializers=["dask", "pickle", "error"],
    )
    if response["status"] == "error":
        _, exc, traceback = clean_exception(**response)
        raise exc.with_traceback(traceback)
    return response["result"]


async def detach(client: Any) -> None:
    """Undo :func:`attach` in this process."""
    trying, client._daskref_trying = client._daskref_trying, None
    if trying is not None:
        trying.cancel()
    state = client._daskref
    if state is not None:
        client._daskref = None
        state.detach()
        await run_apart(state.session.leave)
