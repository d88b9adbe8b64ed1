"""The benchmark: plain Dask and daskref in turn, in one run.

Every row runs both sides alternately for several rounds, on two clusters of worker
processes that live side by side, and prints the median and spread of both, and of the
ratio round by round. Absolute times say little on a shared machine; ratios do.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
from distributed import LocalCluster, wait

import daskref
from daskref.bench import flights
from daskref.bench import objects as bench_objects
from daskref.client.by_reference import ByReference
from daskref.connectors import SharedMemoryConnector
from daskref.objects.codec import encode

GIB = 1 << 30


#: Seconds before each turn. What one side has freed is the fastest memory that the
#: other side can get, if it comes at once: a virtual machine gives free memory back to
#: its host after two seconds, and to get it again takes several times as long.
PAUSE = 3.0


@dataclass(frozen=True)
class Rival:
    """Another library that takes turns with both sides, on plain Dask's cluster."""

    name: str
    #: What the ratio rival / daskref should be at least.
    target: float
    #: ``(client, size in bytes) -> seconds``.
    measure: Callable[..., float]
    #: Packages that it needs.
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``measure`` is ``(client, size in bytes) -> seconds`` for a client's work; for rows
    without a client it returns the seconds of both sides.
    """

    name: str
    title: str
    #: What the ratio plain / daskref should be at least.
    target: float
    measure: Callable[..., Any]
    #: ``False``: two functions in this process, no cluster.
    cluster: bool = True
    #: Settings of daskref for this row.
    settings: dict[str, Any] | None = None
    #: Each round is a program of its own with a cluster of its own: nothing is warm.
    fresh: bool = False
    #: Packages that the row needs. They are imported on all workers beforehand.
    needs: tuple[str, ...] = ()
    rival: Rival | None = None


@dataclass(frozen=True)
class Result:
    """What a row measured: seconds of each round, plain, daskref, and its rival."""

    row: Row
    plain: list[float]
    ours: list[float]
    #: Empty if there is no rival, or it is not installed.
    rival: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Plain / daskref, round by round."""
        return [a / b for a, b in zip(self.plain, self.ours, strict=True)]


def array(nbytes: int) -> np.ndarray[Any, Any]:
    """Return an array of random content, so that no two rounds share anything."""
    return np.random.default_rng().random(nbytes // 8)


def noop(*args: Any) -> None:
    """Do nothing."""


def nbytes(x: Any) -> int:
    """Touch as little of an argument as can be."""
    size: int = x.nbytes
    return size


def _workers(client: Any) -> list[str]:
    return list(client.scheduler_info(n_workers=-1)["workers"])


@contextmanager
def _clock() -> Iterator[list[float]]:
    elapsed: list[float] = []
    gc.collect()
    start = time.perf_counter()
    yield elapsed
    elapsed.append(time.perf_counter() - start)


def _submit(client: Any, size: int) -> float:
    x = array(size)
    with _clock() as elapsed:
        assert client.submit(nbytes, x, pure=True).result() == x.nbytes
    return elapsed[0]


def _scatter(client: Any, size: int) -> float:
    x = array(size)
    with _clock() as elapsed:
        future = client.scatter(x)
    del future
    return elapsed[0]


def _broadcast(client: Any, size: int) -> float:
    x = array(size)
    with _clock() as elapsed:
        future = client.scatter(x, broadcast=True)
    del future
    return elapsed[0]


def _transfers(client: Any, size: int) -> tuple[float, float]:
    first, second, third = _workers(client)[:3]
    made = client.submit(array, size, workers=[first], pure=False)
    wait(made)
    times = []
    for worker in (second, third):
        with _clock() as elapsed:
            client.submit(nbytes, made, workers=[worker], pure=False).result()
        times.append(elapsed[0])
    return times[0], times[1]


def _first_transfer(client: Any, size: int) -> float:
    return _transfers(client, size)[0]


def _second_transfer(client: Any, size: int) -> float:
    return _transfers(client, size)[1]


def _gather(client: Any, size: int) -> float:
    made = client.submit(array, size, pure=False)
    made.result()  # now it is in the store
    with _clock() as elapsed:
        made.result()
    return elapsed[0]


def _flights(client: Any, size: int) -> float:
    frame = flights.load()
    with _clock() as elapsed:
        futures = [
            client.submit(flights.score, frame, carrier, hour)
            for carrier, hour in flights.sweep()
        ]
        client.gather(futures)
    return elapsed[0]


def _noops(client: Any, size: int) -> float:
    with _clock() as elapsed:
        futures = client.map(noop, range(20_000), pure=False)
        wait(futures)
    del futures
    return elapsed[0]


def _round_trips(client: Any, size: int) -> float:
    times = []
    for number in range(100):
        with _clock() as elapsed:
            client.submit(noop, number, pure=False).result()
        times.append(elapsed[0])
    return statistics.median(times)


def _small_arguments(client: Any, size: int) -> float:
    arguments = [array(10_000) for _ in range(10_000)]
    with _clock() as elapsed:
        futures = client.map(noop, arguments, pure=False)
        wait(futures)
    del futures
    return elapsed[0]


def _put(size: int) -> tuple[float, float]:
    x = array(size)
    target = np.empty_like(x)
    target[:] = 0
    with SharedMemoryConnector() as connector:
        connector.evict(connector.put_frames(encode(x).frames))
        connector.evict(connector.put_frames(encode(x).frames))
        with _clock() as memcpy:
            np.copyto(target, x)
        with _clock() as put:
            connector.put_frames(encode(x).frames)
    return memcpy[0], put[0]


def _get(size: int) -> tuple[float, float]:
    times = []
    with SharedMemoryConnector() as connector:
        for each in (1 << 20, size):
            key = connector.put_frames(encode(array(each)).frames)
            connector.get(key)
            with _clock() as elapsed:
                connector.get(key)
            times.append(elapsed[0])
    return times[0], times[1]


ROWS = (
    Row("submit", "submit(f, x), recycled pages", 20, _submit),
    Row(
        "submit-new",
        "submit(f, x), first touch",
        6,
        _submit,
        settings={"daskref.shm.recycle": 0},
    ),
    Row("scatter", "scatter(x)", 10, _scatter),
    Row("broadcast", "scatter(x, broadcast=True), 4 workers", 30, _broadcast),
    Row("transfer", "worker to worker, first consumer", 1.2, _first_transfer),
    Row("transfer-2", "worker to worker, second consumer", 50, _second_transfer),
    Row("gather", "gather of what is in the store", 50, _gather),
    Row("put", "put, recycled pages (against memcpy)", 0.7, _put, cluster=False),
    Row("get", "get (against get of 1 MiB)", 0.5, _get, cluster=False),
    Row("flights", "flights sweep, 40 submits of 188 MB", 15, _flights, fresh=True),
    Row("flights-again", "flights sweep, on a used cluster", 15, _flights),
    Row(
        "model",
        "a torch model of 200 MB in 20 submits",
        3,
        bench_objects.submit_model,
        needs=("torch",),
    ),
    Row(
        "model-broadcast",
        "a torch model of 200 MB, broadcast to 4 workers and used",
        3,
        bench_objects.broadcast_model,
        needs=("torch",),
    ),
    Row(
        "forest",
        "a random forest of 50 MB, scattered, used by 40 tasks",
        3,
        bench_objects.scatter_forest,
        needs=("sklearn.ensemble",),
    ),
    Row(
        "objects",
        "20 objects with 20 MB of bytes each, map and reduce",
        2,
        bench_objects.map_items,
        rival=Rival(
            "ProxyStore", 1, bench_objects.map_proxies, needs=("proxystore.store",)
        ),
    ),
    Row("round-trip", "submit(noop, i).result(), one at a time", 1, _round_trips),
    Row("noops", "20,000 no-op tasks", 1 / 1.03, _noops),
    Row("small", "10,000 tasks with a 10 kB argument", 1 / 1.03, _small_arguments),
)

#: Comparisons with others than Dask -> the module whose ``main`` runs one.
COMPARISONS = {
    "connectors": "daskref.bench.connectors",
    "hosts": "daskref.bench.hosts",
    "proxies": "daskref.bench.proxies",
}


def settle(client: Any) -> None:
    """Wait until nothing is left of the last round, for one minute at most.

    Both schedulers live in this process: what one still cleans up, the other's next
    round would pay for.
    """
    gc.collect()
    deadline = time.monotonic() + 60
    while client.run_on_scheduler(_tasks) and time.monotonic() < deadline:
        time.sleep(0.05)
    if isinstance(client, ByReference):
        while daskref.stats(client)["objects"] and time.monotonic() < deadline:
            time.sleep(0.05)


def _tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def run_row(row: Row, size: int, rounds: int, pause: float = 0.0) -> Result:
    """Measure one row; the first round of a cluster that serves several does not count.

    Parameters
    ----------
    rounds
        How many count.
    pause
        Seconds before each turn; see :data:`PAUSE`.
    """
    plain: list[float] = []
    ours: list[float] = []
    if not row.cluster:
        for _ in range(rounds + 1):
            a, b = row.measure(size)
            plain.append(a)
            ours.append(b)
        return Result(row, plain[1:], ours[1:])
    if row.fresh:
        for _ in range(rounds):
            for side, times in (("plain", plain), ("daskref", ours)):
                times.append(_run_program(row, side, size))
        return Result(row, plain, ours)
    theirs: list[float] = []
    with (
        dask.config.set(row.settings or {}),
        _plain() as without,
        _with_daskref() as with_daskref,
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
def _cluster() -> Iterator[Any]:
    with LocalCluster(
        n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


@contextmanager
def _plain() -> Iterator[Any]:
    with _cluster() as cluster, distributed.Client(cluster) as client:
        yield client


@contextmanager
def _with_daskref() -> Iterator[Any]:
    with _cluster() as cluster, daskref.Client(cluster) as client:
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
    with dask.config.set(row.settings or {}), _SIDES[side]() as client:
        client.run(_import_data)
        seconds: float = row.measure(client, size)
        return seconds


def _import_data() -> None:
    # a second or two on every new worker, whoever passes the data
    import pandas  # noqa: F401


_SIDES = {"plain": _plain, "daskref": _with_daskref}


def add_pause(parser: argparse.ArgumentParser) -> None:
    """Let users say how long to wait before each turn."""
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE,
        help="seconds before each turn, so that nobody runs in memory which somebody "
        "else has just freed (%(default)s)",
    )


def memcpy_speed(size: int) -> float:
    """Return the speed of one memcpy into touched memory, in bytes per second."""
    x = array(size)
    target = np.empty_like(x)
    times = []
    for _ in range(4):
        with _clock() as elapsed:
            np.copyto(target, x)
        times.append(elapsed[0])
    return x.nbytes / statistics.median(times[1:])


def format_seconds(values: list[float]) -> str:
    """Return the median and the spread, in a unit that fits."""
    median = statistics.median(values)
    unit, factor = ("s", 1) if median >= 0.1 else ("ms", 1e3)
    low, high = min(values) * factor, max(values) * factor
    return f"{median * factor:.3g} {unit} ({low:.3g} to {high:.3g})"


def format_result(result: Result) -> str:
    """Return one row as a line of a Markdown table; with a rival, as two."""
    row = result.row
    lines = [_line(row.title, result.plain, result.ours, row.target)]
    if row.rival is not None:
        title = f"the same, {row.rival.name} in place of plain Dask"
        lines.append(_line(title, result.rival, result.ours, row.rival.target))
    return "\n".join(lines)


def _line(title: str, theirs: list[float], ours: list[float], target: float) -> str:
    if not theirs:
        return f"| {title} | cannot | {format_seconds(ours)} | - | {target:.3g} | - |"
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    ratio = statistics.median(ratios)
    return (
        f"| {title} | {format_seconds(theirs)} | {format_seconds(ours)} "
        f"| {ratio:.3g} ({min(ratios):.3g} to {max(ratios):.3g}) "
        f"| {target:.3g} | {'yes' if ratio >= target else 'no'} |"
    )


def format_skipped(row: Row, reason: str) -> str:
    """Return the line of a row that cannot be measured here."""
    return f"| {row.title} | cannot: {reason} | - | - | {row.target:.3g} | - |"


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
    parser.add_argument("rows", nargs="*", help="names of rows; default: all")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--size", default="1 GiB", help="size of the large value")
    add_pause(parser)
    parser.add_argument("--json", type=Path, help="write the raw seconds to a file")
    parser.add_argument("--once", choices=_SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    if args.list:
        for row in ROWS:
            print(f"{row.name:12} {row.title}")
        return 0
    known = {row.name: row for row in ROWS}
    if unknown := set(args.rows) - known.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}; see --list")
    rows = [known[name] for name in args.rows] or list(ROWS)
    size = dask.utils.parse_bytes(args.size)
    if args.once:
        print(_run_once(rows[0], args.once, size))
        return 0
    print(
        f"memcpy {memcpy_speed(size) / 1e9:.1f} GB/s; {args.size}; "
        f"{args.rounds} rounds\n"
    )
    print(HEADER, flush=True)
    raw = {}
    for row in rows:
        if (reason := lacks(row.needs)) is not None:
            print(format_skipped(row, reason), flush=True)
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


if __name__ == "__main__":
    sys.exit(main())
