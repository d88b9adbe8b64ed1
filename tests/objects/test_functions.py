"""Functions that travel pickled."""

from __future__ import annotations

import pickle
from typing import Any

from daskref.objects.functions import PickledFunction, pickled_function


def test_here_it_is_the_very_function() -> None:
    calls: list[Any] = []
    carried = pickled_function(calls.append)
    assert carried is not None
    carried(1)
    assert calls == [1]


def test_elsewhere_it_is_loaded_by_the_first_call(monkeypatch: Any) -> None:
    factor = 3
    data = pickle.dumps(PickledFunction(lambda x: factor * x))
    loaded = []
    original = pickle.loads
    copy: Any = pickle.loads(data)
    assert repr(copy) == "<PickledFunction function, not loaded>"

    def loads(data: bytes) -> Any:
        loaded.append(data)
        return original(data)

    monkeypatch.setattr("daskref.objects.functions.cloudpickle.loads", loads)
    again = pickle.loads(pickle.dumps(copy))  # passed on, not loaded
    assert not loaded
    assert [again(2), again(3)] == [6, 9]
    assert len(loaded) == 1


def test_equality() -> None:
    def function(x: Any) -> Any:
        return x

    assert PickledFunction(function) == PickledFunction(function)
    copy = pickle.loads(pickle.dumps(PickledFunction(function)))
    assert copy == pickle.loads(pickle.dumps(copy))
    assert hash(copy) == hash(pickle.loads(pickle.dumps(copy)))
    assert PickledFunction(len) != PickledFunction(str)
    assert PickledFunction(len) != len


def test_carry() -> None:
    assert pickled_function(None) is None
    carried = pickled_function(len)
    assert pickled_function(carried) is carried
