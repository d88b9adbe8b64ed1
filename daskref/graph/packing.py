"""Large values inside one task -> references.

Two rules. *Identity decides what is one object*: a task is pickled as a whole, with
function and arguments, so one object in it arrives as one, wherever it lies. *Content
decides what is stored once*: large values are stored beside the pickle, and have a
persistent id there.

Values that are stored apart:

- a value whose bytes lie in one piece: an array, ``bytes``, text, …;
- a whole object of a package in ``literals.WHOLE`` (arrays with more to them, frames,
  models), with all that is in it;
- any other object that is still large without its parts stored apart; of lists, dicts
  and the like, those that a user has named: arguments, objects that a function closes
  over, and the items of short ones.

If two of these share a part, or share one with the rest of the task, each would arrive
with a copy of it: those are stored together, or not apart.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

======================================  ============================================
name                                    what for
======================================  ============================================
``_task_spec.TaskRef``                  nodes to leave alone
``_task_spec.DataNode``                 values that have a key of their own
``_task_spec.GraphNode``                all nodes
``_task_spec.Task``                     calls
======================================  ============================================
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple

import xxhash
from dask._task_spec import DataNode, GraphNode, Task, TaskRef
from dask.utils import funcname

from daskref.exceptions import DaskrefError, NotProxiableError
from daskref.graph._pickling import (
    Looked,
    TaskPickler,
    hashed,
    named_in,
    own_size,
    value_of,
)
from daskref.graph.lazy import Lazy
from daskref.graph.literals import (
    exact_nbytes,
    is_small,
    is_small_function,
    is_whole,
    on_gpu,
    small_call,
    small_value,
)
from daskref.graph.nodes import PackedNode, Place, ReferenceNode
from daskref.objects.codec import Encoded, encode
from daskref.objects.pickling import identities_in
from daskref.objects.reference import Reference
from daskref.proxy.proxy import Proxy

#: ``(obj, encoded) -> Reference | None``: put a value; ``None``: it stays in-band.
Put = Callable[[Any, Encoded], "Reference | None"]

#: Classes whose objects are never stored apart, whatever they hold.
_STRUCTURE = (
    *(GraphNode, TaskRef, Proxy, type, ModuleType, functools.partial),
    pickle.PickleBuffer,
)
#: Attempts to pickle a task that shares no part with the values stored apart.
_ATTEMPTS = 4


class Packed(NamedTuple):
    """A pickle, and the values stored beside it.

    The data are a reference if the pickle, being large itself, is stored, or the object
    as a whole.
    """

    data: bytes | Reference
    places: tuple[Place, ...]
    inside: tuple[Reference, ...]


class Packer:
    """Stores the large values in the tasks of one call to the client. Not thread-safe.

    Parameters
    ----------
    threshold
        Size in bytes above which a value goes by reference.
    put
        ``(obj, encoded) -> Reference | None``; called once per large value, blocks.
    looked
        What the same call has found before; it must not outlive the call, for objects
        may change between two.
    """

    threshold: int
    _put: Put
    _looked: dict[int, Looked]
    _together: dict[tuple[int, ...], Looked]
    #: ``id`` of objects that go by reference in all tasks.
    _shared: set[int]
    _small: dict[int, Any]

    def __init__(
        self, threshold: int, put: Put, looked: dict[Any, Any] | None = None
    ) -> None:
        self.threshold = threshold
        self._put = put
        self._looked = {} if looked is None else looked
        self._together = {}
        self._shared = set()
        self._small = {}

    # Nodes

    def node(self, node: GraphNode) -> GraphNode:
        """Return a node of a graph with its large values replaced.

        Returns *node* itself if nothing large is in it, or if it does not pickle: Dask
        has other ways, and its own error. So it does for a task of a type outside of
        Dask's core: something on the scheduler knows it by its type, as P2P shuffles
        know their barriers.
        """
        if isinstance(node, DataNode):
            return self._data(node)
        if not isinstance(node, Task) or type(node).__module__ != Task.__module__:
            return node
        if self._is_small_task(node):
            return node
        try:
            packed = self.pack(node)
        except NotProxiableError:
            return node
        except DaskrefError:
            raise
        except Exception:
            return node
        if packed is None:
            # nor is anything large in another task with the same parts
            for part in (node.func, *node.args, *node.kwargs.values()):
                self._small[id(part)] = part
            return node
        return PackedNode(
            *(node.key, *packed, node.dependencies, bool(node.is_coro)),
            f"<Task {node.key!r} {funcname(node.func)}(...)>",
            data_producer=node.data_producer,
        )

    def _data(self, node: DataNode) -> GraphNode:
        if is_small(node.value, self.threshold) or on_gpu(node.value):
            return node
        reference = self.store(node.value)
        if reference is None:
            return node
        # its key keeps a proxy: each task that depends on it gets its own object
        return ReferenceNode(node.key, reference)

    def _is_small_task(self, task: Task) -> bool:
        limit, known = self.threshold, self._small
        values = (*task.args, *task.kwargs.values())
        return (
            (id(task.func) in known or is_small_function(task.func, limit))
            and all(small_value(value, limit) or id(value) in known for value in values)
            and not any(id(value) in self._shared for value in values)
        )

    # Values

    @property
    def knows_large(self) -> bool:
        """Whether the call has found something large already."""
        return any(looked.nbytes > self.threshold for looked in self._looked.values())

    def store(self, obj: Any, limit: int | None = None) -> Reference | None:
        """Put one object as a whole, if it has more bytes than *limit*.

        The limit is the threshold by default.
        Returns ``None`` if it is small, does not serialize, or the store does not take
        it.
        """
        looked = self.look(obj)
        try:
            if looked.encoded.nbytes <= (self.threshold if limit is None else limit):
                return None
        except NotProxiableError:  # Dask has other ways, and its own error
            return None
        return self._put(obj, looked.encoded)

    def share(self, obj: Any, limit: int) -> bool:
        """Store an object apart in all tasks, if it has more bytes than *limit*."""
        limit = min(limit, self.threshold)
        if on_gpu(obj) or self.store(obj, limit) is None:
            return False
        self.look(obj)
        self._shared.add(id(obj))
        return True

    def look(self, obj: Any) -> Looked:
        """Return what the call has found out about an object."""
        if id(obj) not in self._looked:
            self._looked[id(obj)] = Looked(obj)
        return self._looked[id(obj)]

    def goes_apart(self, obj: Any, pickler: TaskPickler) -> bool:
        """Tell whether an object that a task's pickler meets is stored apart."""
        if id(obj) in self._shared:
            return True
        if (nbytes := exact_nbytes(obj)) is not None:
            return nbytes > self.threshold and type(obj) is not int
        cls = type(obj)
        if cls is Lazy:
            return not issubclass(type(obj.value), GraphNode)
        if cls.__module__ == "builtins":
            if id(obj) not in pickler.named:
                return False
        elif issubclass(cls, _STRUCTURE) or on_gpu(obj):
            return False
        if not pickler.may_try(obj, counts := not is_whole(cls)):
            return False
        own, parts = own_size(obj, self, pickler.inline, counts)
        if own > self.threshold:
            return True
        pickler.tried |= parts
        return False

    def pack(self, obj: Any) -> Packed | None:
        """Pickle an object with its large values stored apart. Blocks.

        Returns ``None`` if nothing large is in it, or the store takes nothing. Raises
        whatever pickling raises; ConnectorError if the store failed and that is an
        error.
        """
        inline: set[int] = set()
        named = named_in(obj)
        for _ in range(_ATTEMPTS):
            file = io.BytesIO()
            pickler = TaskPickler(file, None, self, inline, named=named)
            pickler.dump(obj)
            groups = self._grouped(pickler)
            if groups is not None:
                break
        else:  # its parts are new ones each time it is pickled
            return self._pack_whole(obj)
        places: dict[int, Place] = {}
        inside: list[Reference] = []
        for group in groups:
            if (reference := self._put_group(group, pickler)) is None:
                return None
            for i, n in enumerate(group):
                item = i if len(group) > 1 else None
                places[n] = Place(len(inside), item, type(pickler.apart[n]) is Lazy)
            inside.append(reference)
        ordered = tuple(places[n] for n in sorted(places))
        if file.tell() <= self.threshold:
            return Packed(file.getvalue(), ordered, tuple(inside)) if inside else None
        if not inside:
            return self._pack_whole(obj)
        data = file.getvalue()
        stored = self._put(data, encode(data))
        return None if stored is None else Packed(stored, ordered, tuple(inside))

    def _pack_whole(self, obj: Any) -> Packed | None:
        """Store all of it as one object."""
        reference = self.store(obj)
        return None if reference is None else Packed(reference, (), ())

    def _grouped(self, pickler: TaskPickler) -> list[list[int]] | None:
        """Return the values stored apart, by number: together those that share a part.

        Returns ``None`` if some share a part with the pickle itself; adds them to the
        objects that stay inline.
        """
        alone = [[n] for n in range(len(pickler.apart))]
        looked = [self.look(value_of(obj)) for obj in pickler.apart]
        if all(exact_nbytes(each.obj) is not None for each in looked):
            return alone
        rest = identities_in(pickler)
        shared = [n for n, each in enumerate(looked) if each.identities & rest]
        if shared:
            pickler.inline.update(id(pickler.apart[n]) for n in shared)
            return None
        owners: dict[int, int] = {}
        for n, each in enumerate(looked):
            for identity in each.identities:
                first = alone[owners.setdefault(identity, n)]
                if first is not alone[n]:
                    first += alone[n]
                    for m in alone[n]:
                        alone[m] = first
        return [sorted(group) for n, group in enumerate(alone) if min(group) == n]

    def _put_group(
        self, group: Sequence[int], pickler: TaskPickler
    ) -> Reference | None:
        objs = tuple(value_of(pickler.apart[n]) for n in group)
        if len(objs) == 1:
            looked = self.look(objs[0])
        else:
            ids = tuple(map(id, objs))
            looked = self._together.setdefault(ids, Looked(objs))
        return self._put(looked.obj, looked.encoded)

    # Names

    def token(
        self, func: Any, args: Iterable[Any], kwargs: Mapping[str, Any]
    ) -> str | None:
        """Return a hash of a call, if it contains something large; put nothing.

        Futures count by their keys. Returns ``None`` if all is small, or does not
        pickle: Dask has its own hash.
        """
        tokens = self.tokens(func, [[arg] for arg in args], kwargs)
        return None if tokens is None else tokens[0]

    def tokens(
        self, func: Any, columns: Iterable[Sequence[Any]], kwargs: Mapping[str, Any]
    ) -> list[str] | None:
        """Return a hash of each call of a ``map``; see :meth:`token`.

        *columns*: the arguments of all calls, by position.
        """
        rows = list(zip(*columns, strict=False)) or [()]
        if small_call(func, chain(kwargs.values(), *rows), self.threshold):
            return None
        shared = hashed((func, dict(sorted(kwargs.items()))), self)
        found, is_large = [], False
        for row in rows:
            alone = hashed(row, self)
            if shared is None or alone is None:
                return None
            is_large |= shared[1] or alone[1]
            both = f"{shared[0]} {alone[0]}".encode()
            found.append(xxhash.xxh3_128_hexdigest(both))
        return found if is_large else None
