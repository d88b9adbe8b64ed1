"""A model of how one object spreads to many hosts, as a tree.

Every host that has the object serves it, to a few readers at a time. A reader gets the
source with the fewest readers at present, and of those the one that has served the
fewest so far; if all have as many readers as allowed, it waits, first come, first
served. The scheduler plugin does the same (:mod:`daskref.scheduler._transfers`).

Known limits: all links are alike, and all readers ask at once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

#: Readers that a source serves at a time.
FAN_OUT = 2
#: Bytes that do not count as left.
_NOTHING = 1e-3


class Grant(NamedTuple):
    """Permission for one host to read from another."""

    reader: int
    source: int


class Tree:
    """The hosts that have the object, those that read it, and those that wait.

    *origin*: the host that has the object in the beginning.
    """

    #: How often each host that has the object has been given as a source.
    served: dict[int, int]
    _readers: dict[int, int]
    _sources: dict[int, int]
    _free: list[tuple[int, int, int]]
    _waiting: deque[int]

    def __init__(self, origin: int = 0, fan_out: int = FAN_OUT) -> None:
        if fan_out < 1:
            raise ValueError(f"fan_out={fan_out} is not valid: expected 1 or more")
        self._fan_out = fan_out
        self.served = {}
        self._readers, self._sources = {}, {}
        self._free = []
        self._waiting = deque()
        self._add(origin)

    def _add(self, host: int) -> None:
        self.served[host] = self._readers[host] = 0
        self._offer(host)

    def _offer(self, host: int) -> None:
        if self._readers[host] < self._fan_out:
            heapq.heappush(self._free, self._rank(host))

    def _rank(self, host: int) -> tuple[int, int, int]:
        return self._readers[host], self.served[host], host

    def ask(self, readers: Iterable[int]) -> list[Grant]:
        """Queue hosts that want the object; return the reads that may begin."""
        self._waiting.extend(readers)
        return self._grants()

    def done(self, reader: int) -> list[Grant]:
        """Add a source: a reader has the object. Return the reads that may begin."""
        source = self._sources.pop(reader)
        self._add(reader)
        grants = self._grants()
        self._readers[source] -= 1
        self._offer(source)
        return grants + self._grants()

    def _grants(self) -> list[Grant]:
        grants = []
        while self._waiting and self._free:
            rank = heapq.heappop(self._free)
            source = rank[2]
            if rank != self._rank(source):
                continue  # there is a newer offer
            reader = self._waiting.popleft()
            self._sources[reader] = source
            self.served[source] += 1
            self._readers[source] += 1
            self._offer(source)
            grants.append(Grant(reader, source))
        return grants


@dataclass(frozen=True)
class Links:
    """Properties of the links between hosts."""

    #: Seconds before the first byte of a transfer moves.
    setup: float
    #: Bytes per second of one transfer alone.
    alone: float
    #: Bytes per second of several transfers at a time from one source, together.
    several: float
    #: Bytes per second of all transfers together, where hosts share a machine.
    shared: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name == "shared":
                continue
            if not 0 <= value < float("inf") or (name != "setup" and not value):
                raise ValueError(f"{name}={value} is not valid: expected above 0")


@dataclass(frozen=True)
class Spread:
    """A broadcast as the model predicts it."""

    #: Hosts that read, besides the one that had the object.
    hosts: int
    #: Until the last host has the object.
    seconds: float
    #: Transfers in the longest chain from the first host to a reader.
    rounds: int
    #: Most transfers from one host.
    copies: int


@dataclass
class _Flow:
    grant: Grant
    begins: float
    left: float
    rate: float = 0.0


def simulate(hosts: int, nbytes: int, links: Links, fan_out: int = FAN_OUT) -> Spread:
    """Predict the broadcast of one object.

    Parameters
    ----------
    hosts
        Number of readers, besides the host that has the object.
    links
        All are alike.

    Examples
    --------
    >>> links = Links(setup=0.0, alone=100e6, several=100e6)
    >>> simulate(hosts=8, nbytes=100_000_000, links=links)
    Spread(hosts=8, seconds=4.0, rounds=2, copies=4)
    """
    tree = Tree(0, fan_out)
    depth = {0: 0}
    now = 0.0
    flows = [
        _Flow(grant, links.setup, nbytes) for grant in tree.ask(range(1, hosts + 1))
    ]
    while flows:
        _set_rates(flows, links, now)
        step = min(
            each.left / each.rate if each.rate else each.begins - now for each in flows
        )
        now += step
        done: list[_Flow] = []
        going: list[_Flow] = []
        for flow in flows:
            flow.left -= flow.rate * step
            over = flow.left <= _NOTHING and flow.begins <= now
            (done if over else going).append(flow)
        flows = going
        for flow in done:
            reader, source = flow.grant
            depth[reader] = depth[source] + 1
            flows += [
                _Flow(grant, now + links.setup, nbytes) for grant in tree.done(reader)
            ]
    return Spread(hosts, now, max(depth.values()), max(tree.served.values()))


def _set_rates(flows: list[_Flow], links: Links, now: float) -> None:
    """Divide each source, and the machine, among the flows that have begun."""
    moving = [flow for flow in flows if flow.begins <= now]
    at_source: dict[int, int] = {}
    for flow in moving:
        source = flow.grant.source
        at_source[source] = at_source.get(source, 0) + 1
    for flow in moving:
        count = at_source[flow.grant.source]
        flow.rate = links.alone if count == 1 else links.several / count
    if links.shared is not None:
        total = sum(flow.rate for flow in moving)
        if total > links.shared:
            for flow in moving:
                flow.rate *= links.shared / total
