"""Measure links between hosts, and how long an object takes to spread over them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from daskref.bench import clusters as bench_clusters
from daskref.bench.bytes import Stores, fetch, forget, open_stores, put_bytes, take
from daskref.bench.clusters import hosts_for_sides, open_side
from daskref.bench.measuring import timed
from daskref.bench.model import FAN_OUT, Grant, Links, Spread, Tree, simulate
from daskref.testing.agents import Agent, first_to_end
from daskref.testing.host import Host

#: Readers on namespaces of this machine.
CHECKED = (2, 4, 8)
#: Bytes of a transfer that takes no longer than to set it up.
_SMALL = 1024


def measure_links(stores: Stores, nbytes: int, rounds: int) -> Links:
    """Measure the links between hosts, of which there are eight at least.

    No host may have fetched from *stores* before. The median of *rounds* counts.
    """
    count = len(stores.agents)
    # a connection is made for the first transfer between two hosts only
    setups = [
        take(stores.turns(_SMALL, [(number, (number + 1) % count)]))
        for number in range(count)
    ]
    setup = statistics.median(setups)

    def speed(*pairs: tuple[int, int]) -> float:
        times = [take(stores.turns(nbytes, list(pairs))) for _ in range(rounds)]
        return len(pairs) * nbytes / max(statistics.median(times) - setup, 1e-6)

    apart = [(number, number + 1) for number in range(0, 8, 2)]
    take(stores.turns(nbytes, apart))  # now they have pages to use again
    alone = speed((0, 1))
    several = speed(*((0, reader) for reader in range(1, FAN_OUT + 1)))
    together = speed(*apart)
    is_bound = together < 0.9 * alone * len(apart)
    return Links(setup, alone, several, shared=together if is_bound else None)


class Broadcast(NamedTuple):
    """What one broadcast took."""

    #: Until the last host has the object.
    seconds: float
    #: Bytes that one host's link sent, at most, in sizes of the object.
    copies: float


def broadcast(stores: Stores, hosts: int, nbytes: int) -> float:
    """Spread an object from the first host to others, as the tree says.

    *stores*: one on each host. Returns the seconds.
    """
    agents = stores.agents[: hosts + 1]
    key = agents[0].call(put_bytes, nbytes)
    tree = Tree()
    reading: dict[Agent, int] = {}

    def begin(grants: list[Grant]) -> None:
        for reader, source in grants:
            reading[agents[reader]] = reader
            agents[reader].begin(fetch, key, stores.sources[source])

    def spread() -> None:
        begin(tree.ask(range(1, hosts + 1)))
        while reading:
            for agent in first_to_end(list(reading)):
                agent.end()
                begin(tree.done(reading.pop(agent)))

    seconds, _ = timed(spread)
    for agent in agents:
        agent.call(forget, key)
    return seconds


def watch(hosts: list[Host], nbytes: int, spread: Callable[[], float]) -> Broadcast:
    """Have an object spread, and count the bytes that each host's link sends."""
    before = [host.traffic.sent for host in hosts]
    seconds = spread()
    sent = [host.traffic.sent - then for host, then in zip(hosts, before, strict=True)]
    return Broadcast(seconds, max(sent) / nbytes)


@dataclass(frozen=True)
class Check:
    """A prediction, and what was measured in each round."""

    predicted: Spread
    #: Of the connector alone, with the tree in this process.
    connector: list[Broadcast]
    #: Of tasks; empty if that could not be measured.
    dask: list[Broadcast]


def measure(
    nbytes: int,
    *,
    security: str = "clear",
    mbit: float | None = 200.0,
    rounds: int = 3,
    dask: bool = True,
) -> tuple[Links, list[Check]]:
    """Measure links, and broadcasts to as many hosts as :data:`CHECKED` says.

    *nbytes*: size of the object; *security*: ``"clear"`` or ``"tls"``; *mbit*: bound on
    each link, ``None`` for none; *dask*: whether to measure with tasks of Dask too.
    """
    with hosts_for_sides(max(CHECKED) + 1) as network:
        hosts = [network[f"host-{number}"] for number in range(max(CHECKED) + 1)]

        def watched(spread: Callable[[int], float]) -> dict[int, list[Broadcast]]:
            return {
                count: [
                    watch(hosts, nbytes, partial(spread, count)) for _ in range(rounds)
                ]
                for count in CHECKED
            }

        for host in hosts:
            host.shape(mbit=mbit)
        with open_stores(hosts, security) as stores:
            links = measure_links(stores, nbytes, rounds)
            alone = watched(lambda count: broadcast(stores, count, nbytes))
        tasks: dict[int, list[Broadcast]] = {}
        workers, connector = (
            dict.fromkeys(range(len(hosts)), 1),
            f"zmq://?security={security}",
        )
        if dask:
            try:
                with open_side(network, workers, connector=connector) as side:
                    function = bench_clusters.broadcast
                    tasks = watched(
                        lambda count: take(side.turn(function, nbytes, count))
                    )
            except AssertionError as exc:
                print(f"… cannot measure with Dask: {exc!s:.2000}", file=sys.stderr)
    return links, [
        Check(simulate(count, nbytes, links), alone[count], tasks.get(count, []))
        for count in CHECKED
    ]
