"""The model of a broadcast: cases that can be reckoned by hand."""

from __future__ import annotations

import random

import pytest

from daskref.bench import model as simulation
from daskref.bench.model import Grant, Links, Tree, simulate
from daskref.scheduler._transfers import FAN_OUT
from tests.support.sites import Site

MB = 1_000_000
#: The link is the bound: two at a time take twice as long.
NETWORK = Links(setup=0.5, alone=10 * MB, several=10 * MB)
#: The reader is: two at a time take no longer.
READERS = Links(setup=0.0, alone=10 * MB, several=20 * MB)


class TestTree:
    def test_the_first_readers_get_the_only_source(self) -> None:
        tree = Tree()
        assert tree.ask([1, 2, 3]) == [Grant(1, 0), Grant(2, 0)]
        assert tree.ask([4]) == []

    def test_who_has_it_serves_those_that_wait_in_their_order(self) -> None:
        tree = Tree()
        tree.ask([1, 2, 3, 4, 5])
        # the new source has served nobody, the old one two
        assert tree.done(1) == [Grant(3, 1), Grant(4, 1), Grant(5, 0)]
        assert tree.done(2) == []
        assert tree.served == {0: 3, 1: 2, 2: 0}

    def test_who_asks_later_gets_who_has_served_the_fewest(self) -> None:
        tree = Tree()
        tree.ask([1])
        tree.done(1)
        assert tree.ask([2]) == [Grant(2, 1)]
        # one reader each by now, and one was served
        assert [grant.source for grant in tree.ask([3, 4, 5])] == [0, 1, 0]
        assert tree.ask([6]) == []

    @pytest.mark.parametrize("fan_out", [1, 2, 3, 5])
    def test_no_source_has_more_readers_than_it_may(self, fan_out: int) -> None:
        tree = Tree(fan_out=fan_out)
        reading = list(tree.ask(range(1, 50)))
        have, count = {0}, 0
        while reading:
            sources = [grant.source for grant in reading]
            assert set(sources) <= have
            assert max(map(sources.count, sources)) <= fan_out
            grant = reading.pop(count % len(reading))
            have.add(grant.reader)
            reading += tree.done(grant.reader)
            count += 1
        assert have == set(range(50))
        assert sum(tree.served.values()) == 49

    def test_as_many_readers_as_the_scheduler_allows(self) -> None:
        assert simulation.FAN_OUT == FAN_OUT

    def test_a_source_serves_at_least_one(self) -> None:
        with pytest.raises(ValueError, match="fan_out=0 is not valid"):
            Tree(fan_out=0)

    @pytest.mark.parametrize("fan_out", [1, 2, 3])
    def test_the_scheduler_does_the_same(self, fan_out: int) -> None:
        compare_with_the_scheduler(fan_out, random.Random(fan_out))


def compare_with_the_scheduler(fan_out: int, rng: random.Random) -> None:
    """Let forty hosts ask and be done, in random order, of both; compare the grants."""
    key, names = ("object", 1, "00"), [f"{number:02}" for number in range(40)]
    site, tree = Site(fan_out=fan_out), Tree(fan_out=fan_out)
    for name in names:
        site.worker(name, name)
    site.fetched("00", key=key)
    to_ask, reading = names[1:], []
    while to_ask or reading:
        if to_ask and (not reading or rng.random() < 0.6):
            name = to_ask.pop(0)
            if (answer := site.ask(name, key)) is not None:
                site.answers[name, key] = answer
            grants = tree.ask([int(name)])
        else:
            name = reading.pop(rng.randrange(len(reading)))
            site.fetched(name, key=key)
            grants = tree.done(int(name))
        expected = {names[grant.reader]: names[grant.source] for grant in grants}
        granted = {who: answer["host"] for (who, _), answer in site.answers.items()}
        assert granted == expected
        reading += expected
        site.answers.clear()
    served = {names[host]: count for host, count in tree.served.items()}
    assert site.state.objects[key].copies == served


class TestSimulate:
    def test_nobody(self) -> None:
        spread = simulate(0, MB, NETWORK)
        assert (spread.seconds, spread.rounds, spread.copies) == (0, 0, 0)

    def test_one(self) -> None:
        spread = simulate(1, 10 * MB, NETWORK)
        assert spread.seconds == pytest.approx(1.5)
        assert (spread.rounds, spread.copies) == (1, 1)

    def test_two_share_the_source(self) -> None:
        assert simulate(2, 10 * MB, NETWORK).seconds == pytest.approx(2.5)
        assert simulate(2, 10 * MB, READERS).seconds == pytest.approx(1)

    def test_the_third_is_alone(self) -> None:
        spread = simulate(3, 10 * MB, NETWORK)
        assert spread.seconds == pytest.approx(2.5 + 1.5)
        assert (spread.rounds, spread.copies) == (2, 2)

    @pytest.mark.parametrize("rounds", range(1, 8))
    def test_hosts_triple_with_every_round(self, rounds: int) -> None:
        spread = simulate(3**rounds - 1, 10 * MB, NETWORK)
        assert spread.rounds == rounds
        assert spread.copies == 2 * rounds
        assert spread.seconds == pytest.approx(rounds * 2.5)
        assert simulate(3**rounds, 10 * MB, NETWORK).rounds == rounds + 1

    def test_one_reader_at_a_time_doubles(self) -> None:
        spread = simulate(2**5 - 1, 10 * MB, NETWORK, fan_out=1)
        assert (spread.rounds, spread.copies) == (5, 5)
        assert spread.seconds == pytest.approx(5 * 1.5)

    def test_a_machine_that_all_share(self) -> None:
        shared = Links(setup=0.0, alone=10 * MB, several=20 * MB, shared=5 * MB)
        # whatever the order, all bytes go through it
        for hosts in (1, 2, 4, 8):
            assert simulate(hosts, 10 * MB, shared).seconds == pytest.approx(2 * hosts)

    def test_a_bound_that_nobody_reaches_changes_nothing(self) -> None:
        wide = Links(setup=0.5, alone=10 * MB, several=10 * MB, shared=1000 * MB)
        assert simulate(26, 10 * MB, wide) == simulate(26, 10 * MB, NETWORK)

    def test_who_waits_does_not_wait_for_a_better_source(self) -> None:
        # both get the first host that has it, though another has it at once
        spread = simulate(4, 10 * MB, NETWORK)
        assert spread.seconds == pytest.approx(2.5 + 2.5)
        assert (spread.rounds, spread.copies) == (2, 2)

    def test_twice_the_bytes(self) -> None:
        once, twice = (simulate(100, n * MB, READERS) for n in (10, 20))
        assert twice.seconds == pytest.approx(2 * once.seconds)

    @pytest.mark.parametrize(
        "numbers", [(-1, 1, 1), (0, 0, 1), (0, 1, float("nan")), (0, 1, 1, 0)]
    )
    def test_links_that_cannot_be(self, numbers: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="is not valid: expected"):
            Links(*numbers)
