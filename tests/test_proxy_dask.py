"""Second table: what Dask does to an unresolved proxy without resolving it."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import pickle
from collections.abc import Iterator

import dask
import dask.base
import dask.core
import dask.sizeof
import dask.utils
import distributed
import numpy as np
import pandas as pd
import pytest
from dask._task_spec import (
    Alias,
    DataNode,
    Dict,
    GraphNode,
    List,
    Task,
    TaskRef,
    convert_legacy_graph,
    convert_legacy_task,
    parse_input,
)
from dask.tokenize import normalize_token, tokenize
from distributed.client import Future
from distributed.protocol import deserialize, serialize
from distributed.protocol import pickle as dask_pickle
from distributed.protocol.serialize import (
    Serialize,
    Serialized,
    ToPickle,
    check_dask_serializable,
    dask_serialize,
    to_serialize,
)
from distributed.sizeof import safe_sizeof
from distributed.spill import SpillBuffer
from distributed.utils_comm import pack_data, subs_multiple, unpack_remotedata
from distributed.worker import convert_args_to_str, convert_kwargs_to_str

from daskref.proxy import Proxy, extract, get_factory, is_proxy, is_resolved, resolve
from tests.proxy_cases import TARGETS, Factory, double


def identity(x, *args, **kwargs):
    return x


def _delayed_graph(p):
    return dict(dask.delayed(identity)(p).__dask_graph__())


def _collections(p):
    collections, repack = dask.base.unpack_collections(p, [p], {"x": p})
    again = repack(collections)
    assert again[0] is p
    assert again[1][0] is p


def _run(p):
    """A task gets the proxy as it is."""
    task = Task("k", identity, p, kwarg=p)
    assert task() is p


def _spill(p):
    buffer = SpillBuffer("unused-directory", target=10**6)
    buffer["x"] = p
    assert buffer["x"] is p
    assert buffer.fast.total_weight < 10_000


def _log(p):
    record = logging.LogRecord("n", 10, "p", 1, "%r %s", (p, [p]), None)
    assert "not resolved" in record.getMessage()


def _pickled_task(p):
    task = pickle.loads(pickle.dumps(Task("k", identity, p, x=[p])))
    assert is_proxy(task.args[0])
    assert not is_resolved(task.args[0])


def _serialized(p, **kwargs):
    q = deserialize(*serialize(p, **kwargs))
    assert is_proxy(q)
    assert not is_resolved(q)


QUIET = {
    # sizes and tokens
    "sizeof": dask.sizeof.sizeof,
    "sizeof of a list": lambda p: dask.sizeof.sizeof([p, {"a": p}]),
    "safe_sizeof": safe_sizeof,
    "tokenize": tokenize,
    "tokenize nested": lambda p: tokenize([p], {"a": p}, ensure_deterministic=True),
    "normalize_token": normalize_token,
    # names
    "typename": lambda p: dask.utils.typename(type(p)),
    "funcname": dask.utils.funcname,
    "key_split": lambda p: dask.utils.key_split(dask.utils.funcname(p) + "-abc"),
    "getmodule": inspect.getmodule,
    "convert_args_to_str": lambda p: convert_args_to_str((p, p)),
    "convert_args_to_str max": lambda p: convert_args_to_str((p,), max_len=10),
    "convert_kwargs_to_str": lambda p: convert_kwargs_to_str({"x": p}),
    "logging": _log,
    "repr of a task": lambda p: repr(Task("k", identity, p)),
    "repr of a node": lambda p: repr(DataNode("k", p)),
    # what it is not
    "is_dask_collection": dask.base.is_dask_collection,
    "isinstance future": lambda p: isinstance(p, (Future, TaskRef, GraphNode, Alias)),
    "isinstance wire": lambda p: isinstance(p, (Serialize, Serialized, ToPickle)),
    "isinstance containers": lambda p: isinstance(p, (list, tuple, dict, set, str)),
    "isinstance Iterator": lambda p: isinstance(p, Iterator),
    "hasattr": lambda p: [
        hasattr(p, name)
        for name in (
            "__dask_graph__",
            "__dask_keys__",
            "__dask_future__",
            "__dask_exprs__",
            "__dask_distributed_pack__",
        )
    ],
    "iscoroutinefunction": inspect.iscoroutinefunction,
    "asyncio.iscoroutine": asyncio.iscoroutine,
    "is_coroutine_function": distributed.utils.is_coroutine_function,
    "istask": dask.core.istask,
    "is_namedtuple_instance": dask.utils.is_namedtuple_instance,
    "ishashable": dask.core.ishashable,
    # graphs
    "delayed": dask.delayed,
    "delayed(f)(p)": lambda p: dask.delayed(identity)(p, [p], x={"a": p}),
    "delayed graph": _delayed_graph,
    "delayed unpack": importlib.import_module("dask.delayed").unpack_collections,
    "delayed to_task": lambda p: dask.delayed([p, {"a": p}]),
    "unpack_collections": _collections,
    "parse_input": parse_input,
    "parse_input nested": lambda p: parse_input([p, {"a": (p,)}, TaskRef("x")]),
    "Task": lambda p: Task("k", identity, p, x=p),
    "Task dependencies": lambda p: Task("k", identity, p, List(p)).dependencies,
    "Task run": _run,
    "Task pickled": _pickled_task,
    "Task tokenized": lambda p: tokenize(Task("k", identity, p)),
    "Task substituted": lambda p: Task("k", identity, p, TaskRef("a")).substitute(
        {"a": "b"}
    ),
    "DataNode": lambda p: pickle.dumps(DataNode("k", p)),
    "List": lambda p: List(p, TaskRef("x")),
    "Dict": lambda p: Dict({"a": p}),
    "convert_legacy_graph": lambda p: convert_legacy_graph({"x": p}),
    "convert_legacy_graph nested": lambda p: convert_legacy_graph(
        {"x": [p, "y"], "y": (identity, p, [p])}
    ),
    "convert_legacy_task": lambda p: convert_legacy_task("x", (identity, p), {"y"}),
    "flatten": lambda p: list(dask.core.flatten([p, [p]])),
    "get_dependencies": lambda p: dask.core.get_dependencies({"x": p, "y": "x"}, "x"),
    "unpack_remotedata": lambda p: unpack_remotedata([p, {"a": (p,)}]),
    "pack_data": lambda p: pack_data([p, {"a": p}], {"x": 1}, key_types=str),
    "subs_multiple": lambda p: subs_multiple([p, "x"], {"x": 1}),
    # the wire
    "pickle.dumps": lambda p: dask_pickle.loads(dask_pickle.dumps(p)),
    "pickle.dumps nested": lambda p: dask_pickle.dumps([p, {"a": p}, lambda: p]),
    "always pickle": dask_pickle._always_use_pickle_for,
    "serialize": _serialized,
    "serialize pickle": lambda p: _serialized(p, serializers=["pickle"]),
    "serialize dask": lambda p: serialize(p, serializers=["dask"], on_error="message"),
    "serialize nested": lambda p: serialize([p, {"a": p}]),
    "check_dask_serializable": check_dask_serializable,
    "dispatch": lambda p: dask_serialize.dispatch(type(p)),
    "to_serialize": to_serialize,
    "dumps": lambda p: distributed.protocol.dumps({"x": to_serialize(p)}),
    "to_pickle": lambda p: distributed.protocol.dumps({"x": ToPickle(p)}),
    # storage
    "spill buffer": _spill,
    "key of an update": lambda p: {"x": p} | {"y": p},
}

#: Which targets: Dask looks into the collections, and names the functions.
KINDS = {
    **{n: TARGETS[n] for n in TARGETS if n not in ("none", "coroutine")},
    "double": lambda: double,
    "big frame": lambda: pd.DataFrame({"x": np.arange(1000)}),
}


#: Only a function's code tells whether it is a coroutine function.
LEGITIMATE = {
    (action, kind)
    for action in ("iscoroutinefunction", "is_coroutine_function")
    for kind in ("function", "double", "class")
}


@pytest.mark.parametrize("action", QUIET)
def test_does_not_resolve(action):
    for kind, make in KINDS.items():
        if (action, kind) in LEGITIMATE:
            continue
        factory = Factory(make())
        p = Proxy(factory)
        try:
            QUIET[action](p)
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


@pytest.mark.parametrize("action", sorted(set(QUIET) - ONLY_WITH_METADATA))
def test_does_not_resolve_without_metadata(action):
    for kind in ("ndarray", "list", "dict", "pair", "point"):
        factory = Factory(TARGETS[kind](), known=False)
        p = Proxy(factory)
        try:
            QUIET[action](p)
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
