"""What the comparisons share: values, clocks, options, and cells of their tables."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import daskref
from daskref.client.by_reference import ByReference

#: Seconds before each turn. Memory that one side has just freed is the fastest that the
#: other side can get: a virtual machine returns free memory to its host after two
#: seconds, and to get it again takes several times as long.
PAUSE = 3.0


def array(nbytes: int) -> np.ndarray[Any, Any]:
    """Return an array of random content, so that no two rounds share anything."""
    return np.random.default_rng().random(nbytes // 8)


def nbytes(x: Any) -> int:
    """Return the size of an argument: the least that a task can read of it."""
    size: int = x.nbytes
    return size


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Call a function; return the seconds, and what the function returned."""
    gc.collect()  # what is left of another side's turn
    begin = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - begin, result


def settle(client: Any) -> None:
    """Wait until nothing is left of the last round, for one minute at most.

    Both schedulers may live in this process: the next round of one would pay for what
    the other one still cleans up.
    """
    gc.collect()
    deadline = time.monotonic() + 60
    while client.run_on_scheduler(_tasks) and time.monotonic() < deadline:
        time.sleep(0.05)
    refers = isinstance(client, ByReference)
    if refers:
        while daskref.stats(client)["objects"] and time.monotonic() < deadline:
            time.sleep(0.05)


def _tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def parse(
    parser: argparse.ArgumentParser, titles: Mapping[str, str], given: Sequence[str]
) -> argparse.Namespace:
    """Add the options of a program that measures rows, and read them.

    *titles*: name -> title of a row. ``names`` of the result has the rows to measure:
    all by default, and none with ``--list``, which prints them.
    """
    parser.add_argument("names", nargs="*", help="of rows; default: all")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--size", default="1 GiB", help="size of the large value")
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE,
        help="seconds before each turn, so that no side runs in memory that another "
        "side has just freed (%(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write the raw seconds to a file")
    args = parser.parse_args(given)
    if unknown := set(args.names) - titles.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}; see --list")
    if args.list:
        for name, title in titles.items():
            print(f"{name:12} {title}")
    args.names = [] if args.list else args.names or list(titles)
    return args


def spread(values: Sequence[float], factor: float = 1) -> str:
    """Return the median and the extremes of values, each times a factor."""
    low, high = min(values) * factor, max(values) * factor
    return f"{statistics.median(values) * factor:.3g} ({low:.3g} to {high:.3g})"


def format_seconds(values: Sequence[float]) -> str:
    """Return the median and the spread, in a unit that fits; ``cannot`` for none."""
    if not values:
        return "cannot"
    unit, factor = ("s", 1.0) if statistics.median(values) >= 0.1 else ("ms", 1e3)
    return spread(values, factor).replace(" ", f" {unit} ", 1)


def compare(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Return the cells of both sides' seconds, and of the ratio theirs / ours."""
    ratio = spread(ratios(theirs, ours)) if theirs and ours else "-"
    return f"{format_seconds(theirs)} | {format_seconds(ours)} | {ratio}"


def judge(theirs: Sequence[float], ours: Sequence[float], target: float | None) -> str:
    """Return the cells of :func:`compare`, of the target, and whether it is met."""
    met = "-"
    if theirs and ours and target is not None:
        met = "yes" if statistics.median(ratios(theirs, ours)) >= target else "no"
    shown = "-" if target is None else f"{target:.3g}"
    return f"{compare(theirs, ours)} | {shown} | {met}"


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Return theirs / ours, round by round."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]
