"""Connections to servers, kept for the next request."""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress
from itertools import count
from threading import Lock
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from daskref.background import forget_in_child
from daskref.connectors.zmqkeys import Keys
from daskref.connectors.zmqlimits import Limits
from daskref.connectors.zmqlisten import split_endpoint
from daskref.connectors.zmqwire import (
    LARGEST_CHUNK,
    Reply,
    Request,
    pack_request,
    unpack_reply,
)

#: Idle connections that are kept: of one endpoint, in all, and for how many seconds.
_IDLE_EACH, _IDLE, _IDLE_SECONDS = 4, 64, 60.0
#: Seconds to find out why a connection failed.
_PROBE = 1.0
#: Seconds within which a server ends the handshake if it will not have us; if it is
#: only slow, its own limit for handshakes ends it later.
_AT_ONCE = 1.0
_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
)

#: What a parent's contexts and sockets are in a forked child: never to be closed.
_parents: list[Any] = []


class ClosedError(Exception):
    """The connections were closed while one was wanted, or used."""


class Line:
    """One connection to one server, for one thread at a time.

    It connects in the background and does not reconnect: once :meth:`broken` says
    why, it is of no use any more.
    """

    endpoint: str
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    #: Whether the end of the connection is final: the server is not there, or will not
    #: have us.
    final: bool
    idle_since: float

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        keys: Keys,
        curve: bool,
        limits: Limits,
    ) -> None:
        self.endpoint = endpoint
        self.final = False
        self.idle_since = 0.0
        self._token = keys.token_bytes
        self._shaken = False
        self._made = time.monotonic()
        self._numbers = count(secrets.randbits(62))
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.ipv6 = True
        self.socket.maxmsgsize = LARGEST_CHUNK
        self.socket.reconnect_ivl = -1
        self.socket.connect_timeout = max(1, int(limits.stall * 1000))
        self.socket.handshake_ivl = 0  # who asks knows how long to wait
        self.socket.heartbeat_ivl = int(limits.heartbeat * 1000)
        self.socket.heartbeat_timeout = int(limits.heartbeat * 3000)
        keys.protect_client(self.socket, curve)
        self.monitor = self.socket.get_monitor_socket(_EVENTS)
        self.socket.connect(endpoint)

    def number(self) -> int:
        """Return a number for a request: an earlier reply is not taken for its."""
        return next(self._numbers) % 2**64

    def send(self, request: Request, data: Any = None) -> bool:
        """Send a request; *data* is copied. False if that is not possible now."""
        parts = [pack_request(request, self._token)]
        if data is not None:
            parts.append(data)
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> tuple[Reply, memoryview] | None:
        """Return a reply that is there, and its data, not copied.

        Raises
        ------
        WireError
            If it is none.
        """
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        data = frames[1].buffer if len(frames) > 1 else memoryview(b"")
        return unpack_reply(frames[0].bytes), data

    def broken(self) -> str | None:
        """Return why the connection ended, if it has, as in "it broke off"."""
        with suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self.monitor, zmq.NOBLOCK)["event"]
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._shaken = True
                elif event == zmq.EVENT_CLOSED:
                    return self._why()
                elif self._shaken:
                    return "broke off the connection"
                else:
                    self.final = time.monotonic() < self._made + _AT_ONCE
                    return (
                        "ended the handshake: it is of another session, or no "
                        "server of daskref"
                    )
        return None

    def _why(self) -> str:
        # libzmq does not tell why it could not connect.
        try:
            socket.create_connection(split_endpoint(self.endpoint), _PROBE).close()
        except OSError as exc:
            self.final = isinstance(exc, ConnectionRefusedError)
            return f"could not be reached ({exc.strerror or 'no answer'})"
        return "broke off the connection"

    def close(self) -> None:
        """End the connection."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)


class Lines:
    """The connections of one process to the servers of a session.

    Parameters
    ----------
    keys, curve
        Of the session, and whether to encrypt.
    limits
        Sizes and waits.
    """

    closed: bool
    _idle: list[Line]
    _used: int
    _context: zmq.Context[Any] | None

    def __init__(self, keys: Keys, curve: bool, limits: Limits) -> None:
        self._keys = keys
        self._curve = curve
        self._limits = limits
        self.closed = False
        self._context = None
        self._idle = []
        self._used = 0
        self._lock = Lock()
        forget_in_child(self)

    def forget(self) -> None:
        """Make new connections, in a forked child; the parent's are not its."""
        _parents.append((self._context, self._idle))
        self._context = None
        self._idle = []
        self._used = 0
        self._lock = Lock()

    def take(self, endpoint: str) -> Line:
        """Return a connection for this thread; :meth:`give_back` or :meth:`drop` it.

        Raises
        ------
        ClosedError
            If :meth:`close` was called.
        """
        while True:
            line, context, old = self._take_idle(endpoint)
            for each in old:
                each.close()
            if line is None:
                break
            if line.broken() is None:
                return line
            self.drop(line)
        try:
            return Line(context, endpoint, self._keys, self._curve, self._limits)
        except BaseException:
            self._returned()
            raise

    def _take_idle(
        self, endpoint: str
    ) -> tuple[Line | None, zmq.Context[Any], list[Line]]:
        oldest = time.monotonic() - _IDLE_SECONDS
        with self._lock:
            if self.closed:
                raise ClosedError
            if self._context is None:
                threads = max(1, min(4, len(os.sched_getaffinity(0))))
                self._context = zmq.Context(io_threads=threads)
            old = [line for line in self._idle if line.idle_since < oldest]
            self._idle = [line for line in self._idle if line not in old]
            fitting = [line for line in self._idle if line.endpoint == endpoint]
            line = fitting[-1] if fitting else None
            if line is not None:
                self._idle.remove(line)
            self._used += 1
            return line, self._context, old

    def give_back(self, line: Line) -> None:
        """Keep a connection for the next one; no reply is awaited on it."""
        with self._lock:
            there = sum(each.endpoint == line.endpoint for each in self._idle)
            keep = not self.closed and there < _IDLE_EACH and len(self._idle) < _IDLE
            if keep:
                line.idle_since = time.monotonic()
                self._idle.append(line)
                self._used -= 1
        if not keep:
            self.drop(line)

    def drop(self, line: Line) -> None:
        """End a connection that :meth:`take` returned."""
        line.close()
        self._returned()

    def _returned(self) -> None:
        with self._lock:
            self._used -= 1
            context = None
            if self.closed and not self._used:
                context, self._context = self._context, None
        if context is not None:
            context.term()

    def close(self) -> None:
        """End all connections; those in use end as they come back."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            self._used += 1
        for line in idle:
            line.close()
        self._returned()
