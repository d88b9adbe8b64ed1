"""Where an object is: which hosts have it, and where they serve it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from daskref.connectors.base import Key
from daskref.connectors.zmq._listening import split_endpoint


class Source(NamedTuple):
    """A host that has an object."""

    #: Identity of the host: 32 hexadecimal digits.
    host: str
    #: Where its processes serve: ``tcp://address:port``.
    endpoints: Sequence[str]


@runtime_checkable
class Sources(Protocol):
    """Tells a :class:`ZmqConnector` where objects are, and hears what became of it.

    All methods may be called from several threads at once, and may block.
    """

    def others(self) -> bool:
        """Tell whether there may be other hosts."""
        ...

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


#: What a connector takes as well: only :meth:`Sources.sources`.
Locate: TypeAlias = Callable[[Key], Iterable[tuple[str, Sequence[str]]]]


def parse_peers(peers: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return hosts and their endpoints.

    Raises
    ------
    ConfigError
        If an endpoint is malformed.
    """
    for endpoint in (each for found in peers.values() for each in found):
        split_endpoint(endpoint)
    return {host: list(found) for host, found in peers.items()}


class KnownPeers:
    """The hosts that a connector was told of.

    Parameters
    ----------
    peers
        Identity of a host -> its endpoints.
    locate
        If given, says who has an object.
    """

    peers: dict[str, tuple[str, ...]]

    def __init__(
        self, peers: Mapping[str, Sequence[str]], locate: Locate | None = None
    ) -> None:
        self.peers = {host: tuple(endpoints) for host, endpoints in peers.items()}
        self._locate = locate

    def others(self) -> bool:
        """Tell whether there may be other hosts."""
        return self._locate is not None or bool(self.peers)

    def sources(
        self, key: Key, waiting: Callable[[], None] = lambda: None
    ) -> Sequence[Source]:
        """Return the host in the key; all of them, if that one is not known."""
        if self._locate is not None:
            return [Source(*each) for each in self._locate(key)]
        home = self.peers.get(key[2])
        return [Source(key[2], home)] if home is not None else self.targets(key[1])

    def copies(self, key: Key) -> Sequence[Source]:
        """Return those who have the object, as far as anybody knows; or all hosts."""
        return self.sources(key) if self._locate is not None else self.targets(key[1])

    def ended(self, key: Key, copied: bool) -> None:
        """Do nothing."""

    def given_up(self, key: Key) -> None:
        """Do nothing."""

    def failed(self, key: Key, endpoint: str) -> None:
        """Do nothing."""

    def targets(self, nbytes: int) -> Sequence[Source]:
        """Return all hosts, in random order."""
        found = [Source(*each) for each in self.peers.items()]
        random.shuffle(found)
        return found


class Candidates:
    """Whom to ask for one object, and what each one answered.

    Parameters
    ----------
    sources
        Hosts, the first ones first.
    first_pause, last_pause
        Seconds before an endpoint that broke off is asked again.
    """

    #: What was heard of each endpoint that failed.
    answers: dict[str, str]
    _out: set[str]
    _pauses: dict[str, tuple[float, float]]

    def __init__(
        self,
        sources: Iterable[Source],
        first_pause: float = 0.05,
        last_pause: float = 2.0,
    ) -> None:
        self._sources: list[Source] = []
        self._out = set()
        self._pauses = {}
        self._first_pause = first_pause
        self._last_pause = last_pause
        self.answers = {}
        #: Endpoints whose host has not got the object.
        self.lacking: set[str] = set()
        self.update(sources)

    def update(self, sources: Iterable[Source]) -> None:
        """Replace the hosts; what endpoints have answered still counts."""
        self._sources = []
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
        _, last = self._pauses.get(endpoint, (0.0, self._first_pause / 2))
        pause = min(2 * last, self._last_pause)
        self._pauses[endpoint] = now + pause, pause
        self.answers[endpoint] = answer

    def __str__(self) -> str:
        if not self.answers:
            return "no host is known that could be asked"
        return "; ".join(f"{who} {what}" for who, what in self.answers.items())
