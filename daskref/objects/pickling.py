"""Objects <-> a pickle and buffers beside it: the form to store, size and hash them in.

The pickle is a standard one, of protocol 5. Large values in it are not joined: it is a
list of pieces, and of ``bytes``, ``bytearray`` and ``str`` the pieces are the objects'
own memory (C Python hands values of 64 KiB or more to the file as they are).
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from daskref.objects.reducers import reducers, reducers_of_results

#: Buffers of at most so many bytes are copied into the pickle.
IN_BAND = 1024
#: Pieces of so many bytes or more are values, not written by the pickler itself.
_VALUE = 128 * 1024
_MAIN = b"__main__"


class _File:
    """The file that a pickler writes to."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.buffers: list[pickle.PickleBuffer] = []

    def write(self, piece: Any) -> None:
        # a view is valid for the call only
        self.pieces.append(bytes(piece) if type(piece) is memoryview else piece)

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes <= IN_BAND:
            return True
        self.buffers.append(buffer)
        return False


class Pickle:
    """An object as a pickle and the buffers that it needs.

    *pickler*: ``(file, buffer_callback) -> pickler``. Raises what pickling raises.
    """

    #: The pickle, in pieces.
    pieces: list[Any]
    #: The buffers out of band, in the order in which they are loaded.
    buffers: list[pickle.PickleBuffer]
    _pickler: pickle.Pickler

    def __init__(self, pickler: Callable[..., pickle.Pickler], obj: Any) -> None:
        # A file of its own: if this object were the file, a cycle would keep *obj*
        # alive.
        file = _File()
        self.pieces = file.pieces
        self.buffers = file.buffers
        self._pickler = pickler(file, file.take)
        self._pickler.dump(obj)

    def names(self, name: bytes) -> bool:
        """Tell whether the pickle contains a name, outside of large values."""
        return any(name in piece for piece in self.pieces if len(piece) < _VALUE)

    def parts(self) -> dict[int, Any]:
        """Return the objects in the pickle, by ``id``."""
        memo = self._pickler.memo.copy()
        return {id(obj): obj for _, obj in memo.values()}

    def identities(self) -> set[int]:
        """Return the ``id`` of each object that another pickle might share.

        Objects that nobody can write to, as text, are not among them. Valid while this
        object lives.
        """
        return identities_in(self._pickler)


def identities_in(pickler: pickle.Pickler) -> set[int]:
    """See :meth:`Pickle.identities`."""
    return {*changeable(obj for _, obj in pickler.memo.copy().values())}


def changeable(objs: Iterable[Any]) -> dict[int, Any]:
    """Return those of *objs* that code can write to, by ``id``.

    The attributes of classes and functions are not among them: all objects share those.
    """
    found: dict[int, Any] = {}
    ignored: set[int] = set()
    classes: set[type] = set()
    for obj in objs:
        cls = type(obj)
        if cls is FunctionType:
            for part in (obj.__dict__, obj.__annotations__, obj.__kwdefaults__):
                ignored.add(id(part))
        elif not is_value_type(cls):
            found[id(obj)] = obj
            classes.update(cls.__mro__)
    for base in classes:
        for value in vars(base).values():
            if type(value) in (list, dict, set):
                ignored.add(id(value))
    return {number: obj for number, obj in found.items() if number not in ignored}


def _is_value_type(cls: type) -> bool:
    """Tell whether equal objects of a type stay equal, since nobody can write to them.

    Types of Python and of some packages that have a hash by value do not change. For a
    user's class, as for a tensor, a hash proves nothing.
    """
    if issubclass(cls, type | ModuleType | FunctionType | BuiltinFunctionType):
        return True  # they pickle as their names, or by value as a whole
    if any("__qualname__" in vars(base) for base in cls.__mro__[:-1]):
        return True  # functions of compiled code
    if getattr(cls, "__hash__", None) in (None, object.__hash__):
        return False
    package = str(cls.__module__).partition(".")[0]
    return package in _VALUES


#: ``(type) -> bool``: as above, remembered.
is_value_type: Callable[[type], bool] = lru_cache(maxsize=4096)(_is_value_type)
_VALUES = sys.stdlib_module_names | {"builtins", "numpy", "pandas", "polars", "pyarrow"}


def pickled(obj: Any, *, result: bool = False) -> Pickle:
    """Pickle an object as Dask does: by name what has one elsewhere, or by value.

    Raises whatever pickling raises. *result*: whether to make arrays contiguous, as
    Dask does with results.
    """

    def pickler(kind: Any) -> Callable[..., pickle.Pickler]:
        return partial(_pickler_of_result, kind) if result else kind

    if not cloudpickle.list_registry_pickle_by_value():
        try:
            found = Pickle(pickler(_pickler_by_name), obj)
            if not found.names(_MAIN):
                return found
        except Exception:  # pickling by value may work
            pass
    return Pickle(pickler(ByValuePickler), obj)


def _pickler_of_result(kind: Any, file: Any, buffer_callback: Any) -> pickle.Pickler:
    pickler: pickle.Pickler = kind(file, buffer_callback)
    table: Any = pickler.dispatch_table  # a new one each time
    table.update(reducers_of_results())
    return pickler


class _ByName(pickle.Pickler):
    """Python's own pickler, with daskref's reducers."""


def _pickler_by_name(file: Any, buffer_callback: Any) -> pickle.Pickler:
    pickler = _ByName(file, 5, buffer_callback=buffer_callback)
    pickler.dispatch_table = {**copyreg.dispatch_table, **reducers()}
    return pickler


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that pickles functions and classes without a module by value."""

    def __init__(self, file: Any, buffer_callback: Any = None) -> None:
        # Before the base's __init__, which looks it up, once. Looked up for each object
        # then: cloudpickle's own is a slow ChainMap, slow to copy as well.
        table: dict[Any, Any] = {}
        for part in reversed(cloudpickle.Pickler.dispatch_table.maps):
            table |= part
        table |= reducers()
        self.dispatch_table = table
        super().__init__(file, 5, buffer_callback=buffer_callback)
