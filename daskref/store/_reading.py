"""Objects out of one connector: timed, checked, loaded, and kept for the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from zict import LRU

from daskref.background import make_lock
from daskref.connectors.base import Buffer, Connector, Key
from daskref.connectors.credentials import mask
from daskref.exceptions import (
    ConnectorError,
    DaskrefError,
    MissingKeyError,
    SignatureError,
    WireError,
)
from daskref.objects.codec import decode, load_failure
from daskref.objects.functions import Load, PickledFunction, load_with
from daskref.objects.signing import Signer, is_signed
from daskref.store.metrics import (
    Counters,
    Operation,
    StoreMetrics,
    add_seconds_in_connectors,
    metered,
)


@dataclass(eq=False, repr=False)
class Reader:
    """Read objects through one connector, and keep the last ones that are shared.

    Notes
    -----
    Thread-safe; no lock is held while an object is read, except where a connector
    cannot take one.
    """

    _name: str
    _connector: Connector
    #: In place of Dask's serialization, if there is one.
    _deserializer: PickledFunction | None
    _counters: Counters
    #: Where to note each operation, if anywhere.
    _metrics: StoreMetrics | None
    #: What checks signatures, if objects are signed.
    signer: Signer | None
    #: How many objects are kept; 0 for none.
    _cache_size: int
    _evictions: int = 0
    _lock: threading.Lock = field(default_factory=make_lock)
    _taking: threading.Lock = field(default_factory=make_lock)
    _cache: LRU[Key, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._cache = LRU(max(self._cache_size, 1), {})

    def get(
        self,
        key: Key,
        deserializer: Load | None = None,
        seal: bytes | None = None,
        watch: Callable[[Buffer, Any], object] | None = None,
    ) -> Any:
        """Return a new object, or a :class:`Failure` in its place.

        Raises MissingKeyError if there is none; SignatureError if it is not the object
        that was put; WireError if it does not deserialize; ConnectorError if the store
        failed.

        Parameters
        ----------
        seal
            Of the object, if it was signed when it was put and that is known.
        watch
            ``(bytes, object)``: called with what was read, and what was made of it.
        """
        return self._read(key, self._connector.get, deserializer, seal, watch=watch)

    def memory(self, key: Key, seal: bytes | None = None) -> memoryview:
        """Return the stored bytes, as they are, writable; raises as get does."""
        operation = Operation(self._name, self._metrics)
        data = self._bytes(key, self._connector.get, operation)
        view = memoryview(data).cast("B")
        if self.signer is not None:
            self.signer.open(view, key, seal)
        self._counters.add_get(key)
        return memoryview(bytearray(view)) if view.readonly else view

    def take(
        self, key: Key, deserializer: Load | None = None, seal: bytes | None = None
    ) -> Any:
        """Return a new object and delete it, for one caller only; raises as get does.

        What does not deserialize is deleted all the same.
        """
        return self._read(key, self._take, deserializer, seal, evicts=True)

    def _take(self, key: Key) -> Buffer | None:
        apart = type(self._connector).take is not Connector.take
        with nullcontext() if apart else self._taking:  # one taker here, at least
            return self._connector.take(key)

    def _read(
        self,
        key: Key,
        read: Callable[[Key], Buffer | None],
        deserializer: Load | None,
        seal: bytes | None,
        evicts: bool = False,
        watch: Callable[[Buffer, Any], object] | None = None,
    ) -> Any:
        operation = Operation(self._name, self._metrics)
        with metered("daskref-get"):
            data = self._bytes(key, read, operation)
            with operation.part("deserialize"):
                nbytes = memoryview(data).nbytes
                obj = self.load(data, key, deserializer, seal)
        if watch is not None:
            watch(data, obj)
        self._counters.add_get(key)
        operation.done("get", key, nbytes, cached=False)
        if evicts:
            self._counters.add("evictions")
            operation.done("evict", key)
        return obj

    def _bytes(
        self, key: Key, read: Callable[[Key], Buffer | None], operation: Operation
    ) -> Buffer:
        began = time.perf_counter()
        try:
            with operation.part("connector"):
                data = read(key)
        except (DaskrefError, MemoryError):
            raise
        except Exception as exc:
            raise ConnectorError(
                mask(repr(self._connector)),
                f"a get of {mask(repr(key))} failed ({exc!r})",
            ) from exc
        finally:
            add_seconds_in_connectors(time.perf_counter() - began)
        if data is None:
            raise MissingKeyError(key, mask(repr(self._connector)))
        return data

    def load(
        self,
        data: Buffer,
        key: Key,
        deserializer: Load | None = None,
        seal: bytes | None = None,
    ) -> Any:
        """Turn stored bytes into an object, or a failure; raises as :meth:`get` does.

        *data*: what the connector returned.
        """
        view = memoryview(data).cast("B")
        head_nbytes = view.nbytes
        deserializer = deserializer or self._deserializer
        if self.signer is not None:
            data, head_nbytes = self.signer.open(view, key, seal)
            view = data
        elif deserializer is not None:
            self._check_unsigned(view, key)
        failure = load_failure(view)
        if failure is not None:
            return failure
        if deserializer is None:
            try:
                return decode(data)
            except WireError:
                self._check_unsigned(view, key)
                raise
        if head_nbytes != view.nbytes:
            raise SignatureError(
                mask(repr(key)),
                self._name,
                "it was put without a serializer, and is read with one",
            )
        return load_with(deserializer, data, f"the object under {mask(repr(key))}")

    def _check_unsigned(self, view: memoryview, key: Key) -> None:
        if self.signer is None and is_signed(view):
            Signer(self._name, None).open(view, key)  # says what to do

    # The cache

    def share(
        self, key: Key, deserializer: Load | None = None, seal: bytes | None = None
    ) -> Any:
        """Return a shared object, or a failure in its place; see :meth:`get`.

        *deserializer*: in place of the store's; then nothing is kept, and the object is
        a new one.
        """
        if deserializer is not None or not self._cache_size:
            return self.get(key, deserializer, seal)
        operation = Operation(self._name, self._metrics)
        missing = object()
        with self._lock:
            obj = self._cache.get(key, missing)
            evictions = self._evictions
        if obj is not missing:
            operation.done("get", key, cached=True)
            return obj
        obj = self.get(key, seal=seal)
        with self._lock:
            # 1. We read. 2. Another thread evicts. 3. We would cache what is gone.
            if evictions == self._evictions:
                self._cache[key] = obj
        return obj

    def is_cached(self, key: Key) -> bool:
        """Tell whether :meth:`share` would answer without the connector."""
        with self._lock:
            return key in self._cache

    def forget(self, key: Key) -> None:
        """Drop an object that is about to be evicted."""
        with self._lock:
            self._evictions += 1
            self._cache.pop(key, None)

    def clear(self) -> None:
        """Drop all objects."""
        with self._lock:
            self._cache.clear()
