"""Results that stay while they are computed again, without a scheduler."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daskref.scheduler import _lostresults as module
from daskref.scheduler._holders import Holder, Holders
from daskref.scheduler._lostresults import LostResults

KEY, OTHER = ("name", 10), ("other", 20)


class Site:
    """A table of holders, and what was deleted."""

    def __init__(self) -> None:
        self.holders = Holders()
        self.evicted: list[Any] = []
        self.lost = LostResults(self.holders, self.evicted.extend)
        self.holders.hold(Holder("result", "x"), KEY, 10)

    def release(self) -> None:
        """Do what the plugin does as a result goes."""
        self.evicted += self.holders.release(Holder("result", "x"))


def run(test: Any) -> None:
    async def main() -> None:
        await test(Site())

    asyncio.run(main())


def test_stay_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOST", 0.01)

    async def test(site: Site) -> None:
        site.lost.keep("x")
        site.release()
        assert not site.evicted
        async with asyncio.timeout(10):
            while not site.evicted:
                await asyncio.sleep(0.005)
        assert site.evicted == [KEY]

    run(test)


def test_until_their_task_is_forgotten() -> None:
    async def test(site: Site) -> None:
        site.lost.keep("x")
        site.release()
        site.lost.forget("y")
        assert not site.evicted
        site.lost.forget("x")
        assert site.evicted == [KEY]
        site.lost.forget("x")

    run(test)


def test_lost_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(site: Site) -> None:
        site.lost.keep("x")
        site.release()
        site.holders.hold(Holder("result", "x"), OTHER, 20)
        site.lost.keep("x")
        site.release()
        site.lost.forget("x")
        assert sorted(site.evicted) == [KEY, OTHER]

    run(test)


def test_nothing_of_a_result_that_was_not_stored() -> None:
    async def test(site: Site) -> None:
        site.lost.keep("y")
        site.lost.forget("y")
        assert not site.evicted
        site.lost.close()

    run(test)
