"""One process's part of one cluster's store.

The scheduler plugin creates a session; workers and clients join it. A process that
cannot reach the store (another host, another container) joins as *unreachable*: it
puts nothing, and other processes send it values in-band.
"""

from __future__ import annotations

import functools
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from distributed.sizeof import safe_sizeof

from daskref.background import Executor, make_rlock, run_in_child
from daskref.cluster.inband import InBand
from daskref.cluster.opening import PROBE, SessionInfo, begin, reach
from daskref.cluster.stats import export
from daskref.cluster.views import lend
from daskref.config import Settings
from daskref.connectors import ZmqConnector
from daskref.connectors.base import Key
from daskref.connectors.credentials import remember
from daskref.exceptions import (
    ConnectorError,
    DaskrefError,
    NotProxiableError,
    SignatureError,
)
from daskref.graph.literals import is_small, on_gpu
from daskref.objects.codec import Encoded, encode
from daskref.objects.reference import Reference
from daskref.objects.signing import forget_key
from daskref.proxy.proxy import Proxy, is_proxy
from daskref.store.factory import StoreFactory
from daskref.store.mapped import Mapped
from daskref.store.metrics import Counters
from daskref.store.store import Store

T = TypeVar("T")

_sessions: dict[str, ClusterStore] = {}
#: Sessions of the parent, in a forked child: never closed there.
_of_parent: list[ClusterStore] = []
_lock = make_rlock()


class ClusterStore:
    """The store of one cluster, as one process sees it.

    :meth:`create` and :meth:`join` return the process's one instance; the last
    :meth:`leave` closes it.
    """

    info: SessionInfo
    store: Store | None
    counters: Counters
    executor: Executor
    _users: int
    inband: InBand

    def __init__(
        self, info: SessionInfo, store: Store | None, counters: Counters
    ) -> None:
        self.info = info
        self.store = store
        self.counters = counters
        # Off the event loop, and apart from Dask's one offload thread: a large put
        # must not hold up the deserialization of messages.
        self.executor = Executor(4, "daskref")
        self._users = 1
        self._next_sweep = 0.0
        self.inband = InBand(counters)
        self._process = uuid.uuid4().hex

    @property
    def reachable(self) -> bool:
        """Whether this process can put and get."""
        return self.store is not None and self.inband.unseen is None

    @property
    def across_hosts(self) -> ZmqConnector | None:
        """The connector, if its hosts do not share memory; else ``None``."""
        connector = None if self.store is None else self.store.connector
        return connector if isinstance(connector, ZmqConnector) else None

    def __repr__(self) -> str:
        return f"<ClusterStore {self.info.id} on {self.store or 'no store in reach'}>"

    @classmethod
    def create(cls, settings: Settings, transport: str = "tls") -> ClusterStore:
        """Open the store that the settings name, as a new session. Blocks.

        Parameters
        ----------
        settings
            The cluster's.
        transport
            ``"tls"`` or ``"clear"``: what ``security_transport`` resolves to.

        Raises
        ------
        ConfigError
            If the connector's spec is malformed.
        ConnectorError
            If the store does not work.
        """
        counters = Counters()
        info, store = begin(settings, transport, counters)
        session = cls(info, store, counters)
        with _lock:
            _sessions[info.id] = session
        export(sessions)
        return session

    @classmethod
    def join(cls, info: SessionInfo) -> ClusterStore:
        """Return this process's part of a session, reachable or not. Blocks.

        Each call tries again to open a store that could not be opened before; earlier
        callers keep their instance without a store.
        """
        with _lock:
            session = _sessions.get(info.id)
            if session is not None and session.store is not None:
                session._users += 1
                return session
            for place, secrets in info.secrets.items():
                remember(place, secrets)
            made = cls(info, None, Counters())
            try:
                made.store = reach(info, made.counters)
            except ConnectorError as exc:
                if session is not None:
                    session._users += 1
                    return session
                made.inband.lose_sight(exc.with_traceback(None))
            _sessions[info.id] = made
        export(sessions)
        return made

    def leave(self) -> None:
        """Give up one use; the last one closes the store in this process. Blocks."""
        with _lock:
            self._users -= 1
            if self._users:
                return
            if _sessions.get(self.info.id) is self:
                del _sessions[self.info.id]
        self.executor.close()
        if self.store is not None:
            self.store.close()
        forget_key(self.info.store.name)

    def put(
        self, obj: Any, encoded: Encoded | None = None, token: str | None = None
    ) -> Reference | None:
        """Put an object, unless the store is unreachable or fails. Blocks.

        Returns ``None`` if the value is to go in-band.

        Parameters
        ----------
        encoded
            The object's serialized form; default: serialized here.
        token
            The object's content hash, kept in the reference.

        Raises
        ------
        ConnectorError
            If the store failed and ``daskref.on-failure`` is ``raise``.
        NotProxiableError
            If the object does not serialize.
        """
        store = self.store if self.reachable else None
        if store is None:
            self.inband.count("unreachable", obj)
        elif not self.inband.has_place:
            self.inband.count("no-host", obj)
        elif on_gpu(obj):
            self.inband.count("gpu", obj)
        else:
            try:
                return store.put_reference(obj, token, encoded)
            except ConnectorError as exc:
                self._failed(exc)
        return None

    def refer(
        self, obj: Any, threshold: int
    ) -> tuple[Reference | Encoded | None, bool]:
        """Put a result whose serialized size exceeds *threshold* bytes. Blocks.

        Returns the reference, the serialized form of a small result, or ``None`` for a
        value to send in-band; and whether the object was put, instead of found in the
        store. Raises ConnectorError if the store failed and ``daskref.on-failure`` is
        ``raise``.
        """
        if on_gpu(obj):
            if getattr(obj, "nbytes", 0) > threshold:
                self.inband.count("gpu", obj)
            return None, False
        if (relinked := self.relink(obj)) is not None:
            return relinked, False
        try:
            encoded = encode(obj, result=True)
        except NotProxiableError:  # Dask has its own error for that
            if safe_sizeof(obj) > threshold:
                self.inband.count("unpicklable", obj)
            return None, False
        if encoded.nbytes <= threshold:
            return encoded, False
        return self.put(obj, encoded), True

    def relink(self, obj: Any, token: str | None = None) -> Reference | None:
        """Return a new reference to an object that came from the store. Blocks."""
        store = self.store
        if store is None or id(obj) not in store.provenance.origins:
            return None
        try:
            return store.provenance.relink(obj, token) if self.reachable else None
        except (ConnectorError, SignatureError):
            return None  # the put that follows raises the reason

    def lend(self, obj: Any, mapped: Sequence[Mapped]) -> Proxy[Any] | None:
        """Return a proxy for a result that lies in stored memory, or ``None``. Blocks.

        The proxy's objects have new keys, known to the caller alone.

        Parameters
        ----------
        obj
            The result.
        mapped
            The memory mapped for its task. Mappings that were freed meanwhile cannot be
            part of the result: for most results, this check is the whole cost.
        """
        threshold, name = self.info.settings.threshold, self.info.store.name
        mapped = [
            each
            for each in mapped
            if each.owner is not None and each.reference.store.name == name
        ]
        if not mapped or not self.reachable or is_small(obj, threshold) or on_gpu(obj):
            return None
        assert self.store is not None
        try:
            return lend(obj, mapped, self.store, threshold)
        except ConnectorError:  # then it is the worker's own
            return None

    def give_up(self, references: Iterable[Reference]) -> None:
        """Evict objects soon that no other process knows. Takes no locks."""
        for reference in references:
            self._evict_soon(reference.key)

    def keep(self, obj: Any, call_soon: Callable[..., Any]) -> None:
        """Keep the stored origin of an object as long as the object lives. Blocks.

        *call_soon*: ``(callable, *args)``: run it on an event loop; thread-safe, takes
        no locks. See :meth:`Provenance.keep`.
        """
        if self.store is not None:
            release = functools.partial(call_soon, self._evict_soon)
            with suppress(ConnectorError):  # it is put again if it is asked for
                self.store.provenance.keep(obj, release)

    def _evict_soon(self, key: Key) -> None:
        if self.store is not None:
            # Kept objects are on this host; no other host has copies.
            if (connector := self.across_hosts) is not None:
                job = functools.partial(connector.evict_here, [key])
            else:
                job = functools.partial(self.store.connector.evict, key)
            with suppress(RuntimeError):  # the session was left: nothing is kept
                self.executor.submit(job)

    def put_once(self, obj: Any) -> Any:
        """Return a large object's transparent proxy, for one reader; else the object.

        For messages: a lease holds the stored object, not a Dask key, until it is read.
        """
        threshold = self.info.settings.threshold
        if is_small(obj, threshold) or is_proxy(obj):
            return obj
        reference, _ = self.refer(obj, threshold)
        if not isinstance(reference, Reference):
            return obj
        try:
            self.lease(reference)
        except ConnectorError as exc:
            self._failed(exc)
            return obj
        return Proxy(StoreFactory(reference, transparent=True, once=True))

    async def run(self, func: Callable[..., T], *args: Any) -> T:
        """Run a blocking function in a thread of the session."""
        return await self.executor.run(func, *args)

    def lease(self, reference: Reference) -> None:
        """Give an object that no Dask key holds a lease. Blocks.

        From time to time this sweeps expired leases, since there may be no scheduler.
        """
        assert self.store is not None
        connector, seconds = self.store.connector, self.info.settings.lease
        connector.renew(reference.key, seconds)
        self.counters.add("bytes_kept", reference.nbytes)
        if time.monotonic() > self._next_sweep:
            self._next_sweep = time.monotonic() + seconds / 2
            self.counters.add("evictions", len(connector.sweep()))

    def report(self) -> dict[str, Any]:
        """Return this process's identity, host name and counts."""
        counts = self.counters.snapshot()
        if self.store is not None:
            counts["fallbacks"] += self.store.connector.overflows
        return {
            "process": self._process,
            "host": socket.gethostname(),
            "inband": self.counters.inband(),
            **counts,
        }

    def stored(self) -> dict[str, Any]:
        """Return what the store has on this host, for :func:`summarize`. Blocks.

        ``"seconds"`` is the CPU time of the look. Raises NotImplementedError if the
        connector cannot count its objects, ConnectorError if it does not answer.
        """
        assert self.store is not None
        connector = self.store.connector
        begin = time.thread_time()
        usage = connector.usage()
        probes = len(self.info.probes)
        return {
            "place": "" if self.across_hosts is None else self.across_hosts.host,
            "host": socket.gethostname(),
            "objects": usage.objects - probes,
            "bytes": usage.nbytes - probes * len(PROBE),
            **connector.space()._asdict(),
            "seconds": time.thread_time() - begin,
        }

    def _failed(self, exc: DaskrefError) -> None:
        if self.info.settings.on_failure == "raise":
            raise exc
        self.inband.fail(exc)


@run_in_child
def _forget() -> None:
    """Leave all sessions in a forked child; the parent stays in them."""
    _of_parent.extend(_sessions.values())
    _sessions.clear()


def sessions() -> list[ClusterStore]:
    """Return the sessions that this process has joined."""
    with _lock:
        return list(_sessions.values())
