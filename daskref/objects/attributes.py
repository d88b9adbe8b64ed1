"""Attributes that a reference knows by heart: what is asked before data is needed.

The shape of an array or the columns of a frame decide what a program does next, often
on a machine that never needs the data. They are looked up when the object is stored
and travel with the reference, as long as they are small.

Known limits
------------
``columns`` of a frame of pandas is mutable: who renames the index that a reference
answered (``p.columns.name = "x"``) renames a copy.
"""

from __future__ import annotations

import pickle
import sys
from contextlib import suppress
from typing import Any

#: What is looked up, besides ``shape``.
NAMES = (
    *("column_names", "columns", "dtype", "height", "itemsize", "name", "nbytes"),
    *("ndim", "num_columns", "num_rows", "size", "width"),
)
#: What may be answered.
ANSWERED = frozenset({"shape", *NAMES})
#: How many bytes the pickled answers of one object may have together.
ROOM = 1024
#: How many columns may be named.
MAX_COLUMNS = 64

#: ``((name, value), …)``; a value of type bytes is a pickle, of a type whose module
#: those who only pass the reference on need not have.
Answers = tuple[tuple[str, Any], ...]


def learn(obj: Any) -> Answers:
    """Return what to answer for an object.

    Returns
    -------
    Answers
        Only what is small, and what nobody can change by means of the answer.
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
    """Return the answer, a new object each time.

    Raises LookupError if it is not among them, or this process lacks its type.

    Parameters
    ----------
    answers
        From :func:`learn`.
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
    """Return whether a copy of the value will do for as long as the object is stored.

    Not, for one, if changing the value changes the object: lists are answered only if
    the object makes a new one for everyone who asks.
    """
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if name == "nbytes":
        # of other data types it depends on what the value's buffers were cut from
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
