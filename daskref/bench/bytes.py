"""How bytes go from host to host by the connector alone, without Dask.

What is here is called by agents on hosts, one for each; what they keep is in *state*.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeAlias

from daskref.annotations import override
from daskref.connectors import ZmqConnector
from daskref.connectors.base import Key
from daskref.connectors.credentials import remember
from daskref.connectors.zmq.sources import KnownPeers, Source
from daskref.testing.agents import Agent
from daskref.testing.host import Host

#: What somebody measures in turn with others: an iterator that has prepared everything
#: when it yields first, yields the seconds next, and then cleans up.
Turn: TypeAlias = Iterator[float]

_MIB = 1 << 20


def random_bytes(nbytes: int) -> bytes:
    """Return bytes that nothing compresses: one random MiB, repeated."""
    block = random.randbytes(min(nbytes, _MIB))
    return (block * (nbytes // max(len(block), 1) + 1))[:nbytes]


class Joining(NamedTuple):
    """What a connector of the session on another host needs."""

    session: str
    security: str
    secrets: dict[str, dict[str, str]]


class Named(KnownPeers):
    """Has the host asked that was named last, whoever had the object first."""

    source: Source

    def __init__(self) -> None:
        super().__init__("", {})
        self.others = True

    @override
    def sources(
        self, key: Key, waiting: Callable[[], None] = lambda: None
    ) -> Sequence[Source]:
        return [self.source]


def open_connector(
    state: dict[str, Any], security: str, joining: Joining | None = None
) -> tuple[Joining, Source]:
    """Open this host's connector, which serves; return how to join, and where it is."""
    for place, secrets in (joining.secrets if joining else {}).items():
        remember(place, secrets)
    state["named"] = Named()
    connector = ZmqConnector(
        joining.session if joining else None,
        security=security,
        serve=True,
        sources=state["named"],
    )
    state["connector"] = connector
    session = connector.config()["session"]
    return (
        Joining(session, security, connector.secrets()),
        Source(connector.host, connector.endpoints),
    )


def put_bytes(state: dict[str, Any], nbytes: int) -> Key:
    """Put new bytes on this host."""
    key: Key = state["connector"].put(random_bytes(nbytes))
    return key


def fetch(state: dict[str, Any], key: Key, source: Source) -> float:
    """Fetch an object from a host; return the seconds."""
    state["named"].source = source
    begin = time.perf_counter()
    view = state["connector"].get(key)
    seconds = time.perf_counter() - begin
    if view is None:
        raise LookupError(f"{source.host} has not got {key[0]}")
    return seconds


def forget(state: dict[str, Any], key: Key) -> None:
    """Delete an object from this host."""
    state["connector"].evict_here([key])


def close_connector(state: dict[str, Any]) -> None:
    """Close what :func:`open_connector` opened."""
    state.pop("connector").close()


class Stores:
    """Connectors of one session, one on each host.

    *security*: ``"clear"`` or ``"tls"``.
    """

    #: The agents in the order of the hosts, and where each host serves.
    agents: list[Agent]
    sources: dict[Agent, Source]

    def __init__(self, hosts: list[Host], security: str) -> None:
        self._stack = ExitStack()
        self.agents, self.sources = [], {}
        try:
            joining: Joining | None = None
            for host in hosts:
                agent = self._stack.enter_context(Agent(host))
                joining, source = agent.call(open_connector, security, joining)
                # before the agent ends
                self._stack.callback(agent.call, close_connector)
                self.agents.append(agent)
                self.sources[agent] = source
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def turn(self, nbytes: int) -> Turn:
        """Have the second host fetch from the first: see :data:`Turn`."""
        return self.turns(nbytes, [(0, 1)])

    def turns(self, nbytes: int, pairs: list[tuple[int, int]]) -> Turn:
        """Have hosts fetch from others at once; the time is that of the last one.

        *pairs*: positions of the source's host, and of the reader's; a reader reads
        once.
        """
        keys: dict[int, Key] = {}
        for source, _ in pairs:
            if source not in keys:
                keys[source] = self.agents[source].call(put_bytes, nbytes)
        yield 0.0
        for source, reader in pairs:
            where = self.sources[self.agents[source]]
            self.agents[reader].begin(fetch, keys[source], where)
        seconds: list[float] = [self.agents[reader].end() for _, reader in pairs]
        yield max(seconds)
        for source, reader in pairs:
            self.agents[reader].call(forget, keys[source])
        for source, key in keys.items():
            self.agents[source].call(forget, key)


def take(turn: Turn) -> float:
    """Take a turn from its beginning to its end; return the seconds."""
    _, seconds = turn
    return seconds
