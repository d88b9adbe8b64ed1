"""Objects in memory that go to disk, oldest first, when the memory runs low.

A put that would leave too little memory goes to disk. What is in memory already stays
there while the workers' own memory grows, and the kernel cannot take it away, so that
it ends a process instead. So each process that has put something looks at the memory
now and then; one of them at a time moves what it can.

An object keeps its names, and is found at all times by who looks in memory first, then
on disk:

1. It is copied to a hidden file on disk, under a shared lock, as readers have it: so
   nobody recycles its pages. No memory is taken for that, but for a small buffer.
2. From here on its exclusive lock is held: it has no readers, and gets none.
3. A second, hidden name in memory says that it is being moved.
4. The copy gets the object's name.
5. The name in memory goes. If another process was faster, the object was deleted: then
   the copy goes, too.
6. Its pages are given back, and the hidden name goes.

Whoever deletes the object meanwhile waits for the hidden name to go, see
:meth:`Mover.settle`: then no copy is left. Whoever dies on the way leaves the hidden
name; it is undone by the next who deletes the object or moves any.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

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

#: Of the memory, what is available beyond the least once something was moved.
_MARGIN = 0.03
#: Seconds between two looks, at least and at most; bytes per second that the memory is
#: thought to be filled with meanwhile.
_SHORTEST, _LONGEST, _FASTEST = 0.02, 1.0, 4e9
#: Seconds between two attempts of which the first has gained nothing.
_AGAIN = 0.2
#: Looks take at most this part of one processor's time, where they gain nothing.
_PART = 0.05
#: Seconds without an attempt after the disk was full, or there was none.
_PAUSE = 10.0


class Mover:
    """Moves a session's objects from memory to disk.

    Parameters
    ----------
    objects
        Those in memory.
    pool
        Recycled files: they are given back first.
    spill
        Where objects go.

    Notes
    -----
    Thread-safe. What is read, by this process or another, stays: its pages would stay
    as well.
    """

    _objects: ObjectDirectory
    _pool: Pool
    _spill: Spill
    _background: Background
    #: Whether nothing looks at the memory: who puts an object calls :meth:`watch`.
    asleep: bool
    _closed: bool
    #: When the directory was changed in which there were objects, in nanoseconds.
    _looked: int
    _said: bool

    def __init__(self, objects: ObjectDirectory, pool: Pool, spill: Spill) -> None:
        self._objects = objects
        self._pool = pool
        self._spill = spill
        self._background = Background(self._look, "daskref-mover")
        self._closed = self._said = False
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
        """Look at the memory at once: a put has found too little."""
        if not self._closed:
            self._background.call()

    def close(self) -> None:
        """Look no more; what is being moved stays. A second call is silent."""
        self._closed = True
        self._background.stop(timeout=1.0)

    def _look(self) -> float:
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
        # Before the look: who puts something after it wakes us.
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
                return False  # one may come within the same tick of the clock
            self._looked = changed
        return True

    def _large(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the names of what is worth moving."""
        with suppress(FileNotFoundError), os.scandir(self._objects.path) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        there = entry.stat(follow_symlinks=False)
                        if there.st_size >= SMALLEST:
                            yield entry.name, there

    def _oldest(self) -> list[list[str]]:
        """Return the names of each object, those longest unused first."""
        found: dict[int, tuple[int, list[str]]] = {}
        for name, there in self._large():
            used = max(there.st_atime_ns, there.st_mtime_ns)
            found.setdefault(there.st_ino, (used, []))[1].append(name)
        return [known for _, known in sorted(found.values())]

    # Moving.

    def make_room(self, nbytes: int) -> int:
        """Give memory back: recycled files, then objects, longest unused first.

        Raises OSError, ConnectorUnavailableError if the disk is full, or cannot be
        used.

        Returns
        -------
        int
            The bytes that were gained, by this process: none if another one is at it.
        """
        gained = self._pool.trim(nbytes)
        if gained >= nbytes or self._spill.is_memory:
            return gained
        with self._turn() as ours:
            if not ours:
                return gained
            self._undo()
            for known in self._oldest():
                if gained >= nbytes or self._closed:
                    break
                gained += self.move(*known)
        return gained

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Be the only process that moves objects; False if another one is."""
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
        """Move an object to disk.

        Raises OSError, ConnectorUnavailableError as :meth:`make_room` does; the object
        is in memory as before.

        Returns
        -------
        int
            The bytes that were gained: none if it is not there, or has to stay.
        """
        try:
            fd = open_plain(self._objects.at(known[0]), os.O_RDWR)
        except FileNotFoundError:
            return 0
        try:
            # Whoever reads it keeps its pages. Between the two locks another may have
            # deleted it, and its pages may be another object's.
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
        """Have an object on disk in place of memory; its exclusive lock is held."""
        marks: list[str] = []
        try:
            for name in known:
                path, mark = self._objects.at(name), self._objects.at(MOVING + name)
                if names(path, fd):  # else this name was deleted meanwhile
                    with suppress(FileNotFoundError, FileExistsError):
                        os.link(path, mark, follow_symlinks=False)
                        marks.append(mark)
            if os.fstat(fd).st_nlink != 2 * len(marks):
                return False  # it has got another name, or is about to lose one
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
        # What was renewed meanwhile; nobody renews it there any more.
        with suppress(OSError):
            hand_over(self._objects, disk, name, delete=True)
        return True

    # What others leave.

    def settle(self, name: str) -> None:
        """See to it that no copy is left of an object that was deleted in memory."""
        mark = self._objects.at(MOVING + name)
        if not os.path.lexists(mark):
            return
        deadline = time.monotonic() + STUCK
        # A process that is stopped deletes its copy once it goes on.
        while os.path.lexists(mark) and time.monotonic() < deadline:
            with self._turn() as ours:
                if ours:  # the one who was moving it died
                    unlink(mark)
            time.sleep(0.0005)
        self._delete_copy(name)

    def _undo(self) -> None:
        """Undo what another one has left who died while it moved an object."""
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
    """Give a file another name, in the place of what has that name."""
    try:
        os.link(path, new)
    except FileExistsError:  # it was put a second time, and the first one was moved
        unlink(new)
        os.link(path, new)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        os.rename(path, new)  # this file system has no links
