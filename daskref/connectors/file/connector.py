"""Objects in files of a directory that many hosts may share.

Nothing relies on locks, which network file systems may not have, or lose.

Known limits: a network file system may show an object to other hosts late, by the time
for which it caches directories; :meth:`FileConnector.get` waits for it, for a bounded
time. Objects of a process that died on another host are not recognized as orphans; the
last participant's host must outlive it, or the session's directory stays and is removed
by hand.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple
from urllib.parse import SplitResult, unquote

from daskref.annotations import override
from daskref.connectors.base import Key
from daskref.connectors.file._patience import Patience
from daskref.connectors.files.connector import DirectoryConnector, Read, checked
from daskref.connectors.files.directory import ObjectDirectory
from daskref.connectors.files.folders import is_hidden, own_directories
from daskref.connectors.files.names import UNKNOWN_SIZE
from daskref.connectors.files.parts import sync_directory
from daskref.connectors.files.presence import ManyHosts
from daskref.connectors.files.session import DirectorySession
from daskref.connectors.filesystems import is_local
from daskref.exceptions import ConfigError, ConnectorUnavailableError
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
    """Store objects in a directory, on a shared file system for instance.

    Parameters
    ----------
    store_dir
        The directory; made if it does not exist.
    clear
        Whether the objects go when the last connector of the session is closed.
        ``False`` keeps them for ever.
    fsync
        What a power cut leaves: ``"never"``, whatever the system had written by then;
        ``"data"``, of each object that is seen afterwards the whole; ``"full"``, every
        object whose :meth:`put` had returned. The latter two wait for the disk.
    patience
        Seconds for which :meth:`get` looks for an object that it does not find, on a
        network file system: another host's file may appear late. A local one is asked
        once.
    session, nonce
        Of the session to take part in, from :meth:`config`; by default a new one.

    Raises
    ------
    ConfigError
        If an option is malformed.
    ConnectorUnavailableError
        If *store_dir* cannot be used, or does not have that session.

    Notes
    -----
    Objects lie in a directory of the session within *store_dir*. A connector opened
    without :meth:`config` on the same *store_dir* starts a session of its own, and
    still finds the objects of the others of this user. What else is in *store_dir*
    is never touched.

    A file is closed before it gets its name: who opens it on another host, of a network
    file system that is consistent from close to open (NFS is), reads the whole object.

    :meth:`get` returns a private mapping on a local file system, of objects from 64 KiB
    on; it reads smaller ones, and on a network file system all, because another host
    may delete them. :meth:`exists` does not wait as :meth:`get` does. A network file
    system that repeats a request whose answer was lost may tell the one whose
    :meth:`take` deleted the object that it was gone; then nobody gets it.

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

    _store_dir: str
    _clear: bool
    _fsync: str
    _patience: Patience
    _local: bool
    _made: bool

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
        self._clear, self._fsync, seconds = options.values()
        self._made = False
        self._session = self._enter(session, nonce)
        self._finalizer = weakref.finalize(self, self._session.leave)
        self._local = is_local(self._store_dir)
        self._here = self._objects = self._at(self._session.path)
        self._patience = Patience(
            (self._store_dir, self._session.path), seconds, self._local
        )
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
        self._make()
        DirectorySession.sweep(self._store_dir, liveness)
        try:
            return DirectorySession.create(self._store_dir, liveness)
        except ConnectorUnavailableError:
            self._unmake()
            raise

    def _make(self) -> None:
        with self._edge("the directory cannot be made", unavailable=True):
            self._made = not os.path.isdir(self._store_dir)
            os.makedirs(self._store_dir, exist_ok=True)

    def _unmake(self) -> None:
        if self._made:
            try:
                os.rmdir(self._store_dir)
            except OSError:
                return  # others use it
            self._made = False

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """Return the options in ``file:///directory``."""
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
        def look() -> memoryview | None:
            found = (read(place, name, nbytes) for place in self._places())
            return next((view for view in found if view is not None), None)

        # Of an object that is to come, nobody knows whether it should be there.
        return self._patience.look(look, wait=nbytes != UNKNOWN_SIZE)

    @override
    def evict(self, key: Key) -> None:
        name, _ = checked(key, FileKey)
        with self._edge(f"{key!r} could not be deleted"):
            evicted = any(place.evict(name) for place in self._places())
            if not evicted and not self._local:
                self._patience.refresh()
                any(place.evict(name) for place in self._places())

    @override
    def config(self) -> dict[str, Any]:
        return {
            "store_dir": self._store_dir,
            "clear": self._clear,
            "fsync": self._fsync,
            "patience": self._patience.seconds,
            "session": os.path.basename(self._session.path),
            "nonce": self._session.nonce,
        }

    def close(self, clear: bool | None = None) -> None:
        """See :meth:`Connector.close`.

        Parameters
        ----------
        clear
            Goes before what the session's connectors were made with, as in ProxyStore,
            when the last of them is closed.

        Raises
        ------
        ConnectorError
            If *clear* cannot be written down for the others; this one is closed.
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
