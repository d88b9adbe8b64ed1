"""A parameter sweep over a large table, with plain Dask and with daskref: same code.

``python -m daskref.demo`` (or ``make demo``) runs forty ``client.submit(score, flights,
carrier, hour)`` on a fresh cluster of worker processes for each client, and prints one
table. The exit status is 1 if the results differ, or if bulk data went through the
scheduler although daskref was used.

The cluster runs in a child process, so that the scheduler's memory and connections
are apart from the client's (see :mod:`daskref.demo.cluster`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import distributed
import psutil
from distributed.system import MEMORY_LIMIT

import daskref
from daskref.bench import flights
from daskref.demo.cluster import (
    start_cluster,
    start_recording,
    stop_cluster,
    stop_recording,
)
from daskref.testing.agents import Agent

#: Most bytes that may pass the scheduler of a run with daskref, in sizes of the table:
#: forty task messages, their results, heartbeats.
MAX_SHARE = 0.05
#: Memory of the run with plain Dask, in sizes of the table: the forty copies that its
#: scheduler holds at the peak, and as much again on the way.
_PLAIN_FACTOR = 80

#: Value of ``--only`` -> name in the table, note, class.
_CLIENTS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "plain": (
        "distributed.Client",
        "; plain Dask takes a while",
        distributed.Client,
    ),
    "daskref": ("daskref.Client", "", daskref.Client),
}


@dataclass(frozen=True)
class Report:
    """Figures of one run."""

    #: Seconds from the first submit to the last result.
    seconds: float
    #: Bytes that the scheduler received and sent.
    wire_nbytes: int
    #: Growth of the scheduler's memory, at its peak, over that of the idle cluster.
    peak_nbytes: int
    #: Bytes alive in the store, and puts, before the futures were released.
    store_nbytes: int
    puts: int
    #: The scores.
    results: list[float]


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return the exit status.

    It is 0 if the results are equal and the scheduler stayed out of the data's way.
    """
    parser = argparse.ArgumentParser(prog="python -m daskref.demo", description=__doc__)
    parser.add_argument("--only", choices=_CLIENTS, help="run one client")
    parser.add_argument(
        "--copies",
        type=int,
        help="how often to repeat the table's rows (3, or 1 where memory is short)",
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    args = parser.parse_args(argv)

    _say("loading the flights table")
    table = flights.load(args.copies or 1)
    nbytes = int(table.memory_usage(deep=True).sum())
    if args.copies is None:
        if (free := _free_nbytes()) > 3 * nbytes * _PLAIN_FACTOR:
            table = flights.load(3)
            nbytes *= 3
        else:
            _say(
                f"only {_megabytes(free)} of memory are free: one copy of the table in "
                "place of three"
            )
    begin = time.perf_counter()
    expected = [flights.score(table, *step) for step in flights.sweep()]
    alone = time.perf_counter() - begin

    reports: dict[str, Report] = {}
    for only, (name, note, make_client) in _CLIENTS.items():
        if args.only in (None, only):
            _say(f"{name}: {len(expected)} tasks on {args.workers} processes{note}")
            reports[name] = _run(make_client, table, args.workers)

    print(
        f"{len(expected)} x client.submit(score, flights, carrier, hour); "
        f"flights: {len(table):,} rows, {_megabytes(nbytes)} in memory"
    )
    print(f"without Dask: {alone:.1f} s\n")
    print(_table(reports, expected))
    return _verdict(reports, expected, nbytes)


def _run(make_client: Callable[[str], Any], table: Any, workers: int) -> Report:
    with ExitStack() as stack:
        agent = stack.enter_context(Agent())
        address = agent.call(start_cluster, workers)
        stack.callback(agent.call, stop_cluster)
        client = stack.enter_context(make_client(address))
        client.wait_for_workers(workers)
        agent.call(start_recording)
        begin = time.perf_counter()
        futures = []
        steps = flights.sweep()
        for done, step in enumerate(steps):
            futures.append(client.submit(flights.score, table, *step))
            _progress("submitted", done + 1, len(steps))
        results = []
        for future in futures:
            results.append(future.result())
            _progress("finished", len(results), len(steps))
        seconds = time.perf_counter() - begin
        traffic, peak = agent.call(stop_recording)
        plain = type(client) is distributed.Client
        stored: Any = {} if plain else daskref.stats(client)
        return Report(
            seconds=seconds,
            wire_nbytes=sum(traffic),
            peak_nbytes=peak,
            store_nbytes=stored.get("bytes", 0),
            puts=stored.get("puts", 0),
            results=results,
        )


def _table(reports: dict[str, Report], expected: list[float]) -> str:
    rows = [["", *reports]]
    cells: list[tuple[str, Callable[[Report], str]]] = [
        ("seconds", lambda r: f"{r.seconds:.1f}"),
        ("bytes through the scheduler", lambda r: _megabytes(r.wire_nbytes)),
        ("peak scheduler memory", lambda r: f"+{_megabytes(r.peak_nbytes)}"),
        ("bytes in the store", lambda r: _megabytes(r.store_nbytes)),
        ("number of puts", lambda r: str(r.puts)),
        ("results equal", lambda r: "yes" if r.results == expected else "NO"),
    ]
    rows += [[title, *(show(r) for r in reports.values())] for title, show in cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _verdict(reports: dict[str, Report], expected: list[float], nbytes: int) -> int:
    wrong = [name for name, r in reports.items() if r.results != expected]
    if wrong:
        print(f"\nFAILED: results differ with {', '.join(wrong)}", file=sys.stderr)
        return 1
    ours = reports.get("daskref.Client")
    if ours is not None and ours.wire_nbytes > MAX_SHARE * nbytes:
        print(
            f"\nFAILED: {_megabytes(ours.wire_nbytes)} went through the scheduler with "
            f"daskref.Client; at most {MAX_SHARE:.0%} of {_megabytes(nbytes)} may",
            file=sys.stderr,
        )
        return 1
    plain = reports.get("distributed.Client")
    if ours is not None and plain is not None:
        print(f"\ndaskref.Client is {plain.seconds / ours.seconds:.1f} times as fast")
    return 0


def _free_nbytes() -> int:
    # the limit of the container, too
    return min(int(MEMORY_LIMIT), int(psutil.virtual_memory().available))


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r  {what} {done}/{total}", end=end, file=sys.stderr, flush=True)
    elif done % 10 == 0 or done == total:
        _say(f"  {what} {done}/{total}")
