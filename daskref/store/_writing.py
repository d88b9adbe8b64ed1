"""Objects into one connector: serialized, signed, timed and counted."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key
from daskref.connectors.credentials import mask
from daskref.exceptions import ConnectorError, DaskrefError, NotDeferrableError
from daskref.objects.codec import Encoded, encode
from daskref.objects.functions import Dump, Load, PickledFunction, load_with
from daskref.objects.signing import Signer, seal_of
from daskref.store.metrics import Counters, Operation, StoreMetrics, metered


class Written(NamedTuple):
    """An object that was put."""

    key: Key
    nbytes: int
    #: What a reader will see, if that was asked for.
    view: Any = None
    #: What tells the object from others that are signed, if it is.
    seal: bytes | None = None


@dataclass(eq=False, repr=False)
class Writer:
    """Write objects through one connector, and delete them."""

    _name: str
    _connector: Connector
    #: In place of Dask's serialization, if there is one.
    _serializer: PickledFunction | None
    _counters: Counters
    #: Where to note each operation, if anywhere.
    _metrics: StoreMetrics | None
    #: What signs objects, if they are signed.
    signer: Signer | None

    @property
    def where(self) -> str:
        """``repr`` of the connector, secrets masked."""
        return mask(repr(self._connector))

    def put(
        self,
        obj: Any,
        serializer: Dump | None = None,
        hints: Mapping[str, Any] | None = None,
        view: Load | None = None,
        encoded: Encoded | None = None,
        batch: Operation | None = None,
    ) -> Written:
        """Write an object under a new key.

        Parameters
        ----------
        hints
            More keywords for the connector.
        view
            A deserializer: what it makes of the bytes is returned with the key.
        encoded
            The object as :func:`~daskref.objects.codec.encode` returns it, if that was
            done.
        batch
            What this is a part of, if it is.
        """
        operation = Operation(self._name, self._metrics)
        if encoded is None or serializer is not None or self._serializer is not None:
            encoded = self._dump(obj, serializer, operation)
        try:
            seen = _seen(encoded, view, operation)
            hints = self._hints(obj, hints)
            frames, nbytes, seal = self._signed(encoded, operation)
            with self._writing(operation, f"a put of {nbytes} bytes"):
                key = self._connector.put_frames(frames, **hints)
        except BaseException as exc:
            _forget_locals(exc)
            raise
        finally:
            del encoded
            frames = []
        self._counters.add("puts")
        operation.done("put", key, nbytes)
        if batch is not None:
            batch.add_parts(operation)
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
        operation = Operation(self._name, self._metrics)
        one_by_one = type(self._connector).put_batch is Connector.put_batch
        if one_by_one or len(objs) < 2:
            written = self._put_each(objs, serializer, hints, view, operation)
            keys, sizes = [w.key for w in written], [w.nbytes for w in written]
            operation.done_batch("put_batch", keys, sizes)
            return written
        joined: list[bytes] = []
        seals: list[bytes | None] = []
        seen: list[Any] = []
        for obj in objs:
            encoded = self._dump(obj, serializer, operation)
            frames, _, seal = self._signed(encoded, operation)
            joined.append(b"".join(frames))
            seals.append(seal)
            seen.append(_seen(encoded, view, operation))
            del encoded, frames
        sizes = [len(data) for data in joined]
        try:
            options = self._batch_hints(objs, hints)
            with self._writing(operation, f"a put of {len(objs)} objects"):
                keys = self._connector.put_batch(joined, **options)
        except BaseException as exc:
            _forget_locals(exc)
            raise
        finally:
            del joined
        self._counters.add("puts", len(keys))
        operation.done_put(keys, sizes)
        return [Written(*each) for each in zip(keys, sizes, seen, seals, strict=True)]

    def _put_each(
        self,
        objs: Sequence[Any],
        serializer: Dump | None,
        hints: Mapping[str, Any] | None,
        view: Load | None,
        batch: Operation,
    ) -> list[Written]:
        written: list[Written] = []
        try:
            for obj in objs:
                written.append(self.put(obj, serializer, hints, view, batch=batch))
        except BaseException:
            for each in written:
                self._connector.evict(each.key)
            raise
        return written

    def new_key(self) -> Key:
        """Return a key for an object to come.

        Raises NotDeferrableError if the connector cannot.
        """
        if not isinstance(self._connector, DeferrableConnector):
            raise NotDeferrableError(self.where)
        with self._told("making a key"):
            try:
                return self._connector.new_key()
            except NotImplementedError as exc:
                if isinstance(exc, DaskrefError):
                    raise
                raise NotDeferrableError(self.where) from exc

    def set(self, key: Key, obj: Any, serializer: Dump | None = None) -> None:
        """Write an object under a key that was made before it."""
        if not isinstance(self._connector, DeferrableConnector):
            raise NotDeferrableError(self.where)
        operation = Operation(self._name, self._metrics)
        encoded = self._dump(obj, serializer, operation)
        frames, nbytes, _ = self._signed(encoded, operation)
        try:
            with self._writing(operation, f"setting {mask(repr(key))}"):
                self._connector.set_frames(key, frames)
        except BaseException as exc:
            _forget_locals(exc)
            raise
        finally:
            del encoded, frames
        self._counters.add("puts")
        operation.done("set", key, nbytes)

    def evict(self, key: Key) -> None:
        """Delete an object."""
        operation = Operation(self._name, self._metrics)
        with operation.part("connector"):
            self._connector.evict(key)
        self._counters.add("evictions")
        operation.done("evict", key)

    @contextmanager
    def _writing(self, operation: Operation, what: str) -> Iterator[None]:
        with operation.part("connector"), metered("daskref-put"), self._told(what):
            yield

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Let no errors out but our own."""
        try:
            yield
        except (DaskrefError, MemoryError):
            raise
        except Exception as exc:
            raise ConnectorError(self.where, f"{what} failed ({exc!r})") from exc

    def _dump(self, obj: Any, serializer: Dump | None, operation: Operation) -> Encoded:
        serializer = serializer or self._serializer
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
        if self._connector.takes_hints:
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


def _seen(encoded: Encoded, view: Load | None, operation: Operation) -> Any:
    """Return what a deserializer will make of an object, if there is one."""
    if view is None:
        return None
    with operation.part("deserialize"):
        return load_with(view, b"".join(encoded.frames), "an object to be put")


def _forget_locals(exc: BaseException) -> None:
    """Let an error not keep alive, through its traceback, what could not be put."""
    while exc.__cause__ is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__cause__
    traceback.clear_frames(exc.__traceback__)
