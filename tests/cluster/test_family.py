"""The serialization family by itself, and proxies in Dask's own."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import dask
import distributed
import numpy as np
import pytest
from dask.sizeof import sizeof
from distributed import LocalCluster
from distributed.protocol import deserialize, serialize
from distributed.protocol.serialize import (
    deserialize_bytes,
    families,
    serialize_bytes,
)

from daskref.cluster import family, session
from daskref.cluster.family import VERSION, dumps, loads, register_family
from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.exceptions import ConnectorError, WireError
from daskref.proxy import Proxy, extract, get_factory, is_proxy, is_resolved
from daskref.store import Store
from daskref.store import _registry as stores
from daskref.store.factory import StoreFactory
from daskref.store.registry import get_or_create_store
from tests.support.common import large, wait_until

FAMILIES = ["daskref", "dask", "pickle"]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let the family make a session of this process's own, and end it."""
    register_family()
    # a cluster that other tests share may run its scheduler in this process
    monkeypatch.setattr(session, "_sessions", {})
    assert family._own_session is None
    before = set(stores._registry)
    yield lambda: family._own_session
    gc.collect()
    # those of other processes' sessions stay open for as long as this process lives
    for name in set(stores._registry) - before:
        stores._registry[name].close()
    if family._own_session is not None:
        family._own_session.leave()
        family._own_session = None


@pytest.fixture
def local(own: Any) -> Iterator[Any]:
    with dask.config.set({"daskref.connector": "local://"}):
        yield own


class TestDumps:
    def test_a_large_value_is_a_header_without_frames(self, local: Any) -> None:
        x = large()
        header, frames = dumps(x)
        assert frames == []
        assert header["version"] == VERSION
        assert header["type"] == "numpy.ndarray"
        assert header["nbytes"] >= x.nbytes
        assert header["hash"] is None
        assert len(pickle.dumps(header)) < 2000
        session = local()
        assert session.store.exists(tuple(header["key"]))
        assert session.counters.snapshot()["bytes_kept"] >= x.nbytes

    @pytest.mark.parametrize("x", [1, None, "x", b"x" * 1000, np.ones(1000), [1, 2]])
    def test_a_small_value_is_declined(self, local: Any, x: Any) -> None:
        with pytest.raises(NotImplementedError):
            dumps(x)
        assert local() is None  # no session is made for that

    def test_the_threshold_is_the_configured_one(self, local: Any) -> None:
        with dask.config.set({"daskref.threshold": 100}):
            assert dumps(np.ones(1000))[1] == []
        with pytest.raises(NotImplementedError):
            dumps(np.ones(1000))

    def test_what_does_not_serialize_is_declined(self, local: Any) -> None:
        class Large:
            lock = threading.Lock()

            def __sizeof__(self) -> int:
                return 1 << 30

        with pytest.raises(NotImplementedError):
            dumps([threading.Lock(), large()])

    def test_never_on_an_event_loop(self, local: Any) -> None:
        async def main() -> None:
            with pytest.raises(NotImplementedError):
                dumps(large())

        asyncio.run(main())
        assert local() is None

    def test_a_store_that_fails_is_a_decline(
        self, local: Any, monkeypatch: Any, caplog: Any
    ) -> None:
        _fail(monkeypatch)
        header, _ = serialize(large(), serializers=FAMILIES)
        assert header["serializer"] == "dask"
        assert local().counters.snapshot()["fallbacks"] == 1
        assert "no room" in caplog.text

    def test_or_an_error_if_so_configured(self, local: Any, monkeypatch: Any) -> None:
        _fail(monkeypatch)
        with (
            dask.config.set({"daskref.on-failure": "raise"}),
            pytest.raises(ConnectorError, match="no room"),
        ):
            dumps(large())

    def test_into_the_clusters_session_if_there_is_one(self, local: Any) -> None:
        session = ClusterStore.create(Settings.read(connector="local://"))
        try:
            header, _ = dumps(large())
            assert session.store.exists(tuple(header["key"]))  # type: ignore[union-attr]
            assert local() is None
            received = loads(header, [])
            assert get_factory(received).transparent  # the one reader gets the value
            other = ClusterStore.create(Settings.read(connector="local://"))
            try:
                with pytest.raises(NotImplementedError):  # which of the two?
                    dumps(large())
            finally:
                other.leave()
        finally:
            session.leave()


def _fail(monkeypatch: Any) -> None:
    from daskref.connectors import LocalConnector

    def fail(self: Any, frames: Any) -> Any:
        if sum(memoryview(frame).nbytes for frame in frames) > 1000:
            raise ConnectorError("<local>", "no room")
        return original(self, frames)

    original = LocalConnector.put_frames
    monkeypatch.setattr(LocalConnector, "put_frames", fail)


class TestLoads:
    def test_a_proxy_and_no_store_is_touched(self, local: Any) -> None:
        x = large()
        header, frames = dumps(x)
        before = local().counters.snapshot()["gets"]
        proxy = loads(header, frames)
        assert is_proxy(proxy)
        assert not is_resolved(proxy)
        assert isinstance(proxy, np.ndarray)
        assert proxy.shape == x.shape
        assert local().counters.snapshot()["gets"] == before
        np.testing.assert_array_equal(proxy, x)
        del proxy
        gc.collect()

    def test_in_a_process_that_cannot_reach_the_store(self, local: Any) -> None:
        header, _ = dumps(large())
        factory = pickle.loads(header["factory"])
        reference = factory.reference
        gone = reference.store._replace(name="gone", options=(("id", "gone"),))
        reference = type(reference)(reference.key, gone, reference.metadata)
        header["factory"] = pickle.dumps(StoreFactory(reference))
        proxy = loads(header, [])  # still touches nothing
        with pytest.raises(Exception, match="cannot reach its store"):
            extract(proxy)
        del proxy
        gc.collect()

    @pytest.mark.parametrize(
        "change",
        [
            {"version": VERSION + 1},
            {"version": None},
            {"version": "1"},
            {"factory": b"not a pickle"},
            {"factory": b""},
            {"factory": None},
            {"factory": pickle.dumps(5)},
        ],
        ids=repr,
    )
    def test_a_header_of_a_newer_version_or_damaged(
        self, local: Any, change: Any
    ) -> None:
        header, _ = dumps(large())
        with pytest.raises(WireError) as caught:
            loads({**header, **change}, [])
        if change == {"version": VERSION + 1}:
            assert "use the same daskref on all processes" in str(caught.value)

    @pytest.mark.parametrize("field", ["version", "factory"])
    def test_a_header_without_a_field(self, local: Any, field: str) -> None:
        header, _ = dumps(large())
        del header[field]
        with pytest.raises(WireError):
            loads(header, [])

    def test_fields_of_a_later_minor_change_are_ignored(self, local: Any) -> None:
        header, _ = dumps(large())
        assert is_proxy(loads({**header, "colour": "blue"}, []))
        gc.collect()


class TestThroughDask:
    def test_by_name(self, local: Any) -> None:
        x = large()
        header, frames = serialize(x, serializers=FAMILIES)
        assert header["serializer"] == "daskref"
        assert not frames
        np.testing.assert_array_equal(deserialize(header, frames), x)
        header, frames = serialize(np.ones(10), serializers=FAMILIES)
        assert header["serializer"] == "dask"
        gc.collect()

    def test_inside_containers(self, local: Any) -> None:
        data = serialize_bytes([large(), 1], serializers=FAMILIES)
        assert len(data) < 5000
        assert deserialize_bytes(data)[1] == 1
        gc.collect()

    def test_proxies_go_as_their_reference_again(self, local: Any) -> None:
        proxy = loads(*dumps(large()))
        for names in (FAMILIES, ["dask"], ["pickle"], ["dask", "pickle"]):
            header, frames = serialize(proxy, serializers=names)
            again = deserialize(header, frames)
            assert not is_resolved(again)
            assert get_factory(again).reference == get_factory(proxy).reference
            assert sum(map(len, frames), len(pickle.dumps(header))) < 5000
        assert not is_resolved(proxy)
        assert local().counters.snapshot()["puts"] == 1
        del proxy, again
        gc.collect()


class TestProxiesInDasksOwnFamily:
    def test_of_a_store(self, local: Any) -> None:
        from daskref.connectors import LocalConnector

        with Store("family", LocalConnector(), register=True) as users:
            proxy = users.proxy(np.arange(10))
            header, frames = serialize(proxy, serializers=["dask"])
            assert header["serializer"] == "dask"
            again = deserialize(header, frames)
            assert not is_resolved(again)
            assert again.shape == (10,)
            np.testing.assert_array_equal(again, np.arange(10))
            assert not is_resolved(deserialize(header, frames))
            del again
            gc.collect()

    def test_of_a_factory_of_the_users(self, own: Any) -> None:
        header, frames = serialize(Proxy(dict), serializers=["dask"])
        assert header["serializer"] == "dask"
        assert deserialize(header, frames) == {}
        header, frames = serialize(Proxy(dict), serializers=FAMILIES)
        assert header["serializer"] != "daskref"
        assert deserialize(header, frames) == {}

    def test_a_factory_that_does_not_pickle_with_pickle(self, own: Any) -> None:
        header, frames = serialize(
            Proxy(lambda: [1]), serializers=["dask", "pickle"], on_error="raise"
        )
        assert deserialize(header, frames) == [1]

    def test_sizes(self, own: Any) -> None:
        proxy: Any = Proxy(lambda: large())
        assert sizeof(proxy) < 2000
        extract(proxy)
        assert sizeof(proxy) >= large().nbytes

    def test_registration_is_idempotent(self, own: Any) -> None:
        before = families["daskref"]
        register_family()
        assert families["daskref"] is before


class TestLeases:
    def test_renewed_while_the_receiver_holds_the_proxy(
        self, local: Any, monkeypatch: Any
    ) -> None:
        from daskref.cluster import _leases as leases

        monkeypatch.setattr(leases, "_keeper", None)
        with dask.config.set({"daskref.lease": "300ms"}):
            header, frames = dumps(large())
            proxy = loads(header, frames)
        reference = get_factory(proxy).reference
        connector: Any = get_or_create_store(reference.store).connector
        key = reference.key
        renewed: list[Any] = []
        renew = connector.renew
        monkeypatch.setattr(
            connector, "renew", lambda *args: (renew(*args), renewed.append(args[0]))
        )
        wait_until(lambda: renewed.count(key) > 2)  # in less than one lease
        assert connector.sweep() == []
        del proxy
        gc.collect()
        assert wait_until(connector.sweep, "the lease's end") == [key]

    def test_of_what_nobody_receives(self, local: Any) -> None:
        with dask.config.set({"daskref.lease": "30ms"}):
            header, _ = dumps(large())
        connector: Any = local().store.connector
        assert wait_until(connector.sweep) == [tuple(header["key"])]


class Echo:
    """An actor."""

    def echo(self, x: Any) -> Any:
        return x


@pytest.mark.slow
def test_a_plain_client_that_names_the_family(own: Any) -> None:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(
            cluster, serializers=FAMILIES, deserializers=[*FAMILIES, "error"]
        ) as client,
    ):
        x = np.arange(4 << 20, dtype=float)  # 32 MiB
        moved = _moved(client)
        future = client.scatter(x)
        assert client.submit(float, client.submit(np.sum, future)).result() == x.sum()
        assert client.submit(_look, future).result() == (True, x.shape)
        found = client.gather(future)
        np.testing.assert_array_equal(found, x)
        # gathered through the scheduler, put by the worker
        made = client.submit(np.ones, 4 << 20)
        ones = made.result()
        assert float(ones.sum()) == 4 << 20
        assert _moved(client) - moved < 1 << 20
        # small values come as they are
        assert type(client.submit(np.ones, 10).result()) is np.ndarray
        assert client.gather(client.scatter([1, "x"])) == [1, "x"]
        actor = client.submit(Echo, actor=True).result()
        np.testing.assert_array_equal(actor.echo(x).result(), x)
        del future, found, made, ones, actor
        gc.collect()


def _look(x: Any) -> Any:
    return isinstance(x, np.ndarray), x.shape


def _moved(client: Any) -> int:
    from daskref.demo.traffic import connections

    def read(dask_scheduler: Any) -> int:
        return sum(each.received for each in connections().values())

    return int(client.run_on_scheduler(read))
