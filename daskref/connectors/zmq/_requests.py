"""Small requests to servers, and objects sent to servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from daskref.connectors.zmq._connections import BrokenError, ClosedError, Line, Lines
from daskref.connectors.zmq._wire import (
    PUSH_CHUNK,
    Limits,
    Op,
    Request,
    Status,
    UnansweredError,
)
from daskref.connectors.zmq.sources import Candidates, Source


def ask(lines: Lines, source: Source, request: Request, data: bytes = b"") -> Status:
    """Ask the endpoints of a host, one after another, until one answers.

    Raises UnansweredError if none answers; ClosedError if the connections were closed.
    """
    candidates = Candidates([source])
    while (endpoint := candidates.pick(time.monotonic())) is not None:
        try:
            return _use(lines, endpoint, lambda line: _ask_one(line, request, data))
        except UnansweredError as exc:
            candidates.drop(endpoint, str(exc))
    raise UnansweredError(str(candidates))


def _ask_one(line: Line, request: Request, data: bytes) -> tuple[Status, bool]:
    line.send([request], data)
    return line.reply().status, True


def _use(
    lines: Lines, endpoint: str, work: Callable[[Line], tuple[Status, bool]]
) -> Status:
    """Return the status from *work*, which also says whether to keep the connection."""
    line, keeps = None, False
    try:
        line = lines.take(endpoint)
        status, keeps = work(line)
        return status
    except BrokenError as exc:
        if lines.closed:
            raise ClosedError from exc
        raise UnansweredError(str(exc)) from exc
    finally:
        if line is not None:
            lines.give_back(line) if keeps else lines.drop(line)


def chunks(views: Sequence[memoryview]) -> Iterator[tuple[int, bytes | memoryview]]:
    """Cut consecutive buffers into chunks; yield offsets and chunks.

    A chunk that lies within one buffer is not copied.
    """
    offset = 0
    chunk = bytearray()
    for view in views:
        start = 0
        while start < view.nbytes:
            piece = view[start : start + PUSH_CHUNK - len(chunk)]
            start += piece.nbytes
            if piece.nbytes < PUSH_CHUNK:
                chunk += piece
                if len(chunk) < PUSH_CHUNK:
                    continue
                piece, chunk = memoryview(chunk), bytearray()
            yield offset, piece
            offset += PUSH_CHUNK
    if chunk or not offset:
        yield offset, bytes(chunk)


def push(
    lines: Lines, endpoint: str, name: str, views: Sequence[memoryview], limits: Limits
) -> Status:
    """Send an object to a server; the status is ``WHOLE`` once it is published there.

    Raises UnansweredError if the server does not answer; ClosedError if the connections
    were closed. A server that has an object called *name* already ends the transfer.
    """
    return _use(lines, endpoint, lambda line: _push(line, name, views, limits.window))


def _push(
    line: Line, name: str, views: Sequence[memoryview], window: int
) -> tuple[Status, bool]:
    """Return the last status, and whether every request was answered."""
    nbytes = sum(view.nbytes for view in views)
    awaited = 0
    todo = chunks(views)
    status = Status.OK
    while True:
        while awaited < window and (each := next(todo, None)) is not None:
            offset, chunk = each
            line.send([Request(Op.PUT, name, nbytes, offset, len(chunk))], chunk)
            awaited += 1
        if not awaited:  # the server has dropped the earlier chunks
            return status, True
        status = line.reply().status
        awaited -= 1
        if status is not Status.OK:
            return status, not awaited
