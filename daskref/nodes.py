"""Graph nodes that stand for stored values.

They are inert: wherever a graph travels they are a few hundred bytes. A worker's task
thread calls them, as it calls any node among a task's arguments.

Private Dask names used here, checked by ``tests/test_private_names.py``:

==========================  =========================================================
name                        what for
==========================  =========================================================
``_task_spec.GraphNode``    base of our nodes, with ``_dependencies`` and
                            ``_verify_values``
``_task_spec.Task``         whose arguments have our nodes among them
``_task_spec.parse_input``  futures among the arguments of ``lazy``
==========================  =========================================================
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

from dask._task_spec import GraphNode, Task, parse_input

from daskref.factory import StoreFactory, resolve_reference
from daskref.proxy import Proxy
from daskref.reference import Reference

_NO_DEPENDENCIES: frozenset[Any] = frozenset()


class StoredNode(GraphNode):
    """Base of the nodes that stand for stored values; no dependencies."""

    __slots__ = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        """The references that the node needs to be alive."""
        raise NotImplementedError

    @property
    def data_producer(self) -> bool:
        return True

    def _verify_values(self, values: Any) -> None:
        pass

    def substitute(self, subs: Any, key: Any = None) -> GraphNode:
        if key is None or key == self.key:
            return self
        node: GraphNode = self.copy()
        node.key = key
        return node

    def __sizeof__(self) -> int:
        return 512  # never that of the values


class ReferenceNode(StoredNode):
    """One stored value.

    Parameters
    ----------
    key
        The key in the graph; ``None`` among a task's arguments.
    reference
        What to resolve.
    form
        What the call returns: ``"value"``, the object itself; ``"inside"``, a proxy
        that daskref resolves at the next task boundary (a key's own node: scattered
        data, so that holding it costs nothing); ``"proxy"``, a proxy for the user.
    """

    __slots__ = ("form", "reference")

    reference: Reference
    form: str

    def __init__(self, key: Any, reference: Reference, form: str = "value") -> None:
        self.key = key
        self.reference = reference
        self.form = form
        self._dependencies = _NO_DEPENDENCIES

    @property
    def references(self) -> tuple[Reference, ...]:
        return (self.reference,)

    def copy(self) -> ReferenceNode:
        return ReferenceNode(self.key, self.reference, self.form)

    def __call__(self, values: Any = ()) -> Any:
        if self.form == "value":
            return resolve_reference(self.reference)
        return Proxy(StoreFactory(self.reference, transparent=self.form == "inside"))

    def __repr__(self) -> str:
        return f"ReferenceNode({self.reference!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ReferenceNode, (self.key, self.reference, self.form)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (self.form, *self.reference.__dask_tokenize__())


class PackedNode(StoredNode):
    """A value with stored values somewhere inside: a container, a closure, a model.

    Parameters
    ----------
    key
        The key in the graph; ``None`` among a task's arguments.
    data
        The value pickled, with persistent ids in the places of stored values: bytes,
        or a reference to them where they are large themselves.
    inside
        The references that the persistent ids number.
    """

    __slots__ = ("data", "inside")

    data: bytes | Reference
    inside: tuple[Reference, ...]

    def __init__(
        self, key: Any, data: bytes | Reference, inside: tuple[Reference, ...]
    ) -> None:
        self.key = key
        self.data = data
        self.inside = inside
        self._dependencies = _NO_DEPENDENCIES

    @property
    def references(self) -> tuple[Reference, ...]:
        if isinstance(self.data, Reference):
            return (self.data, *self.inside)
        return self.inside

    def copy(self) -> PackedNode:
        return PackedNode(self.key, self.data, self.inside)

    def __call__(self, values: Any = ()) -> Any:
        data = self.data
        if isinstance(data, Reference):
            data = resolve_reference(data)
        return _Unpacker(io.BytesIO(data), self.inside).load()

    def __repr__(self) -> str:
        return f"PackedNode({', '.join(map(repr, self.references))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedNode, (self.key, self.data, self.inside)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        parts = (ref.__dask_tokenize__() for ref in self.references)
        data = None if isinstance(self.data, Reference) else self.data
        return ("daskref.PackedNode", data, *parts)


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, inside: tuple[Reference, ...]) -> None:
        super().__init__(file)
        self._inside = inside
        self._resolved: dict[int, Any] = {}

    def persistent_load(self, pid: int) -> Any:
        if pid not in self._resolved:
            self._resolved[pid] = resolve_reference(self._inside[pid])
        return self._resolved[pid]


class Lazy(GraphNode):
    """What :func:`daskref.lazy` returns: an argument that arrives as a proxy.

    Parameters
    ----------
    value
        The argument; a future's key is depended on.
    """

    __slots__ = ("value",)

    value: Any

    def __init__(self, value: Any) -> None:
        self.key = None  # type: ignore[assignment]
        self.value = value
        if isinstance(value, GraphNode):
            self._dependencies = value.dependencies
        else:
            self._dependencies = _NO_DEPENDENCIES

    def copy(self) -> Lazy:
        return Lazy(self.value)

    def substitute(self, subs: Any, key: Any = None) -> GraphNode:
        if isinstance(self.value, GraphNode):
            return Lazy(self.value.substitute(subs))
        return self

    def __call__(self, values: Any = ()) -> Any:
        value = self.value
        if isinstance(value, GraphNode):
            value = value(values)
        return Proxy(Constant(value))

    def __repr__(self) -> str:
        return f"Lazy({type(self.value).__name__})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Lazy, (self.value,)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.tokenize import tokenize

        return ("daskref.Lazy", tokenize(self.value))


def lazy(x: Any) -> Any:
    """Let an argument arrive as a :class:`~daskref.Proxy`.

    Parameters
    ----------
    x
        An argument of ``submit``, ``map`` or a delayed function: a value of any size,
        or a future.

    Returns
    -------
    object
        To be passed as the argument.

    Examples
    --------
    >>> future = client.submit(f, daskref.lazy(frame))  # doctest: +SKIP
    """
    return Lazy(parse_input(x))


class Constant:
    """Factory of a proxy whose value is at hand."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        """Return the value."""
        return self.value

    def __reduce__(self) -> tuple[Any, ...]:
        return Constant, (self.value,)


def call_packed(func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function that came packed as a node: the first argument of its task."""
    return func(*args, **kwargs)


async def call_packed_coroutine(func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Like :func:`call_packed`, for coroutine functions."""
    return await func(*args, **kwargs)


def nodes_in(node: Any) -> list[StoredNode]:
    """Return the stored nodes of a graph node, wherever daskref puts them."""
    found: list[StoredNode] = []
    _find_nodes(node, found)
    return found


def _find_nodes(node: Any, found: list[StoredNode]) -> None:
    # not a generator: small tasks, which have none, come by here as well
    if isinstance(node, StoredNode):
        found.append(node)
    elif isinstance(node, Lazy):
        _find_nodes(node.value, found)
    elif isinstance(node, Task):
        for arg in (*node.args, *node.kwargs.values()):
            if isinstance(arg, GraphNode):
                _find_nodes(arg, found)
            elif isinstance(arg, Mapping) and node.has_subgraph():
                for inner in arg.values():
                    _find_nodes(inner, found)


def references_in(node: Any) -> set[Reference]:
    """Return the references that a graph node needs to be alive."""
    return {ref for stored in nodes_in(node) for ref in stored.references}
