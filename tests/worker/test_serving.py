"""A worker's part in a session whose hosts are apart, without a worker."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dask._task_spec import Task

from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.connectors import ZmqConnector
from daskref.connectors.zmq.sources import Sources
from daskref.graph.nodes import ReferenceNode
from daskref.proxy import Proxy
from daskref.store.factory import StoreFactory
from daskref.worker import _serving as module
from daskref.worker._serving import Serving, place_of
from tests.support.common import until_idle
from tests.support.zmq_hosts import attended as attended


class FakeWorker:
    """What serving needs of Dask's worker."""

    def __init__(self) -> None:
        self.address = self.contact_address = "tcp://127.0.0.1:4000"
        self.listener = SimpleNamespace(listen_address="tcp://127.0.0.1:4000")
        self.stream_handlers: dict[str, Any] = {}
        self.sent: list[dict[str, Any]] = []
        self.batched_send = self.sent.append
        self.data: dict[Any, Any] = {}
        self.state = SimpleNamespace(executing=set(), nthreads=1, tasks={})
        self.loop = self.scheduler = None


class FakeAhead:
    """Takes note of what is to be fetched."""

    def __init__(self) -> None:
        self.tasks: dict[Any, set[Any]] = {}

    def add(self, task: Any, keys: Any) -> None:
        self.tasks.setdefault(task, set()).update(keys)

    def begun(self, task: Any) -> None:
        self.tasks.pop(task, None)

    def close(self) -> None:
        self.tasks.clear()


@pytest.fixture(params=["auto", "zmq://"])
def session(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[ClusterStore]:
    settings = Settings.read(connector=request.param, shm_root=str(tmp_path))
    session = ClusterStore.create(settings)
    yield session
    session.leave()


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


def make(worker: FakeWorker, session: ClusterStore) -> Serving:
    assert session.store is not None
    connector = session.store.connector
    assert isinstance(connector, ZmqConnector)
    return Serving(worker, session, connector)  # type: ignore[arg-type]


async def handle(worker: FakeWorker, op: str, **message: Any) -> None:
    """Let a message come, as Dask reads it, and what follows from it end."""
    handler = worker.stream_handlers[f"daskref-{op}"]
    # or it would read no further message meanwhile
    assert not inspect.iscoroutinefunction(handler)
    handler(**message)
    await until_idle()


class TestPlace:
    def place(self, worker: FakeWorker, **settings: Any) -> dict[str, Any]:
        return place_of(worker, Settings.read(**settings))  # type: ignore[arg-type]

    def test_where_dask_listens(self, worker: FakeWorker) -> None:
        expected = {"interface": "127.0.0.1", "port": "0", "advertise": None}
        found = self.place(worker)
        assert {**found, "port": str(found["port"])} == expected

    def test_what_dask_tells_others(self, worker: FakeWorker) -> None:
        worker.listener.listen_address = "tls://0.0.0.0:4000"
        worker.contact_address = "tls://10.0.0.7:4000"
        place = self.place(worker)
        assert (place["interface"], place["advertise"]) == ("0.0.0.0", "10.0.0.7")

    def test_what_is_set_goes_before(self, worker: FakeWorker) -> None:
        worker.contact_address = "tcp://10.0.0.7:4000"
        place = self.place(worker, zmq_interface="eth7", zmq_port="5000:5100")
        assert place["interface"] == "eth7"
        assert place["port"] == "5000:5100"
        assert place["advertise"] is None
        place = self.place(worker, zmq_advertise="node:77")
        assert place["advertise"] == "node:77"

    def test_within_a_process_dask_listens_nowhere(self, worker: FakeWorker) -> None:
        worker.listener.listen_address = "inproc://10.0.0.7/1/2"
        assert self.place(worker)["interface"] is None


def test_says_where_it_serves(worker: FakeWorker, session: ClusterStore) -> None:
    async def test() -> None:
        serving = make(worker, session)
        connector: Any = session.store and session.store.connector
        key = connector.put(b"x" * 10)
        await serving.start()
        (told,) = worker.sent
        assert told["op"] == "daskref-host"
        assert told["host"] == connector.host
        assert told["names"] == [key[0]]
        lazily = session.info.settings.connector == "auto"
        assert [told["endpoint"]] == (connector.endpoints or [None])
        assert (told["endpoint"] is None) == lazily
        await handle(worker, "serve")
        assert worker.sent[-1]["endpoint"] == connector.endpoints[0]
        assert worker.sent[-1]["names"] == []
        assert connector.usage() == (1, 10)
        await handle(worker, "evict", objects=[list(key)])
        assert connector.usage() == (0, 0)
        await handle(worker, "sweep", known=[], grace=0.0)
        serving.stop()

    asyncio.run(test())


def test_stopped_it_does_nothing_and_ends_no_stream(
    worker: FakeWorker, session: ClusterStore, attended: list[Sources]
) -> None:
    async def test() -> None:
        serving = make(worker, session)
        connector: Any = session.store and session.store.connector
        key = connector.put(b"x")
        await serving.start()
        assert attended
        serving.stop()
        serving.stop()
        assert not attended
        told = len(worker.sent)
        # what the scheduler had sent before it knew
        await handle(worker, "evict", objects=[key])
        await handle(worker, "serve")
        assert key[0] in connector.here()
        assert len(worker.sent) == told
        again = make(worker, session)
        await again.start()
        await handle(worker, "evict", objects=[key])
        assert key[0] not in connector.here()
        again.stop()

    asyncio.run(test())


@pytest.mark.parametrize("session", ["auto"], indirect=True)
@pytest.mark.parametrize(
    ("name", "value"),
    [("zmq_interface", "no-such-interface"), ("zmq_port", "1")],
    ids=["interface", "port"],
)
def test_who_cannot_serve_says_so_and_puts_nothing(
    worker: FakeWorker,
    session: ClusterStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: str,
) -> None:
    async def test() -> None:
        if name == "zmq_port":
            worker.listener.listen_address = "tcp://192.0.2.1:4000"  # not ours
        serving = make(worker, session)
        await serving.start()
        settings = Settings.read(**{name: value})
        monkeypatch.setattr(module.Settings, "read", lambda: settings)
        await handle(worker, "serve")
        assert worker.sent[-1]["endpoint"] is None
        assert not session.reachable
        assert "cannot see the cluster's store" in caplog.text
        serving.stop()

    asyncio.run(test())


class TestAhead:
    """What is fetched while tasks wait."""

    @pytest.fixture
    def ahead(self, monkeypatch: pytest.MonkeyPatch) -> FakeAhead:
        ahead = FakeAhead()
        monkeypatch.setattr(module, "Ahead", lambda *args: ahead)
        return ahead

    @pytest.fixture
    def serving(
        self, worker: FakeWorker, session: ClusterStore, ahead: FakeAhead
    ) -> Serving:
        serving = make(worker, session)
        serving.looks_ahead = True
        worker.state.executing.add("busy")
        return serving

    @pytest.fixture
    def reference(self, session: ClusterStore) -> Any:
        return session.put(np.arange(10))

    def add(self, worker: FakeWorker, key: str, *args: Any, state: str) -> Any:
        node = Task(key, print, *args)
        task = SimpleNamespace(key=key, run_spec=node, state=state, dependents=set())
        worker.state.tasks[key] = task
        return task

    @pytest.mark.parametrize("waits", ["waiting", "ready", "constrained"])
    def test_arguments_of_a_task_that_waits(
        self,
        serving: Serving,
        worker: FakeWorker,
        reference: Any,
        waits: str,
        ahead: FakeAhead,
    ) -> None:
        node = ReferenceNode(None, reference)
        self.add(worker, "t", node, state=waits)
        serving.transition("t", "released", waits)
        assert ahead.tasks == {"t": {reference.key}}

    def test_not_of_one_that_begins_at_once(
        self, serving: Serving, worker: FakeWorker, reference: Any, ahead: FakeAhead
    ) -> None:
        worker.state.executing.clear()
        self.add(worker, "t", ReferenceNode(None, reference), state="ready")
        serving.transition("t", "released", "ready")
        assert not ahead.tasks

    def test_not_of_one_without_any(
        self, serving: Serving, worker: FakeWorker, ahead: FakeAhead
    ) -> None:
        self.add(worker, "t", 1, state="ready")
        serving.transition("t", "released", "ready")
        assert not ahead.tasks

    def test_a_dependency_whose_reference_has_come(
        self, serving: Serving, worker: FakeWorker, reference: Any, ahead: FakeAhead
    ) -> None:
        came = self.add(worker, "x", state="memory")
        for state in ("waiting", "executing", "released", "cancelled", "resumed"):
            came.dependents.add(_Hashable(self.add(worker, state, state=state)))
        worker.data["x"] = Proxy(StoreFactory(reference, transparent=True))
        serving.transition("x", "flight", "memory")
        # the others may never begin
        assert ahead.tasks == {"waiting": {reference.key}}

    def test_a_dependency_whose_value_has_come(
        self, serving: Serving, worker: FakeWorker, ahead: FakeAhead
    ) -> None:
        came = self.add(worker, "x", state="memory")
        came.dependents.add(_Hashable(self.add(worker, "t", state="waiting")))
        worker.data["x"] = 5
        serving.transition("x", "flight", "memory")
        assert not ahead.tasks

    @pytest.mark.parametrize(
        "then",
        "executing released forgotten cancelled memory error rescheduled".split(),
    )
    def test_until_it_waits_no_more(
        self,
        serving: Serving,
        worker: FakeWorker,
        reference: Any,
        then: str,
        ahead: FakeAhead,
    ) -> None:
        self.add(worker, "t", ReferenceNode(None, reference), state="waiting")
        serving.transition("t", "released", "waiting")
        serving.transition("t", "waiting", "ready")
        assert ahead.tasks
        serving.transition("t", "ready", then)
        assert not ahead.tasks

    def test_nothing_once_it_is_stopped(
        self,
        worker: FakeWorker,
        session: ClusterStore,
        reference: Any,
        ahead: FakeAhead,
    ) -> None:
        serving = make(worker, session)
        worker.state.executing.add("busy")
        serving.stop()
        self.add(worker, "t", ReferenceNode(None, reference), state="ready")
        serving.transition("t", "released", "ready")
        assert not ahead.tasks
        serving.transition("t", "ready", "executing")


class _Hashable:
    """A task's state in a set."""

    def __init__(self, task: Any) -> None:
        self.key, self.state = task.key, task.state


def test_without_prefetch(worker: FakeWorker, tmp_path: Any) -> None:
    settings = Settings.read(connector="auto", shm_root=str(tmp_path), prefetch="0")
    session = ClusterStore.create(settings)
    try:
        serving = make(worker, session)
        serving.transition("t", "released", "ready")
        serving.stop()
    finally:
        session.leave()
