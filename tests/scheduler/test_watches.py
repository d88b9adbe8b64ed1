"""Clients hear once that Dask is done with a key, and with the one that they mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from daskref.scheduler._watches import Watches


class Dask:
    """The states of tasks, and what was told to clients."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.told: list[tuple[str, int]] = []
        self.watches = Watches(self._tell, self._find)

    def _tell(self, client: str, message: dict[str, Any]) -> None:
        assert message.pop("op") == "daskref-ended"
        self.told.append((client, message["id"]))

    def _find(self, key: Any) -> Any:
        state = self.states.get(key)
        return None if state is None else SimpleNamespace(state=state)

    def graph(self, client: str, **states: str) -> None:
        self.states |= states
        self.watches.graph_arrived(client, list(states))

    def move(self, key: str, state: str) -> None:
        self.states[key] = state
        if state == "forgotten":
            del self.states[key]
        self.watches.transition(key, state)


@pytest.fixture
def dask() -> Dask:
    return Dask()


class TestDone:
    @pytest.mark.parametrize("end", ["memory", "erred", "forgotten"])
    def test_told_once_when_all_keys_are_done(self, dask: Dask, end: str) -> None:
        dask.watches.watch("c", 1, ["x", "y"], "done")
        dask.graph("c", x="waiting", y="waiting")
        dask.move("x", "processing")
        dask.move("x", end)
        assert dask.told == []
        dask.move("y", "memory")
        assert dask.told == [("c", 1)]
        dask.move("y", "forgotten")
        assert dask.told == [("c", 1)]
        assert len(dask.watches) == 0

    def test_earlier_tasks_of_the_same_name_end_nothing(self, dask: Dask) -> None:
        dask.states["x"] = "memory"
        dask.watches.watch("c", 1, ["x"], "done")
        dask.move("x", "forgotten")
        dask.graph("other", x="waiting")  # the graph of somebody else
        dask.move("x", "memory")
        dask.move("x", "forgotten")
        assert dask.told == []
        dask.graph("c", x="waiting")
        dask.move("x", "memory")
        assert dask.told == [("c", 1)]

    @pytest.mark.parametrize("state", ["memory", "erred"])
    def test_a_key_that_is_done_already(self, dask: Dask, state: str) -> None:
        dask.watches.watch("c", 1, ["x"], "done")
        dask.graph("c", x=state)
        assert dask.told == [("c", 1)]

    def test_each_watch_ends_by_itself(self, dask: Dask) -> None:
        for client, id in (("c", 1), ("c", 2), ("d", 1)):
            dask.watches.watch(client, id, ["x"], "done")
        dask.graph("c", x="waiting")
        dask.watches.watch("c", 2, [], None)
        dask.move("x", "memory")
        assert dask.told == [("c", 1)]
        dask.graph("d", x="memory")
        assert dask.told == [("c", 1), ("d", 1)]
        assert len(dask.watches) == 0


class TestForgotten:
    def test_told_when_the_key_is_forgotten(self, dask: Dask) -> None:
        dask.states["x"] = "processing"
        dask.watches.watch("c", 1, ["x"], "forgotten")
        for state in ("memory", "released", "waiting", "erred"):
            dask.move("x", state)
        assert dask.told == []
        dask.move("x", "forgotten")
        assert dask.told == [("c", 1)]
        assert len(dask.watches) == 0

    def test_at_once_if_it_is(self, dask: Dask) -> None:
        dask.watches.watch("c", 1, ["x"], "forgotten")
        assert dask.told == [("c", 1)]

    def test_a_graph_of_the_same_key_changes_nothing(self, dask: Dask) -> None:
        dask.states["x"] = "memory"
        dask.watches.watch("c", 1, ["x"], "forgotten")
        dask.watches.watch("c", 2, ["x"], "done")
        dask.graph("c", x="memory")
        assert dask.told == [("c", 2)]
        dask.move("x", "forgotten")
        assert dask.told == [("c", 2), ("c", 1)]


def test_clients_that_leave_and_restarts(dask: Dask) -> None:
    for client in "cd":
        dask.watches.watch(client, 1, ["x"], "done")
    dask.graph("d", x="waiting")
    dask.watches.remove_client("c")
    assert len(dask.watches) == 1
    dask.watches.restart()
    dask.move("x", "memory")
    assert dask.told == []
    assert len(dask.watches) == 0
    dask.watches.watch("c", 1, [], None)  # silent
