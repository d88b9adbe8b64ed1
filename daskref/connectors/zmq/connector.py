"""Objects in the shared memory of many hosts, fetched once per host.

Known limits: a process outside of a session's hosts can read what it fetched for as
long as its own session directory exists. Without a :class:`Sources` that knows the
copies, evicting deletes the object on the hosts in *peers* only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from daskref.annotations import override
from daskref.background import make_lock
from daskref.connectors.base import Buffer, Connector, Key, Usage
from daskref.connectors.buffers import raw
from daskref.connectors.files.directory import new_name
from daskref.connectors.shm.connector import SharedMemoryConnector
from daskref.connectors.space import Footprint, Space
from daskref.connectors.zmq._remote import Remote
from daskref.connectors.zmq._server import Served
from daskref.connectors.zmq._session import ZmqSession, enter, open_host, parse_place
from daskref.connectors.zmq._wire import Limits, Op
from daskref.connectors.zmq.sources import (
    KnownPeers,
    Source,
    Sources,
    ZmqKey,
    checked_key,
    parse_peers,
)
from daskref.exceptions import ConnectorClosedError, ConnectorUnavailableError
from daskref.units import one_of


class ZmqConnector(Connector):
    """Store objects in this host's shared memory; fetch those of other hosts.

    Parameters
    ----------
    session
        From the :meth:`config` of another connector, to take part in its session; by
        default a new session.
    serve
        Whether this process serves its host's objects to other hosts.
    peers
        Known hosts: identity -> endpoints such as ``tcp://10.0.0.1:5000``.
    sources
        Tells where objects are; by default, *peers* are asked. Not part of
        :meth:`config`.
    security
        ``"tls"``: connections are authenticated and encrypted. ``"clear"``: they are
        authenticated only, so the network sees the data.
    interface
        To serve on: a name (``eth0``) or an address; by default the one through which
        this host reaches others.
    port
        To serve on: a number, a range (``"5000:5100"``), or 0 for any.
    advertise
        What other hosts connect to, ``address`` or ``address:port``, if it differs from
        where the server listens (NAT, containers).
    timeout
        Seconds without progress after which a transfer fails.
    lanes
        Number of connections over which a large object is fetched.
    root, budget, recycle, recycle_idle, spill_directory
        As for :class:`~daskref.connectors.SharedMemoryConnector`. *root* holds the
        session directory of this host.

    Raises
    ------
    ConfigError
        If an option is malformed.
    ConnectorUnavailableError
        If the session directory cannot be made, the port is taken, or this process
        should serve and has not got the session's keys.

    Notes
    -----
    :meth:`get` maps an object that this host has. Otherwise it fetches the object into
    this host's session directory first; other processes of this host wait for the same
    transfer. If no process of this host serves, a put sends the object to a host that
    does, if one is known.

    :meth:`usage` and :meth:`sweep` are about this host. The keys for connections are in
    :meth:`secrets` only.

    Examples
    --------
    >>> with ZmqConnector() as connector:
    ...     key = connector.put(b"some bytes")
    ...     bytes(connector.get(key))
    b'some bytes'
    """

    scheme: ClassVar[str] = "zmq"
    private = True
    #: What *timeout* and *lanes* are by default, and constants.
    limits: ClassVar[Limits] = Limits()

    #: Identity of this host: that of its session directory.
    host: str

    def __init__(
        self,
        session: str | None = None,
        *,
        serve: bool | str = False,
        peers: Mapping[str, Sequence[str]] | None = None,
        sources: Sources | None = None,
        security: str = "tls",
        interface: str | None = None,
        port: int | str = 0,
        advertise: str | None = None,
        timeout: float | str | None = None,
        lanes: int | str | None = None,
        root: str | os.PathLike[str] | None = None,
        budget: float | str | None = 0.8,
        recycle: float | str | None = 0.25,
        recycle_idle: float | str = 30.0,
        spill_directory: str | os.PathLike[str] | None = None,
    ) -> None:
        limits = self.limits.given(timeout=timeout, lanes=lanes)
        parse_place(None, port, advertise)
        encrypted = one_of("tls", "clear")(security, "zmq: security") == "tls"
        self._id = enter(session, encrypted)
        options: dict[str, Any] = {
            "root": None if root is None else os.fspath(root),
            "budget": budget,
            "recycle": recycle,
            "recycle_idle": recycle_idle,
            "spill_directory": spill_directory and os.fspath(spill_directory),
        }
        # This host's store.
        self.local = open_host(self._id, **options)
        self._session = ZmqSession(repr(self), self._id, self.local, encrypted, limits)
        self._lock = make_lock()
        try:
            self.host = self.local.session.host
            known = parse_peers(peers or {})
            if str(serve).lower() not in ("0", "false", "no"):
                self.serve(interface, port, advertise)
            if here := self.endpoints:
                known[self.host] = here
            asked = sources or KnownPeers(self.host, known)
            self._attended: list[Sources] = [asked]
            self._remote = Remote(repr(self), self.local, asked, limits, self._session)
        except BaseException:
            self.close()
            raise
        self._config: dict[str, Any] = {
            "session": self._id,
            "peers": known,
            "security": security,
            "interface": interface,
            "port": port,
            "timeout": timeout,
            "lanes": lanes,
            **options,
        }

    @property
    def endpoints(self) -> list[str]:
        """Endpoints of the processes of this host that serve."""
        return self._session.endpoints

    @property
    def served(self) -> Served:
        """What the server of this process has done; all zero if it has none."""
        return self._session.served

    def serve(
        self,
        interface: str | None = None,
        port: int | str = 0,
        advertise: str | None = None,
    ) -> str:
        """Serve this host's objects to other hosts from now on.

        Parameters
        ----------
        interface, port, advertise
            See the class. Ignored if this process serves already.

        Returns
        -------
        str
            The endpoint, ``tcp://address:port``.

        Raises
        ------
        ConfigError, ConnectorUnavailableError
            See the class.
        """
        return self._session.serve(parse_place(interface, port, advertise))

    def attend(self, sources: Sources) -> Callable[[], None]:
        """Ask *sources* where objects are, until the returned function is called."""
        with self._lock:
            self._attended.append(sources)
            self._remote.sources = sources

        def leave() -> None:
            with self._lock:
                self._attended.remove(sources)
                self._remote.sources = self._attended[-1]

        return leave

    def _here(self) -> SharedMemoryConnector:
        """Return this host's store."""
        if self._session.closed:
            raise ConnectorClosedError(repr(self))
        return self.local

    def _stays_here(self) -> bool:
        """Tell whether a put stays here: this host serves, or no other takes it."""
        return not self._remote.sources.takers or self._session.is_served()

    @override
    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        local = self._here()
        if self._stays_here():
            name, nbytes = local.put_frames(frames)
            return ZmqKey(name, nbytes, self.host)
        views = [raw(frame) for frame in frames]
        name = new_name(local.session.writer)
        host = self._remote.push(views, name)
        return ZmqKey(name, sum(view.nbytes for view in views), host)

    def supply(self, key: Key, frames: Sequence[Buffer] | None = None) -> str | None:
        """Store an object of this host where other hosts can read it; return that host.

        *frames*: its bytes, by default those that this host has; ``None`` if there are
        none. Raises ConnectorUnavailableError if no host takes the object.
        """
        key = checked_key(key)
        local = self._here()
        if self._session.is_served():
            if frames is not None and not local.exists(key.local):
                local.set_frames(key.local, frames)
            return self.host if local.exists(key.local) else None
        if frames is None:
            found = local.get(key.local)
            if found is None:
                return None
            frames = [found]
        return self._remote.push([raw(frame) for frame in frames], key.name)

    @override
    def put_everywhere(self, obj: Buffer) -> list[Key]:
        # Every host has its own store, which other processes need not see.
        return []

    def get(self, key: Key) -> memoryview | None:
        """Return the object, fetched to this host if need be.

        Raises ConnectorUnavailableError if no other host gave the object, with the
        answer of each; WireError also if its bytes arrived damaged twice.
        """
        key = checked_key(key)
        found = self._here().get(key.local)
        return self._remote.fetch(key) if found is None else found

    @override
    def exists(self, key: Key) -> bool:
        key = checked_key(key)
        here = self._here().exists(key.local)
        return here or self._remote.any_has(key, Op.EXISTS)

    @override
    def evict(self, key: Key) -> None:
        self.evict_batch([key])

    def evict_batch(self, keys: Iterable[Key]) -> None:
        """Delete objects on all hosts that are known to have them.

        Raises ConnectorUnavailableError if a host did not answer; the others have
        deleted the objects.
        """
        local, found = self._here(), [checked_key(key) for key in keys]
        local.evict_batch(key.local for key in found)
        self._remote.evict(found)

    def take(self, key: Key) -> memoryview | None:
        """Return the object and delete it; its home host decides which caller gets it.

        Copies on hosts that do not answer stay until they are swept. Raises
        ConnectorUnavailableError also if the home host did not answer.
        """
        key = checked_key(key)
        local = self._here()
        if key.host == self.host:
            view = local.take(key.local)
        else:
            view = self.get(key)
            if view is not None:
                mine = self._remote.take(key)
                local.evict(key.local)
                view = view if mine else None
        if view is not None:
            # No other caller gets the object any more: an error would lose it.
            with suppress(ConnectorUnavailableError):
                self._remote.evict([key])
        return view

    @override
    def link(self, key: Key) -> Key | None:
        key = checked_key(key)
        local = self._here()
        new = local.link(key.local) if self._stays_here() else None
        return None if new is None else ZmqKey(new[0], new[1], self.host)

    @override
    def renew(self, key: Key, seconds: float) -> bool:
        key = checked_key(key)
        here = self._here().renew(key.local, seconds)
        if key.host == self.host:
            return here
        return self._remote.any_has(key, Op.RENEW, max(0, int(seconds * 1000))) or here

    def evict_here(self, keys: Iterable[Key]) -> None:
        """Delete objects, or copies, from this host only."""
        self._here().evict_batch(checked_key(key).local for key in keys)

    def here(self) -> list[str]:
        """Return the names of all objects and copies on this host."""
        return self._here().names()

    def reaches(self, source: Source) -> bool:
        """Tell whether a server of a host accepts this process."""
        return self._remote.reaches(source)

    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        """Sweep this host, where copies count as objects."""
        swept = self._here().sweep(known, grace)
        return [ZmqKey(name, nbytes, self.host) for name, nbytes in swept]

    @override
    def usage(self) -> Usage:
        return self._here().usage()

    @property
    def overflows(self) -> int:  # type: ignore[override]
        """Number of objects of this process that went to disk."""
        return self.local.overflows

    @override
    def outlive(self) -> None:
        self._here().outlive()

    @override
    def space(self) -> Space:
        return self._here().space()

    @override
    def footprints(self, keys: Iterable[Key]) -> list[Footprint | None]:
        return self._here().footprints(checked_key(key).local for key in keys)

    @override
    def secrets(self) -> dict[str, dict[str, str]]:
        return self._session.secrets()

    @override
    def config(self) -> dict[str, Any]:
        return {**self._config, "peers": dict(self._config["peers"])}

    def close(self) -> None:
        """Close the connector; transfers in progress end with an error."""
        self._session.close()

    def __repr__(self) -> str:
        return f"<ZmqConnector {self._id[:8]} on {self.local.directory}>"
