"""How long a broadcast takes: predicted for many hosts, checked on a few.

The speed of links is measured between hosts in namespaces, or read from a file; a
model of the tree (:mod:`daskref.bench.model`) predicts from it. For 2, 4 and 8
namespaces, the table has measurements beside the prediction. These hosts share one
machine: bounds on the links keep its cores from being the limit, and the prediction
includes what the machine moves at most, with four transfers at once; that for *N* hosts
does not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dask.utils import format_bytes, parse_bytes

from daskref.bench.links import Broadcast, Check, measure
from daskref.bench.measuring import spread
from daskref.bench.model import FAN_OUT, Links, Spread, simulate
from daskref.exceptions import NamespaceError
from daskref.testing.hosts import capabilities

HEADER = (
    "| hosts | rounds | predicted, s | connector, s: median (spread) "
    "| Dask, s: median (spread) | most copies sent by one host, predicted "
    "| connector | Dask |\n|---|---|---|---|---|---|---|---|"
)


def format_line(
    predicted: Spread,
    connector: Sequence[Broadcast] = (),
    dask: Sequence[Broadcast] = (),
) -> str:
    """Return a prediction, and what was measured, as a line of a Markdown table."""
    seconds, copies = [], []
    for measured in (connector, dask):
        if not measured:
            seconds.append("-")
            copies.append("-")
            continue
        seconds.append(spread([each.seconds for each in measured]))
        copies.append(f"{max(each.copies for each in measured):.1f}")
    return (
        f"| {predicted.hosts} | {predicted.rounds} | {predicted.seconds:.3g} "
        f"| {' | '.join(seconds)} | {predicted.copies} | {' | '.join(copies)} |"
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
    """Read the file that ``--json`` writes.

    Returns the size of the object that was measured, and the links. Raises ValueError
    for any other content.
    """
    found: Any = json.loads(path.read_text())
    try:
        return int(found["nbytes"]), Links(**found["links"])
    except (KeyError, TypeError) as exc:
        raise ValueError(
            f"{path} does not hold nbytes and links (setup, alone, several): {exc}"
        ) from exc


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, check, and print the table."""
    parser = argparse.ArgumentParser(
        prog="daskref bench --simulate", description=__doc__
    )
    parser.add_argument("--simulate", type=_hosts, required=True, metavar="hosts=N")
    parser.add_argument(
        "--links", type=Path, help="read the links from this file: measure nothing"
    )
    parser.add_argument("--size", help="of the object; default: the size measured")
    parser.add_argument(
        "--mbit", type=float, default=200.0, help="bound on each link; 0 for none"
    )
    parser.add_argument("--security", choices=("clear", "tls"), default="clear")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--no-dask", action="store_true", help="check with the connector alone"
    )
    parser.add_argument("--json", type=Path, help="write what was measured to a file")
    args = parser.parse_args(argv)
    checks: list[Check] = []
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
        try:
            links, checks = measure(
                nbytes,
                security=args.security,
                mbit=args.mbit or None,
                rounds=args.rounds,
                dask=not args.no_dask,
            )
        except NamespaceError as exc:
            parser.error(str(exc))
    size = parse_bytes(args.size) if args.size else nbytes
    print(f"{format_bytes(size)} to each host; {_describe(links)}\n")
    print(HEADER)
    for check in checks:
        print(format_line(check.predicted, check.connector, check.dask))
    apart = replace(links, shared=None)
    for count in growth(args.simulate):
        print(format_line(simulate(count, size, apart)), flush=True)
    if args.json:
        content = {
            "nbytes": nbytes,
            "links": asdict(links),
            "checks": [asdict(check) for check in checks],
        }
        args.json.write_text(json.dumps(content, indent=1))
    return 0
