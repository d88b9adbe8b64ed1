"""Whether something large is in a function, or in any object.

A function that has no module on the workers travels by value: with what it closes
over, its defaults, and the globals that it names. Most such functions are short and
take along nothing but other functions and modules: a few microseconds of looking tell.
Everything else is pickled, up to the first large value.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_task_spec.TaskRef``                  futures among arguments
======================================  ============================================
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from dask._task_spec import TaskRef

from daskref.graph.literals import exact_nbytes, is_small
from daskref.graph.nodes import Lazy
from daskref.objects.pickling import ByValuePickler

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


class FoundLargeError(Exception):
    """Ends a scan."""


class Scan(NamedTuple):
    """A pickle, and the buffers beside it."""

    data: bytes
    buffers: list[pickle.PickleBuffer]

    @property
    def nbytes(self) -> int:
        """Size of it all."""
        return len(self.data) + sum(buffer.raw().nbytes for buffer in self.buffers)


class _File(io.BytesIO):
    most: int

    def write(self, piece: Any) -> int:
        if self.tell() + memoryview(piece).nbytes > self.most:
            raise FoundLargeError
        return super().write(piece)


class _Scanner(ByValuePickler):
    threshold: int
    by_key: bool

    def persistent_id(self, obj: Any) -> Any:
        nbytes = exact_nbytes(obj)
        if (nbytes is not None and nbytes > self.threshold) or type(obj) is Lazy:
            raise FoundLargeError
        if self.by_key and issubclass(type(obj), TaskRef):
            return obj.key, TaskRef.__name__
        return None


def scan(obj: Any, threshold: int, for_hash: bool = False) -> Scan:
    """Pickle an object, up to the first large value in it.

    Parameters
    ----------
    obj
        The object.
    threshold
        Bytes that no value in it may have whose type says how large it is.
    for_hash
        Whether all together may have no more, and the pickle is to be hashed only: it
        has no buffers beside it, and futures in it count by their keys.

    Raises
    ------
    FoundLargeError
        If there is more.
    Exception
        Whatever pickling the object raises.
    """
    file = _File()
    file.most = threshold if for_hash else sys.maxsize
    buffers: list[pickle.PickleBuffer] = []
    scanner = _Scanner(file, None if for_hash else buffers.append)
    scanner.threshold = threshold
    scanner.by_key = for_hash
    scanner.dump(obj)
    return Scan(file.getvalue(), buffers)
