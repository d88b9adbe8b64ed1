"""Where an object is: its home host, the hosts with a copy, and their endpoints."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from daskref.annotations import override
from daskref.connectors.base import Key
from daskref.connectors.files.connector import checked
from daskref.connectors.shm.connector import SharedMemoryKey
from daskref.connectors.zmq._listening import split_endpoint
from daskref.exceptions import WireError

_HOST = re.compile("[0-9a-f]{32}")

#: Seconds before an endpoint that broke off is asked again: first, longest.
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 2.0


class ZmqKey(NamedTuple):
    """Key of an object in the shared memory of one of several hosts."""

    #: Unique in the session: 8 hexadecimal digits of its writer, 24 of its own.
    name: str
    #: Size of the object in bytes.
    nbytes: int
    #: Identity of the host on which it was put.
    host: str

    @property
    def local(self) -> SharedMemoryKey:
        """Key of the same object in any host's shared memory."""
        return SharedMemoryKey(self.name, self.nbytes)


def checked_key(key: Key) -> ZmqKey:
    """Return a key, also from the plain tuple that a message makes of it.

    Raises WireError if daskref did not make it.
    """
    if isinstance(key, tuple) and type(key) in (tuple, ZmqKey) and len(key) == 3:
        name, nbytes = checked(key[:2], SharedMemoryKey)
        host_is_one = isinstance(key[2], str) and _HOST.fullmatch(key[2])
        if host_is_one and nbytes >= 0:
            return ZmqKey(name, nbytes, key[2])
    raise WireError(f"{key!r} is not a ZmqKey that daskref made")


class Source(NamedTuple):
    """A host that has an object."""

    #: Identity of the host: 32 hexadecimal digits.
    host: str
    #: ``tcp://address:port`` of each of its processes that serves.
    endpoints: Sequence[str]


class Sources(Protocol):
    """Tells a :class:`ZmqConnector` where objects are.

    All methods may be called from several threads at once, and may block. The connector
    reads the attributes on each get and put: an implementation with hosts that join and
    leave keeps them up to date.
    """

    #: Whether other hosts may have objects. If not, :meth:`sources` is not called.
    others: bool = True
    #: Whether other hosts take objects. If not, :meth:`targets` is not called, and puts
    #: stay on this host.
    takers: bool = True

    def sources(self, key: Key, waiting: Callable[[], None]) -> Sequence[Source]:
        """Return the hosts to ask for an object, in this order.

        Called again when none of them gave the object. While it blocks, it calls
        *waiting* every few seconds and lets its exception through: the object need not
        be fetched any more.
        """

    def ended(self, key: Key, copied: bool) -> None:
        """Record the end of a fetch, and whether this host has a copy now.

        The host serves the copy if it serves.
        """
        return

    def given_up(self, key: Key) -> None:
        """Handle that no host gave the object, before the fetch ends.

        May block, and raise an error with a better explanation than the hosts' answers.
        """
        return

    def failed(self, key: Key, endpoint: str) -> None:
        """Record that an endpoint did not answer, or gave damaged bytes."""
        return

    def copies(self, key: Key) -> Sequence[Source]:
        """Return all hosts that may have the object, to delete it there."""

    def targets(self, nbytes: int) -> Sequence[Source]:
        """Return the hosts to which a new object of this size may be sent."""


def parse_peers(peers: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return hosts and their endpoints.

    Raises ConfigError if an endpoint is malformed.
    """
    for endpoint in (each for found in peers.values() for each in found):
        split_endpoint(endpoint)
    return {host: list(found) for host, found in peers.items()}


class KnownPeers(Sources):
    """A fixed set of hosts, without knowledge of which host has which object.

    Parameters
    ----------
    host
        Identity of this host.
    peers
        Identity of a host -> its endpoints; may contain this host.
    """

    def __init__(self, host: str, peers: Mapping[str, Sequence[str]]) -> None:
        self._host = host
        self._peers: dict[str, tuple[str, ...]] = {}
        self.others = self.takers = False
        for name, endpoints in peers.items():
            self.add(name, endpoints)

    def add(self, host: str, endpoints: Sequence[str]) -> None:
        """Add a host, or replace its endpoints."""
        self._peers[host] = tuple(endpoints)
        if host != self._host:
            self.others = self.takers = True

    @override
    def sources(
        self, key: Key, waiting: Callable[[], None] = lambda: None
    ) -> Sequence[Source]:
        # The home host; all hosts if that is not known.
        home = self._peers.get(key[2])
        return [Source(key[2], home)] if home is not None else self.targets(key[1])

    @override
    def copies(self, key: Key) -> Sequence[Source]:
        return self.targets(key[1])

    @override
    def targets(self, nbytes: int) -> Sequence[Source]:
        found = [Source(*each) for each in list(self._peers.items())]
        random.shuffle(found)
        return found


class Candidates:
    """The endpoints to ask for one object, and the answer of each."""

    #: Endpoint -> its answer, for those that failed.
    answers: dict[str, str]
    #: Endpoints whose host lacks the object.
    lacking: set[str]
    _out: set[str]
    _pauses: dict[str, tuple[float, float]]

    def __init__(self, sources: Iterable[Source]) -> None:
        self.answers, self._pauses = {}, {}
        self.lacking, self._out = set(), set()
        self.update(sources)

    def update(self, sources: Iterable[Source]) -> None:
        """Replace the hosts; the answers of endpoints still count."""
        self._sources: list[Source] = []
        for host, endpoints in sources:
            # In random order, so that readers spread over the processes of a host.
            shuffled = random.sample(list(endpoints), len(endpoints))
            self._sources.append(Source(host, shuffled))

    def pick(self, now: float, busy: Sequence[str] = ()) -> str | None:
        """Return an endpoint of the first host that has one, least *busy* first."""
        for _, endpoints in self._sources:
            usable = [
                each
                for each in endpoints
                if each not in self._out and self._pauses.get(each, (0.0,))[0] <= now
            ]
            if usable:
                return min(usable, key=busy.count)
        return None

    def next_time(self) -> float | None:
        """Return when an endpoint may be asked (again); ``None``: never."""
        times = [
            self._pauses.get(each, (0.0,))[0]
            for _, endpoints in self._sources
            for each in endpoints
            if each not in self._out
        ]
        return min(times, default=None)

    def drop(self, endpoint: str, answer: str) -> None:
        """Never ask an endpoint again."""
        self._out.add(endpoint)
        self.answers[endpoint] = answer

    def lacks(self, endpoint: str) -> list[str]:
        """Never ask the host of an endpoint again: it lacks the object.

        Returns the endpoints of that host.
        """
        found = [endpoint]
        for _, endpoints in self._sources:
            if endpoint in endpoints:
                found += endpoints
        for each in found:
            self.lacking.add(each)
            self.drop(each, "does not have it")
        return found

    def put_off(self, endpoint: str, answer: str, now: float) -> None:
        """Ask an endpoint again later."""
        _, last = self._pauses.get(endpoint, (0.0, _FIRST_PAUSE / 2))
        pause = min(2 * last, _LAST_PAUSE)
        self._pauses[endpoint] = now + pause, pause
        self.answers[endpoint] = answer

    def __str__(self) -> str:
        if not self.answers:
            return "no host is known that could be asked"
        return "; ".join(f"{who} {what}" for who, what in self.answers.items())
