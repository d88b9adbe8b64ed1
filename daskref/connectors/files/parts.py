"""Hidden files into which objects are written before a rename publishes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daskref.connectors.files._mapping import SharedMapping, can_populate
from daskref.connectors.files.locks import (
    EXCLUSIVE,
    check_alone,
    names,
    open_plain,
    try_lock,
    unlock,
)
from daskref.connectors.files.names import PART
from daskref.connectors.files.recycling import (
    SMALLEST,
    KeptMappings,
    Pool,
    discard,
    unlink,
)
from daskref.connectors.files.writing import is_mapped, write_file, write_mapped


@dataclass(slots=True)
class Part:
    """The hidden file of an object that is being written."""

    name: str
    path: str
    #: Open for reading and writing; -1 once it is closed.
    fd: int
    #: Size of the object.
    nbytes: int
    #: All pages of these first bytes exist.
    existing: int
    #: Whether its exclusive lock is held.
    locked: bool

    @property
    def inode(self) -> int:
        """Inode of the open file."""
        return os.fstat(self.fd).st_ino

    def close(self) -> None:
        """Close the file. A second call is silent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(eq=False, repr=False)
class Parts:
    """The objects of one directory that are being written.

    Notes
    -----
    With a pool, the writer of a part holds its exclusive lock, so that other processes
    can tell whether the writer is alive. A small object is written at once and not
    recycled: it needs no lock, unless it comes from another host.
    """

    #: The directory; it exists.
    _path: str
    _pool: Pool | None
    _kept: KeptMappings | None
    _fsync: str

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def start(
        self,
        name: str,
        nbytes: int,
        room: Callable[[int], bool] = lambda nbytes: True,
        mark: str = PART,
    ) -> Part | None:
        """Make the hidden file of an object; return ``None`` if *room* finds none.

        *mark* is the prefix of the name until the object is published.
        """
        check_alone(self._path)
        path = self._at(mark + name)
        claim = None
        if self._pool is not None and self._kept is not None and nbytes >= SMALLEST:
            self._kept.prune(self._pool)
            claim = self._pool.claim(nbytes, path, self._kept.inodes())
        if claim is not None:
            return Part(name, path, claim.fd, nbytes, claim.nbytes, True)
        locks = self._pool is not None and (nbytes >= SMALLEST or mark != PART)
        if not room(nbytes):
            return None
        fd = open_plain(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if locks:
                try_lock(fd, EXCLUSIVE)
            return Part(name, path, fd, nbytes, 0, locks)
        except BaseException:
            os.close(fd)
            unlink(path)
            raise

    def resume(self, name: str, nbytes: int, mark: str) -> Part | None:
        """Return the hidden file of a writer that died; see :meth:`start`.

        Returns ``None`` if there is none, or another process has it.
        """
        path = self._at(mark + name)
        try:
            fd = open_plain(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        locks = self._pool is not None
        if (not locks or try_lock(fd, EXCLUSIVE)) and names(path, fd):
            return Part(name, path, fd, nbytes, 0, locks)
        os.close(fd)
        return None

    def finish(
        self,
        part: Part,
        mapping: SharedMapping | None = None,
        publish: str | None = None,
    ) -> None:
        """Publish a written object. On an error, the caller calls :meth:`abandon`.

        *mapping*: kept for the next write to the file, if the object was written
        through it. *publish*: the name, if not the part's own.
        """
        path = self._at(publish or part.name)
        if self._fsync != "never":
            os.fdatasync(part.fd)
        if part.locked:
            os.utime(part.fd)
            # Before publishing: a reader that sees the name does not have to wait.
            unlock(part.fd)
        inode = None if mapping is None else part.inode
        # Before publishing: a network file system sends the bytes, and finds that they
        # do not fit, when the file is closed.
        part.close()
        reveal(part.path, path)
        if self._fsync == "full":
            try:
                sync_directory(self._path)
            except BaseException:
                unlink(path)
                raise
        if mapping is not None and inode is not None and self._kept is not None:
            self._kept.keep(inode, mapping, path)

    def abandon(self, part: Part) -> None:
        """Delete what was written of an object."""
        try:
            if not part.locked:
                unlink(part.path)
                return
            if part.fd >= 0:
                unlock(part.fd)
            discard(part.path)
        finally:
            part.close()

    def map_part(self, part: Part) -> SharedMapping | None:
        """Map the hidden file for writing, if that is faster.

        Returns
        -------
        SharedMapping or None
            The file has its final length. Pages that are not populated must be made by
            ``populate`` first, which reports a full file system; touching them would
            kill the process.
        """
        if self._kept is None or not is_mapped(part.nbytes, part.existing):
            return None
        if not can_populate():
            return None
        kept = self._kept.pop(part.inode, part.nbytes) if part.existing else None
        mapping = kept or SharedMapping(part.fd, part.nbytes)
        # Another process may have cut the file short meanwhile.
        mapping.populated = min(mapping.populated, part.existing)
        os.ftruncate(part.fd, part.nbytes)
        return mapping

    def write(self, part: Part, views: Sequence[memoryview]) -> SharedMapping | None:
        """Write all bytes of an object; return the mapping for :meth:`finish`, if any.

        Raises OSError with ENOSPC when the file system is full.
        """
        mapping = self.map_part(part)
        if mapping is None:
            if part.nbytes < part.existing:
                os.ftruncate(part.fd, part.nbytes)
            write_file(part.fd, views)
        else:
            write_mapped(mapping, part.fd, views, part.existing)
        return mapping


def reveal(hidden: str, path: str) -> None:
    """Rename a written file to its published name."""
    try:
        os.rename(hidden, path)
    except FileNotFoundError:
        # A network file system that lost the reply has asked again: it was done.
        if not os.path.lexists(path):
            raise


def sync_directory(path: str) -> None:
    """Flush the names in a directory to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
