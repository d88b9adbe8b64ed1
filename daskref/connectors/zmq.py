"""Objects in the shared memory of many hosts, fetched once per host over ZeroMQ.

Known limits: a process outside a session's hosts reads what it fetched for as long as
it keeps a session directory of its own; without a :class:`Sources` that knows who
copied what, evicting deletes the object on the hosts that the connector was told of.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from threading import Lock
from typing import Any, ClassVar, NamedTuple

from daskref.connectors import zmqask
from daskref.connectors.arrivals import Arrival, begin
from daskref.connectors.base import Buffer, Connector, Key, Usage
from daskref.connectors.credentials import recall, remember
from daskref.connectors.forks import forget_in_child
from daskref.connectors.locks import write_whole
from daskref.connectors.memory import raw
from daskref.connectors.objects import checked, new_name, unlink
from daskref.connectors.presence import SERVER
from daskref.connectors.shm import SharedMemoryConnector, SharedMemoryKey
from daskref.connectors.zmqfetch import Transfer, UnansweredError
from daskref.connectors.zmqkeys import Keys
from daskref.connectors.zmqlimits import Limits
from daskref.connectors.zmqlines import ClosedError, Lines
from daskref.connectors.zmqlisten import (
    endpoint,
    listen,
    outward,
    parse_ports,
    resolve,
    split_endpoint,
)
from daskref.connectors.zmqserver import Served, Server
from daskref.connectors.zmqsources import KnownPeers, Locate, Source, Sources
from daskref.connectors.zmqwire import NAMES, Op, Request, Status
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)

_HOST = re.compile("[0-9a-f]{32}")
_SESSION = re.compile("[0-9a-f]{16,64}")
_EVERYWHERE = {"0.0.0.0", "::"}
#: Seconds between two attempts to send to hosts that are busy.
_BUSY = 0.1

logger = logging.getLogger(__name__)


class ZmqKey(NamedTuple):
    """Key of an object in the shared memory of one of several hosts."""

    #: Unique in the session: 8 hexadecimal digits of its writer, 24 of its own.
    name: str
    #: Size of the object in bytes.
    nbytes: int
    #: Identity of the host on which it was put.
    host: str


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
    locate
        Says where objects are: a :class:`~daskref.connectors.zmqsources.Sources`, or
        only ``key -> [(host, endpoints), …]``. Not part of :meth:`config`.
    security
        ``"curve"``: authenticated and encrypted. ``"clear"``: requests carry the
        session's token, and whoever can listen to the network sees it and the data.
    interface
        On which to serve: a name (``eth0``) or an address; by default the one with
        which this host reaches others.
    port
        On which to serve: a number, a range (``"5000:5100"``), or 0 for any.
    advertise
        What others are told: ``address`` or ``address:port``, if it is not where the
        server listens (NAT, containers).
    chunk, window, lanes
        Bytes asked for at once, how many such requests are in flight on a connection,
        and how many connections a large object is fetched over.
    timeout
        Seconds that a transfer may make no progress, whoever is asked, until it fails.
    stall
        Seconds after which another endpoint is asked.
    handshake, heartbeat
        Seconds for a new connection to prove that it has the keys, and between two
        signs of life.
    connections, requests
        How many a server has open, and takes from a peer before it reads the replies.
    pushes, push_nbytes, push_age
        Objects that other hosts may be sending to a server at once, their bytes, and
        seconds without a chunk after which one is abandoned.
    root, budget, recycle, spill_directory
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

    _id: str
    _local: SharedMemoryConnector
    _limits: Limits
    _sources: Sources
    _server: Server | None
    _lines: Lines | None
    _config: dict[str, Any]
    _closed: bool
    _lock: Lock
    _resources: ExitStack

    def __init__(
        self,
        session: str | None = None,
        *,
        serve: bool | str = False,
        peers: Mapping[str, Sequence[str]] | None = None,
        locate: Sources | Locate | None = None,
        security: str = "curve",
        interface: str | None = None,
        port: int | str = 0,
        advertise: str | None = None,
        chunk: int | str | None = None,
        window: int | str | None = None,
        lanes: int | str | None = None,
        timeout: float | str | None = None,
        stall: float | str | None = None,
        handshake: float | str | None = None,
        heartbeat: float | str | None = None,
        connections: int | str | None = None,
        requests: int | str | None = None,
        pushes: int | str | None = None,
        push_nbytes: int | str | None = None,
        push_age: float | str | None = None,
        root: str | os.PathLike[str] | None = None,
        budget: float | str | None = 0.8,
        recycle: float | str | None = 0.25,
        spill_directory: str | os.PathLike[str] | None = None,
    ) -> None:
        given = {
            "chunk": chunk,
            "window": window,
            "lanes": lanes,
            "timeout": timeout,
            "stall": stall,
            "handshake": handshake,
            "heartbeat": heartbeat,
            "connections": connections,
            "requests": requests,
            "pushes": pushes,
            "push_nbytes": push_nbytes,
            "push_age": push_age,
        }
        self._limits = Limits.parse(**given)
        self._listening = interface, parse_ports(port), advertise
        if security not in ("curve", "clear"):
            raise ConfigError("zmq: security", security, '"curve" or "clear"')
        self._curve = security == "curve"
        self._id = _session(session)
        if session is None:
            remember(self._place, Keys.make().dump())
        self._closed = False
        self._server = None
        self._lines = None
        self._lock = Lock()
        options: dict[str, Any] = {
            "root": None if root is None else os.fspath(root),
            "budget": budget,
            "recycle": recycle,
            "spill_directory": spill_directory and os.fspath(spill_directory),
        }
        self._local = _local(self._id, **options)
        self._resources = ExitStack()
        self._resources.callback(self._local.close)
        self._finalizer = weakref.finalize(self, self._resources.close)
        forget_in_child(self)
        try:
            self._host = self._local.session.host
            known = {host: list(found) for host, found in (peers or {}).items()}
            for found in known.values():
                for each in found:
                    split_endpoint(each)
            if serve and str(serve).lower() not in ("0", "false", "no"):
                self._serve()
            if here := self._serving_here():
                known[self._host] = here
            if isinstance(locate, Sources):
                self._sources = locate
            else:
                self._sources = KnownPeers(known, locate)
        except BaseException:
            self.close()
            raise
        self._config = {
            "session": self._id,
            "peers": known,
            "security": security,
            "interface": interface,
            "port": port,
            **{name: value for name, value in given.items() if value is not None},
            **options,
        }

    # The session.

    @property
    def _place(self) -> str:
        return f"zmq://{self._id}"

    @property
    def host(self) -> str:
        """Identity of this host: of its session directory, whatever it is called."""
        return self._host

    @property
    def endpoints(self) -> list[str]:
        """Where processes of this host serve."""
        self._ready()
        return self._serving_here()

    @property
    def served(self) -> Served:
        """What the server of this process has done; all zero if it has none."""
        return self._server.served if self._server is not None else Served()

    def _ready(self) -> SharedMemoryConnector:
        if self._closed:
            raise ConnectorClosedError(repr(self))
        return self._local

    def _keys(self) -> Keys:
        keys = Keys.load(recall(self._place))
        if keys is None:
            raise ConnectorUnavailableError(
                repr(self),
                "this process has not got the keys of the session, which come over "
                "Dask's connections, or by `credentials.remember`: it can use what is "
                "on its own host only",
            )
        return keys

    def _connections(self) -> Lines:
        with self._lock:
            if self._lines is None:
                self._lines = Lines(self._keys(), self._curve, self._limits)
                self._resources.callback(self._lines.close)
            return self._lines

    def forget(self) -> None:
        """Serve no more, in a forked child; the parent goes on."""
        self._lock = Lock()
        self._server = None

    # Serving.

    def _serve(self) -> None:
        keys = self._keys()
        interface, ports, advertise = self._listening
        address = resolve(interface) if interface else outward()
        try:
            listener = listen(address, ports)
        except OSError as exc:
            raise ConnectorUnavailableError(
                repr(self),
                f"it cannot serve on {address}, port {ports[0]} to {ports[-1]}: "
                f"{exc.strerror}. Set another interface or port",
            ) from exc
        server = Server(self._local, listener, keys, self._curve, self._limits)
        self._server = server
        self._resources.callback(server.stop)
        told = outward() if address in _EVERYWHERE else address
        place = _advertised(advertise, told, server.port)
        session = self._local.session
        record = os.path.join(session.path, SERVER + session.writer)
        write_whole(record, json.dumps([place]).encode())
        self._resources.callback(_unlink_own, record, os.getpid())

    def _serving_here(self) -> list[str]:
        """Return the endpoints of the host's processes that are alive."""
        session = self._local.session
        found: list[str] = []
        for name in sorted(os.listdir(session.path)):
            writer = name.removeprefix(SERVER)
            if name.startswith(SERVER) and not session.gone(writer):
                try:
                    with open(os.path.join(session.path, name), "rb") as file:
                        found += json.loads(file.read())
                except FileNotFoundError:
                    continue  # it has just ended
        return found

    # Putting.

    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        """See :meth:`Connector.put_frames`."""
        local = self._ready()
        if self._stays_here():
            name, nbytes = local.put_frames(frames)
            return ZmqKey(name, nbytes, self._host)
        views = [raw(frame) for frame in frames]
        return self._push(views, sum(view.nbytes for view in views))

    def _stays_here(self) -> bool:
        """Tell whether others can read what is put on this host, or nobody could."""
        if self._server is not None or self._serving_here():
            return True
        return not self._elsewhere(self._sources.targets(0))

    def _elsewhere(self, sources: Iterable[Source]) -> list[Source]:
        return [Source(*s) for s in sources if s[0] != self._host and s[1]]

    def _push(self, views: list[memoryview], nbytes: int) -> ZmqKey:
        lines = self._connections()
        deadline = time.monotonic() + self._limits.timeout
        name = new_name(self._local.session.writer)
        while True:
            answers = []
            for source in self._elsewhere(self._sources.targets(nbytes)):
                for place in source.endpoints:
                    try:
                        status = zmqask.push(lines, place, name, views, self._limits)
                    except UnansweredError as exc:
                        answers.append(f"{place} {exc}")
                        continue
                    except ClosedError:
                        raise ConnectorClosedError(repr(self)) from None
                    if status is Status.WHOLE:
                        return ZmqKey(name, nbytes, source.host)
                    answers.append(f"{place} answered {status.name}")
                    if status is Status.FULL:
                        break
            busy = any(answer.endswith(Status.BUSY.name) for answer in answers)
            if not busy or time.monotonic() > deadline:
                raise ConnectorUnavailableError(
                    repr(self),
                    f"no host took an object of {nbytes} B: {'; '.join(answers)}",
                )
            time.sleep(_BUSY)

    # Getting.

    def _checked(self, key: Key) -> tuple[SharedMemoryKey, str]:
        if isinstance(key, tuple) and type(key) in (tuple, ZmqKey) and len(key) == 3:
            name, nbytes, host = key
            if isinstance(host, str) and _HOST.fullmatch(host):
                return SharedMemoryKey(*checked((name, nbytes), SharedMemoryKey)), host
        raise WireError(f"{key!r} is not a ZmqKey that daskref made")

    def _holders(self, key: Key, host: str) -> list[Source]:
        """Return the other hosts that may have the object."""
        sources = self._sources.sources(key)
        if host == self._host and isinstance(self._sources, KnownPeers):
            # It was put here: if it is not here, it is nowhere that we know of.
            sources = [source for source in sources if source[0] != host]
            if not self._sources.knows_copies:
                return []
        return self._elsewhere(sources)

    def get(self, key: Key) -> memoryview | None:
        """See :meth:`Connector.get`.

        Raises
        ------
        ConnectorUnavailableError
            If the object is on other hosts, and none of them gave it: says who was
            asked, and what each one answered.
        WireError
            Also if bytes of it came damaged twice.
        """
        short, host = self._checked(key)
        found = self._ready().get(short)
        if found is None and self._holders(key, host):
            return self._fetch(ZmqKey(*short, host))
        return found

    def _fetch(self, key: ZmqKey) -> memoryview | None:
        short = SharedMemoryKey(key.name, key.nbytes)
        lines = self._connections()
        limits = self._limits
        began = time.monotonic()
        try:
            arrival = begin(self._local, short, limits.chunk, limits.timeout)
        except TimeoutError:
            raise ConnectorUnavailableError(
                repr(self),
                f"{key.name} is being fetched by another process of this host, which "
                f"has made no progress for {limits.timeout:g} s",
            ) from None
        if not isinstance(arrival, Arrival):
            return arrival
        waited = time.monotonic() - began
        patience = max(limits.timeout - waited, min(1.0, limits.timeout))
        try:
            transfer = Transfer(
                lines,
                arrival,
                lambda: self._holders(key, key.host),
                lambda place: self._sources.failed(key, place),
                limits,
            )
            whole = transfer.run(patience)
        except UnansweredError as exc:
            arrival.give_up()
            raise ConnectorUnavailableError(
                repr(self), f"{key.name} could not be fetched: {exc}"
            ) from None
        except ClosedError:
            arrival.give_up()
            raise ConnectorClosedError(repr(self)) from None
        except OSError as exc:
            arrival.give_up()
            raise ConnectorError(
                repr(self), f"{key.name} could not be stored here: {exc.strerror}"
            ) from exc
        except BaseException:
            arrival.give_up()
            raise
        if not whole:
            arrival.give_up()
            return None
        view = arrival.publish()
        self._sources.fetched(key)
        return view

    def exists(self, key: Key) -> bool:
        """See :meth:`Connector.exists`; asks other hosts if need be."""
        short, host = self._checked(key)
        if self._ready().exists(short):
            return True
        request = Request(Op.EXISTS, 0, *short)
        return self._any_ok(self._holders(key, host), request)

    def _any_ok(self, sources: Sequence[Source], request: Request) -> bool:
        answers = []
        for source in sources:
            try:
                if self._ask(source, request) is Status.OK:
                    return True
            except UnansweredError as exc:
                answers.append(str(exc))
        if answers:
            raise ConnectorUnavailableError(
                repr(self), f"{request.name} may be on another host: {answers[0]}"
            )
        return False

    def _ask(
        self, source: Source, request: Request, data: bytes | None = None
    ) -> Status:
        try:
            return zmqask.ask(self._connections(), source, request, self._limits, data)
        except ClosedError:
            raise ConnectorClosedError(repr(self)) from None

    def evict(self, key: Key) -> None:
        """See :meth:`Connector.evict`; on all hosts that are known to have it."""
        self.evict_batch([key])

    def evict_batch(self, keys: Iterable[Key]) -> None:
        """See :meth:`Connector.evict_batch`.

        Raises
        ------
        ConnectorUnavailableError
            If a host did not answer. What could be reached was deleted.
        """
        local = self._ready()
        by_host: dict[str, tuple[Source, list[str]]] = {}
        for key in keys:
            short, _ = self._checked(key)
            local.evict(short)
            for source in self._copies(key):
                by_host.setdefault(source.host, (source, []))[1].append(short.name)
        answers = []
        for source, names in by_host.values():
            for start in range(0, len(names), NAMES):
                data = "\n".join(names[start : start + NAMES]).encode()
                try:
                    self._ask(source, Request(Op.EVICT, 0), data)
                except UnansweredError as exc:
                    answers.append(f"host {source.host[:8]}: {exc}")
                    break
        if answers:
            raise ConnectorUnavailableError(
                repr(self), f"objects may be left on other hosts: {'; '.join(answers)}"
            )

    def _copies(self, key: Key) -> list[Source]:
        """Return all other hosts that may have a copy."""
        if isinstance(self._sources, KnownPeers) and not self._sources.knows_copies:
            return self._elsewhere(self._sources.targets(0))
        return self._elsewhere(self._sources.sources(key))

    # Lifetimes.

    def link(self, key: Key) -> Key | None:
        """See :meth:`Connector.link`; only of what is on this host, if it serves."""
        short, _ = self._checked(key)
        local = self._ready()
        if not self._stays_here():
            return None
        new = local.link(short)
        return None if new is None else ZmqKey(new[0], new[1], self._host)

    def renew(self, key: Key, seconds: float) -> bool:
        """See :meth:`Connector.renew`; where the object was put."""
        short, host = self._checked(key)
        here = self._ready().renew(short, seconds)
        if host == self._host:
            return here
        milliseconds = max(0, int(seconds * 1000))
        request = Request(Op.RENEW, 0, *short, 0, milliseconds)
        home = [source for source in self._holders(key, host) if source.host == host]
        return self._any_ok(home, request) or here

    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        """See :meth:`Connector.sweep`: on this host, where copies count as objects."""
        swept = self._ready().sweep(known, grace)
        return [ZmqKey(name, nbytes, self._host) for name, nbytes in swept]

    def usage(self) -> Usage:
        """Return what the objects on this host take up, copies included."""
        return self._ready().usage()

    def space(self) -> dict[str, int]:
        """Return sizes of this host in bytes by what they mean, for people to read."""
        return self._ready().space()

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return the keys of the session."""
        found = recall(self._place)
        return {self._place: found} if found else {}

    def config(self) -> dict[str, Any]:
        """See :meth:`Connector.config`."""
        return {**self._config, "peers": dict(self._config["peers"])}

    def close(self) -> None:
        """See :meth:`Connector.close`; transfers that run end with an error."""
        self._closed = True
        self._finalizer()

    def __repr__(self) -> str:
        return f"<ZmqConnector {self._id[:8]} on {self._local.directory}>"


def _unlink_own(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        unlink(path)


def _session(session: str | None) -> str:
    if session is None:
        return secrets.token_hex(16)
    if not isinstance(session, str) or not _SESSION.fullmatch(session):
        raise ConfigError(
            "zmq: session", session, "what the config of another connector says"
        )
    return session


def _local(session: str, root: str | None, **options: Any) -> SharedMemoryConnector:
    """Open this host's session directory; the first of its processes makes it."""
    digest = hashlib.blake2b(session.encode(), digest_size=24).hexdigest()
    name = f"daskref-{os.geteuid()}-{digest[:16]}"
    return SharedMemoryConnector(
        os.path.join(root or "/dev/shm", name),
        nonce=digest[16:],
        create=True,
        **options,
    )


def _advertised(advertise: str | None, address: str, port: int) -> str:
    if advertise:
        host, colon, number = advertise.rpartition(":")
        if colon and number.isdecimal() and (":" not in host or host.endswith("]")):
            return endpoint(host.strip("[]"), int(number))
        address = advertise.strip("[]")
    return endpoint(address, port)
