"""Objects that processes of other hosts send to this host, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from daskref.background import make_lock
from daskref.connectors.files.names import PUSHED
from daskref.connectors.files.pieces import Pieces
from daskref.connectors.shm.connector import SharedMemoryConnector, SharedMemoryKey
from daskref.connectors.zmq._wire import PUSH_CHUNK, Limits, Request, Status
from daskref.exceptions import ConnectorError


@dataclass
class _Push:
    pieces: Pieces
    #: Offsets of the chunks that are missing.
    missing: set[int]
    heard: float = field(default_factory=time.monotonic)


@dataclass(eq=False, repr=False)
class Pushes:
    """The pushes in progress of one server; their number and size are bounded."""

    _local: SharedMemoryConnector
    _limits: Limits
    _pushes: dict[str, _Push] = field(default_factory=dict)
    #: Held for one chunk at a time: chunks are copied faster than they arrive.
    _lock: Lock = field(default_factory=make_lock)

    def __len__(self) -> int:
        return len(self._pushes)

    def take(self, request: Request, data: memoryview) -> Status:
        """Write one chunk; publish the object if it was the last one."""
        with self._lock:
            return self._take(request, data)

    def _take(self, request: Request, data: memoryview) -> Status:
        _, name, nbytes, offset, length = request
        expected = min(PUSH_CHUNK, nbytes - offset)
        if offset % PUSH_CHUNK or length != expected or (length == 0 and nbytes):
            return Status.REFUSED
        push = self._pushes.get(name)
        if push is None:
            if self._local.exists(SharedMemoryKey(name, nbytes)):
                return Status.WHOLE
            if not self._may_begin(nbytes):
                full = nbytes > self._limits.push_nbytes
                return Status.FULL if full else Status.BUSY
            try:
                # The sender may have turned to another process of this host meanwhile.
                mark = f"{PUSHED}{self._local.session.writer}-"
                pieces = self._local.tiers.start(name, nbytes, mark)
            except ConnectorError:
                return Status.FULL
            chunks = range(0, max(nbytes, 1), PUSH_CHUNK)
            push = self._pushes[name] = _Push(pieces, set(chunks))
        elif push.pieces.nbytes != nbytes:
            return Status.REFUSED
        push.heard = time.monotonic()
        if offset in push.missing:
            try:
                push.pieces.write(offset, data)
            except OSError:
                self._forget_name(name)
                return Status.FULL
            push.missing.discard(offset)
        if push.missing:
            return Status.OK
        del self._pushes[name]
        try:
            push.pieces.publish()
        except BaseException:
            push.pieces.discard()
            raise
        return Status.WHOLE

    def _may_begin(self, nbytes: int) -> bool:
        total = sum(push.pieces.nbytes for push in self._pushes.values()) + nbytes
        count = len(self._pushes) + 1
        return count <= self._limits.pushes and total <= self._limits.push_nbytes

    def forget_names(self, names: Iterable[str]) -> None:
        """Delete the unfinished pushes of some objects, if there are any."""
        with self._lock:
            for name in names:
                self._forget_name(name)

    def _forget_name(self, name: str) -> None:
        if (push := self._pushes.pop(name, None)) is not None:
            push.pieces.discard()

    def expire(self) -> None:
        """Delete abandoned pushes."""
        old = time.monotonic() - self._limits.push_age
        with self._lock:
            for name in [n for n, push in self._pushes.items() if push.heard < old]:
                self._forget_name(name)

    def close(self) -> None:
        """Delete all pushes."""
        self.forget_names(list(self._pushes))

    def abandon(self) -> None:
        """Leave all pushes to the parent, in a forked child."""
        for push in self._pushes.values():
            push.pieces.let_be()
        self._pushes = {}
