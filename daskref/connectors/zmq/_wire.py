"""What goes over the connections of ``zmq://``: requests and replies of fixed form.

A request is a header and, for some operations, data; so is a reply. Replies come in the
order of the requests. The server keeps nothing between two requests but pushes that are
not complete: every chunk can be asked for again, of any server, in any order.

There are no checksums beside those of TCP, or TLS: to read an object once more before
it is sent takes nearly as long as to send it (512 MiB: 0.14 s without, 0.25 with).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from daskref.connectors.files.names import NAME
from daskref.exceptions import WireError
from daskref.units import Reader, parse_count, parse_seconds, read_options

VERSION = 3
MAGIC = b"DR"
#: Names in one :attr:`Op.EVICT`.
NAMES = 1000
#: The largest chunk that a server sends or takes, whatever a peer asks for.
LARGEST_CHUNK = 16 * 2**20
#: Of an object that is sent to a server, but for the last chunk.
PUSH_CHUNK = 2**20
#: Bytes of a name.
_NAME = 33

#: magic, version, op, name, size of the object, offset, length
_REQUEST = struct.Struct(f"<2sBB{_NAME}sQQQ")
#: magic, version, status, length of the data
_REPLY = struct.Struct("<2sBBQ")
#: What TLS sends at once.
_RECORD = 2**14
REQUEST_NBYTES, REPLY_NBYTES = _REQUEST.size, _REPLY.size


class EndedError(Exception):
    """The other end has ended the connection."""


class UnansweredError(Exception):
    """Nobody gave the object; the text says who was asked and what each answered."""


class Channel(Protocol):
    """What is used of a connected socket, encrypted or not."""

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Send everything."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Put what comes into a buffer; 0 if the other end has ended."""


class Op(IntEnum):
    """What is asked for."""

    #: *length* bytes of an object from *offset* on.
    GET = 1
    #: Take these bytes of an object; publish it when it is whole.
    PUT = 2
    #: Whether an object is there.
    EXISTS = 3
    #: Delete the objects whose names are in the data.
    EVICT = 4
    #: Let an object's lease end in *length* milliseconds.
    RENEW = 5
    #: Delete an object; ``MISSING`` if this very request did not.
    TAKE = 6


#: The most data that comes with a request, of those that have any.
_LARGEST_DATA = {Op.PUT: PUSH_CHUNK, Op.EVICT: 2 * NAMES * (_NAME + 1)}


class Status(IntEnum):
    """What a server answers."""

    OK = 1
    #: The object is not on that host.
    MISSING = 2
    #: A push is complete: the object is published.
    WHOLE = 3
    #: Too many pushes at once; try again.
    BUSY = 4
    #: No room for the object.
    FULL = 5
    #: The request makes no sense for this object.
    REFUSED = 6
    #: The server failed; its log says why.
    FAILED = 7


class Request(NamedTuple):
    """One request, without data."""

    op: Op
    name: str = "0" * 8 + "-" + "0" * 24
    nbytes: int = 0
    offset: int = 0
    length: int = 0

    @property
    def data_nbytes(self) -> int:
        """Bytes of data that come with it."""
        return self.length if self.op in _LARGEST_DATA else 0


class Reply(NamedTuple):
    """One reply, without data."""

    status: Status
    length: int = 0


def pack_request(request: Request) -> bytes:
    """Return the header of a request."""
    op, name, *rest = request
    return _REQUEST.pack(MAGIC, VERSION, op, name.encode(), *rest)


def unpack_request(header: bytes) -> Request | None:
    """Return a request; ``None`` for what is none: nobody knows where it ends."""
    magic, version, op, name, *rest = _REQUEST.unpack(header)
    if magic != MAGIC or version != VERSION:
        return None
    try:
        request = Request(Op(op), name.decode("ascii"), *rest)
    except ValueError:
        return None
    if not NAME.fullmatch(request.name):
        return None
    too_much = request.data_nbytes > _LARGEST_DATA.get(request.op, 0)
    return None if too_much else request


def pack_reply(reply: Reply) -> bytes:
    """Return the header of a reply."""
    return _REPLY.pack(MAGIC, VERSION, *reply)


def unpack_reply(header: bytes) -> Reply:
    """Return a reply.

    Raises WireError if it is none, or of another version.
    """
    if len(header) != _REPLY.size:
        raise WireError(f"a reply has a header of {len(header)} bytes")
    magic, version, status, *rest = _REPLY.unpack(header)
    if magic != MAGIC or version != VERSION:
        raise WireError(
            f"a reply is of version {version}, this daskref speaks {VERSION}: "
            "install the same daskref everywhere"
        )
    try:
        return Reply(Status(status), *rest)
    except ValueError as exc:
        raise WireError(f"a reply has the unknown status {status}") from exc


def send(there: Channel, header: bytes, data: bytes | memoryview = b"") -> None:
    """Send a header and what belongs to it.

    Raises OSError if the connection breaks, or nothing is taken for the socket's
    timeout.
    """
    # With the first data: whoever is woken for a header alone waits for the rest, which
    # took a third of the time of a transfer.
    start = _RECORD - len(header)
    there.sendall(header + data[:start])
    if start < len(data):
        there.sendall(data[start:])


def receive_into(there: Channel, view: memoryview) -> None:
    """Fill a buffer.

    Raises EndedError if the other end ends the connection before; OSError if it breaks,
    or nothing comes for the socket's timeout.
    """
    start, nbytes = 0, view.nbytes
    while start < nbytes:
        count = there.recv_into(view[start:])
        if not count:
            raise EndedError
        start += count


def receive(there: Channel, nbytes: int) -> bytes:
    """Return so many bytes; raises as :func:`receive_into` does."""
    found = bytearray(nbytes)
    receive_into(there, memoryview(found))
    return bytes(found)


_READERS: dict[str, Reader] = {"timeout": parse_seconds, "lanes": parse_count}


@dataclass(frozen=True)
class Limits:
    """Sizes, counts and waits of a process: two that users choose, and constants.

    Tests that need other constants put another instance into
    :attr:`ZmqConnector.limits`.
    """

    #: Seconds that a transfer may make no progress, whoever is asked, until it fails.
    timeout: float = 60.0
    #: Connections over which a large object is fetched. More than that only take the
    #: cores from each other (measured).
    lanes: int = field(default_factory=lambda: max(1, min(4, _cores() // 2)))
    #: Bytes asked for at once. In the clear, half as much a second is moved in chunks
    #: of 64 KiB, or of 8 MiB (measured on two busy cores).
    chunk: int = 2**20
    #: Requests in flight on a connection, so that it is never idle for a round trip.
    #: That many have to fit into what the kernel keeps for the connection: they are
    #: sent before a reply is read.
    window: int = 8
    #: Seconds without an answer after which another endpoint is asked: a server that
    #: lives answers at once, a link that lost packets comes back in a few seconds.
    stall: float = 10.0
    #: Seconds of silence after which one who connects, and has not proved yet to be of
    #: the session, loses the connection: the proof takes a few round trips.
    handshake: float = 5.0
    #: Seconds of silence after which a server has the kernel ask whether the peer's
    #: host is there; after three times as many without an answer its thread ends.
    heartbeat: float = 10.0
    #: That a server has open: each has a thread and a descriptor, of which a process
    #: commonly has 1024 or more. New ones wait.
    connections: int = 1024
    #: Objects that other hosts may be sending to a server at once, and their bytes:
    #: they take room before anybody knows of them. Who sends one more tries again.
    pushes: int = 16
    push_nbytes: int = 64 * 2**30
    #: Seconds without a chunk after which one that is sent is given up: by then who
    #: sends it has failed, too.
    push_age: float = 60.0

    def given(self, **values: Any) -> Limits:
        """Return limits with what users write of :attr:`timeout` and :attr:`lanes`.

        Raises ConfigError if one is malformed, or not positive.

        Parameters
        ----------
        **values
            ``None`` changes nothing.
        """
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **read_options(_READERS, given, "zmq: {}"))


def _cores() -> int:
    return len(os.sched_getaffinity(0))
