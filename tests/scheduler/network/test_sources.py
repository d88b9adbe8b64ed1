"""Whom the scheduler names to a reader on another host."""

from __future__ import annotations

import pytest

from tests.support.sites import HOSTS, KEY, A, B, Site


class TestSource:
    def test_found_with_where_the_host_serves(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY)
        answer = site.source("two")
        endpoints = ["tcp://one:1"]
        assert answer == {"status": "found", "host": A, "endpoints": endpoints}

    def test_queued_while_those_who_have_it_are_busy(self, site: Site) -> None:
        for name, host in zip(["one", "two", "three", "four"], "abcd", strict=True):
            site.worker(name, HOSTS[host])
        site.put(KEY)
        assert site.source("two")["status"] == "found"
        assert site.source("three")["status"] == "found"
        assert site.source("four") == {"status": "queued"}
        site.fetched("two")
        assert site.source("four")["host"] == B

    def test_none_once_all_who_have_it_have_failed(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY)
        failed = ("tcp://one:1",)
        assert site.source("two", failed=failed) == {"status": "none"}

    @pytest.mark.parametrize("last", [False, True])
    def test_who_has_left_is_told_so(self, site: Site, last: bool) -> None:
        site.worker("one", A)
        site.put(KEY)
        assert site.source("two", last=last) == {"status": "left"}

    def test_what_nobody_has_told_of_is_where_it_was_put(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        assert site.source("two")["host"] == A
        assert site.state.copies(KEY) == [(A, ["tcp://one:1"])]

    def test_what_is_not_where_it_was_put_was_deleted(self, site: Site) -> None:
        """Nobody waits for it: a task that nobody wants any more may ask, say."""
        site.worker("one", A)
        site.worker("two", B)
        assert site.source("one")["status"] == "lost"
        site.put(KEY, "key", "task")  # or it has a holder, and may come back
        assert site.source("one")["status"] != "lost"

    def test_who_gives_up_is_told_who_did_not_give_it(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY, "key", "task")
        answer = site.source("two", last=True)
        assert answer["status"] == "lost"
        assert not answer["recomputed"]
        assert A[:8] in answer["reason"]
        assert "8 B" in answer["reason"]
        assert not site.recomputed

    def test_who_gives_up_has_no_word_for_who_waits(self, site: Site) -> None:
        """Two threads of a process, say."""
        site.worker("one", A)
        site.worker("two", B)
        site.put(KEY, "key", "task")
        assert site.ask("two", failed=("tcp://one:1",)) is None
        assert site.ask("two", last=True)["status"] == "lost"
        assert not site.answers
        site.worker("three", HOSTS["c"])
        site.fetched("three")
        assert site.answers.pop(("two", KEY))["host"] == HOSTS["c"]

    def test_a_result_that_nobody_gives_is_computed_again(self, site: Site) -> None:
        site.worker("one", A)
        site.worker("two", B)
        site.result("task")
        for _ in range(2):
            answer = site.source("two", last=True)
            assert answer["recomputed"]
        assert site.recomputed == ["task"]

    def test_scattered_data_is_not_computed_again(self, site: Site) -> None:
        """Its readers would be told so forever."""
        site.worker("one", A)
        site.worker("two", B)
        site.result("task", computable=False)
        answer = site.source("two", last=True)
        assert not answer["recomputed"]
        assert not site.recomputed
