"""Second table: what Dask does to an unresolved proxy without resolving it."""

from __future__ import annotations

import pickle

import dask
import dask.base
import dask.core
import dask.sizeof
import dask.utils
import numpy as np
import pytest
from dask._task_spec import (
    convert_legacy_task,
    parse_input,
)
from dask.tokenize import tokenize
from distributed.utils_comm import unpack_remotedata

from daskref.proxy import Proxy, extract, get_factory, is_resolved, resolve
from tests.support.proxy_cases import TARGETS, Factory
from tests.support.proxy_quiet import KINDS, LEGITIMATE, QUIET_IN_DASK


@pytest.mark.parametrize("action", QUIET_IN_DASK)
def test_does_not_resolve(action):
    for kind, make in KINDS.items():
        if (action, kind) in LEGITIMATE:
            continue
        factory = Factory(make())
        p = Proxy(factory)
        try:
            QUIET_IN_DASK[action](p)
        except TypeError:
            if action not in ("dispatch", "Task tokenized"):
                raise
        assert factory.calls == 0, kind
        assert not is_resolved(p), kind


#: Somebody asks for the type of a proxy of which nothing is known.
ONLY_WITH_METADATA = {
    "asyncio.iscoroutine",
    "getmodule",
    "is_coroutine_function",
    "iscoroutinefunction",
    "isinstance Iterator",
    "isinstance containers",
    "isinstance future",
    "isinstance wire",
}


@pytest.mark.parametrize("action", sorted(set(QUIET_IN_DASK) - ONLY_WITH_METADATA))
def test_does_not_resolve_without_metadata(action):
    for kind in ("ndarray", "list", "dict", "pair", "point"):
        factory = Factory(TARGETS[kind](), known=False)
        p = Proxy(factory)
        try:
            QUIET_IN_DASK[action](p)
        except TypeError:
            if action not in ("dispatch", "Task tokenized"):
                raise
        assert factory.calls == 0, kind


@pytest.mark.parametrize("kind", ["list", "tuple", "dict", "set", "pair", "point"])
@pytest.mark.parametrize("resolved", [True, False])
def test_a_collection_is_a_leaf_to_graphs(kind, resolved):
    p = Proxy(Factory(TARGETS[kind]()))
    if resolved:
        resolve(p)
    assert parse_input(p) is p
    assert parse_input([p, 1])[0] is p
    assert convert_legacy_task("x", p, ()) is p
    assert unpack_remotedata([p])[0][0] is p
    (again,), _ = dask.base.unpack_collections(p)[1]([]), None
    assert again is p
    assert isinstance(p, type(extract(p))), "but to everybody else it is what it is"


def test_tokens_agree_on_both_sides_of_the_wire():
    p = Proxy(Factory([1], token="abc"))
    q = pickle.loads(pickle.dumps(p))
    resolve(q)
    assert tokenize(p) == tokenize(q)
    assert tokenize(p) != tokenize(Proxy(Factory([1], token="abd")))


def test_delayed_runs_on_the_value():
    factory = Factory(np.arange(4))
    task = dask.delayed(np.sum)(Proxy(factory))
    assert factory.calls == 0
    assert task.compute(scheduler="sync") == 6


def test_registered_functions_are_found_for_every_proxy_class():
    sizeof = dask.utils.Dispatch("sizeof")
    sizeof.register(object, lambda x: "object")
    sizeof.register(Proxy, lambda x: "proxy")
    p = Proxy(Factory([1]))
    assert sizeof(p) == "proxy"
    resolve(p)
    assert sizeof(p) == "proxy"
    assert get_factory(p).calls == 1
