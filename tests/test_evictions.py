"""Deleting from the scheduler's own store, without a scheduler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daskref.config import Settings
from daskref.plugins.evictions import Evictions
from daskref.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session.create(Settings.read(connector="shm://", shm_root=str(tmp_path)))
    yield session
    session.leave()


def test_in_batches_and_all_of_them_before_it_ends(session: Session) -> None:
    batches: list[list[Any]] = []

    async def test() -> None:
        evictions = Evictions(session, lambda keys: batches.append(list(keys)))
        await evictions.finish()  # nothing to do
        evictions.add([("a", 1)])
        evictions.add([("b", 1)])
        assert list(evictions) == [("a", 1), ("b", 1)]
        await asyncio.sleep(0)
        evictions.add([("c", 1)])
        await evictions.finish()
        assert not list(evictions)

    asyncio.run(test())
    assert batches == [[("a", 1), ("b", 1)], [("c", 1)]]


def test_a_failure_does_not_keep_others(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    evicted: list[Any] = []

    def evict(keys: Any) -> None:
        if not evicted:
            evicted.append("failed")
            raise OSError("no")
        evicted.extend(keys)

    async def test() -> None:
        evictions = Evictions(session, evict)
        with caplog.at_level(logging.ERROR):
            evictions.add([("a", 1)])
            await evictions.finish()
        evictions.add([("b", 1)])
        await evictions.finish()

    asyncio.run(test())
    assert evicted == ["failed", ("b", 1)]
    assert "the next reconciliation tries again" in caplog.text


def test_sweeps_neither_what_is_held_nor_what_is_to_be_deleted(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Any] = []

    def sweep(known: list[Any], grace: float) -> list[Any]:
        swept.append((known, grace))
        return [("stray", 1)]

    assert session.store is not None
    monkeypatch.setattr(session.store.connector, "sweep", sweep)

    async def test() -> None:
        evictions = Evictions(session, lambda keys: None)
        evictions.add([("going", 1)])
        await evictions.sweep([("held", 1)], 7.0)
        await evictions.finish()

    asyncio.run(test())
    assert swept == [([("held", 1), ("going", 1)], 7.0)]
    assert session.report()["evictions"] == 1
