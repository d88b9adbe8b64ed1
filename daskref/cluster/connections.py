"""Connections of a process in a session: values by reference, short batching delays.

For all but the largest messages, Dask calls a serialization family on the event loop,
where a put would block. Actor calls are therefore converted in a thread before they are
written.

A batched stream sends its first message at once and holds back what follows within an
interval. For a small round trip, these intervals are most of the time. They also let
batches grow under load; that stays: a stream that is busy for longer than its interval
sends all waiting messages at once.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==============================  =====================================================
name                            what for
==============================  =====================================================
``core.PooledRPCCall``          calls through a pool: ``proxy``, ``actor_execute``
``core.ConnectionPool``         its ``serializers``, ``deserializers``
``BatchedSend.interval``        how long a stream holds messages back, in seconds
==============================  =====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from distributed.core import ConnectionPool, PooledRPCCall
from distributed.protocol.serialize import Serialize

from daskref.cluster.session import ClusterStore
from daskref.store.factory import reveal

#: The family's name.
FAMILY = "daskref"
_DEFAULT = ("dask", "pickle")


class _RPC(PooledRPCCall):  # type: ignore[misc]
    """Calls whose arguments go by reference and whose results come as values."""

    _session: ClusterStore

    async def actor_execute(self, **kwargs: Any) -> Any:
        return await self._call("actor_execute", kwargs, kwargs)

    async def actor_attribute(self, **kwargs: Any) -> Any:
        return await self._call("actor_attribute", kwargs, kwargs)

    async def proxy(self, *, msg: dict[str, Any], **kwargs: Any) -> Any:
        return await self._call("proxy", {"msg": msg, **kwargs}, msg)

    async def scatter(self, **kwargs: Any) -> Any:
        return await self._send("scatter", kwargs)

    async def update_data(self, **kwargs: Any) -> Any:
        return await self._send("update_data", kwargs)

    async def _send(self, op: str, kwargs: dict[str, Any]) -> Any:
        # Values stay values: the family would put them again.
        kwargs.setdefault("serializers", without_family(self.serializers))
        # PooledRPCCall makes its calls in __getattr__
        return await super().__getattr__(op)(**kwargs)

    async def _call(
        self, op: str, kwargs: dict[str, Any], message: dict[str, Any]
    ) -> Any:
        session = self._session
        if message.get("args") or message.get("kwargs"):
            args = await session.run(_refer_all, session, message.get("args") or ())
            named = message.get("kwargs") or {}
            values = await session.run(_refer_all, session, list(named.values()))
            changed = {"args": args, "kwargs": dict(zip(named, values, strict=True))}
            if kwargs is message:
                kwargs = {**kwargs, **changed}
            else:
                kwargs = {**kwargs, "msg": {**message, **changed}}
        response = await self._send(op, {**kwargs})
        if isinstance(response, dict) and "result" in response:
            response["result"] = await session.run(reveal, response["result"])
        return response


def _refer_all(session: ClusterStore, args: Sequence[Any]) -> list[Any]:
    return [
        Serialize(session.put_once(arg.data)) if isinstance(arg, Serialize) else arg
        for arg in args
    ]


class _Pool(ConnectionPool):  # type: ignore[misc]
    _session: ClusterStore

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = super().__call__(*args, **kwargs)
        return _attach_call(call, self._session)


def _attach_call(call: Any, session: ClusterStore) -> Any:
    if type(call) is PooledRPCCall:
        call.__class__ = _RPC
        call._session = session
        call.serializers = _with_family(call.serializers)
        call.deserializers = _with_family(call.deserializers, "error")
    return call


def _with_family(names: Sequence[str] | None, *more: str) -> list[str]:
    """Return family names with the family first, and *more* at the end."""
    return list(dict.fromkeys([FAMILY, *(names or _DEFAULT), *more]))


def without_family(names: Sequence[str]) -> list[str]:
    """Return the other families; Dask's own if there are none."""
    return [name for name in names if name != FAMILY] or list(_DEFAULT)


class Connections:
    """A client's or worker's connections, changed to use the session until restored.

    *scheduler*: the connection to the scheduler, made from *pool* earlier.
    """

    def __init__(self, pool: Any, scheduler: Any, session: ClusterStore) -> None:
        self._before = [
            (obj, obj.__class__, obj.serializers, obj.deserializers)
            for obj in (pool, scheduler)
            if isinstance(obj, ConnectionPool | PooledRPCCall)
        ]
        _attach_call(scheduler, session)
        pool.serializers = _with_family(pool.serializers)
        pool.deserializers = _with_family(pool.deserializers, "error")
        if type(pool) is ConnectionPool:
            pool.__class__ = _Pool
            pool._session = session

    def restore(self) -> None:
        """Restore the connections."""
        for obj, cls, serializers, deserializers in self._before:
            obj.__class__ = cls
            obj.serializers, obj.deserializers = serializers, deserializers
            obj.__dict__.pop("_session", None)


class Streams:
    """Batched streams whose interval is at most *latency* seconds; ``"dask"``: as is.

    For the thread of the event loop.
    """

    def __init__(self, latency: float | str) -> None:
        self._latency = latency
        #: Stream -> its own interval.
        self._before: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def shorten(self, stream: Any) -> None:
        """Shorten a stream's interval; silent for ``None``, or a second time."""
        if stream is None or stream in self._before or self._latency == "dask":
            return
        self._before[stream] = stream.interval
        stream.interval = min(stream.interval, self._latency)

    def restore(self, stream: Any) -> None:
        """Restore a stream's interval; silent if it was not shortened."""
        if stream in self._before:
            stream.interval = self._before.pop(stream)

    def restore_all(self) -> None:
        """Restore the intervals of all streams."""
        for stream in list(self._before):
            self.restore(stream)
