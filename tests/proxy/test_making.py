"""How proxies are made: with a target at hand, and by classes of the user's."""

from __future__ import annotations

import collections.abc
import copy
import pickle
from functools import singledispatch
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from dask.tokenize import tokenize

from daskref.exceptions import ResolveError
from daskref.proxy.proxy import (
    Proxy,
    extract,
    get_factory,
    is_proxy,
    is_resolved,
    resolve,
)
from tests.support.proxy_cases import Factory


def make() -> list[int]:
    return [1, 2]


def fail() -> list[int]:
    raise AssertionError("fetched")


# A target at hand


def test_a_proxy_with_a_target_is_resolved():
    target = [1, 2]
    p = Proxy(fail, target=target)
    assert is_resolved(p)
    assert extract(p) is target
    assert get_factory(p) is fail
    assert not is_resolved(Proxy(make, target=None))


def test_what_is_known_of_the_target_travels():
    p = Proxy(make, target=[1, 2], cache_defaults=True)
    assert get_factory(p) is make
    q = pickle.loads(pickle.dumps(p))
    assert get_factory(q) is make
    assert not is_resolved(q)
    assert isinstance(q, list)
    assert len(q) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(q)
    assert not isinstance(q, tuple)
    assert not is_resolved(q)
    assert q == [1, 2]


def test_the_hash_of_the_target_travels():
    p = pickle.loads(pickle.dumps(Proxy(str, target="text", cache_defaults=True)))
    assert hash(p) == hash("text")
    assert not is_resolved(p)


def test_nothing_is_known_without_cache_defaults():
    q = pickle.loads(pickle.dumps(Proxy(make, target=[1, 2])))
    assert not is_resolved(q)
    assert isinstance(q, list)
    assert is_resolved(q)


def test_a_factory_that_knows_its_target_is_believed():
    factory = Factory([1, 2, 3])
    p = Proxy(factory, target=[1, 2, 3], cache_defaults=True)
    assert p.__daskref_factory__ is factory


def test_tokens_do_not_depend_on_what_was_at_hand():
    token = tokenize(Proxy(make))
    assert tokenize(Proxy(make, target=[1, 2])) == token
    assert tokenize(Proxy(make, target=[1, 2], cache_defaults=True)) == token


# Classes of the user's


class Named(Proxy[Any]):
    """Has fields, and arguments beside the factory."""

    name: Any = None

    def __init__(self, number: int, *, name: str = "none", **fields: Any) -> None:
        super().__init__(lambda: [number], target=[0] if number == 0 else None)
        self.name = name
        for field, value in fields.items():
            object.__setattr__(self, field, value)


class Inner(Named):
    def __init__(self) -> None:
        super().__init__(7, name="inner")


class Plain(Named):
    """Has its base's."""


@pytest.mark.parametrize("cls", [Named, Plain])
def test_a_subclass_has_an_init_of_its_own(cls):
    p = cls(5, name="mine", extra=1)
    assert not is_resolved(p)
    for _ in range(2):
        assert (p.name, p.extra) == ("mine", 1)
        assert isinstance(p, cls)
        assert cls.name is None
        resolve(p)
    assert p == [5]
    del p.name
    assert p.name is None
    with pytest.raises(AttributeError):
        p.other = 1  # the target's


def test_an_init_calls_that_of_its_base():
    assert (Inner().name, extract(Inner())) == ("inner", [7])


def test_an_init_may_have_a_target_at_hand():
    p = Named(0)
    assert is_resolved(p)
    assert p == [0]


class Known(Proxy[Any]):
    def __init__(self, first: Any, second: Any) -> None:
        super().__init__(second)


def test_an_init_takes_a_factory_that_knows_its_target():
    p = Known("first", Factory("text"))
    assert (len(p), isinstance(p, str), is_resolved(p)) == (4, True, False)
    assert p == "text"
    with pytest.raises(TypeError, match="takes a callable"):
        Known("first", "text")
    with pytest.raises(TypeError):
        Known("first")


def test_copies_are_made_without_init():
    p = Known("first", make)
    for q in (pickle.loads(pickle.dumps(p)), copy.copy(p), copy.deepcopy(p)):
        assert isinstance(q, Known)
        assert is_proxy(q)
        assert not is_resolved(q)
        assert q == [1, 2]


class Made(Proxy[Any]):
    """Makes its instances itself, as owners do."""

    def __new__(cls, number: int, name: str) -> Any:
        return Proxy.__new__(cls, lambda: [number])


class Initialized(Made):
    name: Any = None

    def __init__(self, number: int, name: str) -> None:
        self.name = name


def test_a_new_of_the_users_goes_before():
    p = Initialized(3, "mine")
    assert (p.name, is_resolved(p)) == ("mine", False)
    assert p == [3]


class Forgetful(Proxy[Any]):
    def __init__(self) -> None:
        self.anything = 1


def test_an_init_that_uses_the_proxy_too_early_is_told():
    with pytest.raises(
        ResolveError, match=r"has to call super\(\).__init__\(factory\)"
    ):
        Forgetful()


# A proxy of which nothing is known may be an iterator, and is none to who only looks


def test_an_unknown_proxy_is_no_iterator_to_its_class():
    p = Proxy(make)
    assert not issubclass(type(p), collections.abc.Iterator)
    assert not is_resolved(p)
    assert not isinstance(p, collections.abc.Iterator)
    assert isinstance(Proxy(lambda: iter("ab")), collections.abc.Iterator)


def test_dask_does_not_use_up_an_unknown_proxy():
    for make_tree in (lambda p: p, lambda p: [p], lambda p: {"a": (p,)}):
        p = Proxy(fail)
        dask.delayed(make_tree(p))
        dask.delayed(len)(make_tree(p))
        dask.base.unpack_collections(make_tree(p))
        assert not is_resolved(p)


def test_dispatch_on_an_unknown_proxy():
    @singledispatch
    def kind(obj: Any) -> str:
        return "object"

    kind.register(collections.abc.Iterator, lambda obj: "iterator")
    assert kind(Proxy(make)) == "object"
    assert kind(Proxy(lambda: iter("ab"))) == "iterator"
    assert kind.dispatch(type(Proxy(make)))(None) == "object"


def test_arrays_and_frames_of_an_unknown_proxy():
    def array() -> Any:
        return Proxy(lambda: np.arange(3))

    def numbers() -> Any:
        return Proxy(lambda: [1, 2])

    assert np.asarray(array()).tolist() == [0, 1, 2]
    assert np.array([array(), array()]).shape == (2, 3)
    assert np.sum(numbers()) == 3
    assert pd.Series(array()).tolist() == [0, 1, 2]
    assert pd.Series(numbers()).tolist() == [1, 2]
    assert pd.DataFrame({"a": numbers()})["a"].tolist() == [1, 2]
    assert pd.Index(numbers()).tolist() == [1, 2]
    frame = pd.DataFrame({"a": [1]})
    assert pd.DataFrame(Proxy(lambda: frame)).equals(frame)
