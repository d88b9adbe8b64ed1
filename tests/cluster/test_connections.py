"""Connections of a process that has a session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from distributed.core import ConnectionPool, PooledRPCCall, Server
from distributed.protocol.serialize import Serialize, to_serialize

from daskref.cluster.connections import FAMILY, Connections, without_family
from daskref.cluster.family import register_family
from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.proxy import is_proxy
from daskref.store.factory import is_transparent, reveal
from tests.support.common import large


@pytest.fixture
def session() -> Iterator[ClusterStore]:
    register_family()
    session = ClusterStore.create(Settings.read(connector="local://"))
    yield session
    session.leave()


def state(obj: Any) -> Any:
    return type(obj), obj.serializers, obj.deserializers, "_session" in vars(obj)


class TestConnections:
    @pytest.mark.parametrize(
        "names", [None, ["dask", "pickle"], ["dask", "msgpack"]], ids=str
    )
    def test_attach_and_restore(self, session: ClusterStore, names: Any) -> None:
        async def main() -> None:
            pool = ConnectionPool(serializers=names, deserializers=names)
            call = pool("tcp://127.0.0.1:1")
            before = state(pool), state(call)
            connections = Connections(pool, call, session)
            for obj in (pool, call, pool("tcp://127.0.0.1:2")):
                assert obj.serializers[0] == FAMILY
                assert obj.serializers[1:] == (names or ["dask", "pickle"])
                assert obj.deserializers[0] == FAMILY
                assert obj.deserializers[-1] == "error"
            assert isinstance(call, PooledRPCCall)
            assert isinstance(pool, ConnectionPool)
            connections.restore()
            assert (state(pool), state(call)) == before
            assert type(pool("tcp://127.0.0.1:3")) is PooledRPCCall
            await pool.close()

        asyncio.run(main())

    def test_twice(self, session: ClusterStore) -> None:
        # a client in the process of its worker may share its pool
        async def main() -> None:
            pool = ConnectionPool()
            call = pool("tcp://127.0.0.1:1")
            before = state(pool), state(call)
            first = Connections(pool, call, session)
            between = state(pool), state(call)
            second = Connections(pool, call, session)
            assert (state(pool), state(call)) == between
            second.restore()
            assert type(pool) is between[0][0]
            first.restore()
            assert (state(pool), state(call)) == before
            await pool.close()

        asyncio.run(main())

    def test_a_scheduler_in_the_same_process_is_no_connection(
        self, session: ClusterStore
    ) -> None:
        class Direct:
            """As a client of a scheduler in the same process may have."""

        async def main() -> None:
            pool, direct = ConnectionPool(), Direct()
            Connections(pool, direct, session).restore()
            assert not vars(direct)
            await pool.close()

        asyncio.run(main())


def test_other_families_stay() -> None:
    assert without_family(["daskref", "dask", "msgpack"]) == ["dask", "msgpack"]
    assert without_family(["daskref"]) == ["dask", "pickle"]


class Recorder(Server):
    """Notes what comes in, and echoes it."""

    def __init__(self, session: ClusterStore) -> None:
        super().__init__({"actor_execute": self.execute, "proxy": self.forward})
        self.session = session
        self.seen: list[Any] = []

    async def execute(self, args: Any = (), kwargs: Any = None, **_: Any) -> Any:
        self.seen += [*args, *(kwargs or {}).values()]
        result = await self.session.run(reveal, args[0]) if args else None
        return {"status": "OK", "result": to_serialize(result)}

    async def forward(self, msg: Any = None, **_: Any) -> Any:
        return await self.execute(**msg)


class TestCalls:
    def run(self, session: ClusterStore, call: Any) -> Any:
        """Run ``async (rpc) -> result`` against a server; tell what the server saw."""

        async def main() -> Any:
            server = Recorder(session)
            await server.listen("tcp://127.0.0.1")
            pool = ConnectionPool()
            await pool.start()
            Connections(pool, None, session)
            try:
                return await call(pool(server.address)), server.seen
            finally:
                await pool.close()
                await server.close()

        return asyncio.run(main())

    def test_large_arguments_go_by_reference_and_results_are_values(
        self, session: ClusterStore
    ) -> None:
        x = large()

        async def call(rpc: Any) -> Any:
            args, kwargs = [Serialize(x), Serialize(1)], {"y": Serialize(x)}
            return await rpc.actor_execute(args=args, kwargs=kwargs)

        response, (first, second, third) = self.run(session, call)
        assert is_transparent(first)
        assert second == 1
        assert is_transparent(third)
        assert type(response["result"]) is np.ndarray
        assert session.counters.snapshot()["puts"] >= 2

    def test_through_the_scheduler(self, session: ClusterStore) -> None:
        x = large()
        message = {"op": "actor_execute", "args": [Serialize(x)], "kwargs": {}}

        async def call(rpc: Any) -> Any:
            return await rpc.proxy(worker="tcp://127.0.0.1:1", msg=message)

        response, (seen,) = self.run(session, call)
        assert is_transparent(seen)
        assert type(response["result"]) is np.ndarray
        assert message["args"][0].data is x  # the caller's is not changed

    def test_small_arguments_stay(self, session: ClusterStore) -> None:
        async def call(rpc: Any) -> Any:
            return await rpc.actor_execute(args=[Serialize(np.ones(10))], kwargs={})

        response, (seen,) = self.run(session, call)
        assert not is_proxy(seen)
        assert type(response["result"]) is np.ndarray
        assert session.counters.snapshot()["puts"] == 0

    def test_no_arguments(self, session: ClusterStore) -> None:
        async def call(rpc: Any) -> Any:
            return await rpc.actor_execute(args=(), kwargs={})

        response, seen = self.run(session, call)
        assert response["result"] is None
        assert seen == []
