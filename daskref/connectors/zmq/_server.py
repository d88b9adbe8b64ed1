"""Serve the objects of a host to other hosts: one port, and a thread per connection.

Known limits: a peer with the session's keys may open as many connections as are
allowed, and keep them. A peer without keys is disconnected when it is silent for the
handshake interval, or sends something invalid.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from daskref.background import forget_in_child, make_lock, start_thread
from daskref.connectors.shm.connector import SharedMemoryConnector
from daskref.connectors.zmq._answers import Answers
from daskref.connectors.zmq._keys import Handshake, RefusedError
from daskref.connectors.zmq._listening import prepare, shut
from daskref.connectors.zmq._pushes import Pushes
from daskref.connectors.zmq._wire import (
    REQUEST_NBYTES,
    EndedError,
    Limits,
    Reply,
    pack_reply,
    receive,
    send,
    unpack_request,
)

#: Seconds for which the object of a request is kept mapped for the next one.
_KEPT_SECONDS = 2.0
#: Seconds between two looks for abandoned pushes, and between two attempts to accept
#: a connection without a free descriptor.
_LOOK = 1.0
#: Seconds to wait for the threads to end.
_STOP = 10.0

logger = logging.getLogger(__name__)


class Served(NamedTuple):
    """Counters of a server."""

    #: Answered requests.
    requests: int = 0
    #: Sent bytes of objects.
    nbytes: int = 0
    #: Peers without the right keys.
    refused: int = 0
    #: Malformed requests, which end their connections.
    malformed: int = 0
    #: Open connections.
    connections: int = 0


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    thread: threading.Thread | None = None


class Server:
    """Answer requests of :mod:`~daskref.connectors.zmq._wire` until it is stopped.

    *listener*: a listening, non-blocking socket, which the server closes.

    Notes
    -----
    A forked child has no server; the parent's continues.
    """

    def __init__(
        self,
        local: SharedMemoryConnector,
        listener: socket.socket,
        handshake: Handshake,
        limits: Limits,
    ) -> None:
        self.port = listener.getsockname()[1]
        self._local = local
        self._listener = listener
        self._handshake = handshake
        self._limits = limits
        self._pushes = Pushes(local, limits)
        self._connections: set[_Connection] = set()
        self._lock = make_lock()
        self._requests = self._nbytes = self._refused = self._malformed = 0
        self._stopped = False
        self._full = False
        self._pid = os.getpid()
        try:
            self._wake: tuple[int, ...] = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            listener.close()
            raise
        forget_in_child(self)
        self._thread = start_thread(self._run, f"daskref-zmq-{self.port}")
        if self._thread is None:  # the interpreter ends: no thread would answer
            listener.close()

    @property
    def served(self) -> Served:
        """The counters so far."""
        with self._lock:
            return Served(
                self._requests,
                self._nbytes,
                self._refused,
                self._malformed,
                len(self._connections),
            )

    @property
    def running(self) -> bool:
        """Whether the server's thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    # Taking connections, in a thread.

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._pushes.expire()
                poller = select.poll()
                poller.register(self._wake[0], select.POLLIN)
                if not self._is_full():
                    poller.register(self._listener, select.POLLIN)
                ready = dict(poller.poll(_LOOK * 1000 if self._pushes else None))
                if self._wake[0] in ready:
                    with suppress(BlockingIOError):
                        os.read(self._wake[0], 4096)
                if self._listener.fileno() in ready:
                    self._accept()
        except Exception:
            logger.exception("The server of %r ended", self._local)
        finally:
            # Clients that connect from here on are refused at once.
            self._listener.close()
            self._end_connections()
            self._pushes.close()

    def _is_full(self) -> bool:
        with self._lock:
            self._full = len(self._connections) >= self._limits.connections
            return self._full

    def _accept(self) -> None:
        try:
            raw, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as exc:
            logger.warning("A connection could not be taken: %s", exc)
            time.sleep(_LOOK)
            return
        try:
            raw.settimeout(self._limits.handshake)
            prepare(raw, self._limits.heartbeat)
            connection = _Connection(self._handshake.wrap_server(raw))
        except OSError:  # it is gone already
            raw.close()
            return
        with self._lock:
            self._connections.add(connection)
        name = f"daskref-zmq-{self.port}-peer"
        connection.thread = start_thread(lambda: self._attend(connection), name)
        if connection.thread is None:  # the interpreter ends
            self._forget(connection)

    def _end_connections(self) -> None:
        with self._lock:
            found = list(self._connections)
            for each in found:
                shut(each.socket)
        deadline = time.monotonic() + _STOP
        for each in found:
            if each.thread is not None:
                each.thread.join(max(0.0, deadline - time.monotonic()))

    # Connections, each in a thread of its own.

    def _attend(self, connection: _Connection) -> None:
        there = connection.socket
        try:
            self._handshake.accept(there)
            there.settimeout(self._limits.timeout)
            self._serve(there)
        except RefusedError:
            with self._lock:
                self._refused += 1
        except (EndedError, OSError):
            pass
        except Exception:
            logger.exception("A connection to the server of %r ended", self._local)
        finally:
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        with self._lock:
            # Under the lock: `_end_connections` may shut this descriptor down.
            connection.socket.close()
            self._connections.discard(connection)
            if self._full:
                self._rouse()

    def _serve(self, there: socket.socket) -> None:
        answers = Answers(self._local, self._pushes)
        while not self._stopped:
            if answers.kept and not _is_readable(there, _KEPT_SECONDS):
                answers.kept = None
            _is_readable(there, None)
            if not self._answer(there, answers):
                return

    def _answer(self, there: socket.socket, answers: Answers) -> bool:
        """Answer a request; return False if it is malformed.

        The view of the object ends with this frame: it would keep the object's pages
        while no further request comes.
        """
        request = unpack_request(receive(there, REQUEST_NBYTES))
        if request is None:
            with self._lock:
                self._malformed += 1
            return False
        data = receive(there, request.data_nbytes)
        begun = bool(self._pushes)
        status, body = answers.answer(request, memoryview(data))
        if self._pushes and not begun:
            self._rouse()  # to look for abandoned pushes
        with self._lock:
            self._requests += 1
            self._nbytes += body.nbytes
        send(there, pack_reply(Reply(status, body.nbytes)), body)
        return True

    def _rouse(self) -> None:
        with suppress(OSError, IndexError):  # the pipe is full, or closed
            os.write(self._wake[1], b"x")

    # From outside.

    def stop(self) -> None:
        """End the threads and close the port. A second call is silent."""
        if self._pid != os.getpid() or self._stopped:
            return
        self._stopped = True
        self._rouse()
        if self._thread is not None:
            self._thread.join(_STOP)
        if not self.running:
            with self._lock:
                wake, self._wake = self._wake, ()
            for fd in wake:
                os.close(fd)

    def forget(self) -> None:
        """Close the parent's connections, in a forked child.

        Otherwise the peers of a parent that died would not notice while the child
        lives.
        """
        for each in self._connections:
            each.socket.close()
        self._connections = set()
        if self._stopped:  # the numbers mean other files by now
            return
        self._listener.close()
        for fd in self._wake:
            with suppress(OSError):
                os.close(fd)
        self._pushes.abandon()


def _is_readable(there: socket.socket, seconds: float | None) -> bool:
    """Wait until a peer has sent something, or has ended the connection."""
    pending = getattr(there, "pending", None)
    if pending is not None and pending():
        return True  # decrypted, and not read yet
    poller = select.poll()
    poller.register(there, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))
