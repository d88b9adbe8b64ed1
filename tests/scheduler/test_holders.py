"""What holds an object, and when it is deleted: where all processes share one store."""

from __future__ import annotations

from typing import Any

import pytest

from daskref.scheduler import _events as events
from daskref.scheduler._state import LOST, REPLACED
from tests.support.sites import Site, check

A, B, C = ("a", 1), ("b", 2), ("c", 3)


class Store(Site):
    """A site whose processes share one store; it checks its indexes all the time."""

    def __init__(self) -> None:
        super().__init__(home="")

    def feed(self, event: events.Event) -> list[events.Instruction]:
        found = super().feed(event)
        check(self.state)
        return found

    @property
    def known(self) -> set[Any]:
        return {key for key, obj in self.state.objects.items() if obj.holders}


@pytest.fixture
def site() -> Store:
    return Store()


class TestHolders:
    def test_the_last_one_frees(self, site: Store) -> None:
        for kind in ("key", "result", "client"):
            site.hold(kind, "t", A)
        site.release("key", "t")
        site.release("client", "t")
        assert not site.deleted
        assert site.known == {A}
        site.release("result", "t")
        assert site.deleted == [A]
        assert not site.known

    def test_holding_twice_is_holding_once(self, site: Store) -> None:
        site.hold("key", "t", A)
        site.hold("key", "t", A)
        assert site.state.sizes == [1]
        site.release("key", "t")
        assert site.deleted == [A]

    def test_one_object_of_several(self, site: Store) -> None:
        site.hold("client", "x", A)
        site.hold("client", "x", B)
        site.hold("key", "t", B)
        assert sorted(site.state.sizes) == [1, 2]
        site.release("client", "x", A)
        assert site.deleted == [A]
        site.release("client", "x", A, B, C)
        assert site.deleted == [A]
        assert [*site.state.held] == [("key", "t")]

    def test_a_stranger_is_silent(self, site: Store) -> None:
        site.release("key", "t")
        site.hold("client", "x", A)
        site.release("key", "t", A)
        assert not site.deleted

    def test_the_same_name_in_two_kinds_is_two_holders(self, site: Store) -> None:
        site.hold("key", "t", A)
        site.hold("result", "t", B)
        site.release("result", "t")
        assert site.deleted == [B]

    def test_released_and_held_again(self, site: Store) -> None:
        for _ in range(2):
            site.hold("key", "t", A)
            site.release("key", "t", A, A)
        assert site.deleted == [A, A]

    def test_all_that_tasks_hold(self, site: Store) -> None:
        site.hold("key", "t", A)
        site.hold("bound", "u", B)
        site.result("t", B)
        site.hold("client", "x", C)
        site.hold("key", "t", C)
        site.feed(events.TasksCleared())
        assert sorted(site.deleted) == [A, B]
        assert site.known == {C}

    def test_a_task_that_is_forgotten(self, site: Store) -> None:
        site.hold("key", "t", A)
        site.hold("key", "u", A)
        site.hold("key", "t", B)
        site.hold("bound", "t", C)
        site.feed(events.TaskForgotten("t"))
        assert site.deleted == [B, C]

    def test_the_only_reader_has_read(self, site: Store) -> None:
        site.feed(events.ReadOnce(A))
        site.hold("client", "x", B)
        site.feed(events.ReadOnce(B))
        assert site.deleted == [A]


class TestKept:
    """Results that are computed again, and values that were replaced."""

    def test_for_a_while(self, site: Store) -> None:
        site.result("t", A)
        site.feed(events.ResultReleased("t", wanted=True))
        site.pass_time(LOST / 2)
        assert not site.deleted
        site.pass_time(LOST / 2)
        assert site.deleted == [A]

    def test_not_what_nobody_wants(self, site: Store) -> None:
        site.result("t", A)
        site.feed(events.ResultReleased("t", wanted=False))
        assert site.deleted == [A]
        assert not site.timers

    def test_until_their_task_is_forgotten(self, site: Store) -> None:
        site.result("t", A)
        site.feed(events.ResultReleased("t", wanted=True))
        site.feed(events.TaskForgotten("u"))
        assert not site.deleted
        site.feed(events.TaskForgotten("t"))
        assert site.deleted == [A]
        site.pass_time(LOST)
        assert site.deleted == [A]

    def test_lost_twice(self, site: Store) -> None:
        site.result("t", A)
        site.feed(events.ResultReleased("t", wanted=True))
        site.pass_time(LOST / 2)
        site.result("t", B)
        site.feed(events.ResultReleased("t", wanted=True))
        site.pass_time(LOST / 2)
        assert not site.deleted  # the time begins anew
        site.pass_time(LOST / 2)
        assert sorted(site.deleted) == [A, B]

    def test_nothing_of_a_result_that_was_not_stored(self, site: Store) -> None:
        site.feed(events.ResultReleased("t", wanted=True))
        site.feed(events.TaskForgotten("t"))
        assert not site.deleted
        assert not site.timers

    @pytest.mark.parametrize(("is_read", "seconds"), [(False, REPLACED), (True, LOST)])
    def test_a_value_that_was_replaced(
        self, site: Store, is_read: bool, seconds: float
    ) -> None:
        site.hold("key", "t", A)
        site.hold("key", "t", B)
        site.feed(events.ValueReplaced("t", (A, C), is_read))
        assert not site.deleted
        site.pass_time(seconds * 0.9)
        assert not site.deleted
        site.pass_time(seconds * 0.1)
        assert site.deleted == [A]
        assert site.known == {B}


class TestDeletion:
    def test_is_known_until_it_has_ended(self, site: Store) -> None:
        site.hold("key", "t", A)
        site.hold("key", "u", B)
        site.release("key", "t")
        assert site.state.known == [A, B]
        site.deleted_here(A)
        assert site.state.known == [B]
        assert list(site.state.objects) == [B]

    def test_that_fails_is_tried_again(self, site: Store) -> None:
        for key in A, B:
            site.hold("key", "t", key)
        site.release("key", "t")
        site.deleted_here(A, B, failed=(B,))
        assert site.state.known == [B]
        assert site.feed(events.Reconciled(7.0)) == [events.Delete((), (B,))]

    def test_of_what_is_held_meanwhile(self, site: Store) -> None:
        site.hold("key", "t", A)
        site.release("key", "t")
        site.hold("key", "t", A)
        site.deleted_here(A)
        assert site.known == {A}
        site.release("key", "t")
        site.deleted_here(A, A)
        assert not site.state.objects
