"""The stored objects that a thread has mapped: those that a task was given."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from daskref.connectors.base import Buffer
from daskref.connectors.buffers import address
from daskref.objects.reference import Reference

_local = threading.local()


class Mapped:
    """A stored object that was mapped; keeps neither it nor the mapping alive.

    *obj*: the object over the mapping, if it is known; *owner*: the memory of the
    mapping, which every view of it refers to; *where*: its address.
    """

    __slots__ = ("_obj", "_owner", "nbytes", "reference", "where")

    def __init__(self, reference: Reference, obj: Any, owner: Any, where: int) -> None:
        self.reference = reference
        self.where = where
        self.nbytes: int = ctypes.sizeof(owner)
        self._owner: weakref.ref[Any] = weakref.ref(owner)
        try:
            self._obj: weakref.ref[Any] | None = weakref.ref(obj)
        except TypeError:  # a list, a dict
            self._obj = None

    @property
    def owner(self) -> Any:
        """The memory; ``None`` once nothing refers to any part of it."""
        return self._owner()

    def is_of(self, obj: Any) -> bool:
        """Tell whether an object is the very one that was read."""
        return self._obj is not None and self._obj() is obj

    def offset_of(self, where: int, nbytes: int) -> int | None:
        """Return the offset of memory in the mapping; ``None`` if outside."""
        offset = where - self.where
        return offset if 0 <= offset <= self.nbytes - nbytes else None


@contextmanager
def noting() -> Iterator[list[Mapped]]:
    """Yield a list of the objects that this thread maps inside the block."""
    outer = getattr(_local, "noted", None)
    noted: list[Mapped] = []
    _local.noted = noted
    try:
        yield noted
    finally:
        _local.noted = outer


def note(reference: Reference, data: Buffer, obj: Any = None) -> None:
    """Record an object that this thread has read, if it is mapped, inside a block."""
    noted: list[Mapped] | None = getattr(_local, "noted", None)
    if noted is None:
        return
    view = memoryview(data)
    owner: Any = view.obj
    if isinstance(owner, ctypes.Array):
        with memoryview(owner) as whole:
            noted.append(Mapped(reference, obj, owner, address(whole)))
