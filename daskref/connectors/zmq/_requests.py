"""Small questions to servers, and objects sent to them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

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
    """Ask a host, endpoint after endpoint, until one answers.

    Raises UnansweredError if none of its endpoints answers; ClosedError if the
    connections were closed.
    """
    candidates = Candidates([source])
    while (endpoint := candidates.pick(time.monotonic())) is not None:
        try:
            return _ask_one(lines, endpoint, request, data)
        except UnansweredError as exc:
            candidates.drop(endpoint, str(exc))
    raise UnansweredError(str(candidates))


def _ask_one(lines: Lines, endpoint: str, request: Request, data: bytes) -> Status:
    line = _take(lines, endpoint)
    try:
        line.send([request], data)
        status = line.reply().status
    except BrokenError as exc:
        raise _unanswered(lines, line, exc) from exc
    except BaseException:
        lines.drop(line)
        raise
    lines.give_back(line)
    return status


def _take(lines: Lines, endpoint: str) -> Line:
    try:
        return lines.take(endpoint)
    except BrokenError as exc:
        if lines.closed:
            raise ClosedError from exc
        raise UnansweredError(str(exc)) from exc


def _unanswered(lines: Lines, line: Line, exc: BrokenError) -> Exception:
    lines.drop(line)
    return ClosedError() if lines.closed else UnansweredError(str(exc))


def chunks(views: Sequence[memoryview]) -> Iterator[tuple[int, bytes | memoryview]]:
    """Return offsets and chunks of buffers that lie one after another.

    A chunk that is part of one buffer is not copied.
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
    """Send an object to a server.

    Raises UnansweredError if the server does not answer; ClosedError if the connections
    were closed.

    Parameters
    ----------
    name
        Of the object; if the server has it already, nothing more is sent.

    Returns
    -------
    Status
        ``WHOLE`` if the object is published there.
    """
    line = _take(lines, endpoint)
    try:
        status, done = _push(line, name, views, limits.window)
    except BrokenError as exc:
        raise _unanswered(lines, line, exc) from exc
    except BaseException:
        lines.drop(line)
        raise
    lines.give_back(line) if done else lines.drop(line)
    return status


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
        if not awaited:  # it lost there what came before
            return status, True
        status = line.reply().status
        awaited -= 1
        if status is not Status.OK:
            return status, not awaited
