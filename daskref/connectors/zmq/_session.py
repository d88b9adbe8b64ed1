"""One process's part in a session: its keys, its connections, and its server."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from threading import Lock
from typing import Any, NamedTuple

from daskref.background import forget_in_child, make_lock
from daskref.connectors.credentials import recall, remember
from daskref.connectors.failures import of_system
from daskref.connectors.files.locks import write_whole
from daskref.connectors.files.recycling import unlink
from daskref.connectors.files.session import DirectorySession
from daskref.connectors.shm.connector import SharedMemoryConnector
from daskref.connectors.zmq._connections import ClosedError, Lines
from daskref.connectors.zmq._keys import Keys
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
#: In the session directory: one file per process that serves, which says where.
_SERVERS = "servers"


def session_name(name: str | None) -> str:
    """Return the name of a session, a new one for ``None``.

    Raises ConfigError if it is not a name that daskref made.
    """
    if name is None:
        return secrets.token_hex(16)
    if not isinstance(name, str) or not _SESSION.fullmatch(name):
        raise ConfigError(
            "zmq: session", name, "what the config of another connector says"
        )
    return name


class Place(NamedTuple):
    """Where to serve; see :class:`~daskref.connectors.ZmqConnector`."""

    interface: str | None
    ports: range
    advertise: Advertised | None


def parse_place(interface: str | None, port: int | str, advertise: str | None) -> Place:
    """Return where to serve, of what the user wrote; nothing is looked up.

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


def serve(
    local: SharedMemoryConnector,
    place: Place,
    keys: Keys,
    encrypted: bool,
    limits: Limits,
    later: Callable[..., Any],
) -> tuple[Server, str]:
    """Serve the host's objects, and tell its other processes where.

    Raises ConnectorUnavailableError if this process cannot listen there.

    Parameters
    ----------
    later
        ``(function, *args)``: call it when the connector is closed.

    Returns
    -------
    tuple
        The server, and what others connect to.
    """
    address = resolve(place.interface) if place.interface else outward()
    try:
        listener = listen(address, place.ports)
    except OSError as exc:
        what = (
            f"it cannot be served on {address}, port {place.ports[0]} to "
            f"{place.ports[-1]}, set another interface or port"
        )
        raise of_system(exc, repr(local), what, True, "the address") from exc
    server = Server(local, listener, keys, encrypted, limits)
    later(server.stop)
    told = outward() if address in _EVERYWHERE else address
    session = local.session
    directory = os.path.join(session.path, _SERVERS)
    with suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    record = os.path.join(directory, session.writer)
    advertised = _advertised(place, told, server.port)
    write_whole(record, json.dumps(advertised).encode())
    later(_unlink_own, record, os.getpid())
    return server, advertised


def serving(session: DirectorySession) -> Iterator[str]:
    """Yield the endpoints of the host's processes that serve and are alive."""
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


def _advertised(place: Place, address: str, port: int) -> str:
    if place.advertise is not None:
        address = place.advertise.address
        port = place.advertise.port or port
    return endpoint(address, port)


def _unlink_own(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        unlink(path)


def enter(session: str | None, encrypted: bool) -> str:
    """Return the name of a session; for ``None`` of a new one, and make its keys.

    Raises ConfigError if it is not a name that daskref made.
    """
    name = session_name(session)
    if session is None:
        remember(_place(name), Keys.make(encrypted).dump())
    return name


def _place(session: str) -> str:
    return f"zmq://{session}"


class ZmqSession:
    """What a process has of a session on its host, and what it opens when need be.

    *local*: this host's store; :meth:`close` closes it too.

    Notes
    -----
    Thread-safe. The keys are looked up when they are needed: a process may be told of
    them later, and without them it can use what is on its own host.
    """

    _local: SharedMemoryConnector
    _server: Server | None
    _endpoint: str
    #: Whether it was closed here.
    closed: bool
    _lock: Lock
    _resources: ExitStack

    def __init__(
        self,
        owner: str,
        name: str,
        local: SharedMemoryConnector,
        encrypted: bool,
        limits: Limits,
    ) -> None:
        self._owner = owner
        self._place = _place(name)
        self._local = local
        self._encrypted = encrypted
        self._limits = limits
        self._server = None
        self._endpoint = ""
        self.closed = False
        self._lock = make_lock()
        self._resources = ExitStack()
        self._resources.callback(local.close)
        self._finalizer = weakref.finalize(self, self._resources.close)
        forget_in_child(self)

    # Keys.

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return the keys of the session by its place, if this process has them."""
        found = recall(self._place)
        return {self._place: found} if found else {}

    def _keys(self) -> Keys:
        keys = Keys.load(recall(self._place))
        if keys is None:
            raise ConnectorUnavailableError(
                self._owner,
                "this process has not got the keys of the session, which come over "
                "Dask's connections, or by `credentials.remember`: it can use what is "
                "on its own host only",
            )
        return keys

    # Connections.

    def open_lines(self) -> Lines:
        """Return connections to other hosts; :meth:`close` closes them.

        Raises ConnectorUnavailableError if this process has not got the session's keys;
        ClosedError if the session was closed here.
        """
        with self._lock:
            if self.closed:  # nobody would end them any more
                raise ClosedError
            lines = Lines(self._keys(), self._encrypted, self._limits)
            self._resources.callback(lines.close)
            return lines

    # The server.

    @property
    def served(self) -> Served:
        """What the server of this process has done; all zero if it has none."""
        return self._server.served if self._server is not None else Served()

    @property
    def endpoints(self) -> list[str]:
        """Where processes of this host serve."""
        return list(serving(self._local.session))

    def is_served(self) -> bool:
        """Tell whether any process of this host serves."""
        return self._server is not None or bool(self.endpoints)

    def serve(self, place: Place) -> str:
        """Serve this host's objects from now on.

        Raises ConnectorUnavailableError if this process cannot listen there, or has not
        got the session's keys.

        Parameters
        ----------
        place
            Where. Ignored if this process serves already.

        Returns
        -------
        str
            What others connect to.
        """
        with self._lock:
            if self._server is None:
                if self.closed:
                    raise ConnectorClosedError(self._owner)
                self._server, self._endpoint = serve(
                    self._local,
                    place,
                    self._keys(),
                    self._encrypted,
                    self._limits,
                    self._resources.callback,
                )
            return self._endpoint

    def forget(self) -> None:
        """Serve no more, in a forked child; the parent goes on."""
        self._server = None

    def close(self) -> None:
        """Stop the server, close the connections and the store; silent if they are."""
        with self._lock:
            self.closed = True
        self._finalizer()
