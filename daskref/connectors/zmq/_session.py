"""One process's part in a session: keys, connections and server."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from daskref.background import forget_in_child, make_lock
from daskref.connectors.credentials import recall, remember
from daskref.connectors.failures import of_system
from daskref.connectors.files.locks import write_whole
from daskref.connectors.files.recycling import unlink
from daskref.connectors.shm.connector import SharedMemoryConnector
from daskref.connectors.zmq._connections import ClosedError, Lines
from daskref.connectors.zmq._keys import Handshake, Keys
from daskref.connectors.zmq._listening import endpoint, listen, outward, resolve
from daskref.connectors.zmq._server import Served, Server
from daskref.connectors.zmq._wire import Limits
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorUnavailableError,
)
from daskref.units import Advertised, parse_advertised, parse_ports

_SESSION = re.compile("[0-9a-f]{16,64}")
_EVERYWHERE = {"0.0.0.0", "::"}
#: In the session directory: one file per process that serves, with its endpoint.
_SERVERS = "servers"


class Place(NamedTuple):
    """Where to serve; see :class:`~daskref.connectors.ZmqConnector`."""

    interface: str | None
    ports: range
    advertise: Advertised | None


def parse_place(interface: str | None, port: int | str, advertise: str | None) -> Place:
    """Return where to serve, without looking up the interface.

    Raises ConfigError if the port or the advertised address is malformed.
    """
    told = None if advertise is None else parse_advertised(advertise)
    return Place(interface, parse_ports(port), told)


def open_host(session: str, root: str | None, **options: Any) -> SharedMemoryConnector:
    """Open this host's directory of a session; the first of its processes makes it.

    *options*: of :class:`~daskref.connectors.SharedMemoryConnector`.
    """
    digest = hashlib.blake2b(session.encode(), digest_size=24).hexdigest()
    name = f"daskref-{os.geteuid()}-{digest[:16]}"
    return SharedMemoryConnector(
        os.path.join(root or "/dev/shm", name),
        nonce=digest[16:],
        create=True,
        **options,
    )


def enter(session: str | None, encrypted: bool) -> str:
    """Return the name of a session; for ``None`` of a new one, whose keys are made.

    Raises ConfigError if daskref did not make the name.
    """
    if session is None:
        session = secrets.token_hex(16)
        remember(_keys_place(session), Keys.make(encrypted).dump())
    elif not isinstance(session, str) or not _SESSION.fullmatch(session):
        raise ConfigError(
            "zmq: session", session, "what the config of another connector says"
        )
    return session


def _keys_place(session: str) -> str:
    return f"zmq://{session}"


@dataclass(eq=False, repr=False)
class ZmqSession:
    """The keys of a session, and what a process opens with them when needed.

    Notes
    -----
    Thread-safe. The keys are looked up when they are needed: a process may receive them
    later, and without them it can use the objects of its own host.
    """

    _owner: str
    _name: str
    #: This host's store; :meth:`close` closes it.
    _local: SharedMemoryConnector
    _encrypted: bool
    _limits: Limits
    _server: Server | None = None
    _endpoint: str = ""
    #: Whether :meth:`close` was called in this process.
    closed: bool = False

    def __post_init__(self) -> None:
        self._lock = make_lock()
        self._resources = ExitStack()
        self._resources.callback(self._local.close)
        self._finalizer = weakref.finalize(self, self._resources.close)
        forget_in_child(self)

    # Keys.

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return the keys of the session by place, if this process has them."""
        place = _keys_place(self._name)
        found = recall(place)
        return {place: found} if found else {}

    def _handshake(self) -> Handshake:
        keys = Keys.load(recall(_keys_place(self._name)))
        if keys is None:
            raise ConnectorUnavailableError(
                self._owner,
                "this process has not got the keys of the session, which come over "
                "Dask's connections, or by `credentials.remember`: it can use what is "
                "on its own host only",
            )
        return Handshake(keys, self._encrypted)

    # Connections.

    def open_lines(self) -> Lines:
        """Return connections to other hosts; :meth:`close` closes them.

        Raises ConnectorUnavailableError if this process has not got the session's keys;
        ClosedError after :meth:`close`.
        """
        with self._lock:
            if self.closed:
                raise ClosedError
            lines = Lines(self._handshake(), self._limits)
            self._resources.callback(lines.close)
            return lines

    # The server.

    @property
    def served(self) -> Served:
        """What the server of this process has done; all zero if it has none."""
        return self._server.served if self._server is not None else Served()

    @property
    def endpoints(self) -> list[str]:
        """Endpoints of the processes of this host that serve and are alive."""
        return list(self._find_endpoints())

    def is_served(self) -> bool:
        """Tell whether any process of this host serves."""
        return self._server is not None or bool(self.endpoints)

    def _find_endpoints(self) -> Iterator[str]:
        session = self._local.session
        directory = os.path.join(session.path, _SERVERS)
        try:
            writers = sorted(os.listdir(directory))
        except FileNotFoundError:
            return
        for writer in writers:
            if writer.startswith("."):
                continue  # it is being written
            record = os.path.join(directory, writer)
            if session.gone(writer):
                unlink(record)
                continue
            with suppress(FileNotFoundError), open(record, "rb") as file:
                yield json.loads(file.read())

    def serve(self, place: Place) -> str:
        """Serve this host's objects, unless this process does; return the endpoint.

        Raises ConnectorUnavailableError if this process cannot listen at *place*, or
        has not got the session's keys.
        """
        with self._lock:
            if self._server is None:
                if self.closed:
                    raise ConnectorClosedError(self._owner)
                self._server = self._start_server(place)
            return self._endpoint

    def _start_server(self, place: Place) -> Server:
        handshake = self._handshake()
        address = resolve(place.interface) if place.interface else outward()
        try:
            listener = listen(address, place.ports)
        except OSError as exc:
            what = (
                f"it cannot be served on {address}, port {place.ports[0]} to "
                f"{place.ports[-1]}, set another interface or port"
            )
            local = repr(self._local)
            raise of_system(exc, local, what, True, "the address") from exc
        server = Server(self._local, listener, handshake, self._limits)
        self._resources.callback(server.stop)
        told, port = outward() if address in _EVERYWHERE else address, server.port
        if place.advertise is not None:
            told, port = place.advertise.address, place.advertise.port or port
        self._endpoint = endpoint(told, port)
        session = self._local.session
        directory = os.path.join(session.path, _SERVERS)
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        record = os.path.join(directory, session.writer)
        write_whole(record, json.dumps(self._endpoint).encode())
        self._resources.callback(_unlink_own, record, os.getpid())
        return server

    def forget(self) -> None:
        """Have no server in a forked child; the parent's continues."""
        self._server = None

    def close(self) -> None:
        """Stop the server, close the connections and the store. Idempotent."""
        with self._lock:
            self.closed = True
        self._finalizer()


def _unlink_own(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        unlink(path)
