"""Attributes that a reference answers without the object.

The shape of an array or the columns of a frame decide what a program does next, often
on a machine that never needs the data. Storing an object looks them up; they travel
with the reference, as long as they are small.

Known limits
------------
``columns`` of a frame of pandas is mutable: code that renames the index of an
unresolved proxy (``p.columns.name = "x"``) renames a copy.
"""

from __future__ import annotations

import pickle
import sys
from contextlib import suppress
from typing import Any

#: Attributes to look up, besides ``shape``.
NAMES = (
    *("column_names", "columns", "dtype", "height", "itemsize", "name", "nbytes"),
    *("ndim", "num_columns", "num_rows", "size", "width"),
)
#: Attributes that a reference may answer.
ANSWERED = frozenset({"shape", *NAMES})
#: Most bytes of the pickled answers of one object together.
ROOM = 1024
#: Most columns.
MAX_COLUMNS = 64

#: ``((name, value), …)``; a value of type bytes is a pickle: processes that only pass
#: the reference on need not have the module of its type.
Answers = tuple[tuple[str, Any], ...]


def learn(obj: Any) -> Answers:
    """Return the attributes to answer for an object.

    Only small values are among them, and only such that changing the value does not
    change the object.
    """
    ndarray = getattr(sys.modules.get("numpy"), "ndarray", None)
    if ndarray is not None and ndarray in type(obj).__mro__[1:]:
        return ()  # Dask sends plain arrays for most of these
    found: list[tuple[str, Any]] = []
    room = ROOM
    for name in NAMES:
        # whatever the user's own properties raise
        with suppress(Exception):
            value = getattr(obj, name)
            if not _lasts(obj, name, value):
                continue
            data = pickle.dumps(value, 5)
            if len(data) > room:
                continue
            again = pickle.loads(data)
            if type(again) is type(value) and _equal(again, value):
                room -= len(data)
                found.append((name, value if _is_plain(value) else data))
    return tuple(found)


def recall(answers: Answers, name: str) -> Any:
    """Return an attribute, a new object each time.

    Raises LookupError if *answers* has no such attribute, or this process lacks its
    type.
    """
    for known, value in answers:
        if known == name:
            if type(value) is not bytes:
                return value
            try:
                return pickle.loads(value)
            except Exception as exc:
                raise LookupError(name) from exc
    raise LookupError(name)


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return type(value) in (int, float, str, bool) or value is None


def _lasts(obj: Any, name: str, value: Any) -> bool:
    """Return whether a copy of the value is as good as long as the object is stored.

    It is not if changing the value changes the object: a list is answered only if the
    object makes a new one for each access.
    """
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if name == "nbytes":
        # of other data types it depends on the array that a slice was cut from
        dtype = obj.dtype
        if numpy is None or not isinstance(dtype, numpy.dtype):
            return False
        return bool(value == dtype.itemsize * obj.size)
    if name in ("columns", "column_names"):
        if len(value) > MAX_COLUMNS:
            return False
        if pandas is not None and isinstance(value, pandas.Index):
            return True
        if type(value) is list:
            return value is not getattr(obj, name) and all(map(_is_plain, value))
    elif name == "dtype" and not _is_plain(value):
        hash(value)  # raises for what can be changed
        return True
    return _is_plain(value)


def _equal(a: Any, b: Any) -> bool:
    identical = getattr(a, "identical", None)  # of an index: its name and type too
    return bool(a == b if identical is None else identical(b))
