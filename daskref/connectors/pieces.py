"""An object that arrives in pieces, in any order."""

from __future__ import annotations

import errno
import os
from ctypes import memmove

from daskref.connectors.memory import HUGE, SharedMapping, address, can_collapse
from daskref.connectors.objects import ObjectDirectory, Part
from daskref.connectors.writing import write_file


class Pieces:
    """An object that is written in pieces and published when it is whole.

    Parameters
    ----------
    objects
        Where.
    part
        From its :meth:`~daskref.connectors.objects.ObjectDirectory.start` or
        ``resume``.

    Notes
    -----
    :meth:`publish` or :meth:`discard` ends it. Several threads may write pieces that do
    not overlap.
    """

    nbytes: int
    _objects: ObjectDirectory
    _part: Part
    _mapping: SharedMapping | None

    def __init__(self, objects: ObjectDirectory, part: Part) -> None:
        self.nbytes = part.nbytes
        self._objects = objects
        self._part = part
        self._mapping = None
        #: Numbers of the huge pages that were made, or small ones in their places.
        self._made: set[int] = set()
        try:
            # Without huge pages, one piece after another goes to new ones faster by
            # system calls.
            if part.existing or can_collapse():
                self._mapping = objects.map_part(part)
        except BaseException:
            objects.abandon(part)
            raise

    @property
    def inode(self) -> int:
        """Of the hidden file."""
        return self._part.inode

    def write(self, offset: int, view: memoryview) -> None:
        """Copy a piece to its place.

        Parameters
        ----------
        offset
            Of its first byte in the object; the piece ends within the object.
        view
            Contiguous bytes; not kept.

        Raises
        ------
        OSError
            ENOSPC when the file system is full.
        """
        end = offset + view.nbytes
        if not 0 <= offset <= end <= self.nbytes:
            raise ValueError(f"bytes {offset}-{end} of an object of {self.nbytes}")
        if self._mapping is None:
            write_file(self._part.fd, [view], offset)
        elif view.nbytes:
            if end > self._mapping.populated:
                self._populate(offset, end)
            memmove(self._mapping.address + offset, address(view), view.nbytes)

    def _populate(self, start: int, end: int) -> None:
        assert self._mapping is not None
        try:
            if self._part.existing:
                self._mapping.populate(start, end)
                return
            for huge in range(start // HUGE, -(-end // HUGE)):
                if huge not in self._made:
                    begin = huge * HUGE
                    self._mapping.make(begin, min(begin + HUGE, self.nbytes))
                    self._made.add(huge)
        except OSError as exc:
            if exc.errno == errno.EFAULT:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from exc
            raise

    def publish(self) -> None:
        """Let others see the object; every byte of it was written."""
        if self._mapping is not None:
            self._mapping.populated = max(self._mapping.populated, self.nbytes)
        if os.fstat(self._part.fd).st_size != self.nbytes:
            os.ftruncate(self._part.fd, self.nbytes)
        self._objects.finish(self._part, self._mapping)
        os.close(self._part.fd)

    def discard(self) -> None:
        """Delete what was written."""
        self._mapping = None
        self._objects.abandon(self._part)

    def let_be(self) -> None:
        """Close the file, in a forked child: the parent goes on."""
        self._mapping = None
        os.close(self._part.fd)
