"""Large literals in a graph -> references.

A graph is scanned by pickling it, which Dask does anyway: the pickle is handed on where
nothing large was found. Otherwise the graph is materialized here, not on the scheduler,
and each task that holds something large is packed by :mod:`daskref.graph.packing`.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_expr.Expr``                          what leaves a client
``_expr.LLGExpr``                       a graph that is materialized
``_task_spec.Alias``                    values that are tasks of their own
``_task_spec.DataNode``                 values that have a key of their own
``_task_spec.GraphNode``                all nodes
``_task_spec.Task``                     calls
``_task_spec.convert_legacy_graph``     graphs of tuples
``_task_spec.parse_input``              futures among arguments
``client._MapExpr``                     what ``Client.map`` makes: ``func``,
                                        ``iterables``, ``keys`` and ``kwargs``
======================================  ============================================
"""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import cloudpickle
from dask._expr import Expr, LLGExpr
from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    Task,
    convert_legacy_graph,
    parse_input,
)
from dask.sizeof import sizeof
from distributed.client import _MapExpr

from daskref.exceptions import OwnershipError
from daskref.graph._pickling import FoundLargeError, scan
from daskref.graph.literals import small_call, small_value
from daskref.graph.nodes import references_in
from daskref.graph.packing import Packer
from daskref.objects.reference import Reference

#: Bytes above which a keyword argument of ``map`` does not travel with each task.
SHARED = 100_000


class Prepickled:
    """An expression that the scan has pickled; pickling it hands the bytes on."""

    def __init__(self, data: bytes, buffers: list[pickle.PickleBuffer]) -> None:
        self._data = data
        self._buffers = buffers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _unpickle, (pickle.PickleBuffer(self._data), *self._buffers)


def _unpickle(data: Any, *buffers: Any) -> Any:
    return pickle.loads(data, buffers=buffers)


class GraphExpr(LLGExpr):
    """A materialized graph that keeps its annotations."""

    _parameters = ["dsk", "annotations_by_type"]  # noqa: RUF012

    def __dask_annotations__(self) -> Any:
        return self.operand("annotations_by_type")


def is_small_expr(expr: Any, threshold: int) -> bool:
    """Tell whether an expression surely contains nothing large, at a glance."""
    cls = type(expr)
    if cls is dict and not expr:  # Dask asks for keys that the scheduler has
        return True
    if cls is LLGExpr:
        dsk = expr.operand("dsk")
        return (
            type(dsk) is dict
            and len(dsk) <= 8
            and all(
                type(task) is Task
                and small_call(
                    task.func, chain(task.args, task.kwargs.values()), threshold
                )
                for task in dsk.values()
            )
        )
    return cls is _MapExpr and _is_small_map(expr, threshold)


def _is_small_map(expr: _MapExpr, threshold: int) -> bool:
    limit = min(threshold, SHARED)
    return small_call(expr.func, expr.kwargs.values(), limit) and all(
        type(column) is range
        or (
            type(column) in (list, tuple)
            and all(small_value(value, threshold) for value in column)
        )
        for column in expr.iterables
    )


def pack_expr(expr: Any, packer: Packer) -> Any:
    """Replace the large literals of an expression that a Dask client is about to send.

    Blocks while *packer*, made for this call to the client, puts. Returns an object
    that pickles as an equivalent expression: *expr* itself if it is surely small or
    does not pickle (Dask then raises its own error).
    """
    threshold = packer.threshold
    if is_small_expr(expr, threshold):
        return expr
    # hashing the call, or a keyword of `map`, has shown something large
    is_large = packer.knows_large or (
        type(expr) is _MapExpr
        and not all(small_value(value, SHARED) for value in expr.kwargs.values())
    )
    try:
        scanned = None if is_large else scan(expr, threshold)
    except FoundLargeError:
        scanned = None
    except OwnershipError:
        raise
    except Exception:  # does not pickle: Dask has other ways, and its own error
        return expr
    packed = None
    if scanned is None or scanned.nbytes > threshold:
        packed = _pack_graph(expr, packer)
    return packed or (Prepickled(*scanned) if scanned else expr)


def _pack_graph(expr: Expr, packer: Packer) -> Any:
    """Materialize and pack; ``None`` if no value turned out to be large."""
    if type(expr) is _MapExpr:
        dsk, changed = _map_graph(expr, packer)
    else:
        dsk, changed = convert_legacy_graph(expr.__dask_graph__()), False
    packed = {key: packer.node(node) for key, node in dsk.items()}
    if not changed and all(packed[key] is node for key, node in dsk.items()):
        return None
    token = None if changed else expr.deterministic_token
    return GraphExpr(
        packed,
        dict(expr.__dask_annotations__()),
        _determ_token=token or uuid.uuid4().hex,
    )


def _map_graph(expr: _MapExpr, packer: Packer) -> tuple[dict[Any, GraphNode], bool]:
    """Return the tasks of a ``map``, and whether Dask would make others.

    Dask makes a task of each large keyword: the tasks of a worker share its result, and
    the task has no priority, which ends the scheduler's work on the graph with an
    assertion (2026.8.0). Here the keyword goes by reference; or, if the store does not
    take it, its pickle is shared, and each task has an object of its own.
    """
    dsk: dict[Any, GraphNode] = {}
    kwargs: dict[str, Any] = {}
    changed = False
    for name, value in expr.kwargs.items():
        kwargs[name] = parsed = parse_input(value)
        if isinstance(parsed, GraphNode) or small_value(value, SHARED):
            continue
        if packer.share(value, SHARED):
            changed = True
            continue
        try:
            data = cloudpickle.dumps(value, protocol=5)
        except Exception:  # Dask has its own error for that
            continue
        if len(data) > SHARED:
            changed = True
            node = DataNode(f"{name}-{uuid.uuid4().hex}", data)
            dsk[node.key] = node
            kwargs[name] = Task(None, pickle.loads, Alias(node.key))
        elif not changed:
            changed = _makes_a_task(value)
    for key, args in zip(expr.keys, zip(*expr.iterables, strict=False), strict=False):
        dsk[key] = Task(key, expr.func, *map(parse_input, args), **kwargs)
    return dsk, changed


def _makes_a_task(value: Any) -> bool:
    """Tell whether Dask would make a task of a keyword of ``map``."""
    try:
        return bool(sizeof(value) > SHARED)
    except Exception:  # a rule of the user's: Dask would let it end the call
        return True


def graph_of(packed: Any, expr: Any) -> Mapping[Any, Any]:
    """Return the tasks of a result of :func:`pack_expr`, by key."""
    expr = expr if isinstance(packed, Prepickled) else packed
    graph: Mapping[Any, Any] = convert_legacy_graph(expr.__dask_graph__())
    return graph


def references_by_key(
    graph: Mapping[Any, Any], keys: Iterable[Any]
) -> dict[Any, set[Reference]]:
    """Return the references that computing each key needs, for its dependencies too.

    *graph*: from :func:`graph_of`, with *keys* in it.
    """
    needed: dict[Any, set[Reference]] = {}
    stack = list(keys := list(keys))
    while stack:
        key = stack[-1]
        node = graph.get(key)
        dependencies = () if node is None else node.dependencies
        if key not in needed:
            if missing := [other for other in dependencies if other not in needed]:
                stack += missing
                continue
            needed[key] = references_in(node)
            needed[key] = needed[key].union(*(needed[other] for other in dependencies))
        stack.pop()
    return {key: needed[key] for key in keys}
