"""Which objects are large leaves: worth a place of their own in the store."""

from __future__ import annotations

import array
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from dask.sizeof import sizeof

from daskref.proxy import Proxy

#: Size of one object of a type in bytes; ``None``: never a leaf, look inside.
Sizer = Callable[[Any], int] | None

_CONTAINERS = (list, tuple, set, frozenset, dict)
_generic_sizeof = sizeof.dispatch(object)


def _find_sizer(cls: type) -> Sizer:
    """Return the function that sizes objects of a type, or ``None``.

    A leaf is an object whose bytes lie in buffers: arrays, frames, strings of bytes or
    text, and whatever Dask's ``sizeof`` has a rule for. Containers and instances of
    other classes are not leaves: their contents may be.
    """
    if issubclass(cls, (bytes, bytearray, str)):
        return len
    if issubclass(cls, memoryview | array.array):
        return lambda obj: memoryview(obj).nbytes
    if cls.__module__ == "builtins" or issubclass(cls, (*_CONTAINERS, type)):
        return None
    if issubclass(cls, Proxy):
        return None  # a reference already
    if hasattr(cls, "__dask_graph__"):
        return None  # a collection: its nbytes are those of a result to come
    if hasattr(cls, "nbytes") and hasattr(cls, "dtype"):
        return lambda obj: int(obj.nbytes)
    rule = sizeof.dispatch(cls)
    return None if rule is _generic_sizeof else rule


#: ``(type) -> Sizer``: as above, remembered.
sizer_of: Callable[[type], Sizer] = lru_cache(maxsize=4096)(_find_sizer)


def leaf_nbytes(obj: Any) -> int:
    """Return the size of a leaf in bytes; 0 for anything that is not a leaf."""
    sizer = sizer_of(type(obj))
    return 0 if sizer is None else sizer(obj)
