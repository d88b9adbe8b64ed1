"""Dask on many hosts, and what its clients measure there.

A side is a cluster with a client of its own; sides share the hosts. The functions
``(client, size, *args) -> turn`` run in the client's process.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import distributed
from distributed import wait

import daskref
from daskref.bench.bytes import Turn
from daskref.bench.measuring import array, nbytes, settle, timed
from daskref.testing.agents import Agent
from daskref.testing.clusters import HostCluster
from daskref.testing.hosts import Network

_TIMEOUT = 60.0
#: Values of the row of small ones, and remote inputs of the row of prefetching.
_MANY, _INPUTS = 1000, 6
#: Values of this size must go by reference.
_LARGE = 8 << 20
#: Bytes per second of the work that prefetching is to be hidden behind.
_WORK = 400e6


@contextmanager
def hosts_for_sides(count: int, *shared: Path) -> Iterator[Network]:
    """Make the hosts that :func:`open_side` needs, *count* of them for workers.

    *shared*: directories that all hosts see.
    """
    with Network() as network:
        names = [f"host-{number}" for number in range(count)]
        for name in ("scheduler", "client", *names):
            network.add(name, shared=shared)
        yield network


def cpu_seconds(network: Network) -> float:
    """Return the CPU seconds of all processes that are alive on the hosts."""
    spaces = {host.namespace for host in network}
    ticks = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended
            if os.stat(f"/proc/{pid}/ns/net").st_ino in spaces:
                stat = Path(f"/proc/{pid}/stat").read_text()
                # after the name, in parentheses: user and system time
                ticks += sum(map(int, stat.rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def worker(host: int, number: int = 0) -> str:
    """Return the name of a worker."""
    return f"host-{host}-{number}"


class Side(NamedTuple):
    """The client of a cluster, in a process of its own; see :func:`open_side`."""

    agent: Agent

    def turn(self, measure: Callable[..., Turn], size: int, *args: Any) -> Turn:
        """Go through ``measure(client, size, *args)`` in the client's process."""
        yield self.agent.call(_prepare, measure, size, *args)
        yield self.agent.call(_measure, size)
        self.agent.call(_settle)


@contextmanager
def open_side(
    network: Network,
    workers: Mapping[int, int],
    *,
    connector: str | None = None,
    certificates: Path | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[Side]:
    """Start a cluster on hosts from :func:`hosts_for_sides`, and its client.

    *workers*: number of a host -> number of workers there, of one thread each;
    *connector*: of daskref's client, ``None`` for plain Dask; *certificates*: directory
    that all hosts see, for Dask's TLS; *env*: environment of all processes.
    """
    with ExitStack() as stack:
        cluster = HostCluster(network["scheduler"], certificates=certificates, env=env)
        stack.callback(cluster.stop)
        for host, count in workers.items():
            for number in range(count):
                cluster.add_worker(network[f"host-{host}"], name=worker(host, number))
        agent = stack.enter_context(Agent(network["client"], env=cluster.env))
        agent.call(_connect, cluster.address, connector, sum(workers.values()))
        stack.callback(agent.call, _disconnect)
        yield Side(agent)


def _connect(
    state: dict[str, Any], address: str, connector: str | None, workers: int
) -> None:
    warnings.simplefilter("ignore")
    if connector is None:
        client = distributed.Client(address, timeout=_TIMEOUT)
    else:
        client = daskref.Client(address, connector=connector, timeout=_TIMEOUT)
    state["client"] = client
    client.wait_for_workers(workers, timeout=_TIMEOUT)


def _prepare(
    state: dict[str, Any], measure: Callable[..., Turn], size: int, *args: Any
) -> float:
    client = state["client"]
    state["turn"] = measure(client, size, *args)
    if size >= _LARGE:  # small ones would take longer by it
        state["puts"] = _puts(client)
    seconds: float = next(state["turn"])
    return seconds


def _measure(state: dict[str, Any], size: int) -> float:
    seconds: float = next(state["turn"])
    before = state.pop("puts", None)
    if before is not None and _puts(state["client"]) == before:
        raise RuntimeError("the values went in-band: this would not be daskref's time")
    return seconds


def _settle(state: dict[str, Any]) -> None:
    for _ in state.pop("turn"):
        raise RuntimeError("a turn has three parts")
    settle(state["client"])


def _puts(client: Any) -> int | None:
    """Return how many objects the cluster has put; ``None`` for plain Dask."""
    refers = isinstance(client, daskref.Client)
    return daskref.stats(client)["puts"] if refers else None


def _disconnect(state: dict[str, Any]) -> None:
    state.pop("client").close()


def _read(client: Any, size: int, workers: list[str]) -> Turn:
    made = client.submit(array, size, workers=[worker(0)], pure=False)
    wait(made)
    yield 0.0
    yield timed(
        lambda: client.gather(
            [
                client.submit(nbytes, made, workers=[name], pure=False)
                for name in workers
            ]
        )
    )[0]


def transfer(client: Any, size: int) -> Turn:
    """Have a worker read what a task on another host has made."""
    return _read(client, size, [worker(1)])


def read_by(client: Any, size: int, count: int) -> Turn:
    """Have several workers of one host read what was made on another one."""
    return _read(client, size, [worker(1, number) for number in range(count)])


def broadcast(client: Any, size: int, hosts: int) -> Turn:
    """Have a worker of each of several hosts read what was made on another one."""
    return _read(client, size, [worker(number) for number in range(1, hosts + 1)])


def _map(
    client: Any, function: Callable[..., int], size: int, count: int, **options: Any
) -> Turn:
    """Have a worker map a function over values that another host has made."""
    made = client.map(array, [size] * count, workers=[worker(0)], pure=False)
    wait(made)
    yield 0.0
    options |= {"workers": [worker(1)], "pure": False}
    yield timed(lambda: client.gather(client.map(function, made, **options)))[0]


def small(client: Any, size: int) -> Turn:
    """Have a worker read many small values of another host; yield seconds for each."""
    return (seconds / _MANY for seconds in _map(client, nbytes, size, _MANY))


def work(x: Any, seconds: float) -> int:
    """Hold a thread for a while, as work does that needs no core here."""
    time.sleep(seconds)
    return nbytes(x)


def overlap(client: Any, size: int) -> Turn:
    """Have one thread work through tasks, each of which has an input on another host.

    The inputs have *size* together; each task works as long as its transfer may take.
    """
    each = size // _INPUTS
    return _map(client, work, each, _INPUTS, seconds=each / _WORK)
