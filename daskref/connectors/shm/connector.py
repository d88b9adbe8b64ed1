"""Objects in shared memory: plain files on a tmpfs, mapped by each reader.

Known limits: mapped pages count towards a process's resident size, as ``RssShmem`` in
``/proc/<pid>/status``. Only processes that share the tmpfs see an object: those of one
host, and of one container unless containers share ``/dev/shm``. If the last process of
a session is killed, the session stays until the same user starts another one on that
host, unless :meth:`SharedMemoryConnector.outlive` was called.
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
from daskref.connectors.files.presence import OneHost
from daskref.connectors.files.session import DirectorySession, sweep_at_end
from daskref.connectors.shm._room import Tiers
from daskref.connectors.shm._spill import sweep_spills
from daskref.connectors.space import Footprint, Space
from daskref.units import parse_seconds, parse_share

_ROOT = "/dev/shm"
#: Attempts to remove a session without participants; seconds between two.
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
        A session's directory, to take part in that session, or a directory in which to
        make a new session; by default a new session in *root*.
    nonce
        Of the session at *directory*, from :meth:`config`: another session is refused.
    root
        Where to make a new session without *directory*: ``/dev/shm`` by default.
    budget
        The room for objects: a fraction (0.8, "80%") of the tmpfs, including files of
        others, and of half of the memory of container or machine; or bytes ("4 GiB")
        for this session. Objects beyond the budget go to disk, and so do those that
        would leave little more than a fifth of the memory available. When less is
        available, objects in memory are moved to disk, longest unused first.
    recycle
        Evicted objects whose memory is kept for new objects, which is several times as
        fast as new memory: a fraction of the budget, or a size; 0 for none. It is freed
        first when the budget or the machine's memory runs short.
    recycle_idle
        Seconds after which unused memory of evicted objects is freed.
    spill_directory
        Where objects beyond the budget go; by default the directory for temporary
        files.
    create
        Make the session at *directory* with this *nonce* if it does not exist; the
        first of several processes makes it.

    Raises
    ------
    ConfigError
        If an option is malformed.
    ConnectorUnavailableError
        If there is no such session, or no directory for a new one.

    Notes
    -----
    :meth:`get` returns a private mapping, for any size in less than a millisecond:
    writable, and writes stay with the caller. Making a new session removes this user's
    sessions without participants.

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
        self._objects = self.tiers = Tiers(
            repr(self), self._session, limit, recycled, idle, self._spill_root
        )
        self._here = self.tiers.memory
        self._finalizer = weakref.finalize(self, _leave, self._session, self.tiers)

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
        """Remove this user's sessions without participants.

        Parameters
        ----------
        root, spill_directory
            As for a connector.
        remove
            False: only list the directories.

        Returns
        -------
        list of str
            The directories that were removed, or would be.
        """
        root = os.fspath(root or _ROOT)
        spills = os.fspath(spill_directory or tempfile.gettempdir())
        if remove:
            ended = DirectorySession.sweep(root, OneHost())
        else:
            ended = swept(own_directories(root), OneHost().has_ended)
        return ended + sweep_spills(spills, remove)

    @staticmethod
    def sweep_at_end(root: str | os.PathLike[str] | None = None) -> None:
        """Remove sessions without participants when this process and its children end.

        Every process that takes part in a session does so anyway.
        """
        sweep_at_end(os.fspath(root or _ROOT))

    @classmethod
    @override
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        return {"directory": unquote(url.path)} if url.path.strip("/") else {}

    @property
    def directory(self) -> str:
        """The session's directory."""
        return self._session.path

    @property
    def session(self) -> DirectorySession:
        """The part of this process in the session."""
        return self._ready()

    @property
    def overflows(self) -> int:  # type: ignore[override]
        """Number of this process's objects that went to disk."""
        return self.tiers.overflows

    @override
    def _places(self) -> Iterator[ObjectDirectory]:
        self._ready()
        return iter(self.tiers)

    def lend(self, key: Key) -> memoryview | None:
        """Return an object read-only, to be sent; see :meth:`get`."""
        return self._read(key, ObjectDirectory.lend)

    @override
    def _elsewhere(
        self, name: str, nbytes: int, read: Read, failed: Exception | None
    ) -> memoryview | None:
        if failed is not None:
            raise failed
        disk = self.tiers.spill.find()
        return None if disk is None else read(disk, name, nbytes)

    @override
    def evict(self, key: Key) -> None:
        name, _ = checked(key, SharedMemoryKey)
        with self._edge(f"{name} could not be deleted"):
            for tier in self._places():  # it may have been moved, and set again
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
        return self.tiers.space()

    @override
    def footprints(self, keys: Iterable[Key]) -> list[Footprint | None]:
        self._ready()
        return self.tiers.footprints([checked(k, SharedMemoryKey)[0] for k in keys])

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
    """Wait until no process takes part in the session at *path*, then remove it."""
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
        time.sleep(_REMOVAL)  # a process has just joined
