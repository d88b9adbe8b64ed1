"""Which hosts have an object, and who fetches it from whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from daskref.scheduler._locations import Locations

KEY = ("name", 8, "a")


def make(*hosts: str, fan_out: int = 2) -> Locations:
    locations = Locations(fan_out)
    for host in hosts:
        locations.join(f"worker-{host}", host, f"host {host}", f"tcp://{host}:1")
    return locations


def run(func: Callable[[], Any]) -> Any:
    return asyncio.run(func())


def ask(locations: Locations, host: str, *avoid: str, patience: float = 0.0) -> Any:
    return locations.source(KEY, f"worker-{host}", avoid, patience)


class TestHosts:
    def test_processes_of_a_host(self) -> None:
        locations = make("a")
        locations.join("client", "a", "host a", None)
        assert locations.hosts() == ["a"]
        assert locations.host_of("client") == "a"
        assert locations.processes("a") == ["worker-a", "client"]
        assert locations.endpoints("a") == ["tcp://a:1"]
        assert locations.processes("b") == locations.endpoints("b") == []

    def test_the_last_process_of_a_host_takes_its_copies(self) -> None:
        locations = make("a", "b")
        locations.join("neighbour", "a", "host a", "tcp://a:2")
        locations.add(KEY, "a")
        locations.add(("two", 8, "a"), "a")
        locations.add(("two", 8, "a"), "b")
        assert locations.leave("worker-a") == ("", [])
        assert locations.leave("neighbour") == ("host a", [KEY])
        assert locations.hosts() == ["b"]
        assert KEY not in locations
        assert locations.copies(("two", 8, "a")) == ["b"]
        assert locations.leave("neighbour") == ("", [])

    def test_who_does_not_serve_has_copies_but_gives_none(self) -> None:
        locations = make("b")
        locations.join("client", "a", "host a", None)
        locations.add(KEY, "a")
        assert locations.keys("a") == {KEY}
        assert not locations.is_served(KEY)
        locations.join("worker-a", "a", "host a", "tcp://a:1")
        assert locations.is_served(KEY)
        assert not locations.is_served(KEY, avoid=["a"])


class TestCopies:
    def test_discarded_with_the_hosts_to_tell(self) -> None:
        locations = make("a", "b")
        locations.add(KEY, "a")
        locations.add(KEY, "b")
        assert locations.discard([KEY, ("other", 1, "a")]) == {"a": [KEY], "b": [KEY]}
        assert KEY not in locations
        assert not locations.keys("a")

    def test_iterates_over_objects(self) -> None:
        locations = make("a")
        locations.add(KEY, "a")
        assert list(locations) == [KEY]


class TestSource:
    def test_at_most_so_many_readers_of_a_copy_at_a_time(self) -> None:
        async def test() -> None:
            locations = make(*"abcd")
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            assert await ask(locations, "c") == "a"
            assert await ask(locations, "d") is None
            waiting = asyncio.create_task(ask(locations, "d", patience=5))
            await asyncio.sleep(0)
            locations.finished(KEY, "worker-b", True)
            # b has sent none yet
            assert await waiting == "b"

        run(test)

    def test_the_first_to_wait_is_served_first(self) -> None:
        async def test() -> None:
            locations = make(*"abcd", fan_out=1)
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            assert await ask(locations, "c") is None
            assert await ask(locations, "d") is None
            locations.finished(KEY, "worker-b", False)
            # its turn came between two questions
            assert await ask(locations, "d") is None
            assert await ask(locations, "c") == "a"

        run(test)

    def test_asking_again_is_answered_the_same(self) -> None:
        async def test() -> None:
            locations = make(*"abcd")
            locations.add(KEY, "a")
            for _ in range(5):
                assert await ask(locations, "b") == "a"
            assert locations.sent(KEY) == {"a": 1}

        run(test)

    def test_a_source_that_failed_is_avoided(self) -> None:
        async def test() -> None:
            locations = make(*"abcd")
            locations.add(KEY, "a")
            locations.add(KEY, "c")
            first = await ask(locations, "b")
            second = await ask(locations, "b", first)
            assert {first, second} == {"a", "c"}
            assert await ask(locations, "b", "a", "c") is None
            locations.add(KEY, "d")
            assert await ask(locations, "b", "a", "c") == "d"

        run(test)

    def test_no_host_is_its_own_source(self) -> None:
        async def test() -> None:
            locations = make("a", "b")
            locations.add(KEY, "a")
            assert await ask(locations, "a") is None
            # it would not ask if it had one
            assert not locations.copies(KEY)

        run(test)

    def test_who_comes_later_with_a_copy_serves_who_waits(self) -> None:
        async def test() -> None:
            locations = make("a", "b")
            waiting = asyncio.create_task(ask(locations, "b", patience=5))
            await asyncio.sleep(0)
            locations.add(KEY, "a")
            assert await waiting == "a"

        run(test)

    def test_who_waits_looks_at_once_when_its_own_host_is_given_a_copy(self) -> None:
        async def test() -> None:
            locations = make("a", "b", "c")
            waiting = asyncio.create_task(ask(locations, "b", patience=600))
            await asyncio.sleep(0)
            locations.add(KEY, "b")
            assert await asyncio.wait_for(waiting, 5) is None
            locations.finished(KEY, "worker-b", True)
            assert await ask(locations, "c") == "b"

        run(test)

    def test_a_reader_that_ends_frees_its_source(self) -> None:
        async def test() -> None:
            locations = make(*"abc", fan_out=1)
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            waiting = asyncio.create_task(ask(locations, "c", patience=5))
            await asyncio.sleep(0)
            locations.leave("worker-b")
            assert await waiting == "a"

        run(test)

    def test_a_waiting_reader_that_ends_is_passed_over(self) -> None:
        async def test() -> None:
            locations = make(*"abcd", fan_out=1)
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            assert await ask(locations, "c") is None
            assert await ask(locations, "d") is None
            locations.leave("worker-c")
            locations.finished(KEY, "worker-b", False)
            assert await ask(locations, "d") == "a"

        run(test)

    def test_a_source_that_ends_is_replaced(self) -> None:
        async def test() -> None:
            locations = make(*"abc")
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            locations.add(KEY, "c")
            locations.leave("worker-a")
            assert await ask(locations, "b") == "c"

        run(test)

    def test_what_is_discarded_has_no_source(self) -> None:
        async def test() -> None:
            locations = make(*"ab")
            waiting = asyncio.create_task(ask(locations, "b", patience=5))
            await asyncio.sleep(0)
            locations.discard([KEY])
            assert await waiting is None

        run(test)

    def test_a_reader_that_gives_up_waiting_gets_no_turn(self) -> None:
        async def test() -> None:
            locations = make(*"abcd", fan_out=1)
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            assert await ask(locations, "c") is None
            assert await ask(locations, "d") is None
            locations.finished(KEY, "worker-c", False)
            locations.finished(KEY, "worker-b", False)
            assert await ask(locations, "d") == "a"
            locations.finished(KEY, "worker-d", False)
            assert not locations._waiting
            assert not locations._grants

        run(test)

    def test_a_reader_that_hangs_counts_no_more(self) -> None:
        async def test() -> None:
            locations = Locations(1, slow=0.0)
            for host in "abc":
                locations.join(f"worker-{host}", host, "", f"tcp://{host}:1")
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            assert await ask(locations, "c") == "a"
            locations.finished(KEY, "worker-b", False)
            locations.finished(KEY, "worker-c", False)
            assert not locations._copies[KEY]["a"].readers

        run(test)

    def test_a_neighbour_that_goes_on_keeps_its_turn(self) -> None:
        """What its predecessor has to say arrives later than its own question."""

        async def test() -> None:
            locations = make("a", "b", fan_out=1)
            locations.join("neighbour", "b", "host b", None)
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            assert await locations.source(KEY, "neighbour", (), 0) == "a"
            locations.finished(KEY, "worker-b", False)
            assert locations._grants[KEY, "b"].process == "neighbour"
            locations.finished(KEY, "neighbour", True)
            assert not locations._grants
            assert locations.copies(KEY) == ["a", "b"]

        run(test)

    def test_a_neighbour_that_waits_keeps_its_place(self) -> None:
        async def test() -> None:
            locations = make("b")
            locations.join("neighbour", "b", "host b", None)
            assert await ask(locations, "b") is None
            waiting = asyncio.create_task(locations.source(KEY, "neighbour", (), 5))
            await asyncio.sleep(0)
            locations.finished(KEY, "worker-b", False)
            locations.join("worker-a", "a", "host a", "tcp://a:1")
            locations.add(KEY, "a")
            assert await waiting == "a"

        run(test)

    def test_whose_source_serves_no_more_gets_another(self) -> None:
        async def test() -> None:
            locations = make(*"abc")
            locations.join("client", "a", "host a", None)
            locations.add(KEY, "a")
            assert await ask(locations, "b") == "a"
            locations.leave("worker-a")  # the host lives, by its client
            assert locations.copies(KEY) == ["a"]
            assert not locations.serves("client")
            assert await ask(locations, "b") is None
            locations.add(KEY, "c")
            assert await ask(locations, "b") == "c"

        run(test)

    def test_a_strangers_fetch_ends_unheard(self) -> None:
        locations = make("a")
        locations.finished(KEY, "nobody", True)
        assert KEY not in locations
        assert not locations.serves("nobody")
        assert locations.host_of("nobody") is None


@pytest.mark.parametrize(("hosts", "rounds"), [(3, 1), (9, 2), (27, 3), (200, 5)])
def test_copies_spread_as_a_tree(hosts: int, rounds: int) -> None:
    async def test() -> None:
        names = [str(n) for n in range(hosts)]
        locations = make(*names)
        locations.add(KEY, "0")
        left, seen = set(names[1:]), 0
        while left:
            seen += 1
            found = {host: await ask(locations, host) for host in sorted(left)}
            fetched = {host for host, source in found.items() if source is not None}
            assert fetched
            for host in fetched:
                locations.finished(KEY, f"worker-{host}", True)
            left -= fetched
        assert seen == rounds
        assert max(locations.sent(KEY).values()) <= 2 * rounds

    run(test)
