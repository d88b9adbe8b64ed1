"""Objects in and out of one connector: serialized, timed, counted, and written down."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from zict import LRU

from daskref.background import make_lock
from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key
from daskref.connectors.credentials import mask
from daskref.exceptions import (
    ConnectorError,
    DaskrefError,
    MissingKeyError,
    NotDeferrableError,
    SignatureError,
    WireError,
)
from daskref.metrics import Counters, add_seconds_in_connectors, metered
from daskref.objects.codec import Encoded, decode, encode
from daskref.objects.failure import load_failure
from daskref.objects.functions import Carried
from daskref.objects.signing import Signer, is_signed, seal_of
from daskref.store._metrics import Operation, StoreMetrics

#: The store's own: who reads the log need not know of this module.
logger = logging.getLogger("daskref.store")

#: ``(bytes) -> object``
Load = Callable[[Any], Any]
#: ``(object) -> bytes``
Dump = Callable[[Any], Any]


class Written(NamedTuple):
    """An object that was put."""

    key: Key
    nbytes: int
    #: What a reader will see, if that was asked for.
    view: Any = None
    #: What tells the object from others that are signed, if it is.
    seal: bytes | None = None


class ObjectIO:
    """Write and read objects through one connector.

    Parameters
    ----------
    name
        Of the store, for the log.
    connector
        Where the bytes go.
    serializer, deserializer
        In place of Dask's serialization; both or neither.
    counters
        What to count in.
    metrics
        Where to note each operation, if anywhere.
    signer
        What signs objects and checks signatures, if they are signed.
    """

    name: str
    connector: Connector
    serializer: Carried | None
    deserializer: Carried | None
    counters: Counters
    metrics: StoreMetrics | None
    signer: Signer | None

    def __init__(
        self,
        name: str,
        connector: Connector,
        serializer: Carried | None,
        deserializer: Carried | None,
        counters: Counters,
        metrics: StoreMetrics | None,
        signer: Signer | None = None,
    ) -> None:
        self.name = name
        self.connector = connector
        self.serializer = serializer
        self.deserializer = deserializer
        self.counters = counters
        self.metrics = metrics
        self.signer = signer
        self._taking = make_lock()

    @property
    def where(self) -> str:
        """``repr`` of the connector, secrets masked."""
        return mask(repr(self.connector))

    # Writing

    def put(
        self,
        obj: Any,
        serializer: Dump | None = None,
        hints: Mapping[str, Any] | None = None,
        view: Load | None = None,
        encoded: Encoded | None = None,
    ) -> Written:
        """Write an object under a new key.

        Parameters
        ----------
        obj
            The object.
        serializer
            In place of the store's.
        hints
            More keywords for the connector.
        view
            A deserializer: what it makes of the bytes is returned with the key.
        encoded
            The object as :func:`~daskref.objects.codec.encode` returns it, if that was
            done.
        """
        operation = Operation()
        if encoded is None or serializer is not None or self.serializer is not None:
            encoded = self._dump(obj, serializer, operation)
        try:
            seen = None
            if view is not None:
                with operation.part("deserialize"):
                    seen = _load(view, b"".join(encoded.frames), "an object to be put")
            hints = self._hints(obj, hints)
            frames, nbytes, seal = self._signed(encoded, operation)
            with operation.part("connector"):
                key = self._write(frames, nbytes, hints)
        except BaseException as exc:
            _forget_locals(exc)
            raise
        finally:
            del encoded
            frames = []
        self.counters.add("puts")
        self.note("put", key, operation, nbytes)
        return Written(key, nbytes, seen, seal)

    def put_batch(
        self,
        objs: Sequence[Any],
        serializer: Dump | None = None,
        hints: Mapping[str, Any] | None = None,
        view: Load | None = None,
    ) -> list[Written]:
        """Write objects under new keys, in one go where the connector can.

        Nothing remains of any of them if one fails, unless the connector's own batch
        leaves something behind.
        """
        one_by_one = type(self.connector).put_batch is Connector.put_batch
        if one_by_one or len(objs) < 2:
            return self._put_each(objs, serializer, hints, view)
        operation = Operation()
        joined: list[bytes] = []
        seals: list[bytes | None] = []
        seen: list[Any] = [None] * len(objs)
        for number, obj in enumerate(objs):
            encoded = self._dump(obj, serializer, operation)
            frames, _, seal = self._signed(encoded, operation)
            joined.append(b"".join(frames))
            seals.append(seal)
            if view is not None:
                data = b"".join(encoded.frames)
                with operation.part("deserialize"):
                    seen[number] = _load(view, data, "an object to be put")
                del data
            del encoded, frames
        sizes = [len(data) for data in joined]
        try:
            with metered("daskref-put"), operation.part("connector"):
                keys = self.connector.put_batch(
                    joined, **self._batch_hints(objs, hints)
                )
        except BaseException as exc:
            _forget_locals(exc)
            if isinstance(exc, DaskrefError | MemoryError | TypeError):
                raise
            if not isinstance(exc, Exception):
                raise
            raise ConnectorError(
                self.where, f"a put of {len(objs)} objects failed ({exc!r})"
            ) from exc
        finally:
            del joined
        self.counters.add("puts", len(keys))
        self._note_batch(keys, operation, sizes)
        return [Written(*each) for each in zip(keys, sizes, seen, seals, strict=True)]

    def _put_each(
        self,
        objs: Sequence[Any],
        serializer: Dump | None,
        hints: Mapping[str, Any] | None,
        view: Load | None,
    ) -> list[Written]:
        written: list[Written] = []
        try:
            for obj in objs:
                written.append(self.put(obj, serializer, hints, view))
        except BaseException:
            for each in written:
                self.connector.evict(each.key)
            raise
        return written

    def new_key(self) -> Key:
        """Return a key for an object to come.

        Raises
        ------
        NotDeferrableError
            If the connector cannot.
        """
        if not isinstance(self.connector, DeferrableConnector):
            raise NotDeferrableError(self.where)
        try:
            return self.connector.new_key()
        except DaskrefError:
            raise
        except NotImplementedError as exc:
            raise NotDeferrableError(self.where) from exc
        except Exception as exc:
            raise ConnectorError(self.where, f"it made no key ({exc!r})") from exc

    def set(self, key: Key, obj: Any, serializer: Dump | None = None) -> None:
        """Write an object under a key that was made before it."""
        if not isinstance(self.connector, DeferrableConnector):
            raise NotDeferrableError(self.where)
        operation = Operation()
        frames, nbytes, _ = self._signed(
            self._dump(obj, serializer, operation), operation
        )
        try:
            with metered("daskref-put"), operation.part("connector"):
                self.connector.set_frames(key, frames)
        except (DaskrefError, MemoryError) as exc:
            _forget_locals(exc)
            raise
        except Exception as exc:
            _forget_locals(exc)
            raise ConnectorError(
                self.where, f"setting {mask(repr(key))} failed ({exc!r})"
            ) from exc
        finally:
            del frames
        self.counters.add("puts")
        self.note("set", key, operation, nbytes)

    def _dump(self, obj: Any, serializer: Dump | None, operation: Operation) -> Encoded:
        serializer = serializer or self.serializer
        with operation.part("serialize"):
            if serializer is None:
                return encode(obj)
            data = serializer(obj)
            try:
                return Encoded([data], memoryview(data).nbytes)
            except TypeError as exc:
                raise TypeError(
                    f"a serializer returns bytes or another buffer, not "
                    f"{type(data).__name__}"
                ) from exc

    def _signed(
        self, encoded: Encoded, operation: Operation
    ) -> tuple[list[Buffer], int, bytes | None]:
        """Return the frames to be stored, their size, and the seal if there is one."""
        if self.signer is None:
            return encoded.frames, encoded.nbytes, None
        with operation.part("sign"):
            envelope = self.signer.sign(encoded)
        nbytes = encoded.nbytes + len(envelope)
        return [envelope, *encoded.frames], nbytes, seal_of(envelope)

    def _hints(self, obj: Any, hints: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the keywords for a put of the connector's."""
        hints = dict(hints or {})
        if self.connector.takes_hints:
            cls = type(obj)
            return {"type_name": f"{cls.__module__}.{cls.__qualname__}", **hints}
        if hints:
            raise TypeError(
                f"{self.where} takes no further arguments, but was given "
                f"{', '.join(sorted(hints))}"
            )
        return hints

    def _batch_hints(
        self, objs: Sequence[Any], hints: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        common = self._hints(objs, hints)
        if "type_name" in common and "type_name" not in (hints or {}):
            common["type_name"] = [self._hints(obj, None)["type_name"] for obj in objs]
        return common

    def _write(
        self, frames: list[Buffer], nbytes: int, hints: Mapping[str, Any]
    ) -> Key:
        try:
            with metered("daskref-put"):
                return self.connector.put_frames(frames, **hints)
        except (DaskrefError, MemoryError):
            raise
        except Exception as exc:
            raise ConnectorError(
                self.where, f"a put of {nbytes} bytes failed ({exc!r})"
            ) from exc

    # Reading

    def get(
        self,
        key: Key,
        deserializer: Load | None = None,
        seal: bytes | None = None,
        watch: Callable[[Buffer, Any], object] | None = None,
    ) -> Any:
        """Return a new object, or a :class:`Failure` in its place.

        Parameters
        ----------
        key
            Of the object.
        deserializer
            In place of the store's.
        seal
            Of the object, if it was signed when it was put and that is known.
        watch
            ``(bytes, object)``: called with what was read, and what was made of it.

        Raises
        ------
        MissingKeyError
            If there is none.
        SignatureError
            If it is not the object that was put.
        WireError
            If it does not deserialize.
        ConnectorError
            If the store failed.
        """
        return self._read(key, self.connector.get, deserializer, seal, watch=watch)

    def memory(self, key: Key, seal: bytes | None = None) -> memoryview:
        """Return the stored bytes, as they are, writable; raises as get does."""
        data = self._bytes(key, self.connector.get, Operation())
        view = memoryview(data).cast("B")
        if self.signer is not None:
            self.signer.open(view, key, seal)
        self.counters.add("gets")
        return memoryview(bytearray(view)) if view.readonly else view

    def take(
        self, key: Key, deserializer: Load | None = None, seal: bytes | None = None
    ) -> Any:
        """Return a new object and delete it, for one caller only; raises as get does.

        What does not deserialize is deleted all the same.
        """
        return self._read(key, self._take, deserializer, seal, evicts=True)

    def _take(self, key: Key) -> Buffer | None:
        apart = type(self.connector).take is not Connector.take
        with nullcontext() if apart else self._taking:  # one taker here, at least
            return self.connector.take(key)

    def _read(
        self,
        key: Key,
        read: Callable[[Key], Buffer | None],
        deserializer: Load | None,
        seal: bytes | None,
        evicts: bool = False,
        watch: Callable[[Buffer, Any], object] | None = None,
    ) -> Any:
        operation = Operation()
        with metered("daskref-get"):
            data = self._bytes(key, read, operation)
            with operation.part("deserialize"):
                nbytes = memoryview(data).nbytes
                obj = self.load(data, key, deserializer, seal)
        if watch is not None:
            watch(data, obj)
        self.counters.add("gets")
        self.note("get", key, operation, nbytes, cached=False)
        if evicts:
            self.counters.add("evictions")
            self.note("evict", key, operation)
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
                self.where, f"a get of {mask(repr(key))} failed ({exc!r})"
            ) from exc
        finally:
            add_seconds_in_connectors(time.perf_counter() - began)
        if data is None:
            raise MissingKeyError(key, self.where)
        return data

    def load(
        self,
        data: Buffer,
        key: Key,
        deserializer: Load | None = None,
        seal: bytes | None = None,
    ) -> Any:
        """Turn stored bytes into an object, or a failure; raises as :meth:`get` does.

        Parameters
        ----------
        data
            What the connector returned.
        key, deserializer, seal
            See :meth:`get`.
        """
        view = memoryview(data).cast("B")
        head_nbytes = view.nbytes
        if self.signer is not None:
            data, head_nbytes = self.signer.open(view, key, seal)
            view = data
        elif is_signed(view):
            Signer(self.name, None).open(view, key)  # says what to do
        failure = load_failure(view)
        if failure is not None:
            return failure
        deserializer = deserializer or self.deserializer
        if deserializer is None:
            return decode(data)
        if head_nbytes != view.nbytes:
            raise SignatureError(
                mask(repr(key)),
                self.name,
                "it was put without a serializer, and is read with one",
            )
        return _load(deserializer, data, f"the object under {mask(repr(key))}")

    def evict(self, key: Key) -> None:
        """Delete an object."""
        operation = Operation()
        with operation.part("connector"):
            self.connector.evict(key)
        self.counters.add("evictions")
        self.note("evict", key, operation)

    # Keeping records

    def note(
        self,
        name: str,
        key: Key,
        operation: Operation,
        nbytes: int | None = None,
        cached: bool | None = None,
    ) -> None:
        """Write down an operation that is done: in the log, and in the metrics.

        Parameters
        ----------
        name
            Of the method.
        key
            Of the object.
        operation
            Its times.
        nbytes
            Size of the stored object.
        cached
            For a get: whether it came from the cache.
        """
        operation.done()
        self._log(name, key, operation, nbytes, cached)
        metrics = self.metrics
        if metrics is None:
            return
        label = f"store.{name}"
        if cached is not None:
            found = "hits" if cached else "misses"
            metrics.add_counter(f"{label}.cache_{found}", key, 1)
        if nbytes is not None:
            metrics.add_attribute(f"{label}.object_size", key, nbytes)
        _note_times(metrics, label, key, operation)

    def _log(
        self,
        name: str,
        key: Key,
        operation: Operation,
        nbytes: int | None = None,
        cached: bool | None = None,
    ) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "Store %r: %s %s in %.3f ms%s%s",
                self.name,
                name.upper(),
                mask(repr(key)),
                operation.elapsed_ms,
                "" if nbytes is None else f", {nbytes} bytes",
                "" if cached is None else f" (cached={cached})",
            )

    def _note_batch(
        self, keys: Sequence[Key], operation: Operation, sizes: Sequence[int]
    ) -> None:
        operation.done()
        for key, nbytes in zip(keys, sizes, strict=True):
            self._log("put", key, operation, nbytes)
            if self.metrics is not None:
                self.metrics.add_attribute("store.put.object_size", key, nbytes)
        if self.metrics is not None:
            _note_times(self.metrics, "store.put_batch", keys, operation)


def _note_times(
    metrics: StoreMetrics, label: str, key: Any, operation: Operation
) -> None:
    for part, elapsed_ms in operation.parts.items():
        metrics.add_time(f"{label}.{part}", key, elapsed_ms)
    metrics.add_time(label, key, operation.elapsed_ms)


def _load(deserializer: Load, data: Buffer, what: str) -> Any:
    try:
        # As ProxyStore's connectors have it: a mapping has neither `decode` nor hash.
        return deserializer(data if isinstance(data, bytes) else bytes(data))
    except Exception as exc:
        raise WireError(f"{what} could not be deserialized ({exc!r})") from exc


def _forget_locals(exc: BaseException) -> None:
    """Let an error not keep alive, through its traceback, what could not be put."""
    while exc.__cause__ is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__cause__
    traceback.clear_frames(exc.__traceback__)


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
