"""Objects in a Redis server.

Known limits: one server, not a Redis Cluster. Under an eviction policy other than
``noeviction`` the server may delete objects in use. If all other processes are dead and
this one is paused for longer than the objects' time to live, the objects are lost.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import SplitResult

from daskref.annotations import override
from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key, Usage
from daskref.connectors.buffers import raw
from daskref.connectors.redis import _objects as redisobjects
from daskref.connectors.redis._objects import RedisKey, checked
from daskref.connectors.redis._options import (
    DEFAULTS,
    READERS,
    Place,
    session_of,
    url_of,
    without_query,
)
from daskref.connectors.redis._scripts import LINK, MOVE, RENEW
from daskref.connectors.redis._server import Server
from daskref.connectors.redis._session import RedisSession, script
from daskref.exceptions import ConnectorClosedError, ConnectorError
from daskref.units import read_options


class RedisConnector(Connector, DeferrableConnector):
    """Store objects in a Redis server (or Valkey), for processes on many hosts.

    Parameters
    ----------
    url
        ``redis://[user:password@]host[:port][/database]``, ``rediss://`` for TLS, or
        ``unix:///path``. As in ProxyStore, a host name together with *port*.
    port
        With a host name in place of a URL.
    clear
        Whether the objects are deleted when the last connector of the session is
        closed. ``False`` keeps them for ever, and is the default with *port*, as in
        ProxyStore.
    hostname
        ProxyStore's name of *url*.
    username, password
        Take precedence over those in *url*. Without any, the credentials of the
        session's opener are used, then the environment (see Notes).
    prefix
        Prefix of all keys.
    chunk
        Size above which an object is split into strings of this size, e.g. "4 MiB".
    lease
        Seconds after which a killed process counts as dead.
    ttl
        Seconds after which the server deletes the objects when all processes of the
        session were killed.
    timeout
        Seconds without progress after which an operation fails.
    connect_timeout
        The same for connecting.
    retries
        How often to try again when the server cannot be reached.
    ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs
        For ``rediss://``: files of certificate authorities, of this client's
        certificate and of its key; ``required`` (default), ``optional`` or ``none``.
    session
        From the :meth:`config` of another connector, to take part in its session; by
        default a new session.

    Raises
    ------
    ConfigError
        If an argument is malformed.
    ConnectorUnavailableError
        If the server cannot be used, or does not have that session.

    Notes
    -----
    The environment: ``DASKREF_REDIS_URL`` where *url* has no host, ``…_USERNAME``,
    ``…_PASSWORD``, ``…_DB``, ``…_CA_CERTS``, ``…_CERTFILE``, ``…_KEYFILE``.

    :meth:`get` receives into new, writable memory. A connector that was opened without
    :meth:`config` starts a new session, and still finds the objects of other sessions
    in the same database. Other keys of the database are never touched.

    Reading and testing are retried with growing pauses; writing and deleting fail at
    once if the last operation could not reach the server. After an error in
    :meth:`put_batch` none of the objects is stored.

    Examples
    --------
    >>> with RedisConnector("redis://localhost") as connector:  # doctest: +SKIP
    ...     key = connector.put(b"some bytes")
    ...     bytes(connector.get(key))
    b'some bytes'
    """

    scheme: ClassVar[str] = "redis"
    aliases: ClassVar[tuple[str, ...]] = ("rediss",)

    def __init__(
        self,
        url: str = "redis://",
        port: int | str | None = None,
        clear: bool | str | None = None,
        *,
        hostname: str | None = None,
        username: str | None = None,
        password: str | None = None,
        prefix: str = DEFAULTS["prefix"],
        chunk: int | str = DEFAULTS["chunk"],
        lease: float | str = DEFAULTS["lease"],
        ttl: float | str = DEFAULTS["ttl"],
        timeout: float | str = DEFAULTS["timeout"],
        connect_timeout: float | str = DEFAULTS["connect_timeout"],
        retries: int | str = DEFAULTS["retries"],
        ssl_ca_certs: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_cert_reqs: str | None = None,
        session: str | None = None,
    ) -> None:
        self._closed = True
        given = {
            "clear": port is None if clear is None else clear,
            "prefix": prefix,
            "chunk": chunk,
            "lease": lease,
            "ttl": ttl,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "retries": retries,
            "ssl_ca_certs": ssl_ca_certs,
            "ssl_certfile": ssl_certfile,
            "ssl_keyfile": ssl_keyfile,
            "ssl_cert_reqs": ssl_cert_reqs,
        }
        self._options = read_options(READERS, given)
        self._clear: bool = self._options.pop("clear")
        self._place = Place(
            url_of(hostname or url, port), username, password, self._options
        )
        self._server = Server(self._place, repr(self), self._options)
        try:
            name = session_of(session)
            self._session = RedisSession(self._server, name, self._clear, self._options)
        except BaseException:
            self._server.close()
            raise
        self._place.remember()
        self._closed = False
        self._finalizer = weakref.finalize(self, self._session.leave)

    @classmethod
    @override
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        return {"url": without_query(url)}

    def _ready(self) -> RedisSession:
        if self._closed:
            raise ConnectorClosedError(repr(self))
        self._session.ensure()
        return self._session

    def _checked(self, key: Key) -> redisobjects.Found:
        return checked(key, self._options["prefix"])

    def _own_key(self, name: str, nbytes: int) -> RedisKey:
        return RedisKey(self._session.root.decode() + name, nbytes)

    # The contract

    @override
    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        return self._put_all([frames])[0]

    def put_batch(self, objs: Iterable[Buffer]) -> list[Key]:
        """Store several buffers with one round trip; after an error none of them."""
        return self._put_all([[obj] for obj in objs])

    def _put_all(self, objs: Sequence[Sequence[Buffer]]) -> list[Key]:
        session, chunk = self._ready(), self._options["chunk"]
        views = [[raw(frame) for frame in frames] for frames in objs]
        names = [f"{session.writer}-{os.urandom(12).hex()}" for _ in objs]
        commands = [
            command
            for name, parts in zip(names, views, strict=True)
            for command in redisobjects.write(session, name, parts, chunk)
        ]
        try:
            self._server.ask_all(commands, patient=False)
        except BaseException:
            session.abandon(names)
            raise
        return [
            self._own_key(name, sum(view.nbytes for view in parts))
            for name, parts in zip(names, views, strict=True)
        ]

    @override
    def get(self, key: Key) -> memoryview | None:
        return self.get_batch([key])[0]

    def get_batch(self, keys: Iterable[Key]) -> list[memoryview | None]:
        """Return several objects; one round trip for the small ones."""
        wanted = [self._checked(key) for key in keys]
        self._ready()
        return self._server.run(lambda wire: redisobjects.read(wire, wanted))

    @override
    def exists(self, key: Key) -> bool:
        found = self._checked(key)
        self._ready()
        return bool(self._server.ask([b"EXISTS", found.key]))

    @override
    def evict(self, key: Key) -> None:
        self.evict_batch([key])

    def evict_batch(self, keys: Iterable[Key]) -> None:
        """Delete several objects; one round trip per session."""
        roots: dict[bytes, list[str]] = {}
        for found in map(self._checked, keys):
            roots.setdefault(found.root, []).append(found.name)
        session = self._ready()
        for root, names in roots.items():
            session.drop(names, root=root)

    def link(self, key: Key) -> Key | None:
        """Give the object a second key, of the same session."""
        found = self._checked(key)
        session = self._ready()
        name = f"{session.writer}-{os.urandom(12).hex()}"
        command = script(LINK, found.root, found.name, name, session.ttl)
        if not self._server.ask(command, patient=False):
            return None
        return RedisKey(found.root.decode() + name, found.nbytes)

    def take(self, key: Key) -> memoryview | None:
        """Return the object and delete it: exactly one caller gets it."""
        found = self._checked(key)
        session = self._ready()
        name = f"{session.writer}-{os.urandom(12).hex()}"
        if not self._server.ask(script(MOVE, found.root, found.name, name)):
            return None
        ours = found._replace(key=found.root + name.encode(), name=name)
        try:
            (view,) = self._server.run(lambda wire: redisobjects.read(wire, [ours]))
        except BaseException:  # another caller may take it
            with suppress(ConnectorError):
                self._server.ask(script(MOVE, found.root, name, found.name))
            raise
        session.abandon([name], root=found.root)
        return view

    @override
    def renew(self, key: Key, seconds: float) -> bool:
        found = self._checked(key)
        session = self._ready()
        milliseconds = round(seconds * 1000)
        command = script(RENEW, found.root, found.name, milliseconds, session.ttl)
        return bool(self._server.ask(command))

    @override
    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        session = self._ready()
        owned = None
        if known is not None:
            owned = {str(key[0]).rpartition(":")[2] for key in known if key}
        return [self._own_key(*swept) for swept in session.sweep(owned, grace)]

    @override
    def usage(self) -> Usage:
        sizes = {e.base or e.name: e.nbytes for e in self._ready().entries()}
        return Usage(len(sizes), sum(sizes.values()))

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without user and password."""
        changed = {n: v for n, v in self._options.items() if v != DEFAULTS[n]}
        return {
            "url": self._place.url,
            "clear": self._clear,
            "session": self._session.name,
            **changed,
        }

    @override
    def secrets(self) -> dict[str, dict[str, str]]:
        return self._place.secrets()

    def close(self, clear: bool | None = None) -> None:
        """Close the connector; the last one of the session deletes the objects.

        Parameters
        ----------
        clear
            Replaces the constructor's value, as in ProxyStore, if this is the session's
            last connector. Objects that stay still have their time to live.
        """
        if self._closed:
            return
        if clear is not None:
            self._session.clear = clear
        self._closed = True
        self._finalizer()

    # ProxyStore's protocol for objects that are decided on before they are there

    @override
    def new_key(self, obj: Buffer | None = None) -> RedisKey:
        name = f"{self._ready().writer}-{os.urandom(12).hex()}"
        return self._own_key(name, -1 if obj is None else raw(obj).nbytes)

    @override
    def set(self, key: Key, obj: Buffer) -> None:
        self.set_frames(key, [obj])

    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        """Store an object; raises ConnectorError if the key has an object already."""
        found = self._checked(key)
        session = self._ready()
        if found.root != session.root:
            raise ConnectorError(repr(self), f"{key!r} is of another session")
        (hidden,) = (self._checked(k) for k in self._put_all([frames]))
        if not self._server.ask(script(MOVE, session.root, hidden.name, found.name)):
            session.abandon([hidden.name])
            raise ConnectorError(
                repr(self), f"an object was stored under {key!r} already, and stays"
            )

    def __repr__(self) -> str:
        return f"<RedisConnector {self._place.url}>"
