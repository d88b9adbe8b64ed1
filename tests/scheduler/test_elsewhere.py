"""Deleting objects in stores that users made, on the scheduler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daskref.connectors import FileConnector, LocalConnector
from daskref.objects.reference import StoreConfig
from daskref.scheduler._elsewhere import ATTEMPTS, Elsewhere, ElsewhereObjects
from daskref.store import Store
from daskref.store.registry import config_of, tell

SESSION = StoreConfig("session", "none", ())


async def run(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def described(store: Store, key: Any, **secrets: Any) -> tuple[Elsewhere, bytes]:
    place, obj, nbytes, how = tell(key, 10, config_of(store), SESSION, secrets)
    assert nbytes == 10
    return Elsewhere(place, obj), how


async def until(condition: Callable[[], Any]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), 20)


def test_a_store_is_open_only_while_there_are_objects_in_it(tmp_path: Path) -> None:
    async def test() -> None:
        objects = ElsewhereObjects(run)
        with Store("s", FileConnector(tmp_path)) as store:
            keys = [store.put(i) for i in range(4)]
            told = [described(store, key) for key in keys[:3]]
            assert len({obj for obj, _ in told}) == 3
            assert len({obj.place for obj, _ in told}) == 1
            for obj, how in told:
                objects.add(obj, how)
            assert not objects._stores
            objects.evict([told[0][0], told[1][0], told[0][0]])
            await until(lambda: not store.exists(keys[1]))
            await until(lambda: objects._evicting is None)
            assert [store.exists(key) for key in keys] == [False, False, True, True]
            assert len(objects._stores) == 1  # the session lives while one is left
            objects.evict([told[2][0]])
            await until(lambda: not objects._stores)
            assert [store.exists(key) for key in keys] == [False] * 3 + [True]
        await objects.close()

    asyncio.run(test())


def test_a_registered_store_is_used_if_it_is_the_same_place() -> None:
    async def test() -> None:
        objects = ElsewhereObjects(run)
        with Store("same", LocalConnector()) as store:
            key = store.put(1)
            obj, how = described(store, key)
            # of the same name, with other objects
            with Store("same", LocalConnector(), register=True) as other:
                objects.add(obj, how)
                objects.evict([obj])
                await until(lambda: not store.exists(key))
                await until(lambda: objects._evicting is None)
                assert other.put(1)
        await objects.close()

    asyncio.run(test())


def test_failures_are_tried_again_and_do_not_hold_up_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        objects = ElsewhereObjects(run)
        with Store("lost", FileConnector(tmp_path)) as store:
            lost, how = described(store, store.put(1))
        objects.add(lost, how)
        with Store("here", LocalConnector()) as store:
            key = store.put(1)
            here, how = described(store, key)
            objects.add(here, how)
            objects.evict([lost, here])
            await until(lambda: not store.exists(key))
            await until(lambda: objects._evicting is None)
        assert len(objects) == 1
        for _ in range(ATTEMPTS - 1):
            assert not caplog.records
            objects.retry()
            await until(lambda: objects._evicting is None)
        assert len(objects) == 0
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "could not be deleted in 5 attempts" in record.getMessage()
        objects.retry()
        await objects.close()
        assert len(caplog.records) == 1

    asyncio.run(test())


def test_what_is_left_goes_at_the_end() -> None:
    async def test() -> None:
        objects = ElsewhereObjects(run)
        with Store("s", LocalConnector()) as store:
            keys = [store.put(i) for i in range(3)]
            told = [described(store, key) for key in keys]
            for obj, how in told:
                objects.add(obj, how)
            objects.forget([told[1][0]])
            await objects.close()
            assert [store.exists(key) for key in keys] == [False, True, False]

    asyncio.run(test())


def test_credentials_are_known_before_the_store_is_opened(tmp_path: Path) -> None:
    from daskref.connectors.credentials import recall

    async def test() -> None:
        objects = ElsewhereObjects(run)
        with Store("s", FileConnector(tmp_path)) as store:
            place = f"redis://{tmp_path.name}"
            obj, how = described(store, store.put(1), **{place: {"password": "x"}})
            objects.add(obj, how)
            assert recall(place) == {}
            objects.evict([obj])
            await objects.close()
            assert recall(place) == {"password": "x"}

    asyncio.run(test())
