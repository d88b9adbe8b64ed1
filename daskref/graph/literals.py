"""How large values are, as far as that is known without serializing them."""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import sys
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

#: Types whose values are always small.
SCALARS: frozenset[type] = frozenset(
    {float, complex, bool, type(None), type(...), type(NotImplemented), range}
    | {datetime.date, datetime.time, datetime.datetime, datetime.timedelta}
    | {decimal.Decimal, fractions.Fraction, uuid.UUID}
)
_CONTAINERS = frozenset({tuple, list, set, frozenset})
#: Items of a short container; longer ones are not looked into.
FEW = 16

#: Packages whose objects are stored as a whole, with all that is in them.
WHOLE = frozenset(
    {"geopandas", "numpy", "pandas", "polars", "pyarrow", "scipy", "torch", "xarray"}
)


def exact_nbytes(obj: Any) -> int | None:
    """Return how many bytes an object holds, if its exact type says so.

    Parameters
    ----------
    obj
        Any object. No code of a user's runs.

    Returns
    -------
    int or None
        ``None`` for whatever has parts, and for subclasses. Of text, an upper bound.
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

    Parameters
    ----------
    value
        Any object. No code of a user's runs.
    threshold
        Bytes that nothing in it may exceed.
    depth
        How many containers inside each other are looked into.
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


#: ``(type) -> bool``: whether its objects, if large, are stored as a whole: arrays,
#: frames, models. Of others, what is large in them is stored.
is_whole: Callable[[type], bool] = lru_cache(maxsize=4096)(_is_whole)


def on_gpu(obj: Any) -> bool:
    """Tell whether an object's memory is that of a GPU, where Dask knows better."""
    if not hasattr(type(obj), "__cuda_array_interface__"):
        return False
    try:  # the object, not its class: a tensor may be here or there
        return obj.__cuda_array_interface__ is not None
    except AttributeError:
        return False
    except Exception:  # there is one, which needs something first
        return True
