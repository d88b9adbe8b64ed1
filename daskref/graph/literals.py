"""The size of values, as far as it is known without serializing them.

A function that has no module on the workers travels by value: with its closure, its
defaults, and the globals that it names. Most such functions are short and take along
nothing but other functions and modules: a few microseconds of looking tell.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_task_spec.Alias``                    arguments that are small themselves
``_task_spec.TaskRef``                  arguments that are small themselves
======================================  ============================================
"""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import functools
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from dask._task_spec import Alias, TaskRef

from daskref.graph.nodes import StoredNode

#: Types whose values are always small.
SCALARS: frozenset[type] = frozenset(
    {float, complex, bool, type(None), type(...), type(NotImplemented), range}
    | {datetime.date, datetime.time, datetime.datetime, datetime.timedelta}
    | {decimal.Decimal, fractions.Fraction, uuid.UUID}
)
_CONTAINERS = frozenset({tuple, list, set, frozenset})
#: Most items of a container that is looked into.
FEW = 16

#: Functions, classes and values inside each other that are looked into.
_DEPTH = 8
#: Nodes, which are small themselves.
_INERT = (TaskRef, Alias, StoredNode)

#: Packages whose objects are stored as a whole, with all that is in them.
WHOLE = frozenset(
    {"geopandas", "numpy", "pandas", "polars", "pyarrow", "scipy", "torch", "xarray"}
)


def exact_nbytes(obj: Any) -> int | None:
    """Return the bytes that an object holds, if its exact type determines them.

    ``None`` for objects that have parts, and for subclasses. Of text, an upper bound.
    Runs no code of a user's.
    """
    sizer = _sizers().get(type(obj))
    return None if sizer is None else sizer(obj)


#: ``(object of one exact type) -> its bytes``, or ``None`` for one with parts
_Sizer = Callable[[Any], "int | None"]


def _sizers() -> Mapping[type, _Sizer]:
    numpy = sys.modules.get("numpy")
    return _sizers_of(hasattr(numpy, "ndarray"))


@lru_cache
def _sizers_of(numpy: bool) -> Mapping[type, _Sizer]:
    found: dict[type, _Sizer] = {
        bytes: len,
        bytearray: len,
        str: _size_text,
        int: lambda number: (number.bit_length() + 7) // 8,
        memoryview: _size_view,
        array.array: lambda obj: len(obj) * obj.itemsize,
    }
    if numpy:
        import numpy as np

        found[np.ndarray] = _size_array
        for cls in {np.dtype(code).type for code in np.typecodes["All"]}:
            if cls not in (np.object_, np.void):
                found[cls] = lambda scalar: int(scalar.nbytes)
    return found


def _size_text(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


def _size_array(array: Any) -> int | None:
    dtype = array.dtype
    if dtype.hasobject or dtype.metadata is not None or dtype.names is not None:
        return None  # with more to it than its memory; fields may have metadata
    return int(array.nbytes)


def _size_view(view: memoryview) -> int | None:
    try:
        return view.nbytes
    except ValueError:  # it was released
        return None


def is_small(value: Any, threshold: int, depth: int = 4) -> bool:
    """Tell whether a value is surely small, without serializing it.

    Nothing in it exceeds *threshold* bytes. Looks into *depth* containers inside each
    other, and runs no code of a user's.
    """
    cls = type(value)
    if cls in SCALARS:
        return True
    if cls in _CONTAINERS or cls is dict:
        if len(value) > FEW or not depth:
            return False
        items = [*value, *value.values()] if cls is dict else value
        return all(is_small(item, threshold, depth - 1) for item in items)
    nbytes = exact_nbytes(value)
    return nbytes is not None and nbytes <= threshold


def _is_whole(cls: type) -> bool:
    return any(
        str(getattr(base, "__module__", "")).partition(".")[0] in WHOLE
        for base in cls.__mro__
    )


#: ``(type) -> bool``: whether its large objects are stored as a whole: arrays, frames,
#: models. Of other objects, the large parts are stored.
is_whole: Callable[[type], bool] = lru_cache(maxsize=4096)(_is_whole)


def on_gpu(obj: Any) -> bool:
    """Tell whether an object's memory is that of a GPU, which Dask moves better."""
    if not hasattr(type(obj), "__cuda_array_interface__"):
        return False
    try:  # the object, not its class: a tensor may be here or there
        return obj.__cuda_array_interface__ is not None
    except AttributeError:
        return False
    except Exception:  # on a GPU, and not ready for the interface
        return True


# Functions, with what they close over.


def is_plain_function(func: Any) -> bool:
    """Tell whether a function pickles as its name, which can hide nothing."""
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

    False where only pickling can tell. Runs no code of a user's.
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
        if _content(value.__code__)[0] > threshold:
            return False
        parts = taken_along(value)
    elif cls is MethodType:
        parts = iter((value.__self__, value.__func__))
    elif cls is functools.partial:
        parts = iter((value.func, *value.args, *value.keywords.values()))
    else:
        return False
    return all(_is_small_part(part, threshold, seen, depth - 1) for part in parts)


def taken_along(function: FunctionType) -> Iterator[Any]:
    """Yield the objects that a function takes along when it travels by value."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from function.__dict__.values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty
            continue
    known = function.__globals__
    for name in _content(function.__code__)[1] & known.keys():
        yield known[name]


@lru_cache(maxsize=1024)
def _content(code: CodeType) -> tuple[int, frozenset[str]]:
    """Return the bytes of a function's constants, and all names in its code."""
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


def small_value(value: Any, threshold: int) -> bool:
    """Tell whether an argument of a task is surely small; nodes are."""
    # not isinstance(): it would ask a user's proxy for the type of its target
    return issubclass(type(value), _INERT) or is_small(value, threshold)


def small_call(func: Any, values: Iterable[Any], threshold: int) -> bool:
    """Tell whether a call surely contains nothing large."""
    return is_small_function(func, threshold) and all(
        small_value(value, threshold) for value in values
    )
