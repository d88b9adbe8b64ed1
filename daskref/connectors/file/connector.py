"""Objects in files of a directory that many hosts may share.

No method relies on file locks, which network file systems may lack or lose.

Known limits: a network file system may show a new object to other hosts only after its
directory cache expires; :meth:`FileConnector.get` waits for that, for a bounded time.
The objects of a process that died on another host do not count as orphans. If the host
of the last participant dies, the session's directory stays and must be removed by hand.
"""

from __future__ import annotations

import errno
import os
import re
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, NamedTuple
from urllib.parse import SplitResult, unquote

from daskref.annotations import override
from daskref.connectors.base import Key
from daskref.connectors.files.connector import DirectoryConnector, Read, checked
from daskref.connectors.files.directory import ObjectDirectory
from daskref.connectors.files.folders import is_hidden, own_directories
from daskref.connectors.files.names import UNKNOWN_SIZE
from daskref.connectors.files.parts import sync_directory
from daskref.connectors.files.presence import ManyHosts
from daskref.connectors.files.session import DirectorySession
from daskref.connectors.filesystems import is_local
from daskref.exceptions import ConfigError, ConnectorUnavailableError, WireError
from daskref.units import Reader, one_of, parse_flag, parse_seconds, read_options

#: What a session's directory is called.
_SESSION = re.compile("daskref-[0-9]+-[0-9a-f]+")
_READERS: dict[str, Reader] = {
    "clear": parse_flag,
    "fsync": one_of("never", "data", "full"),
    "patience": partial(parse_seconds, zero=True),
}


class FileKey(NamedTuple):
    """Key of an object in a file."""

    #: Of the file: 8 hexadecimal digits of its writer, 24 of its own.
    name: str
    #: Size of the object in bytes; -1 if it came after the key.
    nbytes: int


class FileConnector(DirectoryConnector):
    """Store objects in a directory, for example on a shared file system.

    Parameters
    ----------
    store_dir
        The directory; created if it does not exist.
    clear
        Whether the objects are deleted when the last connector of the session is
        closed. ``False`` keeps them for ever.
    fsync
        What survives a power cut. ``"never"``: whatever the system had written by then.
        ``"data"``: of each object that has its name, all bytes. ``"full"``: every
        object whose :meth:`put` had returned. The latter two wait for the disk.
    patience
        Seconds for which :meth:`get` looks for an object on a network file system,
        where another host's file may appear late. On a local file system, :meth:`get`
        looks once.
    session, nonce
        From the :meth:`config` of another connector, to take part in its session; by
        default a new session.

    Raises
    ------
    ConfigError
        If an option is malformed.
    ConnectorUnavailableError
        If *store_dir* cannot be used, or does not hold that session.

    Notes
    -----
    Each session has a directory of its own within *store_dir*. A connector that was
    opened without :meth:`config` on the same *store_dir* starts a new session and still
    finds the objects of this user's other sessions. Other files in *store_dir* are
    never touched.

    A file is closed before it is renamed to its final name. On a network file system
    with close-to-open consistency (NFS), a reader on another host therefore sees the
    whole object.

    On a local file system, :meth:`get` maps objects of 64 KiB and more privately. It
    reads smaller objects, and all objects on a network file system, where another host
    may delete a file under its mapping. :meth:`exists` does not wait as :meth:`get`
    does. If a network file system repeats a request whose answer was lost, :meth:`take`
    may return ``None`` to the caller that deleted the object; then no caller gets it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as shared:
    ...     with FileConnector(shared) as connector:
    ...         key = connector.put(b"some bytes")
    ...         bytes(connector.get(key))
    b'some bytes'
    """

    scheme: ClassVar[str] = "file"
    _key_type = FileKey

    def __init__(
        self,
        store_dir: str | os.PathLike[str],
        clear: bool | str = True,
        *,
        fsync: str = "never",
        patience: float | str = 2.0,
        session: str | None = None,
        nonce: str | None = None,
    ) -> None:
        self._store_dir = os.path.abspath(os.fspath(store_dir))
        given = {"clear": clear, "fsync": fsync, "patience": patience}
        options = read_options(_READERS, given)
        self._clear, self._fsync, self._patience = options.values()
        self._made = False
        self._session = self._enter(session, nonce)
        self._finalizer = weakref.finalize(self, self._session.leave)
        self._local = is_local(self._store_dir)
        self._here = self._objects = self._at(self._session.path)
        if session is None and fsync == "full":
            with self._edge("the session could not be written"):
                sync_directory(self._store_dir)

    def _enter(self, session: str | None, nonce: str | None) -> DirectorySession:
        liveness = ManyHosts(keep=not self._clear)
        if session is not None and not _SESSION.fullmatch(session):
            raise ConnectorUnavailableError(repr(self), "this is no session's name")
        if session is not None and nonce is not None:
            path = os.path.join(self._store_dir, session)
            return DirectorySession.join(path, nonce, liveness)
        with self._edge("the directory cannot be made", unavailable=True):
            self._made = not os.path.isdir(self._store_dir)
            os.makedirs(self._store_dir, exist_ok=True)
        DirectorySession.sweep(self._store_dir, liveness)
        try:
            return DirectorySession.create(self._store_dir, liveness)
        except ConnectorUnavailableError:
            self._unmake()
            raise

    def _unmake(self) -> None:
        if self._made:
            with suppress(OSError):  # other sessions use it
                os.rmdir(self._store_dir)
                self._made = False

    @classmethod
    @override
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        if url.netloc or not url.path:
            raise ConfigError(
                "daskref.connector", url.geturl(), "file:///an/absolute/path"
            )
        return {"store_dir": unquote(url.path)}

    @property
    def store_dir(self) -> str:
        """The directory."""
        return self._store_dir

    def _at(self, path: str) -> ObjectDirectory:
        return ObjectDirectory(path, mapped=self._local, fsync=self._fsync)

    @override
    def _places(self) -> Iterator[ObjectDirectory]:
        self._ready()
        yield self._here
        for path in own_directories(self._store_dir):
            if path != self._session.path and not is_hidden(path):
                yield self._at(path)

    @override
    def _own(self) -> Iterable[ObjectDirectory]:
        return [self._here]

    @override
    def _elsewhere(
        self, name: str, nbytes: int, read: Read, failed: Exception | None
    ) -> memoryview | None:
        # An object whose key was made first may not exist yet: do not wait for it.
        waits = not self._local and nbytes != UNKNOWN_SIZE
        deadline = time.monotonic() + (self._patience if waits else 0.0)
        pause = 0.01
        while True:
            if not self._local:
                self._refresh()
            late = time.monotonic() >= deadline
            try:
                found = (read(place, name, nbytes) for place in self._places())
                view = next((view for view in found if view is not None), None)
                if view is not None or late:
                    return view
            except WireError:
                if late:
                    raise
            except OSError as exc:
                # A stale handle: another host deleted the file.
                if late or exc.errno != errno.ESTALE:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 0.25)

    def _refresh(self) -> None:
        """Have the file system ask its server for the names in the directories."""
        for path in (self._store_dir, self._session.path):
            with suppress(OSError), os.scandir(path) as entries:
                next(entries, None)

    @override
    def evict(self, key: Key) -> None:
        name, _ = checked(key, FileKey)
        with self._edge(f"{key!r} could not be deleted"):
            evicted = any(place.evict(name) for place in self._places())
            if not evicted and not self._local:
                self._refresh()
                any(place.evict(name) for place in self._places())

    @override
    def config(self) -> dict[str, Any]:
        return {
            "store_dir": self._store_dir,
            "clear": self._clear,
            "fsync": self._fsync,
            "patience": self._patience,
            "session": os.path.basename(self._session.path),
            "nonce": self._session.nonce,
        }

    def close(self, clear: bool | None = None) -> None:
        """Close the connector; the last one of the session deletes the objects.

        Parameters
        ----------
        clear
            Replaces the session's own setting, as in ProxyStore.

        Raises
        ------
        ConnectorError
            If *clear* cannot be written for the other participants; this connector is
            closed all the same.
        """
        try:
            if clear is not None and not self._closed:
                with self._edge("the session could not be written"):
                    self._session.change(ManyHosts(keep=not clear))
        finally:
            self._closed = True
            self._finalizer()
            self._unmake()

    def __repr__(self) -> str:
        return f"<FileConnector {self._store_dir}>"
