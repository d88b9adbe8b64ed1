"""Objects that are bound to Dask's keys: kept by leases, deleted with the last key."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daskref.connectors import FileConnector, LocalConnector
from daskref.lifetimes.bound import ATTEMPTS, BoundObjects
from daskref.store import Store
from tests.support.common import wait_until
from tests.support.forks import forked

LEASE, PAUSE = 600.0, 30.0


class Leased(LocalConnector):
    """Notes the leases that are written."""

    renewed: list[tuple[Any, float]]

    def renew(self, key: Any, seconds: float) -> bool:
        self.__dict__.setdefault("renewed", []).append((key, seconds))
        return super().renew(key, seconds)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(f"s-{uuid.uuid4().hex}", Leased(), register=True) as store:
        yield store


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bound(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> BoundObjects:
    """Without a thread: the tests do the work."""
    bound = BoundObjects(LEASE, PAUSE, clock)
    monkeypatch.setattr(bound._background, "call", lambda: True)
    return bound


def test_the_last_holder_deletes(bound: BoundObjects, store: Store) -> None:
    keys = [store.put(i) for i in range(3)]
    bound.hold("one", store.config(), keys)
    bound.hold("two", store.config(), keys[:1])
    bound.release("one", keys)
    bound.release("nobody", keys)
    bound.work()
    assert [store.exists(key) for key in keys] == [True, False, False]
    bound.release("two", keys)
    assert bound.work() is None
    assert not store.exists(keys[0])
    assert len(bound) == 0


def test_leases_are_renewed_three_times_each(
    bound: BoundObjects, store: Store, clock: Clock
) -> None:
    key = store.put(1)
    bound.hold("one", store.config(), [key])
    assert bound.work() == LEASE / 3
    renewed = store.connector.renewed  # type: ignore[attr-defined]
    assert renewed == [(key, LEASE)]
    clock.now += LEASE / 3 - 1
    assert bound.work() == 1
    assert len(renewed) == 1
    clock.now += 1
    assert bound.work() == LEASE / 3
    assert len(renewed) == 2


def test_what_nobody_will_hear_of_goes_with_its_lease(
    bound: BoundObjects, store: Store, clock: Clock
) -> None:
    key = store.put(1)
    bound.hold("one", store.config(), [key])
    bound.work()
    bound.release("one", [key], left=True)
    assert bound.work() == LEASE
    assert store.exists(key)
    clock.now += LEASE
    assert bound.work() is None
    assert not store.exists(key)


def test_held_again_before_it_went(bound: BoundObjects, store: Store) -> None:
    key = store.put(1)
    bound.hold("one", store.config(), [key])
    bound.release("one", [key])
    bound.hold("two", store.config(), [key])
    bound.work()
    assert store.exists(key)


def test_a_store_that_is_not_registered_is_open_for_the_time_only(
    bound: BoundObjects, tmp_path: Path
) -> None:
    with Store("apart", FileConnector(tmp_path)) as store:
        key, kept = store.put(1), store.put(2)
        bound.hold("one", store.config(), [key])
        bound.release("one", [key])
        bound.work()
        assert not store.exists(key)
        assert store.get(kept) == 2


def test_a_registered_store_is_used_if_it_is_the_same_place(
    bound: BoundObjects,
) -> None:
    with Store("same", LocalConnector()) as store:
        key = store.put(1)
        # of the same name, with other objects
        with Store("same", LocalConnector(), register=True) as other:
            bound.hold("one", store.config(), [key])
            bound.release("one", [key])
            bound.work()
            assert not store.exists(key)
            assert other.put(1)


def test_failures_are_tried_again_and_do_not_hold_up_others(
    bound: BoundObjects,
    store: Store,
    clock: Clock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Store("lost", FileConnector(tmp_path)) as gone:
        lost = gone.put(1)
    key = store.put(1)
    bound.hold("one", gone.config(), [lost])
    bound.hold("one", store.config(), [key])
    bound.release("one", [lost, key])
    for _ in range(ATTEMPTS - 1):
        assert bound.work() == PAUSE
        assert not store.exists(key)
        assert not caplog.records
        clock.now += PAUSE
    assert bound.work() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "could not be deleted in 5 attempts" in record.getMessage()


def test_a_lease_that_cannot_be_renewed_is_no_error(
    bound: BoundObjects, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store("lost", FileConnector(tmp_path)) as gone:
        lost = gone.put(1)
    bound.hold("one", gone.config(), [lost])
    assert bound.work() == LEASE / 3
    assert not caplog.records


def test_a_forked_child_has_none(bound: BoundObjects, store: Store) -> None:
    key = store.put(1)
    bound.hold("one", store.config(), [key])
    assert forked(lambda: not len(bound)) == "fine"
    assert len(bound) == 1


def test_the_thread_ends_with_the_last_object(store: Store) -> None:
    bound = BoundObjects(LEASE, PAUSE)
    key = store.put(1)
    bound.hold("one", store.config(), [key])
    wait_until(lambda: "renewed" in vars(store.connector), "the lease is written")
    bound.release("one", [key])
    wait_until(lambda: not store.exists(key), "deleted")
    wait_until(lambda: not bound._background.running, "no thread")
