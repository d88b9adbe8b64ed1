"""How bytes go from host to host by the connector alone, without Dask.

What is here is called by agents on hosts, one for each; what they keep is in *state*.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

from daskref.connectors import ZmqConnector
from daskref.connectors.base import Key
from daskref.connectors.credentials import remember
from daskref.connectors.zmqsources import Source
from daskref.testing.agents import Agent
from daskref.testing.host import Host

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


def open_connector(
    state: dict[str, Any], security: str, joining: Joining | None = None
) -> tuple[Joining, Source]:
    """Open this host's connector, which serves; return how to join, and where it is."""
    for place, secrets in (joining.secrets if joining else {}).items():
        remember(place, secrets)
    state["sources"] = []
    connector = ZmqConnector(
        joining.session if joining else None,
        security=security,
        serve=True,
        locate=lambda key: state["sources"],
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
    state["sources"] = [source]
    begin = time.perf_counter()
    view = state["connector"].get(key)
    seconds = time.perf_counter() - begin
    if view is None:
        raise LookupError(f"{source.host} has not got {key[0]}")
    return seconds


def forget(state: dict[str, Any], key: Key) -> None:
    """Delete an object from this host."""
    state["sources"] = []
    state["connector"].evict(key)


def close_connector(state: dict[str, Any]) -> None:
    """Close what :func:`open_connector` opened."""
    state.pop("connector").close()


class Stores:
    """Connectors of one session, one on each host.

    Parameters
    ----------
    hosts
        On which.
    security
        ``"clear"`` or ``"curve"``.
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

    def transfer(self, nbytes: int) -> float:
        """Return the seconds in which the second host fetches from the first."""
        return self.transfers(nbytes, [(0, 1)])

    def transfers(self, nbytes: int, pairs: list[tuple[int, int]]) -> float:
        """Return the seconds of fetches at once, until the last one is done.

        Parameters
        ----------
        nbytes
            Of the object.
        pairs
            Positions of the source's host, and of the reader's; a reader reads once.
        """
        keys: dict[int, Key] = {}
        for source, _ in pairs:
            if source not in keys:
                keys[source] = self.agents[source].call(put_bytes, nbytes)
        for source, reader in pairs:
            where = self.sources[self.agents[source]]
            self.agents[reader].begin(fetch, keys[source], where)
        seconds: list[float] = [self.agents[reader].end() for _, reader in pairs]
        for source, reader in pairs:
            self.agents[reader].call(forget, keys[source])
        for source, key in keys.items():
            self.agents[source].call(forget, key)
        return max(seconds)
