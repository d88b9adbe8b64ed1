"""One process's part in a session: its keys, its connections, and its server."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from threading import Lock

from daskref.connectors.credentials import recall, remember
from daskref.connectors.shm.connector import SharedMemoryConnector
from daskref.connectors.zmq._connections import ClosedError, Lines
from daskref.connectors.zmq._host import Place, serve, serving, session_name
from daskref.connectors.zmq._keys import Keys
from daskref.connectors.zmq._limits import Limits
from daskref.connectors.zmq._server import Served, Server
from daskref.exceptions import ConnectorClosedError, ConnectorUnavailableError


def enter(session: str | None, encrypted: bool) -> str:
    """Return the name of a session; for ``None`` of a new one, and make its keys.

    Parameters
    ----------
    session
        The name, or ``None``.
    encrypted
        Whether connections of the session are encrypted.

    Raises
    ------
    ConfigError
        If it is not a name that daskref made.
    """
    name = session_name(session)
    if session is None:
        remember(_place(name), Keys.make(encrypted).dump())
    return name


def _place(session: str) -> str:
    return f"zmq://{session}"


class ZmqSession:
    """What a process has of a session on its host, and what it opens when need be.

    Parameters
    ----------
    owner
        ``repr`` of the connector, for errors.
    name
        Of the session.
    local
        This host's store; :meth:`close` closes it too.
    encrypted
        Whether to encrypt.
    limits
        Sizes and waits.

    Notes
    -----
    Thread-safe. The keys are looked up when they are needed: a process may be told of
    them later, and without them it can use what is on its own host.
    """

    _local: SharedMemoryConnector
    _server: Server | None
    _endpoint: str
    _lines: Lines | None
    _closed: bool
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
        self._lines = None
        self._closed = False
        self._lock = Lock()
        self._resources = ExitStack()
        self._resources.callback(local.close)
        self._finalizer = weakref.finalize(self, self._resources.close)

    def ready(self) -> SharedMemoryConnector:
        """Return this host's store.

        Raises
        ------
        ConnectorClosedError
            If the session was closed here.
        """
        if self._closed:
            raise ConnectorClosedError(self._owner)
        return self._local

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

    def lines(self) -> Lines:
        """Return the connections to other hosts.

        Raises
        ------
        ConnectorUnavailableError
            If this process has not got the session's keys.
        ClosedError
            If the session was closed here.
        """
        with self._lock:
            if self._closed:  # nobody would end them any more
                raise ClosedError
            if self._lines is None:
                self._lines = Lines(self._keys(), self._encrypted, self._limits)
                self._resources.callback(self._lines.close)
            return self._lines

    # The server.

    @property
    def serves(self) -> bool:
        """Whether this process serves."""
        return self._server is not None

    @property
    def served(self) -> Served:
        """What the server of this process has done; all zero if it has none."""
        return self._server.served if self._server is not None else Served()

    @property
    def endpoints(self) -> list[str]:
        """Where processes of this host serve."""
        return list(serving(self.ready().session))

    def is_served(self) -> bool:
        """Tell whether any process of this host serves."""
        return any(serving(self._local.session))

    def serve(self, place: Place) -> str:
        """Serve this host's objects from now on.

        Parameters
        ----------
        place
            Where. Ignored if this process serves already.

        Returns
        -------
        str
            What others connect to.

        Raises
        ------
        ConnectorUnavailableError
            If this process cannot listen there, or has not got the session's keys.
        """
        with self._lock:
            if self._server is None:
                self._server, self._endpoint = serve(
                    self.ready(),
                    place,
                    self._keys(),
                    self._encrypted,
                    self._limits,
                    self._resources.callback,
                )
            return self._endpoint

    def forget(self) -> None:
        """Serve no more, in a forked child; the parent goes on."""
        self._lock = Lock()
        self._server = None

    def close(self) -> None:
        """Stop the server, close the connections and the store; silent if they are."""
        with self._lock:
            self._closed = True
        self._finalizer()
