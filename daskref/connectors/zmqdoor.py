"""Who is connected to a server, and who has to go when no more fit in.

A server that is full lets nobody in. So that strangers cannot keep it full, those that
have not sent a valid request soon have to go then, the others stay.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from daskref.connectors.zmqlisten import pause, resume

#: Seconds that a connection has for its first request while the server is full. Those
#: who have the keys send it at once: a few round trips after they connect.
_FIRST_REQUEST = 1.0


class Door:
    """Counts the connections of a socket, and shuts them out when there are too many.

    For one thread, but for :attr:`connections` and :attr:`shut`.

    Parameters
    ----------
    router
        Not bound yet; the door uses its monitor.
    listener
        On which it will listen.
    most
        Connections from which on no further ones are let in.
    """

    #: Says that :meth:`follow` has something to do.
    monitor: zmq.Socket[bytes]
    #: Whether nobody is let in.
    shut: bool
    #: File descriptor -> when it has to have sent a request; ``inf`` if it has.
    _connected: dict[int, float]

    def __init__(
        self, router: zmq.Socket[bytes], listener: socket.socket, most: int
    ) -> None:
        self._router = router
        self._listener = listener
        self._port = listener.getsockname()[1]
        self._most = most
        self._connected = {}
        self.shut = False
        self.monitor = router.get_monitor_socket(
            zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
        )

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connected)

    def follow(self) -> None:
        """Note who has come and gone."""
        with suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self.monitor, zmq.NOBLOCK)
                fd = int(event["value"])
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self._connected[fd] = time.monotonic() + _FIRST_REQUEST
                else:
                    self._connected.pop(fd, None)
        self._open_or_shut()

    def _open_or_shut(self) -> None:
        full = len(self._connected) >= self._most
        if full != self.shut:
            with suppress(OSError):  # a kernel that has no such filters
                pause(self._listener) if full else resume(self._listener)
            self.shut = full

    def vouch(self, frame: zmq.Frame) -> None:
        """Let the connection stay on which a valid request came."""
        fd = int(frame.get(zmq.SRCFD))
        if fd not in self._connected:
            self.follow()  # it came while others were answered
        if fd in self._connected:
            self._connected[fd] = math.inf

    def due(self) -> float:
        """Return the seconds until :meth:`make_room` has something to do."""
        if not self.shut:
            return math.inf
        return max(0.0, min(self._connected.values()) - time.monotonic())

    def make_room(self) -> None:
        """If it is shut, end the connections that should have sent a request."""
        if not self.shut:
            return
        now = time.monotonic()
        for fd, deadline in self._connected.items():
            if deadline <= now:
                # Once is enough; until libzmq says that it is gone, it counts.
                self._connected[fd] = math.inf
                with suppress(OSError), ours(fd, self._port) as there:
                    there.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close the parent's connections, in a forked child."""
        for fd in self._connected:
            with suppress(OSError), ours(fd, self._port):
                os.close(fd)

    def close(self) -> None:
        """Follow nobody any more."""
        self._router.disable_monitor()
        self.monitor.close(0)


@contextmanager
def ours(fd: int, port: int) -> Iterator[Any]:
    """Give a socket of that port, if the number still means one.

    The numbers come from libzmq; by now one may mean another file.

    Raises
    ------
    OSError
        If it does.
    """
    with socket.socket(fileno=os.dup(fd)) as there:
        inet = there.family in (socket.AF_INET, socket.AF_INET6)
        if not inet or there.getsockname()[1] != port:
            raise OSError(f"{fd} is not a connection to port {port}")
        yield there
