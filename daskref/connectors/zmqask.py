"""Small questions to servers, and objects sent to them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice

import zmq

from daskref.connectors.zmqfetch import UnansweredError
from daskref.connectors.zmqlimits import Limits
from daskref.connectors.zmqlines import ClosedError, Line, Lines
from daskref.connectors.zmqsources import Candidates, Source
from daskref.connectors.zmqwire import (
    PUSH_CHUNK,
    Op,
    Reply,
    Request,
    Status,
    checksum,
)
from daskref.exceptions import WireError

#: Seconds between looks at whether the connector was closed.
_LOOK = 0.2


def ask(
    lines: Lines,
    source: Source,
    request: Request,
    limits: Limits,
    data: bytes | None = None,
) -> Status:
    """Ask a host, endpoint after endpoint, until one answers.

    Parameters
    ----------
    lines
        Makes the connections.
    source
        The host.
    request
        Its number is replaced.
    limits
        Waits.
    data
        Goes with the request.

    Raises
    ------
    UnansweredError
        If none of its endpoints answers.
    ClosedError
        If the connections were closed.
    """
    candidates = Candidates([source])
    while (endpoint := candidates.pick(time.monotonic())) is not None:
        line = lines.take(endpoint)
        try:
            number = line.number()
            line.send(request._replace(number=number), data)
            reply = _await(lines, line, {number}, limits)
        except UnansweredError as exc:
            lines.drop(line)
            candidates.drop(endpoint, str(exc))
        except BaseException:
            lines.drop(line)
            raise
        else:
            lines.give_back(line)
            return reply.status
    raise UnansweredError(str(candidates))


def _await(lines: Lines, line: Line, numbers: set[int], limits: Limits) -> Reply:
    """Return the reply to one of several requests; the error's text says why not."""
    poller = zmq.Poller()
    poller.register(line.socket, zmq.POLLIN)
    poller.register(line.monitor, zmq.POLLIN)
    deadline = time.monotonic() + limits.stall
    while True:
        try:
            while (received := line.receive()) is not None:
                if received[0].number in numbers:
                    return received[0]
        except WireError as exc:
            raise UnansweredError(f"answered nonsense ({exc})") from exc
        if lines.closed:
            raise ClosedError
        if time.monotonic() > deadline:
            raise UnansweredError(f"did not answer for {limits.stall:g} s")
        ready = dict(poller.poll(int(min(_LOOK, limits.stall) * 1000) or 1))
        if line.monitor in ready and line.socket not in ready:
            why = line.broken()
            if why is not None:
                raise UnansweredError(why)


def chunks(views: Sequence[memoryview]) -> Iterator[tuple[int, bytes]]:
    """Return offsets and chunks of buffers that lie one after another."""
    offset = 0
    chunk = bytearray()
    for view in views:
        start = 0
        while start < view.nbytes:
            piece = view[start : start + PUSH_CHUNK - len(chunk)]
            chunk += piece
            start += piece.nbytes
            if len(chunk) == PUSH_CHUNK:
                yield offset, bytes(chunk)
                offset += PUSH_CHUNK
                chunk.clear()
    if chunk or not offset:
        yield offset, bytes(chunk)


def push(
    lines: Lines,
    endpoint: str,
    name: str,
    views: Sequence[memoryview],
    limits: Limits,
) -> Status:
    """Send an object to a server.

    Parameters
    ----------
    lines
        Makes the connections.
    endpoint
        Of the server.
    name
        Of the object; if the server has it already, nothing more is sent.
    views
        The bytes.
    limits
        Sizes and waits.

    Returns
    -------
    Status
        ``WHOLE`` if the object is published there.

    Raises
    ------
    UnansweredError
        If the server does not answer.
    ClosedError
        If the connections were closed.
    """
    nbytes = sum(view.nbytes for view in views)
    line = lines.take(endpoint)
    asked: dict[int, tuple[int, bytes]] = {}
    todo = chunks(views)
    damaged = False
    try:
        while True:
            for offset, chunk in islice(todo, limits.window - len(asked)):
                _send(line, asked, name, nbytes, offset, chunk)
            reply = _await(lines, line, set(asked), limits)
            offset, chunk = asked.pop(reply.number)
            if reply.status is Status.DAMAGED and not damaged:
                damaged = True
                _send(line, asked, name, nbytes, offset, chunk)
            elif reply.status is not Status.OK:
                break
            elif offset + len(chunk) == nbytes and not asked:
                break  # it lost what came before
    except BaseException:
        lines.drop(line)
        raise
    if asked:
        lines.drop(line)
    else:
        lines.give_back(line)
    return reply.status


def _send(
    line: Line,
    asked: dict[int, tuple[int, bytes]],
    name: str,
    nbytes: int,
    offset: int,
    chunk: bytes,
) -> None:
    number = line.number()
    asked[number] = offset, chunk
    check = checksum(chunk)
    line.send(Request(Op.PUT, number, name, nbytes, offset, len(chunk), check), chunk)
