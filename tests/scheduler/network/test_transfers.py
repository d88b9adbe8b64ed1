"""Which host fetches an object from which."""

from __future__ import annotations

import pytest

from daskref.scheduler._state import State
from daskref.scheduler._transfers import PATIENCE, SLOW
from tests.support.sites import KEY, Site

QUEUED = {"status": "queued"}


def make(*hosts: str, fan_out: int = 2) -> Site:
    """Return a site where each host has a worker of its name."""
    site = Site(fan_out=fan_out)
    for host in hosts:
        site.worker(host, f"host {host}")
    return site


def add(site: Site, host: str) -> None:
    """Let a host have a copy."""
    site.fetched(host)


def ask(site: Site, process: str, *avoid: str) -> str | None:
    """Return where a process is to fetch, ``None`` if it has to wait."""
    failed = tuple(f"tcp://{host}:1" for host in avoid)
    answer = site.source(process, failed=failed)
    return answer["host"].removeprefix("host ") if "host" in answer else None


def answered(site: Site, process: str) -> str | None:
    answer = site.answers.pop((process, KEY))
    return answer["host"].removeprefix("host ") if "host" in answer else None


def end(site: Site, process: str, copied: bool = True) -> None:
    site.fetched(process, copied)


class TestTurns:
    def test_at_most_so_many_readers_of_a_copy_at_a_time(self) -> None:
        site = make(*"abcd")
        add(site, "a")
        assert ask(site, "b") == "a"
        assert ask(site, "c") == "a"
        assert ask(site, "d") is None
        assert site.ask("d") is None
        end(site, "b")
        # b has sent none yet
        assert answered(site, "d") == "b"

    def test_the_first_to_wait_is_served_first(self) -> None:
        site = make(*"abcd", fan_out=1)
        add(site, "a")
        assert ask(site, "b") == "a"
        assert ask(site, "c") is None
        assert ask(site, "d") is None
        end(site, "b", copied=False)
        # its turn came between two questions
        assert ask(site, "d") is None
        assert ask(site, "c") == "a"

    def test_asking_again_is_answered_the_same(self) -> None:
        site = make(*"abcd")
        add(site, "a")
        for _ in range(5):
            assert ask(site, "b") == "a"
        assert site.state.objects[KEY].copies == {"host a": 1}

    def test_a_source_that_failed_is_avoided(self) -> None:
        site = make(*"abcd")
        add(site, "a")
        add(site, "c")
        first = ask(site, "b")
        assert first is not None
        second = ask(site, "b", first)
        assert {first, second} == {"a", "c"}
        assert ask(site, "b", "a", "c") is None
        add(site, "d")
        assert ask(site, "b", "a", "c") == "d"

    def test_no_host_is_its_own_source(self) -> None:
        site = make("a", "b")
        add(site, "a")
        assert ask(site, "a") is None
        # it would not ask if it had one
        assert not site.copies()

    def test_a_reader_that_hangs_counts_no_more(self) -> None:
        site = make(*"abc", fan_out=1)
        add(site, "a")
        assert ask(site, "b") == "a"
        assert ask(site, "c") is None
        site.pass_time(SLOW)
        assert ask(site, "c") == "a"
        end(site, "b", copied=False)
        end(site, "c", copied=False)
        assert not site.state.objects[KEY].is_moving


class TestWaiting:
    def test_who_comes_later_with_a_copy_serves_who_waits(self) -> None:
        site = make("a", "b")
        assert site.ask("b") is None
        add(site, "a")
        assert answered(site, "b") == "a"

    def test_who_waits_is_told_to_ask_again_after_a_while(self) -> None:
        site = make(*"abc", fan_out=1)
        add(site, "a")
        ask(site, "c")
        assert site.ask("b") is None
        site.pass_time(PATIENCE / 2)
        assert not site.answers
        site.pass_time(PATIENCE / 2)
        assert site.answers.pop(("b", KEY)) == QUEUED
        site.pass_time(PATIENCE)
        assert not site.answers

    def test_who_asks_again_is_answered_once(self) -> None:
        """One thread of a process asks after another one."""
        site = make(*"abc", fan_out=1)
        add(site, "a")
        ask(site, "c")
        assert site.ask("b") is None
        site.pass_time(PATIENCE / 2)
        assert site.ask("b") is None
        site.pass_time(PATIENCE / 2)
        assert not site.answers
        end(site, "c", copied=False)
        assert answered(site, "b") == "a"
        site.pass_time(PATIENCE)
        assert not site.answers

    def test_who_waits_looks_at_once_when_its_own_host_is_given_a_copy(self) -> None:
        site = make("a", "b", "c")
        assert site.ask("b") is None
        site.supplied("client", "host b")
        assert site.answers.pop(("b", KEY)) == QUEUED
        end(site, "b")
        assert ask(site, "c") == "b"

    def test_what_is_deleted_has_no_source(self) -> None:
        site = make("a", "b", "c", fan_out=1)
        add(site, "a")
        site.hold("key", "task")
        ask(site, "c")
        assert site.ask("b") is None
        site.release("key", "task")
        assert site.answers.pop(("b", KEY)) == QUEUED
        assert not site.copies()

    def test_a_reader_that_gives_up_waiting_gets_no_turn(self) -> None:
        site = make(*"abcd", fan_out=1)
        add(site, "a")
        assert ask(site, "b") == "a"
        assert site.ask("c") is None
        assert ask(site, "d") is None
        end(site, "c", copied=False)
        assert site.answers.pop(("c", KEY)) == QUEUED
        end(site, "b", copied=False)
        assert ask(site, "d") == "a"
        end(site, "d", copied=False)
        assert not site.state.objects[KEY].is_moving


class TestProcessesThatLeave:
    def test_a_reader_that_ends_frees_its_source(self) -> None:
        site = make(*"abc", fan_out=1)
        add(site, "a")
        assert ask(site, "b") == "a"
        assert site.ask("c") is None
        site.stop("b")
        assert answered(site, "c") == "a"

    def test_a_waiting_reader_that_ends_is_passed_over(self) -> None:
        site = make(*"abcd", fan_out=1)
        add(site, "a")
        assert ask(site, "b") == "a"
        assert site.ask("c") is None
        assert ask(site, "d") is None
        site.stop("c")
        assert site.answers.pop(("c", KEY)) == QUEUED
        end(site, "b", copied=False)
        assert ask(site, "d") == "a"

    def test_a_source_that_ends_is_replaced(self) -> None:
        site = make(*"abc")
        add(site, "a")
        assert ask(site, "b") == "a"
        add(site, "c")
        site.stop("a")
        assert ask(site, "b") == "c"

    def test_a_source_that_ends_is_given_to_nobody(self) -> None:
        """Though what it was about to fetch, or to give, ends in the same moment."""
        site = make(*"abc", fan_out=1)
        site.worker("neighbour", "host a")
        add(site, "a")
        assert ask(site, "b") == "a"
        assert site.ask("c") is None
        site.stop("b")
        assert answered(site, "c") == "a"
        assert ask(site, "c", "a", "neighbour") is None
        site.stop("a")
        site.stop("neighbour")
        assert ask(site, "c") is None

    def test_whose_source_serves_no_more_gets_another(self) -> None:
        site = make(*"abc")
        site.client("client", "host a")
        add(site, "a")
        assert ask(site, "b") == "a"
        site.stop("a")  # the host lives, by its client
        assert site.copies() == ["host a"]
        assert ask(site, "b") is None
        add(site, "c")
        assert ask(site, "b") == "c"

    def test_a_stranger_is_unheard(self) -> None:
        site = make("a")
        site.fetched("nobody")
        site.stop("nobody")
        assert not site.copies()


class TestNeighbours:
    def test_a_neighbour_that_goes_on_keeps_its_turn(self) -> None:
        """What its predecessor has to say arrives later than its own question."""
        site = make("a", "b", fan_out=1)
        site.client("neighbour", "host b")
        add(site, "a")
        assert ask(site, "b") == "a"
        assert ask(site, "neighbour") == "a"
        end(site, "b", copied=False)
        obj = site.state.objects[KEY]
        assert obj.grants["host b"].process == "neighbour"
        end(site, "neighbour")
        assert not obj.is_moving
        assert site.copies() == ["host a", "host b"]

    def test_a_neighbour_that_waits_keeps_its_place(self) -> None:
        site = make("b")
        site.client("neighbour", "host b")
        assert ask(site, "b") is None
        assert site.ask("neighbour") is None
        end(site, "b", copied=False)
        site.worker("a", "host a")
        add(site, "a")
        assert answered(site, "neighbour") == "a"

    def test_all_who_wait_on_a_host_are_answered(self) -> None:
        site = make("a", "b")
        site.client("neighbour", "host b")
        assert site.ask("b") is None
        assert site.ask("neighbour") is None
        add(site, "a")
        assert answered(site, "b") == answered(site, "neighbour") == "a"
        assert site.state.objects[KEY].grants["host b"].process == "neighbour"


class TestCopies:
    def test_who_does_not_serve_has_copies_but_gives_none(self) -> None:
        site = make("b")
        site.client("client", "host a")
        add(site, "client")
        assert list(site.state.hosts.keys("host a")) == [KEY]
        assert site.ask("b") is None
        site.worker("a", "host a")
        assert answered(site, "b") == "a"

    def test_the_last_process_of_a_host_takes_its_copies(self) -> None:
        site = make("a", "b")
        site.worker("neighbour", "host a")
        two = ("two", 8, "a")
        for process, key in ("a", KEY), ("a", two), ("b", two):
            site.fetched(process, key=key)
        site.stop("a")
        assert site.copies() == ["host a"]
        site.stop("neighbour")
        assert list(site.state.hosts.hosts) == [site.home, "host b"]
        assert list(site.state.objects) == [two]
        assert site.copies(two) == ["host b"]


@pytest.mark.parametrize(("hosts", "rounds"), [(3, 1), (9, 2), (27, 3), (200, 5)])
def test_copies_spread_as_a_tree(hosts: int, rounds: int) -> None:
    names = [str(n) for n in range(hosts)]
    site = make(*names)
    add(site, "0")
    left, seen = set(names[1:]), 0
    while left:
        seen += 1
        found = {host: ask(site, host) for host in sorted(left)}
        fetched = {host for host, source in found.items() if source is not None}
        assert fetched
        for host in fetched:
            end(site, host)
        left -= fetched
    assert seen == rounds
    assert max(site.state.objects[KEY].copies.values()) <= 2 * rounds


def test_without_hosts_nobody_asks() -> None:
    site = Site(home="")
    assert site.ask("worker") == {"status": "left"}
    assert not State().hosts.processes


class TestWhatHostsMoved:
    def moved(self, site: Site, host: str) -> tuple[int, int, int]:
        known = site.state.hosts.hosts[f"host {host}"]
        return known.sent, known.received, known.fetched

    def test_who_sent_and_who_received(self) -> None:
        site = make(*"abc")
        site.hold("key", "task")
        add(site, "a")
        for process, source in ("b", "a"), ("c", "b"):
            assert ask(site, process) == source
            end(site, process)
        assert self.moved(site, "a") == (KEY[1], 0, 0)
        assert self.moved(site, "b") == (KEY[1], KEY[1], 1)
        assert self.moved(site, "c") == (0, KEY[1], 1)

    def test_what_did_not_arrive_counts_not(self) -> None:
        site = make(*"ab")
        site.hold("key", "task")
        add(site, "a")
        ask(site, "b")
        end(site, "b", copied=False)
        assert self.moved(site, "a") == self.moved(site, "b") == (0, 0, 0)

    def test_a_source_that_left_is_no_harm(self) -> None:
        site = make(*"ab")
        site.hold("key", "task")
        add(site, "a")
        ask(site, "b")
        site.stop("a")
        end(site, "b")
        assert self.moved(site, "b")[2] == 1
        site.worker("a", "host a")
        assert self.moved(site, "a") == (0, 0, 0)
