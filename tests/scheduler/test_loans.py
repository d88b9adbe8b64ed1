"""The scheduler's table of borrows that are out."""

from __future__ import annotations

from typing import Any

import pytest

from daskref.scheduler._loans import Loans, Update


@pytest.fixture
def loans() -> Loans:
    return Loans()


def ids(ended: Any) -> list[str]:
    return [loan.id for loan in ended]


def update(task: Any, name: str = "x") -> Update:
    return Update(task, ("", (name,), 1, b""), name.encode())


def test_ends_with_its_last_key(loans: Loans) -> None:
    loans.lend("client", "a", ["k", "l"])
    loans.lend("client", "b", ["l"])
    assert loans.arrived("client", ["k", "l", "other"]) == ["k", "l", "l"]
    assert ids(loans.finish("k")) == []
    assert ids(loans.finish("k")) == []
    assert sorted(ids(loans.finish("l"))) == ["a", "b"]
    assert len(loans) == 0
    assert ids(loans.finish("l")) == []


def test_earlier_tasks_of_the_same_name_end_nothing(loans: Loans) -> None:
    loans.lend("client", "a", ["k"])
    assert ids(loans.finish("k")) == []
    assert loans.arrived("another client", ["k"]) == []
    assert ids(loans.finish("k")) == []
    assert loans.arrived("client", ["k"]) == ["k"]
    assert ids(loans.finish("k")) == ["a"]


def test_lent_again_while_it_is_out(loans: Loans) -> None:
    loans.lend("client", "a", ["k"])
    loans.arrived("client", ["k"])
    loans.lend("client", "a", ["l"])
    assert ids(loans.finish("k")) == []
    loans.arrived("client", ["l"])
    assert ids(loans.finish("l")) == ["a"]


def test_withdrawn(loans: Loans) -> None:
    loans.lend("client", "a", ["k", "l"])
    assert ids(loans.withdraw("b", ["k"])) == []
    assert ids(loans.withdraw("a", ["k", "other"])) == []
    assert ids(loans.withdraw("a", ["l"])) == ["a"]
    assert len(loans) == 0
    assert loans.arrived("client", ["k", "l"]) == []


def test_the_latest_update_counts(loans: Loans) -> None:
    loans.lend("client", "a", ["k"])
    loans.arrived("client", ["k"])
    first, second = update("k", "first"), update("k", "second")
    assert loans.update("a", first) is None
    assert loans.update("a", second) is first
    (loan,) = loans.finish("k")
    assert loan.update is second
    late = update("k")
    assert loans.update("a", late) is late


def test_an_attempt_that_is_repeated(loans: Loans) -> None:
    loans.lend("client", "a", ["k"])
    inner = update("task inside of the graph")
    loans.update("a", inner)
    assert loans.forget_updates("k") == []
    assert loans.forget_updates(inner.task) == [inner]
    assert loans.forget_updates(inner.task) == []


def test_a_client_that_leaves(loans: Loans) -> None:
    for client in ("one", "two"):
        loans.lend(client, f"of {client}", ["k", "l"])
        loans.update(f"of {client}", update("k", client))
    assert loans.remove_client("one") == [update("k", "one")]
    assert loans.remove_client("one") == []
    assert loans.keys_of("of one") == []
    assert loans.keys_of("of two") == ["k", "l"]
    assert loans.clear() == [update("k", "two")]
    assert len(loans) == 0
    assert ids(loans.finish("k")) == []
