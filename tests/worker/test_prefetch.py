"""What tasks need that wait, fetched ahead: bounded, in order, and given up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from daskref.exceptions import ConnectorUnavailableError
from daskref.worker import _prefetch as module
from daskref.worker._prefetch import Ahead
from tests.support.common import wait_until

HOST = "a" * 32


def key(n: int, nbytes: int = 10) -> Any:
    return (f"{n:032x}", nbytes, HOST)


class FakeConnector:
    """Says what it was asked to fetch; fetches once it is let."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.done: list[Any] = []
        self.let = threading.Event()
        self.error: Exception | None = None

    def get(self, wanted: Any) -> None:
        self.begun.append(wanted)
        assert self.let.wait(10)
        if self.error is not None:
            raise self.error
        self.done.append(wanted)


@pytest.fixture
def connector() -> Iterator[FakeConnector]:
    connector = FakeConnector()
    yield connector
    connector.let.set()


@pytest.fixture
def ahead(connector: FakeConnector) -> Iterator[Ahead]:
    ahead = Ahead(connector, 30)  # type: ignore[arg-type]
    yield ahead
    connector.let.set()
    ahead.close()
    check_empty(ahead)
    until_ended()


def check_empty(ahead: Ahead) -> None:
    """Assert that nothing is remembered of any task."""
    assert ahead.nbytes == 0
    assert not any([ahead._waiting, ahead._fetched, ahead._uses, ahead._fetches])


def until_ended() -> None:
    """Wait until a closed one has no threads any more."""

    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    wait_until(lambda: "daskref-ahead" not in names(), "the end of transfers")


def until_done(connector: FakeConnector, count: int) -> None:
    connector.let.set()
    wait_until(lambda: len(connector.done) == count, f"{count} fetched")


def test_fetches_what_a_task_needs(ahead: Ahead, connector: FakeConnector) -> None:
    ahead.add("task", [key(1), key(2)])
    assert ahead.nbytes == 20
    until_done(connector, 2)
    assert set(connector.done) == {key(1), key(2)}
    assert ahead.nbytes == 20  # until it begins
    ahead.begun("task")
    check_empty(ahead)


def test_no_more_than_fits_until_tasks_begin(
    ahead: Ahead, connector: FakeConnector
) -> None:
    connector.let.set()
    for n in range(5):
        ahead.add(n, [key(n)])
    assert ahead.nbytes == 30
    until_done(connector, 3)
    ahead.begun(0)
    until_done(connector, 4)
    assert ahead.nbytes == 30
    assert set(connector.done) == {key(n) for n in range(4)}
    ahead.begun(3)
    until_done(connector, 5)
    for n in (1, 2, 4):
        ahead.begun(n)
    check_empty(ahead)


def test_in_the_order_in_which_tasks_came(
    connector: FakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_A_TIME", 1)
    ahead = Ahead(connector, 100)  # type: ignore[arg-type]
    for n in range(5):
        ahead.add(n, [key(n)])
    until_done(connector, 5)
    assert connector.done == [key(n) for n in range(5)]
    ahead.close()


def test_who_is_too_large_holds_up_those_behind_until_it_begins(
    ahead: Ahead, connector: FakeConnector
) -> None:
    ahead.add("large", [key(1, 31)])
    ahead.add("small", [key(2)])
    assert ahead.nbytes == 0
    ahead.begun("large")
    assert ahead.nbytes == 10
    until_done(connector, 1)
    assert connector.done == [key(2)]


def test_what_several_tasks_need_is_fetched_once(
    ahead: Ahead, connector: FakeConnector
) -> None:
    ahead.add("one", [key(1)])
    ahead.add("two", [key(1)])
    ahead.add("two", [key(1), key(2)])
    assert ahead.nbytes == 20
    until_done(connector, 2)
    ahead.begun("one")
    assert ahead.nbytes == 20
    ahead.begun("two")
    ahead.begun("two")  # silent
    check_empty(ahead)
    assert sorted(connector.begun) == [key(1), key(2)]


def test_what_arrives_later_for_a_task_counts(
    ahead: Ahead, connector: FakeConnector
) -> None:
    """A result of another worker, say, beside the task's own reference."""
    ahead.add("task", [key(1)])
    ahead.add("task", [key(2)])
    assert ahead.nbytes == 20
    ahead.begun("task")
    check_empty(ahead)


def test_a_task_that_is_cancelled_is_not_fetched_for(
    ahead: Ahead, connector: FakeConnector
) -> None:
    for n in range(3):
        ahead.add(n, [key(n)])
    wait_until(lambda: len(connector.begun) == 2, "two under way")
    ahead.begun(2)
    until_done(connector, 2)
    ahead.add(3, [key(3)])
    until_done(connector, 3)
    assert key(2) not in connector.begun
    for n in (0, 1, 3):
        ahead.begun(n)
    check_empty(ahead)


def test_failures_are_left_to_the_task(
    ahead: Ahead, connector: FakeConnector, caplog: pytest.LogCaptureFixture
) -> None:
    connector.error = ConnectorUnavailableError("store", "its host does not answer")
    ahead.add("one", [key(1)])
    fetch = ahead._fetches[key(1)]
    connector.let.set()
    assert fetch.exception(10) is None
    assert not caplog.records
    ahead.begun("one")
    check_empty(ahead)


def test_a_mistake_of_ours_is_said(
    ahead: Ahead, connector: FakeConnector, caplog: pytest.LogCaptureFixture
) -> None:
    connector.error = RuntimeError("a mistake")
    ahead.add("one", [key(1)])
    fetch = ahead._fetches[key(1)]
    connector.let.set()
    assert fetch.exception(10) is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_closed_one_fetches_nothing_more(
    ahead: Ahead, connector: FakeConnector
) -> None:
    for n in range(5):
        ahead.add(n, [key(n)])
    wait_until(lambda: len(connector.begun) == 2, "two under way")
    ahead.close()
    check_empty(ahead)
    ahead.add("late", [key(9)])
    ahead.begun(0)  # tasks that had waited
    check_empty(ahead)
    connector.let.set()
    until_ended()
    assert len(connector.begun) == 2
    ahead.close()
