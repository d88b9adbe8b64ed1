"""Table of cases: everything that users do to a proxy, against the plain object.

The tests of the proxy and the page on transparency both go through it.
"""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import copy
import dataclasses
import inspect
import io
import math
import operator
import os
import pickle
import sys
import types

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from tests.support.proxy_cases import Point
from tests.support.proxy_libraries import unwrap


def _met(x):
    """Return it after its first use: then all that is looked up is the target's."""
    bool(x.__class__)
    dir(x)
    return x


def _delete(x, key):
    y = copy.copy(x)
    del y[key]
    return y


def _set(x, key, value):
    x[key] = value
    return x


def _set_attribute(x):
    x.new = 5
    try:
        return x.new
    finally:
        del x.new  # classes and functions are shared by all tests


def _delete_attribute(x):
    x.new = 5
    del x.new
    return hasattr(x, "new")


def _with(x):
    with x as inner:
        raise KeyError("swallowed")
    return inner


def _leave_early(x):
    with x:
        return "left"


async def _async_with(x):
    async with x as inner:
        raise KeyError("swallowed")
    return inner


async def _async_for(x):
    return [item async for item in x]


async def _await(x):
    return await x


def _inplace(op):
    def apply(x):
        x = op(x, 2)
        return x

    return apply


def _match_class(x):
    match x:
        case str():
            return "str"
        case Point(x=1, y=y):
            return y
        case int() | float():
            return "number"
        case list():
            return "list"
        case pd.DataFrame(columns=columns):
            return list(columns)
    return None


def _match_positions(x):
    match x:
        case int(n):
            return n + 1
        case str(text) | bytes(text):
            return text[:1]
        case Point(a, b):
            return a, b
        case dict(d):
            return sorted(d)
    return None


def _match_literal(x):
    match x:
        case 7:
            return "seven"
        case "12":
            return "text"
        case 2.5:
            return "half"
        case b"abc":
            return "bytes"
    return None


def _match_sequence(x):
    match x:
        case [first, *_, last]:
            return first, last
        case [_]:
            return "one"
    return None


def _match_mapping(x):
    match x:
        case {"a": a, **rest}:
            return a, rest
        case {}:
            return "a mapping"
    return None


BINARY = (
    "add sub mul truediv floordiv mod pow matmul lshift rshift and_ or_ xor "
    "lt le eq ne gt ge"
).split()
SIGNS = dict(
    zip(
        BINARY,
        "+ - * / // % ** @ << >> & | ^ < <= == != > >=".split(),
        strict=True,
    )
)
OPERANDS = {
    "2": lambda: 2,
    "1.5": lambda: 1.5,
    "list": lambda: [1],
    "tuple": lambda: (1, 2, 3),
    "str": lambda: "a",
    "bytes": lambda: b"a",
    "set": lambda: {1},
    "dict": lambda: {"a": 1},
    "ndarray": lambda: np.array([1.0, 2.0, 3.0]),
    "series": lambda: pd.Series([1, 2, 3]),
    "slice": lambda: slice(0, 2),
}

ABCS = (
    "AsyncGenerator AsyncIterable AsyncIterator Awaitable Callable Collection "
    "Container Coroutine Generator Hashable ItemsView Iterable Iterator KeysView "
    "Mapping MappingView MutableMapping MutableSequence MutableSet Reversible "
    "Sequence Set Sized ValuesView"
).split()

OPERATIONS = {
    # conversions and texts
    "bool": bool,
    "str": str,
    "repr": lambda x: repr(_met(x)),
    "format": lambda x: f"{x}",
    "format spec": lambda x: format(x, ">9"),
    "percent": lambda x: "%(a)s" % {"a": x},  # noqa: UP031
    "bytes": bytes,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "list[index]": lambda x: list(range(99))[x],
    "range": lambda x: list(range(x)),
    "hex": hex,
    "round": round,
    "round 1": lambda x: round(x, 1),
    "trunc": math.trunc,
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "abs": abs,
    "neg": operator.neg,
    "pos": operator.pos,
    "invert": operator.invert,
    "divmod": lambda x: divmod(x, 2),
    "rdivmod": lambda x: divmod(2, x),
    "pow 3": lambda x: pow(x, 2, 5),
    "hash": hash,
    "fspath": os.fspath,
    # containers
    "len": len,
    "iter": lambda x: list(iter(x)),
    "list": list,
    "tuple": tuple,
    "set": set,
    "dict": dict,
    "star": lambda x: [*x],
    "double star": lambda x: dict(**x),
    "sorted": sorted,
    "sum": sum,
    "max": max,
    "enumerate": lambda x: list(enumerate(x)),
    "zip": lambda x: list(zip(x, x, strict=True)),
    "reversed": lambda x: list(reversed(x)),
    "length_hint": operator.length_hint,
    "getitem 0": lambda x: x[0],
    "getitem a": lambda x: x["a"],
    "getitem slice": lambda x: x[:2],
    "getitem ...": lambda x: x[..., :2],
    "setitem": lambda x: _set(x, 0, 9),
    "setitem a": lambda x: _set(x, "a", 9),
    "delitem": lambda x: _delete(x, 0),
    "delitem a": lambda x: _delete(x, "a"),
    "contains": lambda x: 1 in x,
    "contains a": lambda x: "a" in x,
    "reflected contains": lambda x: x in [1, 7, "12"],
    "as key": lambda x: {7: "x", "12": "y", 2.5: "z"}[x],
    "unpack": lambda x: (lambda a, b, c: (c, b, a))(*x),
    # attributes
    "getattr": lambda x: x.x,
    "missing attribute": lambda x: x.no_such_thing,
    "hasattr": lambda x: hasattr(x, "no_such_thing"),
    "setattr": _set_attribute,
    "delattr": _delete_attribute,
    "dir": dir,
    "vars": lambda x: list(vars(x)),
    "doc": lambda x: _met(x).__doc__,
    "name": lambda x: x.__name__,
    "module": lambda x: _met(x).__module__,
    "slots": lambda x: x.__slots__,
    "class": lambda x: x.__class__,
    "shape": lambda x: x.shape,
    "columns": lambda x: list(x.columns),
    "method": lambda x: x.sum(),
    "T": lambda x: x.T,
    # protocols
    "callable": lambda x: callable(_met(x)),
    "call": lambda x: x(1),
    "call keyword": lambda x: x(1, add=2),
    "call 2": lambda x: x(1, 2),
    "with": _with,
    "with return": _leave_early,
    "async with": lambda x: asyncio.run(_async_with(_met(x))),
    "async for": lambda x: asyncio.run(_async_for(_met(x))),
    "await": lambda x: asyncio.run(_await(_met(x))),
    "next": lambda x: next(_met(x)),
    "isinstance of it": lambda x: isinstance(Point(1, 2), x),
    "issubclass of it": lambda x: issubclass(Point, x),
    "signature": lambda x: str(inspect.signature(x)),
    "signature's names": lambda x: list(inspect.signature(x).parameters),
    "isfunction": inspect.isfunction,
    "isclass": inspect.isclass,
    "isroutine": inspect.isroutine,
    "iscoroutine": inspect.iscoroutine,
    "iscoroutinefunction": inspect.iscoroutinefunction,
    "isawaitable": inspect.isawaitable,
    "getmembers": lambda x: [n for n, _ in inspect.getmembers(x) if n[0] != "_"],
    "getdoc": lambda x: inspect.getdoc(_met(x)),
    "getsource": lambda x: inspect.getsource(_met(x)),
    "match class": _match_class,
    "match class with positions": _match_positions,
    "match literal": _match_literal,
    "match sequence": lambda x: _match_sequence(_met(x)),
    "match mapping": lambda x: _match_mapping(_met(x)),
    # buffers
    "memoryview": lambda x: memoryview(x).tobytes(),
    "bytearray": bytearray,
    "np.frombuffer": lambda x: np.frombuffer(x, "u1"),
    "io.BytesIO": lambda x: io.BytesIO(x).getvalue(),
    "b''.join": lambda x: b"-".join([b"x", x]),
    "str.join": lambda x: "-".join(["x", x]),
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "fields": lambda x: [f.name for f in dataclasses.fields(x)],
    "replace": lambda x: x.replace("1", "3"),
    **{
        f"isinstance {kind.__name__}": lambda x, kind=kind: isinstance(x, kind)
        for kind in (
            *(list, tuple, dict, str, int, float, type, object),
            *(np.ndarray, np.generic, pd.DataFrame, pd.Series, pa.Table, pl.DataFrame),
            Point,
            *map(vars(collections.abc).get, ABCS),
        )
    },
    # numpy and pandas
    "asarray": np.asarray,
    "np.sum": np.sum,
    "np.add": lambda x: np.add(x, 1),
    "np.sqrt": np.sqrt,
    "np.add itself": lambda x: np.add(x, x),
    "np.concatenate": lambda x: np.concatenate([x, x]),
    "np.where": lambda x: np.where(x, 1, 0),
    "np.mean axis": lambda x: np.mean(x, axis=0),
    "ufunc reduce": np.add.reduce,
    "ndarray + p": lambda x: np.array([1.0, 2.0, 3.0]) + x,
    "ndarray @ p": lambda x: np.array([1.0, 2.0, 3.0]) @ x,
    "pd.DataFrame": pd.DataFrame,
    "pd.Series": pd.Series,
    "pd.concat": lambda x: pd.concat([x, x]),
    "merge": lambda x: x.merge(x, on="a"),
    "frame.join": lambda x: pd.DataFrame({"z": [1, 2, 3]}).join(x),
    "groupby": lambda x: x.groupby("a").sum(),
    "loc": lambda x: x.loc[1],
    "isin": lambda x: pd.Series([1, 2]).isin(x),
    "is_list_like": pd.api.types.is_list_like,
    "pl.DataFrame": pl.DataFrame,
    "to_pandas": lambda x: x.to_pandas(),
    "column": lambda x: x["a"].to_pylist(),
    "filter": lambda x: x.filter(pl.col("a") > 1),
    "pl.concat": lambda x: pl.concat([x, x]),
    "pa.concat_tables": lambda x: pa.concat_tables([x, x]),
    "copy": lambda x: (len(x), copy.copy(x))[1],
    "deepcopy": lambda x: (len(x), copy.deepcopy(x))[1],
    # in place
    **{
        f"i{name}": _inplace(getattr(operator, f"i{name}"))
        for name in "add sub mul truediv floordiv mod pow lshift rshift".split()
    },
    # between two of them
    "itself ==": lambda x: x == x,
    "itself <": lambda x: x < x,
    "itself +": lambda x: x + x,
    "itself |": lambda x: x | x,
    "itself @": lambda x: x @ x,
}


def _binary(function, operand, reflected):
    if reflected:
        return lambda x: function(operand(), x)
    return lambda x: function(x, operand())


#: All cases with two operands: name -> function.
BINARIES = {
    f"{text} {SIGNS[name]} p" if reflected else f"p {SIGNS[name]} {text}": _binary(
        getattr(operator, name), operand, reflected
    )
    for name in BINARY
    for text, operand in OPERANDS.items()
    for reflected in (False, True)
    # "%s" % p
    if name != "mod" or text not in ("str", "bytes")
}

#: name -> ``(p) -> anything``
CASES = OPERATIONS | BINARIES


def outcome(function, make):
    """Return what a case gives: a plain result, or an error.

    Parameters
    ----------
    function
        The case.
    make
        ``() -> object``: what to do it to.
    """
    x = make()
    try:
        with np.errstate(all="ignore"):
            return "returns", unwrap(function(x))
    except Exception:
        return "raises", None
    finally:
        with contextlib.suppress(Exception):
            target = unwrap(x)
            if isinstance(target, types.CoroutineType):
                target.close()


def same(a, b):
    """Return whether two outcomes are of the same type and equal.

    A proxy in a container is as good as its target.
    """
    b = unwrap(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, (pd.Series, pd.Index)) and a.dtype == b.dtype == object:
        return same(a.to_numpy(), b.to_numpy())
    if isinstance(a, (pd.DataFrame, pd.Series, pd.Index, pa.Table)):
        return a.equals(b)
    if isinstance(a, (pl.DataFrame, pl.Series)):
        return a.equals(b)
    if isinstance(a, np.ndarray):
        if a.dtype == object:
            return a.shape == b.shape and all(map(same, a.flat, b.flat))
        return a.dtype == b.dtype and a.shape == b.shape and str(a) == str(b)
    if isinstance(a, types.CoroutineType):
        return a.cr_code is b.cr_code
    if isinstance(a, types.FunctionType):
        return a.__code__ is b.__code__
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    if type(a).__eq__ is object.__eq__:
        return a is b or getattr(a, "__dict__", 0) == getattr(b, "__dict__", 1)
    return bool(a == b)


#: Where a proxy differs from its target, as the module's docstring says: case -> kinds.
DIFFERENT = {
    "ceil": ["str"],  # int("12") needs the method that math.ceil looks for
    "floor": ["str"],
    "sqrt": ["str"],
    "str.join": ["str"],
    "io.BytesIO": ["none"],
    "pd.DataFrame": ["none"],
    "pd.Series": "scalar str bytes int bool float complex none".split(),
    "isin": ["str", "bytes"],
    "is_list_like": ["str", "bytes"],
    "pl.DataFrame": ["ndarray", "none"],
    "pa.concat_tables": ["table"],
    # pandas asks for a Python integer or None by its type
    **{f"series {sign} p": ["int"] for sign in "& | ^".split()},
    **{f"series {sign} p": ["none"] for sign in "< <= > >=".split()},
}

#: Where no class can offer a buffer.
BEFORE_312 = {
    "b''.join": ["ndarray", "ndarray0", "scalar", "bytes"],
    "bytearray": ["ndarray", "scalar"],
    "io.BytesIO": ["ndarray", "ndarray0", "scalar", "bytes"],
    "memoryview": ["ndarray", "ndarray0", "scalar", "bytes"],
    "np.frombuffer": ["ndarray", "ndarray0", "scalar", "bytes"],
}
#: A proxy of bytes is a buffer, which NumPy takes for an array of integers.
SINCE_312 = {"asarray": ["bytes"], "series @ p": ["bytes"]}


#: Cases that take a proxy of which nothing is known for iterable.
UNKNOWN_ITERATES = ("isin", "is_list_like")


def expected_deviations(version=sys.version_info):
    """Return where a proxy differs on a version of Python, ``{(case, kind), …}``."""
    found = set()
    for table in (DIFFERENT, SINCE_312 if version >= (3, 12) else BEFORE_312):
        for case, kinds in table.items():
            found |= {(case, kind) for kind in kinds}
    return found
