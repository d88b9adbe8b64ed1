"""What is looked up for the page: when, how often, and what comes of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from daskref.scheduler.dashboard import sampling
from daskref.scheduler.dashboard.sampling import Sampler
from tests.support.board import Reports, counted, stored


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What costs nothing is asked many times in no time."""
    monkeypatch.setattr(sampling, "OFTEN", 0.001)
    monkeypatch.setattr(sampling, "SELDOM", 0.001)
    monkeypatch.setattr(sampling, "SHARE", float("inf"))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def run(test: Callable[[Reports, Sampler], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        reports = Reports()
        sampler = Sampler(reports)
        await test(reports, sampler)
        sampler.close()

    asyncio.run(main())


def test_nothing_is_asked_while_nobody_looks() -> None:
    async def test(reports: Reports, sampler: Sampler) -> None:
        nothing = dict(reports.asked)
        await asyncio.sleep(0)
        assert reports.asked == nothing
        sampler.enter()
        sampler.enter()
        await until(lambda: all(reports.asked.values()))
        sampler.leave()  # the other one still looks
        then = dict(reports.asked)
        await until(lambda: all(reports.asked[each] > then[each] for each in then))
        sampler.leave()
        assert len(asyncio.all_tasks()) == 1 + 3
        await until(lambda: len(asyncio.all_tasks()) == 1)

    run(test)


def test_those_who_look_share_what_is_asked() -> None:
    async def test(reports: Reports, sampler: Sampler) -> None:
        for _ in range(5):
            sampler.enter()
        assert len(asyncio.all_tasks()) == 1 + 3

    run(test)


def test_nothing_is_asked_any_more_once_it_is_switched_off() -> None:
    async def test(reports: Reports, sampler: Sampler) -> None:
        sampler.enter()
        await until(lambda: sampler.stats)
        sampler.close()
        sampler.enter()  # a page that was just opened
        await until(lambda: len(asyncio.all_tasks()) == 1)
        sampler.leave()
        sampler.leave()
        assert sampler.ended

    run(test)


def test_what_costs_more_is_asked_less_often(monkeypatch: Any) -> None:
    async def test(reports: Reports, sampler: Sampler) -> None:
        reports.of_stores = [stored("a"), {**stored("b"), "seconds": 60.0}]
        sampler.enter()
        await until(lambda: reports.asked["stores"])
        then = reports.asked["largest"]
        monkeypatch.setattr(sampling, "SHARE", float("inf"))
        await until(lambda: reports.asked["largest"] > then + 10)
        assert reports.asked["stores"] == 1

    monkeypatch.setattr(sampling, "SHARE", 1.0)
    run(test)


def test_what_fails_leaves_the_rest(monkeypatch: Any) -> None:
    async def fail() -> Any:
        raise OSError("a host does not answer")

    async def test(reports: Reports, sampler: Sampler) -> None:
        sampler.enter()
        await until(lambda: sampler.stats)
        monkeypatch.setattr(reports, "stores", fail)
        reports.objects = [({"key": "k"}, 1)]
        turn = sampler.turn
        await until(lambda: sampler.objects and sampler.turn > turn + 10)
        assert sampler.stats is not None
        assert set(sampler.stats["hosts"]) == {"a"}

    run(test)


def test_counts_are_shown_where_no_store_answers(monkeypatch: Any) -> None:
    async def fail() -> Any:
        raise OSError("the store does not answer")

    async def test(reports: Reports, sampler: Sampler) -> None:
        monkeypatch.setattr(reports, "stores", fail)
        reports.of_processes = [counted("p", "a", gets=5)]
        sampler.enter()
        await until(lambda: sampler.stats)
        assert sampler.stats is not None
        assert sampler.stats["gets"] == 5

    run(test)


def test_rates_are_what_was_added_between_two_answers() -> None:
    async def test(reports: Reports, sampler: Sampler) -> None:
        reports.of_processes = [counted("p", "a", gets=5)]
        sampler.enter()
        await until(lambda: len(sampler.rates) > 2)
        assert not any(each.gets for each in sampler.rates)  # those were before
        reports.of_processes = [counted("p", "a", gets=7, bytes_kept=100, gpu=1)]
        await until(lambda: sampler.rates[-1].gets)
        (found,) = [each for each in sampler.rates if each.gets]
        assert found.bytes_kept / found.gets == pytest.approx(50)
        assert found.inband / found.gets == pytest.approx(0.5)
        assert not found.puts

    run(test)


def test_a_count_that_shrinks_is_no_rate() -> None:
    async def test(reports: Reports, sampler: Sampler) -> None:
        reports.of_processes = [counted("p", "a", gets=5), counted("q", "a", gets=5)]
        sampler.enter()
        await until(lambda: sampler.rates)
        reports.of_processes.pop()
        turn = sampler.turn
        await until(lambda: sampler.turn > turn + 10)
        assert sampler.stats is not None
        assert sampler.stats["gets"] == 5
        assert not any(each.gets for each in sampler.rates)

    run(test)


def test_there_are_no_rates_of_the_time_for_which_nobody_looked() -> None:
    async def test(reports: Reports, sampler: Sampler) -> None:
        sampler.enter()
        await until(lambda: sampler.rates)
        sampler.leave()
        reports.puts = 100
        sampler.enter()
        assert not sampler.rates
        await until(lambda: sampler.rates)
        assert not any(each.puts for each in sampler.rates)

    run(test)


def test_rates_are_of_the_last_minutes() -> None:
    async def test(reports: Reports, sampler: Sampler) -> None:
        sampler.enter()
        await until(lambda: sampler.turn > 3 * sampling.HISTORY + 50)
        assert len(sampler.rates) <= sampling.HISTORY

    run(test)
    gc.collect()
