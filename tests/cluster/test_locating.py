"""What a process asks the scheduler of where objects are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from daskref.cluster import locating
from daskref.cluster.locating import Locator, ask
from daskref.connectors.zmq.sources import Source
from daskref.exceptions import ObjectLostError
from tests.support.common import wait_until
from tests.support.forks import forked

A, B, ME = "a" * 32, "b" * 32, "e" * 32
KEY = ("1" * 32, 8, A)
FOUND = {"status": "found", "host": B, "endpoints": ["tcp://b:1"]}
LOST = {"status": "lost", "reason": "its host is gone", "recomputed": True}
THERE = [Source(B, ["tcp://b:1"])]


class FakeScheduler:
    """Answers what it was given to answer; an error is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.told: list[dict[str, Any]] = []

    def ask(self, op: str, message: dict[str, Any]) -> Any:
        self.asked.append((op, message))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def locator(self, **hosts: list[str]) -> Locator:
        locator = Locator("owner", "me", self.ask, self.told.append, ME)
        for host, endpoints in hosts.items():
            locator.update(host, endpoints)
        return locator


def nothing() -> None:
    pass


class TestSources:
    def test_is_asked_although_no_host_is_known(self) -> None:
        assert FakeScheduler().locator().others

    def test_found(self) -> None:
        scheduler = FakeScheduler(FOUND)
        locator = scheduler.locator()
        assert locator.sources(KEY, nothing) == THERE
        question = {"process": "me", "object": KEY, "failed": []}
        assert scheduler.asked == [("daskref_source", question)]
        assert locator.hosts == {B: ["tcp://b:1"]}

    def test_a_host_that_serves_elsewhere_by_now(self) -> None:
        locator = FakeScheduler(FOUND).locator(**{B: ["tcp://b:0"]})
        locator.sources(KEY, nothing)
        assert locator.hosts == {B: ["tcp://b:1"]}

    def test_asks_again_for_its_turn_and_says_that_it_lives(self) -> None:
        queued = {"status": "queued"}
        waited: list[int] = []
        locator = FakeScheduler(queued, queued, FOUND).locator()
        assert locator.sources(KEY, lambda: waited.append(1)) == THERE
        assert len(waited) == 3

    def test_none(self) -> None:
        none = {"status": "none"}
        locator = FakeScheduler(none, FOUND, none).locator()
        assert locator.sources(KEY, nothing) == []
        assert locator.sources(KEY, nothing) == THERE
        assert locator.sources(KEY, nothing) == THERE  # it may come back

    def test_lost(self) -> None:
        locator = FakeScheduler(LOST).locator()
        with pytest.raises(ObjectLostError, match="its host is gone") as caught:
            locator.sources(KEY, nothing)
        assert caught.value.recomputed

    @pytest.mark.parametrize("answer", [None, {"status": "left"}, "nonsense"])
    def test_a_scheduler_that_knows_it_no_more(self, answer: Any) -> None:
        locator = FakeScheduler(answer, FOUND, answer).locator(**{A: ["tcp://a:1"]})
        assert locator.sources(KEY, nothing) == [Source(A, ["tcp://a:1"])]
        assert locator.sources(KEY, nothing) == THERE
        assert locator.sources(KEY, nothing) == THERE

    def test_a_scheduler_that_does_not_answer(self) -> None:
        locator = FakeScheduler(OSError(), FOUND, OSError()).locator()
        assert locator.sources(KEY, nothing) == [Source(A, [])]
        assert locator.sources(KEY, nothing) == THERE
        assert locator.sources(KEY, nothing) == THERE

    def test_endpoints_that_failed_are_said_until_the_end(self) -> None:
        scheduler = FakeScheduler(*[FOUND] * 3)
        locator = scheduler.locator()
        for endpoint in ("tcp://b:2", "tcp://b:1", "tcp://b:1"):
            locator.failed(KEY, endpoint)
        locator.failed(("2" * 32, 8, A), "tcp://c:1")
        locator.sources(KEY, nothing)
        assert scheduler.asked[-1][1]["failed"] == ["tcp://b:1", "tcp://b:2"]
        locator.ended(KEY, True)
        assert scheduler.told == [
            {"op": "daskref-fetched", "object": KEY, "copied": True}
        ]
        locator.sources(KEY, nothing)
        assert scheduler.asked[-1][1]["failed"] == []
        locator.ended(KEY, False)
        locator.ended(("2" * 32, 8, A), False)
        assert not locator._given
        assert not locator._failed


class TestGivenUp:
    def test_says_what_the_scheduler_knows(self) -> None:
        scheduler = FakeScheduler(LOST)
        locator = scheduler.locator()
        locator.failed(KEY, "tcp://b:1")
        with pytest.raises(ObjectLostError, match="its host is gone"):
            locator.given_up(KEY)
        question = scheduler.asked[0][1]
        assert question["last"]
        assert question["failed"] == ["tcp://b:1"]

    @pytest.mark.parametrize("answer", [{"status": "none"}, None, OSError()])
    def test_says_nothing_else(self, answer: Any) -> None:
        FakeScheduler(answer).locator().given_up(KEY)


class TestHosts:
    def test_copies(self) -> None:
        locator = FakeScheduler([(B, ["tcp://b:1"]), (A, [])], OSError()).locator()
        assert locator.copies(KEY) == [*THERE, Source(A, [])]
        assert locator.copies(KEY) == [Source(A, [])]

    def test_targets_are_those_that_serve_by_now(self) -> None:
        locator = FakeScheduler().locator(**{A: ["tcp://a:1"]})
        locator.update(B, ["tcp://b:1"])
        assert sorted(locator.targets(8)) == [Source(A, ["tcp://a:1"]), *THERE]
        locator.update(A, [])
        locator.update("c" * 32, [])
        assert locator.targets(8) == THERE

    def test_hosts_may_come_while_they_are_listed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        locator = FakeScheduler().locator(**{A: ["tcp://a:1"], B: ["tcp://b:1"]})

        def interrupted(host: str, endpoints: list[str]) -> Source:
            locator.update(host[::-1] + "c", endpoints)
            return Source(host, endpoints)

        monkeypatch.setattr(locating, "Source", interrupted)
        assert {source.host for source in locator.targets(8)} == {A, B}

    def test_takers_are_other_hosts(self) -> None:
        locator = FakeScheduler().locator()
        seen = [locator.takers]
        for host, endpoints in ((ME, ["x"]), (A, ["y"]), (B, ["z"]), (A, []), (B, [])):
            locator.update(host, endpoints)
            seen.append(locator.takers)
        assert seen == [False, False, True, True, True, False]

    def test_a_host_that_the_scheduler_names_is_a_taker(self) -> None:
        locator = FakeScheduler(FOUND).locator()
        locator.sources(KEY, nothing)
        assert locator.takers


def test_a_forked_child_asks_and_tells_nobody() -> None:
    scheduler = FakeScheduler(FOUND)
    locator = scheduler.locator(**{A: ["tcp://a:1"]})
    other = ("2" * 32, 8, A)
    locator.sources(KEY, nothing)
    asked = list(scheduler.asked)

    def check() -> bool:
        assert locator.sources(KEY, nothing) == THERE
        assert locator.sources(other, nothing) == [Source(A, ["tcp://a:1"])]
        assert locator.copies(KEY) == [Source(A, ["tcp://a:1"])]
        locator.given_up(KEY)
        locator.ended(KEY, True)
        return scheduler.asked == asked and not scheduler.told

    assert forked(check) == "fine"


class TestAsk:
    @pytest.fixture
    def loop(self) -> Iterator[Any]:
        """An event loop in a thread, as Dask's clients have one."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        yield SimpleNamespace(asyncio_loop=loop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def answer(self, **message: Any) -> Any:
        return message

    def test_answered(self, loop: Any) -> None:
        assert ask(loop, self.answer, {"object": 1}) == {"object": 1}

    def test_an_error_is_one_of_the_connection(self, loop: Any) -> None:
        async def fail(error: BaseException) -> None:
            raise error

        with pytest.raises(OSError, match="did not answer: ZeroDivisionError"):
            ask(loop, fail, {"error": ZeroDivisionError()})
        with pytest.raises(ConnectionResetError):
            ask(loop, fail, {"error": ConnectionResetError()})

    def test_no_answer(self, loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locating, "_ANSWER", 0.0)

        async def never() -> None:
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            ask(loop, never, {})
        tasks = partial(asyncio.all_tasks, loop.asyncio_loop)
        monkeypatch.undo()
        ask(loop, self.answer, {})  # so it has begun, if it was going to
        wait_until(lambda: not tasks(), "nobody waits for it any more")

    def test_the_loops_own_thread_may_not_wait(self) -> None:
        async def test() -> None:
            loop = SimpleNamespace(asyncio_loop=asyncio.get_running_loop())
            with pytest.raises(OSError, match="may not wait"):
                ask(loop, self.answer, {})

        asyncio.run(test())

    def test_another_loops_thread_may(self, loop: Any) -> None:
        async def test() -> None:
            assert ask(loop, self.answer, {"object": 1}) == {"object": 1}

        asyncio.run(test())

    @pytest.mark.parametrize("closed", [False, True])
    def test_a_loop_that_has_ended(self, closed: bool) -> None:
        loop = asyncio.new_event_loop()
        try:
            if closed:
                loop.close()
            with pytest.raises(OSError, match="has ended"):
                ask(SimpleNamespace(asyncio_loop=loop), self.answer, {})
        finally:
            loop.close()
