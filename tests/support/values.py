"""Values of many kinds, made from plain descriptions; and what a value is, described.

A *kind* makes values out of two numbers, so that a task can make the same value again
in another process. :func:`fingerprint` describes a value in plain data, in the process
where it is: two values are alike if their fingerprints are.
"""

from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import importlib.util
import io
import pathlib
import re
import sys
import tempfile
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

#: Elements of a value that is above the default threshold of 1 MiB.
MANY = 200_000

# Classes of users


@dataclasses.dataclass
class Record:
    a: Any = None
    b: Any = None
    rest: Any = ()


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: Any = None
    b: Any = None


class Slots:
    __slots__ = ("a", "b", "rest")

    def __init__(self, a: Any = None, b: Any = None, rest: Any = ()) -> None:
        self.a, self.b, self.rest = a, b, rest


class Pair(NamedTuple):
    a: Any = None
    b: Any = None


class Custom:
    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        if parts:
            self.first = parts[0]

    def method(self, *args: Any, **kwargs: Any) -> Any:
        """Describe the call, the object included."""
        return fingerprint({"self": self, "args": args, "kwargs": kwargs})


class Reduced:
    """Pickles in its own way."""

    def __init__(self, *parts: Any) -> None:
        self.parts = list(parts)

    def __reduce__(self) -> Any:
        return Reduced, (), {"parts": self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.parts = state["parts"]


class Called:
    """An object that is called as a function."""

    def __init__(self, closed: Any) -> None:
        self.closed = closed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return fingerprint({"closed": self.closed, "args": args, "kwargs": kwargs})


class Text(str):
    """Text with attributes."""


class Bytes(bytes):
    pass


class Bytearray(bytearray):
    pass


class Int(int):
    pass


class Float(float):
    pass


class List(list[Any]):
    pass


class Dict(dict[Any, Any]):
    pass


class Set(set[Any]):
    pass


class Array(array.array):  # type: ignore[type-arg]
    pass


class Error(Exception):
    pass


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Marked(np.ndarray):
    """A subclass that loses its attributes when it is pickled, as NumPy has it."""


class Quantity(np.ndarray):
    """A subclass that takes its attribute along."""

    unit: Any

    def __new__(cls, values: Any, unit: Any = None) -> Any:
        made = np.asarray(values).view(cls)
        made.unit = unit
        return made

    def __array_finalize__(self, obj: Any) -> None:
        self.unit = getattr(obj, "unit", None)

    def __reduce__(self) -> Any:
        function, args, state = super().__reduce__()
        return function, args, (state, self.unit)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.unit = state[1]


class Masked(np.ma.MaskedArray):  # type: ignore[type-arg]
    pass


def _raise(*args: Any) -> Any:
    raise RuntimeError("hostile")


class _Hostile:
    def __init__(self, *parts: Any) -> None:
        self.__dict__["parts"] = parts


def _hostile(name: str, **members: Any) -> Any:
    cls = type(name, (_Hostile,), {"__module__": __name__, **members})
    globals()[name] = cls
    return cls


def _getattr_nonsense(self: Any, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *args, **kwargs: "nonsense"


#: Classes whose objects raise, or tell nonsense, where somebody asks about them.
HOSTILE = (
    _hostile("HostileSizes", nbytes=property(_raise), shape=property(_raise)),
    _hostile("HostileDtype", dtype=property(_raise), ndim=property(_raise)),
    _hostile("HostileLen", __len__=_raise),
    _hostile("HostileHash", __hash__=_raise),
    _hostile("HostileEq", __eq__=_raise, __hash__=object.__hash__),
    _hostile("HostileBool", __bool__=_raise),
    _hostile("HostileRepr", __repr__=_raise, __str__=_raise),
    _hostile("HostileGetattr", __getattr__=_getattr_nonsense),
    _hostile("HostileSizeof", __sizeof__=_raise),
    _hostile("HostileIter", __iter__=_raise, __contains__=_raise),
    _hostile(
        *("HostileNonsense",),
        nbytes="many",
        shape=-1,
        dtype=None,
        size=1e300,
        __len__=lambda self: 1 << 60,
        __sizeof__=lambda self: "nonsense",
        __eq__=lambda self, other: np.zeros(2),
        __hash__=lambda self: 0,
    ),
)

# Kinds

#: ``(seed, length) -> value``
Make = Callable[[int, int], Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to make values that are alike but for content and length."""

    name: str
    make: Make
    #: Packages that it needs.
    needs: tuple[str, ...]
    #: Whether its values may be in sets.
    hashable: bool
    #: The longest that may be asked for.
    longest: int

    def __call__(self, seed: int, length: int) -> Any:
        return self.make(seed, min(length, self.longest))


KINDS: dict[str, Kind] = {}


@functools.cache
def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def kind(
    name: str, *needs: str, hashable: bool = False, longest: int = MANY
) -> Callable[[Make], Make]:
    """Register a kind, where the packages that it needs are."""

    def register(make: Make) -> Make:
        if all(map(is_installed, needs)):
            assert name not in KINDS
            KINDS[name] = Kind(name, make, needs, hashable, longest)
        return make

    return register


def numbers(seed: int, length: int) -> Any:
    return np.arange(length, dtype=float) * 0.5 + seed


def words(seed: int, length: int) -> list[str]:
    return [f"w{(i * 7 + seed) % 11} é" for i in range(length)]


#: Of at most so many elements is what is slow to make or to compare.
FEW = 300


def _of_dtype(dtype: Any) -> Make:
    def make(seed: int, length: int) -> Any:
        made = np.zeros(length, dtype)
        made[:] = (np.arange(length) * 3 + seed) % 101
        return made

    return make


for _code in (*"?bBhHiIlLefdgFDG", ">f8", ">i4", ">c16", ">u2"):
    kind(f"numpy {_code}", longest=FEW if _code in "gG" else MANY)(_of_dtype(_code))
for _code in ("S5", "U5", ">U3"):
    kind(f"numpy {_code}")(_of_dtype(_code))
for _code in ("M8[ns]", "M8[D]", "m8[s]", ">M8[ms]"):
    kind(f"numpy {_code}")(
        lambda seed, length, code=_code: (
            (np.arange(length) + seed).astype("i8").astype(code)
        )
    )


@kind("numpy V8")
def _void(seed: int, length: int) -> Any:
    return numbers(seed, length).view("V8")


@kind("numpy StringDType", longest=FEW)
def _strings(seed: int, length: int) -> Any:
    return np.array(words(seed, length), np.dtypes.StringDType())


@kind("numpy StringDType with missing ones", longest=FEW)
def _missing_strings(seed: int, length: int) -> Any:
    values = [None if i % 3 else w for i, w in enumerate(words(seed, length))]
    return np.array(values, np.dtypes.StringDType(na_object=None))


_RECORD = np.dtype(
    [("a", "i4"), (("title", "b"), ">f8"), ("c", "U3"), ("d", "f4", (2,))], align=True
)


@kind("numpy records", longest=20_000)
def _records(seed: int, length: int) -> Any:
    made = np.zeros(length, _RECORD)
    made["a"] = np.arange(length) + seed
    made["b"] = numbers(seed, length)
    made["c"] = "é"
    return made


@kind("numpy records with objects", longest=FEW)
def _object_records(seed: int, length: int) -> Any:
    made = np.zeros(length, [("a", "i4"), ("b", "O")])
    made["a"] = np.arange(length) + seed
    made["b"] = words(seed, length)
    return made


@kind("numpy objects", longest=2 * FEW)
def _objects(seed: int, length: int) -> Any:
    made = np.empty(length, object)
    for i in range(length):
        made[i] = (i + seed, f"w{i}", None, 0.5 * i, [i])[i % 5]
    return made


@kind("numpy repeated objects", longest=2 * FEW)
def _repeated(seed: int, length: int) -> Any:
    items = [[seed], {"a": seed}, f"w{seed}"]
    made = np.empty(length, object)
    for i in range(length):
        made[i] = items[i % 3]
    return made


@kind("numpy repeated objects, Fortran", longest=2 * FEW)
def _repeated_fortran(seed: int, length: int) -> Any:
    return np.asfortranarray(_repeated(seed, length * 2).reshape(length, 2))


@kind("numpy object in no dimension")
def _object_0d(seed: int, length: int) -> Any:
    made = np.empty((), object)
    made[()] = [seed, length]
    return made


@kind("numpy in no dimension")
def _zero_d(seed: int, length: int) -> Any:
    return np.array(seed + 0.5)


@kind("numpy empty")
def _empty(seed: int, length: int) -> Any:
    return np.empty((seed % 3, 0, 2), "f4")


@kind("numpy two dimensions")
def _two_d(seed: int, length: int) -> Any:
    return numbers(seed, length * 2).reshape(length, 2)


@kind("numpy Fortran")
def _fortran(seed: int, length: int) -> Any:
    return np.asfortranarray(_two_d(seed, length))


@kind("numpy transposed dates")
def _transposed(seed: int, length: int) -> Any:
    return (np.arange(length * 2) + seed).astype("M8[s]").reshape(2, length).T


@kind("numpy strided")
def _strided(seed: int, length: int) -> Any:
    return numbers(seed, length * 2)[::2]


@kind("numpy reversed")
def _reversed(seed: int, length: int) -> Any:
    return numbers(seed, length)[::-1]


@kind("numpy strided dates")
def _strided_dates(seed: int, length: int) -> Any:
    return (np.arange(length * 2) + seed).astype("M8[s]")[::2]


@kind("numpy axes swapped")
def _swapped(seed: int, length: int) -> Any:
    return numbers(seed, length * 6).reshape(length, 2, 3).swapaxes(0, 1)


@kind("numpy read-only")
def _read_only(seed: int, length: int) -> Any:
    made = numbers(seed, length)
    made.flags.writeable = False
    return made


@kind("numpy read-only Fortran dates")
def _read_only_dates(seed: int, length: int) -> Any:
    made = np.asfortranarray(
        (np.arange(length * 2) + seed).astype("M8[s]").reshape(length, 2)
    )
    made.flags.writeable = False
    return made


@kind("numpy broadcast")
def _broadcast(seed: int, length: int) -> Any:
    return np.broadcast_to(np.arange(3.0) + seed, (length, 3))


@kind("numpy with metadata")
def _with_metadata(seed: int, length: int) -> Any:
    return numbers(seed, length).astype(np.dtype("f8", metadata={"unit": seed}))


@kind("numpy records with metadata", longest=20_000)
def _records_with_metadata(seed: int, length: int) -> Any:
    inner = np.dtype("f8", metadata={"unit": seed})
    made = np.zeros(length, np.dtype([("a", inner), ("b", "i4")]))
    made["a"] = numbers(seed, length)
    return made


@kind("numpy dates with metadata")
def _dates_with_metadata(seed: int, length: int) -> Any:
    dtype = np.dtype("M8[s]", metadata={"zone": "UTC"})
    return (np.arange(length) + seed).astype("M8[s]").astype(dtype)


@kind("numpy unaligned")
def _unaligned(seed: int, length: int) -> Any:
    made = np.zeros(length * 8 + 1, "u1")[1:].view("f8")
    made[:] = numbers(seed, length)
    return made


@kind("numpy subclass without its attributes")
def _marked(seed: int, length: int) -> Any:
    return numbers(seed, length).view(Marked)


@kind("numpy subclass with attributes")
def _quantity(seed: int, length: int) -> Any:
    return Quantity(numbers(seed, length), ["m", seed])


@kind("numpy subclass, strided, with attributes")
def _strided_quantity(seed: int, length: int) -> Any:
    return Quantity(numbers(seed, length * 2), f"m{seed}")[::2]


@kind("numpy matrix")
def _matrix(seed: int, length: int) -> Any:
    return np.asmatrix(_two_d(seed, length)) if length else np.asmatrix([[1.0]])


@kind("numpy matrix, transposed")
def _matrix_t(seed: int, length: int) -> Any:
    return _matrix(seed, length).T


@kind("numpy recarray", longest=20_000)
def _recarray(seed: int, length: int) -> Any:
    return _records(seed, length).view(np.recarray)


@kind("numpy record", longest=20_000)
def _record(seed: int, length: int) -> Any:
    return _recarray(seed, 2)[1]


@kind("numpy structured scalar")
def _structured(seed: int, length: int) -> Any:
    return _records(seed, 2)[1]


@kind("numpy scalar", hashable=True)
def _scalar(seed: int, length: int) -> Any:
    return (np.float32(seed), np.int64(seed), np.str_(f"é{seed}"), np.bool_(seed))[
        length % 4
    ]


@kind("numpy date", hashable=True)
def _date_scalar(seed: int, length: int) -> Any:
    return np.datetime64(seed, "s") if length % 2 else np.timedelta64(seed, "D")


@kind("numpy chararray", longest=50_000)
def _chararray(seed: int, length: int) -> Any:
    return np.array([b"a%d" % (i + seed) for i in range(length)], "S8").view(
        np.char.chararray
    )


def _masked_of(seed: int, length: int, cls: Any = np.ma.MaskedArray) -> Any:
    made = cls(numbers(seed, length), mask=np.arange(length) % 3 == 0)
    made.fill_value = seed + 0.25
    return made


@kind("numpy masked")
def _masked(seed: int, length: int) -> Any:
    return _masked_of(seed, length)


@kind("numpy masked, hard")
def _hard(seed: int, length: int) -> Any:
    return _masked_of(seed, length).harden_mask()


@kind("numpy masked, without a mask")
def _unmasked(seed: int, length: int) -> Any:
    return np.ma.MaskedArray(numbers(seed, length))


@kind("numpy masked, subclass")
def _masked_subclass(seed: int, length: int) -> Any:
    return _masked_of(seed, length, Masked)


@kind("numpy masked dates")
def _masked_dates(seed: int, length: int) -> Any:
    dates = (np.arange(length) + seed).astype("M8[s]")
    return np.ma.MaskedArray(dates, mask=np.arange(length) % 2 == 0)


@kind("numpy memmap")
def _memmap(seed: int, length: int) -> Any:
    with tempfile.TemporaryFile() as file:
        made = np.memmap(file, "f8", "w+", shape=(max(length, 1),))
        made[:] = numbers(seed, max(length, 1))
        return made


@kind("numpy dtype", hashable=True)
def _dtype(seed: int, length: int) -> Any:
    return np.dtype("f8", metadata={"a": seed}) if length % 2 else _RECORD


@kind("numpy generator")
def _generator(seed: int, length: int) -> Any:
    return np.random.default_rng(seed)


# pandas


def _nones(values: Iterable[Any]) -> list[Any]:
    return [None if i % 4 == 2 else value for i, value in enumerate(values)]


_COLUMNS: dict[str, tuple[Make, tuple[str, ...], int]] = {
    "float": (numbers, (), MANY),
    "int": (lambda s, n: np.arange(n) + s, (), MANY),
    "bool": (lambda s, n: (np.arange(n) + s) % 2 == 0, (), MANY),
    "str": (lambda s, n: pd.array(words(s, n), "str"), (), 30_000),
    "objects": (lambda s, n: np.asarray(_objects(s, n)), (), FEW),
    "repeated objects": (lambda s, n: _repeated(s, n), (), 2 * FEW),
    "Int64": (lambda s, n: pd.array(_nones(range(s, s + n)), "Int64"), (), 150_000),
    "UInt8": (lambda s, n: pd.array([i % 99 + s for i in range(n)], "UInt8"), (), FEW),
    "Float64": (lambda s, n: pd.array(_nones(numbers(s, n)), "Float64"), (), FEW),
    "boolean": (lambda s, n: pd.array(_nones([s % 2 == 0] * n), "boolean"), (), FEW),
    "string[python]": (
        lambda s, n: pd.array(_nones(words(s, n)), "string[python]"), (), FEW,
    ),
    "string[pyarrow]": (
        lambda s, n: pd.array(_nones(words(s, n)), "string[pyarrow]"),
        ("pyarrow",), 30_000,
    ),
    "category": (lambda s, n: pd.Categorical(words(s, n)), (), FEW),
    "ordered category": (
        lambda s, n: pd.Categorical(
            _nones(words(s, n)), categories=[f"w{i} é" for i in range(11)], ordered=True
        ), (), FEW,
    ),
    "datetime": (lambda s, n: (np.arange(n) + s).astype("M8[ns]"), (), MANY),
    "datetime with zone": (
        lambda s, n: pd.date_range("2020-01-01", periods=n, tz="Europe/Paris")
        + pd.Timedelta(s, "s"), (), FEW,
    ),
    "timedelta": (lambda s, n: (np.arange(n) + s).astype("m8[s]"), (), MANY),
    "period": (
        lambda s, n: pd.period_range("2020-01", periods=n, freq="M").array + s, (), FEW,
    ),
    "interval": (
        lambda s, n: pd.arrays.IntervalArray.from_breaks(numbers(s, n + 1)), (), FEW,
    ),
    "sparse": (
        lambda s, n: pd.arrays.SparseArray(np.where(np.arange(n) % 3, 0, s + 1)),
        (), FEW,
    ),
    "arrow int": (
        lambda s, n: pd.array(_nones(range(s, s + n)), "int64[pyarrow]"),
        ("pyarrow",), 150_000,
    ),
    "arrow list": (
        lambda s, n: pd.Series(
            _arrow().array([[i, s] for i in range(n)], _arrow().list_(_arrow().int8()))
            .cast(_arrow().list_(_arrow().int64())),
            dtype=pd.ArrowDtype(_arrow().list_(_arrow().int64())),
        ).array, ("pyarrow",), 20,
    ),
    "arrow dictionary": (
        lambda s, n: pd.Series(
            pd.arrays.ArrowExtensionArray(
                _arrow().array(words(s, n)).dictionary_encode()
            )
        ).array, ("pyarrow",), FEW,
    ),
    "arrow chunks": (
        lambda s, n: pd.arrays.ArrowExtensionArray(
            _arrow().chunked_array([numbers(s, n), numbers(s + 1, n)])
        ), ("pyarrow",), MANY,
    ),
}  # fmt: skip


def _arrow() -> Any:
    import pyarrow

    return pyarrow


def _column(name: str, seed: int, length: int) -> Any:
    make, _, longest = _COLUMNS[name]
    return make(seed, min(length, longest))


for _name, (_make, _needs, _longest) in _COLUMNS.items():
    kind(f"pandas Series, {_name}", *_needs, longest=_longest)(
        lambda seed, length, name=_name: pd.Series(
            _column(name, seed, length), name=f"s{seed}"
        )
    )
    kind(f"pandas array, {_name}", *_needs, longest=_longest)(
        lambda seed, length, name=_name: pd.Series(_column(name, seed, length)).array
    )


@kind("pandas frame")
def _frame(seed: int, length: int) -> Any:
    return pd.DataFrame(
        {"a": numbers(seed, length), "b": np.arange(length), "c": numbers(0, length)}
    )


@kind("pandas frame of all types", longest=20)
def _wide(seed: int, length: int) -> Any:
    return pd.DataFrame(
        {
            name: _column(name, seed, length)
            for name, (_, needs, _) in _COLUMNS.items()
            if all(map(is_installed, needs)) and name != "arrow chunks"
        }
    )


@kind("pandas frame with attrs", longest=FEW)
def _frame_with_attrs(seed: int, length: int) -> Any:
    frame = _frame(seed, length)
    frame.attrs = {"unit": seed, "more": [1, {"a": 2}]}
    return frame.set_flags(allows_duplicate_labels=False)


@kind("pandas frame, MultiIndex", longest=FEW)
def _frame_multi(seed: int, length: int) -> Any:
    frame = _frame(seed, length)
    frame.index = _multi(seed, length)
    frame.columns = pd.Index(["a", "b", "a"], name="letters")
    return frame


@kind("pandas empty frame")
def _empty_frame(seed: int, length: int) -> Any:
    return pd.DataFrame(index=pd.RangeIndex(seed))


@kind("pandas index", longest=MANY)
def _index(seed: int, length: int) -> Any:
    return pd.Index(np.arange(length) * 2 + seed, name=f"i{seed}")


@kind("pandas RangeIndex")
def _range(seed: int, length: int) -> Any:
    return pd.RangeIndex(seed, seed + length, name=("a", seed))


@kind("pandas text index", longest=FEW)
def _text_index(seed: int, length: int) -> Any:
    return pd.Index(words(seed, length))


@kind("pandas MultiIndex", longest=FEW)
def _multi(seed: int, length: int) -> Any:
    return pd.MultiIndex.from_arrays(
        [words(seed, length), np.arange(length)], names=["w", None]
    )


@kind("pandas DatetimeIndex", longest=FEW)
def _dates(seed: int, length: int) -> Any:
    return pd.date_range("2020-01-01", periods=length + seed, freq="D", tz="UTC")


@kind("pandas other indexes", longest=FEW)
def _other_index(seed: int, length: int) -> Any:
    return (
        pd.period_range("2020-01", periods=length, freq="M"),
        pd.interval_range(0, length),
        pd.CategoricalIndex(words(seed, length)),
        pd.timedelta_range("1s", periods=length),
    )[seed % 4]


@kind("pandas scalar", hashable=True)
def _pandas_scalar(seed: int, length: int) -> Any:
    return (
        *(pd.NA, pd.NaT, pd.Timestamp(seed, tz="UTC"), pd.Timedelta(seed, "s")),
        *(pd.Period("2020-01", "M") + seed, pd.Interval(seed, seed + 1)),
    )[length % 6]


# Arrow, polars, xarray, SciPy


@kind("arrow array", "pyarrow")
def _arrow_array(seed: int, length: int) -> Any:
    return _arrow().array(numbers(seed, length))


@kind("arrow array with nulls", "pyarrow", longest=FEW)
def _arrow_nulls(seed: int, length: int) -> Any:
    return _arrow().array(_nones(words(seed, length)))


@kind("arrow slice", "pyarrow")
def _arrow_slice(seed: int, length: int) -> Any:
    return _arrow().array(numbers(seed, 4 * length + 3))[3 : 3 + length]


@kind("arrow slice of text", "pyarrow", longest=2 * FEW)
def _arrow_text_slice(seed: int, length: int) -> Any:
    return _arrow().array(_nones(words(seed, 8 * length + 3)))[3 : 3 + length]


@kind("arrow dictionary", "pyarrow", longest=FEW)
def _arrow_dictionary(seed: int, length: int) -> Any:
    return _arrow().array(_nones(words(seed, length))).dictionary_encode()


@kind("arrow slice of dictionary", "pyarrow", longest=FEW)
def _arrow_dictionary_slice(seed: int, length: int) -> Any:
    return _arrow_dictionary(seed, 60 * length + 1)[1 : 1 + length]


@kind("arrow nested", "pyarrow", longest=FEW)
def _arrow_nested(seed: int, length: int) -> Any:
    return _arrow().array([{"a": [i, seed], "b": f"é{i}"} for i in range(length)])


@kind("arrow nested slice", "pyarrow", longest=FEW)
def _arrow_nested_slice(seed: int, length: int) -> Any:
    return _arrow_nested(seed, 8 * length)[length : 2 * length]


@kind("arrow chunks", "pyarrow")
def _arrow_chunks(seed: int, length: int) -> Any:
    return _arrow().chunked_array([numbers(seed, length), numbers(seed + 1, length)])


@kind("arrow table", "pyarrow")
def _arrow_table(seed: int, length: int) -> Any:
    pa = _arrow()
    schema = pa.schema(
        [
            pa.field("a", pa.float64(), metadata={"unit": "m"}),
            pa.field("b", pa.int64(), nullable=False),
        ],
        metadata={"seed": str(seed)},
    )
    columns = [numbers(seed, length), np.arange(length)]
    return pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema)


@kind("arrow table, sliced, in chunks", "pyarrow", longest=FEW)
def _arrow_parts(seed: int, length: int) -> Any:
    pa = _arrow()
    part = pa.table({"a": words(seed, 40 * length + 40), "b": range(40 * length + 40)})
    return pa.concat_tables([part, part]).slice(7, 2 * length)


@kind("arrow batch", "pyarrow")
def _arrow_batch(seed: int, length: int) -> Any:
    return _arrow().record_batch({"a": numbers(seed, length)})


@kind("arrow scalar, schema or type", "pyarrow")
def _arrow_small(seed: int, length: int) -> Any:
    pa = _arrow()
    small = (
        *(pa.scalar(f"é{seed}"), pa.schema({"a": pa.int8()}, {"s": str(seed)})),
        *(pa.list_(pa.int8()), pa.py_buffer(b"%d" % seed)),
    )
    return small[length % 4]


def _polars() -> Any:
    import polars

    return polars


@kind("polars frame", "polars")
def _polars_frame(seed: int, length: int) -> Any:
    return _polars().DataFrame({"a": numbers(seed, length), "b": np.arange(length)})


@kind("polars frame of many types", "polars", longest=FEW)
def _polars_wide(seed: int, length: int) -> Any:
    pl = _polars()
    return pl.DataFrame(
        {
            "text": _nones(words(seed, length)),
            "cat": pl.Series(words(seed, length), dtype=pl.Categorical),
            "list": pl.Series(
                [[i, seed] for i in range(length)], dtype=pl.List(pl.Int64)
            ),
            "date": pl.Series(
                [datetime.date(2020, 1, 1 + i % 28) for i in range(length)],
                dtype=pl.Date,
            ),
        }
    )


@kind("polars series", "polars", longest=FEW)
def _polars_series(seed: int, length: int) -> Any:
    return _polars().Series(f"s{seed}", words(seed, length))


@kind("xarray array", "xarray")
def _xarray_array(seed: int, length: int) -> Any:
    import xarray as xr

    return xr.DataArray(
        numbers(seed, length),
        dims="x",
        coords={"x": np.arange(length), "y": ("x", np.arange(length) % 2)},
        name=f"d{seed}",
        attrs={"unit": "m", "more": [seed]},
    )


@kind("xarray dataset", "xarray")
def _xarray_set(seed: int, length: int) -> Any:
    import xarray as xr

    return xr.Dataset(
        {"a": ("x", numbers(seed, length)), "b": (("x", "y"), _two_d(seed, length))},
        coords={"y": ["one", "two"]},
        attrs={"title": f"t{seed}"},
    )


def _sparse(name: str) -> Make:
    def make(seed: int, length: int) -> Any:
        import scipy.sparse

        dense = np.where(np.arange(4 * length) % 3, 0, numbers(seed + 1, 4 * length))
        return getattr(scipy.sparse, name)(dense.reshape(length, 4))

    return make


for _name in ("csr_matrix", "csr_array", "csc_array", "coo_array", "lil_matrix"):
    kind(f"scipy {_name}", "scipy", longest=FEW if "lil" in _name else MANY)(
        _sparse(_name)
    )

# PyTorch


def _torch() -> Any:
    import torch

    return torch


@kind("torch tensor", "torch")
def _tensor(seed: int, length: int) -> Any:
    return _torch().arange(length, dtype=_torch().float64) + seed


@kind("torch tensors of other types", "torch", longest=FEW)
def _tensors(seed: int, length: int) -> Any:
    torch = _torch()
    types = (torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.float16)
    return (torch.arange(length) + seed).to(types[seed % 5])


@kind("torch tensor that is a view", "torch")
def _tensor_view(seed: int, length: int) -> Any:
    return (_torch().arange(length * 2).reshape(2, length) + seed).T[1:]


@kind("torch tensor with gradient", "torch", longest=FEW)
def _tensor_grad(seed: int, length: int) -> Any:
    tensor = _tensor(seed, length).requires_grad_()
    (tensor * 2).sum().backward()
    return tensor


@kind("torch two views of one memory", "torch")
def _tensor_pair(seed: int, length: int) -> Any:
    tensor = _tensor(seed, length + 4)
    return [tensor[:3], tensor[1:]]


@kind("torch parameter", "torch")
def _parameter(seed: int, length: int) -> Any:
    return _torch().nn.Parameter(_tensor(seed, length), requires_grad=seed % 2 == 0)


@kind("torch module", "torch", longest=20_000)
def _module(seed: int, length: int) -> Any:
    torch = _torch()
    linear = torch.nn.Linear(length + 1, 3)
    with torch.no_grad():
        linear.weight.fill_(seed)
        linear.bias.zero_()
    tied = torch.nn.Linear(length + 1, 3)
    tied.weight = linear.weight  # one parameter at two places
    with torch.no_grad():
        tied.bias.zero_()
    return torch.nn.Sequential(linear, torch.nn.ReLU(), torch.nn.BatchNorm1d(3), tied)


# Python

for _name, _value in {
    "None": None, "Ellipsis": ..., "NotImplemented": NotImplemented, "True": True,
    "nan": float("nan"), "class": Custom, "builtin": len, "module": collections,
    "function": fractions.gcd if hasattr(fractions, "gcd") else numbers,
    "empty tuple": (), "empty text": "", "empty bytes": b"",
}.items():  # fmt: skip
    kind(_name, hashable=_name != "nan")(lambda seed, length, value=_value: value)


def _with_attributes(obj: Any, seed: int) -> Any:
    obj.attribute = ["attribute", seed]
    return obj


def _plain(
    name: str, make: Make, *, hashable: bool = False, longest: int = MANY
) -> None:
    kind(name, hashable=hashable, longest=longest)(make)


_plain("int", lambda s, n: s, hashable=True)
_plain("large int", lambda s, n: (1 << (8 * n)) + s, hashable=True)
_plain("float", lambda s, n: s + 0.5, hashable=True)
_plain("complex", lambda s, n: complex(s, n), hashable=True)
_plain("bytes", lambda s, n: b"%d" % s + b"x" * (8 * n), hashable=True)
_plain("bytearray", lambda s, n: bytearray(b"%d" % s + b"x" * (8 * n)))
_plain("text", lambda s, n: f"{s}" + "t" * (8 * n), hashable=True)
_plain("text, not ASCII", lambda s, n: f"{s}é😀" + "é" * (4 * n), hashable=True)
_plain("text with surrogate", lambda s, n: f"{s}\ud800" + "é" * n, hashable=True)
_plain("range", lambda s, n: range(s, n), hashable=True)
_plain("slice", lambda s, n: slice(s, n, None))
_plain("date", lambda s, n: datetime.date(2020, 1, 1 + s % 28), hashable=True)
_plain(
    "datetime",
    lambda s, n: datetime.datetime(2020, 1, 1, s % 24, tzinfo=datetime.UTC),
    hashable=True,
)
_plain("timedelta", lambda s, n: datetime.timedelta(s, n), hashable=True)
_plain("Decimal", lambda s, n: decimal.Decimal(f"{s}.{n}"), hashable=True)
_plain("Fraction", lambda s, n: fractions.Fraction(s, n + 1), hashable=True)
_plain("UUID", lambda s, n: uuid.UUID(int=s), hashable=True)
_plain("path", lambda s, n: pathlib.Path(f"/a/{s}"), hashable=True)
_plain("enum", lambda s, n: (Color.RED, Color.GREEN)[s % 2], hashable=True)
_plain("pattern", lambda s, n: re.compile(f"a{s}+", re.IGNORECASE), hashable=True)
_plain("list of numbers", lambda s, n: [float(i + s) for i in range(n)], longest=2000)
_plain("tuple of text", lambda s, n: tuple(words(s, n)), hashable=True, longest=FEW)
_plain("dict of text", lambda s, n: {w: i for i, w in enumerate(words(s, n))})
_plain("set of numbers", lambda s, n: {i + s for i in range(n)}, longest=FEW)
_plain("frozenset", lambda s, n: frozenset(words(s, n)), hashable=True, longest=FEW)
_plain("list of lists", lambda s, n: [[i, [s]] for i in range(n)], longest=FEW)
_plain("OrderedDict", lambda s, n: collections.OrderedDict(a=s, b=[n]))
_plain("defaultdict", lambda s, n: collections.defaultdict(list, {s: [n]}))
_plain("Counter", lambda s, n: collections.Counter(words(s, n)), longest=FEW)
_plain("deque", lambda s, n: collections.deque(range(s, s + 5), maxlen=5 + s))
_plain("ChainMap", lambda s, n: collections.ChainMap({"a": [s]}, {"b": n}))
_plain("namespace", lambda s, n: types.SimpleNamespace(a=s, b=[n]))
_plain("BytesIO", lambda s, n: _moved(io.BytesIO(b"%d" % s + b"x" * n), 1))
_plain("StringIO", lambda s, n: _moved(io.StringIO(f"{s}" + "x" * n), 1))
_plain("exception", lambda s, n: _with_attributes(Error("failed", s), s))
for _typecode in "bBhHiIlLqQfd":
    _plain(
        f"array {_typecode}",
        lambda s, n, code=_typecode: array.array(
            code, [(i + s) % 99 for i in range(n)]
        ),
        longest=MANY if _typecode == "d" else FEW,
    )
_plain(
    "array subclass",
    lambda s, n: _with_attributes(Array("d", numbers(s, n).tobytes()), s),
)
for _cls in (Bytes, Bytearray):
    _plain(
        f"{_cls.__name__} subclass",
        lambda s, n, cls=_cls: _with_attributes(cls(b"%d" % s + b"x" * (8 * n)), s),
    )
_plain("text subclass", lambda s, n: _with_attributes(Text(f"{s}" + "t" * (8 * n)), s))
_plain("text subclass alone", lambda s, n: Text(f"{s}" + "t" * (8 * n)))
_plain("int subclass", lambda s, n: _with_attributes(Int(s), s))
_plain("float subclass", lambda s, n: _with_attributes(Float(s), s))
_plain("list subclass", lambda s, n: _with_attributes(List([s, [n]]), s))
_plain("dict subclass", lambda s, n: _with_attributes(Dict(a=s, b=[n]), s))
_plain("set subclass", lambda s, n: _with_attributes(Set([s, n]), s))


def _moved(file: Any, position: int) -> Any:
    file.seek(position)
    return file


@kind("memoryview")
def _view(seed: int, length: int) -> Any:
    return memoryview(b"%d" % seed + b"x" * (8 * length))


@kind("memoryview, writable")
def _writable_view(seed: int, length: int) -> Any:
    return memoryview(bytearray(b"%d" % seed + b"x" * (8 * length)))


@kind("memoryview, cast")
def _cast(seed: int, length: int) -> Any:
    return memoryview(bytearray(numbers(seed, length * 2).tobytes())).cast("d")


@kind("memoryview, cast to two dimensions")
def _cast_2d(seed: int, length: int) -> Any:
    flat = memoryview(numbers(seed, (length + 1) * 2).tobytes())
    return flat.cast("B").cast("d", (length + 1, 2))


@kind("memoryview, strided")
def _strided_view(seed: int, length: int) -> Any:
    return memoryview(bytearray(b"%d" % seed + b"xy" * (8 * length)))[::2]


@kind("memoryview of an array")
def _array_view(seed: int, length: int) -> Any:
    return memoryview(_two_d(seed, length + 1))


@kind("memoryview of records", longest=FEW)
def _records_view(seed: int, length: int) -> Any:
    made = np.zeros(length + 1, [("a", "i4"), ("b", "f8")])
    made["a"] = seed
    return memoryview(made)


for _hostile_class in HOSTILE:
    kind(f"{_hostile_class.__name__}", longest=FEW)(
        lambda seed, length, cls=_hostile_class: cls(seed, np.arange(length))
    )


@kind("lambda")
def _lambda(seed: int, length: int) -> Any:
    return lambda x, y=[seed]: x + y


@kind("object of a local class", longest=FEW)
def _local(seed: int, length: int) -> Any:
    class Local:
        constant = seed

        def __init__(self, parts: Any) -> None:
            self.parts = parts

    return Local([seed, np.arange(length)])


# Nestings


def closure(closed: Any) -> Any:
    """Return a function that describes its call, with what it closes over."""

    def look(*args: Any, **kwargs: Any) -> Any:
        return fingerprint({"closed": closed, "args": args, "kwargs": kwargs})

    return look


def look(*args: Any, **kwargs: Any) -> Any:
    """Describe the call."""
    return fingerprint({"args": args, "kwargs": kwargs})


def look_at_each(*args: Any) -> Any:
    """Describe each argument on its own."""
    return [fingerprint(arg) for arg in args]


def _look_around(closed: Any, *args: Any, more: Any = None, **kwargs: Any) -> Any:
    return fingerprint({"closed": closed, "args": args, "more": more, "kwargs": kwargs})


def _mapping(parts: list[Any]) -> dict[Any, Any]:
    return {f"k{i}": part for i, part in enumerate(parts)}


def _array_of(parts: list[Any]) -> Any:
    made = np.empty(len(parts), object)
    for i, part in enumerate(parts):
        made[i] = part
    return made


def _three(parts: list[Any]) -> list[Any]:
    return [*parts[:2], *[None] * (2 - len(parts)), tuple(parts[2:])]


#: Name -> ``(parts) -> object``.
NESTINGS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "dict": _mapping,
    "dataclass": lambda parts: Record(*_three(parts)),
    "frozen dataclass": lambda parts: Frozen(*_three(parts)[:2]),
    "slots": lambda parts: Slots(*_three(parts)),
    "namedtuple": lambda parts: Pair(*_three(parts)[:2]),
    "custom": lambda parts: Custom(*parts),
    "reduced": lambda parts: Reduced(*parts),
    "closure": closure,
    "method": lambda parts: Custom(*parts).method,
    "partial": lambda parts: functools.partial(
        _look_around, *parts[:1], more=parts[1:]
    ),
    "list subclass": List,
    "dict subclass": lambda parts: Dict(_mapping(parts)),
    "deque": collections.deque,
    "numpy objects": _array_of,
    "pandas objects": lambda parts: pd.Series(_array_of(parts)),
    "namespace": lambda parts: types.SimpleNamespace(**_mapping(parts)),
}

#: Name -> ``(parts) -> function that describes its call``.
FUNCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "look": lambda parts: look,
    "closure": closure,
    "method": lambda parts: Custom(*parts).method,
    "partial": lambda parts: functools.partial(_look_around, parts[:1], more=parts[1:]),
    "object": Called,
}


class Builder:
    """Makes objects out of their descriptions.

    A description is a tuple of plain data:

    - ``("leaf", kind, seed, length)``;
    - ``("set", descriptions)`` of hashable leaves;
    - ``("same", number)``: one of the objects that were made before;
    - ``(nesting, descriptions)``.
    """

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, spec: Any) -> Any:
        name = spec[0]
        if name == "same":
            return self.made[spec[1] % len(self.made)] if self.made else None
        if name == "leaf":
            made = KINDS[spec[1]](*spec[2:])
        elif name == "set":
            return {KINDS[part[1]](*part[2:]) for part in spec[1]}
        else:
            made = NESTINGS[name]([self(part) for part in spec[1]])
        self.made.append(made)
        return made


def build(spec: Any) -> Any:
    """Make an object out of its description."""
    return Builder()(spec)


# Fingerprints


def fingerprint(obj: Any) -> Any:
    """Describe an object in plain data, with which of its parts are one object.

    Where an object is reached again, there is ``{"same": path}``: the way by which it
    was reached first. Which immutable values are one object is not told.
    """
    return _Walker().describe(obj, "x")


def digest(data: Any) -> str:
    """Describe bytes."""
    view = memoryview(data)
    raw = view.tobytes()
    return (
        raw.hex() if len(raw) <= 16 else hashlib.blake2b(raw, digest_size=8).hexdigest()
    )


def _name(cls: type) -> str:
    # of a local class that travels by value, cloudpickle keeps the name alone
    name = cls.__name__ if "<" in cls.__qualname__ else cls.__qualname__
    return f"{cls.__module__}.{name}"


_BY_VALUE = (
    *(str, bytes, int, float, complex, bool, type(None), type(...), tuple, frozenset),
    *(type(NotImplemented), range, slice, datetime.date, datetime.time),
    *(datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID),
    *(pathlib.PurePath, enum.Enum, re.Pattern, type, types.ModuleType),
    *(types.BuiltinFunctionType, types.MethodType, np.generic, np.dtype),
    *(pd.Timestamp, pd.Timedelta, pd.Period, pd.Interval, type(pd.NA), type(pd.NaT)),
    datetime.tzinfo,
)


def _is_by_value(obj: Any, cls: type) -> bool:
    if cls.__module__.partition(".")[0] in ("pyarrow", "polars"):
        return True  # nobody can write to these
    if cls is types.FunctionType:
        return "<" not in obj.__qualname__
    if issubclass(cls, tuple):
        return not hasattr(cls, "__dict__") or not _own(obj)
    # of a subclass with attributes, somebody may change those
    return issubclass(cls, _BY_VALUE) and not _own(obj)


def _own(obj: Any) -> dict[str, Any]:
    """Return the attributes of an object; no code of its class runs."""
    if isinstance(type(obj).__dict__.get("__dict__"), property):
        return {}
    try:
        found = dict(object.__getattribute__(obj, "__dict__"))
    except (AttributeError, TypeError):
        found = {}
    for cls in type(obj).__mro__:
        for member, value in vars(cls).items():
            if type(value) is types.MemberDescriptorType and cls.__module__ == __name__:
                with contextlib.suppress(AttributeError):  # it is not set
                    found[member] = value.__get__(obj)
    return found


class _Walker:
    def __init__(self) -> None:
        #: ``id`` -> path; and the objects, or an id would be another's
        self.seen: dict[Any, str] = {}
        self.kept: list[Any] = []

    def describe(self, obj: Any, path: str) -> Any:
        cls = type(obj)
        if not _is_by_value(obj, cls):
            if id(obj) in self.seen:
                return {"type": _name(cls), "same": self.seen[id(obj)]}
            self.seen[id(obj)] = path
            self.kept.append(obj)
        if cls in (str, bytes):
            data = obj.encode("utf-8", "surrogatepass") if cls is str else obj
            return {"type": _name(cls), "content": digest(data)}
        return {"type": _name(cls), **dict(self._parts(obj, cls, path))}

    def apart(self, obj: Any) -> Any:
        """Describe what is made for the description only."""
        return _Walker().describe(obj, "")

    def _all(self, objs: Iterable[Any], path: str) -> list[Any]:
        return [self.describe(obj, f"{path}[{i}]") for i, obj in enumerate(objs)]

    def _items(self, items: Iterable[tuple[Any, Any]], path: str) -> list[Any]:
        return [
            [
                self.describe(key, f"{path}.key{i}"),
                self.describe(obj, f"{path}[{key!r}]"),
            ]
            for i, (key, obj) in enumerate(items)
        ]

    def _parts(self, obj: Any, cls: type, path: str) -> Iterator[tuple[str, Any]]:
        package = cls.__module__.partition(".")[0]
        bases = {base.__module__.partition(".")[0] for base in cls.__mro__}
        if issubclass(cls, np.ndarray):
            yield from self._array(obj, cls, path)
        elif issubclass(cls, np.generic):
            dtype = obj.dtype
            yield "dtype", self.dtype(dtype, path)
            yield "content", repr(obj.tolist())
        elif issubclass(cls, np.dtype):
            yield "dtype", self.dtype(obj, path)
        elif package == "pandas" or "pandas" in bases:
            yield from self._pandas(obj, cls, path)
        elif package == "pyarrow":
            yield from self._arrow(obj)
        elif package == "polars":
            yield from self._polars(obj, cls)
        elif package == "xarray":
            yield from self._xarray(obj, cls, path)
        elif "torch" in bases and issubclass(cls, sys.modules["torch"].Tensor):
            yield from self._tensor(obj, path)
        elif package == "numpy" and hasattr(obj, "bit_generator"):
            yield "state", self.apart(obj.bit_generator.state)
        else:
            yield from self._python(obj, cls, path)

    # Python

    def _python(self, obj: Any, cls: type, path: str) -> Iterator[tuple[str, Any]]:
        plain = True
        if issubclass(cls, bytes | bytearray):
            yield "content", digest(bytes(obj))
        elif issubclass(cls, str):
            yield "content", digest(str.encode(obj, "utf-8", "surrogatepass"))
        elif issubclass(cls, enum.Enum | re.Pattern | pathlib.PurePath):
            yield "content", repr(obj)
            return
        elif issubclass(cls, int | float | complex):
            base = next(b for b in (int, float, complex) if issubclass(cls, b))
            text = int.__format__(obj, "x") if base is int else base.__repr__(obj)
            yield "content", digest(text.encode())
        elif issubclass(cls, memoryview):
            yield "format", obj.format
            yield "shape", list(obj.shape)
            yield "writeable", not obj.readonly
            yield "content", digest(obj.tobytes())
        elif issubclass(cls, array.array):
            yield "format", obj.typecode
            yield "content", digest(array.array.tobytes(obj))
        elif issubclass(cls, dict):
            yield "items", self._items(dict.items(obj), path)
            if issubclass(cls, collections.defaultdict):
                yield "factory", repr(obj.default_factory)
        elif issubclass(cls, list | tuple):
            base = list if issubclass(cls, list) else tuple
            yield "items", self._all(base.__iter__(obj), path)
        elif issubclass(cls, set | frozenset):
            ordered = sorted(obj, key=lambda item: repr(self.apart(item)))
            yield "items", self._all(ordered, path)
        elif issubclass(cls, collections.deque):
            yield "items", self._all(obj, path)
            yield "maxlen", obj.maxlen
        elif issubclass(cls, types.FunctionType):
            yield from self._function(obj, path)
            return
        elif issubclass(cls, types.MethodType):
            yield "function", obj.__func__.__qualname__
            yield "self", self.describe(obj.__self__, f"{path}.__self__")
            return
        elif issubclass(cls, functools.partial):
            yield "function", self.describe(obj.func, f"{path}.func")
            yield "args", self._all(obj.args, f"{path}.args")
            yield "keywords", self._items(obj.keywords.items(), f"{path}.keywords")
        elif issubclass(cls, io.BytesIO | io.StringIO):
            yield "content", repr(obj.getvalue())
            yield "position", obj.tell()
        elif issubclass(cls, BaseException):
            yield "args", self._all(obj.args, f"{path}.args")
        elif issubclass(cls, type | types.ModuleType | types.BuiltinFunctionType):
            yield "name", obj.__name__
            return
        else:
            plain = False
        attributes = _own(obj)
        if attributes:
            yield (
                "attributes",
                [
                    [key, self.describe(value, f"{path}.{key}")]
                    for key, value in sorted(attributes.items())
                ],
            )
        elif not plain and not cls.__module__.startswith("tests."):
            yield "repr", repr(obj)[:500]

    def _function(self, obj: Any, path: str) -> Iterator[tuple[str, Any]]:
        yield "name", f"{obj.__module__}.{obj.__qualname__}"
        if "<" not in obj.__qualname__:
            return
        yield "defaults", self._all(obj.__defaults__ or (), f"{path}.defaults")
        cells = [cell.cell_contents for cell in obj.__closure__ or ()]
        yield "closed", self._all(cells, f"{path}.closure")
        yield "attributes", self._items(sorted(obj.__dict__.items()), path)

    # NumPy

    def dtype(self, dtype: Any, path: str = "") -> Any:
        """Describe a dtype, with the metadata of it and of its fields."""
        found = {
            "dtype": dtype.str if dtype.char != "T" else repr(dtype),
            "type": _name(type(dtype)),
            "scalars": _name(dtype.type),
            "itemsize": dtype.itemsize,
        }
        if dtype.metadata:
            found["metadata"] = self.apart(dict(dtype.metadata))
        if dtype.fields:
            found["aligned"] = dtype.isalignedstruct
            found["fields"] = [
                [
                    *(name, dtype.fields[name][1], list(dtype.fields[name][2:])),
                    self.dtype(dtype.fields[name][0]),
                ]
                for name in dtype.names
            ]
        if dtype.subdtype:
            found["of"] = [self.dtype(dtype.subdtype[0]), list(dtype.subdtype[1])]
        return found

    def _array(self, obj: Any, cls: type, path: str) -> Iterator[tuple[str, Any]]:
        base = np.ndarray.view(obj, np.ndarray)
        flags = base.flags
        yield "dtype", self.dtype(obj.dtype)
        yield "shape", list(base.shape)
        contiguous = ("C" if flags.c_contiguous else "") + (
            "F" if flags.f_contiguous else ""
        )
        yield "contiguous", contiguous
        yield "writeable", flags.writeable
        # of others NumPy may say what it likes
        if base.size:
            yield (
                "strides",
                [
                    stride if n > 1 else 0
                    for n, stride in zip(base.shape, base.strides, strict=True)
                ],
            )
        yield "content", self._content(base, path)
        if issubclass(cls, np.ma.MaskedArray):
            mask = np.ma.getmask(obj)
            yield "mask", None if mask is np.ma.nomask else digest(mask.tobytes())
            yield "fill_value", repr(obj.fill_value)
            yield "hard", obj.hardmask
        elif issubclass(cls, np.memmap):
            yield "file", obj._mmap is not None
        elif attributes := _own(obj):
            yield (
                "attributes",
                [
                    [key, self.describe(value, f"{path}.{key}")]
                    for key, value in sorted(attributes.items())
                ],
            )

    def _content(self, base: Any, path: str) -> Any:
        dtype = base.dtype
        if dtype.fields:
            return [[name, self._content(base[name], path)] for name in dtype.names]
        if dtype.kind == "O":
            return self._all(base.ravel(order="C"), path)
        if dtype.char in "TgG":
            return [repr(item) for item in base.ravel().tolist()]
        return digest(np.ascontiguousarray(base).tobytes())

    # pandas

    def _pandas(self, obj: Any, cls: type, path: str) -> Iterator[tuple[str, Any]]:
        if issubclass(cls, pd.DataFrame):
            yield "columns", self.describe(obj.columns, f"{path}.columns")
            yield "index", self.describe(obj.index, f"{path}.index")
            yield (
                "data",
                [
                    self._column(obj.iloc[:, i].array, f"{path}.{i}")
                    for i in range(obj.shape[1])
                ],
            )
        elif issubclass(cls, pd.Series):
            yield "name", self.apart(obj.name)
            yield "index", self.describe(obj.index, f"{path}.index")
            yield "data", self._column(obj.array, f"{path}.array")
        elif issubclass(cls, pd.MultiIndex):
            yield "names", self.apart(list(obj.names))
            yield "levels", [self.apart(level) for level in obj.levels]
            yield "codes", [self.apart(np.asarray(codes)) for codes in obj.codes]
        elif issubclass(cls, pd.RangeIndex):
            yield "range", repr((obj.start, obj.stop, obj.step, obj.name))
        elif issubclass(cls, pd.Index):
            yield "name", self.apart(obj.name)
            yield "freq", repr(getattr(obj, "freq", None))
            yield "data", self._column(obj.array, f"{path}.array")
        elif issubclass(cls, pd.api.extensions.ExtensionArray):
            yield "data", self._column(obj, path)
        else:
            yield "content", repr(obj)
        if issubclass(cls, pd.DataFrame | pd.Series):
            yield "attrs", self.describe(obj.attrs, f"{path}.attrs")
            yield "duplicates", obj.flags.allows_duplicate_labels

    def _column(self, column: Any, path: str) -> Any:
        found = {"type": _name(type(column)), "dtype": repr(column.dtype)}
        if isinstance(column, pd.arrays.NumpyExtensionArray):
            found["content"] = self._content(column.to_numpy(), path)
        elif isinstance(column, pd.Categorical):
            found["categories"] = self.apart(column.categories)
            found["ordered"] = column.ordered
            found["content"] = digest(np.asarray(column.codes))
        elif hasattr(column, "_pa_array"):
            found |= self._arrow(column._pa_array)
        elif hasattr(column, "_data") and hasattr(column, "_mask"):
            found["content"] = digest(column._data)
            found["mask"] = digest(column._mask)
        elif column.dtype.kind in "mM" and hasattr(column, "asi8"):
            found["content"] = digest(column.asi8)
        else:
            found["content"] = repr(list(column))
        return found

    # Others

    def _arrow(self, obj: Any) -> Iterator[tuple[str, Any]]:
        pa = sys.modules["pyarrow"]
        if isinstance(obj, pa.Table | pa.RecordBatch):
            yield "schema", obj.schema.to_string(show_schema_metadata=True)
            yield "metadata", repr(obj.schema.metadata)
            yield "columns", [dict(self._arrow(column)) for column in obj.columns]
        elif isinstance(obj, pa.ChunkedArray):
            yield "arrow type", str(obj.type)
            yield "chunks", [self._values(chunk) for chunk in obj.chunks]
        elif isinstance(obj, pa.Array):
            yield "arrow type", str(obj.type)
            yield "content", self._values(obj)
        elif isinstance(obj, pa.Buffer):
            yield "content", digest(obj)
        elif isinstance(obj, pa.Schema):
            yield "content", obj.to_string(show_schema_metadata=True)
        else:
            yield "content", repr(obj)

    def _values(self, arrow: Any) -> Any:
        pa = sys.modules["pyarrow"]
        if pa.types.is_floating(arrow.type) or pa.types.is_integer(arrow.type):
            nulls = digest(arrow.is_null().to_numpy(zero_copy_only=False).tobytes())
            return digest(arrow.fill_null(0).to_numpy().tobytes()), nulls
        if pa.types.is_dictionary(arrow.type):
            return repr(arrow.indices.to_pylist()), repr(arrow.dictionary.to_pylist())
        return repr(arrow.to_pylist())

    def _polars(self, obj: Any, cls: type) -> Iterator[tuple[str, Any]]:
        if cls.__name__ == "DataFrame":
            yield "schema", repr(obj.schema)
            columns = obj.get_columns()
        elif cls.__name__ == "Series":
            yield "name", obj.name
            yield "dtype", repr(obj.dtype)
            columns = [obj]
        else:
            yield "content", repr(obj)
            return
        yield (
            "content",
            [
                digest(c.to_numpy().tobytes())
                if c.dtype.is_numeric() and not c.null_count()
                else repr(c.to_list())
                for c in columns
            ],
        )

    def _xarray(self, obj: Any, cls: type, path: str) -> Iterator[tuple[str, Any]]:
        if cls.__name__ == "Dataset":
            yield "variables", self._items(obj._variables.items(), path)
            yield "coords", sorted(map(str, obj.coords))
            yield "attrs", self.apart(obj.attrs)
            yield "indexes", sorted(map(str, obj.xindexes))
        elif cls.__name__ == "DataArray":
            yield "variable", self.describe(obj._variable, f"{path}.variable")
            yield "coords", self._items(obj._coords.items(), path)
            yield "name", self.apart(obj.name)
        else:
            yield "dims", list(obj.dims)
            yield "attrs", self.apart(obj.attrs)
            yield "encoding", self.apart(obj.encoding)
            if isinstance(obj._data, np.ndarray):
                yield "data", self.describe(obj._data, f"{path}.data")
            else:
                yield "data", self.apart(np.array(obj.values))

    def _tensor(self, obj: Any, path: str) -> Iterator[tuple[str, Any]]:
        detached = obj.detach()
        yield "dtype", str(obj.dtype)
        yield "shape", list(obj.shape)
        yield "strides", list(obj.stride())
        yield "offset", obj.storage_offset()
        yield "gradient", obj.requires_grad
        if detached.numel() <= FEW:
            yield "content", repr(detached.tolist())
        else:
            yield "content", digest(detached.contiguous().numpy().tobytes())
        storage = obj.untyped_storage()
        if pointer := storage.data_ptr():
            self.kept.append(storage)
            yield "memory", self.seen.setdefault(("memory", pointer), path)
        if obj.is_leaf and obj.grad is not None:
            yield "grad", self.describe(obj.grad, f"{path}.grad")
        if attributes := _own(obj):
            yield "attributes", self._items(sorted(attributes.items()), path)


# Comparing


def _adjust_contiguous(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    if a.get("contiguous") != "" or not b.get("contiguous"):
        return a
    changed = ("contiguous", "strides", "writeable")
    return {**a, **{name: b[name] for name in changed if name in b}}


def _adjust_mask(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    if "mask" not in a or a["mask"] is not None or "shape" not in a:
        return a
    full = digest(np.zeros(a["shape"], bool).tobytes())
    return {**a, "mask": full} if b.get("mask") == full else a


def _adjust_memmap(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {**a, "file": b["file"]} if a.get("file") is True and "file" in b else a


def _adjust_memoryview(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    if a.get("type") != "builtins.memoryview" or b.get("type") != "builtins.bytes":
        return a
    same = "same" in a or a["content"] == b["content"]
    return b if same else a


#: What need not arrive as it was sent: reason -> ``(sent, arrived) -> sent as it may
#: arrive``.
EXCEPTIONS: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "a non-contiguous array arrives contiguous, and writable, as pickled": (
        _adjust_contiguous
    ),
    "a masked array without a mask arrives with an empty one, as pickled": _adjust_mask,
    "a memmap arrives without its file, as pickled": _adjust_memmap,
    "a small memoryview arrives as bytes, as cloudpickle has it": _adjust_memoryview,
}

#: Where two descriptions differ, and how.
Difference = tuple[tuple[Any, ...], Any, Any]


def differences(a: Any, b: Any, path: tuple[Any, ...] = ()) -> Iterator[Difference]:
    """Tell what of a value that was sent has not arrived.

    Parameters
    ----------
    a, b
        Fingerprints of what was sent and of what arrived.
    path
        Where they are.
    """
    if a == b:
        return
    if isinstance(a, dict) and isinstance(b, dict):
        for adjust in EXCEPTIONS.values():
            a = adjust(a, b)
        if a.get("type") == b.get("type") and ("same" in a) is ("same" in b):
            for name in {**a, **b}:
                x, y = a.get(name, "nothing"), b.get(name, "nothing")
                yield from differences(x, y, (*path, name))
        elif a != b:
            yield path, a, b
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, (*path, i))
    else:
        yield path, a, b


def at(description: Any, path: tuple[Any, ...]) -> Any:
    """Return the part of a fingerprint at a path."""
    for step in path:
        try:
            description = description[step]
        except (KeyError, IndexError, TypeError):
            return "nothing"
    return description
