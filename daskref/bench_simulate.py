"""How long a broadcast takes: predicted for many hosts, checked on a few.

What links do is measured between hosts in namespaces, or read from a file; a model of
the tree (:mod:`daskref.simulation`) predicts from it. On 2, 4 and 8 namespaces, the
prediction stands beside what was measured. These share one machine: links are bounded,
so that they and not its cores are what counts, and what the machine moves at most, with
four transfers at once, is part of the prediction there; not for the hosts asked for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dask.utils import format_bytes, parse_bytes

from daskref.bench_bytes import Stores, fetch, forget, put_bytes
from daskref.exceptions import NamespaceError
from daskref.simulation import FAN_OUT, Grant, Links, Spread, Tree, simulate
from daskref.testing.agents import first_to_end
from daskref.testing.hosts import Network, capabilities

#: Readers on namespaces of this machine.
CHECKED = (2, 4, 8)
#: What little it takes to have a transfer set up, in bytes.
_SMALL = 1024


@dataclass(frozen=True)
class Setting:
    """What is measured, and how."""

    nbytes: int
    #: ``"clear"`` or ``"curve"``.
    security: str = "curve"
    #: Bound on each link; ``None`` for none.
    mbit: float | None = 200.0
    rounds: int = 3


def measure_links(stores: Stores, nbytes: int, rounds: int) -> Links:
    """Measure the links between hosts, of which there are eight at least.

    Parameters
    ----------
    stores
        Fresh: nobody has fetched anything yet.
    nbytes
        Of the objects.
    rounds
        Of which the median counts.
    """
    count = len(stores.agents)
    # a connection is made for the first transfer between two hosts only
    setups = [
        stores.transfers(_SMALL, [(number, (number + 1) % count)])
        for number in range(count)
    ]
    setup = statistics.median(setups)

    def speed(*pairs: tuple[int, int]) -> float:
        times = [stores.transfers(nbytes, list(pairs)) for _ in range(rounds)]
        return len(pairs) * nbytes / max(statistics.median(times) - setup, 1e-6)

    apart = [(number, number + 1) for number in range(0, 8, 2)]
    stores.transfers(nbytes, apart)  # now they have pages to use again
    alone = speed((0, 1))
    several = speed(*((0, reader) for reader in range(1, FAN_OUT + 1)))
    together = speed(*apart)
    is_bound = together < 0.9 * alone * len(apart)
    return Links(setup, alone, several, shared=together if is_bound else None)


def broadcast(stores: Stores, hosts: int, nbytes: int) -> Spread:
    """Spread an object from the first host to others, as the tree says.

    Parameters
    ----------
    stores
        One on each host.
    hosts
        That read.
    nbytes
        Of the object.
    """
    agents = stores.agents[: hosts + 1]
    key = agents[0].call(put_bytes, nbytes)
    tree, depth = Tree(), {0: 0}
    reading: dict[int, int] = {}

    def begin(grants: list[Grant]) -> None:
        for reader, source in grants:
            reading[reader] = source
            agents[reader].begin(fetch, key, stores.sources[agents[source]])

    start = time.perf_counter()
    begin(tree.ask(range(1, hosts + 1)))
    while reading:
        for agent in first_to_end([agents[reader] for reader in reading]):
            reader = agents.index(agent)
            agent.end()
            depth[reader] = depth[reading.pop(reader)] + 1
            begin(tree.done(reader))
    seconds = time.perf_counter() - start
    for agent in agents:
        agent.call(forget, key)
    return Spread(hosts, seconds, max(depth.values()), max(tree.served.values()))


def measure(setting: Setting) -> tuple[Links, list[tuple[Spread, list[Spread]]]]:
    """Measure links, and broadcasts.

    Returns
    -------
    tuple
        The links; for each of :data:`CHECKED`, the prediction, and what was measured
        in each round.
    """
    with Network() as network:
        hosts = [network.add(f"host-{number}") for number in range(max(CHECKED) + 1)]
        if setting.mbit is not None:
            for host in hosts:
                host.shape(mbit=setting.mbit)
        with Stores(hosts, setting.security) as stores:
            links = measure_links(stores, setting.nbytes, setting.rounds)
            return links, [
                (
                    simulate(count, setting.nbytes, links),
                    [
                        broadcast(stores, count, setting.nbytes)
                        for _ in range(setting.rounds)
                    ],
                )
                for count in CHECKED
            ]


HEADER = (
    "| hosts | rounds | predicted, s | measured, s: median (spread) "
    "| most copies sent by one host, predicted (measured) |\n|---|---|---|---|---|"
)


def format_spread(predicted: Spread, measured: Sequence[Spread] = ()) -> str:
    """Return a prediction, and what was measured, as a line of a Markdown table."""
    seconds, copies = "-", str(predicted.copies)
    if measured:
        times = [each.seconds for each in measured]
        seconds = (
            f"{statistics.median(times):.3g} ({min(times):.3g} to {max(times):.3g})"
        )
        copies += f" ({max(each.copies for each in measured)})"
    return (
        f"| {predicted.hosts} | {predicted.rounds} | {predicted.seconds:.3g} "
        f"| {seconds} | {copies} |"
    )


def growth(hosts: int) -> list[int]:
    """Return the numbers of hosts to print on the way to *hosts*: powers of ten."""
    found, number = [], 10
    while number < hosts:
        found.append(number)
        number *= 10
    return [*found, hosts]


def _describe(links: Links) -> str:
    def speed(value: float) -> str:
        return f"{value / 1e6:.4g} MB/s"

    text = (
        f"links: {links.setup * 1e3:.3g} ms before the first byte, one transfer alone "
        f"{speed(links.alone)}, {FAN_OUT} from one source {speed(links.several)}"
    )
    if links.shared is not None:
        text += f"; the machine, 4 at once {speed(links.shared)}"
    return text


def _hosts(text: str) -> int:
    name, _, number = text.partition("=")
    if name != "hosts" or not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"expected hosts=N, as in hosts=1000: {text}")
    return int(number)


def read_links(path: Path) -> tuple[int, Links]:
    """Read what ``--json`` wrote, or somebody measured elsewhere.

    Returns
    -------
    tuple
        Size of the object that it was measured with, and the links.

    Raises
    ------
    ValueError
        If it is not that.
    """
    found: Any = json.loads(path.read_text())
    try:
        return int(found["nbytes"]), Links(**found["links"])
    except (KeyError, TypeError) as exc:
        raise ValueError(
            f"{path} does not hold nbytes and links (setup, alone, several): {exc}"
        ) from exc


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, check, and print the table.

    Parameters
    ----------
    argv
        Arguments; default: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="daskref bench --simulate", description=__doc__
    )
    parser.add_argument("--simulate", type=_hosts, required=True, metavar="hosts=N")
    parser.add_argument(
        "--links", type=Path, help="what links do, from this file: measures nothing"
    )
    parser.add_argument("--size", help="of the object; default: what was measured with")
    parser.add_argument(
        "--mbit", type=float, default=200.0, help="bound on each link; 0 for none"
    )
    parser.add_argument("--security", choices=("curve", "clear"), default="curve")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write what was measured to a file")
    args = parser.parse_args(argv)
    checked: list[tuple[Spread, list[Spread]]] = []
    if args.links is not None:
        try:
            nbytes, links = read_links(args.links)
        except (OSError, ValueError) as exc:
            parser.error(str(exc))
    else:
        if reason := capabilities().reason:
            parser.error(f"no hosts in namespaces here ({reason}); give --links")
        if args.mbit and not capabilities().rate:
            parser.error("the kernel cannot bound links here; give --mbit 0")
        nbytes = parse_bytes(args.size or "64 MiB")
        setting = Setting(nbytes, args.security, args.mbit or None, args.rounds)
        try:
            links, checked = measure(setting)
        except NamespaceError as exc:
            parser.error(str(exc))
    size = parse_bytes(args.size) if args.size else nbytes
    print(f"{format_bytes(size)} to each host; {_describe(links)}\n")
    print(HEADER)
    for predicted, measured in checked:
        print(format_spread(predicted, measured))
    apart = replace(links, shared=None)
    for count in growth(args.simulate):
        print(format_spread(simulate(count, size, apart)), flush=True)
    if args.json:
        raw = [
            {"predicted": asdict(one), "measured": [asdict(each) for each in many]}
            for one, many in checked
        ]
        content = {"nbytes": nbytes, "links": asdict(links), "checked": raw}
        args.json.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
