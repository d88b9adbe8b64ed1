"""Sameness by content.

Dask's ``tokenize`` makes a task's name of its arguments; here a value is taken for
another one, so two rules of its are too weak: slices of one Arrow array have the same
token, so have an array and its transpose if neither is contiguous, and arrays of text
whose joined elements are equal. What it treats so is hashed by what it pickles to.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cloudpickle
import xxhash
from dask.tokenize import tokenize
from distributed.utils import ensure_memoryview

#: Packages whose types Dask hashes by parts that do not always tell them apart.
_PICKLED = frozenset({"pandas", "pyarrow"})


def content_token(obj: Any) -> str:
    """Return a string that is equal for equal content.

    Parameters
    ----------
    obj
        Not changed, not kept. Two objects that differ in type, shape, data type,
        memory order or in being writable have different tokens.

    Returns
    -------
    str
        Objects that are equal may still differ, as by the chunks of their Arrow
        columns: that costs a second copy in a store, no more.

    Notes
    -----
    Memory is hashed where it lies (XXH3, 128 bit): of plain NumPy arrays, and of pandas
    and Arrow objects, whose pickle names the buffers. Anything else is left to Dask's
    ``tokenize``.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(obj) is numpy.ndarray:
        return _array_token(obj) or _pickle_token(obj, obj.flags.writeable)
    if _by_pickle(type(obj)):
        return _pickle_token(obj)
    if type(obj) in (list, tuple, dict):
        try:
            if _has_such(obj):
                items = [*obj, *obj.values()] if type(obj) is dict else obj
                return tokenize(type(obj).__name__, list(map(content_token, items)))
        except RecursionError:  # it contains itself: Dask knows what to do
            pass
    return tokenize(obj)


def _array_token(array: Any) -> str | None:
    """Return the token of an array of plain values; ``None`` for one of objects."""
    if array.dtype.hasobject:
        return None
    flags = array.flags
    contiguous = flags.c_contiguous or flags.f_contiguous
    head = (repr(array.dtype), array.shape, array.strides, flags.writeable)
    digest = xxhash.xxh3_128(repr(head).encode())
    if array.nbytes:
        raw = array.ravel(order="K" if contiguous else "C")
        digest.update(ensure_memoryview(raw.view("u1")))
    return f"x{digest.hexdigest()}"


def _is_hashed_by_pickle(cls: type) -> bool:
    if hasattr(cls, "__dask_tokenize__"):
        return False
    packages = {base.__module__.partition(".")[0] for base in cls.__mro__}
    return dataclasses.is_dataclass(cls) or not _PICKLED.isdisjoint(packages)


_by_pickle: Callable[[type], bool] = lru_cache(maxsize=4096)(_is_hashed_by_pickle)


def _has_such(items: Any) -> bool:
    """Tell whether a container has, at any depth, what is hashed here."""
    for item in items.values() if type(items) is dict else items:
        cls = type(item)
        if cls in (list, tuple, dict):
            if item is not items and _has_such(item):
                return True
        elif cls.__name__ == "ndarray" or _by_pickle(cls):
            return True
    return False


def _pickle_token(obj: Any, *more: Any) -> str:
    """Return the token of an object by its pickle, whose buffers are not copied."""
    digest = xxhash.xxh3_128(repr(more).encode())

    def feed(buffer: pickle.PickleBuffer) -> None:
        view = buffer.raw()
        digest.update(view.nbytes.to_bytes(8, "little"))
        digest.update(view)

    file = io.BytesIO()
    try:
        _Pickler(file, protocol=5, buffer_callback=feed).dump(obj)
    except Exception:  # does not pickle: Dask has other ways, and its own error
        return tokenize(obj, *more)
    digest.update(file.getbuffer())
    return f"p{digest.hexdigest()}"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Makes pickles that are only hashed; they need not load."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Looked up for each of hundreds of chunks: cloudpickle's is a slow ChainMap.
        self.dispatch_table = dict(cloudpickle.Pickler.dispatch_table)
        super().__init__(*args, **kwargs)

    def reducer_override(self, obj: Any) -> Any:
        if type(obj).__module__ == "pyarrow.lib":
            return NotImplemented  # no function, no class: Arrow's own way
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(obj) is numpy.ndarray and obj.dtype == object:
            return _reduce_text(obj) or NotImplemented
        chunks = getattr(obj, "_pa_array", None)
        if chunks is not None and type(obj).__module__.startswith("pandas."):
            # pandas would join the chunks first, a copy of all of them
            return type(obj), (obj.dtype, chunks)
        return super().reducer_override(obj)


def _reduce_text(array: Any) -> Any:
    """Reduce an array of many ``str`` to two buffers; ``None`` for any other."""
    try:
        text = "".join(array.flat).encode("utf-8", "surrogatepass")
    except TypeError:
        return None
    import numpy as np

    lengths: Any = np.fromiter(map(len, array.flat), np.int64, array.size)
    head = (array.shape, array.flags.f_contiguous)
    return type(array), (*head, pickle.PickleBuffer(text), pickle.PickleBuffer(lengths))
