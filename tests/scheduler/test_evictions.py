"""Deleting from the scheduler's own store, without a scheduler."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.connectors import FileConnector, LocalConnector, MultiConnector
from daskref.exceptions import ConnectorError
from daskref.scheduler._evictions import Evictions, Outage, evict_each
from daskref.scheduler._plugin import ReferenceSchedulerPlugin
from daskref.store import Store
from tests.support.redis_servers import SECRET, RedisServer


@pytest.fixture
def session(tmp_path: Path) -> Iterator[ClusterStore]:
    session = ClusterStore.create(
        Settings.read(connector="shm://", shm_root=str(tmp_path))
    )
    yield session
    session.leave()


class Runner(Evictions):
    """Evictions, and what became of them."""

    def __init__(self, session: ClusterStore, evict: Any = None) -> None:
        self.batches: list[list[Any]] = []
        self.ended: list[tuple[list[Any], list[Any]]] = []

        def note(keys: list[Any]) -> list[Any]:
            self.batches.append(keys)
            return []

        super().__init__(
            session,
            evict or note,
            lambda keys, failed: self.ended.append((keys, failed)),
        )


def test_in_batches_and_all_of_them_before_it_ends(session: ClusterStore) -> None:
    async def test() -> None:
        evictions = Runner(session)
        await evictions.finish()  # nothing to do
        evictions.add([("a", 1)])
        evictions.add([])
        evictions.add([("b", 1)])
        await asyncio.sleep(0)
        evictions.add([("c", 1)])
        await evictions.finish()
        assert evictions.batches == [[("a", 1), ("b", 1)], [("c", 1)]]
        assert evictions.ended == [(keys, []) for keys in evictions.batches]

    asyncio.run(test())


def test_nothing_is_begun_after_the_end(session: ClusterStore) -> None:
    async def test() -> None:
        evictions = Runner(session)
        evictions.add([("a", 1)])
        await evictions.close()
        evictions.add([("b", 1)])  # of a client that goes after the scheduler
        await evictions.finish()
        assert evictions.batches == [[("a", 1)]]

    asyncio.run(test())


def test_a_failure_does_not_keep_others(
    session: ClusterStore, caplog: pytest.LogCaptureFixture
) -> None:
    def evict(keys: Any) -> list[Any]:
        if keys == [("a", 1)]:
            raise OSError("no")
        return [("stays", 1)]

    async def test() -> None:
        evictions = Runner(session, evict)
        with caplog.at_level(logging.ERROR):
            evictions.add([("a", 1)])
            await evictions.finish()
        evictions.add([("b", 1), ("stays", 1)])
        await evictions.finish()
        assert evictions.ended == [
            ([("a", 1)], [("a", 1)]),
            ([("b", 1), ("stays", 1)], [("stays", 1)]),
        ]

    asyncio.run(test())
    assert "the next reconciliation tries again" in caplog.text


def test_sweeps_what_is_not_known(
    session: ClusterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Any] = []

    def sweep(known: list[Any], grace: float) -> list[Any]:
        swept.append((known, grace))
        return [("stray", 1)]

    assert session.store is not None
    monkeypatch.setattr(session.store.connector, "sweep", sweep)
    asyncio.run(Runner(session).sweep([("held", 1)], 7.0))
    assert swept == [([("held", 1)], 7.0)]
    assert session.report()["evictions"] == 1


def test_an_object_that_cannot_be_deleted_does_not_keep_those_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(LocalConnector):
        def evict(self, key: Any) -> None:
            if key == keys[1]:
                raise ConnectorError(repr(self), "the server is gone")
            super().evict(key)

    with Store("failing", Failing()) as store:
        keys = [store.put(i) for i in range(3)]
        assert evict_each(store, keys, Outage()) == [keys[1]]
        assert [store.exists(key) for key in keys] == [False, True, False]
    assert "the server is gone" in caplog.text


def test_a_file_that_may_not_be_deleted_is_named_once_and_is_no_outage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def refuse(path: Any, **kwargs: Any) -> None:
        if str(path).endswith(keys[0].name):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, **kwargs)

    outage = Outage()
    with Store("refusing", FileConnector(tmp_path / "store")) as store:
        keys = [store.put(i) for i in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", refuse)
            for _ in range(3):
                assert evict_each(store, keys, outage) == [keys[0]]
        assert evict_each(store, keys, outage) == []
    (told,) = caplog.messages
    assert told.startswith("1 objects could not be deleted")
    assert "[Errno 13] Permission denied: " in told
    assert told.endswith(f"/{keys[0][0]}'")


def test_a_step_of_reconciliation_that_fails_does_not_keep_the_others(
    session: ClusterStore, caplog: pytest.LogCaptureFixture
) -> None:
    swept: list[Any] = []

    async def sweep(known: Any, grace: float) -> None:
        swept.append((known, grace))

    async def test() -> None:
        scheduler: Any = SimpleNamespace(stream_handlers={"task-finished": None})
        plugin: Any = ReferenceSchedulerPlugin(scheduler, session.info.settings)
        plugin.session = session
        plugin._dispatcher = SimpleNamespace(
            feed=lambda event: 1 / 0, evictions=SimpleNamespace(sweep=sweep)
        )
        await plugin.reconcile()

    asyncio.run(test())
    grace = session.info.settings.reconcile_grace
    assert swept == [([*session.info.probes], grace)]
    assert caplog.text.count("ZeroDivisionError") == 1


def test_a_connector_that_cannot_be_swept_does_not_keep_the_others() -> None:
    class Failing(LocalConnector):
        def sweep(self, known: Any = None, grace: float = 30.0) -> Any:
            raise ConnectorError(repr(self), "the server is gone")

    class Working(LocalConnector):
        def sweep(self, known: Any = None, grace: float = 30.0) -> Any:
            return [("swept",)]

    with MultiConnector(
        {"failing": (Failing(), None), "working": (Working(), None)}
    ) as multi:
        assert multi.sweep([]) == [("working", ("swept",))]


@pytest.mark.slow
def test_a_store_that_hangs_is_told_in_one_line_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = RedisServer(requirepass=SECRET)
    quick = "timeout=0.3&connect_timeout=0.3"
    url = f"redis://:{SECRET}@127.0.0.1:{server.port}/0?{quick}"
    session = ClusterStore.create(Settings.read(connector=url))
    assert session.store is not None
    store = session.store
    failed: list[Any] = []

    async def hang(evictions: Evictions, key: Any) -> None:
        caplog.clear()
        with server.stopped():
            evictions.add([key])
            await evictions.finish()
            for _ in range(2):
                evictions.add([failed.pop()])
                await evictions.sweep([], 60.0)
                await evictions.finish()
        assert caplog.text.count("\n") == 1, caplog.text
        assert caplog.records[0].levelno == logging.WARNING
        assert "out of reach" in caplog.text
        assert "did not answer in time" in caplog.text
        assert SECRET not in caplog.text
        evictions.add([failed.pop()])
        await evictions.sweep([], 60.0)
        await evictions.finish()
        assert not store.exists(key)

    async def test() -> None:
        evictions = Evictions(
            session,
            lambda keys: evict_each(store, keys, evictions.outage),
            lambda _, more: failed.extend(more),
        )
        for value in b"first", b"second":  # it is back in between, so told again
            await hang(evictions, store.put(value))

    try:
        asyncio.run(test())
    finally:
        session.leave()
        server.close()


def test_what_is_no_outage_is_told_each_time(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    for _ in range(2):
        outage.tell("It failed", ConnectorError("<Store>", "the store is full"))
        outage.tell("It failed", ZeroDivisionError("ours"))
    assert caplog.text.count("It failed: <Store>: the store is full") == 2
    assert caplog.text.count("ZeroDivisionError: ours") == 2
