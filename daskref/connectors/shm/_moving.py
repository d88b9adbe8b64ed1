"""Move objects from memory to disk, oldest first, when memory runs low.

A put that would leave too little memory goes to disk. Objects in memory stay there
while the workers' own memory grows; the kernel cannot reclaim them and kills a process
instead. So each process that has put an object checks the memory regularly, and one
process at a time moves objects.

An object keeps its names, and a reader that looks in memory first and then on disk
always finds it:

1. The mover copies it to a hidden file on disk, under a shared lock like a reader's, so
that its file is not recycled. That takes only a small buffer of memory.
2. The mover takes the exclusive lock: from here on the object has no readers.
3. A second, hidden name in memory marks the object as being moved.
4. The copy gets the object's name.
5. The name in memory is removed. If another process removed it first, the object was
deleted, and the copy is deleted as well.
6. The pages are freed, and the hidden name is removed.

A process that deletes the object meanwhile waits until the hidden name is gone, see
:meth:`Mover.settle`: then no copy is left. If the mover dies, the hidden name stays;
the next process that deletes the object, or moves any, removes it.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from daskref.background import Background, forget_in_child
from daskref.connectors.files.directory import STUCK, ObjectDirectory, new_name
from daskref.connectors.files.leases import hand_over
from daskref.connectors.files.locks import (
    EXCLUSIVE,
    SHARED,
    names,
    open_plain,
    try_lock,
    unlock,
)
from daskref.connectors.files.names import MOVING, NAME, PART
from daskref.connectors.files.recycling import SMALLEST, Pool, unlink
from daskref.connectors.files.writing import copy_past_cache
from daskref.connectors.machine import least, memory
from daskref.connectors.shm._spill import Spill
from daskref.exceptions import ConnectorUnavailableError

logger = logging.getLogger(__name__)

#: Part of the memory that moving makes available beyond the least.
_MARGIN = 0.03
#: Seconds between two looks, least and most; the assumed bytes per second that fill
#: the memory meanwhile.
_SHORTEST, _LONGEST, _FASTEST = 0.02, 1.0, 4e9
#: Seconds until the next attempt after one that gained nothing.
_AGAIN = 0.2
#: Most of one processor's time that looks without gain take.
_PART = 0.05
#: Seconds until the next attempt after the disk was full, or missing.
_PAUSE = 10.0


@dataclass(eq=False, repr=False)
class Mover:
    """Moves a session's objects from memory to disk.

    Notes
    -----
    Thread-safe. Objects with readers, in any process, stay: their pages would stay as
    well.
    """

    #: The directory in memory.
    _objects: ObjectDirectory
    #: Recycled files, which are freed first.
    _pool: Pool
    #: The directory on disk.
    _spill: Spill
    #: Whether no thread looks at the memory: a put then calls :meth:`watch`.
    asleep: bool = True

    def __post_init__(self) -> None:
        self._background = Background(self.look, "daskref-mover")
        self._closed = self._said = False
        #: Modification time of the directory when it had objects, in nanoseconds.
        self._looked = -1
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Look at nothing, in a forked child."""
        self.asleep = True

    # Looking.

    def watch(self) -> None:
        """Look at the memory from now on: an object was put there."""
        if not self._closed:
            self.asleep = False  # before: the look that follows may find nothing
            if self._background.running:
                self._background.wake()
            elif not self._background.start(_SHORTEST):
                self.asleep = True

    def hurry(self) -> None:
        """Look at the memory at once: a put found too little."""
        if not self._closed:
            self._background.call()

    def close(self) -> None:
        """Stop looking and moving. A second call is silent."""
        self._closed = True
        self._background.stop(timeout=1.0)

    def look(self) -> float:
        """Move objects if memory is low; return the seconds until the next look."""
        begin = time.monotonic()
        pause, gained = 0.0, 1
        total, left = memory()
        enough = least(total)
        while gained and left < enough and not self._closed:
            try:
                gained = self.make_room(enough + int(_MARGIN * total) - left)
            except (OSError, ConnectorUnavailableError) as exc:
                logger.debug("Nothing can be moved to %s: %s", self._spill.root, exc)
                gained, pause = 0, _PAUSE
            total, left = memory()
        # Before the look: a put after it wakes this thread.
        self.asleep = True
        self.asleep = not self._has_objects()
        if self.asleep:
            return float("inf")
        if not gained:
            taken = time.monotonic() - begin
            return max(pause, _AGAIN, taken / _PART)
        return min(_LONGEST, max(_SHORTEST, (left - enough) / _FASTEST))

    def _has_objects(self) -> bool:
        try:
            changed = os.stat(self._objects.path).st_mtime_ns
        except OSError:
            return False  # the session was removed
        if self._looked != changed:
            if not any(True for _ in self._large()):
                return False  # `_looked` stays: a put may follow in the same clock tick
            self._looked = changed
        return True

    def _large(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the names of the objects worth moving."""
        with suppress(FileNotFoundError), os.scandir(self._objects.path) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        there = entry.stat(follow_symlinks=False)
                        if there.st_size >= SMALLEST:
                            yield entry.name, there

    def _oldest(self) -> list[list[str]]:
        """Return the names of each object, the longest unused object first."""
        found: dict[int, tuple[int, list[str]]] = {}
        for name, there in self._large():
            used = max(there.st_atime_ns, there.st_mtime_ns)
            found.setdefault(there.st_ino, (used, []))[1].append(name)
        return [known for _, known in sorted(found.values())]

    # Moving.

    def make_room(self, nbytes: int) -> int:
        """Free memory: recycled files, then objects, longest unused first.

        Returns the bytes that this process freed: none from objects if another process
        moves some. Raises OSError, ConnectorUnavailableError if the disk is full or
        cannot be used.
        """
        gained = self._pool.trim(nbytes)
        if gained >= nbytes or self._spill.is_memory:
            return gained
        with self.turn() as ours:
            if not ours:
                return gained
            self._undo()
            for known in self._oldest():
                if gained >= nbytes or self._closed:
                    break
                gained += self.move(*known)
        return gained

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Be the only process that moves objects; yield False if another one is."""
        path = self._objects.at("moving")
        if not os.path.exists(self._objects.path):
            yield False
            return
        fd = open_plain(path, os.O_RDWR | os.O_CREAT)
        try:
            yield try_lock(fd, EXCLUSIVE)
        finally:
            unlock(fd)
            os.close(fd)

    def move(self, *known: str) -> int:
        """Move the object with the names *known* to disk; return the bytes freed.

        Returns 0 if the object is missing or has to stay. Raises as :meth:`make_room`
        does; then the object is in memory as before.
        """
        try:
            fd = open_plain(self._objects.at(known[0]), os.O_RDWR)
        except FileNotFoundError:
            return 0
        try:
            # A reader keeps the pages. Between the two locks another process may have
            # deleted the object and recycled the file.
            if not (try_lock(fd, EXCLUSIVE) and try_lock(fd, SHARED)):
                return 0
            if not names(self._objects.at(known[0]), fd):
                return 0
            disk = self._spill.make()
            part = disk.at(PART + new_name(self._spill.session.writer))
            try:
                nbytes = os.fstat(fd).st_size
                if not copy_past_cache(fd, nbytes, part, lambda: self._closed):
                    return 0
                if not try_lock(fd, EXCLUSIVE) or not self._publish(
                    known, fd, disk, part
                ):
                    return 0
            finally:
                unlink(part)
        finally:
            unlock(fd)
            os.close(fd)
        if not self._said:
            self._said = True
            logger.info("Memory is low: objects are moved to %s", disk.path)
        return nbytes

    def _publish(
        self, known: Iterable[str], fd: int, disk: ObjectDirectory, part: str
    ) -> bool:
        """Replace an object in memory by its copy; the exclusive lock is held."""
        marks: list[str] = []
        try:
            for name in known:
                path, mark = self._objects.at(name), self._objects.at(MOVING + name)
                if names(path, fd):  # else this name was deleted meanwhile
                    with suppress(FileNotFoundError, FileExistsError):
                        os.link(path, mark, follow_symlinks=False)
                        marks.append(mark)
            if os.fstat(fd).st_nlink != 2 * len(marks):
                return False  # another process is linking or deleting the object
            moved = [
                self._publish_name(mark.rpartition(MOVING)[2], disk, part)
                for mark in marks
            ]
            if os.fstat(fd).st_nlink == len(marks):
                os.ftruncate(fd, 0)  # its writer may have it mapped
            return any(moved)
        finally:
            for mark in marks:
                unlink(mark)

    def _publish_name(self, name: str, disk: ObjectDirectory, part: str) -> bool:
        _link(part, disk.at(name))
        try:
            hand_over(self._objects, disk, name)
            moved = unlink(self._objects.at(name))
        except BaseException:
            disk.evict(name)
            raise
        if not moved:
            disk.evict(name)
            return False
        # A lease renewed meanwhile; from here on renewals find the object on disk.
        with suppress(OSError):
            hand_over(self._objects, disk, name, delete=True)
        return True

    # What others leave.

    def settle(self, name: str) -> None:
        """Delete the copy, if any, of an object that was deleted in memory."""
        mark = self._objects.at(MOVING + name)
        if not os.path.lexists(mark):
            return
        deadline = time.monotonic() + STUCK
        # A process that is stopped deletes its copy once it goes on.
        while os.path.lexists(mark) and time.monotonic() < deadline:
            with self.turn() as ours:
                if ours:  # the process that moved it died
                    unlink(mark)
            time.sleep(0.0005)
        self._delete_copy(name)

    def _undo(self) -> None:
        """Undo the unfinished move of a process that died."""
        for mark in os.listdir(self._objects.path):
            name = mark.removeprefix(MOVING)
            if name != mark and NAME.fullmatch(name):
                if self._objects.exists(name):
                    self._delete_copy(name)
                unlink(self._objects.at(mark))

    def _delete_copy(self, name: str) -> None:
        if (disk := self._spill.find()) is not None:
            disk.evict(name)


def _link(path: str, new: str) -> None:
    """Give a file another name, replacing the file that has it."""
    try:
        os.link(path, new)
    except FileExistsError:  # it was put a second time, and the first one was moved
        unlink(new)
        os.link(path, new)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        os.rename(path, new)  # this file system has no links
