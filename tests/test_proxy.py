"""First table: everything that users do to a proxy, against the plain object."""

from __future__ import annotations

import asyncio
import collections.abc
import copy
import dataclasses
import gc
import inspect
import math
import operator
import os
import pickle
import subprocess
import sys
import threading
import types
import weakref

import cloudpickle
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from daskref.exceptions import ResolveError
from daskref.proxy import (
    Proxy,
    extract,
    get_factory,
    is_proxy,
    is_resolved,
    populate,
    resolve,
)
from tests.proxy_cases import (
    TARGETS,
    AsyncContext,
    Context,
    Factory,
    Point,
    agen,
    coroutine,
    double,
    fail,
    managed,
)


def resolve_any(x):
    if is_proxy(x):
        resolve(x)


def _delete(x, key):
    y = copy.copy(x)
    del y[key]
    return y


def _set(x, key, value):
    x[key] = value
    return x


def _set_attribute(x):
    x.x = 5
    return x.x


def _delete_attribute(x):
    del x.x
    return hasattr(x, "x")


def _with(x):
    with x as inner:
        raise KeyError("swallowed")
    return inner


def _inplace(op):
    def apply(x):
        x = op(x, 2)
        return x

    return apply


def _match(x):
    match x:
        case str():
            return "str"
        case Point(x=1, y=y):
            return y
        case int() | float():
            return "number"
    return None


BINARY = (
    "add sub mul truediv floordiv mod pow matmul lshift rshift and_ or_ xor "
    "lt le eq ne gt ge"
).split()
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

OPERATIONS = {
    # conversions and texts
    "bool": bool,
    "str": str,
    "repr after": lambda x: (resolve_any(x), repr(x))[1],
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
    "delattr": lambda x: (_set_attribute(x), _delete_attribute(x))[1],
    "dir": dir,
    "vars": lambda x: list(vars(x)),
    "doc": lambda x: (resolve_any(x), x.__doc__)[1],
    "name": lambda x: x.__name__,
    "module": lambda x: (resolve_any(x), x.__module__)[1],
    "slots": lambda x: x.__slots__,
    "class": lambda x: x.__class__,
    "shape": lambda x: x.shape,
    "columns": lambda x: list(x.columns),
    "method": lambda x: x.sum(),
    "T": lambda x: x.T,
    # protocols
    "callable": lambda x: (bool(x), callable(x))[1],
    "call": lambda x: x(1),
    "call keyword": lambda x: x(1, add=2),
    "call 2": lambda x: x(1, 2),
    "with": _with,
    "isinstance of it": lambda x: isinstance(Point(1, 2), x),
    "issubclass of it": lambda x: issubclass(Point, x),
    "signature": lambda x: str(inspect.signature(x)),
    "match": _match,
    "fields": lambda x: [f.name for f in dataclasses.fields(x)],
    "replace": lambda x: x.replace("1", "3"),
    **{
        f"isinstance {kind.__name__}": lambda x, kind=kind: isinstance(x, kind)
        for kind in (
            list,
            tuple,
            dict,
            str,
            int,
            float,
            np.ndarray,
            np.generic,
            pd.DataFrame,
            pd.Series,
            pa.Table,
            Point,
            type,
            object,
            *(getattr(collections.abc, name) for name in collections.abc.__all__[:25]),
        )
        if kind.__name__ not in ("ByteString", "Buffer")
    },
    **{
        f"isinstance {name}": lambda x, name=name: isinstance(
            x, getattr(collections.abc, name)
        )
        for name in ("Mapping", "Sequence", "MutableSequence", "Set")
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


def outcome(function, *args):
    """Return the plain result of a call, or the type of its error."""
    try:
        result = function(*args)
    except Exception:
        return "raises", None
    if is_proxy(result):
        result = extract(result)
    return "returns", result


def same(a, b):
    """Return whether two outcomes are of the same type and equal."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (pd.DataFrame, pd.Series, pd.Index, pa.Table)):
        return a.equals(b)
    if isinstance(a, pl.DataFrame):
        return a.equals(b)
    if isinstance(a, np.ndarray):
        # by text: objects in them need not compare
        return a.dtype == b.dtype and a.shape == b.shape and str(a) == str(b)
    if isinstance(a, types.FunctionType):
        return a.__code__ is b.__code__
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    if type(a).__eq__ is object.__eq__:
        return a is b or vars(a) == vars(b)
    return bool(a == b)


#: Where a proxy differs from its target: listed in the module's docstring, or as here.
DIFFERENT = {
    "ceil": ["str"],  # int("12") needs the method that math.ceil looks for
    "floor": ["str"],
    "sqrt": ["str"],
    "signature": ["class"],
    "setattr": ["class", "function"],  # shared by the two
    "delattr": ["class", "function"],
    "pd.DataFrame": ["none"],
    "pd.Series": "scalar str bytes int bool float complex none texts context".split(),
    "isin": ["table", "str", "bytes"],
    "is_list_like": ["*"],
    "pl.DataFrame": ["ndarray", "none"],
}


if sys.version_info >= (3, 12):
    # A proxy of bytes is a buffer there, which NumPy takes for an array of integers.
    DIFFERENT["asarray"] = ["bytes"]

#: pandas asks for a Python integer or None by its type: (operator, target, operand).
DIFFERENT_RIGHT = {
    *((op, "int", "series") for op in ("and_", "or_", "xor")),
    *((op, "none", "series") for op in ("lt", "le", "gt", "ge")),
    ("matmul", "bytes", "series"),  # as for asarray
}


def make(name, known):
    return Proxy(Factory(TARGETS[name](), known))


def check(name, function, known):
    with np.errstate(all="ignore"):
        plain = outcome(function, TARGETS[name]())
        proxied = outcome(function, make(name, known))
    assert same(plain, proxied), f"plain {plain!r}, proxy {proxied!r}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("known", [True, False], ids=["metadata", "generic"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(operation, known):
    bad = []
    for name in TARGETS:
        if {name, "*"} & set(DIFFERENT.get(operation, ())):
            continue
        try:
            check(name, OPERATIONS[operation], known)
        except AssertionError as exc:
            bad.append(f"{name}: {str(exc)[:300]}")
    assert not bad, "\n".join(bad)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("known", [True, False], ids=["metadata", "generic"])
@pytest.mark.parametrize("operation", BINARY)
def test_binary_operators(operation, known):
    function = getattr(operator, operation)
    bad = []
    for name in TARGETS:
        for text, operand in OPERANDS.items():
            # "%s" % p, and a list that compares with an array
            if operation == "mod" and text in ("str", "bytes"):
                continue
            for ours, way in (
                (lambda x, o=operand: function(x, o()), "left"),
                (lambda x, o=operand: function(o(), x), "right"),
                (lambda x, o=operand: function(x, Proxy(o)), "both"),
            ):
                if way == "both" and not known:
                    continue
                if way == "right" and (operation, name, text) in DIFFERENT_RIGHT:
                    continue
                plain = ours
                if way == "both":
                    plain = lambda x, o=operand: function(x, o())  # noqa: E731
                with np.errstate(all="ignore"):
                    expected = outcome(plain, TARGETS[name]())
                    actual = outcome(ours, make(name, known))
                if not same(expected, actual):
                    bad.append(f"{name} {way} {text}: {expected!r:.90} {actual!r:.90}")
    assert not bad, "\n".join(bad)


# What is answered without calling the factory

QUIET = {
    "repr": repr,
    "isinstance": lambda p: isinstance(p, (np.ndarray, dict)),
    "isinstance Proxy": lambda p: isinstance(p, Proxy),
    "isinstance ABC": lambda p: isinstance(p, collections.abc.Mapping),
    "class": lambda p: p.__class__,
    "len": len,
    "shape": lambda p: p.shape,
    "callable": callable,
    "hasattr dask": lambda p: hasattr(p, "__dask_graph__"),
    "hasattr name": lambda p: hasattr(p, "__name__"),
    "hasattr wrapped": lambda p: hasattr(p, "__wrapped__"),
    "module": lambda p: p.__module__,
    "doc": lambda p: p.__doc__,
    "getmodule": inspect.getmodule,
    "iscoroutinefunction": inspect.iscoroutinefunction,
    "isawaitable": inspect.isawaitable,
    "is_dataclass": dataclasses.is_dataclass,
    "sizeof": sys.getsizeof,
    "weakref": lambda p: weakref.ref(p)(),
    "referents": gc.get_referents,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "tokenize": lambda p: p.__dask_tokenize__(),
    "cloudpickle": cloudpickle.dumps,
    **{
        f"pickle {n}": lambda p, n=n: pickle.dumps(p, n)
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "is": lambda p: p is p,
    "id": id,
    "typing": lambda p: Proxy[int](get_factory(p)),
    "is_resolved": is_resolved,
    "is_proxy": is_proxy,
    "get_factory": get_factory,
}


@pytest.mark.parametrize("ask", QUIET)
def test_answers_without_resolving(ask):
    factory = Factory(np.ones((3, 4)))
    p = Proxy(factory)
    QUIET[ask](p)
    assert factory.calls == 0
    assert not is_resolved(p)


@pytest.mark.parametrize(
    "ask",
    sorted(
        set(QUIET)
        # only the target knows
        - {"isinstance", "isinstance ABC", "class", "len", "shape", "getmodule"}
        - {"hasattr name", "hasattr wrapped", "iscoroutinefunction", "isawaitable"}
        - {"is_dataclass"}
    ),
)
def test_answers_without_resolving_or_metadata(ask):
    factory = Factory(np.ones((3, 4)), known=False)
    QUIET[ask](Proxy(factory))
    assert factory.calls == 0


def test_answers_from_metadata_are_right():
    a = np.ones((3, 4))
    p = Proxy(Factory(a))
    assert repr(p) == "<Proxy of numpy.ndarray (3, 4), not resolved>"
    assert (p.shape, len(p), p.__class__) == (a.shape, 3, np.ndarray)
    assert isinstance(p, collections.abc.Iterable)
    assert not isinstance(p, collections.abc.Hashable)
    with pytest.raises(TypeError, match="unhashable"):
        hash(p)
    with pytest.raises(AttributeError, match="__name__"):
        p.__name__  # noqa: B018
    assert not is_resolved(p)
    assert repr(Proxy(lambda: 1)) == "<Proxy, not resolved>"


def test_cached_hash_is_used():
    factory = Factory("a text")
    p = Proxy(factory)
    assert hash(p) == hash("a text")
    assert factory.calls == 0
    assert {"a text": 1}[p] == 1


def test_size_is_small_until_resolved():
    p = Proxy(Factory(np.ones(100)))
    assert sys.getsizeof(p) < 2000
    resolve(p)
    assert sys.getsizeof(p) > 10**9  # what the metadata say
    q = Proxy(lambda: np.ones(100_000))
    resolve(q)
    assert sys.getsizeof(q) > 800_000


def test_type_that_cannot_be_imported_is_no_error_until_use():
    factory = Factory([1])
    factory.metadata = dataclasses.replace(
        factory.metadata, type_name="no_such.Type", type_pickle=b"cno_such\nType\n."
    )
    p = Proxy(factory)
    assert not isinstance(p, list)
    assert factory.calls == 0
    assert p * 2 == [1, 1]
    assert isinstance(p, list)


class Light:
    """A factory that unpickles where there is no NumPy."""

    def __call__(self):
        raise AssertionError("called")


LIGHT = """
import pickle, sys, types
module = sys.modules["light"] = types.ModuleType("light")
exec("class Light:\\n    def __call__(self): raise AssertionError", vars(module))
p = pickle.loads(sys.stdin.buffer.read())
repr(p), hasattr(p, "__dask_graph__"), sys.getsizeof(p), pickle.dumps(p)
assert callable(p), "nothing is known of the type"
assert "numpy" not in sys.modules
assert not isinstance(p, dict)
assert "numpy" in sys.modules
assert not callable(p), "the type is known by now"
"""


def test_only_the_type_is_imported():
    factory = Light()
    factory.metadata = Factory(np.ones(3)).metadata
    data = pickle.dumps(Proxy(factory), 0)
    data = data.replace(f"c{__name__}\n".encode(), b"clight\n")
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], input=data, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


# Functions of the module


@pytest.mark.parametrize("function", [resolve, is_resolved, extract, get_factory])
def test_functions_refuse_what_is_no_proxy(function):
    with pytest.raises(TypeError, match=r"takes a Proxy, not list"):
        function([])
    with pytest.raises(TypeError, match="callable"):
        Proxy(3)


def test_extract_gives_the_very_target():
    target = np.ones(3)
    p = Proxy(Factory(target))
    assert extract(p) is target
    assert extract(p) is target
    assert get_factory(p).calls == 1
    assert resolve(p) is None
    assert is_resolved(p)


def test_proxy_of_a_proxy_is_one_proxy():
    target = [1]
    assert extract(Proxy(lambda: Proxy(lambda: target))) is target


def test_populate():
    factory = Factory([1])
    p = Proxy(factory)
    target = [1]
    populate(p, target)
    assert extract(p) is target
    populate(p, [2])
    assert extract(p) is target
    assert factory.calls == 0
    assert not is_resolved(pickle.loads(pickle.dumps(p)))
    with pytest.raises(TypeError, match="takes a Proxy"):
        populate(1, 2)


def test_is_proxy_asks_nothing():
    class Angry:
        @property
        def __class__(self):
            raise AssertionError("asked")

    assert not is_proxy(Angry())
    assert not is_proxy(Proxy)
    assert is_proxy(Proxy(fail))


def test_subclass_keeps_its_class():
    p = Owned(Factory([1]))
    assert isinstance(p, Owned)
    assert p[0] == 1
    assert type(p).__mro__[1] is Owned
    assert isinstance(pickle.loads(pickle.dumps(p)), Owned)
    assert (Owned.__module__, Proxy.__module__) == (__name__, "daskref.proxy")


class Owned(Proxy):
    __slots__ = ()


def test_classes_are_shared():
    a, b = Proxy(Factory([1])), Proxy(Factory([2]))
    assert type(a) is type(b)
    before = type(a)
    resolve(a)
    assert type(a) is not before
    resolve(b)
    assert type(a) is type(b)
    assert repr(type(a)) == "<class 'daskref.proxy.Proxy'>"
    assert Proxy.__doc__.startswith("Stand for")


def test_generic_alias():
    assert Proxy[int].__origin__ is Proxy
    factory = Factory([1])
    p = Proxy[list](factory)
    assert factory.calls == 0
    assert p == [1]


# Pickling and copying


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("resolved", [True, False])
def test_pickles_as_its_factory(dumps, protocol, resolved):
    p = Proxy(Factory(np.arange(4)))
    if resolved:
        resolve(p)
    q = pickle.loads(dumps(p, protocol))
    assert is_proxy(q)
    assert not is_resolved(q)
    assert get_factory(q).calls == get_factory(p).calls
    assert q.sum() == 6


def test_copies():
    p = Proxy(Factory({"a": [1]}))
    for make_copy in (copy.copy, copy.deepcopy):
        q = make_copy(p)
        assert is_proxy(q)
        assert q is not p
        assert get_factory(q) is get_factory(p)
    resolve(p)
    shallow, deep = copy.copy(p), copy.deepcopy(p)
    assert type(shallow) is type(deep) is dict
    assert shallow["a"] is p["a"]
    assert deep["a"] is not p["a"]


# Mutation


def test_inplace_operators_change_a_mutable_target():
    target = np.ones(3)
    p = q = Proxy(Factory(target))
    p += 1
    assert p is q
    assert target.tolist() == [2, 2, 2]


def test_inplace_operators_bind_a_plain_result_otherwise():
    p = q = Proxy(Factory(3))
    p += 1
    assert type(p) is int
    assert p == 4
    assert q == 3


def test_token_is_the_same_before_and_after():
    p = Proxy(Factory([1], token="abc"))
    before = p.__dask_tokenize__()
    assert before == ("daskref.Proxy", "abc")
    p.append(2)
    assert p.__dask_tokenize__() == before
    assert Proxy(double).__dask_tokenize__() == Proxy(double).__dask_tokenize__()
    lock = threading.Lock()
    assert Proxy(lambda: lock).__dask_tokenize__()  # that cannot pickle


# Protocols that need more than one line


@pytest.mark.parametrize("known", [True, False])
def test_context_manager(known):
    with Proxy(Factory(Context(), known)) as inner:
        assert inner == "entered"
        raise KeyError  # swallowed by the target
    with Proxy(managed) as inner:
        assert inner == "managed"


@pytest.mark.parametrize("known", [True, False])
def test_asynchronous_protocols(known):
    async def main():
        async with Proxy(Factory(AsyncContext(), known)) as inner:
            assert inner == "entered"
            raise KeyError
        assert [x async for x in Proxy(Factory(agen(), known))] == [1, 2]
        p = Proxy(Factory(coroutine(1), known))
        if not known:
            resolve(p)
        assert inspect.isawaitable(p)
        return await p

    assert asyncio.run(main()) == 2


def test_iterators():
    p = Proxy(lambda: iter([1, 2, 3]))
    resolve(p)
    assert next(p) == 1
    assert list(p) == [2, 3]
    p = Proxy(lambda: (x for x in "ab"))
    assert p.send(None) == "a"
    assert next(p) == "b"
    assert next(p, None) is None
    p = Proxy(lambda: iter("ab"))
    assert "".join(p) == "ab"


def test_buffers_where_python_can():
    p = Proxy(Factory(np.arange(3, dtype="u1")))
    assert bytes(p) == b"\0\1\2"
    if sys.version_info >= (3, 12):
        assert memoryview(p).tolist() == [0, 1, 2]
        assert bytearray(p) == b"\0\1\2"


def test_asarray_shares_memory():
    target = np.arange(3.0)
    assert np.shares_memory(np.asarray(Proxy(Factory(target))), target)


def test_ufunc_out_and_where():
    target = np.zeros(3)
    p, mask = Proxy(Factory(target)), Proxy(Factory(np.array([True, False, True])))
    np.add(p, 1, out=p, where=mask)
    assert target.tolist() == [1, 0, 1]


# Errors and threads


class Flaky:
    def __init__(self, *errors):
        self.errors = list(errors)

    def __call__(self):
        if self.errors:
            raise self.errors.pop(0)
        return [1]


@pytest.mark.parametrize("error", [AttributeError, KeyError, StopIteration, OSError])
@pytest.mark.parametrize(
    "use",
    [len, list, next, lambda p: p.x, lambda p: p["k"], lambda p: hasattr(p, "x"), bool],
)
def test_failing_factory_raises_one_error(use, error):
    p = Proxy(Flaky(error("why")))
    if use is next:
        with pytest.raises(TypeError):
            next(p)
        return
    with pytest.raises(ResolveError, match="why") as caught:
        use(p)
    assert type(caught.value.__cause__) is error
    assert not is_resolved(p)
    assert p == [1]


def test_resolve_error_passes_through():
    error = ResolveError("the reference", "a reason")
    with pytest.raises(ResolveError) as caught:
        resolve(Proxy(Flaky(error)))
    assert caught.value is error


def test_factory_that_uses_its_own_proxy():
    p = Proxy(lambda: p[0])
    with pytest.raises(ResolveError, match="very proxy"):
        resolve(p)


def test_threads_wait_for_one_call():
    n = 8
    started = threading.Barrier(n + 1)
    go = threading.Event()
    calls, seen = [], []

    def factory():
        calls.append(1)
        assert go.wait(30)
        return [1, 2]

    p = Proxy(factory)

    def use():
        started.wait(30)
        seen.append(extract(p))

    threads = [threading.Thread(target=use) for _ in range(n)]
    for thread in threads:
        thread.start()
    started.wait(30)
    assert repr(p) == "<Proxy, not resolved>"
    assert not is_resolved(p)
    go.set()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 1
    assert len(seen) == n
    assert all(x is seen[0] for x in seen)


def test_isinstance_does_not_wait_for_a_fetch():
    inside, go = threading.Event(), threading.Event()
    factory = Factory([1])

    def slow():
        inside.set()
        assert go.wait(30)
        return factory.value

    slow.metadata = factory.metadata
    p = Proxy(slow)
    thread = threading.Thread(target=resolve, args=(p,))
    thread.start()
    assert inside.wait(30)
    assert isinstance(p, list)
    assert len(p) == 1
    go.set()
    thread.join(30)
    assert is_resolved(p)
