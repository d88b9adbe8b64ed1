"""A client hears of the end of its keys once, whoever says so first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daskref.client._watches import Watches


@pytest.fixture
def sent() -> list[tuple[int, list[Any], str | None]]:
    return []


@pytest.fixture
def watches(sent: list[Any]) -> Watches:
    def send(message: dict[str, Any]) -> None:
        assert message["op"] == "daskref-watch"
        sent.append((message["id"], message["keys"], message["until"]))

    return Watches(send)


@pytest.fixture
def heard() -> list[tuple[str, bool]]:
    return []


@pytest.fixture
def note(heard: list[Any]) -> Callable[[str], Callable[[bool], None]]:
    return lambda name: lambda said: heard.append((name, said))


def test_the_scheduler_says_so(
    watches: Watches, sent: Any, heard: Any, note: Any
) -> None:
    one = watches.add(["x", "y"], "done", note("one"))
    two = watches.add(["x"], "forgotten", note("two"))
    assert sent == [(one, ["x", "y"], "done"), (two, ["x"], "forgotten")]
    watches.end(two)
    watches.end(two)
    assert heard == [("two", True)]
    watches.end(one)
    assert heard == [("two", True), ("one", True)]
    assert len(watches) == 0
    assert not watches._by_key


def test_a_graph_that_never_came_to_be(
    watches: Watches, sent: Any, heard: Any, note: Any
) -> None:
    one = watches.add(["x", "y"], "done", note("one"))
    watches.add(["x"], "forgotten", note("two"))
    watches.fail(["x", "z"])
    assert heard == []
    watches.fail(["y"])
    watches.fail(["x", "y"])
    assert heard == [("one", True)]
    assert sent[2:] == [(one, [], None)]  # the scheduler waits for it no more
    assert len(watches) == 1


def test_removed_and_withdrawn(
    watches: Watches, sent: Any, heard: Any, note: Any
) -> None:
    one = watches.add(["x"], "forgotten", note("one"))
    two = watches.add(["x"], "done", note("two"))
    del sent[:]
    for _ in range(2):
        watches.remove(one)
        watches.withdraw(two)
    watches.end(one)
    assert sent == [(one, [], None), (two, [], None)]
    assert heard == [("two", True)]


def test_all_keys_are_gone(watches: Watches, heard: Any, note: Any) -> None:
    watches.add(["x"], "done", note("one"))
    watches.add(["x"], "forgotten", note("two"))
    watches.end_all()
    assert heard == [("one", True), ("two", True)]


def test_a_client_that_leaves(
    watches: Watches, sent: Any, heard: Any, note: Any
) -> None:
    for key in "xyz":
        watches.add([key], "forgotten", note(key))
    watches.add(["u"], "done", note("u"))
    assert sorted(watches.waits_for_forgotten()) == ["x", "y", "z"]
    watches.end_forgotten(["x", "z"])
    assert heard == [("x", True), ("z", True)]
    watches.close()
    assert heard[2:] == [("y", False), ("u", False)]
    del sent[:]
    watches.add(["x"], "forgotten", note("late"))
    assert heard[4:] == [("late", False)]
    assert sent == []
