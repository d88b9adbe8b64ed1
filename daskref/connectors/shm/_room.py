"""The room of a session: a budget in memory, and the disk beyond it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from threading import Lock

from daskref.background import forget_in_child, make_lock
from daskref.connectors.failures import FULL, Category, Finding
from daskref.connectors.files.directory import ObjectDirectory
from daskref.connectors.files.parked import ParkedMappings
from daskref.connectors.files.pieces import Pieces
from daskref.connectors.files.recycling import KeptMappings, Pool, discard
from daskref.connectors.files.session import DirectorySession
from daskref.connectors.machine import SHARE, least, memory
from daskref.connectors.shm._moving import Mover
from daskref.connectors.shm._spill import Spill
from daskref.connectors.space import (
    Footprint,
    Space,
    left,
    of_deleted,
    of_names,
    of_objects,
)
from daskref.exceptions import ConnectorError

logger = logging.getLogger(__name__)

#: Seconds for which a count of the session's files is used while the limit is far; how
#: many times the seconds that it took it is used then in any case. Near the limit it is
#: used for as long as it took. So many files do not slow down each put (a count of
#: 20,000 takes 50 ms, measured).
_BELIEVED, _RARELY = 0.5, 10
#: Seconds for which a look at the memory is used, if there was enough.
_SEEN = 0.05
#: Part of the spare memory that is taken without a look, which costs some 100 us.
_UNSEEN = 1 / 256


class Tiers:
    """The directory in memory, and one on disk for objects that memory has no room for.

    Parameters
    ----------
    where
        The connector, for errors.
    session
        Its directory is the one in memory.
    limit, recycled, idle, spill_root
        ``budget``, ``recycle``, ``recycle_idle`` and ``spill_directory`` of
        :class:`~daskref.connectors.SharedMemoryConnector`, parsed.
    """

    #: Number of this process's objects that went to disk.
    overflows: int

    def __init__(
        self,
        where: str,
        session: DirectorySession,
        limit: int | float,
        recycled: int | float,
        idle: float,
        spill_root: str,
    ) -> None:
        path = session.path
        self._where = where
        self.overflows = 0
        self.budget = Budget(path, limit)
        share = partial(self.budget.share, recycled)
        self.pool = Pool(os.path.join(path, "free"), share, idle)
        self._parked = ParkedMappings(share)
        self.memory = ObjectDirectory(
            path, pool=self.pool, kept=KeptMappings(share), parked=self._parked
        )
        self.spill = Spill(session, spill_root)
        self.mover = Mover(self.memory, self.pool, self.spill)
        self.memory.deleted = self.mover.settle
        self._lock = make_lock()

    def __iter__(self) -> Iterator[ObjectDirectory]:
        yield self.memory
        # Looked up only if the caller did not stop at memory.
        if (disk := self.spill.find()) is not None:
            yield disk

    def put(
        self, name: str, views: Sequence[memoryview], *, publish: str | None = None
    ) -> None:
        """Write an object; see :meth:`ObjectDirectory.put`.

        Raises ConnectorError if there is no room; OSError if it cannot be written.
        """
        if self._put_in_memory(name, views, publish):
            self._watch()
            return
        nbytes = sum(view.nbytes for view in views)
        try:
            disk = self.spill.make()
            disk.put(name, views, publish=publish)
        except OSError as exc:
            raise self._no_room(exc, nbytes) from exc
        with self._lock:
            self.overflows += 1
            first = self.overflows == 1
        if first:
            logger.warning(
                "%s has no room for %d bytes within daskref.shm.budget and the memory "
                "that is left: from now on what does not fit goes to disk, in %s, "
                "which is slower. Give the host or container more memory, or shared "
                "memory more room (in a container: --shm-size), or raise the budget",
                self._where,
                nbytes,
                disk.path,
            )

    def _put_in_memory(
        self, name: str, views: Sequence[memoryview], publish: str | None
    ) -> bool:
        for _ in range(2):
            try:
                return self.memory.put(name, views, self.room, publish)
            except OSError as exc:
                if exc.errno not in FULL:
                    raise
            if not self.pool.trim(sum(view.nbytes for view in views)):
                break
        return False

    def room(self, nbytes: int) -> bool:
        """Tell whether a new file of *nbytes* may be made in memory."""
        lacking = self.budget.lacking(nbytes)
        if lacking and (gained := self.pool.trim(lacking)):
            self.budget.gain(gained)
            lacking = self.budget.lacking(nbytes)
        if lacking:
            self.mover.hurry()
        return not lacking

    def _no_room(self, exc: OSError, nbytes: int) -> ConnectorError:
        path, root = self.memory.path, self.spill.root
        found = Finding(
            Category.FULL,
            "Set daskref.spill-directory to a directory on a larger disk, or raise "
            "daskref.shm.budget",
            "the session",
        )
        said = (
            f"{left(path)} B free in {path}, with daskref.shm.budget="
            f"{self.budget.limit!r}, {left(root)} B in {root}: {exc.strerror}"
        )
        return found.error(self._where, said, f"no room for an object of {nbytes} B")

    def start(self, name: str, nbytes: int, mark: str) -> Pieces:
        """Begin an object that is written in pieces, with a name from another process.

        Raises ConnectorError as :meth:`put` does.
        """
        for tier in self:
            discard(tier.at(mark + name))  # of a writer that died
        tier = self.memory
        try:
            part = tier.parts.start(name, nbytes, self.room, mark)
            if part is None:
                tier = self.spill.make()
                part = tier.parts.start(name, nbytes, mark=mark)
                assert part is not None  # a disk has room until it says otherwise
            return Pieces(tier.parts, part, self._watch)
        except OSError as exc:
            raise self._no_room(exc, nbytes) from exc

    def resume(self, name: str, nbytes: int, mark: str) -> Pieces | None:
        """Continue an unfinished object of a process that died."""
        for tier in self:
            if (part := tier.parts.resume(name, nbytes, mark)) is not None:
                return Pieces(tier.parts, part, self._watch)
        return None

    def _watch(self) -> None:
        """Wake the mover after a put."""
        if self.mover.asleep:
            self.mover.watch()

    def space(self) -> Space:
        """Return the memory and disk in use; see :meth:`Connector.space`."""
        memory, *disk = (of_objects(tier.path) for tier in self)
        path = self.memory.path
        pool, pinned = of_deleted(path)
        return Space(
            memory=sum(memory.values()),
            disk=sum(sum(sizes.values()) for sizes in disk),
            # Objects deleted since `of_objects` have been counted.
            pool=sum(pool[inode] for inode in pool.keys() - memory.keys()),
            pinned=sum(pinned[inode] for inode in pinned.keys() - memory.keys()),
            budget=self.budget.share(1.0),
            free=left(path),
            disk_free=left(self.spill.root),
        )

    def footprints(self, names: list[str]) -> list[Footprint | None]:
        """Return what objects take up; see :meth:`Connector.footprints`."""
        disk = self.spill.find()
        return of_names(names, self.memory.path, None if disk is None else disk.path)

    def close(self) -> None:
        """End the threads and drop parked mappings; views stay valid. Idempotent."""
        self.mover.close()
        self.pool.close()
        self._parked.close()


class Budget:
    """The room for new files in one directory.

    *limit*: a fraction (float) of the file system, including files of others, and of
    half of the memory of container or machine; or bytes (int) for the directory's own
    files.

    Notes
    -----
    Whatever the limit, a part of the memory stays available, see :class:`Reserve`.
    """

    #: Seconds that the last count took; bytes in use in the file system then; bytes put
    #: since.
    _took: float
    _filled: int
    _put: int

    def __init__(self, path: str, limit: int | float) -> None:
        self.path = path
        self.limit = limit
        self._memory = part_of(SHARE, memory()[0])
        self._reserve = Reserve()
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Count anew, in a forked child."""
        self._counted = self._filled = self._put = 0
        self._counted_at, self._took = -_BELIEVED, 0.0
        self._lock = Lock()

    def lacking(self, nbytes: int) -> int:
        """Return the bytes to free before a file of *nbytes* may be made."""
        total, free = _space(self.path)
        lacking = max(0, nbytes - free)
        most, counts = self._most(total), True
        if isinstance(self.limit, float):
            fraction = part_of(self.limit, total)
            lacking = max(lacking, total - free + nbytes - fraction)
            counts = most < fraction
        if counts:
            lacking = max(
                lacking, self._used(nbytes, most, total - free) + nbytes - most
            )
        return max(lacking, self._reserve.lacking(nbytes))

    def gain(self, nbytes: int) -> None:
        """Subtract files that were deleted since the last count."""
        with self._lock:
            self._put -= nbytes

    def share(self, part: int | float) -> int:
        """Return *part* in bytes: a fraction (float) of the budget, or bytes."""
        return part_of(part, self._most(_space(self.path)[0]))

    def _most(self, total: int) -> int:
        """Return the budget in bytes, for a file system of *total* bytes."""
        if isinstance(self.limit, float):
            total = min(total, self._memory)
        return part_of(self.limit, total)

    def _used(self, nbytes: int, limit: int, filled: int) -> int:
        """Count the files, or estimate from the last count.

        *filled*: bytes in use in the file system, by all processes.
        """
        with self._lock:
            # Other processes' puts show in the file system; unfinished ones do not.
            used = self._counted + max(self._put, filled - self._filled)
            believed = self._took
            if used + 2 * nbytes <= limit:
                believed = max(_RARELY * believed, _BELIEVED)
            now = time.monotonic()
            if now - self._counted_at >= believed:
                used = _count(self.path) + _count(os.path.join(self.path, "free"))
                self._counted, self._filled, self._put = used, filled, 0
                self._counted_at = time.monotonic()
                self._took = self._counted_at - now
            if used + nbytes <= limit:
                self._put += nbytes
            return used


class Reserve:
    """Limits new files so that :func:`least` bytes of memory stay available.

    Notes
    -----
    Memory that other processes take within some tens of milliseconds is not seen: the
    reserve covers that, too.
    """

    def __init__(self) -> None:
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Start without a look, in a forked child."""
        self._spare = self._taken = 0  # so that the first call looks
        self._seen = 0.0
        self._lock = Lock()

    def lacking(self, nbytes: int) -> int:
        """Return the bytes to free before *nbytes* may be taken; if none, take them."""
        with self._lock:
            taken = self._taken + nbytes
            # Memory freed since the last look is not in `_spare`.
            if taken > self._spare or (
                taken > self._spare * _UNSEEN and time.monotonic() > self._seen + _SEEN
            ):
                self._look()
                taken = nbytes
            if taken > self._spare:
                return taken - self._spare
            self._taken = taken
            return 0

    def _look(self) -> None:
        total, left = memory()
        self._spare = left - least(total)
        self._seen = time.monotonic()
        self._taken = 0


def part_of(part: int | float, whole: int) -> int:
    """Return a fraction (float) of *whole*, or *part* bytes; at most *whole*."""
    if isinstance(part, float):
        part = int(part * whole) if part < 1 else whole
    return min(part, whole)  # the product of a float may be rounded up


def _space(path: str) -> tuple[int, int]:
    there = os.statvfs(path)
    if there.f_blocks:
        return there.f_blocks * there.f_frsize, there.f_bavail * there.f_frsize
    # A tmpfs without a limit of its own: the memory is the limit.
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


def _count(path: str) -> int:
    sizes = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    there = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if entry.is_file(follow_symlinks=False):
                    sizes[there.st_ino] = there.st_size
    except FileNotFoundError:
        pass
    return sum(sizes.values())
