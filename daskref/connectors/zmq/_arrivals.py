"""One transfer of an object to a host, for all of its processes.

Beside the hidden file of the object lies a progress file, ``f-<name>``. The process
that fetches holds its exclusive lock. The file says which chunks have arrived: if the
process dies, the kernel drops the lock, and the next process fetches the missing
chunks.
"""

from __future__ import annotations

import os
import struct
import time

from daskref.background import forget_in_child
from daskref.connectors.files.locks import (
    EXCLUSIVE,
    names,
    open_plain,
    try_lock,
    unlock,
)
from daskref.connectors.files.names import ARRIVAL, ARRIVING
from daskref.connectors.files.pieces import Pieces
from daskref.connectors.files.recycling import unlink
from daskref.connectors.shm.connector import SharedMemoryConnector, SharedMemoryKey

#: Start of the progress file: size of the chunks, inode of the hidden file.
_HEAD = struct.Struct("<QQ")
#: Seconds between two looks at another process's transfer: first, longest.
_FIRST_LOOK, _LAST_LOOK = 0.0005, 0.02


class Arrival:
    """An object that this process fetches. End it with `publish` or `give_up`.

    Parameters
    ----------
    chunk
        Bytes of each chunk but the last.
    fd
        The progress file; its exclusive lock is held.
    """

    #: Indices of the missing chunks, in order.
    missing: list[int]
    _pieces: Pieces

    def __init__(
        self, local: SharedMemoryConnector, key: SharedMemoryKey, chunk: int, fd: int
    ) -> None:
        self.key = key
        self._local = local
        self._fd = fd
        self._path = _path(local, key.name)
        self._chunk = chunk
        count = max(1, -(-key.nbytes // chunk))
        there = os.pread(fd, _HEAD.size + count, 0)
        done = there[_HEAD.size :].ljust(count, b"\0")
        pieces = None
        if len(there) >= _HEAD.size:
            pieces = local.tiers.resume(*key, ARRIVING)
            if pieces is not None and _HEAD.unpack_from(there) != (chunk, pieces.inode):
                pieces.discard()
                pieces = None
        if pieces is None:
            done = bytes(count)
            # In this order: the progress is never of an older hidden file.
            os.ftruncate(fd, 0)
            pieces = local.tiers.start(*key, ARRIVING)
            os.pwrite(fd, _HEAD.pack(chunk, pieces.inode), 0)
        self._pieces = pieces
        self.missing = [index for index in range(count) if not done[index]]
        forget_in_child(self)

    def forget(self) -> None:
        """Leave the transfer to the parent, in a forked child, with the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._pieces.let_be()
            self._fd = -1

    def span(self, index: int) -> tuple[int, int]:
        """Return offset and length of a chunk."""
        offset = index * self._chunk
        return offset, min(self._chunk, self.key.nbytes - offset)

    def touch(self) -> None:
        """Tell the waiting processes of this host that the transfer is alive."""
        os.utime(self._fd)

    def place(self, index: int) -> memoryview | None:
        """Return the memory to receive a chunk into; ``None``: the caller has to.

        Raises OSError with ENOSPC when the file system is full.
        """
        return self._pieces.place(*self.span(index))

    def write(self, index: int, view: memoryview | None) -> None:
        """Record a chunk; copy it to its :meth:`place`, unless *view* is ``None``.

        Raises OSError with ENOSPC when the file system is full.
        """
        if view is not None:
            self._pieces.write(index * self._chunk, view)
        os.pwrite(self._fd, b"\1", _HEAD.size + index)

    def publish(self) -> memoryview | None:
        """Publish the complete object and return it; ``None`` if it was evicted."""
        try:
            try:
                self._pieces.publish()
            except BaseException:
                self._pieces.discard()
                raise
            return self._local.get(self.key)
        finally:
            self._end()

    def give_up(self) -> None:
        """Delete the chunks that have arrived."""
        try:
            self._pieces.discard()
        finally:
            self._end()

    def _end(self) -> None:
        fd, self._fd = self._fd, -1
        release(self._path, fd)


def _path(local: SharedMemoryConnector, name: str) -> str:
    return os.path.join(local.directory, ARRIVAL + name)


def release(path: str, fd: int) -> None:
    """Delete the locked file at *path*, then drop the lock."""
    try:
        unlink(path)
        unlock(fd)
    finally:
        os.close(fd)


def begin(
    local: SharedMemoryConnector, key: SharedMemoryKey, chunk: int, patience: float
) -> memoryview | Arrival:
    """Return an object of this host, waiting for its transfer; or begin to fetch it.

    Raises TimeoutError if another process fetches it and makes no progress for
    *patience* seconds; ConnectorError if there is no room for the object.
    """
    path = _path(local, key.name)
    deadline = time.monotonic() + patience
    look = _FIRST_LOOK
    progress = 0
    while True:
        current = False
        fd = open_plain(path, os.O_RDWR | os.O_CREAT)
        try:
            locked = try_lock(fd, EXCLUSIVE)
            if locked:
                # 1. We open the file. 2. Its owner publishes, deletes and unlocks it.
                # 3. We lock it: by now the name means another file, or none.
                # Or 2. the owner publishes, and dies: the object is here as well.
                current = names(path, fd)
                view = local.get(key)
                if view is None and current:
                    return Arrival(local, key, chunk, fd)
            else:
                view = local.get(key)
                seen = os.fstat(fd).st_mtime_ns
        except BaseException:
            release(path, fd) if current else os.close(fd)
            raise
        if current:
            release(path, fd)
        else:
            os.close(fd)
        if view is not None:
            return view
        if locked:
            continue
        now = time.monotonic()
        if seen != progress:
            progress = seen
            deadline = now + patience
        elif now > deadline:
            raise TimeoutError
        time.sleep(look)
        look = min(2 * look, _LAST_LOOK)
