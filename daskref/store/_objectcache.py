"""The objects that a store keeps for the next who asks."""

from __future__ import annotations

import threading
from typing import Any

from zict import LRU

from daskref.background import make_lock
from daskref.connectors.base import Key
from daskref.store._io import Load, ObjectIO
from daskref.store._metrics import Operation


class ObjectCache:
    """Read objects through one store's input and output, each of the last ones once.

    Parameters
    ----------
    io
        What reads them.
    size
        How many are kept; 0 for none.

    Notes
    -----
    Thread-safe; no lock is held while an object is read.
    """

    _io: ObjectIO
    _size: int
    _objects: LRU[Key, Any]
    _evictions: int
    _lock: threading.Lock

    def __init__(self, io: ObjectIO, size: int) -> None:
        self._io = io
        self._size = size
        self._objects = LRU(max(size, 1), {})
        self._evictions = 0
        self._lock = make_lock()

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._objects

    def get(
        self, key: Key, deserializer: Load | None = None, seal: bytes | None = None
    ) -> Any:
        """Return a shared object, or a failure in its place; see :meth:`ObjectIO.get`.

        Parameters
        ----------
        key
            Of the object.
        deserializer
            In place of the store's; then nothing is kept, and the object is a new one.
        seal
            See :meth:`ObjectIO.get`.
        """
        if deserializer is not None or not self._size:
            return self._io.get(key, deserializer, seal)
        operation = Operation()
        missing = object()
        with self._lock:
            obj = self._objects.get(key, missing)
            evictions = self._evictions
        if obj is not missing:
            self._io.note("get", key, operation, cached=True)
            return obj
        obj = self._io.get(key, seal=seal)
        with self._lock:
            # 1. We read. 2. Another thread evicts. 3. We would cache what is gone.
            if evictions == self._evictions:
                self._objects[key] = obj
        return obj

    def forget(self, key: Key) -> None:
        """Drop an object that is about to be evicted."""
        with self._lock:
            self._evictions += 1
            self._objects.pop(key, None)

    def clear(self) -> None:
        """Drop all objects."""
        with self._lock:
            self._objects.clear()
