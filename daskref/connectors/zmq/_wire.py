"""The messages of ``zmq://``: requests and replies of fixed form.

A request is a header and, for some operations, data; so is a reply. Replies come in the
order of the requests. Between two requests the server keeps only incomplete pushes:
every chunk can be requested again, from any server, in any order.

TCP or TLS has the only checksums: reading an object once more before it is sent takes
nearly as long as sending it (512 MiB: 0.14 s without, 0.25 with).
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
#: Bytes of each chunk but the last of an object that is sent to a server.
PUSH_CHUNK = 2**20
#: Bytes of a name.
_NAME = 33

#: magic, version, op, name, size of the object, offset, length
_REQUEST = struct.Struct(f"<2sBB{_NAME}sQQQ")
#: magic, version, status, length of the data
_REPLY = struct.Struct("<2sBBQ")
#: Bytes of a TLS record.
_RECORD = 2**14
REQUEST_NBYTES, REPLY_NBYTES = _REQUEST.size, _REPLY.size


class EndedError(Exception):
    """The other end has ended the connection."""


class UnansweredError(Exception):
    """No host gave the object; the text has the answer of each endpoint."""


class Channel(Protocol):
    """A connected socket, encrypted or not."""

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Send all bytes."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Receive into a buffer; return the number of bytes, 0 at the end."""


class Op(IntEnum):
    """The operation of a request."""

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
    """The status of a reply."""

    OK = 1
    #: The object is not on that host.
    MISSING = 2
    #: A push is complete: the object is published.
    WHOLE = 3
    #: Too many pushes at once; try again.
    BUSY = 4
    #: No room for the object.
    FULL = 5
    #: The request does not fit the object.
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
        """Bytes of data that follow the header."""
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
    """Return a request; ``None`` if malformed, so that its end is not known."""
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
    """Return a reply. Raises WireError if it is malformed, or of another version."""
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
    """Send a header and its data.

    Raises OSError if the connection breaks, or accepts nothing for the socket's
    timeout.
    """
    # The header with the first data: a receiver that is woken for the header alone
    # waits again, which took a third of the time of a transfer.
    start = _RECORD - len(header)
    there.sendall(header + data[:start])
    if start < len(data):
        there.sendall(data[start:])


def receive_into(there: Channel, view: memoryview) -> None:
    """Fill a buffer.

    Raises EndedError if the connection ends before; OSError if it breaks, or nothing
    arrives for the socket's timeout.
    """
    start, nbytes = 0, view.nbytes
    while start < nbytes:
        count = there.recv_into(view[start:])
        if not count:
            raise EndedError
        start += count


def receive(there: Channel, nbytes: int) -> bytes:
    """Return the next *nbytes* bytes; raises as :func:`receive_into` does."""
    found = bytearray(nbytes)
    receive_into(there, memoryview(found))
    return bytes(found)


_READERS: dict[str, Reader] = {"timeout": parse_seconds, "lanes": parse_count}


@dataclass(frozen=True)
class Limits:
    """Sizes, counts and times of a process: two options of users, and constants.

    Tests that need other constants replace :attr:`ZmqConnector.limits`.
    """

    #: Seconds without progress after which a transfer fails.
    timeout: float = 60.0
    #: Connections over which a large object is fetched. More of them compete for the
    #: cores (measured).
    lanes: int = field(
        default_factory=lambda: max(1, min(4, len(os.sched_getaffinity(0)) // 2))
    )
    #: Bytes per request. Chunks of 64 KiB or 8 MiB halve the throughput in the clear
    #: (measured on two busy cores).
    chunk: int = 2**20
    #: Requests in flight on a connection, so that it is never idle for a round trip.
    #: They are sent before a reply is read, so they must fit into the socket's buffer.
    window: int = 8
    #: Seconds without an answer after which another endpoint is asked. A live server
    #: answers at once; a link that lost packets recovers in a few seconds.
    stall: float = 10.0
    #: Seconds of silence after which a peer without proof of its keys is disconnected.
    #: The proof takes a few round trips.
    handshake: float = 5.0
    #: Seconds of silence after which the kernel probes a server's peer; after three
    #: times as many without an answer, the connection's thread ends.
    heartbeat: float = 10.0
    #: Open connections of a server: each has a thread and a descriptor, of which a
    #: process commonly has 1024 or more. Further ones wait.
    connections: int = 1024
    #: Pushes in progress at a server, and their bytes: they take room before they are
    #: known to the scheduler. Further senders try again.
    pushes: int = 16
    push_nbytes: int = 64 * 2**30
    #: Seconds without a chunk after which a push is abandoned. Its sender has failed by
    #: then as well.
    push_age: float = 60.0

    def given(self, **values: Any) -> Limits:
        """Return limits with the users' values of :attr:`timeout` and :attr:`lanes`.

        ``None`` changes nothing. Raises ConfigError if a value is malformed or not
        positive.
        """
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **read_options(_READERS, given, "zmq: {}"))
