"""Results that lie in stored memory: a task's argument itself, or views of it.

A task gets private mappings of stored objects as arguments. A result in such memory
need not be copied, nor counted as the worker's own: a reference to the stored object
stands for it, with a *recipe* where it is not the whole object. A recipe is a pickle
whose large buffers are ranges of stored objects, or the task's own memory.

Only memory that the task has not written to belongs to the stored object; the kernel
tells (:mod:`daskref.connectors.files.parked`). Objects with an identity, such as those
of a user's class, go by recipe only as a whole stored object; otherwise a recipe holds
Python's own containers, and the arrays and frames of known packages. Arrays that are
not contiguous do not go by recipe: Dask sends contiguous copies, and one stored copy
that all readers map is better than a copy in each reader.
"""

from __future__ import annotations

import copyreg
import ctypes
import pickle
import sys
from collections.abc import Sequence
from operator import methodcaller
from typing import Any, NamedTuple

import cloudpickle

from daskref.connectors.buffers import address, raw
from daskref.connectors.files.parked import is_unwritten
from daskref.graph.literals import WHOLE
from daskref.objects.codec import encode, in_band_nbytes
from daskref.objects.pickling import IN_BAND, is_value_type
from daskref.objects.reducers import Reducer, buffer_of, reducers
from daskref.objects.reference import Metadata, Reference, describe
from daskref.objects.signing import ENVELOPE_NBYTES, is_signed
from daskref.proxy.proxy import Proxy, get_factory
from daskref.store.factory import StoreFactory, resolving
from daskref.store.mapped import Mapped
from daskref.store.store import Store

#: Bytes of a pickle beyond which a look at a result takes too long.
MOST = 2**20
#: Packages whose objects are as good as each other if they are equal.
_PLAIN = WHOLE | {"builtins", "collections", "pickle"}


class Stored(NamedTuple):
    """A range of a stored object."""

    #: Which of the objects.
    number: int
    offset: int
    nbytes: int


class Own(NamedTuple):
    """Memory that belongs to the result."""

    buffer: Any
    readonly: bool


class _TooMuchError(Exception):
    """The result would have to be copied to be looked at."""


class Recipe(NamedTuple):
    """Instructions to build a result from stored objects."""

    #: A pickle.
    data: bytes
    #: Its buffers.
    parts: tuple[Stored | Own, ...]

    @property
    def private_nbytes(self) -> int:
        """Bytes outside the stored objects."""
        own = (raw(part.buffer).nbytes for part in self.parts if isinstance(part, Own))
        return len(self.data) + sum(own)

    @property
    def stored_nbytes(self) -> int:
        """Bytes inside the stored objects."""
        return sum(part.nbytes for part in self.parts if isinstance(part, Stored))

    def make(self, stored: Sequence[memoryview]) -> Any:
        """Return the result, over the memory of the stored objects, and its own."""
        buffers = []
        for part in self.parts:
            if isinstance(part, Stored):
                view = stored[part.number][part.offset : part.offset + part.nbytes]
            else:
                view = raw(part.buffer)
                if view.readonly and not part.readonly:  # it was in a message
                    view = memoryview(bytearray(view))
            buffers.append(view)
        return pickle.loads(self.data, buffers=buffers)

    def pickled_with(self, protocol: int) -> Recipe:
        """Return a copy whose buffers can be pickled, out of band if possible."""
        wrap = pickle.PickleBuffer if protocol >= 5 else bytes
        parts = (
            Own(wrap(part.buffer), part.readonly) if isinstance(part, Own) else part
            for part in self.parts
        )
        return Recipe(self.data, tuple(parts))


class ViewFactory(StoreFactory):
    """Resolves the proxy of a result that is made of stored objects."""

    __slots__ = ("described", "recipe", "references")

    def __init__(
        self, references: tuple[Reference, ...], recipe: Recipe, metadata: Metadata
    ) -> None:
        super().__init__(references[0], transparent=True)
        self.references = references
        self.recipe = recipe
        self.described = metadata

    @property
    def metadata(self) -> Metadata | None:
        """Metadata of the result, if known."""
        return self.described if self.described.known else None

    @property
    def private_nbytes(self) -> int:
        """Bytes of the result outside the stored objects."""
        return self.recipe.private_nbytes

    def __call__(self) -> Any:
        """Return the result, private and new. Blocks; see StoreFactory."""
        return self.recipe.make(
            [
                resolving(each, methodcaller("get_memory", each))
                for each in self.references
            ]
        )

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        recipe = self.recipe.pickled_with(4)
        tokens = (reference.__dask_tokenize__() for reference in self.references)
        return "daskref.View", *tokens, recipe.data, *map(tuple, recipe.parts)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        recipe = self.recipe.pickled_with(protocol)
        return ViewFactory, (self.references, recipe, self.described)


def lend(
    obj: Any, mapped: Sequence[Mapped], store: Store, least: int
) -> Proxy[Any] | None:
    """Return a proxy of a result that lies in stored memory, or ``None``. Blocks.

    Raises ConnectorError if the store failed.

    Parameters
    ----------
    obj
        The result.
    mapped
        The stored memory in which it may lie.
    store
        The store of that memory.
    least
        A result with less stored memory, in bytes, gets no proxy.
    """
    for each in mapped:
        if each.is_of(obj) and is_whole(obj, each):
            linked = store.link(each.reference)
            if linked is None:
                return None
            return Proxy(StoreFactory(linked, transparent=True))
    recipe = recipe_of(obj, mapped, least)
    if recipe is None:
        return None
    numbers = sorted({p.number for p in recipe.parts if isinstance(p, Stored)})
    references: list[Reference] = []
    for number in numbers:
        linked = store.link(mapped[number].reference)
        if linked is None:
            for reference in references:
                store.connector.evict(reference.key)
            return None
        references.append(linked)
    parts = (
        part._replace(number=numbers.index(part.number))
        if isinstance(part, Stored)
        else part
        for part in recipe.parts
    )
    recipe = Recipe(recipe.data, tuple(parts))
    nbytes = recipe.stored_nbytes + recipe.private_nbytes
    factory = ViewFactory(tuple(references), recipe, describe(obj, nbytes))
    return Proxy(factory)


def references_of(proxy: Proxy[Any]) -> tuple[Reference, ...]:
    """Return the references to the stored objects in a proxy of :func:`lend`."""
    factory = get_factory(proxy)
    if isinstance(factory, ViewFactory):
        return factory.references
    assert isinstance(factory, StoreFactory)
    return (factory.reference,)


def is_whole(obj: Any, mapped: Mapped) -> bool:
    """Tell whether an object equals the stored object that it was loaded from.

    Its pickle is the same, and its memory unwritten.
    """
    owner = mapped.owner
    if owner is None:
        return False
    stored = memoryview(owner).cast("B")
    position = ENVELOPE_NBYTES if is_signed(stored) else 0
    try:
        if in_band_nbytes(stored[position:]) > MOST:
            return False
        encoded = encode(obj)
    except Exception:  # whatever the user's own methods raise
        return False
    looked_at = 0
    for frame in encoded.frames:
        view = memoryview(frame).cast("B")
        if not view.nbytes:
            continue
        where = address(view)
        if where == mapped.where + position:
            if not is_unwritten(where, view.nbytes):
                return False
        else:
            looked_at += view.nbytes
            there = stored[position : position + view.nbytes]
            if looked_at > MOST or bytes(there) != bytes(view):
                return False
        position += view.nbytes
    return True


def recipe_of(obj: Any, mapped: Sequence[Mapped], least: int) -> Recipe | None:
    """Return how to build an object from mapped memory, or ``None``.

    ``None`` if less than *least* bytes are in it, or if it holds objects other than
    arrays, frames and Python's own containers. Copies nothing large.
    """
    if cloudpickle.list_registry_pickle_by_value():
        return None
    look = _Look(mapped)
    try:
        data = look.pickled(obj)
    except Exception:  # too much of it, or it does not pickle
        return None
    recipe = Recipe(data, look.parts())
    return recipe if recipe.stored_nbytes > least else None


def _overlap(a: Stored, b: Stored) -> bool:
    return (
        a.number == b.number
        and a.offset < b.offset + b.nbytes
        and b.offset < a.offset + a.nbytes
    )


class _Look:
    """A look at a result: its pickle, and the place of each of its buffers."""

    def __init__(self, mapped: Sequence[Mapped]) -> None:
        self._mapped = mapped
        self._pieces: list[bytes] = []
        self._nbytes = 0
        self._found: list[tuple[Stored | None, pickle.PickleBuffer]] = []

    def pickled(self, obj: Any) -> bytes:
        """Return the pickle. Raises any error of pickling."""
        pickler = pickle.Pickler(self, 5, buffer_callback=self._take)
        pickler.dispatch_table = {**copyreg.dispatch_table, **self._reducers()}
        pickler.dump(obj)
        data = b"".join(self._pieces)
        for _, part in pickler.memo.copy().values():
            package = str(type(part).__module__).partition(".")[0]
            if not is_value_type(type(part)) and package not in _PLAIN:
                raise _TooMuchError
        if b"__main__" in data:
            raise _TooMuchError
        return data

    def parts(self) -> tuple[Stored | Own, ...]:
        """Return the buffers: unwritten ones as ranges of stored objects."""
        written = [part for part, _ in self._found if part and self._is_written(part)]
        # What shares memory with those goes with them, or it would share it no more.
        rest = [part for part, _ in self._found if part and part not in written]
        for part in written:  # which grows
            found = [each for each in rest if _overlap(each, part)]
            rest = [each for each in rest if each not in found]
            written += found
        return tuple(
            Own(buffer, buffer.raw().readonly)
            if part is None or part in written
            else part
            for part, buffer in self._found
        )

    def write(self, piece: Any) -> None:
        self._nbytes += len(piece)
        if self._nbytes > MOST:
            raise _TooMuchError
        self._pieces.append(bytes(piece))

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        found = self._find(address(view), view.nbytes) if view.nbytes else None
        if found is None and view.nbytes <= IN_BAND:
            return True
        self._found.append((found, buffer))
        return False

    def _find(self, where: int, nbytes: int) -> Stored | None:
        offsets = (mapped.offset_of(where, nbytes) for mapped in self._mapped)
        found = (
            Stored(n, at, nbytes) for n, at in enumerate(offsets) if at is not None
        )
        return next(found, None)

    def _is_written(self, found: Stored) -> bool:
        where = self._mapped[found.number].where + found.offset
        return not is_unwritten(where, found.nbytes)

    def _reducers(self) -> dict[type, Reducer]:
        table = dict(reducers())
        numpy: Any = sys.modules.get("numpy")
        if (array := getattr(numpy, "ndarray", None)) in table:
            default = table[array]
            table[array] = lambda obj: self._reduce_array(obj, default)
        arrow: Any = sys.modules.get("pyarrow")
        if arrow is not None:
            # a slice with the whole of what it was cut from, which is not copied
            for cls in table:
                if issubclass(cls, arrow.Array):
                    table[cls] = lambda obj: obj.__reduce__()
        return table

    def _reduce_array(self, array: Any, default: Reducer) -> Any:
        if array.dtype.hasobject:
            if array.size > MOST // 64:
                raise _TooMuchError
            return default(array)
        if not array.size:
            return default(array)
        low = high = array.__array_interface__["data"][0]
        for length, stride in zip(array.shape, array.strides, strict=True):
            low += min(0, (length - 1) * stride)
            high += max(0, (length - 1) * stride)
        nbytes = high + array.itemsize - low
        # What is not contiguous is sent as a copy that is, as Dask sends results.
        found = self._find(low, nbytes) if array.flags.forc else None
        if found is None:
            if not array.flags.forc and array.nbytes > IN_BAND:
                raise _TooMuchError  # it would be copied
            return default(array)
        # of the mapping, which it keeps alive
        owner = self._mapped[found.number].owner
        memory = (ctypes.c_ubyte * nbytes).from_buffer(owner, found.offset)
        start = array.__array_interface__["data"][0] - low
        how = (array.shape, array.dtype, start, array.strides, array.flags.writeable)
        return _make_view, (buffer_of(memory), *how)


def _make_view(
    buffer: Any,
    shape: tuple[int, ...],
    dtype: Any,
    start: int,
    strides: tuple[int, ...],
    writeable: bool,
) -> Any:
    import numpy as np

    array = np.ndarray(shape, dtype, buffer, start, strides)
    if not writeable:
        array.flags.writeable = False
    return array
