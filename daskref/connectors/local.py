"""Objects in the memory of one process: for tests, and for threads-only clusters."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from daskref.annotations import override
from daskref.background import make_lock
from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key, Usage
from daskref.connectors.buffers import raw
from daskref.connectors.sweeping import Row, is_due
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorUnavailableError,
    WireError,
)


class LocalKey(NamedTuple):
    """Key of an object in one process's memory."""

    #: Random, and unique.
    name: str


@dataclass
class _Shelf:
    pid: int = field(default_factory=os.getpid)
    users: int = 0
    objects: dict[LocalKey, Buffer] = field(default_factory=dict)
    leases: dict[LocalKey, float] = field(default_factory=dict)


_shelves: dict[str, _Shelf] = {}
_lock = make_lock()


class LocalConnector(Connector, DeferrableConnector):
    """Store objects in this process.

    Parameters
    ----------
    store_dict
        The objects, by key; by default a new dictionary. Connectors with the same
        dictionary share their objects.
    id
        Of another connector in this process, to share its objects; by default a new
        one.

    Raises
    ------
    ConnectorUnavailableError
        If no connector of this process has this *id*.

    Notes
    -----
    :meth:`get` returns a writable copy. The objects are dropped when the last connector
    with this *id* is closed, unless they are in a user's dictionary.
    """

    scheme: ClassVar[str] = "local"
    private = True

    def __init__(
        self,
        store_dict: dict[LocalKey, Buffer] | None = None,
        *,
        id: str | None = None,
    ) -> None:
        self._closed = True
        self._id = secrets.token_hex(8) if id is None else id
        with _lock:
            if id is None:
                objects = {} if store_dict is None else store_dict
                _shelves[self._id] = _Shelf(objects=objects)
            shelf = _shelves.get(self._id)
            if shelf is None or shelf.pid != os.getpid():
                raise ConnectorUnavailableError(
                    repr(self), "its objects are in the memory of another process"
                )
            shelf.users += 1
        self._shelf = shelf
        self._closed = False

    def _open(self) -> _Shelf:
        if self._closed:
            raise ConnectorClosedError(repr(self))
        if self._shelf.pid != os.getpid():
            raise ConnectorUnavailableError(
                repr(self), "its objects are in the memory of the parent process"
            )
        return self._shelf

    @override
    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        shelf = self._open()
        key = _new_key()
        shelf.objects[key] = b"".join(raw(frame) for frame in frames)
        return key

    @override
    def get(self, key: Key) -> memoryview | None:
        found = self._open().objects.get(_checked(key))
        return None if found is None else memoryview(bytearray(found))

    @override
    def exists(self, key: Key) -> bool:
        return _checked(key) in self._open().objects

    @override
    def evict(self, key: Key) -> None:
        ours = _checked(key)
        shelf = self._open()
        shelf.objects.pop(ours, None)
        shelf.leases.pop(ours, None)

    @override
    def take(self, key: Key) -> memoryview | None:
        ours = _checked(key)
        shelf = self._open()
        found = shelf.objects.pop(ours, None)  # for one thread only
        shelf.leases.pop(ours, None)
        return None if found is None else memoryview(bytearray(found))

    @override
    def new_key(self, obj: Buffer | None = None) -> Key:
        self._open()
        return _new_key()

    @override
    def set(self, key: Key, obj: Buffer) -> None:
        self.set_frames(key, [obj])

    @override
    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        ours = _checked(key)
        self._open().objects[ours] = b"".join(raw(frame) for frame in frames)

    @override
    def link(self, key: Key) -> Key | None:
        ours = _checked(key)
        shelf = self._open()
        found = shelf.objects.get(ours)
        if found is None:
            return None
        new = _new_key()
        shelf.objects[new] = found
        return new

    @override
    def renew(self, key: Key, seconds: float) -> bool:
        ours = _checked(key)
        shelf = self._open()
        if ours not in shelf.objects:
            return False
        shelf.leases[ours] = time.time() + seconds
        return True

    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        """Delete expired leases; no writer is ever gone."""
        kept = {key[0] for key in known or ()}
        shelf, now = self._open(), time.time()
        swept: list[Key] = []
        for key, expiry in list(shelf.leases.items()):
            row = Row(key.name, 0.0, expiry, self._id)
            if is_due(row, kept, grace, now, lambda writer: False):
                self.evict(key)
                swept.append(key)
        return swept

    @override
    def usage(self) -> Usage:
        objects = {id(obj): len(obj) for obj in list(self._open().objects.values())}
        return Usage(len(objects), sum(objects.values()))

    @override
    def config(self) -> dict[str, Any]:
        return {"id": self._id}

    @override
    def close(self) -> None:
        with _lock:
            if self._closed:
                return
            self._closed = True
            self._shelf.users -= 1
            if not self._shelf.users:
                _shelves.pop(self._id, None)

    def __repr__(self) -> str:
        return f"<LocalConnector {self._id}>"


def _new_key() -> LocalKey:
    return LocalKey(secrets.token_hex(16))


def _checked(key: Key) -> LocalKey:
    if type(key) in (tuple, LocalKey) and len(key) == 1 and isinstance(key[0], str):
        name = key[0]
        if len(name) == 32 and set(name) <= set("0123456789abcdef"):
            return LocalKey(name)
    raise WireError(f"{key!r} is not a LocalKey that daskref made")
