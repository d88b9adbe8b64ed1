"""A directory of objects, one file each."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from daskref.connectors.locks import (
    EXCLUSIVE,
    SHARED,
    names,
    open_plain,
    try_lock,
    unlock,
)
from daskref.connectors.memory import SharedMapping, can_populate, private_view
from daskref.connectors.parked import ParkedMappings
from daskref.connectors.reading import read_whole
from daskref.connectors.segments import SMALLEST, KeptMappings, Pool, discard, unlink
from daskref.connectors.writing import is_mapped, write_file, write_mapped
from daskref.exceptions import WireError

#: What objects are called; the first digits are their writer's.
NAME = re.compile("[0-9a-f]{8}-[0-9a-f]{24}")
#: What stands before the name: of an object's lease, and while it is written.
LEASE, PART = "l-", ".w-"
#: While it is fetched from another host, and of the file that says how far it is;
#: while another host sends it.
ARRIVING, ARRIVAL, PUSHED = ".f-", "f-", ".u-"
#: What stands after the name, in an empty file, where ProxyStore may read the object.
READY = ".ready"
#: Smaller files are read: to map one costs more, unless it may be written again.
_WORTH_MAPPING = 64 * 2**10
#: In keys of objects that were not there yet when the key was made.
UNKNOWN_SIZE = -1
#: Seconds after which a lock that should be held for microseconds is an error.
_STUCK = 30.0
#: What a full disk says, or a process that may not have more memory.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM})


def new_name(writer: str) -> str:
    """Return a name for a new object of the writer with these 8 digits."""
    return f"{writer}-{os.urandom(12).hex()}"


def checked(key: object, kind: type[tuple[str, int]]) -> tuple[str, int]:
    """Return name and size from a key.

    A plain tuple will do: that is what a key is after a message of Dask's.

    Raises
    ------
    WireError
        If it is not a key of this kind, or not one that daskref made.
    """
    if isinstance(key, tuple) and type(key) in (tuple, kind) and len(key) == 2:
        name, nbytes = key
        right = isinstance(name, str) and NAME.fullmatch(name)
        if right and type(nbytes) is int and nbytes >= UNKNOWN_SIZE:
            return name, nbytes
    raise WireError(f"{key!r} is not a {kind.__name__} that daskref made")


class Part(NamedTuple):
    """The hidden file of an object that is being written."""

    name: str
    path: str
    #: Open for reading and writing.
    fd: int
    #: Size of the object.
    nbytes: int
    #: All pages of these first bytes exist.
    existing: int
    inode: int


class ObjectDirectory:
    """Objects in one directory: whole or not there, unchanged once published.

    Parameters
    ----------
    path
        The directory; it exists.
    pool, kept
        Where evicted files go to be written again; ``None`` to delete them. Then
        readers need no locks.
    parked
        Where mappings go to be read again, if anywhere.
    mapped
        Whether :meth:`get` maps files; otherwise it reads them.
    fsync
        What is on the disk once :meth:`put` has returned: ``"never"``, ``"data"`` or
        ``"full"``. Only without a pool.

    Notes
    -----
    A writer fills a hidden file, with a pool under an exclusive lock, and publishes it
    by rename. With a pool, a reader opens by name, takes a shared lock, then looks
    whether the name still means the file it holds: if so, nobody recycles the file
    before the lock ends.
    """

    path: str
    pool: Pool | None
    kept: KeptMappings | None
    parked: ParkedMappings | None
    mapped: bool
    fsync: str

    def __init__(
        self,
        path: str,
        *,
        pool: Pool | None = None,
        kept: KeptMappings | None = None,
        parked: ParkedMappings | None = None,
        mapped: bool = True,
        fsync: str = "never",
    ) -> None:
        self.fsync = fsync
        self.path = path
        self.pool = pool
        self.kept = kept
        self.parked = parked
        self.mapped = mapped

    def at(self, name: str) -> str:
        """Return the path of a file in the directory."""
        return f"{self.path}/{name}"

    # Writing.

    def put(
        self,
        name: str,
        views: Sequence[memoryview],
        room: Callable[[int], bool] = lambda nbytes: True,
        publish: str | None = None,
    ) -> bool:
        """Write an object.

        Parameters
        ----------
        name
            From :func:`new_name`.
        views
            Its bytes.
        room
            nbytes -> whether a new file of this size may be made.
        publish
            The name that readers look for, if another process chose it. *name* is the
            writer's own: whoever sweeps must see who is writing.

        Returns
        -------
        bool
            False if there was no room.

        Raises
        ------
        OSError
            Nothing remains of the object then.
        """
        nbytes = sum(view.nbytes for view in views)
        if self.pool is None or nbytes < SMALLEST:  # no file is recycled for it
            if not room(nbytes):
                return False
            self._put_new(self.at(PART + name), self.at(publish or name), views)
            return True
        part = self.start(name, nbytes, room)
        if part is None:
            return False
        try:
            mapping = self._write(part, views)
            self.finish(part, mapping, publish)
        except BaseException:
            self.abandon(part)
            raise
        os.close(part.fd)
        return True

    def _put_new(self, part: str, path: str, views: Sequence[memoryview]) -> None:
        fd = open_plain(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                write_file(fd, views)
                if self.fsync != "never":
                    os.fdatasync(fd)
            finally:
                # Before publishing: a network file system sends the bytes, and finds
                # that they do not fit, when the file is closed.
                os.close(fd)
            _publish(part, path)
        except BaseException:
            unlink(part)
            raise
        if self.fsync == "full":
            try:
                sync_directory(self.path)
            except BaseException:
                unlink(path)
                raise

    def start(
        self,
        name: str,
        nbytes: int,
        room: Callable[[int], bool] = lambda nbytes: True,
        mark: str = PART,
    ) -> Part | None:
        """Make the hidden file of an object that is to be written.

        Parameters
        ----------
        name, room
            See :meth:`put`.
        nbytes
            Size of the object.
        mark
            What stands before the name meanwhile.

        Returns
        -------
        Part or None
            Its exclusive lock is held. ``None`` if there was no room.
        """
        path = self.at(mark + name)
        claim = None
        if self.pool is not None and self.kept is not None:
            self.kept.prune(self.pool)
            if nbytes >= SMALLEST:
                claim = self.pool.claim(nbytes, path, self.kept.inodes())
        if claim is not None:
            return Part(name, path, claim.fd, nbytes, claim.nbytes, claim.inode)
        if not room(nbytes):
            return None
        fd = open_plain(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if self.pool is not None:
                try_lock(fd, EXCLUSIVE)
            return Part(name, path, fd, nbytes, 0, os.fstat(fd).st_ino)
        except BaseException:
            os.close(fd)
            unlink(path)
            raise

    def resume(self, name: str, nbytes: int, mark: str) -> Part | None:
        """Return the hidden file that a process left when it died; see :meth:`start`.

        Returns
        -------
        Part or None
            ``None`` if it is not there, or someone has it.
        """
        path = self.at(mark + name)
        try:
            fd = open_plain(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        if (self.pool is None or try_lock(fd, EXCLUSIVE)) and names(path, fd):
            return Part(name, path, fd, nbytes, 0, os.fstat(fd).st_ino)
        os.close(fd)
        return None

    def finish(
        self,
        part: Part,
        mapping: SharedMapping | None = None,
        publish: str | None = None,
    ) -> None:
        """Publish a written object; the caller closes the descriptor.

        Parameters
        ----------
        part
            From :meth:`start`.
        mapping
            Through which it was written, to be kept.
        publish
            See :meth:`put`.
        """
        path = self.at(publish or part.name)
        os.utime(part.fd)
        if self.pool is not None:
            # Before publishing: no reader who sees the name has to wait.
            unlock(part.fd)
        _publish(part.path, path)
        if mapping is not None and self.kept is not None:
            self.kept.keep(part.inode, mapping, path)

    def abandon(self, part: Part) -> None:
        """Delete what was written of an object, and close the descriptor."""
        try:
            if self.pool is not None:
                unlock(part.fd)
            discard(part.path)
        finally:
            os.close(part.fd)

    def map_part(self, part: Part) -> SharedMapping | None:
        """Map the hidden file for writing, if that is the faster way.

        Returns
        -------
        SharedMapping or None
            The file has its length then. Before pages are touched that are not
            populated, ``populate`` has to make them: that reports a full file system,
            where touching them would kill the process.
        """
        if self.kept is None or not is_mapped(part.nbytes, part.existing):
            return None
        if not can_populate():
            return None
        kept = self.kept.pop(part.inode, part.nbytes) if part.existing else None
        mapping = kept or SharedMapping(part.fd, part.nbytes)
        # Another process may have cut the file short meanwhile.
        mapping.populated = min(mapping.populated, part.existing)
        os.ftruncate(part.fd, part.nbytes)
        return mapping

    def _write(self, part: Part, views: Sequence[memoryview]) -> SharedMapping | None:
        mapping = self.map_part(part)
        if mapping is None:
            if part.nbytes < part.existing:
                os.ftruncate(part.fd, part.nbytes)
            write_file(part.fd, views)
        else:
            write_mapped(mapping, part.fd, views, part.existing)
        return mapping

    # Reading.

    def _open(self, name: str) -> int | None:
        path = self.at(name)
        deadline = None
        while True:
            try:
                fd = open_plain(path)
            except FileNotFoundError:
                return None
            try:
                if self.pool is None or try_lock(fd, SHARED):
                    # 1. We open the file. 2. Another evicts it. 3. Another writes an
                    # object into its pages. 4. We lock it: the name tells.
                    if self.pool is None or names(path, fd):
                        return fd
                    unlock(fd)
                elif names(path, fd):
                    # Someone is deleting it at this moment.
                    deadline = deadline or time.monotonic() + _STUCK
                    if time.monotonic() > deadline:
                        raise OSError(errno.EDEADLK, "a stopped process has it locked")
                    time.sleep(0.0005)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def get(self, name: str, nbytes: int) -> memoryview | None:
        """Return an object; ``None`` if it is not here.

        Raises
        ------
        WireError
            If the file has another size than *nbytes*, where that is known.
        OSError
            If it cannot be read.
        """
        if self.pool is not None and self.kept is not None:
            self.kept.prune(self.pool)
        fd = self._open(name)
        if fd is None:
            return None
        keep_lock = False
        try:
            there = os.fstat(fd).st_size
            if nbytes == UNKNOWN_SIZE:
                nbytes = there
            if there != nbytes:
                raise WireError(
                    f"{self.at(name)} has {there} bytes, its key says {nbytes}: it "
                    "was not written by daskref, or was changed since"
                )
            if not nbytes:
                return memoryview(bytearray())
            if self.mapped and (self.pool is not None or nbytes >= _WORTH_MAPPING):
                try:
                    if self.parked is not None:
                        view = self.parked.view(fd, nbytes, self.at(name))
                    else:
                        view = private_view(fd, nbytes)
                except OSError as exc:
                    if exc.errno not in (errno.ENOMEM, errno.ENODEV, errno.EAGAIN):
                        raise
                else:
                    keep_lock = True
                    return view
            return read_whole(fd, nbytes)
        finally:
            if not keep_lock and self.pool is not None:
                unlock(fd)
            os.close(fd)

    def exists(self, name: str) -> bool:
        """Tell whether the object is here."""
        return os.path.lexists(self.at(name))

    # Deleting, linking.

    def evict(self, name: str) -> bool:
        """Delete an object and its lease; whether this very call deleted it."""
        evicted = self._evict(self.at(name))
        if evicted:
            unlink(self.at(LEASE + name))
        return evicted

    def _evict(self, path: str) -> bool:
        if self.pool is None:
            evicted = unlink(path)
            if evicted:
                unlink(path + READY)
            return evicted
        try:
            there = os.lstat(path)
            if there.st_nlink == 1 and self.pool.add(
                path, there.st_size, time.time_ns()
            ):
                return True
        except FileNotFoundError:
            return False
        return discard(path)

    def take(self, name: str, nbytes: int) -> memoryview | None:
        """Return an object and delete it; ``None`` if it is not here, for this caller.

        Raises as :meth:`get` does. The name goes in one atomic step of the file system,
        which tells whose step it was.
        """
        view = self.get(name, nbytes)
        return view if view is not None and self.evict(name) else None

    def link(self, name: str, new: str) -> bool:
        """Give the object another name; False if it is not here."""
        fd = self._open(name)
        if fd is None:
            return False
        try:
            os.link(self.at(name), self.at(new), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            return False  # this file system has no links
        finally:
            if self.pool is not None:
                unlock(fd)
            os.close(fd)
        return True


def sync_directory(path: str) -> None:
    """Bring the names in a directory to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _publish(part: str, path: str) -> None:
    try:
        os.rename(part, path)
    except FileNotFoundError:
        # A network file system that lost the reply has asked again: it was done.
        if not os.path.lexists(path):
            raise
