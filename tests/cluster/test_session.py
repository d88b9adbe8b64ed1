"""What one process has of a cluster's store."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from daskref.cluster.opening import open_session_connector
from daskref.cluster.session import ClusterStore, sessions
from daskref.config import Settings
from daskref.connectors import (
    LocalConnector,
    SharedMemoryConnector,
    ZmqConnector,
)
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorError,
    NotProxiableError,
)
from daskref.objects.reference import StoreConfig
from daskref.proxy import get_factory, is_proxy
from daskref.store.factory import is_transparent, reveal
from daskref.store.registry import get_store

LARGE = np.ones(1 << 18)


def settings(**overrides: Any) -> Settings:
    return Settings.read(connector="local://", **overrides)


@pytest.fixture
def session() -> Iterator[ClusterStore]:
    session = ClusterStore.create(settings())
    yield session
    session.leave()


def unreachable(session: ClusterStore) -> Any:
    """Return the session's description as another host would have it."""
    store = StoreConfig("elsewhere", session.info.store.connector, (("id", "no"),))
    return dataclasses.replace(session.info, id="elsewhere", store=store)


class TestLife:
    def test_create_and_leave(self) -> None:
        session = ClusterStore.create(settings())
        assert session in sessions()
        assert session.reachable
        assert get_store(session.info.store.name) is session.store
        session.leave()
        assert session not in sessions()
        assert get_store(session.info.store.name) is None
        with pytest.raises(ConnectorClosedError):
            session.store.put(1)  # type: ignore[union-attr]

    def test_one_per_process_the_last_to_leave_closes_it(
        self, session: ClusterStore
    ) -> None:
        info = pickle.loads(pickle.dumps(session.info))
        assert ClusterStore.join(info) is session
        assert ClusterStore.join(info) is session
        session.leave()
        session.leave()
        assert session.put(LARGE) is not None

    def test_joining_opens_the_store(self, session: ClusterStore) -> None:
        # as another process would
        info = dataclasses.replace(session.info, id="again")
        other = ClusterStore.join(info)
        try:
            assert other is not session
            assert other.reachable
            reference = session.put(LARGE)
            assert other.store.get_reference(reference)[0] == 1  # type: ignore[union-attr,arg-type]
        finally:
            other.leave()

    def test_threads_that_join_at_once(self, session: ClusterStore) -> None:
        info = dataclasses.replace(session.info, id="threads")
        start = threading.Barrier(8, timeout=10)

        def join(_: int) -> ClusterStore:
            start.wait()
            return ClusterStore.join(info)

        with ThreadPoolExecutor(8) as executor:
            joined = list(executor.map(join, range(8)))
        assert len(set(joined)) == 1
        for each in joined:
            assert each.reachable
            each.leave()
        assert joined[0] not in sessions()

    def test_a_store_that_does_not_work(self) -> None:
        with pytest.raises(ConfigError):
            ClusterStore.create(Settings.read(connector="shmm://"))
        with pytest.raises(ConnectorError):
            ClusterStore.create(Settings.read(connector="file:///proc/no/such/place"))
        assert not [s for s in sessions() if "proc" in repr(s)]

    def test_a_store_that_fails_at_once_is_closed(self, monkeypatch: Any) -> None:
        closed = []

        def fail(self: Any, frames: Any) -> Any:
            raise ConnectorError("<local>", "it is full")

        monkeypatch.setattr(LocalConnector, "put_frames", fail)
        monkeypatch.setattr(LocalConnector, "close", lambda self: closed.append(self))
        before = sessions()
        with pytest.raises(ConnectorError, match="full"):
            ClusterStore.create(settings())
        assert len(closed) == 1
        assert sessions() == before


class TestOutOfReach:
    def test_joins_with_one_warning_and_puts_nothing(
        self, session: ClusterStore, caplog: Any
    ) -> None:
        with caplog.at_level(logging.WARNING, "daskref"):
            other = ClusterStore.join(unreachable(session))
        try:
            (record,) = caplog.records
            assert "in-band" in record.getMessage()
            assert not other.reachable
            assert other.put(LARGE) is None
            assert other.relink(LARGE) is None
            assert other.put_once(LARGE) is LARGE
            assert "no store in reach" in repr(other)
            assert get_store("elsewhere") is None
        finally:
            other.leave()

    def test_another_store_at_the_same_place(self, session: ClusterStore) -> None:
        # reachable by its path, but not what the scheduler wrote into
        session.store.evict(session.info.probes[0])  # type: ignore[union-attr]
        other = ClusterStore.join(dataclasses.replace(session.info, id="again"))
        try:
            assert not other.reachable
        finally:
            other.leave()


class TestPut:
    def test_a_reference(self, session: ClusterStore) -> None:
        reference = session.put(LARGE, token="token")
        assert reference is not None
        assert reference.metadata.token == "token"
        assert session.store.get_reference(reference)[0] == 1  # type: ignore[union-attr]

    def test_what_does_not_serialize(self, session: ClusterStore) -> None:
        with pytest.raises(NotProxiableError):
            session.put(threading.Lock())
        assert session.counters.snapshot()["fallbacks"] == 0

    def test_arrays_on_other_devices_stay_with_dask(
        self, session: ClusterStore
    ) -> None:
        class OnDevice:
            __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012

        assert session.put(OnDevice()) is None

    def test_a_failure_is_counted_and_told_once(
        self, session: ClusterStore, monkeypatch: Any, caplog: Any
    ) -> None:
        def fail(self: Any, frames: Any) -> Any:
            raise ConnectorError("<local>", "no room for an object of 9 B")

        monkeypatch.setattr(LocalConnector, "put_frames", fail)
        with caplog.at_level(logging.WARNING, "daskref"):
            assert session.put(LARGE) is None
            assert session.put(LARGE) is None
            assert session.put_once(LARGE) is LARGE
        (record,) = caplog.records
        assert "no room for an object" in record.getMessage()
        assert "on-failure" in record.getMessage()
        assert session.counters.snapshot()["fallbacks"] == 3

    def test_the_first_failure_is_an_event_of_the_process(
        self, session: ClusterStore, monkeypatch: Any
    ) -> None:
        def fail(self: Any, frames: Any) -> Any:
            raise ConnectorError("<local>", "it is full")

        monkeypatch.setattr(LocalConnector, "put_frames", fail)
        first: list[Any] = []
        second: list[Any] = []
        undo = session.inband.listen(first.append)
        session.inband.listen(second.append)
        session.put(LARGE)
        session.put(LARGE)
        (event,) = first
        assert event["action"] == "fallback"
        assert "it is full" in event["reason"]
        undo()
        session.inband.lose_sight(ConnectorError("<local>", "it is away"))
        assert len(first) == 1
        assert [each["action"] for each in second] == ["unreachable"]

    def test_a_failure_of_the_drivers_own(
        self, session: ClusterStore, monkeypatch: Any
    ) -> None:
        def fail(self: Any, frames: Any) -> Any:
            raise OSError("broken pipe")

        monkeypatch.setattr(LocalConnector, "put_frames", fail)
        assert session.put(LARGE) is None
        assert session.counters.snapshot()["fallbacks"] == 1

    def test_on_failure_raise(self, monkeypatch: Any) -> None:
        session = ClusterStore.create(settings(on_failure="raise"))

        def fail(self: Any, frames: Any) -> Any:
            raise ConnectorError("<local>", "it is full")

        monkeypatch.setattr(LocalConnector, "put_frames", fail)
        try:
            with pytest.raises(ConnectorError, match="it is full"):
                session.put(LARGE)
        finally:
            session.leave()

    @pytest.mark.parametrize("method", ["get", "link"])
    def test_a_store_that_fails_to_link_is_put_to(
        self, session: ClusterStore, monkeypatch: Any, method: str
    ) -> None:
        reference = session.put(LARGE)
        found = session.store.get_reference(reference)  # type: ignore[union-attr,arg-type]

        def fail(self: Any, key: Any) -> Any:
            raise ConnectorError("<local>", "it is away")

        monkeypatch.setattr(LocalConnector, method, fail)
        assert session.relink(found) is None
        session.keep(found, lambda *args: None)

    def test_a_lease_that_fails(self, session: ClusterStore, monkeypatch: Any) -> None:
        def fail(self: Any, key: Any, seconds: float) -> Any:
            raise ConnectorError("<local>", "it is away")

        monkeypatch.setattr(LocalConnector, "renew", fail)
        assert session.put_once(LARGE) is LARGE
        assert session.counters.snapshot()["fallbacks"] == 1


class TestPutOnce:
    def test_one_reader(self, session: ClusterStore) -> None:
        proxy = session.put_once(LARGE)
        assert is_transparent(proxy)
        key = get_factory(proxy).reference.key
        assert session.store.exists(key)  # type: ignore[union-attr]
        received = pickle.loads(pickle.dumps(proxy))
        np.testing.assert_array_equal(reveal(received), LARGE)
        assert not session.store.exists(key)  # type: ignore[union-attr]
        assert session.counters.snapshot()["bytes_kept"] >= LARGE.nbytes

    def test_small_values_and_what_does_not_serialize_stay(
        self, session: ClusterStore
    ) -> None:
        for obj in (1, "x", np.ones(10), threading.Lock()):
            assert session.put_once(obj) is obj

    def test_proxies_are_small(self, session: ClusterStore) -> None:
        proxy = session.put_once(LARGE)
        assert session.put_once(proxy) is proxy

    def test_an_object_that_nobody_reads_ends_with_its_lease(self) -> None:
        session = ClusterStore.create(settings(lease=0.05))
        try:
            key = get_factory(session.put_once(LARGE)).reference.key
            connector: Any = session.store.connector  # type: ignore[union-attr]
            from tests.support.common import wait_until

            assert wait_until(lambda: connector.sweep(session.info.probes)) == [key]
            assert session.store.exists(session.info.probes[0])  # type: ignore[union-attr]
        finally:
            session.leave()

    def test_what_came_from_the_store_is_linked(self, session: ClusterStore) -> None:
        reference = session.put(LARGE)
        found = session.store.get_reference(reference)  # type: ignore[union-attr,arg-type]
        proxy = session.put_once(found)
        assert is_proxy(proxy)
        assert session.counters.snapshot()["puts"] == 1
        reveal(proxy)
        assert session.store.exists(reference.key)  # type: ignore[union-attr]


def test_run_is_off_the_event_loop(session: ClusterStore) -> None:
    async def main() -> Any:
        return await session.run(threading.current_thread)

    assert asyncio.run(main()) is not threading.current_thread()


def test_report(session: ClusterStore) -> None:
    session.put(LARGE)
    report = session.report()
    assert report["puts"] == 1
    assert report["host"]
    assert report["process"] == session.report()["process"]
    other = ClusterStore.create(settings())
    assert other.report()["process"] != report["process"]
    other.leave()


class TestConnectors:
    @pytest.mark.parametrize(
        ("spec", "kind"),
        [
            ("auto", ZmqConnector),
            ("zmq://", ZmqConnector),
            ("shm://", SharedMemoryConnector),
        ],
    )
    def test_shared_memory_takes_its_settings(
        self, spec: str, kind: Any, tmp_path: Any
    ) -> None:
        read = Settings.read(
            connector=spec,
            shm_budget="1 MiB",
            shm_recycle=0,
            spill_directory=str(tmp_path),
        )
        with open_session_connector(read) as connector:
            assert isinstance(connector, kind)
            config = connector.config()
            assert config["spill_directory"] == str(tmp_path)
            assert config["budget"] == 1 << 20
            assert connector.space().budget <= 1 << 20

    def test_any_other(self, tmp_path: Any) -> None:
        spec = f"file://{tmp_path}/store"
        with open_session_connector(Settings.read(connector=spec)) as connector:
            assert repr(connector) == f"<FileConnector {tmp_path}/store>"


class OnGpu:
    """What says that its memory is a GPU's."""

    nbytes = 2**22
    __cuda_array_interface__ = ("of", "some", "kind")


class Locked:
    """Large, and does not pickle."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __sizeof__(self) -> int:
        return 2**22


class TestInBand:
    """What is large and goes in-band is counted by reason, and told once."""

    def counted(self, session: ClusterStore) -> dict[str, int]:
        return {reason: n for reason, n in session.report()["inband"].items() if n}

    def test_results(self, session: ClusterStore, caplog: Any) -> None:
        with caplog.at_level(logging.INFO, "daskref.cluster.inband"):
            for _ in range(2):
                assert session.refer(OnGpu(), 2**20) == (None, False)
                assert session.refer(Locked(), 2**20) == (None, False)
        assert self.counted(session) == {"gpu": 2, "unpicklable": 2}
        assert [r.levelname for r in caplog.records] == ["INFO", "INFO"]
        assert "OnGpu goes in-band" in caplog.text
        assert "it does not serialize to be stored" in caplog.text

    def test_small_ones_do_not_count(self, session: ClusterStore) -> None:
        session.refer(OnGpu(), 2**30)
        session.refer(threading.Lock(), 2**20)
        session.refer(1, 2**20)
        assert session.put(LARGE) is not None
        assert self.counted(session) == {}

    def test_a_store_out_of_reach(self, session: ClusterStore) -> None:
        blind = ClusterStore.join(unreachable(session))
        assert blind.put(LARGE) is None
        assert self.counted(blind) == {"unreachable": 1}
        blind.leave()
