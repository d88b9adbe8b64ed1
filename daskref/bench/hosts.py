"""Many hosts: Dask's TCP and TLS, ProxyStore's ZeroMQ, plain sockets, and daskref.

The hosts are namespaces of this machine, all on one switch. In each round, everybody
takes a turn, after a pause, and in every other round from last to first: memory that
one has just freed is the fastest that the next one can get. The first round does not
count. They share the machine's cores and memory: what real hosts do in parallel, these
do one after another.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
from daskref.bench.bytes import Stores, Turn
from daskref.bench.clusters import Side, cpu_seconds, hosts_for_sides
from daskref.bench.program import add_pause, format_seconds
from daskref.bench.rivals import ProxyStore, Sockets
from daskref.testing.hosts import Network, capabilities

#: Workers on one host that read the same object.
READERS = 8
#: Hosts that an object is spread to.
BROADCASTS = (2, 4, 8)
#: Of an object that all of them have at once, on this machine; twice, and in pools.
_LARGEST = 256 << 20
_SMALL = 1024

CLEAR, ENCRYPTED = "zmq://?security=clear", "zmq://?security=tls"


@dataclass(frozen=True)
class Row:
    """One line of the table: two that took turns, by their names."""

    title: str
    against: str
    ours: str
    #: What the ratio of their seconds should be at least; ``None``: only reported.
    target: float | None = None


@dataclass(eq=False, repr=False)
class Site:
    """Hosts, and who takes turns on them."""

    #: With the hosts that :class:`Side` needs.
    network: Network
    #: That all hosts see.
    _directory: Path
    size: int
    #: Closes what is opened.
    _stack: ExitStack
    #: Who takes turns: name -> () -> the next turn.
    turns: dict[str, Callable[[], Turn]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hosts = [self.network["host-0"], self.network["host-1"]]

    def open(self, make: Callable[[], AbstractContextManager[Any]]) -> Any:
        """Open something for the time of the experiment; ``None`` if it cannot be."""
        try:
            return self._stack.enter_context(make())
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
        """Open a :class:`Side`; *env* is of all its processes."""
        directory = None
        if tls:
            directory = self._directory / "certificates"
            directory.mkdir(exist_ok=True)
        side: Side | None = self.open(
            lambda: Side(
                self.network,
                workers,
                connector=connector,
                certificates=directory,
                env=env,
            )
        )
        return side

    def move(self, name: str, make: Callable[[], Any]) -> None:
        """Have one that moves bytes without Dask take turns."""
        if (mover := self.open(make)) is not None:
            self.turns[name] = partial(mover.turn, self.size)

    def add(
        self, name: str, side: Side | None, measure: Callable[..., Turn], *args: Any
    ) -> None:
        """Have a side take turns at a measurement of the large value."""
        if side is not None:
            self.turns[name] = partial(side.turn, measure, self.size, *args)


def _transfer(site: Site) -> None:
    two = {0: 1, 1: 1}
    site.move("socket", lambda: Sockets(site.hosts, site.size))
    for name, side in {
        "TCP": site.side(two),
        "TLS": site.side(two, tls=True),
        "clear": site.side(two, CLEAR),
        "encrypted": site.side(two, ENCRYPTED),
    }.items():
        site.add(name, side, bench_clusters.transfer)


def _connectors(site: Site) -> None:
    site.move("socket", lambda: Sockets(site.hosts, site.size))
    site.move("clear", lambda: Stores(site.hosts, "clear"))
    site.move("encrypted", lambda: Stores(site.hosts, "tls"))


def _proxystore(site: Site) -> None:
    site.move("ProxyStore", lambda: ProxyStore(site.hosts))
    site.add("clear", site.side({0: 1, 1: 1}, CLEAR), bench_clusters.transfer)


def _readers(site: Site) -> None:
    for name, connector in (("clear", CLEAR), ("encrypted", ENCRYPTED)):
        side = site.side({0: 1, 1: READERS}, connector)
        for count in (1, READERS):
            site.add(f"{name} {count}", side, bench_clusters.read_by, count)


def _small(site: Site) -> None:
    site.size = _SMALL
    sides = {"TCP": None, "clear": CLEAR, "encrypted": ENCRYPTED, "TCP again": None}
    for name, connector in sides.items():
        side = site.side({0: 1, 1: 1}, connector)
        site.add(name, side, bench_clusters.small)


def _broadcast(site: Site) -> None:
    site.size = min(site.size, _LARGEST)
    hosts = dict.fromkeys(range(max(BROADCASTS) + 1), 1)
    for name, connector in (("TCP", None), ("clear", CLEAR)):
        side = site.side(hosts, connector)
        for count in (1, *BROADCASTS):
            site.add(f"{name} {count}", side, bench_clusters.broadcast, count)


def _prefetch(site: Site) -> None:
    two = {0: 1, 1: 1}
    site.add("TCP", site.side(two), bench_clusters.overlap)
    for name, limit in (("off", "0"), ("on", "1 GiB")):
        side = site.side(two, CLEAR, DASK_DASKREF__PREFETCH=limit)
        site.add(name, side, bench_clusters.overlap)


@dataclass(frozen=True)
class Experiment:
    """Some who take turns, and the rows that compare them."""

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
    #: Of all processes on the hosts together; also what others' idle ones take.
    cpu_seconds: float


def take(turn: Turn, network: Network, pause: float = 0.0) -> Taken:
    """Take a turn, and count what it takes of the cores.

    Parameters
    ----------
    network
        With all hosts.
    pause
        Seconds before what counts; see :data:`daskref.bench.program.PAUSE`.
    """
    next(turn)
    time.sleep(pause)
    before = cpu_seconds(network)
    seconds = next(turn)
    taken = Taken(seconds, cpu_seconds(network) - before)
    for _ in turn:
        raise RuntimeError("a turn has three parts")
    return taken


def run(
    experiment: Experiment, size: int, rounds: int, pause: float = 0.0
) -> dict[str, list[Taken]]:
    """Have everybody take turns.

    Parameters
    ----------
    rounds
        How many count; there is one more.

    Returns
    -------
    dict
        Name -> what each round took; who cannot take part, or failed, is not in it.
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
                    turn = take(site.turns[name](), network, pause)
                except AssertionError as exc:
                    print(f"… {name} failed: {exc!s:.2000}", file=sys.stderr)
                    del taken[name]
                    continue
                print(f"… {name}: {turn.seconds:.3g} s", file=sys.stderr)
                taken[name].append(turn)
    return {name: each[1:] for name, each in taken.items()}


HEADER = (
    "| row | against, median (spread) | daskref, median (spread) "
    "| ratio, median (spread) | at least | met | ratio of CPU seconds |\n"
    "|---|---|---|---|---|---|---|"
)


def format_row(row: Row, taken: Mapping[str, list[Taken]]) -> str:
    """Return one row as a line of a Markdown table."""
    against, ours = taken.get(row.against, []), taken.get(row.ours, [])
    ratio, met, cpu = "-", "-", "-"
    if against and ours:
        pairs = list(zip(against, ours, strict=True))
        ratios = [a.seconds / b.seconds for a, b in pairs]
        median = statistics.median(ratios)
        ratio = f"{median:.3g} ({min(ratios):.3g} to {max(ratios):.3g})"
        if row.target is not None:
            met = "yes" if median >= row.target else "no"
        # the kernel counts in hundredths of a second: those of all rounds are added
        if least := sum(b.cpu_seconds for _, b in pairs):
            cpu = f"{sum(a.cpu_seconds for a, _ in pairs) / least:.3g}"
    shown = [
        format_seconds([taken.seconds for taken in each]) if each else "cannot"
        for each in (against, ours)
    ]
    target = "-" if row.target is None else f"{row.target:.3g}"
    return f"| {row.title} | {' | '.join(shown)} | {ratio} | {target} | {met} | {cpu} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(prog="daskref bench hosts", description=__doc__)
    parser.add_argument("names", nargs="*", help="of experiments; default: all")
    parser.add_argument("--list", action="store_true", help="list them and stop")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--size", default="1 GiB", help="size of the large value")
    add_pause(parser)
    parser.add_argument("--json", type=Path, help="write the raw seconds to a file")
    args = parser.parse_args(argv)
    if args.list:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:12} {experiment.title}")
        return 0
    if unknown := set(args.names) - EXPERIMENTS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}; see --list")
    if reason := capabilities().reason:
        parser.error(f"no hosts in namespaces here ({reason}): run it as root")
    size, raw = parse_bytes(args.size), {}
    print(f"{args.size}; {args.rounds} rounds\n\n{HEADER}", flush=True)
    for name in args.names or EXPERIMENTS:
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


if __name__ == "__main__":
    sys.exit(main())
