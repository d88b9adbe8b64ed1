"""What functions take along, seen without pickling them."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from types import FunctionType
from typing import Any

import cloudpickle
import numpy as np
import pytest

from daskref.graph.literals import is_small_function
from daskref.proxy import Proxy

LIMIT = 1000
LARGE = "x" * 2000


def by_value(source: str, **names: Any) -> Any:
    """Return ``f`` of a program's main module."""
    scope = {"__name__": "__main__", **names}
    exec(source, scope)
    return scope["f"]


def closure(value: Any) -> Callable[[], Any]:
    return lambda: value


def with_attribute(value: Any) -> Any:
    f = by_value("def f(): pass")
    f.held = value
    return f


def through_another(value: Any) -> Any:
    g = by_value("def f(): return held", held=value)
    return by_value("def f(): return g()", g=g)


#: Each makes a function that takes a value along.
PLACES: dict[str, Callable[[Any], Any]] = {
    "closure": closure,
    "default": lambda value: by_value("def f(x=held): return x", held=value),
    "keyword": lambda value: by_value("def f(*, x=held): return x", held=value),
    "global": lambda value: by_value("def f(): return held", held=value),
    "global of inner": lambda value: by_value(
        "def f(): return [held for _ in range(3)]", held=value
    ),
    "constant": lambda value: by_value(f"def f(): return {value!r}"),
    "constant of inner": lambda value: by_value(f"def f(): return lambda: {value!r}"),
    "constant in a tuple": lambda value: by_value(f"def f(): return (1, {value!r})"),
    "attribute": with_attribute,
    "another function": through_another,
    "function in a closure": lambda value: closure(closure(value)),
    "partial": lambda value: functools.partial(by_value("def f(x): return x"), value),
    "keyword of a partial": lambda value: functools.partial(
        by_value("def f(x): return x"), x=value
    ),
    "method": lambda value: closure(value).__get__([value]),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_large_is_seen_wherever_it_is(place: str) -> None:
    make = PLACES[place]
    assert is_small_function(make("short"), LIMIT)
    assert len(cloudpickle.dumps(make("short"))) < LIMIT
    assert not is_small_function(make(LARGE), LIMIT)


def test_functions_with_names_are_small() -> None:
    for func in (math.sin, operator.add, np.sum, np.exp, len, int, closure):
        assert is_small_function(func, LIMIT)


def test_modules_classes_and_other_functions_are_small() -> None:
    f = by_value("def f(x): return np.sum(x) + sin(g(x))", np=np, sin=math.sin, g=len)
    assert is_small_function(f, LIMIT)


def test_functions_that_name_themselves_and_each_other() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(n): return g(n) if n else f(n)\ndef g(n): return f(n)", scope)
    assert is_small_function(scope["f"], LIMIT)
    scope["held"] = LARGE
    exec("def g(n): return f(n), held", scope)
    assert not is_small_function(scope["f"], LIMIT)


def test_an_empty_cell() -> None:
    def f() -> Any:
        return later

    assert is_small_function(f, LIMIT)
    later = LARGE
    assert not is_small_function(f, LIMIT)


def test_globals_are_looked_at_each_time() -> None:
    f: FunctionType = by_value("def f(): return held", held=1)
    assert is_small_function(f, LIMIT)
    f.__globals__["held"] = np.ones(1000)
    assert not is_small_function(f, LIMIT)


class WithData:
    def __call__(self) -> None: ...


@pytest.mark.parametrize("value", [WithData(), WithData().__call__, [[[[[[1]]]]]]])
def test_what_cannot_be_told_by_looking_is_not_said_to_be_small(value: Any) -> None:
    assert not is_small_function(closure(value), LIMIT)


def test_a_proxy_is_not_resolved() -> None:
    def fail() -> Any:
        raise AssertionError("resolved")

    assert not is_small_function(closure(Proxy(fail)), LIMIT)
