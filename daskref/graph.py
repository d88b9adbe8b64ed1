"""Large literals in a graph -> references.

A graph is scanned by pickling it, which Dask does anyway: the pickle is handed on where
nothing large was found. Otherwise the graph is materialized here, not on the scheduler,
and each large literal is replaced where it lies: among the arguments of tasks, in
data nodes, in fused subgraphs; deeper down (containers, closures, attributes) the
argument around it is pickled with persistent ids.

Private Dask names used here, checked by ``tests/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_expr.Expr``                          what leaves a client
``_expr.LLGExpr``                       a graph that is materialized
``_task_spec.Alias``                    nodes to leave alone
``_task_spec.TaskRef``                  nodes to leave alone
``_task_spec.DataNode``                 values that have a key of their own
``_task_spec.GraphNode``                all nodes
``_task_spec.Task``                     calls; ``_token``, ``_repr`` and ``_is_coro``
                                        are what it remembers of its arguments
``_task_spec.convert_legacy_graph``     graphs of tuples
``client._MapExpr``                     what ``Client.map`` makes: ``func``,
                                        ``iterables`` and ``kwargs``
======================================  ============================================
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import cloudpickle
from dask._expr import Expr, LLGExpr
from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    Task,
    TaskRef,
    convert_legacy_graph,
)
from distributed.client import _MapExpr
from distributed.utils import iscoroutinefunction

from daskref.exceptions import DaskrefError, OwnershipError
from daskref.leaves import leaf_nbytes, sizer_of
from daskref.nodes import (
    Lazy,
    PackedNode,
    ReferenceNode,
    StoredNode,
    call_packed,
    call_packed_coroutine,
    references_in,
)
from daskref.reference import Reference

#: ``(obj) -> Reference | None``: put a value, or say that it stays in-band.
Put = Callable[[Any], "Reference | None"]

_SCALARS = frozenset({int, float, complex, bool, type(None)})
_INERT = (TaskRef, Alias, StoredNode)


class _LargeLeaf(Exception):
    """Ends a scan at the first large leaf."""


class _Scanner(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, threshold: int, **kwargs: Any) -> None:
        super().__init__(file, **kwargs)
        self._threshold = threshold

    def persistent_id(self, obj: Any) -> None:
        sizer = sizer_of(type(obj))
        if sizer is not None and sizer(obj) > self._threshold:
            raise _LargeLeaf


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, threshold: int, put: Put) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._threshold = threshold
        self._put = put
        self._pids: dict[Reference, int] = {}

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(self._pids)

    def persistent_id(self, obj: Any) -> int | None:
        sizer = sizer_of(type(obj))
        if sizer is None or sizer(obj) <= self._threshold:
            return None
        reference = self._put(obj)
        if reference is None:
            return None
        return self._pids.setdefault(reference, len(self._pids))


class Prepickled:
    """An expression that was pickled by the scan already.

    Pickles as the expression, for the cost of handing the bytes on.
    """

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


def is_small(value: Any, threshold: int) -> bool:
    """Tell whether a task's argument is surely small, without pickling it."""
    cls = type(value)
    if cls in _SCALARS or isinstance(value, _INERT):
        return True
    sizer = sizer_of(cls)
    if sizer is not None:
        hides = getattr(getattr(value, "dtype", None), "hasobject", False)
        return sizer(value) <= threshold and not hides
    if cls in (tuple, list, set, frozenset):
        return len(value) <= 16 and all(is_small(item, threshold) for item in value)
    if cls is dict:
        return len(value) <= 16 and all(
            is_small(item, threshold) for item in value.values()
        )
    return False


def _is_plain_function(func: Any) -> bool:
    """Tell whether a function pickles as its name: nothing can hide in it."""
    cls = type(func)
    if cls is BuiltinFunctionType or isinstance(func, type):
        return getattr(func, "__module__", "__main__") != "__main__"
    return (
        cls is FunctionType
        and func.__module__ != "__main__"
        and func.__closure__ is None
        and "<" not in func.__qualname__
    )


def _is_small_graph(expr: Any, threshold: int) -> bool:
    if type(expr) is not LLGExpr:
        return False
    dsk = expr.operand("dsk")
    if type(dsk) is not dict or len(dsk) > 8:
        return False
    return all(
        type(task) is Task
        and _is_plain_function(task.func)
        and all(is_small(arg, threshold) for arg in task.args)
        and all(is_small(arg, threshold) for arg in task.kwargs.values())
        for task in dsk.values()
    )


def _is_small_map(expr: Any, threshold: int) -> bool:
    """Tell whether all arguments of a ``map`` are surely small, one by one."""
    return (
        type(expr) is _MapExpr
        and _is_plain_function(expr.func)
        and all(is_small(value, threshold) for value in expr.kwargs.values())
        and all(
            type(column) is range
            or (
                type(column) in (list, tuple)
                and all(is_small(value, threshold) for value in column)
            )
            for column in expr.iterables
        )
    )


def pack_expr(expr: Any, threshold: int, put: Put) -> Any:
    """Replace the large literals of an expression.

    Parameters
    ----------
    expr
        What a Dask client is about to send.
    threshold
        Size in bytes above which a value goes by reference.
    put
        ``(obj) -> Reference | None``; called once per large value, blocks.

    Returns
    -------
    object
        Something that pickles as an equivalent expression: *expr* itself where it is
        surely small or does not pickle (Dask then raises its own error).
    """
    if _is_small_graph(expr, threshold) or _is_small_map(expr, threshold):
        return expr
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    try:
        _Scanner(
            file,
            threshold,
            protocol=pickle.HIGHEST_PROTOCOL,
            buffer_callback=buffers.append,
        ).dump(expr)
    except _LargeLeaf:
        return _pack_graph(expr, threshold, put) or expr
    except OwnershipError:
        raise
    except Exception:  # does not pickle: Dask has other ways, and its own error
        return expr
    nbytes = file.tell() + sum(buffer.raw().nbytes for buffer in buffers)
    if nbytes > threshold:
        packed = _pack_graph(expr, threshold, put)
        if packed is not None:
            return packed
    return Prepickled(file.getvalue(), buffers)


def _pack_graph(expr: Expr, threshold: int, put: Put) -> Any:
    """Materialize and pack; ``None`` if no value turned out to be large."""
    dsk = convert_legacy_graph(expr.__dask_graph__())
    annotations = expr.__dask_annotations__()
    pack = _Pack(threshold, put)
    packed = {key: pack.node(node) for key, node in dsk.items()}
    if all(packed[key] is node for key, node in dsk.items()):
        return None
    return GraphExpr(packed, dict(annotations), _determ_token=expr.deterministic_token)


def graph_of(packed: Any, expr: Any) -> Mapping[Any, Any]:
    """Return the tasks of what :func:`pack_expr` made of an expression, by key."""
    expr = expr if isinstance(packed, Prepickled) else packed
    graph: Mapping[Any, Any] = convert_legacy_graph(expr.__dask_graph__())
    return graph


def references_by_key(
    graph: Mapping[Any, Any], keys: Iterable[Any]
) -> dict[Any, set[Reference]]:
    """Tell what the computation of each key needs, its dependencies' needs included.

    Parameters
    ----------
    graph
        From :func:`graph_of`.
    keys
        Keys of the graph.
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


def pack_argument(value: Any, threshold: int, put: Put) -> Any:
    """Return a node in the place of one large argument, or the argument itself.

    Only the argument itself and the items of plain lists, tuples and dicts are looked
    at: what hides deeper is found when the graph leaves.
    """
    if isinstance(value, Lazy):
        return _Pack(threshold, put).lazy(value)
    if leaf_nbytes(value) > threshold:
        reference = put(value)
        return value if reference is None else ReferenceNode(None, reference)
    return value


class _Pack:
    """Replaces large values, node by node; unchanged nodes are returned as they are."""

    #: id of a function -> itself, and what replaces it: tasks share functions.
    _functions: dict[int, tuple[Any, Any]]

    def __init__(self, threshold: int, put: Put) -> None:
        self._threshold = threshold
        self._put = put
        self._functions = {}

    def node(self, node: GraphNode, form: str = "inside") -> GraphNode:
        """Return the node with its large values replaced.

        Parameters
        ----------
        node
            A node of the graph.
        form
            What a data node becomes: a key of its own keeps a proxy (``"inside"``); a
            fused subgraph has no task boundary in it that would resolve one.
        """
        if isinstance(node, _INERT):
            return node
        if isinstance(node, Lazy):
            return self.lazy(node)
        if isinstance(node, DataNode):
            return self._data(node, form)
        if isinstance(node, Task):
            return self._task(node)
        return node

    def lazy(self, node: Lazy) -> GraphNode:
        if isinstance(node.value, GraphNode):
            return node
        reference = self._put(node.value)
        return node if reference is None else ReferenceNode(None, reference, "proxy")

    def _data(self, node: DataNode, form: str) -> GraphNode:
        value = self.value(node.value)
        if isinstance(value, ReferenceNode):
            return ReferenceNode(node.key, value.reference, form)
        if isinstance(value, PackedNode):
            return value.substitute({}, key=node.key)
        return node

    def _task(self, task: Task) -> GraphNode:
        args = tuple(
            self._subgraph(arg)
            if task.has_subgraph() and isinstance(arg, Mapping)
            else self.value(arg)
            for arg in task.args
        )
        kwargs = {name: self.value(arg) for name, arg in task.kwargs.items()}
        func = self._function(task.func)
        if (
            func is task.func
            and all(a is b for a, b in zip(args, task.args, strict=True))
            and all(kwargs[name] is arg for name, arg in task.kwargs.items())
        ):
            return task
        packed = copy.copy(task)
        if func is not task.func:
            args = (func, *args)
            coroutine = iscoroutinefunction(task.func)
            packed.func = call_packed_coroutine if coroutine else call_packed
        packed.args = args
        packed.kwargs = kwargs
        packed._token = packed._repr = packed._is_coro = None
        return packed

    def _function(self, func: Any) -> Any:
        if _is_plain_function(func):
            return func
        known = self._functions.get(id(func))
        if known is None:
            known = self._functions[id(func)] = func, self.value(func)
        return known[1]

    def _subgraph(self, dsk: Mapping[Any, Any]) -> Mapping[Any, Any]:
        packed = {key: self.node(node, "value") for key, node in dsk.items()}
        if all(packed[key] is node for key, node in dsk.items()):
            return dsk
        return packed

    def value(self, value: Any) -> Any:
        """Return a node in the place of a large value, or the value itself."""
        if isinstance(value, GraphNode):
            return self.node(value)
        if is_small(value, self._threshold):
            return value
        if leaf_nbytes(value) > self._threshold:
            reference = self._put(value)
            return value if reference is None else ReferenceNode(None, reference)
        file = io.BytesIO()
        packer = _Packer(file, self._threshold, self._put)
        try:
            packer.dump(value)
        except DaskrefError:
            raise
        except Exception:  # does not pickle: Dask has other ways, and its own error
            return value
        if file.tell() <= self._threshold:
            if not packer.references:
                return value
            return PackedNode(None, file.getvalue(), packer.references)
        data = self._put(file.getvalue())
        if data is None:
            return value
        return PackedNode(None, data, packer.references)
