"""Tables of cases: what is to be answered without fetching, by Dask and by others."""

from __future__ import annotations

import asyncio
import collections.abc
import copy
import dataclasses
import gc
import importlib
import inspect
import logging
import pickle
import sys
import weakref
from collections.abc import Iterator

import cloudpickle
import dask
import dask.base
import dask.core
import dask.sizeof
import dask.utils
import distributed
import numpy as np
import pandas as pd
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

from daskref.proxy import is_proxy, is_resolved
from tests.support.proxy_cases import TARGETS, double
from tests.support.proxy_libraries import is_any_proxy


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
    assert record.getMessage().count("Proxy") == 2


def _is_unresolved(p):
    return is_any_proxy(p) and not (is_proxy(p) and is_resolved(p))


def _pickled_task(p):
    task = pickle.loads(pickle.dumps(Task("k", identity, p, x=[p])))
    assert _is_unresolved(task.args[0])


def _serialized(p, **kwargs):
    q = deserialize(*serialize(p, **kwargs))
    assert _is_unresolved(q)


#: What Dask does to values that it only passes on.
QUIET_IN_DASK = {
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


#: Only a function's code tells whether it is a coroutine function. Of which kinds it is
#: asked depends on the version of Python.
LEGITIMATE = {
    (action, kind)
    for action in ("iscoroutinefunction", "is_coroutine_function")
    for kind in ("function", "double", "class")
}

#: What Python and its library ask of any object.
QUIET = {
    "repr": repr,
    "isinstance": lambda p: isinstance(p, (np.ndarray, dict)),
    "isinstance ABC": lambda p: isinstance(p, collections.abc.Mapping),
    "class": lambda p: p.__class__,
    "len": lambda p: hasattr(type(p), "__len__") and len(p),
    "callable": callable,
    "iterable": lambda p: hasattr(type(p), "__iter__"),
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
    "cloudpickle": cloudpickle.dumps,
    **{
        f"pickle {n}": lambda p, n=n: pickle.dumps(p, n)
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "is": lambda p: p is p,
    "id": id,
}

#: Ordinary metadata: what is asked, and of which targets.
METADATA = {
    "type": "ndarray frame series table polars list dict str".split(),
    "hash": ["str", "tuple", "int"],
    "len": "ndarray frame series table polars list dict str".split(),
    "shape": ["ndarray", "frame", "series", "table", "polars"],
    "dtype": ["ndarray", "series", "index"],
    "ndim": ["ndarray", "frame", "series"],
    "size": ["ndarray", "frame", "series"],
    "nbytes": ["ndarray", "series"],
    "itemsize": ["ndarray"],
    "columns": ["frame", "polars"],
    "column_names": ["table"],
    "num_rows": ["table"],
    "num_columns": ["table"],
    "height": ["polars"],
    "width": ["polars"],
    "name": ["series"],
}


def ask(p, question):
    """Return the answer to one of :data:`METADATA`."""
    if question == "type":
        return p.__class__
    if question in ("hash", "len"):
        return hash(p) if question == "hash" else len(p)
    return getattr(p, question)
