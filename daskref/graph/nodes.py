"""Graph nodes that stand for stored values.

They are inert: a few hundred bytes wherever a graph travels. A worker's task thread
calls them, as it calls any node among a task's arguments.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================  =========================================================
name                        what for
==========================  =========================================================
``dask._task_spec``         whose frames tracebacks leave out
``_task_spec.GraphNode``    base of our nodes, with ``_dependencies`` and
                            ``_verify_values``
``_task_spec.Task``         whose arguments have our nodes among them
==========================  =========================================================
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dask import _task_spec
from dask._task_spec import GraphNode, Task
from distributed import get_worker

from daskref.graph.frames import hidden_like
from daskref.graph.lazy import Lazy
from daskref.objects.codec import decode
from daskref.objects.reference import Reference
from daskref.proxy.proxy import Proxy
from daskref.store.factory import StoreFactory, resolve_reference

if TYPE_CHECKING:
    from typing import Self

_NO_DEPENDENCIES: frozenset[Any] = frozenset()


class StoredNode(GraphNode):
    """Base of the nodes that stand for stored values; no dependencies."""

    __slots__ = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        """The references that must be alive for the node."""
        return ()

    def _state(self) -> tuple[Any, ...]:
        """Return the arguments that make a copy."""
        raise NotImplementedError

    def copy(self) -> Self:
        return type(self)(*self._state())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._state()

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
    """A stored value that has a key of its own, such as scattered data.

    The call returns a proxy, which daskref resolves at the next task boundary: holding
    the proxy costs nothing, and each task gets an object of its own.
    """

    __slots__ = ("reference",)

    reference: Reference

    def __init__(self, key: Any, reference: Reference) -> None:
        self.key = key
        self.reference = reference
        self._dependencies = _NO_DEPENDENCIES

    @property
    def references(self) -> tuple[Reference, ...]:
        return (self.reference,)

    def _state(self) -> tuple[Any, ...]:
        return self.key, self.reference

    def __call__(self, values: Any = ()) -> Any:
        factory = StoreFactory(self.reference, transparent=True)
        return factory() if _has_no_boundary() else Proxy(factory)

    def __repr__(self) -> str:
        return f"ReferenceNode({self.reference!r})"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self.reference.__dask_tokenize__()


def _has_no_boundary() -> bool:
    """Tell whether a worker runs this that has not heard of daskref yet.

    A worker that did not answer when a client connected may run tasks before it gets
    the plugin, which resolves proxies for tasks.
    """
    try:
        return "daskref" not in get_worker().plugins
    except ValueError:  # not in a task
        return False


class EncodedNode(StoredNode):
    """A small value that has a key of its own, such as scattered data.

    The process that uses the value unpickles *data*, made by
    :func:`daskref.objects.codec.encode`; the scheduler, which may lack the value's
    type, does not.
    """

    __slots__ = ("data",)

    data: bytes

    def __init__(self, key: Any, data: bytes) -> None:
        self.key = key
        self.data = data
        self._dependencies = _NO_DEPENDENCIES

    def _state(self) -> tuple[Any, ...]:
        return self.key, self.data

    def __call__(self, values: Any = ()) -> Any:
        # a new one each time, as writable as the original
        return decode(bytearray(self.data))

    def __repr__(self) -> str:
        return f"EncodedNode({len(self.data)} B)"

    def __sizeof__(self) -> int:
        return 512 + len(self.data)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "daskref.EncodedNode", self.data


#: Nodes that stand for a value: nothing has to be computed.
VALUES = (ReferenceNode, EncodedNode)


class Place(NamedTuple):
    """The place of a stored value inside a pickle."""

    #: Index of its reference.
    reference: int
    #: Index in the stored tuple, if the value was stored with others.
    item: int | None = None
    #: Whether it arrives as a proxy, for the user.
    lazily: bool = False


class PackedNode(StoredNode):
    """A task, as its pickle, with stored values somewhere inside.

    Parameters
    ----------
    data
        The task pickled, with persistent ids in the places of stored values: bytes, or
        a reference to them where they are large themselves, or to the task.
    places
        Indexed by persistent id. Objects of one id are one object.
    inside
        The references that the places name.
    dependencies, is_coro, data_producer
        Those of the task.
    title
        The ``repr``.
    subs
        Substitutions made in the task since, in order.
    """

    __slots__ = (
        *("_data_producer", "_is_coro", "data", "inside", "places", "subs", "title"),
    )

    data: bytes | Reference
    places: tuple[Place, ...]
    inside: tuple[Reference, ...]
    subs: tuple[dict[Any, Any], ...]
    title: str

    def __init__(
        self,
        key: Any,
        data: bytes | Reference,
        places: tuple[Place, ...],
        inside: tuple[Reference, ...],
        dependencies: frozenset[Any] = _NO_DEPENDENCIES,
        is_coro: bool = False,
        title: str = "",
        subs: tuple[dict[Any, Any], ...] = (),
        data_producer: bool = False,
    ) -> None:
        self.key = key
        self.data = data
        self.places = places
        self.inside = inside
        self._dependencies = dependencies
        self._is_coro = is_coro
        self.title = title
        self.subs = subs
        self._data_producer = data_producer

    @property
    def references(self) -> tuple[Reference, ...]:
        if isinstance(self.data, Reference):
            return (self.data, *self.inside)
        return self.inside

    @property
    def data_producer(self) -> bool:
        return self._data_producer

    @property
    def is_coro(self) -> bool:
        return self._is_coro

    def substitute(self, subs: Any, key: Any = None) -> GraphNode:
        # the task is out of reach until it is loaded: it is substituted then
        told = {k: subs[k] for k in self._dependencies & subs.keys() if subs[k] != k}
        if not told and key in (None, self.key):
            return self
        node = self.copy()
        node.key = self.key if key is None else key
        if told:
            node.subs = (*self.subs, told)
            node._dependencies = frozenset().union(
                *(_keys_of(told.get(k, k)) for k in self._dependencies)
            )
        return node

    def load(self) -> GraphNode:
        """Return the task, with new private objects in the places. Blocks.

        Raises ResolveError if one of them cannot be had.
        """
        data = self.data
        if isinstance(data, Reference):
            data = resolve_reference(data)
        task: GraphNode
        if isinstance(data, GraphNode):
            task = data
        else:
            task = _Unpacker(io.BytesIO(data), self.places, self.inside).load()
        for subs in self.subs:
            task = task.substitute(subs)
        return task

    @hidden_like(_task_spec)
    def __call__(self, values: Any = ()) -> Any:
        return self.load()(values)

    def __repr__(self) -> str:
        return self.title or f"PackedNode({', '.join(map(repr, self.references))})"

    def __sizeof__(self) -> int:
        return 512 + (0 if isinstance(self.data, Reference) else len(self.data))

    def _state(self) -> tuple[Any, ...]:
        return (
            *(self.key, self.data, self.places, self.inside, self._dependencies),
            *(self._is_coro, self.title, self.subs, self._data_producer),
        )

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        parts = (ref.__dask_tokenize__() for ref in self.references)
        data = None if isinstance(self.data, Reference) else self.data
        return ("daskref.PackedNode", data, *parts)


def _keys_of(substitute: Any) -> frozenset[Any]:
    """Return the keys that a substitute for a dependency depends on."""
    if isinstance(substitute, GraphNode):
        return substitute.dependencies
    return frozenset([getattr(substitute, "key", substitute)])


class _Unpacker(pickle.Unpickler):
    def __init__(
        self,
        file: io.BytesIO,
        places: tuple[Place, ...],
        inside: tuple[Reference, ...],
    ) -> None:
        super().__init__(file)
        self._places = places
        self._inside = inside
        #: by persistent id; and tuples of values stored together, by reference
        self._objects: dict[int, Any] = {}
        self._together: dict[int, Any] = {}

    def persistent_load(self, pid: int) -> Any:
        if pid not in self._objects:
            self._objects[pid] = self._get(self._places[pid])
        return self._objects[pid]

    def _get(self, place: Place) -> Any:
        reference = self._inside[place.reference]
        if place.lazily:
            return Proxy(StoreFactory(reference))
        if place.item is None:
            return resolve_reference(reference)
        if place.reference not in self._together:
            self._together[place.reference] = resolve_reference(reference)
        return self._together[place.reference][place.item]


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
    """Return the references that must be alive for a graph node."""
    return {ref for stored in nodes_in(node) for ref in stored.references}
