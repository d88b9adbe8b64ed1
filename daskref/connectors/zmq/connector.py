"""Objects in the shared memory of many hosts, fetched once per host.

Known limits: a process outside a session's hosts reads what it fetched for as long as
it keeps a session directory of its own; without a :class:`Sources` that knows who
copied what, evicting deletes the object on the hosts that the connector was told of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
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
        Of another connector's :meth:`config`, to take part; a new one by default.
    serve
        Whether this process serves its host's objects to other hosts.
    peers
        Hosts that are known: identity -> endpoints, as in ``tcp://10.0.0.1:5000``.
    sources
        Says where objects are; by default, *peers* are asked. Not part of
        :meth:`config`.
    security
        ``"tls"``: authenticated and encrypted. ``"clear"``: authenticated; whoever can
        listen to the network sees the data.
    interface
        On which to serve: a name (``eth0``) or an address; by default the one with
        which this host reaches others.
    port
        On which to serve: a number, a range (``"5000:5100"``), or 0 for any.
    advertise
        What others are told: ``address`` or ``address:port``, if it is not where the
        server listens (NAT, containers).
    timeout
        Seconds that a transfer may make no progress, whoever is asked, until it fails.
    lanes
        How many connections a large object is fetched over.
    root, budget, recycle, recycle_idle, spill_directory
        As :class:`~daskref.connectors.SharedMemoryConnector` has them. *root* holds the
        session directory of this host.

    Raises
    ------
    ConfigError
        If an option is malformed.
    ConnectorUnavailableError
        If the session directory cannot be made, or the port is taken, or this process
        should serve and has not got the session's keys.

    Notes
    -----
    :meth:`get` maps the object where this host has it. Otherwise it fetches the object
    into this host's session directory first; whoever else of this host wants it
    meanwhile waits for that one transfer. A process on a host where nobody serves
    sends what it puts to a host that does, if it knows one.

    :meth:`usage` and :meth:`sweep` are about this host. The keys that open the
    connections are in :meth:`secrets` only.

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

    #: Identity of this host: of its session directory, whatever it is called.
    host: str
    _id: str
    _local: SharedMemoryConnector
    _session: ZmqSession
    _remote: Remote
    _attended: list[Sources]
    _config: dict[str, Any]
    _lock: Lock

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
        self._local = open_host(self._id, **options)
        self._session = ZmqSession(repr(self), self._id, self._local, encrypted, limits)
        self._lock = make_lock()
        try:
            self.host = self._local.session.host
            known = parse_peers(peers or {})
            if str(serve).lower() not in ("0", "false", "no"):
                self.serve(interface, port, advertise)
            if here := self.endpoints:
                known[self.host] = here
            asked = sources or KnownPeers(self.host, known)
            self._attended = [asked]
            self._remote = Remote(repr(self), self._local, asked, limits, self._session)
        except BaseException:
            self.close()
            raise
        self._config = {
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
        """Where processes of this host serve."""
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
            What others connect to: ``tcp://address:port``.

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
        return self._local

    def _stays_here(self) -> bool:
        """Tell whether others can read what is put on this host, or nobody could."""
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
        """Have an object that others lack where they can read it; return the host.

        ``None`` if there are no such bytes; by default those that this host has. Raises
        ConnectorUnavailableError if no host takes it.
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
        # Every host has a place of its own, which nobody has to see.
        return []

    def get(self, key: Key) -> memoryview | None:
        """See :meth:`Connector.get`; the object is fetched here if it was not.

        Raises ConnectorUnavailableError if the object is on other hosts, and none of
        them gave it: says who was asked, and what each one answered. Raises WireError
        also if bytes of it came damaged twice.
        """
        key = checked_key(key)
        found = self._here().get(key.local)
        return self._remote.fetch(key) if found is None else found

    def exists(self, key: Key) -> bool:
        """See :meth:`Connector.exists`; asks other hosts if need be."""
        key = checked_key(key)
        here = self._here().exists(key.local)
        return here or self._remote.any_has(key, Op.EXISTS)

    @override
    def evict(self, key: Key) -> None:
        self.evict_batch([key])

    def evict_batch(self, keys: Iterable[Key]) -> None:
        """See :meth:`Connector.evict_batch`; on all hosts that are known to have them.

        Raises ConnectorUnavailableError if a host did not answer. What could be reached
        was deleted.
        """
        local, found = self._here(), [checked_key(key) for key in keys]
        local.evict_batch(key.local for key in found)
        self._remote.evict(found)

    def take(self, key: Key) -> memoryview | None:
        """See :meth:`Connector.take`; who gets it is decided where it was put.

        Copies on hosts that do not answer stay until they are swept. Raises
        ConnectorUnavailableError also if the host on which it was put did not answer.
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
            # It is nobody else's by now: an error would lose it.
            with suppress(ConnectorUnavailableError):
                self._remote.evict([key])
        return view

    def link(self, key: Key) -> Key | None:
        """See :meth:`Connector.link`; only of what is on this host, if it serves."""
        key = checked_key(key)
        local = self._here()
        new = local.link(key.local) if self._stays_here() else None
        return None if new is None else ZmqKey(new[0], new[1], self.host)

    def renew(self, key: Key, seconds: float) -> bool:
        """See :meth:`Connector.renew`; also where the object was put."""
        key = checked_key(key)
        here = self._here().renew(key.local, seconds)
        if key.host == self.host:
            return here
        return self._remote.any_has(key, Op.RENEW, max(0, int(seconds * 1000))) or here

    def evict_here(self, keys: Iterable[Key]) -> None:
        """Delete objects, or copies of them, from this host only."""
        self._here().evict_batch(checked_key(key).local for key in keys)

    def here(self) -> list[str]:
        """Return the names of all objects that this host has."""
        return self._here().names()

    def reaches(self, source: Source) -> bool:
        """Tell whether a server of a host lets this process in."""
        return self._remote.reaches(source)

    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        """See :meth:`Connector.sweep`: on this host, where copies count as objects."""
        swept = self._here().sweep(known, grace)
        return [ZmqKey(name, nbytes, self.host) for name, nbytes in swept]

    @override
    def usage(self) -> Usage:
        return self._here().usage()

    @property
    def overflows(self) -> int:  # type: ignore[override]
        """Objects of this process that went to disk."""
        return self._local.overflows

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
        """See :meth:`Connector.close`; transfers that run end with an error."""
        self._session.close()

    def __repr__(self) -> str:
        return f"<ZmqConnector {self._id[:8]} on {self._local.directory}>"
