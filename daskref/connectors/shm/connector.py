"""Objects in shared memory: plain files on a tmpfs, mapped by whoever reads them.

Known limits: pages that a process maps count into its resident size, as ``RssShmem``
in ``/proc/<pid>/status``. An object is seen by processes that share the tmpfs: one
host, and one container unless containers share ``/dev/shm``. A session whose last
process was killed stays until the next one of the same user starts on that host, unless
:meth:`SharedMemoryConnector.outlive` was called.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple
from urllib.parse import SplitResult, unquote

from daskref.annotations import override
from daskref.connectors.base import Key
from daskref.connectors.files import leases
from daskref.connectors.files.connector import DirectoryConnector, Read, checked
from daskref.connectors.files.directory import ObjectDirectory
from daskref.connectors.files.folders import own_directories, read_identity, swept
from daskref.connectors.files.locks import open_plain
from daskref.connectors.files.pieces import Pieces
from daskref.connectors.files.presence import OneHost
from daskref.connectors.files.session import DirectorySession, sweep_at_end
from daskref.connectors.shm._room import Tiers
from daskref.connectors.shm._spill import ended_spills, sweep_spills
from daskref.connectors.space import Footprint, Space
from daskref.units import parse_seconds, parse_share

_ROOT = "/dev/shm"
#: How often the removal of a session that all have left is tried, and seconds between.
_REMOVALS, _REMOVAL = 50, 0.2


class SharedMemoryKey(NamedTuple):
    """Key of an object in shared memory."""

    #: Of the file: 8 hexadecimal digits of its writer, 24 of its own.
    name: str
    #: Size of the object in bytes; -1 if it came after the key.
    nbytes: int


class SharedMemoryConnector(DirectoryConnector):
    """Store objects in a directory of this host's shared memory.

    Parameters
    ----------
    directory
        A session's directory, to take part in that session; or a directory in which to
        make a new session; by default a new session in *root*.
    nonce
        Of the session at *directory*, from :meth:`config`: refuses another one.
    root
        Where a new session is made, if no *directory* says so: ``/dev/shm`` by default.
    budget
        What may be filled: a fraction (0.8, "80%") of the tmpfs, whoever fills it, and
        of half of the memory of the container or machine; or the bytes ("4 GiB") that
        this session may take. Objects past that go to disk, and so do those that
        would leave little more than a fifth of the memory available; once there is
        less, those that are in memory go there, too, longest unused first.
    recycle
        How much of evicted objects is kept to be written again, at several times the
        speed of new memory: a fraction of the budget or a size; 0 for nothing. Given up
        first when the budget runs short, and when the machine has little memory left.
    recycle_idle
        Seconds after which what was kept, and not written again, is given back.
    spill_directory
        Where objects past the budget go; the directory for temporary files by default.
    create
        Make the session at *directory*, with this *nonce*, if it is not there: the
        first of all who do so makes it.

    Raises
    ------
    ConfigError
        If an option is malformed.
    ConnectorUnavailableError
        If there is no such session, or no place for a new one.

    Notes
    -----
    :meth:`get` returns a private mapping, whatever the size in less than a millisecond:
    writable, and writes stay with the caller. Making a new session removes those of
    this user that no process takes part in any more.

    Examples
    --------
    >>> with SharedMemoryConnector() as connector:
    ...     key = connector.put(b"some bytes")
    ...     bytes(connector.get(key))
    b'some bytes'
    """

    scheme: ClassVar[str] = "shm"
    private = True
    _key_type = SharedMemoryKey

    _tiers: Tiers
    _spill_root: str
    _options: dict[str, Any]

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        nonce: str | None = None,
        root: str | os.PathLike[str] | None = None,
        budget: float | str | None = 0.8,
        recycle: float | str | None = 0.25,
        recycle_idle: float | str = 30.0,
        spill_directory: str | os.PathLike[str] | None = None,
        create: bool = False,
    ) -> None:
        limit = parse_share(0 if budget is None else budget, "daskref.shm.budget")
        recycled = parse_share(0 if recycle is None else recycle, "daskref.shm.recycle")
        idle = parse_seconds(recycle_idle, "daskref.shm.recycle-idle", zero=True)
        self._spill_root = os.fspath(spill_directory or tempfile.gettempdir())
        self._options = {
            "budget": budget,
            "recycle": recycle,
            "recycle_idle": recycle_idle,
            "spill_directory": self._spill_root,
        }
        self._session = self._enter(
            os.fspath(directory) if directory is not None else None,
            nonce,
            os.fspath(root or _ROOT),
            create,
        )
        self._objects = self._tiers = Tiers(
            repr(self), self._session, limit, recycled, idle, self._spill_root
        )
        self._here = self._tiers.memory
        self._finalizer = weakref.finalize(self, _leave, self._session, self._tiers)

    def _enter(
        self, directory: str | None, nonce: str | None, root: str, create: bool
    ) -> DirectorySession:
        if directory is not None and nonce is not None and create:
            path = os.path.abspath(directory)
            self.sweep_sessions(os.path.dirname(path), self._spill_root)
            return DirectorySession.join_or_create(path, nonce, OneHost())
        if directory is not None and nonce is None:
            nonce = read_identity(directory).get("nonce")
            root = directory
        if directory is not None and nonce is not None:
            path = os.path.abspath(directory)
            return DirectorySession.join(path, nonce, OneHost())
        self.sweep_sessions(root, self._spill_root)
        return DirectorySession.create(root, OneHost())

    @staticmethod
    def sweep_sessions(
        root: str | os.PathLike[str] | None = None,
        spill_directory: str | os.PathLike[str] | None = None,
        *,
        remove: bool = True,
    ) -> list[str]:
        """Remove this user's sessions that no process takes part in.

        Parameters
        ----------
        root, spill_directory
            As a connector has them.
        remove
            False: only tell which ones these are.

        Returns
        -------
        list of str
            The directories that were removed, or would be.
        """
        root = os.fspath(root or _ROOT)
        spills = os.fspath(spill_directory or tempfile.gettempdir())
        if not remove:
            ended = swept(own_directories(root), OneHost().has_ended)
            return ended + ended_spills(spills)
        return DirectorySession.sweep(root, OneHost()) + sweep_spills(spills)

    @staticmethod
    def sweep_at_end(root: str | os.PathLike[str] | None = None) -> None:
        """Do the same for a root when this process ends, after its children.

        Who takes part in a session need not ask for it.
        """
        sweep_at_end(os.fspath(root or _ROOT))

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """Return the options in ``shm:///directory``."""
        return {"directory": unquote(url.path)} if url.path.strip("/") else {}

    @property
    def directory(self) -> str:
        """The session's directory."""
        return self._session.path

    @property
    def session(self) -> DirectorySession:
        """What this process has of the session."""
        return self._ready()

    @property
    def overflows(self) -> int:  # type: ignore[override]
        """How many objects of this process's went to disk."""
        return self._tiers.overflows

    @override
    def _places(self) -> Iterator[ObjectDirectory]:
        self._ready()
        return iter(self._tiers)

    def start(self, name: str, nbytes: int, mark: str) -> Pieces:
        """Begin an object that is written in pieces; see :meth:`Tiers.start`."""
        self._ready()
        return self._tiers.start(name, nbytes, mark)

    def resume(self, name: str, nbytes: int, mark: str) -> Pieces | None:
        """Go on with an object that a process left unfinished when it died."""
        self._ready()
        return self._tiers.resume(name, nbytes, mark)

    def lend(self, key: Key) -> memoryview | None:
        """Return an object to be sent: as :meth:`get` does, read-only, for a moment."""
        return self._read(key, ObjectDirectory.lend)

    @override
    def _elsewhere(
        self, name: str, nbytes: int, read: Read, failed: Exception | None
    ) -> memoryview | None:
        if failed is not None:
            raise failed
        disk = self._tiers.spill.find()
        return None if disk is None else read(disk, name, nbytes)

    @override
    def evict(self, key: Key) -> None:
        name, _ = checked(key, SharedMemoryKey)
        with self._edge(f"{name} could not be deleted"):
            for tier in self._places():  # it may have been moved once, and put again
                tier.evict(name)

    def names(self) -> list[str]:
        """Return the names of all objects."""
        return [name for tier in self._places() for name in leases.names(tier)]

    @override
    def outlive(self) -> None:
        self._session.outlive()

    @override
    def space(self) -> Space:
        self._ready()
        return self._tiers.space()

    @override
    def footprints(self, keys: Iterable[Key]) -> list[Footprint | None]:
        self._ready()
        return self._tiers.footprints([checked(k, SharedMemoryKey)[0] for k in keys])

    @override
    def config(self) -> dict[str, Any]:
        return {
            "directory": self._session.path,
            "nonce": self._session.nonce,
            **self._options,
        }

    @override
    def close(self) -> None:
        self._closed = True
        self._finalizer()

    def __repr__(self) -> str:
        return f"<SharedMemoryConnector {self._session.path}>"


def _leave(session: DirectorySession, tiers: Tiers) -> None:
    tiers.close()
    session.leave()


def remove_when_left(path: str) -> None:
    """Remove a session once no process takes part in it. Blocks until then.

    Parameters
    ----------
    path
        Its directory.
    """
    for _ in range(_REMOVALS):
        with suppress(OSError):
            lock = open_plain(os.path.join(path, OneHost.last), os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            finally:
                os.close(lock)
        SharedMemoryConnector.sweep_sessions(os.path.dirname(path))
        if not os.path.lexists(path):
            return
        time.sleep(_REMOVAL)  # somebody has just joined
