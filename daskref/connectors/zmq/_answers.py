"""The answers of a server to the requests of one connection."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from daskref.connectors.files.names import NAME
from daskref.connectors.shm.connector import SharedMemoryConnector, SharedMemoryKey
from daskref.connectors.zmq._pushes import Pushes
from daskref.connectors.zmq._wire import LARGEST_CHUNK, NAMES, Op, Request, Status
from daskref.exceptions import ConnectorError, WireError

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class Answers:
    """Answers the requests of one connection, one after another."""

    _local: SharedMemoryConnector
    #: Shared by all connections of the server.
    _pushes: Pushes
    #: Whether a warning was logged: later failures are logged at debug level.
    _complained: bool = False
    #: Name and bytes of the last request's object, for the next request.
    kept: tuple[str, memoryview] | None = None

    def answer(self, request: Request, data: memoryview) -> tuple[Status, memoryview]:
        """Carry out a request; return its status and the bytes to send."""
        body = memoryview(b"")
        key = SharedMemoryKey(request.name, request.nbytes)
        try:
            if request.op is Op.GET:
                return self._get(request)
            if request.op is Op.PUT:
                status = self._pushes.take(request, data)
            elif request.op is Op.EXISTS:
                status = _found(self._local.exists(key))
            elif request.op is Op.EVICT:
                status = self._evict(data)
            elif request.op is Op.TAKE:
                status = _found(self._local.take(key) is not None)
            else:
                status = _found(self._local.renew(key, request.length / 1000))
        except WireError:
            status = Status.REFUSED
        except Exception as exc:
            status = Status.FAILED
            self._complain(request, exc)
        return status, body

    def _complain(self, request: Request, exc: Exception) -> None:
        level = logging.DEBUG if self._complained else logging.WARNING
        self._complained = True
        if isinstance(exc, ConnectorError):
            logger.log(level, "A request of another host failed: %s", exc)
        else:
            logger.log(level, "%r of another host failed", request.op, exc_info=exc)

    def _get(self, request: Request) -> tuple[Status, memoryview]:
        empty = memoryview(b"")
        end = request.offset + request.length
        if request.length > LARGEST_CHUNK or end > request.nbytes:
            return Status.REFUSED, empty
        kept, self.kept = self.kept, None
        key = SharedMemoryKey(request.name, request.nbytes)
        # After an eviction, transfers that have begun still get the rest.
        begun = request.offset or self._local.exists(key)
        if kept is not None and kept[0] == request.name and begun:
            view = kept[1]
            if view.nbytes != request.nbytes:
                return Status.REFUSED, empty
        else:
            found = self._local.lend(key)
            if found is None:
                return Status.MISSING, empty
            view = found
        # The view's lock keeps the file from being recycled.
        self.kept = request.name, view
        return Status.OK, view[request.offset : end]

    def _evict(self, data: memoryview) -> Status:
        names = bytes(data).decode("ascii", "replace").split("\n")
        if len(names) > NAMES or not all(map(NAME.fullmatch, names)):
            return Status.REFUSED
        self._pushes.forget_names(names)
        self._local.evict_batch(SharedMemoryKey(name, 0) for name in names)
        return Status.OK


def _found(there: bool) -> Status:
    return Status.OK if there else Status.MISSING
