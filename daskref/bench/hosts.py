"""Many hosts: Dask's TCP and TLS, ProxyStore's ZeroMQ, plain sockets, and daskref.

The hosts are namespaces of this machine, all on one switch. In each round, every side
takes a turn after a pause, in every other round from last to first: memory that a side
has just freed is the fastest that the next one can get. The first round does not count.
The hosts share the machine's cores and memory: what real hosts do in parallel, these do
one after another.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dask.utils import parse_bytes

from daskref.bench import clusters as bench_clusters
from daskref.bench.bytes import Stores, Turn, open_stores
from daskref.bench.clusters import Side, cpu_seconds, hosts_for_sides, open_side
from daskref.bench.measuring import judge, parse
from daskref.bench.rivals import proxystore, sockets
from daskref.testing.hosts import Network, capabilities

#: Workers on one host that read the same object.
READERS = 8
#: Hosts that an object is spread to.
BROADCASTS = (2, 4, 8)
#: Bytes of an object that all hosts of this machine have at once, twice, and in pools.
_LARGEST = 256 << 20
_SMALL = 1024

CLEAR, ENCRYPTED = "zmq://?security=clear", "zmq://?security=tls"


@dataclass(frozen=True)
class Row:
    """One line of the table: two sides, by their names."""

    title: str
    against: str
    ours: str
    #: The ratio of their seconds should be at least this; ``None``: only reported.
    target: float | None = None


@dataclass(eq=False, repr=False)
class Site:
    """Hosts, and the sides that take turns on them."""

    #: With the hosts that :func:`open_side` needs.
    network: Network
    #: A directory that all hosts see.
    _directory: Path
    size: int
    #: Closes all that the site opens.
    _stack: ExitStack
    #: Name of a side -> () -> its next turn.
    turns: dict[str, Callable[[], Turn]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hosts = [self.network["host-0"], self.network["host-1"]]

    def open(self, make: Callable[..., AbstractContextManager[Any]], *args: Any) -> Any:
        """Open ``make(*args)`` until the experiment ends; ``None`` if that fails."""
        try:
            return self._stack.enter_context(make(*args))
        except (ImportError, AssertionError) as exc:
            print(f"… cannot: {exc!s:.2000}", file=sys.stderr)
            return None

    def side(
        self,
        workers: Mapping[int, int],
        connector: str | None = None,
        *,
        tls: bool = False,
        **env: str,
    ) -> Side | None:
        """Open a :class:`Side`; *env* is the environment of all its processes."""
        directory = self._directory / "certificates" if tls else None
        if directory is not None:
            directory.mkdir(exist_ok=True)
        make = partial(open_side, connector=connector, certificates=directory, env=env)
        side: Side | None = self.open(make, self.network, workers)
        return side

    def move(
        self, name: str, make: Callable[..., AbstractContextManager[Callable[[], Turn]]]
    ) -> None:
        """Have ``make(hosts, size)``, which moves bytes without Dask, take turns."""
        if (turn := self.open(make, self.hosts, self.size)) is not None:
            self.turns[name] = turn

    def store(self, name: str, security: str) -> None:
        """Have the connector alone take turns."""
        stores: Stores | None = self.open(open_stores, self.hosts, security)
        if stores is not None:
            self.turns[name] = partial(stores.turns, self.size)

    def add(
        self, name: str, side: Side | None, measure: Callable[..., Turn], *args: Any
    ) -> None:
        """Have a side take turns at a measurement of the large value."""
        if side is not None:
            self.turns[name] = partial(side.turn, measure, self.size, *args)


#: One worker on each of two hosts.
_TWO = {0: 1, 1: 1}


def _transfer(site: Site) -> None:
    site.move("socket", sockets)
    for name, side in {
        "TCP": site.side(_TWO),
        "TLS": site.side(_TWO, tls=True),
        "clear": site.side(_TWO, CLEAR),
        "encrypted": site.side(_TWO, ENCRYPTED),
    }.items():
        site.add(name, side, bench_clusters.transfer)


def _connectors(site: Site) -> None:
    site.move("socket", sockets)
    site.store("clear", "clear")
    site.store("encrypted", "tls")


def _proxystore(site: Site) -> None:
    site.move("ProxyStore", proxystore)
    site.add("clear", site.side(_TWO, CLEAR), bench_clusters.transfer)


def _readers(site: Site) -> None:
    for name, connector in (("clear", CLEAR), ("encrypted", ENCRYPTED)):
        side = site.side({0: 1, 1: READERS}, connector)
        for count in (1, READERS):
            site.add(f"{name} {count}", side, bench_clusters.read_by, count)


def _small(site: Site) -> None:
    site.size = _SMALL
    sides = {"TCP": None, "clear": CLEAR, "encrypted": ENCRYPTED, "TCP again": None}
    for name, connector in sides.items():
        site.add(name, site.side(_TWO, connector), bench_clusters.small)


def _broadcast(site: Site) -> None:
    site.size = min(site.size, _LARGEST)
    hosts = dict.fromkeys(range(max(BROADCASTS) + 1), 1)
    for name, connector in (("TCP", None), ("clear", CLEAR)):
        side = site.side(hosts, connector)
        for count in (1, *BROADCASTS):
            site.add(f"{name} {count}", side, bench_clusters.broadcast, count)


def _prefetch(site: Site) -> None:
    site.add("TCP", site.side(_TWO), bench_clusters.overlap)
    for name, limit in (("off", "0"), ("on", "1 GiB")):
        side = site.side(_TWO, CLEAR, DASK_DASKREF__PREFETCH=limit)
        site.add(name, side, bench_clusters.overlap)


@dataclass(frozen=True)
class Experiment:
    """Sides that take turns, and the rows that compare them."""

    title: str
    prepare: Callable[[Site], None]
    rows: Sequence[Row]


EXPERIMENTS = {
    "transfer": Experiment(
        "worker to worker, on two hosts",
        _transfer,
        (
            Row("zmq, clear, against Dask's TCP", "TCP", "clear", 1),
            Row("zmq, clear, against a socket", "socket", "clear"),
            Row("zmq, encrypted, against Dask's TLS", "TLS", "encrypted", 1.2),
        ),
    ),
    "connectors": Experiment(
        "connectors alone, on two hosts",
        _connectors,
        (
            Row("connector alone, clear, against a socket", "socket", "clear", 0.8),
            Row("connector alone, encrypted, against a socket", "socket", "encrypted"),
        ),
    ),
    # apart from the others: it needs six times the object's size
    "proxystore": Experiment(
        "ProxyStore's ZeroMQ connector, on two hosts",
        _proxystore,
        [Row("zmq, clear, against ProxyStore's ZeroMQ", "ProxyStore", "clear", 3)],
    ),
    "readers": Experiment(
        f"{READERS} workers of one host against one",
        _readers,
        [
            Row(
                f"{name}: 1 reader against {READERS} on its host",
                f"{name} 1",
                f"{name} {READERS}",
                0.9,
            )
            for name in ("clear", "encrypted")
        ],
    ),
    "small": Experiment(
        "values of 1 KiB",
        _small,
        [
            *(
                Row(f"1 KiB, {name}, against Dask's TCP", "TCP", name, 1)
                for name in ("clear", "encrypted")
            ),
            # what two clusters that are alike differ by
            Row("1 KiB, Dask's TCP, against itself", "TCP", "TCP again"),
        ],
    ),
    "broadcast": Experiment(
        f"to {', '.join(map(str, BROADCASTS))} hosts, of 256 MiB at most",
        _broadcast,
        [
            Row(f"to {count} hosts, clear, against {what}", against, f"clear {count}")
            for count in BROADCASTS
            for what, against in (("Dask's TCP", f"TCP {count}"), ("1", "clear 1"))
        ],
    ),
    "prefetch": Experiment(
        "inputs that come while a thread works",
        _prefetch,
        (
            Row("prefetch, against none", "off", "on"),
            Row("prefetch, against Dask's TCP", "TCP", "on"),
        ),
    ),
}


class Taken(NamedTuple):
    """What one turn took."""

    seconds: float
    #: Of all processes on the hosts together, the idle ones of other sides included.
    cpu_seconds: float


def run(
    experiment: Experiment, size: int, rounds: int, pause: float = 0.0
) -> dict[str, list[Taken]]:
    """Have all sides take turns; return what each round took, by the name of the side.

    There is a round more than *rounds*, which does not count. Sides that fail are left
    out. *pause*: seconds before what counts; see :data:`daskref.bench.measuring.PAUSE`.
    """
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="bench-")
        directory = Path(stack.enter_context(temporary))
        network = stack.enter_context(hosts_for_sides(max(BROADCASTS) + 1, directory))
        site = Site(network, directory, size, stack)
        experiment.prepare(site)
        taken: dict[str, list[Taken]] = {name: [] for name in site.turns}
        for number in range(rounds + 1):
            for name in list(taken)[:: -1 if number % 2 else 1]:
                try:
                    turn = site.turns[name]()
                    next(turn)
                    time.sleep(pause)
                    before = cpu_seconds(network)
                    seconds = next(turn)
                    taken[name].append(Taken(seconds, cpu_seconds(network) - before))
                    for _ in turn:
                        raise RuntimeError("a turn has three parts")
                except AssertionError as exc:
                    print(f"… {name} failed: {exc!s:.2000}", file=sys.stderr)
                    del taken[name]
                    continue
                print(f"… {name}: {seconds:.3g} s", file=sys.stderr)
    return {name: each[1:] for name, each in taken.items()}


HEADER = (
    "| row | against, median (spread) | daskref, median (spread) "
    "| ratio, median (spread) | at least | met | ratio of CPU seconds |\n"
    "|---|---|---|---|---|---|---|"
)


def format_row(row: Row, taken: Mapping[str, list[Taken]]) -> str:
    """Return one row as a line of a Markdown table."""
    against, ours = taken.get(row.against, []), taken.get(row.ours, [])
    cpu = "-"
    # the kernel counts in hundredths of a second: those of all rounds are added
    if against and (least := sum(each.cpu_seconds for each in ours)):
        cpu = f"{sum(each.cpu_seconds for each in against) / least:.3g}"
    theirs, times = ([each.seconds for each in side] for side in (against, ours))
    return f"| {row.title} | {judge(theirs, times, row.target)} | {cpu} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(prog="daskref bench hosts", description=__doc__)
    titles = {name: experiment.title for name, experiment in EXPERIMENTS.items()}
    args = parse(parser, titles, sys.argv[1:] if argv is None else argv)
    if args.list:
        return 0
    if reason := capabilities().reason:
        parser.error(f"no hosts in namespaces here ({reason}): run it as root")
    size, raw = parse_bytes(args.size), {}
    print(f"{args.size}; {args.rounds} rounds\n\n{HEADER}", flush=True)
    for name in args.names:
        experiment = EXPERIMENTS[name]
        print(f"… {experiment.title}", file=sys.stderr)
        raw[name] = run(experiment, size, args.rounds, args.pause)
        for row in experiment.rows:
            print(format_row(row, raw[name]), flush=True)
        if args.json:  # also if it is ended before the last one
            args.json.write_text(json.dumps(_content(raw), indent=1))
    return 0


def _content(raw: dict[str, Any]) -> dict[str, Any]:
    columns = ("seconds", "cpu_seconds")
    return {
        experiment: {
            name: dict(zip(columns, zip(*taken, strict=True), strict=True))
            for name, taken in each.items()
        }
        for experiment, each in raw.items()
    }
