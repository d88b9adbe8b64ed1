"""A directory of objects, one file each."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field

from daskref.connectors.files._mapping import (
    SharedMapping,
    map_holder,
    private_view,
    unmap,
    view_of,
)
from daskref.connectors.files.locks import SHARED, names, open_within, try_lock, unlock
from daskref.connectors.files.names import LEASE, UNKNOWN_SIZE
from daskref.connectors.files.parked import ParkedMappings
from daskref.connectors.files.parts import Parts
from daskref.connectors.files.recycling import KeptMappings, Pool, discard, unlink
from daskref.exceptions import WireError

#: Bytes: smaller files are read, which costs less, unless they may be recycled.
_WORTH_MAPPING = 64 * 2**10
#: Seconds after which a lock that should be held for microseconds is an error.
STUCK = 30.0


@dataclass(eq=False, repr=False)
class ObjectDirectory:
    """Objects in one directory, each visible as a whole or not at all, and immutable.

    Notes
    -----
    A writer fills a hidden file, under an exclusive lock if there is a pool, and
    publishes it by rename. With a pool, a reader opens the file by name, takes a shared
    lock, and then checks that the name still means this file: if so, no writer recycles
    the file before the lock ends.
    """

    #: The directory; it exists.
    path: str
    _: KW_ONLY
    #: Recycles evicted files; without one, they are deleted and readers take no locks.
    pool: Pool | None = None
    kept: KeptMappings | None = None
    #: Keeps mappings for the next read.
    parked: ParkedMappings | None = None
    #: Whether :meth:`get` maps files; otherwise it reads them.
    mapped: bool = True
    #: What :meth:`put` flushes to the disk before returning: ``"never"``, ``"data"`` or
    #: ``"full"``. Only without a pool.
    fsync: str = "never"
    #: (name) -> None: called after :meth:`evict` has deleted an object.
    deleted: Callable[[str], None] | None = None
    #: The objects that are being written.
    parts: Parts = field(init=False)

    def __post_init__(self) -> None:
        self.parts = Parts(self.path, self.pool, self.kept, self.fsync)

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
        """Write an object; return False if *room* refuses it.

        Parameters
        ----------
        name
            From :func:`new_name`.
        room
            nbytes -> whether a new file of this size may be made.
        publish
            The name that readers look for, if another process chose it. *name* still
            contains the writer's digits, which :func:`leases.sweep` looks at.

        Raises
        ------
        OSError
            Nothing remains of the object.
        """
        nbytes = sum(view.nbytes for view in views)
        part = self.parts.start(name, nbytes, room)
        if part is None:
            return False
        try:
            mapping = self.parts.write(part, views)
            self.parts.finish(part, mapping, publish)
        except BaseException:
            self.parts.abandon(part)
            raise
        return True

    # Reading.

    def _open(self, name: str) -> int | None:
        path = self.at(name)
        deadline = None
        while True:
            try:
                fd = open_within(self.path, name)
            except FileNotFoundError:
                return None
            try:
                if self.pool is None or try_lock(fd, SHARED):
                    # 1. We open the file. 2. Another evicts it. 3. Another writes an
                    # object into its pages. 4. We lock it: the name is another file's.
                    if self.pool is None or names(path, fd):
                        return fd
                    unlock(fd)
                elif names(path, fd):
                    # Another process is deleting or moving it.
                    deadline = deadline or time.monotonic() + STUCK
                    if time.monotonic() > deadline:
                        raise OSError(errno.EDEADLK, "a stopped process has it locked")
                    time.sleep(0.0005)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def lend(self, name: str, nbytes: int) -> memoryview | None:
        """Return an object read-only, to be sent; see :meth:`get`.

        If this process wrote the object, the view uses the mapping through which it
        did.
        """
        return self._read(name, nbytes, self._lent)

    def get(self, name: str, nbytes: int) -> memoryview | None:
        """Return an object; ``None`` if there is none.

        Raises WireError if the file has another size than *nbytes*, unless that is
        ``UNKNOWN_SIZE``; OSError if it cannot be read.
        """
        return self._read(name, nbytes, self._private)

    def _private(self, fd: int, nbytes: int, path: str) -> memoryview:
        if self.parked is not None:
            return self.parked.view(fd, nbytes, path)
        return private_view(fd, nbytes)

    def _lent(self, fd: int, nbytes: int, path: str) -> memoryview:
        inode = os.fstat(fd).st_ino
        kept = None if self.kept is None else self.kept.peek(inode, nbytes)
        if kept is None:
            return private_view(fd, nbytes).toreadonly()
        # The holder's lock keeps writers from recycling or truncating the file.
        return view_of(kept.address, nbytes, _let_go, kept, map_holder(fd)).toreadonly()

    def _read(
        self, name: str, nbytes: int, map_it: Callable[[int, int, str], memoryview]
    ) -> memoryview | None:
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
                    view = map_it(fd, nbytes, self.at(name))
                except OSError as exc:
                    if exc.errno not in (errno.ENOMEM, errno.ENODEV, errno.EAGAIN):
                        raise
                else:
                    keep_lock = True
                    return view
            return _read_whole(fd, nbytes)
        finally:
            if not keep_lock and self.pool is not None:
                unlock(fd)
            os.close(fd)

    def exists(self, name: str) -> bool:
        """Tell whether the object is here."""
        return os.path.lexists(self.at(name))

    # Deleting, linking.

    def evict(self, name: str) -> bool:
        """Delete an object and its lease; return whether this call deleted it."""
        evicted = self._evict(self.at(name))
        if evicted:
            unlink(self.at(LEASE + name))
            if self.deleted is not None:
                self.deleted(name)
        return evicted

    def _evict(self, path: str) -> bool:
        if self.pool is None:
            return unlink(path)
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
        """Return an object and delete it; ``None`` if another caller did.

        Raises as :meth:`get` does. Removing the name is one atomic step, which exactly
        one caller completes.
        """
        view = self.get(name, nbytes)
        return view if view is not None and self.evict(name) else None

    def link(self, name: str, new: str) -> bool:
        """Give the object another name; return False if there is no such object."""
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


def new_name(writer: str) -> str:
    """Return a name for a new object of the participant *writer*."""
    return f"{writer}-{os.urandom(12).hex()}"


def _let_go(kept: SharedMapping, holder: int) -> None:
    """Unlock the file of a view from :meth:`ObjectDirectory.lend`. For finalizers."""
    unmap(holder, mmap.PAGESIZE)


def _read_whole(fd: int, nbytes: int) -> memoryview:
    """Read a file that cannot be mapped. Raises WireError if it is too short."""
    # Not bytes: the result is writable, as a mapping is.
    view = memoryview(bytearray(nbytes))
    done = 0
    while done < nbytes:
        count = os.preadv(fd, [view[done : done + 2**28]], done)
        if not count:
            raise WireError(f"a file ended after {done} of {nbytes} bytes")
        done += count
    return view
