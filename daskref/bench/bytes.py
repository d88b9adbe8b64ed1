"""Measure how the connector alone, without Dask, moves bytes from host to host.

Agents, one on each host, call the functions here with their *state*.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeAlias

from daskref.annotations import override
from daskref.bench.measuring import timed
from daskref.connectors import ZmqConnector
from daskref.connectors.base import Key
from daskref.connectors.credentials import remember
from daskref.connectors.zmq.sources import KnownPeers, Source
from daskref.testing.agents import Agent
from daskref.testing.host import Host

#: One measurement: an iterator that prepares, yields for the first time, measures,
#: yields the seconds, and cleans up.
Turn: TypeAlias = Iterator[float]

_MIB = 1 << 20


def random_bytes(nbytes: int) -> bytes:
    """Return bytes that nothing compresses: one random MiB, repeated."""
    block = random.randbytes(min(nbytes, _MIB))
    return (block * (nbytes // max(len(block), 1) + 1))[:nbytes]


class Joining(NamedTuple):
    """What a connector on another host needs to join the session."""

    session: str
    security: str
    secrets: dict[str, dict[str, str]]


class Named(KnownPeers):
    """Name one host as the source of every object, whichever host had it first."""

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
    """Open this host's connector, which serves; return how to join, and its address."""
    for place, secrets in (joining.secrets if joining else {}).items():
        remember(place, secrets)
    state["named"] = Named()
    state["connector"] = connector = ZmqConnector(
        joining.session if joining else None,
        security=security,
        serve=True,
        sources=state["named"],
    )
    return (
        Joining(connector.config()["session"], security, connector.secrets()),
        Source(connector.host, connector.endpoints),
    )


def put_bytes(state: dict[str, Any], nbytes: int) -> Key:
    """Put new bytes on this host."""
    key: Key = state["connector"].put(random_bytes(nbytes))
    return key


def fetch(state: dict[str, Any], key: Key, source: Source) -> float:
    """Fetch an object from a host; return the seconds."""
    state["named"].source = source
    seconds, view = timed(state["connector"].get, key)
    if view is None:
        raise LookupError(f"{source.host} has not got {key[0]}")
    return seconds


def forget(state: dict[str, Any], key: Key) -> None:
    """Delete an object from this host."""
    state["connector"].evict_here([key])


def close_connector(state: dict[str, Any]) -> None:
    """Close what :func:`open_connector` opened."""
    state.pop("connector").close()


class Stores(NamedTuple):
    """Connectors of one session, one on each host; see :func:`open_stores`."""

    #: In the order of the hosts.
    agents: list[Agent]
    #: Where each host serves.
    sources: list[Source]

    def turns(self, nbytes: int, pairs: Sequence[tuple[int, int]] = ((0, 1),)) -> Turn:
        """Have hosts fetch from others at once; the seconds are those of the last one.

        *pairs*: positions of the source's host, and of the reader's; a reader reads
        once. By default, the second host fetches from the first.
        """
        agents = self.agents
        keys = {
            source: agents[source].call(put_bytes, nbytes)
            for source in dict.fromkeys(source for source, _ in pairs)
        }
        yield 0.0
        for source, reader in pairs:
            agents[reader].begin(fetch, keys[source], self.sources[source])
        yield max([agents[reader].end() for _, reader in pairs])
        for source, reader in pairs:
            agents[reader].call(forget, keys[source])
        for source, key in keys.items():
            agents[source].call(forget, key)


@contextmanager
def open_stores(hosts: list[Host], security: str) -> Iterator[Stores]:
    """Open a connector on each host.

    *security*: ``"clear"`` or ``"tls"``.
    """
    stores, joining = Stores([], []), None
    with ExitStack() as stack:
        for host in hosts:
            agent = stack.enter_context(Agent(host))
            joining, source = agent.call(open_connector, security, joining)
            # before the agent ends
            stack.callback(agent.call, close_connector)
            stores.agents.append(agent)
            stores.sources.append(source)
        yield stores


def take(turn: Turn) -> float:
    """Take a turn from its beginning to its end; return the seconds."""
    _, seconds = turn
    return seconds
