"""Serves the objects of a host to other hosts: one thread, its own context and port.

Known limits: whoever has the session's keys may open as many connections as are
allowed, and keep them; those without lose theirs after the handshake interval, or
sooner if the server is full.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

import zmq

from daskref.background import forget_in_child
from daskref.connectors.objectnames import NAME
from daskref.connectors.shm import SharedMemoryConnector, SharedMemoryKey
from daskref.connectors.zmqdoor import Door, ours
from daskref.connectors.zmqkeys import Gate, Keys
from daskref.connectors.zmqlimits import Limits
from daskref.connectors.zmqlisten import endpoint
from daskref.connectors.zmqpushes import Pushes
from daskref.connectors.zmqwire import (
    LARGEST_CHUNK,
    NAMES,
    Op,
    Reply,
    Request,
    Status,
    checksum,
    pack_reply,
    unpack_request,
)
from daskref.exceptions import ConnectorError, WireError

#: Objects kept mapped between two requests, and for how many seconds.
_OPEN, _OPEN_SECONDS = 32, 2.0
#: Requests answered before another look at who connects.
_TURN = 16
#: Seconds for the thread to end.
_STOP = 10.0

logger = logging.getLogger(__name__)

#: What a parent's contexts and sockets are in a forked child: never to be closed.
_parents: list[Any] = []


class Served(NamedTuple):
    """What a server has done."""

    #: Requests that were answered.
    requests: int = 0
    #: Bytes of objects that were sent.
    nbytes: int = 0
    #: Peers that were turned away for want of the right keys.
    refused: int = 0
    #: Requests that were none, and were not answered.
    malformed: int = 0
    #: Connections that are open.
    connections: int = 0


class Server:
    """Answer requests of :mod:`~daskref.connectors.zmqwire` until it is stopped.

    Parameters
    ----------
    local
        The host's store.
    listener
        A listening socket; the server closes it.
    keys, curve
        Of the session, and whether to encrypt.
    limits
        Sizes and counts.

    Notes
    -----
    In a forked child there is no server; the parent's goes on.
    """

    port: int
    _local: SharedMemoryConnector
    _listener: socket.socket
    _thread: threading.Thread
    _pid: int

    def __init__(
        self,
        local: SharedMemoryConnector,
        listener: socket.socket,
        keys: Keys,
        curve: bool,
        limits: Limits,
    ) -> None:
        self.port = listener.getsockname()[1]
        self._local = local
        self._listener = listener
        self._limits = limits
        self._token = keys.token_bytes
        self._pushes = Pushes(local, limits)
        self._views: OrderedDict[str, tuple[float, memoryview]] = OrderedDict()
        self._requests = self._nbytes = self._malformed = 0
        self._complained = self._stopped = False
        self._listening = -1
        self._pid = os.getpid()
        self._wake: tuple[int, ...] = os.pipe()
        self._context = zmq.Context()
        try:
            # Before the socket is bound: nobody gets in unchecked.
            self._gate = Gate(self._context, keys, curve)
            self._router = self._context.socket(zmq.ROUTER)
            self._configure(keys, curve)
            self._door = Door(self._router, listener, limits.connections)
            self._bind()
        except BaseException:
            self._listener.close()
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(
            target=self._run, name=f"daskref-zmq-{self.port}", daemon=True
        )
        self._thread.start()
        forget_in_child(self)

    def _configure(self, keys: Keys, curve: bool) -> None:
        limits, router = self._limits, self._router
        router.linger = 0
        router.ipv6 = self._listener.family == socket.AF_INET6
        router.sndhwm = router.rcvhwm = limits.requests
        router.maxmsgsize = LARGEST_CHUNK
        router.handshake_ivl = int(limits.handshake * 1000)
        router.heartbeat_ivl = int(limits.heartbeat * 1000)
        router.heartbeat_timeout = int(limits.heartbeat * 3000)
        keys.protect_server(router, curve)

    def _bind(self) -> None:
        # libzmq closes what it is given; through ours, `pause` works.
        self._listening = os.dup(self._listener.fileno())
        self._router.setsockopt(zmq.USE_FD, self._listening)
        self._router.bind(endpoint(self._listener.getsockname()[0], self.port))

    @property
    def served(self) -> Served:
        """What it has done so far."""
        return Served(
            self._requests,
            self._nbytes,
            self._gate.refused,
            self._malformed,
            self._door.connections,
        )

    @property
    def running(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    # In the thread.

    def _run(self) -> None:
        poller = zmq.Poller()
        for each in (self._router, self._gate.socket, self._door.monitor):
            poller.register(each, zmq.POLLIN)
        poller.register(self._wake[0], zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll(self._patience()))
                if self._wake[0] in ready:
                    return
                if self._gate.socket in ready:
                    self._gate.answer()
                if self._door.monitor in ready:
                    self._door.follow()
                if self._router in ready:
                    self._take_turn()
                self._tidy()
        except Exception:
            logger.exception("The server of %r ended", self._local)
        finally:
            self._views.clear()
            self._pushes.close()
            self._door.close()
            self._router.close(0)
            self._gate.socket.close(0)
            self._context.term()
            # Who connects is refused at once, whatever has ended us.
            self._listener.close()

    def _patience(self) -> int | None:
        """Return the milliseconds after which there is something to tidy."""
        busy = 1.0 if self._views or self._pushes else inf
        seconds = min(busy, self._door.due())
        return None if seconds == inf else int(seconds * 1000) + 1

    def _tidy(self) -> None:
        self._pushes.expire()
        self._door.make_room()
        old = time.monotonic() - _OPEN_SECONDS
        while self._views:
            name, (used, _) = next(iter(self._views.items()))
            if used > old and len(self._views) <= _OPEN:
                break
            del self._views[name]

    def _take_turn(self) -> None:
        for _ in range(_TURN):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if len(frames) not in (2, 3) or not (
                request := unpack_request(frames[1].bytes, self._token)
            ):
                self._malformed += 1
                continue
            self._door.vouch(frames[1])
            data = frames[2].buffer if len(frames) == 3 else memoryview(b"")
            reply, body = self._answer(request, data)
            self._requests += 1
            self._nbytes += body.nbytes
            parts: list[Any] = [frames[0].bytes, pack_reply(reply)]
            if body.nbytes:
                parts.append(body)
            # To a peer that is gone, or does not read, nothing is sent.
            with suppress(zmq.Again):
                self._router.send_multipart(parts, zmq.NOBLOCK, copy=False)

    def _answer(self, request: Request, data: memoryview) -> tuple[Reply, memoryview]:
        body = memoryview(b"")
        check = 0
        try:
            if request.op is Op.GET:
                status, body = self._get(request)
                check = checksum(body)
            elif request.op is Op.PUT:
                status = self._pushes.take(request, data)
            elif request.op is Op.EXISTS:
                key = SharedMemoryKey(request.name, request.nbytes)
                status = _found(self._local.exists(key))
            elif request.op is Op.EVICT:
                status = self._evict(data)
            elif request.op is Op.TAKE:
                key = SharedMemoryKey(request.name, request.nbytes)
                status = _found(self._local.take(key) is not None)
            else:
                key = SharedMemoryKey(request.name, request.nbytes)
                status = _found(self._local.renew(key, request.length / 1000))
        except WireError:
            status = Status.REFUSED
        except Exception as exc:
            status = Status.FAILED
            self._complain(request, exc)
        return Reply(status, request.number, request.offset, check), body

    def _complain(self, request: Request, exc: Exception) -> None:
        level = logging.DEBUG if self._complained else logging.WARNING
        self._complained = True
        if isinstance(exc, ConnectorError):
            logger.log(level, "A request of another host failed: %s", exc)
        else:
            logger.log(level, "%r of another host failed", request.op, exc_info=exc)

    def _get(self, request: Request) -> tuple[Status, memoryview]:
        empty = memoryview(b"")
        end = request.offset + request.length
        if request.length > LARGEST_CHUNK or end > request.nbytes:
            return Status.REFUSED, empty
        kept = self._views.pop(request.name, None)
        key = SharedMemoryKey(request.name, request.nbytes)
        # Once it is evicted, transfers that have begun still get the rest.
        begun = request.offset or self._local.exists(key)
        if kept is not None and kept[1].nbytes == request.nbytes and begun:
            view = kept[1]
        else:
            found = self._local.get(key)
            if found is None:
                return Status.MISSING, empty
            view = found
        # While it is here, its lock keeps the pages from being written again.
        self._views[request.name] = time.monotonic(), view
        return Status.OK, view[request.offset : end]

    def _evict(self, data: memoryview) -> Status:
        names = bytes(data).decode("ascii", "replace").split("\n")
        if len(names) > NAMES or not all(map(NAME.fullmatch, names)):
            return Status.REFUSED
        for name in names:
            self._pushes.forget_name(name)
            self._views.pop(name, None)
        self._local.evict_batch(SharedMemoryKey(name, 0) for name in names)
        return Status.OK

    # From outside.

    def stop(self) -> None:
        """End the thread and close the port. A second call is silent."""
        if self._pid != os.getpid() or self._stopped:
            return
        self._stopped = True
        os.write(self._wake[1], b"x")
        self._thread.join(_STOP)
        if not self._thread.is_alive():
            wake, self._wake = self._wake, ()
            for fd in wake:
                os.close(fd)

    def forget(self) -> None:
        """Close the parent's connections, in a forked child.

        Otherwise peers of a parent that died would not notice while the child lives.
        """
        _parents.append(
            (self._context, self._router, self._door, self._gate.socket, self._views)
        )
        if self._stopped:  # the numbers mean other files by now
            return
        self._door.forget()
        with suppress(OSError), ours(self._listening, self.port):
            os.close(self._listening)
        self._listener.close()
        for fd in self._wake:
            with suppress(OSError):
                os.close(fd)
        self._pushes.abandon()


def _found(there: bool) -> Status:
    return Status.OK if there else Status.MISSING
