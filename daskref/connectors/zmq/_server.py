"""Serves the objects of a host to other hosts: a port, and a thread per connection.

Known limits: whoever has the session's keys may open as many connections as are
allowed, and keep them; those without lose theirs once they are silent for the handshake
interval, or have said what cannot be right.
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
from daskref.connectors.zmq._keys import Handshake, Keys, RefusedError
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
#: Seconds between two looks at pushes that may be abandoned, and between two attempts
#: to take a connection that this process has no descriptor for.
_LOOK = 1.0
#: Seconds for the threads to end.
_STOP = 10.0

logger = logging.getLogger(__name__)


class Served(NamedTuple):
    """What a server has done."""

    #: Requests that were answered.
    requests: int = 0
    #: Bytes of objects that were sent.
    nbytes: int = 0
    #: Peers that were turned away for want of the right keys.
    refused: int = 0
    #: Requests that were none; their connections were ended.
    malformed: int = 0
    #: Connections that are open.
    connections: int = 0


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    thread: threading.Thread | None = None


class Server:
    """Answer requests of :mod:`~daskref.connectors.zmq._wire` until it is stopped.

    *listener*: a listening socket that does not block; the server closes it.

    Notes
    -----
    In a forked child there is no server; the parent's goes on.
    """

    port: int
    _connections: set[_Connection]
    _lock: threading.Lock
    _thread: threading.Thread | None
    _pid: int

    def __init__(
        self,
        local: SharedMemoryConnector,
        listener: socket.socket,
        keys: Keys,
        encrypted: bool,
        limits: Limits,
    ) -> None:
        self.port = listener.getsockname()[1]
        self._local = local
        self._listener = listener
        self._limits = limits
        self._pushes = Pushes(local, limits)
        self._connections = set()
        self._lock = make_lock()
        self._requests = self._nbytes = self._refused = self._malformed = 0
        self._stopped = False
        self._full = False
        self._pid = os.getpid()
        try:
            self._handshake = Handshake(keys, encrypted)
            self._wake: tuple[int, ...] = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            listener.close()
            raise
        forget_in_child(self)
        self._thread = start_thread(self._run, f"daskref-zmq-{self.port}")
        if self._thread is None:  # the interpreter ends: nobody would answer
            listener.close()

    @property
    def served(self) -> Served:
        """What it has done so far."""
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
        """Whether it answers."""
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
            # Who connects is refused at once, whatever has ended us.
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
            # Under the lock: nobody shuts the number down when it is another's.
            connection.socket.close()
            self._connections.discard(connection)
            if self._full:
                self._rouse()

    def _serve(self, there: socket.socket) -> None:
        answers = Answers(self._local, self._pushes)
        while not self._stopped:
            if answers.keeps and not _is_readable(there, _KEPT_SECONDS):
                answers.let_go()
            _is_readable(there, None)
            if not self._answer(there, answers):
                return

    def _answer(self, there: socket.socket, answers: Answers) -> bool:
        """Answer a request; False if it is none.

        What was sent goes with the frame: while nobody asks for more, a view of it
        would keep its pages.
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
            self._rouse()  # it has something to look after
        with self._lock:
            self._requests += 1
            self._nbytes += body.nbytes
        send(there, pack_reply(Reply(status, body.nbytes)), body)
        return True

    def _rouse(self) -> None:
        with suppress(OSError, IndexError):  # there is enough in it; it is closed
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

        Otherwise peers of a parent that died would not notice while the child lives.
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
    """Wait until a peer has said something, or has ended the connection."""
    pending = getattr(there, "pending", None)
    if pending is not None and pending():
        return True  # it was read, and not asked for
    poller = select.poll()
    poller.register(there, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))
