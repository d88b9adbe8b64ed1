"""Which values of a call, collection or task go by reference, and why others do not.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_task_spec.DataNode``                 values in a graph
``_task_spec.Task``                     the call, as ``submit`` makes it
``_task_spec.TaskRef``                  futures: not values
``_task_spec.convert_legacy_graph``     the tasks of a collection
``_task_spec.parse_input``              arguments, as ``submit`` reads them
======================================  ============================================
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import distributed
from dask._task_spec import DataNode, Task, TaskRef, convert_legacy_graph, parse_input
from dask.base import collections_to_expr, is_dask_collection
from dask.sizeof import sizeof
from dask.utils import format_bytes, funcname, key_split

from daskref.client._attachment import Attachment
from daskref.client._checks import check_enabled
from daskref.client.tables import Table
from daskref.config import Settings
from daskref.exceptions import NotProxiableError
from daskref.graph.lazy import Lazy
from daskref.graph.literals import FEW, SCALARS, exact_nbytes, on_gpu
from daskref.graph.packing import Packer
from daskref.objects.codec import Encoded, encode
from daskref.objects.reference import Reference, StoreConfig, unknown
from daskref.proxy.proxy import Proxy

#: Values below that are not listed, in bytes.
LEAST = 100_000
#: How deep lists, dicts and objects are looked into for the name of a value.
_DEPTH = 4
_CONTAINERS = (list, tuple, set, frozenset, dict)
_NOWHERE = StoreConfig("daskref-explain", "", ())


class Explained(NamedTuple):
    """One value of a call, and its way to the workers."""

    #: As in ``"argument x['a']"``, or ``"closure of f: table"``.
    where: str
    #: As in ``"numpy.ndarray"``.
    type: str
    #: Serialized size in bytes; an estimate if the value does not serialize.
    nbytes: int
    #: ``"reference"`` or ``"in-band"``.
    route: str
    #: The reason for the route.
    why: str
    #: Whether this client has put it already.
    stored: bool
    #: The store that takes the value; empty if it goes in-band.
    to: str


def explain(
    target: Any, /, *args: Any, client: Any = None, **kwargs: Any
) -> Table[Explained]:
    """Explain how the large values of a call go to the workers. Puts nothing.

    Parameters
    ----------
    target
        Before a run: a function, as ``client.submit`` takes it, or a Dask collection.
        During or after a run: a future, or the key of a task that the scheduler knows.
    *args, **kwargs
        Arguments of the function. They are serialized, to learn their sizes.
    client
        The client that would send the call; default: that of the future, or the current
        one. Without any client, this process's settings decide.

    Returns
    -------
    Table of Explained
        A row for each value of 100 kB or more, the largest first. It prints as a table,
        also in notebooks. The rows of a task come from the scheduler: its stored
        arguments, the results that it reads, and its own. With an asynchronous client,
        the answer for a task is a coroutine.

    Raises
    ------
    TypeError
        If *target* is none of these, or the client passes nothing by reference.

    Examples
    --------
    >>> import daskref, numpy as np
    >>> rows = daskref.explain(np.sum, np.ones((1000, 1000)))
    >>> rows[0].where, rows[0].route
    ('argument a', 'reference')
    """
    of_task = isinstance(target, distributed.Future | str | tuple)
    if (args or kwargs) and (of_task or is_dask_collection(target)):
        raise TypeError("only explain(function, …) takes arguments for a call")
    if of_task:
        return _explain_task(target, client)
    if is_dask_collection(target):
        graph = convert_legacy_graph(collections_to_expr([target]).__dask_graph__())
        nodes = {_named(key): node for key, node in graph.items()}
    elif callable(target):
        named: dict[str, Any] = {k: parse_input(value) for k, value in kwargs.items()}
        nodes = {"": Task("explain", target, *map(parse_input, args), **named)}
    else:
        raise TypeError(
            "explain takes a function and what to call it with, a Dask collection, a "
            f"future or the key of a task; not {target!r}"
        )
    explainer = _Explainer(_current(client))
    found = [
        row for where, node in nodes.items() for row in explainer.rows(where, node)
    ]
    return Table(Explained._fields, found).by("nbytes")


def _explain_task(target: Any, client: Any) -> Table[Explained]:
    if isinstance(target, distributed.Future):
        client, target = client or target.client, target.key
    client = _current(client)
    check_enabled(client, "explain")

    async def _task() -> Table[Explained]:
        state: Attachment | None = client._daskref
        if state is None:  # there is no store yet
            return Table(Explained._fields)
        connector = repr(state.session.store and state.session.store.connector)
        rows = [
            _after(row, state.threshold(), connector)
            for row in await client.scheduler.daskref_task(key=target)
            if row["nbytes"] >= LEAST
        ]
        return Table(Explained._fields, rows).by("nbytes")

    rows: Table[Explained] = client.sync(_task)
    return rows


def _after(row: dict[str, Any], threshold: int, connector: str) -> Explained:
    """Explain a value of a task that has run."""
    value = row["where"], row["type"], row["nbytes"]
    if row["stored"]:
        why = f"above the threshold of {format_bytes(threshold)}"
        return Explained(*value, "reference", why, True, connector)
    why = "no other process has asked for it (daskref.results)"
    if row["nbytes"] <= threshold:
        why = _below(threshold)
    return Explained(*value, "in-band", why, False, "")


def _below(threshold: int) -> str:
    limit = format_bytes(threshold)
    return f"not above the threshold of {limit} (daskref.threshold)"


def _named(key: Any) -> str:
    """Return a graph's key for users: layer and part number."""
    part = f" {key[1:]}" if isinstance(key, tuple) else ""
    return f"{key_split(key)}{part}: "


def _current(client: Any) -> Any:
    if client is None:
        try:
            return distributed.default_client()
        except ValueError:
            return None
    return client


class _Explainer:
    """Explain the nodes of one graph, for one client or none."""

    def __init__(self, client: Any) -> None:
        state: Attachment | None = getattr(client, "_daskref", None)
        self._state = state
        self._looked: dict[Any, Any] = {}
        self._seen: set[int] = set()
        self._plain = client is not None and state is None
        if state is None:
            settings = Settings.read()
            self._threshold, self._to = settings.threshold, str(settings.connector)
        else:
            self._threshold = state.threshold()
            self._to = repr(state.session.store and state.session.store.connector)

    def rows(self, prefix: str, node: Any) -> Iterator[Explained]:
        labels = {id(obj): (where, obj) for where, obj in _labelled(node)}
        large = self._noted(node, self._threshold)
        listed = large if self._threshold <= LEAST else self._noted(node, LEAST)
        covered: set[int] = set()
        for obj, encoded in (*large, *listed):
            parts = obj if id(obj) not in labels and type(obj) is tuple else (obj,)
            inside = covered.issuperset(map(id, parts))
            covered.update(map(id, parts))
            if inside or encoded.nbytes < LEAST or id(obj) in self._seen:
                continue
            self._seen.add(id(obj))
            where = " and ".join(self._where(each, labels) for each in parts)
            yield self._row(prefix + where, obj, encoded)
            if encoded.pickle is not None:
                covered.update(encoded.pickle.identities())
        for where, obj in labels.values():
            if id(obj) not in covered and not isinstance(obj, _CONTAINERS):
                yield from self._left(prefix + where, obj, node)

    def _noted(self, node: Any, threshold: int) -> list[tuple[Any, Encoded]]:
        """Return the values that a store would get."""
        found = []

        def put(obj: Any, encoded: Encoded) -> Reference:
            found.append((obj, encoded))
            return Reference(("", 0), _NOWHERE, unknown(encoded.nbytes))

        Packer(threshold, put, self._looked).node(node)
        return found

    def _where(self, obj: Any, labels: dict[int, tuple[str, Any]]) -> str:
        if id(obj) in labels:
            return labels[id(obj)][0]
        if isinstance(obj, bytes):
            return "the pickled call"
        return "inside the call"

    def _row(self, where: str, obj: Any, encoded: Encoded) -> Explained:
        is_small = encoded.nbytes <= self._threshold
        if why := _below(self._threshold) if is_small else self._obstacle():
            return self._in_band(where, obj, encoded.nbytes, why)
        state = self._state
        stored = state is not None and state.holdings.has(encoded.token)
        why = f"above the threshold of {format_bytes(self._threshold)}"
        return Explained(
            where, _type(obj), encoded.nbytes, "reference", why, stored, self._to
        )

    def _obstacle(self) -> str:
        """Return why nothing goes by reference, whatever its size."""
        if self._plain:
            return "this is a plain Dask client: use daskref.Client or daskref.enable"
        if self._state is None:
            return ""
        session = self._state.session
        if not session.reachable:
            return "this process cannot see the cluster's store (daskref.connector)"
        if not session.inband.has_place:
            return "no host of workers takes what this process puts"
        return ""

    def _left(self, where: str, obj: Any, node: Any) -> Iterator[Explained]:
        """Explain a value of a node that cannot be stored on its own."""
        nbytes = _estimate(obj)
        if nbytes < LEAST or id(obj) in self._seen:
            return
        self._seen.add(id(obj))
        if on_gpu(obj):
            why = "it is in a GPU's memory, which Dask moves by itself"
        else:
            try:
                encode(node)
            except NotProxiableError as exc:
                why = f"the call does not serialize: {exc.__cause__ or exc}"
            else:
                why = "it shares parts with the rest of the call, and goes with it"
        yield self._in_band(where, obj, nbytes, why)

    def _in_band(self, where: str, obj: Any, nbytes: int, why: str) -> Explained:
        return Explained(where, _type(obj), nbytes, "in-band", why, False, "")


def _type(obj: Any) -> str:
    cls = type(obj)
    package = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
    return package + cls.__qualname__


def _estimate(obj: Any) -> int:
    nbytes = exact_nbytes(obj)
    if nbytes is not None:
        return nbytes
    try:
        return int(sizeof(obj))
    except Exception:  # a user's own
        return 0


# Names


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _labelled(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values in a node that a user can name, outermost first."""
    if isinstance(node, DataNode):
        yield from _inside("value", node.value, _DEPTH)
    elif isinstance(node, Task):
        yield from _of_function(node.func)
        for name, value in _arguments(node):
            yield from _inside(f"argument {name}", value, _DEPTH)


def _arguments(task: Task) -> Iterator[tuple[str, Any]]:
    try:
        bound = inspect.signature(task.func).bind(*task.args, **task.kwargs)
    except (TypeError, ValueError):  # Dask says so itself when the task runs
        yield from ((str(n), value) for n, value in enumerate(task.args))
        yield from task.kwargs.items()
    else:
        yield from bound.arguments.items()


def _of_function(func: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(func, functools.partial):
        yield from _of_function(func.func)
        for n, value in enumerate(func.args):
            yield from _inside(f"partial argument {n}", value, _DEPTH)
        for name, value in func.keywords.items():
            yield from _inside(f"partial argument {name}", value, _DEPTH)
    elif isinstance(func, MethodType):
        yield from _inside(f"self of {funcname(func)}", func.__self__, _DEPTH)
    elif isinstance(func, FunctionType):
        found = inspect.getclosurevars(func)
        for name, value in found.nonlocals.items():
            yield from _inside(f"closure of {func.__name__}: {name}", value, _DEPTH)
        for n, value in enumerate(func.__defaults__ or ()):
            yield from _inside(f"default {n} of {func.__name__}", value, _DEPTH)
        if func.__module__ == "__main__":
            for name, value in found.globals.items():
                yield from _inside(f"global {name}", value, _DEPTH)


def _inside(where: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    cls = type(value)
    if cls in SCALARS or issubclass(cls, Proxy | TaskRef):
        return
    if cls is Lazy or cls is DataNode:
        yield from _inside(where, value.value, depth)
        return
    if issubclass(cls, Task):
        for name, each in _arguments(value) if depth else ():
            yield from _inside(
                f"{where}: {funcname(value.func)} {name}", each, depth - 1
            )
        return
    yield where, value
    if not depth:
        return
    if issubclass(cls, dict):
        if len(value) <= FEW:
            for key, each in dict.items(value):
                yield from _inside(f"{where}[{_shortened(repr(key))}]", each, depth - 1)
    elif issubclass(cls, list | tuple):
        if len(value) <= FEW:
            for n, each in enumerate(value):
                yield from _inside(f"{where}[{n}]", each, depth - 1)
    elif cls.__module__ != "builtins":
        try:  # no code of a user's
            attributes = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return
        if len(attributes) <= FEW:
            for name, each in attributes.items():
                yield from _inside(f"{where}.{name}", each, depth - 1)
