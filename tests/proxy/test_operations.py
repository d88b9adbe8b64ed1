"""First table: everything that users do to a proxy, against the plain object."""

from __future__ import annotations

import asyncio
import collections.abc
import copy
import dataclasses
import inspect
import io
import operator
import pickle
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Optional, TypeVar, get_args, get_origin, get_type_hints

import cloudpickle
import numpy as np
import pytest

from daskref.exceptions import ResolveError
from daskref.proxy.proxy import (
    Proxy,
    extract,
    get_factory,
    is_proxy,
    is_resolved,
    resolve,
)
from daskref.proxy.states import populate
from tests.support.proxy_cases import (
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
from tests.support.proxy_operations import (
    BINARIES,
    BINARY,
    OPERANDS,
    OPERATIONS,
    SIGNS,
    UNKNOWN_ITERATES,
    expected_deviations,
    outcome,
    same,
)
from tests.support.proxy_quiet import QUIET

EXPECTED = expected_deviations()


def _deviations(case, function, known):
    if not known and case in UNKNOWN_ITERATES:
        return
    for name, make in TARGETS.items():
        if (case, name) in EXPECTED:
            continue
        plain = outcome(function, make)
        proxied = outcome(function, lambda m=make: Proxy(Factory(m(), known)))
        if not same(plain, proxied):
            yield f"{name}: plain {plain!r:.150}, proxy {proxied!r:.150}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("known", [True, False], ids=["metadata", "generic"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(operation, known):
    bad = list(_deviations(operation, OPERATIONS[operation], known))
    assert not bad, "\n".join(bad)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("known", [True, False], ids=["metadata", "generic"])
@pytest.mark.parametrize("sign", SIGNS.values())
def test_binary_operators(sign, known):
    bad = []
    for case, function in BINARIES.items():
        if case.split()[1] == sign:
            bad += [f"{case}: {line}" for line in _deviations(case, function, known)]
    assert not bad, "\n".join(bad)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operation", BINARY)
def test_binary_operators_between_proxies(operation):
    function = getattr(operator, operation)
    bad = []
    for name, make in TARGETS.items():
        for text, operand in OPERANDS.items():
            if operation == "mod" and text in ("str", "bytes"):
                continue
            plain = outcome(lambda x, o=operand: function(x, o()), make)
            proxied = outcome(
                lambda x, o=operand: function(x, Proxy(o)),
                lambda m=make: Proxy(Factory(m())),
            )
            if not same(plain, proxied):
                bad.append(f"{name} and {text}: {plain!r:.90}, {proxied!r:.90}")
    assert not bad, "\n".join(bad)


# What is answered without calling the factory

OURS = QUIET | {
    "shape": lambda p: p.shape,
    "isinstance Proxy": lambda p: isinstance(p, Proxy),
    "tokenize": lambda p: p.__dask_tokenize__(),
    "typing": lambda p: Proxy[int](get_factory(p)),
    "is_resolved": is_resolved,
    "is_proxy": is_proxy,
    "get_factory": get_factory,
}


@pytest.mark.parametrize("ask", OURS)
def test_answers_without_resolving(ask):
    factory = Factory(np.ones((3, 4)))
    p = Proxy(factory)
    OURS[ask](p)
    assert factory.calls == 0
    assert not is_resolved(p)


@pytest.mark.parametrize(
    "ask",
    sorted(
        set(OURS)
        # only the target knows
        - {"isinstance", "isinstance ABC", "class", "len", "shape", "getmodule"}
        - {"hasattr name", "hasattr wrapped", "iscoroutinefunction", "isawaitable"}
        - {"is_dataclass"}
    ),
)
def test_answers_without_resolving_or_metadata(ask):
    factory = Factory(np.ones((3, 4)), known=False)
    OURS[ask](Proxy(factory))
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
    assert factory.calls == 0
    assert not is_resolved(pickle.loads(pickle.dumps(p)))
    other = Proxy(factory)
    populate(other, p)
    assert extract(other) is target


def test_is_proxy_asks_nothing():
    class Angry:
        @property
        def __class__(self):
            raise AssertionError("asked")

    assert not is_proxy(Angry())
    assert not is_proxy(Proxy)
    assert is_proxy(Proxy(fail))


class Owned(Proxy):
    __slots__ = ()


class Labelled(Proxy[list]):
    """With fields, methods and a constructor of its own."""

    __slots__ = ("label",)

    def __new__(cls, factory, label="none"):
        self = super().__new__(cls, factory)
        object.__setattr__(self, "label", label)
        return self

    def __repr__(self):
        return f"<{self.label}>"

    def __getitem__(self, key):
        return f"own {key}"

    def __reduce__(self):
        return Labelled, (get_factory(self), self.label)


T = TypeVar("T")


class Loose(Proxy[T]):
    """Without ``__slots__``, and generic."""


@pytest.mark.parametrize("cls", [Owned, Labelled, Loose])
@pytest.mark.parametrize("known", [True, False])
def test_subclass_keeps_its_class(cls, known):
    p = cls(Factory([1], known))
    for _ in range(2):
        assert isinstance(p, cls)
        assert type(p).__bases__ == (cls,)
        q = pickle.loads(pickle.dumps(p))
        assert isinstance(q, cls)
        assert not is_resolved(q)
        assert isinstance(cloudpickle.loads(cloudpickle.dumps(p)), cls)
        resolve(p)
    assert isinstance(p, list)
    assert len(p) == 1
    assert isinstance(copy.copy(cls(Factory([1], known))), cls)
    assert isinstance(copy.deepcopy(cls(Factory([1], known))), cls)
    assert (cls.__module__, Proxy.__module__) == (__name__, "daskref.proxy.proxy")


@pytest.mark.parametrize("known", [True, False])
def test_subclass_may_go_before_the_target(known):
    p = Labelled(Factory([1], known), "mine")
    assert (repr(p), p[5], p.label) == ("<mine>", "own 5", "mine")
    q = pickle.loads(pickle.dumps(p))
    resolve(p)
    assert (repr(p), p[5], p.label, len(p)) == ("<mine>", "own 5", "mine", 1)
    assert (q.label, extract(q)) == ("mine", [1])


def test_subclass_of_a_subclass():
    class Inner(Labelled):
        __slots__ = ()

    p = Inner(Factory([1]), "inner")
    resolve(p)
    assert isinstance(p, Labelled)
    assert repr(p) == "<inner>"
    assert type(p).__mro__[1:3] == (Inner, Labelled)
    # what was made for one class is not used for another
    assert type(Owned(list)) is not type(Proxy(list)) is not type(Inner(list))


def test_a_class_that_was_defined_again(monkeypatch):
    main = sys.modules["__main__"]
    for body in ({}, {"__len__": lambda self: 3, "__call__": lambda self: 4}):
        cls = type("Again", (), {**body, "__module__": "__main__"})
        monkeypatch.setattr(main, "Again", cls, raising=False)
        p = Proxy(Factory(cls()))
        assert callable(p) == hasattr(type(p), "__len__") == bool(body)


def test_classes_are_shared():
    a, b = Proxy(Factory([1])), Proxy(Factory([2]))
    assert type(a) is type(b)
    before = type(a)
    resolve(a)
    assert type(a) is not before
    resolve(b)
    assert type(a) is type(b)
    assert repr(type(a)) == "<class 'daskref.proxy.proxy.Proxy'>"
    assert Proxy.__doc__.startswith("Stand for")


def test_generic_alias():
    assert Proxy[int].__origin__ is Proxy
    factory = Factory([1])
    p = Proxy[list](factory)
    assert factory.calls == 0
    assert p == [1]
    assert get_origin(Proxy[int]) is Proxy
    assert get_args(Proxy[int]) == (int,)
    assert Proxy[T][int] == Proxy[int] != Proxy[str]
    assert pickle.loads(pickle.dumps(Proxy[int])) == Proxy[int]
    assert Loose[int].__origin__ is Loose


def annotated(
    a: Proxy[int], b: Proxy[str] | None = None, *c: list[Proxy[T]]
) -> dict[str, Proxy[np.ndarray]]:
    """Have annotations of all sorts."""


def test_type_hints():
    assert get_type_hints(annotated) == {
        "a": Proxy[int],
        "b": Proxy[str] | None,
        "c": list[Proxy[T]],
        "return": dict[str, Proxy[np.ndarray]],
    }
    fields = dataclasses.make_dataclass("Fields", [("x", Proxy[int])])
    assert get_type_hints(fields) == {"x": Proxy[int]}


@pytest.mark.parametrize("known", [True, False])
def test_a_proxy_of_a_class_is_a_type_to_typing(known):
    p = Proxy(Factory(Point, known))
    assert get_args(list[p]) == (Point,)
    assert Optional[p] == Optional[Point]  # noqa: UP045
    assert get_type_hints(SimpleNamespace(__annotations__={"x": p})) == {"x": Point}


def test_get_type_hints_of_a_proxy_of_a_function():
    p = Proxy(Factory(annotated))
    assert get_type_hints(p) == get_type_hints(annotated)
    assert inspect.signature(p) == inspect.signature(annotated)


def test_match_knows_what_is_known():
    def kind(x):
        match x:
            case [*_]:
                return "sequence"
            case {**_rest}:
                return "mapping"
        return None

    for value, expected in (([1], "sequence"), ((1,), "sequence"), ({1: 2}, "mapping")):
        assert kind(Proxy(Factory(value))) == expected
        p = Proxy(Factory(value, known=False))
        assert kind(p) is None, "nothing is known of it"
        resolve(p)
        assert kind(p) == expected
    assert kind(Proxy(Factory("text"))) is None
    assert not issubclass(type(Proxy(Factory([1]))), collections.abc.Sequence)


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
    assert next(p) == 1
    assert list(p) == [2, 3]
    assert isinstance(p, collections.abc.Iterator)
    with pytest.raises(TypeError):
        next(Proxy(lambda: [1, 2, 3]))
    p = Proxy(lambda: (x for x in "ab"))
    assert p.send(None) == "a"
    assert next(p) == "b"
    assert next(p, None) is None
    p = Proxy(lambda: iter("ab"))
    assert "".join(p) == "ab"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("value", [b"\0\1\2", np.arange(3, dtype="u1")], ids=type)
def test_buffers_where_python_can(value, known):
    def make():
        return Proxy(Factory(value, known))

    assert bytes(make()) == b"\0\1\2"
    if sys.version_info >= (3, 12):
        assert memoryview(make()).tolist() == [0, 1, 2]
        assert np.frombuffer(make(), "u1").tolist() == [0, 1, 2]
        assert io.BytesIO(make()).read() == b"\0\1\2"
        assert bytearray(make()) == b"\0\1\2"
        assert isinstance(make(), collections.abc.Buffer)
        assert np.shares_memory(np.frombuffer(make(), "u1"), np.frombuffer(value, "u1"))
        with pytest.raises(TypeError):
            memoryview(Proxy(Factory([1], known)))
        assert not isinstance(Proxy(Factory([1], known)), collections.abc.Buffer)


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
    with pytest.raises(ResolveError, match="why") as caught:
        use(p)
    assert type(caught.value.__cause__) is error
    assert caught.value.cause is caught.value.__cause__
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
