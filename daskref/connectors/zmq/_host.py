"""What a host has of a session: its directory, and who of its processes serves it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from daskref.connectors.files.locks import write_whole
from daskref.connectors.files.recycling import unlink
from daskref.connectors.shm.connector import SharedMemoryConnector
from daskref.connectors.shm.session import SessionDirectory
from daskref.connectors.zmq._keys import Keys
from daskref.connectors.zmq._limits import Limits
from daskref.connectors.zmq._listening import endpoint, listen, outward, resolve
from daskref.connectors.zmq._server import Server
from daskref.exceptions import ConfigError, ConnectorUnavailableError
from daskref.ports import Advertised, parse_advertised, parse_ports

_SESSION = re.compile("[0-9a-f]{16,64}")
_EVERYWHERE = {"0.0.0.0", "::"}
#: In the session directory: one file per process that serves, which says where.
_SERVERS = "servers"


def session_name(name: str | None) -> str:
    """Return the name of a session, a new one for ``None``.

    Raises
    ------
    ConfigError
        If it is not a name that daskref made.
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

    Raises
    ------
    ConfigError
        If the port or the advertised address is malformed.
    """
    told = None if advertise is None else parse_advertised(advertise)
    return Place(interface, parse_ports(port), told)


def open_host(session: str, root: str | None, **options: Any) -> SharedMemoryConnector:
    """Open this host's directory of a session; the first of its processes makes it.

    Parameters
    ----------
    session
        The session's name.
    root
        Where the directory is.
    **options
        Of :class:`~daskref.connectors.SharedMemoryConnector`.
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

    Parameters
    ----------
    local
        The host's store.
    place
        Where to listen.
    keys, encrypted, limits
        See :class:`Server`.
    later
        ``(function, *args)``: call it when the connector is closed.

    Returns
    -------
    tuple
        The server, and what others connect to.

    Raises
    ------
    ConnectorUnavailableError
        If this process cannot listen there.
    """
    address = resolve(place.interface) if place.interface else outward()
    try:
        listener = listen(address, place.ports)
    except OSError as exc:
        raise ConnectorUnavailableError(
            repr(local),
            f"it cannot be served on {address}, port {place.ports[0]} to "
            f"{place.ports[-1]}: {exc.strerror}. Set another interface or port",
        ) from exc
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


def serving(session: SessionDirectory) -> Iterator[str]:
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
