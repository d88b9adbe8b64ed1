"""Objects that tasks have given back as they got them, for the next task."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import daskref
from daskref import Store
from daskref.connectors import LocalConnector
from daskref.objects.codec import decode, encode
from daskref.store.metrics import seconds_in_connectors
from daskref.worker import _spares as module
from daskref.worker._spares import Spare, Spares


class Node:
    """A class of a user's."""

    def __init__(self, *parts: Any) -> None:
        self.parts = list(parts)
        self.numbers = np.arange(1000.0)


def load() -> Any:
    obj = Node(Node(), {"a": [1, "x"]}, pd.DataFrame({"a": np.zeros(300)}))
    return decode(bytearray(b"".join(encode(obj).frames)))


KEPT: list[Any] = []

#: What a task does -> whether another may have the object then.
DOINGS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "nothing": (lambda x: None, True),
    "read": (lambda x: float(x.numbers.sum()) + len(x.parts[1]["a"]), True),
    "read a frame": (lambda x: float(x.parts[2]["a"].sum()), True),
    "write to an array": (lambda x: x.numbers.__setitem__(5, -1.0), False),
    "write deep inside": (lambda x: x.parts[0].numbers.fill(1), False),
    "set an attribute": (lambda x: setattr(x, "more", 1), False),
    "append": (lambda x: x.parts[1]["a"].append(1), False),
    "write to a frame": (lambda x: x.parts[2].insert(0, "b", 1), False),
    "return it": (lambda x: x, False),
    "return a part": (lambda x: x.parts[0], False),
    "return a view": (lambda x: x.numbers[10:20], False),
    "return a view of a view": (lambda x: x.parts[0].numbers[5:][::2], False),
    "keep a list": (lambda x: KEPT.append(x.parts[1]["a"]), False),
    "keep a method": (lambda x: KEPT.append(x.numbers.sum), False),
    "keep a buffer": (lambda x: KEPT.append(memoryview(x.numbers)), False),
    "put an equal one in its place": (
        lambda x: (KEPT.append(x.parts[0]), x.parts.__setitem__(0, Node())),
        False,
    ),
}


@pytest.mark.parametrize("doing", DOINGS)
def test_what_was_left_as_it_was(doing: str) -> None:
    do, expected = DOINGS[doing]
    spare = Spare(load())
    assert spare.note()
    result = do(spare.obj)
    assert spare.is_untouched() is expected
    del result
    KEPT.clear()


def test_what_cannot_be_told() -> None:
    assert not Spare([Node() for _ in range(module.MOST_PARTS)]).note()
    assert not Spare(threading.Lock()).note()
    torch = pytest.importorskip("torch")
    assert not Spare(Node(torch.zeros(3))).note()


class TestSpares:
    @pytest.fixture
    def here(self) -> set[str]:
        return {"x"}

    @pytest.fixture
    def spares(self, here: set[str], monkeypatch: pytest.MonkeyPatch) -> Spares:
        monkeypatch.setattr(module, "SLOW", 0.0)
        return Spares(here.__contains__, lambda function, *args: function(*args))

    def test_the_next_one_gets_it(self, spares: Spares) -> None:
        spare = spares.take("x", load)
        other = spares.take("x", load)  # at the same time: one of its own
        assert other.obj is not spare.obj
        spares.give_back("x", spare)
        assert spares.take("x", load) is spare

    def test_not_if_it_was_changed(self, spares: Spares) -> None:
        spare = spares.take("x", load)
        spare.obj.numbers += 1
        spares.give_back("x", spare)
        assert spares.take("x", load).obj.numbers[0] == 0

    def test_not_if_the_key_is_gone(self, spares: Spares, here: set[str]) -> None:
        spare = spares.take("x", load)
        here.clear()
        spares.give_back("x", spare)
        here.add("x")
        assert spares.take("x", load) is not spare

    def test_a_key_that_goes_takes_its_objects_along(self, spares: Spares) -> None:
        spare = spares.take("x", load)
        spares.give_back("x", spare)
        spares.forget("x")
        assert spares.take("x", load) is not spare

    def test_not_if_loading_costs_nothing(
        self, spares: Spares, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "SLOW", 100.0)
        spare = spares.take("x", load)
        spares.give_back("x", spare)
        assert spares.take("x", load) is not spare


class SlowToFetch(LocalConnector):
    def get(self, key: Any) -> Any:
        time.sleep(0.05)
        return super().get(key)


def test_what_only_takes_long_to_fetch_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Store("slow-to-fetch", SlowToFetch()) as store:
        key = store.put(np.ones(10))
        before = seconds_in_connectors()
        store.get(key)
        assert seconds_in_connectors() >= before + 0.05
    spent = iter([0.0, 1e6])
    monkeypatch.setattr(module, "seconds_in_connectors", lambda: next(spent))
    monkeypatch.setattr(module, "SLOW", 0.0)  # all else is looked at
    spares = Spares(lambda key: True, lambda function, *args: function(*args))
    assert not spares.take("x", load)._token


def fitted(n: int = 400) -> Any:
    ensemble = pytest.importorskip("sklearn.ensemble")
    x = np.random.default_rng(0).random((n * 50, 4))
    return ensemble.RandomForestRegressor(12, n_jobs=1).fit(x, x[:, 0])


def predict(forest: Any, i: int) -> tuple[float, int]:
    return float(forest.predict(np.zeros((1, 4)))[0]), id(forest)


def spoil(forest: Any, i: int) -> int:
    forest.estimators_.clear()
    return id(forest)


@pytest.mark.slow
def test_a_forest_is_loaded_once_and_not_by_each_task(client: Any) -> None:
    forest = fitted()
    future = client.scatter(forest)
    worker = next(iter(client.scheduler_info()["workers"]))
    right = float(forest.predict(np.zeros((1, 4)))[0])
    before = daskref.stats(client)["gets"]
    for i in range(8):
        found, _ = client.submit(predict, future, i, workers=[worker]).result()
        assert found == right
    assert daskref.stats(client)["gets"] - before < 8
    client.submit(spoil, future, 0, workers=[worker]).result()
    for i in range(8, 10):
        assert client.submit(predict, future, i, workers=[worker]).result()[0] == right
