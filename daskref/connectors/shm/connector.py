"""Objects in shared memory: plain files on a tmpfs, mapped by whoever reads them.

Known limits: pages that a process maps count into its resident size, as ``RssShmem``
in ``/proc/<pid>/status``. An object is seen by processes that share the tmpfs: one
host, and one container unless containers share ``/dev/shm``. A session whose last
process was killed stays until the next one of the same user starts on that host.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from threading import Lock
from typing import Any, ClassVar, NamedTuple
from urllib.parse import SplitResult, unquote

from daskref.annotations import override
from daskref.background import forget_in_child
from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key, Usage
from daskref.connectors.buffers import raw
from daskref.connectors.files import leases
from daskref.connectors.files.directory import FULL, ObjectDirectory
from daskref.connectors.files.folders import read_identity
from daskref.connectors.files.names import UNKNOWN_SIZE, checked, new_name
from daskref.connectors.files.parked import ParkedMappings
from daskref.connectors.files.pieces import Pieces
from daskref.connectors.files.presence import OneHost
from daskref.connectors.files.recycling import KeptMappings, Pool, discard
from daskref.connectors.files.session import DirectorySession, sweep_at_end
from daskref.connectors.shm._moving import Mover
from daskref.connectors.shm._room import Budget, Spill, sweep_spills
from daskref.connectors.space import Space, left, of_deleted, of_objects
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
)
from daskref.units import parse_seconds, parse_share

_ROOT = "/dev/shm"

logger = logging.getLogger(__name__)


class SharedMemoryKey(NamedTuple):
    """Key of an object in shared memory."""

    #: Of the file: 8 hexadecimal digits of its writer, 24 of its own.
    name: str
    #: Size of the object in bytes; -1 if it came after the key.
    nbytes: int


class SharedMemoryConnector(Connector, DeferrableConnector):
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

    _session: DirectorySession
    _memory: ObjectDirectory
    _spill: Spill
    _mover: Mover
    _budget: Budget
    _pool: Pool
    _spill_root: str
    _options: dict[str, Any]
    _closed: bool
    #: Whether the last sweep failed somewhere, which was said.
    _unswept: bool
    _lock: Lock

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
        self._closed = False
        self._unswept = False
        self._lock = Lock()
        path = self._session.path
        self._budget = Budget(path, limit)
        share = partial(self._budget.share, recycled)
        parked = ParkedMappings(share)
        self._pool = Pool(os.path.join(path, "free"), share, idle)
        self._memory = ObjectDirectory(
            path, pool=self._pool, kept=KeptMappings(share), parked=parked
        )
        self._spill = Spill(self._session, self._spill_root)
        self._mover = Mover(self._memory, self._pool, self._spill)
        self._memory.deleted = self._mover.settle
        self._finalizer = weakref.finalize(
            self, _leave, self._session, parked, self._pool, self._mover
        )
        forget_in_child(self)

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
    ) -> list[str]:
        """Remove this user's sessions that no process takes part in.

        Parameters
        ----------
        root, spill_directory
            As a connector has them.

        Returns
        -------
        list of str
            The directories that were removed.
        """
        removed = DirectorySession.sweep(os.fspath(root or _ROOT), OneHost())
        return removed + sweep_spills(
            os.fspath(spill_directory or tempfile.gettempdir())
        )

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

    def forget(self) -> None:
        """Use a lock of its own, in a forked child."""
        self._lock = Lock()

    @property
    def directory(self) -> str:
        """The session's directory."""
        return self._session.path

    @property
    def session(self) -> DirectorySession:
        """What this process has of the session."""
        return self._ready()

    def _ready(self) -> DirectorySession:
        if self._closed:
            raise ConnectorClosedError(repr(self))
        self._session.ensure()
        return self._session

    def _tiers(self) -> Iterator[ObjectDirectory]:
        self._ready()
        yield self._memory
        # Looked for only by who did not find it in memory.
        if (disk := self._spill.find()) is not None:
            yield disk

    @override
    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        name = new_name(self._ready().writer)
        return SharedMemoryKey(name, self._put(name, frames))

    @override
    def new_key(self, obj: Buffer | None = None) -> Key:
        return SharedMemoryKey(new_name(self._ready().writer), UNKNOWN_SIZE)

    @override
    def set(self, key: Key, obj: Buffer) -> None:
        self.set_frames(key, [obj])

    @override
    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        name, _ = checked(key, SharedMemoryKey)
        self._put(new_name(self._ready().writer), frames, name)

    def _put(
        self, name: str, frames: Sequence[Buffer], publish: str | None = None
    ) -> int:
        views = [raw(frame) for frame in frames]
        nbytes = sum(view.nbytes for view in views)
        try:
            in_memory = self._put_in_memory(name, views, publish)
        except OSError as exc:
            raise ConnectorError(
                repr(self), f"an object of {nbytes} B could not be written: {exc}"
            ) from exc
        if in_memory:
            self._mover.watch()
            return nbytes
        try:
            self._put_on_disk(name, views, publish)
        except OSError as exc:
            raise self._no_room(exc, nbytes) from exc
        return nbytes

    def start(self, name: str, nbytes: int, mark: str) -> Pieces:
        """Begin an object that is written in pieces, under a name from elsewhere.

        Parameters
        ----------
        name, mark
            See :meth:`Parts.start`.
        nbytes
            Size of the object.

        Raises
        ------
        ConnectorError
            If there is no room, or it cannot be written.
        """
        for tier in self._tiers():
            discard(tier.at(mark + name))  # what one who died has left
        tier = self._memory
        try:
            part = tier.parts.start(name, nbytes, self._room, mark)
            if part is None:
                tier = self._spill.make()
                part = tier.parts.start(name, nbytes, mark=mark)
                assert part is not None  # a disk has room until it says otherwise
            self._mover.watch()
            return Pieces(tier.parts, part)
        except OSError as exc:
            raise self._no_room(exc, nbytes) from exc

    def resume(self, name: str, nbytes: int, mark: str) -> Pieces | None:
        """Go on with an object that a process left unfinished when it died."""
        for tier in self._tiers():
            if (part := tier.parts.resume(name, nbytes, mark)) is not None:
                return Pieces(tier.parts, part)
        return None

    def _put_on_disk(
        self, name: str, views: Sequence[memoryview], publish: str | None
    ) -> None:
        disk = self._spill.make()
        disk.put(name, views, publish=publish)
        with self._lock:
            self.overflows += 1
            first = self.overflows == 1
        if first:
            logger.warning(
                "%r has no room for %d bytes within daskref.shm.budget and the memory "
                "that is left: from now on what does not fit goes to disk, in %s, "
                "which is slower. Give the host or container more memory, or shared "
                "memory more room (in a container: --shm-size), or raise the budget",
                self,
                sum(view.nbytes for view in views),
                disk.path,
            )

    def _put_in_memory(
        self, name: str, views: Sequence[memoryview], publish: str | None
    ) -> bool:
        for _ in range(2):
            try:
                return self._memory.put(name, views, self._room, publish)
            except OSError as exc:
                if exc.errno not in FULL:
                    raise
            if not self._pool.trim(sum(view.nbytes for view in views)):
                break
        return False

    def _room(self, nbytes: int) -> bool:
        lacking = self._budget.lacking(nbytes)
        if lacking and self._pool.trim(lacking):
            lacking = self._budget.lacking(nbytes)
        if lacking:
            self._mover.hurry()
        return not lacking

    def _no_room(self, exc: OSError, nbytes: int) -> ConnectorError:
        path, root = self._session.path, self._spill_root
        disk = f"{root} cannot be used ({exc.strerror})"
        if exc.errno in FULL:
            disk = f"{left(root)} B free in {root}"
        return ConnectorError(
            repr(self),
            f"no room for an object of {nbytes} B: {left(path)} B free in {path}, "
            f"with daskref.shm.budget={self._options['budget']!r}, and {disk}. Set "
            "daskref.spill-directory to a directory on a larger disk, or raise "
            "daskref.shm.budget",
        )

    @override
    def get(self, key: Key) -> memoryview | None:
        return self._find(key, ObjectDirectory.get)

    def lend(self, key: Key) -> memoryview | None:
        """Return an object to be sent: as :meth:`get` does, read-only, for a moment."""
        return self._find(key, ObjectDirectory.lend)

    @override
    def take(self, key: Key) -> memoryview | None:
        return self._find(key, ObjectDirectory.take)

    def _find(
        self,
        key: Key,
        read: Callable[[ObjectDirectory, str, int], memoryview | None],
    ) -> memoryview | None:
        name, nbytes = checked(key, SharedMemoryKey)
        try:
            found = (read(tier, name, nbytes) for tier in self._tiers())
            return next((view for view in found if view is not None), None)
        except OSError as exc:
            advice = ""
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                advice = "; raise the limit on open files (ulimit -n)"
            raise ConnectorError(
                repr(self), f"{name} could not be read: {exc.strerror}{advice}"
            ) from exc

    @override
    def exists(self, key: Key) -> bool:
        name, _ = checked(key, SharedMemoryKey)
        return any(tier.exists(name) for tier in self._tiers())

    @override
    def evict(self, key: Key) -> None:
        name, _ = checked(key, SharedMemoryKey)
        for tier in self._tiers():  # it may have been moved once, and put again
            tier.evict(name)

    @override
    def link(self, key: Key) -> Key | None:
        name, nbytes = checked(key, SharedMemoryKey)
        new = new_name(self._ready().writer)
        if any(tier.link(name, new) for tier in self._tiers()):
            return SharedMemoryKey(new, nbytes)
        return None

    @override
    def renew(self, key: Key, seconds: float) -> bool:
        name, _ = checked(key, SharedMemoryKey)
        return any(leases.renew(tier, name, seconds) for tier in self._tiers())

    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        """Delete what nobody will; a key in *known* stays even if its lease ended."""
        names = None
        if known is not None:
            names = {key[0] for key in known if key}
        found: list[Key] = []
        try:
            for tier in self._tiers():
                there = leases.sweep(tier, names, grace, self._session.gone)
                found += [SharedMemoryKey(*swept) for swept in there]
        except (ConnectorUnavailableError, OSError) as exc:
            if not self._unswept:  # of several tiers, one is swept if another is not
                logger.warning("%r could not be swept as a whole: %s", self, exc)
            self._unswept = True
        else:
            self._unswept = False
        return found

    def names(self) -> list[str]:
        """Return the names of all objects."""
        return [name for tier in self._tiers() for name in leases.names(tier)]

    @override
    def usage(self) -> Usage:
        usages = [leases.usage(tier) for tier in self._tiers()]
        return Usage(sum(u.objects for u in usages), sum(u.nbytes for u in usages))

    @override
    def space(self) -> Space:
        memory, *disk = (of_objects(tier.path) for tier in self._tiers())
        path = self._session.path
        pool, pinned = of_deleted(path)
        return Space(
            memory=sum(memory.values()),
            disk=sum(sum(sizes.values()) for sizes in disk),
            # What was deleted between two looks has been counted.
            pool=sum(pool[inode] for inode in pool.keys() - memory.keys()),
            pinned=sum(pinned[inode] for inode in pinned.keys() - memory.keys()),
            budget=self._budget.share(1.0),
            free=left(path),
            disk_free=left(self._spill_root),
        )

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


def _leave(
    session: DirectorySession, parked: ParkedMappings, pool: Pool, mover: Mover
) -> None:
    mover.close()
    pool.close()
    parked.close()
    session.leave()
