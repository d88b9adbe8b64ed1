"""The common part of the connectors whose objects are files of directories."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

from daskref.annotations import override
from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key, Usage
from daskref.connectors.buffers import raw
from daskref.connectors.failures import of_system
from daskref.connectors.files import leases
from daskref.connectors.files.directory import ObjectDirectory, new_name
from daskref.connectors.files.names import NAME, UNKNOWN_SIZE
from daskref.connectors.files.session import DirectorySession
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorUnavailableError,
    WireError,
)

logger = logging.getLogger(__name__)

#: Reads an object: ``(directory, name, nbytes) -> view`` or ``None``.
Read = Callable[[ObjectDirectory, str, int], memoryview | None]


class Objects(Protocol):
    """One or several directories of objects."""

    def put(
        self, name: str, views: Sequence[memoryview], *, publish: str | None = None
    ) -> object:
        """Write an object; see :meth:`ObjectDirectory.put`."""


class DirectoryConnector(Connector, DeferrableConnector):
    """Store objects in the directory of a session, and read them also elsewhere.

    Subclasses say where they write objects, and where else objects may be.
    """

    #: Class of the keys: name and size.
    _key_type: ClassVar[type[Any]]

    _session: DirectorySession
    #: Where objects are written.
    _objects: Objects
    #: Where objects are looked for first.
    _here: ObjectDirectory
    _closed: bool = False
    #: Whether the last sweep failed in part, for which a warning was logged.
    _unswept: bool = False

    @abstractmethod
    def _places(self) -> Iterator[ObjectDirectory]:
        """Yield the directories in which an object may be, the likeliest first."""

    def _own(self) -> Iterable[ObjectDirectory]:
        """Return those of the directories whose objects are this session's."""
        return self._places()

    @abstractmethod
    def _elsewhere(
        self, name: str, nbytes: int, read: Read, failed: Exception | None
    ) -> memoryview | None:
        """Return an object that is not in ``_here``, or could not be read there."""

    def _ready(self) -> DirectorySession:
        if self._closed:
            raise ConnectorClosedError(repr(self))
        if not self._session.joined:
            self._session.ensure()
        return self._session

    @contextmanager
    def _edge(self, what: str, unavailable: bool = False) -> Iterator[None]:
        """Translate errors of the operating system."""
        try:
            yield
        except OSError as exc:
            raise of_system(exc, repr(self), what, unavailable) from exc

    def _put(self, frames: Sequence[Buffer], publish: str | None = None) -> Key:
        views = [raw(frame) for frame in frames]
        nbytes = sum(view.nbytes for view in views)
        name = new_name(self._ready().writer)
        with self._edge(f"an object of {nbytes} B could not be written"):
            self._objects.put(name, views, publish=publish)
        return self._key(name, nbytes)

    def _key(self, name: str, nbytes: int) -> Key:
        key: Key = self._key_type(name, nbytes)
        return key

    @override
    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        return self._put(frames)

    @override
    def new_key(self, obj: Buffer | None = None) -> Key:
        return self._key(new_name(self._ready().writer), UNKNOWN_SIZE)

    @override
    def set(self, key: Key, obj: Buffer) -> None:
        self.set_frames(key, [obj])

    @override
    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        name, _ = checked(key, self._key_type)
        self._put(frames, name)

    def _read(self, key: Key, read: Read) -> memoryview | None:
        name, nbytes = checked(key, self._key_type)
        self._ready()
        try:  # without _edge, which would slow reads down
            try:
                if (view := read(self._here, name, nbytes)) is not None:
                    return view
            except (OSError, WireError) as exc:
                return self._elsewhere(name, nbytes, read, exc)
            return self._elsewhere(name, nbytes, read, None)
        except OSError as exc:
            raise of_system(exc, repr(self), f"{key!r} could not be read") from exc

    @override
    def get(self, key: Key) -> memoryview | None:
        return self._read(key, ObjectDirectory.get)

    @override
    def take(self, key: Key) -> memoryview | None:
        return self._read(key, ObjectDirectory.take)

    @override
    def exists(self, key: Key) -> bool:
        name, _ = checked(key, self._key_type)
        return any(place.exists(name) for place in self._places())

    @override
    def link(self, key: Key) -> Key | None:
        name, nbytes = checked(key, self._key_type)
        new = new_name(self._ready().writer)
        with self._edge("a link could not be written"):
            if any(place.link(name, new) for place in self._places()):
                return self._key(new, nbytes)
        return None

    @override
    def renew(self, key: Key, seconds: float) -> bool:
        name, _ = checked(key, self._key_type)
        with self._edge("a lease could not be written"):
            return any(leases.renew(place, name, seconds) for place in self._places())

    @override
    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        gone = self._ready().gone
        names = None if known is None else {key[0] for key in known if key}
        found: list[Key] = []
        try:
            for place in self._own():
                there = leases.sweep(place, names, grace, gone)
                found += [self._key(*swept) for swept in there]
        except (ConnectorUnavailableError, OSError) as exc:
            if not self._unswept:  # of several, one is swept if another is not
                logger.warning("%r could not be swept as a whole: %s", self, exc)
            self._unswept = True
        else:
            self._unswept = False
        return found

    @override
    def usage(self) -> Usage:
        self._ready()
        usages = [leases.usage(place) for place in self._own()]
        return Usage(sum(u.objects for u in usages), sum(u.nbytes for u in usages))


def checked(key: object, kind: type[tuple[str, int]]) -> tuple[str, int]:
    """Return name and size from a key.

    Raises WireError if it is neither a key of class *kind* nor the plain tuple that a
    message makes of one.
    """
    if isinstance(key, tuple) and type(key) in (tuple, kind) and len(key) == 2:
        name, nbytes = key
        right = isinstance(name, str) and NAME.fullmatch(name)
        if right and type(nbytes) is int and nbytes >= UNKNOWN_SIZE:
            return name, nbytes
    raise WireError(f"{key!r} is not a {kind.__name__} that daskref made")
