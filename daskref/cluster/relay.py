"""Stored objects in Dask's messages, for processes that cannot reach the store."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from distributed.protocol.serialize import to_serialize

from daskref.cluster.session import ClusterStore
from daskref.connectors.base import Connector, Key
from daskref.exceptions import ConnectorUnavailableError

if TYPE_CHECKING:
    from distributed.worker import Worker


async def fetch(session: ClusterStore, key: Key) -> dict[str, Any]:
    """Read a stored object, to be sent in-band.

    Returns
    -------
    dict
        ``"data"``: the bytes, not copied; ``None`` if there is no such object, or this
        process cannot reach the store.
    """
    store = session.store
    data = None
    if store is not None:
        data = await session.run(store.connector.get, tuple(key))
    return {"status": "OK", "data": None if data is None else to_serialize(data)}


class RelayConnector(Connector):
    """The store of a worker that cannot reach it: other processes read on its behalf.

    Parameters
    ----------
    worker
        Its connections are used.
    timeout
        Seconds for one object.
    """

    def __init__(self, worker: Worker, timeout: float) -> None:
        self._worker = worker
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<RelayConnector of {self._worker.address}>"

    def get(self, key: Key) -> memoryview | None:
        """Ask workers that reach the store, then the scheduler. Copies."""
        future = asyncio.run_coroutine_threadsafe(
            self._fetch(key), self._worker.loop.asyncio_loop
        )
        try:
            data = future.result(self._timeout)
        except TimeoutError as exc:
            future.cancel()
            raise ConnectorUnavailableError(
                repr(self), f"nobody sent {key!r} within {self._timeout} s"
            ) from exc
        return None if data is None else memoryview(bytearray(data))

    async def _fetch(self, key: Key) -> Any:
        peers = await self._worker.scheduler.daskref_reachable()
        for address in random.sample(peers, min(len(peers), 3)):
            try:
                response = await self._worker.rpc(address).daskref_fetch(key=key)
            except OSError:
                continue  # it is just leaving
            if response["data"] is not None:
                return response["data"]
        response = await self._worker.scheduler.daskref_fetch(key=key)
        return response["data"]

    def put_frames(self, frames: Any) -> Key:
        """Refuse: the value goes in-band."""
        raise ConnectorUnavailableError(repr(self), "it only reads")

    def exists(self, key: Key) -> bool:
        """Tell whether the object exists; transfers its bytes."""
        return self.get(key) is not None

    def evict(self, key: Key) -> None:
        """Tell the scheduler that the object's only reader has it."""
        worker = self._worker
        message = {"op": "daskref-read", "object": key}
        worker.loop.add_callback(worker.batched_send, message)

    def config(self) -> dict[str, Any]:
        """Return nothing: only this process can use the connector."""
        return {}

    def close(self) -> None:
        """Do nothing: the worker owns the connections."""
