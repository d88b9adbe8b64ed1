"""The scheduler's table of who holds what."""

from __future__ import annotations

import pytest

from daskref.scheduler._holders import Holder, Holders

A, B, C = ("a", 1), ("b", 1), ("c", 1)
TASK, RESULT, CLIENT = Holder("key", "t"), Holder("result", "t"), Holder("client", "x")


@pytest.fixture
def holders():
    return Holders()


def check(holders):
    """Check that both directions of the table say the same."""
    forth = {(h, key) for key, some in holders._holders.items() for h in some}
    back = {(h, key) for h, keys in holders._held.items() for key in keys}
    assert forth == back
    assert set(holders) == set(holders._nbytes) == {key for _, key in forth}
    assert all(holders._holders.values())
    assert all(holders._held.values())
    assert len(holders) == len(set(holders))


def test_the_last_holder_frees(holders):
    for holder in (TASK, RESULT, CLIENT):
        holders.hold(holder, A, 10)
    check(holders)
    assert holders.release(TASK) == []
    assert holders.release(CLIENT) == []
    assert A in holders
    assert holders.release(RESULT) == [A]
    assert A not in holders
    check(holders)


def test_holding_twice_is_holding_once(holders):
    holders.hold(TASK, A, 10)
    holders.hold(TASK, A, 10)
    assert holders.nbytes == 10
    assert holders.release(TASK) == [A]
    check(holders)


def test_one_object_of_several(holders):
    holders.hold(CLIENT, A, 10)
    holders.hold(CLIENT, B, 20)
    holders.hold(TASK, B, 20)
    assert holders.nbytes == 30
    assert holders.release(CLIENT, [A]) == [A]
    assert holders.release(CLIENT, [A, B, C]) == []
    assert not holders.holds(CLIENT)
    assert holders.holds(TASK)
    check(holders)


def test_a_stranger_is_silent(holders):
    assert holders.release(TASK) == []
    holders.hold(CLIENT, A, 10)
    assert holders.release(TASK, [A]) == []
    assert A in holders
    check(holders)


def test_the_same_name_in_two_kinds_is_two_holders(holders):
    holders.hold(TASK, A, 10)
    holders.hold(RESULT, B, 10)
    assert holders.release(RESULT) == [B]
    assert list(holders) == [A]


def test_kinds(holders):
    holders.hold(TASK, A, 10)
    holders.hold(Holder("key", "u"), B, 10)
    holders.hold(RESULT, B, 10)
    holders.hold(CLIENT, C, 10)
    holders.hold(TASK, C, 10)
    assert sorted(holders.release_kinds("key", "result")) == [A, B]
    assert list(holders) == [C]
    check(holders)


def test_released_and_held_again(holders):
    holders.hold(TASK, A, 10)
    assert holders.release(TASK) == [A]
    holders.hold(TASK, A, 10)
    assert holders.release(TASK, [A, A]) == [A]
    check(holders)
