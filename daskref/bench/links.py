"""What links between hosts do, and how long an object takes to spread over them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from daskref.bench import clusters as bench_clusters
from daskref.bench.bytes import Stores, fetch, forget, put_bytes, take
from daskref.bench.clusters import Side, hosts_for_sides
from daskref.bench.model import FAN_OUT, Grant, Links, Spread, Tree, simulate
from daskref.testing.agents import Agent, first_to_end
from daskref.testing.host import Host
from daskref.testing.hosts import Network

#: Readers on namespaces of this machine.
CHECKED = (2, 4, 8)
#: What little it takes to have a transfer set up, in bytes.
_SMALL = 1024


@dataclass(frozen=True)
class Setting:
    """What is measured, and how."""

    nbytes: int
    #: ``"clear"`` or ``"tls"``.
    security: str = "clear"
    #: Bound on each link; ``None`` for none.
    mbit: float | None = 200.0
    rounds: int = 3
    #: Whether to measure with tasks of Dask too.
    dask: bool = True


def measure_links(stores: Stores, nbytes: int, rounds: int) -> Links:
    """Measure the links between hosts, of which there are eight at least.

    Parameters
    ----------
    stores
        Fresh: nobody has fetched anything yet.
    rounds
        Of which the median counts.
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
    """What was measured of one."""

    #: Until the last host has it.
    seconds: float
    #: Bytes that the link of one host sent, at most, in sizes of the object.
    copies: float


def broadcast(stores: Stores, hosts: int, nbytes: int) -> float:
    """Spread an object from the first host to others, as the tree says.

    Parameters
    ----------
    stores
        One on each host.

    Returns
    -------
    float
        Seconds.
    """
    agents = stores.agents[: hosts + 1]
    key = agents[0].call(put_bytes, nbytes)
    tree = Tree()
    reading: dict[Agent, int] = {}

    def begin(grants: list[Grant]) -> None:
        for reader, source in grants:
            reading[agents[reader]] = reader
            agents[reader].begin(fetch, key, stores.sources[agents[source]])

    start = time.perf_counter()
    begin(tree.ask(range(1, hosts + 1)))
    while reading:
        for agent in first_to_end(list(reading)):
            agent.end()
            begin(tree.done(reading.pop(agent)))
    seconds = time.perf_counter() - start
    for agent in agents:
        agent.call(forget, key)
    return seconds


def watch(hosts: list[Host], nbytes: int, spread: Callable[[], float]) -> Broadcast:
    """Have an object spread, and look at what the hosts' links send meanwhile."""
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


def measure(setting: Setting) -> tuple[Links, list[Check]]:
    """Measure links, and broadcasts to as many hosts as :data:`CHECKED` says."""
    nbytes, rounds = setting.nbytes, range(setting.rounds)
    with hosts_for_sides(max(CHECKED) + 1) as network:
        hosts = [network[f"host-{number}"] for number in range(max(CHECKED) + 1)]
        for host in hosts:
            host.shape(mbit=setting.mbit)
        with Stores(hosts, setting.security) as stores:
            links = measure_links(stores, nbytes, setting.rounds)
            alone = {
                count: [
                    watch(hosts, nbytes, partial(broadcast, stores, count, nbytes))
                    for _ in rounds
                ]
                for count in CHECKED
            }
        tasks: dict[int, list[Broadcast]] = {}
        if setting.dask:
            try:
                tasks = _measure_dask(network, hosts, setting)
            except AssertionError as exc:
                print(f"… cannot measure with Dask: {exc!s:.2000}", file=sys.stderr)
    return links, [
        Check(simulate(count, nbytes, links), alone[count], tasks.get(count, []))
        for count in CHECKED
    ]


def _measure_dask(
    network: Network, hosts: list[Host], setting: Setting
) -> dict[int, list[Broadcast]]:
    nbytes = setting.nbytes
    connector = f"zmq://?security={setting.security}"
    workers = dict.fromkeys(range(len(hosts)), 1)
    with Side(network, workers, connector=connector) as side:

        def spread(count: int) -> float:
            return take(side.turn(bench_clusters.broadcast, nbytes, count))

        return {
            count: [
                watch(hosts, nbytes, partial(spread, count))
                for _ in range(setting.rounds)
            ]
            for count in CHECKED
        }
