"""Whether a user's function takes something large along, without pickling it.

A function that has no module on the workers travels by value: with what it closes
over, its defaults, and the globals that it names. Most such functions are short and
take along nothing but other functions and modules: a few microseconds tell.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from daskref.graph.literals import is_small

#: How many functions, classes and values inside each other are looked into.
_DEPTH = 8


def is_plain_function(func: Any) -> bool:
    """Tell whether a function pickles as its name: nothing can hide in it."""
    cls = type(func)
    if cls is BuiltinFunctionType or issubclass(cls, type):
        return getattr(func, "__module__", "__main__") != "__main__"
    if cls.__module__ == "numpy":  # its functions have types of their own
        return cls.__name__ in ("_ArrayFunctionDispatcher", "ufunc")
    return (
        cls is FunctionType
        and func.__module__ != "__main__"
        and func.__closure__ is None
        and "<" not in func.__qualname__
    )


def is_small_function(func: Any, threshold: int) -> bool:
    """Tell whether a function is surely small, with all that it takes along.

    Parameters
    ----------
    func
        Any callable. No code of a user's runs.
    threshold
        Bytes that nothing in it may exceed.

    Returns
    -------
    bool
        ``False`` where it cannot be told by looking: it is to be pickled then.
    """
    return is_plain_function(func) or _is_small_part(func, threshold, {}, _DEPTH)


def _is_small_part(
    value: Any, threshold: int, seen: dict[int, Any], depth: int
) -> bool:
    if id(value) in seen or is_small(value, threshold):
        return True
    cls = type(value)
    if cls is ModuleType or is_plain_function(value):
        return True
    if not depth:
        return False
    seen[id(value)] = value
    if cls is FunctionType:
        nbytes, names = _content(value.__code__)
        if nbytes > threshold:
            return False
        parts = _taken_along(value, names)
    elif cls is MethodType:
        parts = iter((value.__self__, value.__func__))
    elif cls is functools.partial:
        parts = iter((value.func, *value.args, *value.keywords.values()))
    else:
        return False
    return all(_is_small_part(part, threshold, seen, depth - 1) for part in parts)


def _taken_along(function: FunctionType, names: frozenset[str]) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from function.__dict__.values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty
            continue
    known = function.__globals__
    for name in names & known.keys():
        yield known[name]


@lru_cache(maxsize=1024)
def _content(code: CodeType) -> tuple[int, frozenset[str]]:
    """Return the bytes of a function's constants, and all names that its code has."""
    nbytes, names, todo = len(code.co_code), set(code.co_names), list(code.co_consts)
    while todo:
        const = todo.pop()
        if type(const) is CodeType:
            inner, more = _content(const)
            nbytes += inner
            names |= more
        elif type(const) in (tuple, frozenset):
            todo += const
        elif type(const) in (bytes, str):
            nbytes += 4 * len(const)
    return nbytes, frozenset(names)
