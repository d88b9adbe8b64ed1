"""Whom the scheduler names to a reader on another host."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tests.support.sites import HOSTS, KEY, A, B, Site, run


class TestSource:
    def test_found_with_where_the_host_serves(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY)
        answer = run(lambda: site.source("two"))
        endpoints = ["tcp://one:1"]
        assert answer == {"status": "found", "host": A, "endpoints": endpoints}

    def test_queued_while_those_who_have_it_are_busy(self, site: Site) -> None:
        async def test() -> None:
            for name, host in zip(["one", "two", "three", "four"], "abcd", strict=True):
                site.worker(name, HOSTS[host])
            site.put(KEY)
            assert (await site.source("two"))["status"] == "found"
            assert (await site.source("three"))["status"] == "found"
            assert await site.source("four") == {"status": "queued"}
            site.network.on_fetched(KEY, True, worker="two")
            assert (await site.source("four"))["host"] == B

        run(test)

    def test_none_once_all_who_have_it_have_failed(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY)
        failed = ["tcp://one:1"]
        assert run(lambda: site.source("two", failed=failed)) == {"status": "none"}

    @pytest.mark.parametrize("last", [False, True])
    def test_who_has_left_is_told_so(self, site: Site, last: bool) -> None:
        site.worker("one", A)
        site.put(KEY)
        assert run(lambda: site.source("two", last=last)) == {"status": "left"}

    def test_what_nobody_has_told_of_is_where_it_was_put(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        assert run(lambda: site.source("two"))["host"] == A
        assert site.network.copies("two", KEY) == [(A, ["tcp://one:1"])]

    def test_who_gives_up_is_told_who_did_not_give_it(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY, "key", "task")
        answer = run(lambda: site.source("two", last=True))
        assert answer["status"] == "lost"
        assert not answer["recomputed"]
        assert A[:8] in answer["reason"]
        assert "8 B" in answer["reason"]
        assert not site.scheduler.recommended

    def test_a_result_that_nobody_gives_is_computed_again(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        for _ in range(2):
            answer = run(lambda: site.source("two", last=True))
            assert answer["recomputed"]
        assert site.scheduler.recommended == [{"task": "released"}]

    def test_scattered_data_is_not_computed_again(self, site: Site) -> None:
        """Its readers would be told so forever."""
        site.worker("one", A)
        site.worker("two", B)
        site.result("task", run_spec=None)
        answer = run(lambda: site.source("two", last=True))
        assert not answer["recomputed"]
        assert not site.scheduler.recommended

    def test_the_scheduler_itself_may_ask_and_tell(self, site: Site) -> None:
        async def test() -> None:
            site.worker("one", A)
            site.put(KEY)
            loop = SimpleNamespace(
                asyncio_loop=asyncio.get_running_loop(),
                add_callback=lambda callback, **rest: callback(**rest),
            )
            locator = site.network.locator(loop)
            found = await asyncio.to_thread(locator.sources, KEY, lambda: None)
            assert [each.host for each in found] == [A]
            assert locator.copies(KEY)[0].host == A  # it may not wait here
            copies = await asyncio.to_thread(locator.copies, KEY)
            assert [each.host for each in copies] == [A]
            locator.ended(KEY, True)
            assert site.network.locations.copies(KEY) == [A, site.home]

        run(test)
