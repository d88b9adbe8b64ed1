"""Connections to servers, kept for the next request."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Sequence

from daskref.background import forget_in_child, make_lock
from daskref.connectors.zmq._keys import Handshake, RefusedError
from daskref.connectors.zmq._listening import prepare, shut, split_endpoint
from daskref.connectors.zmq._wire import (
    REPLY_NBYTES,
    Channel,
    EndedError,
    Limits,
    Reply,
    Request,
    Status,
    pack_request,
    receive,
    receive_into,
    send,
    unpack_reply,
)
from daskref.exceptions import WireError

#: Idle connections kept: of one endpoint, in all, and for how many seconds.
_IDLE_EACH, _IDLE, _IDLE_SECONDS = 4, 64, 60.0
#: Seconds within which a server that refuses this process ends the handshake. For a
#: slow server, its own limit on handshakes ends it later.
_AT_ONCE = 1.0
#: Bytes that are read at once. With 1 MiB it took as long (measured).
_READ = 2**18


class ClosedError(Exception):
    """The connections were closed while one was requested or used."""


class BrokenError(Exception):
    """A connection cannot be made, or has ended; the text says why.

    *final*: whether asking the endpoint again is useless, because nothing listens there
    or the server refuses this process.
    """

    def __init__(self, why: str, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class TlsClient:
    """An encrypted channel over a connected socket, for one thread at a time.

    *raw*: the socket; the caller closes it.
    """

    def __init__(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        self._raw = raw
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)
        self._read = memoryview(bytearray(_READ))

    def do_handshake(self) -> None:
        """Agree on keys and authenticate the server.

        Raises ssl.SSLError if it is not trusted; OSError if the connection breaks.
        """
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush()  # a refusal, too, is sent to the other end
            self._fill()

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all bytes."""
        self._tls.write(data)
        self._flush()

    def recv_into(self, buffer: memoryview) -> int:
        """Receive into a non-empty buffer; return the number of bytes, 0 at the end."""
        while True:
            try:
                return self._tls.read(buffer.nbytes, buffer)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return 0

    def _fill(self) -> None:
        count = self._raw.recv_into(self._read)
        if count:
            self._in.write(self._read[:count])
        else:
            self._in.write_eof()

    def _flush(self) -> None:
        if self._out.pending:
            self._raw.sendall(self._out.read())


def open_channel(raw: socket.socket, handshake: Handshake) -> Channel:
    """Return a client's channel over a connected socket; sends nothing yet."""
    context = handshake.client_context
    return raw if context is None else TlsClient(raw, context)


class Line:
    """One connection to one server, for one thread at a time.

    The constructor and all methods raise BrokenError if the connection cannot be made,
    ends, or gives no answer for *stall* seconds.
    """

    def __init__(self, endpoint: str, handshake: Handshake, stall: float) -> None:
        self.endpoint = endpoint
        self.idle_since = 0.0
        self._handshake = handshake
        self._stall = stall
        self._scratch = bytearray()
        try:
            self._raw = socket.create_connection(split_endpoint(endpoint), stall)
        except OSError as exc:
            refused = isinstance(exc, ConnectionRefusedError)
            why = f"could not be reached ({exc.strerror or 'no answer'})"
            raise BrokenError(why, refused) from exc
        try:
            prepare(self._raw)
            self._channel = open_channel(self._raw, handshake)
        except OSError as exc:
            self.close()
            raise self._broken(exc) from exc

    def shake(self) -> None:
        """Authenticate this process and the server to each other."""
        began = time.monotonic()
        try:
            self._handshake.connect(self._channel)
        except (RefusedError, EndedError) as exc:
            at_once = time.monotonic() < began + _AT_ONCE
            raise BrokenError(
                "ended the handshake: it is of another session, or no server of "
                "daskref",
                at_once,
            ) from exc
        except OSError as exc:
            raise self._broken(exc) from exc

    def _broken(self, exc: Exception) -> BrokenError:
        if isinstance(exc, TimeoutError):
            return BrokenError(f"did not answer for {self._stall:g} s")
        if isinstance(exc, WireError):
            return BrokenError(f"answered nonsense ({exc})", True)
        return BrokenError("broke off the connection")

    def send(self, requests: Sequence[Request], data: bytes | memoryview = b"") -> None:
        """Send requests; *data* goes with the last one."""
        try:
            send(self._channel, b"".join(map(pack_request, requests)), data)
        except OSError as exc:
            raise self._broken(exc) from exc

    def reply(self, expected: int = 0) -> Reply:
        """Return the next reply; after ``OK``, *expected* bytes of data follow."""
        try:
            reply = unpack_reply(receive(self._channel, REPLY_NBYTES))
            if reply.length != (expected if reply.status is Status.OK else 0):
                raise WireError(f"{reply.length} bytes in place of {expected}")
        except (EndedError, OSError, WireError) as exc:
            raise self._broken(exc) from exc
        return reply

    def data(self, view: memoryview) -> None:
        """Fill a buffer with the data of a reply."""
        try:
            receive_into(self._channel, view)
        except (EndedError, OSError) as exc:
            raise self._broken(exc) from exc

    def scratch(self, nbytes: int) -> memoryview:
        """Return a buffer of *nbytes*; the next call may return the same memory."""
        if len(self._scratch) < nbytes:
            self._scratch = bytearray(nbytes)
        return memoryview(self._scratch)[:nbytes]

    def is_usable(self) -> bool:
        """Tell whether an idle connection is still open."""
        # A server sends nothing unasked: readable means that the connection ended.
        poller = select.poll()
        poller.register(self._raw, select.POLLIN)
        return not poller.poll(0)

    def rest(self) -> None:
        """Prepare for the next user, with little memory."""
        self.idle_since = time.monotonic()
        self._scratch = bytearray()

    def shut(self) -> None:
        """Wake the thread that uses the connection, with an error."""
        shut(self._raw)

    def close(self) -> None:
        """End the connection."""
        self._raw.close()


class Lines:
    """The connections of one process to the servers of a session."""

    def __init__(self, handshake: Handshake, limits: Limits) -> None:
        self._handshake = handshake
        self._limits = limits
        self.closed = False
        self._idle: list[Line] = []
        self._used: set[Line] = set()
        self._lock = make_lock()
        forget_in_child(self)

    def forget(self) -> None:
        """Close the parent's connections, in a forked child."""
        for line in [*self._idle, *self._used]:
            line.close()
        self._idle = []
        self._used = set()

    def take(self, endpoint: str) -> Line:
        """Return a connection for this thread, to :meth:`give_back` or :meth:`drop`.

        Raises ClosedError after :meth:`close`; BrokenError if the server cannot be
        reached, or is not of the session.
        """
        while (line := self._take_idle(endpoint)) is not None:
            if line.is_usable():
                return line
            self.drop(line)
        line = Line(endpoint, self._handshake, self._limits.stall)
        try:
            with self._lock:
                if self.closed:
                    raise ClosedError
                self._used.add(line)
            line.shake()
        except BaseException:
            self.drop(line)
            raise
        return line

    def _take_idle(self, endpoint: str) -> Line | None:
        oldest = time.monotonic() - _IDLE_SECONDS
        with self._lock:
            if self.closed:
                raise ClosedError
            old = [line for line in self._idle if line.idle_since < oldest]
            self._idle = [line for line in self._idle if line not in old]
            fitting = [line for line in self._idle if line.endpoint == endpoint]
            line = fitting[-1] if fitting else None
            if line is not None:
                self._idle.remove(line)
                self._used.add(line)
        for each in old:
            each.close()
        return line

    def give_back(self, line: Line) -> None:
        """Keep a connection, without outstanding replies, for the next user."""
        with self._lock:
            there = sum(each.endpoint == line.endpoint for each in self._idle)
            keep = not self.closed and there < _IDLE_EACH and len(self._idle) < _IDLE
            if keep:
                line.rest()
                self._idle.append(line)
                self._used.discard(line)
        if not keep:
            self.drop(line)

    def drop(self, line: Line) -> None:
        """End a connection from :meth:`take`."""
        with self._lock:
            self._used.discard(line)
        line.close()

    def close(self) -> None:
        """End all connections; threads that use one get an error."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            # Under the lock: the number of a closed descriptor may be another file's.
            for line in self._used:
                line.shut()
        for line in idle:
            line.close()
