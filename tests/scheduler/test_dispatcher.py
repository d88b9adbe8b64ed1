"""Between Dask's scheduler and the state machine: what is asked, told, and done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.scheduler import _dispatcher as module
from daskref.scheduler import _events as events
from daskref.scheduler._dispatcher import Dispatcher
from daskref.scheduler._events import Holder
from daskref.scheduler._state import SCHEDULER
from tests.support.sites import HOSTS, A, B


class FakeScheduler:
    """What is needed of Dask's, and what it did."""

    def __init__(self) -> None:
        self.workers: dict[str, Any] = {}
        self.clients: dict[str, Any] = {}
        self.tasks: dict[Any, Any] = {}
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.recommended: list[dict[Any, str]] = []
        self.events: list[dict[str, Any]] = []

    def worker_send(self, worker: str, message: dict[str, Any]) -> None:
        assert worker in self.workers
        self.sent.append((worker, message))

    def report(self, message: dict[str, Any], client: str) -> None:
        assert client in self.clients
        self.sent.append((client, message))

    def log_event(self, topic: str, event: dict[str, Any]) -> None:
        assert topic == "daskref"
        self.events.append(event)

    def transitions(self, recommendations: dict[Any, str], stimulus_id: str) -> None:
        self.recommended.append(recommendations)
        for key, state in recommendations.items():
            self.tasks[key].state = state


class Site:
    """A dispatcher of a scheduler that is not Dask's."""

    def __init__(self, session: ClusterStore) -> None:
        self.scheduler = FakeScheduler()
        scheduler: Any = self.scheduler
        self.dispatcher = Dispatcher(scheduler, session)
        self.state = self.dispatcher.state

    def worker(self, name: str, host: str, serves: bool = True) -> None:
        self.scheduler.workers[name] = SimpleNamespace()
        self.on_host(name, host, serves)

    def on_host(self, name: str, host: str, serves: bool = True) -> None:
        endpoint = f"tcp://{name}:1" if serves else None
        self.dispatcher.on_host(name, host, f"host of {name}", endpoint, [])

    async def client(self, name: str, host: str) -> dict[str, Any]:
        self.scheduler.clients[name] = SimpleNamespace()
        return await self.dispatcher.visit(name, host, f"host of {name}")

    def put(self, key: Any, kind: str = "key", name: Any = "task", **more: Any) -> None:
        self.dispatcher.feed(events.Put(Holder(kind, name), key, key[1], **more))


@pytest.fixture(params=["zmq://", "auto"])
def session(tmp_path: Any, request: Any) -> Iterator[ClusterStore]:
    settings = Settings.read(connector=request.param, shm_root=str(tmp_path))
    session = ClusterStore.create(settings)
    yield session
    session.leave()


KEY = ("1" * 32, 8, A)


def run(session: ClusterStore, test: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        site = Site(session)
        await asyncio.wait_for(test(site), 60)
        await site.dispatcher.close()

    asyncio.run(main())


class TestReaders:
    def test_are_answered_once_a_host_is_free(self, session: ClusterStore) -> None:
        async def test(site: Site) -> None:
            site.worker("one", A)
            site.worker("two", B)
            asking = asyncio.create_task(site.dispatcher.source("two", KEY, []))
            answer = await asking
            endpoints = ["tcp://one:1"]
            assert answer == {"status": "found", "host": A, "endpoints": endpoints}
            site.worker("three", HOSTS["c"])
            other = ("2" * 32, 8, B)
            site.dispatcher.feed(events.Fetched("one", other, True))
            site.dispatcher.feed(events.Left("two"))
            waiting = [
                asyncio.create_task(site.dispatcher.source("three", other, failed))
                for failed in (["tcp://one:1"], ["tcp://one:1"])
            ]
            await asyncio.sleep(0)
            site.worker("two", B)
            site.dispatcher.on_fetched(other, True, worker="two")
            for each in waiting:
                assert (await each)["host"] == B

        run(session, test)

    def test_are_told_to_ask_again(self, session: ClusterStore) -> None:
        async def test(site: Site) -> None:
            site.worker("one", A, serves=False)
            site.worker("two", B)
            site.put(KEY)
            answer = await site.dispatcher.source("two", KEY, [])
            assert answer == {"status": "none"}
            assert not site.dispatcher._timers
            assert not site.dispatcher._asking

        run(session, test)

    def test_do_not_wait_for_a_scheduler_that_closes(
        self, session: ClusterStore
    ) -> None:
        async def test(site: Site) -> None:
            site.worker("two", B)
            asking = asyncio.create_task(site.dispatcher.source("two", KEY, []))
            await asyncio.sleep(0)
            await site.dispatcher.close()
            assert await asking == {"status": "left"}

        run(session, test)

    def test_one_that_ends_its_question_leaves_others_theirs(
        self, session: ClusterStore
    ) -> None:
        async def test(site: Site) -> None:
            site.worker("two", B)
            gone, asking = (
                asyncio.create_task(site.dispatcher.source("two", KEY, []))
                for _ in range(2)
            )
            await asyncio.sleep(0)
            gone.cancel()
            site.worker("one", A)
            assert (await asking)["host"] == A

        run(session, test)

    def test_the_scheduler_itself_may_ask_and_tell(self, session: ClusterStore) -> None:
        async def test(site: Site) -> None:
            site.worker("one", A)
            site.put(KEY)
            loop = SimpleNamespace(
                asyncio_loop=asyncio.get_running_loop(),
                add_callback=lambda callback, **rest: callback(**rest),
            )
            locator = site.dispatcher.locator(loop)
            found = await asyncio.to_thread(locator.sources, KEY, lambda: None)
            assert [each.host for each in found] == [A]
            assert locator.copies(KEY)[0].host == A  # it may not wait here
            copies = await asyncio.to_thread(locator.copies, KEY)
            assert [each.host for each in copies] == [A]
            locator.ended(KEY, True)
            assert list(site.state.objects[KEY].copies) == [A, site.state.home]
            assert site.state.hosts.host_of(SCHEDULER) == site.state.home

        run(session, test)


class TestHosts:
    def test_a_client_hears_of_those_there_are(self, session: ClusterStore) -> None:
        async def test(site: Site) -> None:
            home = site.state.home
            site.worker("one", A)
            hosts = {A: ["tcp://one:1"]}
            answer = await site.client("client", B)
            assert answer == {"hosts": hosts, "home": home, "beside": False}
            assert (await site.client("second", A))["beside"]

        run(session, test)

    def test_who_has_left_meanwhile_does_not_come_back(
        self, session: ClusterStore
    ) -> None:
        async def test(site: Site) -> None:
            site.on_host("one", A)
            await site.dispatcher.visit("client", B, "a host")
            assert list(site.state.hosts.processes) == [SCHEDULER]

        run(session, test)

    def test_a_client_on_a_second_host_waits_for_workers(
        self, session: ClusterStore
    ) -> None:
        if session.info.settings.connector != "auto":
            pytest.skip("workers serve from the beginning")

        async def test(site: Site) -> None:
            site.worker("one", A, serves=False)
            visiting = asyncio.create_task(site.client("client", B))
            await asyncio.sleep(0)
            assert ("one", {"op": "daskref-serve"}) in site.scheduler.sent
            assert not visiting.done()
            site.on_host("one", A)
            assert (await visiting)["hosts"] == {A: ["tcp://one:1"]}

        run(session, test)

    def test_a_client_goes_on_without_workers_that_do_not_begin(
        self, session: ClusterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_START", 0.0)

        async def test(site: Site) -> None:
            site.worker("one", A, serves=False)
            assert (await site.client("client", B))["hosts"] == {}

        run(session, test)


class TestInstructions:
    def test_a_message_goes_to_the_first_that_is_connected(
        self, session: ClusterStore
    ) -> None:
        async def test(site: Site) -> None:
            site.worker("one", A)
            site.worker("two", A)
            site.put(KEY)
            await site.client("client", A)
            assert site.scheduler.events == [
                {"action": "add-host", "host": "host of one"}
            ]
            del site.scheduler.workers["one"]  # Dask has not said so yet
            site.scheduler.sent.clear()
            site.dispatcher.feed(events.Released(Holder("key", "task")))
            message = {"op": "daskref-evict", "objects": [KEY]}
            assert site.scheduler.sent == [("two", message)]
            site.scheduler.workers.clear()
            site.put(KEY)
            site.dispatcher.feed(events.Released(Holder("key", "task")))
            assert site.scheduler.sent[1:] == [("client", message)]
            assert session.report()["evictions"] == 2

        run(session, test)

    def test_results_are_computed_again_that_are_in_memory(
        self, session: ClusterStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def test(site: Site) -> None:
            site.worker("one", A)
            for task, state in {"t": "memory", "u": "processing"}.items():
                site.scheduler.tasks[task] = SimpleNamespace(state=state)
            for task in "tuv":
                key = (task * 32, 8, A)
                site.put(key, "result", task, computable=True)
            site.dispatcher.feed(events.Left("one"))
            assert site.scheduler.recommended == [{"t": "released"}]
            assert "only copies of 3 objects" in caplog.text

        run(session, test)

    def test_one_that_fails_does_not_keep_the_others(
        self, session: ClusterStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def test(site: Site) -> None:
            site.worker("one", A)
            site.scheduler.tasks["t"] = SimpleNamespace(state="memory")
            site.scheduler.transitions = None  # type: ignore[method-assign,assignment]
            site.put(KEY, "result", "t", computable=True)
            answer = await site.dispatcher.source("one", KEY, [], last=True)
            assert answer["recomputed"]
            assert "Could not carry out Recompute(tasks=('t',))" in caplog.text

        run(session, test)

    def test_what_is_kept_goes_when_its_time_has_come(
        self, session: ClusterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("daskref.scheduler._state.LOST", 0.01)

        async def test(site: Site) -> None:
            site.worker("one", A)
            site.put(KEY, "result", "t")
            site.dispatcher.feed(events.ResultReleased("t", wanted=True))
            assert KEY in site.state.objects
            while KEY in site.state.objects:
                await asyncio.sleep(0.005)
            assert not site.dispatcher._timers

        run(session, test)

    def test_what_is_here_is_deleted_and_forgotten(self, session: ClusterStore) -> None:
        async def test(site: Site) -> None:
            assert session.store is not None
            key = session.store.put(b"a value")
            site.put(key)
            site.dispatcher.feed(events.Released(Holder("key", "task")))
            assert site.state.objects[key].deletion == "begun"
            await site.dispatcher.evictions.finish()
            assert not session.store.exists(key)
            assert key not in site.state.objects

        run(session, test)
