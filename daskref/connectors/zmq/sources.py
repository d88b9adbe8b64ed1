"""Where an object is: what its key says, which hosts have it, where they serve it."""

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
    """Return a key, which may be a plain tuple: it is one after a message of Dask's.

    Raises WireError if it is not one that daskref made.
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
    #: Where its processes serve: ``tcp://address:port``.
    endpoints: Sequence[str]


class Sources(Protocol):
    """Tells a :class:`ZmqConnector` where objects are, and hears what became of it.

    All methods may be called from several threads at once, and may block. The
    attributes are looked at on each get and put, so whoever knows of hosts that join
    and leave keeps them up to date.
    """

    #: Whether other hosts may have objects; without any, :meth:`sources` is not asked.
    others: bool = True
    #: Whether other hosts take objects; without any, :meth:`targets` is not asked, and
    #: what is put stays on this host.
    takers: bool = True

    def sources(self, key: Key, waiting: Callable[[], None]) -> Sequence[Source]:
        """Return the hosts to ask for an object, those to ask first at the front.

        Asked again when none of them could give it. While it blocks, for its turn
        perhaps, it calls *waiting* every few seconds, and lets its error through: the
        object need not be fetched any more.
        """
        ...

    def ended(self, key: Key, copied: bool) -> None:
        """Take note that a fetch is over, and whether this host has a copy now.

        It serves that if it serves.
        """
        ...

    def given_up(self, key: Key) -> None:
        """Hear that none of the hosts gave the object, before the fetch is over.

        May block, and raise an error that says more than what each one answered.
        """
        ...

    def failed(self, key: Key, endpoint: str) -> None:
        """Take note that an endpoint did not answer, or gave damaged bytes."""
        ...

    def copies(self, key: Key) -> Sequence[Source]:
        """Return all hosts that may have the object, for it to be deleted."""
        ...

    def targets(self, nbytes: int) -> Sequence[Source]:
        """Return the hosts to which to send a new object of this size."""
        ...


def parse_peers(peers: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return hosts and their endpoints.

    Raises ConfigError if an endpoint is malformed.
    """
    for endpoint in (each for found in peers.values() for each in found):
        split_endpoint(endpoint)
    return {host: list(found) for host, found in peers.items()}


class KnownPeers(Sources):
    """The hosts that somebody names; nobody says which of them has what.

    Parameters
    ----------
    host
        Identity of this host.
    peers
        Identity of a host -> its endpoints; this one may be among them.
    """

    _peers: dict[str, tuple[str, ...]]

    def __init__(self, host: str, peers: Mapping[str, Sequence[str]]) -> None:
        self._host = host
        self._peers = {}
        self.others = self.takers = False
        for name, endpoints in peers.items():
            self.add(name, endpoints)

    def add(self, host: str, endpoints: Sequence[str]) -> None:
        """Take note of where a host serves."""
        self._peers[host] = tuple(endpoints)
        if host != self._host:
            self.others = self.takers = True

    @override
    def sources(
        self, key: Key, waiting: Callable[[], None] = lambda: None
    ) -> Sequence[Source]:
        # The host in the key; all of them, if that one is not known.
        home = self._peers.get(key[2])
        return [Source(key[2], home)] if home is not None else self.targets(key[1])

    @override
    def copies(self, key: Key) -> Sequence[Source]:
        return self.targets(key[1])

    @override
    def ended(self, key: Key, copied: bool) -> None:
        pass

    @override
    def given_up(self, key: Key) -> None:
        pass

    @override
    def failed(self, key: Key, endpoint: str) -> None:
        pass

    @override
    def targets(self, nbytes: int) -> Sequence[Source]:
        found = [Source(*each) for each in list(self._peers.items())]
        random.shuffle(found)
        return found


class Candidates:
    """Whom to ask for one object, the first ones first, and what each one answered."""

    #: What was heard of each endpoint that failed.
    answers: dict[str, str]
    #: Endpoints whose host has not got the object.
    lacking: set[str]
    _out: set[str]
    _pauses: dict[str, tuple[float, float]]

    def __init__(self, sources: Iterable[Source]) -> None:
        self.answers, self._pauses = {}, {}
        self.lacking, self._out = set(), set()
        self.update(sources)

    def update(self, sources: Iterable[Source]) -> None:
        """Replace the hosts; what endpoints have answered still counts."""
        self._sources: list[Source] = []
        for host, endpoints in sources:
            # Neighbours spread their readers: not all ask the first one.
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
        """Return when an endpoint that broke off may be asked again, if any may."""
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
        """Never ask an endpoint again, nor others of its host: it lacks the object.

        Returns
        -------
        list of str
            The endpoints of that host.
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
