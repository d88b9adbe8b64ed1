"""Connections to servers, kept for the next request."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Sequence

from daskref.background import forget_in_child, make_lock
from daskref.connectors.zmq._keys import Handshake, Keys, RefusedError
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

#: Idle connections that are kept: of one endpoint, in all, and for how many seconds.
_IDLE_EACH, _IDLE, _IDLE_SECONDS = 4, 64, 60.0
#: Seconds within which a server ends the handshake if it will not have us; if it is
#: only slow, its own limit for handshakes ends it later.
_AT_ONCE = 1.0
#: Bytes that are read at once. With 1 MiB it took as long (measured).
_READ = 2**18


class ClosedError(Exception):
    """The connections were closed while one was wanted, or used."""


class BrokenError(Exception):
    """A connection cannot be made, or has ended; the text says why: "it broke off".

    Parameters
    ----------
    why
        What the other end did.
    final
        Whether to ask it again is of no use: it is not there, or will not have us.
    """

    final: bool

    def __init__(self, why: str, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class TlsClient:
    """What goes over a connected socket, encrypted; for one thread at a time.

    *raw*: the connected socket; whoever made it closes it.
    """

    def __init__(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        self._raw = raw
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)
        self._read = memoryview(bytearray(_READ))

    def do_handshake(self) -> None:
        """Agree on keys, and check who the other end is.

        Raises ssl.SSLError if it is not trusted; OSError if the connection breaks.
        """
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush()  # if it is refused, too: it says why
            self._fill()

    def sendall(self, data: bytes | memoryview) -> None:
        """Send everything."""
        self._tls.write(data)
        self._flush()

    def recv_into(self, buffer: memoryview) -> int:
        """Put what comes into a buffer, which is not empty; return how many bytes.

        0 if the other end has ended the connection.
        """
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
    """Return what a client uses to speak over a socket; nothing is sent yet."""
    context = handshake.client_context
    return raw if context is None else TlsClient(raw, context)


class Line:
    """One connection to one server, for one thread at a time.

    Raises BrokenError if it cannot be made. So do the methods, if it ends or stalls.

    Parameters
    ----------
    stall
        Seconds without an answer, after which the connection is of no use any more.
    """

    endpoint: str
    idle_since: float

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
        """Prove that we are of the session, and see that the server is."""
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

    def _silent(self) -> BrokenError:
        return BrokenError(f"did not answer for {self._stall:g} s")

    def _broken(self, exc: Exception) -> BrokenError:
        if isinstance(exc, TimeoutError):
            return self._silent()
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
        """Return the next reply; if it is ``OK``, *expected* bytes of data follow."""
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
        """Return so many bytes to put data into; the next call may return the same."""
        if len(self._scratch) < nbytes:
            self._scratch = bytearray(nbytes)
        return memoryview(self._scratch)[:nbytes]

    def is_usable(self) -> bool:
        """Tell whether an idle connection still stands."""
        # Unasked, a server says nothing: what can be read is the end.
        poller = select.poll()
        poller.register(self._raw, select.POLLIN)
        return not poller.poll(0)

    def rest(self) -> None:
        """Wait for the next one who uses it, with as little memory as may be."""
        self.idle_since = time.monotonic()
        self._scratch = bytearray()

    def shut(self) -> None:
        """Wake the thread that uses it, with an error."""
        shut(self._raw)

    def close(self) -> None:
        """End the connection."""
        self._raw.close()


class Lines:
    """The connections of one process to the servers of a session."""

    closed: bool
    _idle: list[Line]
    _used: set[Line]

    def __init__(self, keys: Keys, encrypted: bool, limits: Limits) -> None:
        self._handshake = Handshake(keys, encrypted)
        self._limits = limits
        self.closed = False
        self._idle = []
        self._used = set()
        self._lock = make_lock()
        forget_in_child(self)

    def forget(self) -> None:
        """Make new connections, in a forked child; the parent's are not its."""
        for line in [*self._idle, *self._used]:
            line.close()
        self._idle = []
        self._used = set()

    def take(self, endpoint: str) -> Line:
        """Return a connection for this thread; :meth:`give_back` or :meth:`drop` it.

        Raises ClosedError if :meth:`close` was called; BrokenError if the server cannot
        be reached, or is not of the session.
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
        """Keep a connection for the next one; no reply is awaited on it."""
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
        """End a connection that :meth:`take` returned."""
        with self._lock:
            self._used.discard(line)
        line.close()

    def close(self) -> None:
        """End all connections; who uses one hears that it has ended."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            # Under the lock: a number that was closed may mean another file.
            for line in self._used:
                line.shut()
        for line in idle:
            line.close()
