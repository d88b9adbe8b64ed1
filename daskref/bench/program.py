"""The benchmark: plain Dask and daskref in turn, in one run.

Every row runs both sides alternately for several rounds, on two clusters of worker
processes that live side by side, and prints the median and spread of both, and of the
ratio round by round. Absolute times say little on a shared machine; ratios do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import dask
import distributed
import numpy as np
from distributed import LocalCluster

import daskref
from daskref.bench.measuring import array, judge, parse, settle, timed
from daskref.bench.rows import ROWS, Row


@dataclass(frozen=True)
class Result:
    """What a row measured: seconds of each round, plain, daskref, and its rival."""

    row: Row
    plain: list[float]
    ours: list[float]
    #: Empty if there is no rival, or it is not installed.
    rival: list[float] = field(default_factory=list)


#: Comparisons with others than Dask -> the module whose ``main`` runs one.
COMPARISONS = {
    "connectors": "daskref.bench.connectors",
    "hosts": "daskref.bench.hosts",
    "proxies": "daskref.bench.proxies",
}


def run_row(row: Row, size: int, rounds: int, pause: float = 0.0) -> Result:
    """Measure one row; the first round of a cluster that serves several does not count.

    *rounds*: how many count; *pause*: seconds before each turn, see
    :data:`daskref.bench.measuring.PAUSE`.
    """
    if not row.cluster:
        pairs = [row.measure(size) for _ in range(rounds + 1)][1:]
        return Result(row, [a for a, _ in pairs], [b for _, b in pairs])
    plain: list[float] = []
    ours: list[float] = []
    if row.fresh:
        for _ in range(rounds):
            plain.append(_run_program(row, "plain", size))
            ours.append(_run_program(row, "daskref", size))
        return Result(row, plain, ours)
    theirs: list[float] = []
    with (
        dask.config.set(row.settings or {}),
        _client(distributed.Client) as without,
        _client(daskref.Client) as with_daskref,
    ):
        sides = [(without, row.measure, plain), (with_daskref, row.measure, ours)]
        needs = row.needs
        if row.rival is not None and lacks(row.rival.needs) is None:
            sides.append((without, row.rival.measure, theirs))
            needs += row.rival.needs
        for client in (without, with_daskref):
            client.run(lacks, needs)
        for number in range(rounds + 1):
            # What one side's workers still clean up, the other side's round pays for.
            for client, measure, times in sides[:: -1 if number % 2 else 1]:
                time.sleep(pause)
                with client.as_current():
                    times.append(measure(client, size))
                settle(client)
    return Result(row, plain[1:], ours[1:], theirs[1:])


def lacks(modules: Sequence[str]) -> str | None:
    """Import modules; return the reason if one of them cannot be, or ``None``."""
    for name in modules:
        try:
            import_module(name)
        except ImportError as exc:
            return str(exc)
    return None


@contextmanager
def _client(kind: Any) -> Iterator[Any]:
    with (
        LocalCluster(
            n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        kind(cluster) as client,
    ):
        yield client


def _run_program(row: Row, side: str, size: int) -> float:
    """Measure one side of a row once, in a new process."""
    done = subprocess.run(
        [
            *[sys.executable, "-m", "daskref.bench", row.name],
            *["--size", str(size), "--once", side],
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return float(done.stdout)


def _run_once(row: Row, side: str, size: int) -> float:
    with dask.config.set(row.settings or {}), _client(_SIDES[side]) as client:
        # a second or two on every new worker, whichever side passes the data
        client.run(lacks, ["pandas"])
        seconds: float = row.measure(client, size)
        return seconds


_SIDES = {"plain": distributed.Client, "daskref": daskref.Client}


def memcpy_speed(size: int) -> float:
    """Return the speed of one memcpy into touched memory, in bytes per second."""
    x = array(size)
    target = np.empty_like(x)
    times = [timed(np.copyto, target, x)[0] for _ in range(4)]
    return x.nbytes / statistics.median(times[1:])


def format_result(result: Result) -> str:
    """Return one row as a line of a Markdown table; with a rival, as two."""
    row = result.row
    lines = [f"| {row.title} | {judge(result.plain, result.ours, row.target)} |"]
    if row.rival is not None:
        cells = judge(result.rival, result.ours, row.rival.target)
        lines.append(f"| the same, {row.rival.name} in place of plain Dask | {cells} |")
    return "\n".join(lines)


HEADER = (
    "| row | plain Dask, median (spread) | daskref, median (spread) "
    "| ratio, median (spread) | at least | met |\n|---|---|---|---|---|---|"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in COMPARISONS:
        return int(import_module(COMPARISONS[given[0]]).main(given[1:]))
    if any(each.partition("=")[0] == "--simulate" for each in given):
        return int(import_module("daskref.bench.simulate").main(given))
    parser = argparse.ArgumentParser(
        prog="daskref bench",
        description=__doc__,
        epilog=f"Further comparisons: daskref bench {{{','.join(COMPARISONS)}}} "
        "--help; a model of many hosts: daskref bench --simulate hosts=1000 --help",
    )
    parser.add_argument("--once", choices=_SIDES, help=argparse.SUPPRESS)
    rows = {row.name: row for row in ROWS}
    args = parse(parser, {row.name: row.title for row in ROWS}, given)
    if args.list:
        return 0
    size = dask.utils.parse_bytes(args.size)
    if args.once:
        print(_run_once(rows[args.names[0]], args.once, size))
        return 0
    print(
        f"memcpy {memcpy_speed(size) / 1e9:.1f} GB/s; {args.size}; "
        f"{args.rounds} rounds\n\n{HEADER}",
        flush=True,
    )
    raw = {}
    for row in map(rows.__getitem__, args.names):
        if (reason := lacks(row.needs)) is not None:
            print(f"| {row.title} | cannot: {reason} | - | - | {row.target:.3g} | - |")
            continue
        print(f"… {row.title}", file=sys.stderr)
        result = run_row(row, size, args.rounds, args.pause)
        raw[row.name] = {"plain": result.plain, "daskref": result.ours}
        if row.rival is not None:
            raw[row.name][row.rival.name] = result.rival
        print(format_result(result), flush=True)
        if args.json:  # also if it is ended before the last row
            args.json.write_text(json.dumps(raw, indent=1))
    return 0
