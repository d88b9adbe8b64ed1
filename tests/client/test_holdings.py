"""What one client holds."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from daskref.client._holdings import Holdings
from daskref.exceptions import ConnectorError
from daskref.objects.codec import encode
from daskref.objects.reference import Metadata, Reference, StoreConfig
from daskref.store.metrics import Counters

STORE = StoreConfig("fake", "no:where", ())


class FakeSession:
    """A store in name only."""

    def __init__(self) -> None:
        self.store = self
        self.counters = Counters()
        self.stored: dict[Any, Any] = {}
        self.evicted: list[Any] = []
        self.puts = 0
        self.relinked: Any = None
        self.declines = False
        self.error: Exception | None = None
        self.before_put: Callable[[], Any] = lambda: None

    def put(self, obj: Any, encoded: Any, token: str) -> Any:
        self.before_put()
        if self.error is not None:
            raise self.error
        if self.declines:
            return None
        self.puts += 1
        return self.refer(token)

    def refer(self, token: str) -> Reference:
        key = ("object", len(self.stored))
        self.stored[key] = token
        metadata = Metadata("numpy.ndarray", b"", 100, token)
        return Reference(key, STORE, metadata)

    def relink(self, obj: Any, token: str) -> Any:
        return self.refer(token) if obj is self.relinked else None

    def evict(self, key: Any) -> None:
        self.evicted.append(key)


class Scheduler:
    """Keeps the messages, and the loop's callbacks until they are run."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.callbacks: list[Callable[[], None]] = []

    def run(self) -> None:
        while self.callbacks:
            self.callbacks.pop(0)()

    @property
    def held(self) -> set[Any]:
        """What the scheduler would think that the client holds."""
        held = set()
        for message in self.messages:
            if message["op"] == "daskref-put":
                held.add(message["object"][0])
            else:
                assert message["op"] == "daskref-release"
                held -= set(message["objects"])
        return held


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
def holdings(session: FakeSession, scheduler: Scheduler) -> Holdings:
    return Holdings(session, scheduler.messages.append, scheduler.callbacks.append)  # type: ignore[arg-type]


def array(fill: float = 1.0) -> Any:
    return np.full(10, fill)


def needed_by(submission: Any, *keys: Any) -> None:
    """Say that futures of these keys need all that was put."""
    submission.keys |= dict.fromkeys(keys, submission.references)


def submit(holdings: Holdings, obj: Any, *keys: Any) -> Reference:
    """Put an object as `submit` does, for futures of these keys."""
    with holdings.submission() as submission:
        reference = holdings.put(obj)
        needed_by(submission, *keys)
    assert reference is not None
    return reference


def check(holdings: Holdings, scheduler: Scheduler, expected: int) -> None:
    """Check that all mirrors of the state agree."""
    scheduler.run()
    assert len(holdings) == expected
    assert len(scheduler.held) == expected
    tables = (holdings._by_token, holdings._by_original, holdings._by_key)
    known = {id(held) for held in tables[0].values()}
    for held in tables[1].values():
        assert id(held) in known
    for several in tables[2].values():
        assert {id(held) for held in several} <= known
    for held in tables[0].values():
        assert held.originals or held.keys or held.uses


class TestSameness:
    def test_equal_content_is_put_once(self, holdings, session, scheduler):
        x, y = array(), array()
        assert submit(holdings, x, "a") is submit(holdings, x, "b")
        assert submit(holdings, y, "c") is submit(holdings, x, "d")
        assert session.puts == 1
        assert [m["op"] for m in scheduler.messages] == ["daskref-put"]
        assert scheduler.messages[0]["object"] == (("object", 0), 100)
        assert session.counters.snapshot()["bytes_kept"] == 400
        check(holdings, scheduler, 1)

    def test_a_changed_object_is_put_again(self, holdings, session, scheduler):
        x = array()
        first = submit(holdings, x)
        x[0] = 5
        second = submit(holdings, x)
        assert first != second
        # the first content is nobody's now: no original, no future
        assert scheduler.held == {second.key}
        x[0] = 1
        assert submit(holdings, x) not in (first, second)
        check(holdings, scheduler, 1)

    def test_a_changed_object_leaves_futures_of_the_old_content(
        self, holdings, session, scheduler
    ):
        x = array()
        submit(holdings, x, "a")
        x[0] = 5
        submit(holdings, x, "b")
        check(holdings, scheduler, 2)
        holdings.release_key("a")
        check(holdings, scheduler, 1)
        holdings.release_key("b")
        check(holdings, scheduler, 1)  # x lives
        del x
        check(holdings, scheduler, 0)

    def test_what_came_from_the_store_is_not_put(self, holdings, session, scheduler):
        session.relinked = x = array()
        reference = submit(holdings, x)
        assert session.puts == 0
        assert scheduler.messages[0]["put"] is False
        assert scheduler.held == {reference.key}

    def test_a_token_that_was_made_already(self, holdings, session):
        x = array()
        with holdings.submission():
            first = holdings.put(x, encode(x))
            assert holdings.put(array()) is first


class TestLife:
    def test_an_original_holds(self, holdings, scheduler):
        x, y = array(), array()
        submit(holdings, x)
        submit(holdings, y)
        del x
        check(holdings, scheduler, 1)
        del y
        check(holdings, scheduler, 0)

    def test_futures_hold(self, holdings, scheduler):
        submit(holdings, array(), "a", "b")
        check(holdings, scheduler, 1)
        holdings.release_key("a")
        holdings.release_key("a")  # silent
        holdings.release_key("another")
        check(holdings, scheduler, 1)
        holdings.release_key("b")
        check(holdings, scheduler, 0)

    def test_a_submission_holds_until_its_futures_do(self, holdings, scheduler):
        with holdings.submission() as submission:
            holdings.put(array())
            gc.collect()
            check(holdings, scheduler, 1)
            needed_by(submission, "a")
        check(holdings, scheduler, 1)
        holdings.release_key("a")
        check(holdings, scheduler, 0)

    def test_a_submission_that_fails_holds_nothing(self, holdings, scheduler):
        def fail() -> None:
            with holdings.submission():
                holdings.put(array())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        check(holdings, scheduler, 0)

    def test_nested_submissions_are_one(self, holdings, scheduler):
        with holdings.submission() as outer:
            with holdings.submission() as inner:
                assert inner is outer
                holdings.put(array())
            check(holdings, scheduler, 1)
            needed_by(outer, "a")
        check(holdings, scheduler, 1)
        with holdings.submission() as another:
            assert another is not outer

    def test_a_submission_without_a_thread_of_its_own(self, holdings, scheduler):
        submission = holdings.open()
        with ThreadPoolExecutor(1) as executor:
            executor.submit(holdings.put, array(), None, submission).result()
        check(holdings, scheduler, 1)
        needed_by(submission, "a")
        holdings.close(submission)
        check(holdings, scheduler, 1)
        holdings.release_key("a")
        check(holdings, scheduler, 0)

    @pytest.mark.parametrize("obj", [[1] * 10, b"bytes", "text", {"a": 1}, (1, 2)])
    def test_what_takes_no_weak_reference_is_held_by_futures(
        self, holdings, scheduler, obj
    ):
        submit(holdings, obj, "a")
        check(holdings, scheduler, 1)
        holdings.release_key("a")
        check(holdings, scheduler, 0)

    def test_all_futures_gone_at_once(self, holdings, scheduler):
        x = array(1)
        submit(holdings, x, "a")
        submit(holdings, array(2), "b", "c")
        check(holdings, scheduler, 2)
        holdings.release_keys()
        check(holdings, scheduler, 1)  # x lives, and may be sent again
        assert not holdings._by_key

    def test_clear_tells_nobody(self, holdings, scheduler):
        x = array()
        submit(holdings, x, "a")
        before = list(scheduler.messages)
        holdings.clear()
        holdings.release_key("a")
        del x
        scheduler.run()
        assert scheduler.messages == before
        assert len(holdings) == 0

    def test_release_all_tells_of_everything_once(self, holdings, scheduler):
        x = array(1)
        submit(holdings, x, "a")
        submit(holdings, array(2), "b")
        holdings.release_all()
        assert not scheduler.held
        before = list(scheduler.messages)
        holdings.release_all()
        holdings.release_key("a")
        del x
        scheduler.run()
        assert scheduler.messages == before

    def test_after_clear_it_goes_on(self, holdings, scheduler, session):
        x = array()
        submit(holdings, x, "a")
        scheduler.messages.clear()
        holdings.clear()
        submit(holdings, x, "b")
        assert session.puts == 2
        check(holdings, scheduler, 1)

    def test_a_future_holds_what_it_needs_and_no_more(self, holdings, scheduler):
        with holdings.submission() as submission:
            first, second = holdings.put(array(1)), holdings.put(array(2))
            submission.keys |= {"a": {first}, "b": {first, second}, "c": set()}
        check(holdings, scheduler, 2)
        holdings.release_key("b")
        check(holdings, scheduler, 1)
        assert scheduler.held == {first.key}
        holdings.release_key("a")
        check(holdings, scheduler, 0)


class TestFailures:
    def test_what_was_declined_is_not_tried_again_in_the_same_call(
        self, holdings, session
    ):
        session.declines = True
        x = array()
        tried = []
        session.before_put = lambda: tried.append(1)
        with holdings.submission():
            assert holdings.put(x) is None
            assert holdings.put(x) is None
        assert len(tried) == 1
        session.declines = False
        with holdings.submission():
            assert holdings.put(x) is not None

    def test_a_declined_put_holds_nothing(self, holdings, session, scheduler):
        session.declines = True
        with holdings.submission():
            assert holdings.put(array()) is None
        assert scheduler.messages == []
        check(holdings, scheduler, 0)
        assert session.counters.snapshot()["bytes_kept"] == 0

    def test_an_error_holds_nothing_and_the_next_put_tries_again(
        self, holdings, session, scheduler
    ):
        session.error = ConnectorError("<fake>", "it is full")
        x = array()
        with pytest.raises(ConnectorError):
            submit(holdings, x)
        check(holdings, scheduler, 0)
        session.error = None
        submit(holdings, x)
        check(holdings, scheduler, 1)


class TestRaces:
    def test_threads_that_put_equal_content(self, holdings, session, scheduler):
        # Both have looked, and not found it, before one of them has put it.
        both = threading.Barrier(2, timeout=10)
        session.before_put = both.wait
        arrays = [array(), array()]
        with ThreadPoolExecutor(2) as executor:
            one, two = executor.map(
                lambda pair: submit(holdings, *pair), zip(arrays, "ab", strict=True)
            )
        assert one is two
        assert session.puts == 2
        # the second copy is gone, and the scheduler never heard of it
        assert session.evicted == [key for key in session.stored if key != one.key]
        assert scheduler.held == {one.key}
        check(holdings, scheduler, 1)
        for key in "ab":
            holdings.release_key(key)
        check(holdings, scheduler, 1)
        del arrays
        check(holdings, scheduler, 0)

    def test_an_object_dies_between_two_puts_of_its_content(
        self, holdings, session, scheduler
    ):
        x = array()
        first = submit(holdings, x)
        del x  # noted by the collector, not looked at yet
        assert scheduler.callbacks
        y = array()
        assert submit(holdings, y) is first
        check(holdings, scheduler, 1)
        del y
        check(holdings, scheduler, 0)

    @pytest.mark.parametrize("told", ["before", "after"])
    def test_an_id_that_is_used_again(
        self, holdings, session, scheduler, monkeypatch, told
    ):
        monkeypatch.setattr("daskref.client._holdings.id", lambda obj: 7, raising=False)
        x = array(1)
        submit(holdings, x)
        del x
        if told == "before":
            scheduler.run()
        y = array(2)
        second = submit(holdings, y)
        check(holdings, scheduler, 1)  # the death is told at the latest here
        assert scheduler.held == {second.key}
        assert submit(holdings, y) is second
        del y
        check(holdings, scheduler, 0)

    def test_a_death_that_is_told_after_clear(self, holdings, scheduler):
        x = array()
        submit(holdings, x)
        del x
        holdings.clear()
        scheduler.run()
        assert len(holdings) == 0

    def test_a_key_released_while_its_submission_is_open(self, holdings, scheduler):
        with holdings.submission() as submission:
            holdings.put(array())
            holdings.release_key("a")  # of an earlier future with that key
            needed_by(submission, "a")
        check(holdings, scheduler, 1)
        holdings.release_key("a")
        check(holdings, scheduler, 0)

    def test_many_threads(self, holdings, session, scheduler):
        shared = [array(i) for i in range(4)]

        def work(number: int) -> None:
            for i in range(50):
                key = (number, i)
                own = array(100 + i % 5)
                with holdings.submission() as submission:
                    holdings.put(shared[i % 4])
                    holdings.put(own)
                    needed_by(submission, key)
                holdings.release_key(key)

        with ThreadPoolExecutor(8) as executor:
            list(executor.map(work, range(8)))
        gc.collect()
        check(holdings, scheduler, 4)
        shared.clear()
        gc.collect()
        check(holdings, scheduler, 0)
        assert not holdings._by_original
        assert not holdings._by_key
        # whatever was put and not told was evicted again
        told = [m["object"][0] for m in scheduler.messages if m["op"] == "daskref-put"]
        assert set(session.stored) == {*told, *session.evicted}
