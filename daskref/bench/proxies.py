"""The benchmark of proxies: one operation at a time, on the proxies of four libraries.

Every round times each library in turn, by the processor time of the thread: other load
of the machine falls on all of them, or on none. An operation is timed in a loop, whose
own cost, about 10 ns, is in every number.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import json
import os
import pickle
import platform
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from daskref.bench.measuring import ratios
from daskref.objects.reference import describe
from daskref.proxy.proxy import Proxy, resolve

#: Seconds that one library's part of a round takes, about.
SLICE = 0.004
#: In the order of the columns; "plain" is the object itself.
LIBRARIES = ("plain", "daskref", "proxystore", "wrapt", "lazy-object-proxy")
RIVAL = "proxystore"


class Unknown:
    """A factory without metadata."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        """Return the value."""
        return self.value


class Known(Unknown):
    """A factory with the metadata of its value, as that of a store has."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.metadata = describe(value, 100)


class Target:
    """A target with an attribute, a method and a ``with`` statement."""

    def __init__(self) -> None:
        self.x = 1

    def method(self) -> int:
        """Do as little as a method can."""
        return 1

    def __enter__(self) -> int:
        return 1

    def __exit__(self, *exc: object) -> None:
        pass


def identity(x: Any) -> Any:
    """Return the argument."""
    return x


def get_list() -> list[int]:
    """Be a factory without state."""
    return [1]


class Row(NamedTuple):
    """One operation."""

    title: str
    #: Timed. ``p`` is the proxy, ``make`` makes one of ``factory``, ``data`` is the
    #: pickle of an unresolved one.
    statement: str
    #: ``() -> target``.
    target: Callable[[], Any]
    #: ``resolved``, ``fresh`` (nothing is known of the target) or ``described``
    #: (type and hash are known, where the library can).
    state: str = "resolved"


ROWS = (
    Row("attribute", "p.x", Target),
    Row("method", "p.method()", Target),
    Row("set an attribute", "p.x = 2", Target),
    Row("`p[0]` of a list", "p[0]", lambda: [1]),
    Row("`p[0] = 1`", "p[0] = 1", lambda: [1]),
    Row("`p + 1`", "p + 1", lambda: 1),
    Row("`1 + p`", "1 + p", lambda: 1),
    Row("`p == 1`", "p == 1", lambda: 1),
    Row("`p < 1`", "p < 1", lambda: 1),
    Row("`-p`", "-p", lambda: 1),
    Row("`1 in p`", "1 in p", lambda: [1]),
    Row("len", "len(p)", lambda: [1]),
    Row("iter", "iter(p)", lambda: [1]),
    Row("bool", "bool(p)", lambda: [1]),
    Row("int", "int(p)", lambda: 1),
    Row("float", "float(p)", lambda: 1.5),
    Row("hash", "hash(p)", lambda: "text"),
    Row("isinstance", "isinstance(p, list)", lambda: [1]),
    Row("isinstance, false", "isinstance(p, dict)", lambda: [1]),
    Row("str", "str(p)", lambda: 1),
    Row("repr", "repr(p)", lambda: 1),
    Row("format", "format(p, '')", lambda: 1),
    Row("call", "p(1)", lambda: identity),
    Row("with", "with p: pass", Target),
    Row("create", "make(factory)", lambda: [1], "fresh"),
    Row("create, resolve by `p[0]`", "make(factory)[0]", lambda: [1], "fresh"),
    Row("create, resolve by len", "len(make(factory))", lambda: [1], "fresh"),
    Row("create, resolve by a method", "make(factory).copy", lambda: [1], "fresh"),
    Row("pickle.dumps, unresolved", "dumps(p)", lambda: [1], "fresh"),
    Row("pickle.loads, unresolved", "loads(data)", lambda: [1], "fresh"),
    Row("create, described", "make(factory)", lambda: [1], "described"),
    Row("isinstance, unresolved", "isinstance(p, list)", lambda: [1], "described"),
    Row("hash, unresolved", "hash(p)", lambda: "text", "described"),
    Row("repr, unresolved", "repr(p)", lambda: [1], "described"),
    Row("pickle.dumps, described", "dumps(p)", lambda: [1], "described"),
    Row("pickle.loads, described", "loads(data)", lambda: [1], "described"),
)


def makers() -> dict[str, Callable[[Any], Any]]:
    """Return the maker of proxies of each library that is installed, by its name."""
    found: dict[str, Callable[[Any], Any]] = {"daskref": Proxy}
    for name, module, attribute in (
        ("proxystore", "proxystore.proxy", "Proxy"),
        ("wrapt", "wrapt", "LazyObjectProxy"),
        ("lazy-object-proxy", "lazy_object_proxy", "Proxy"),
    ):
        try:
            found[name] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    return found


def prepare(
    row: Row, name: str, make: Callable[[Any], Any] | None
) -> timeit.Timer | None:
    """Return the timer of a row for a library; ``None`` if the library cannot do it.

    *make*: ``(factory) -> proxy``; ``None`` for the plain object.
    """
    value = row.target()
    names: dict[str, Any] = {"dumps": pickle.dumps, "loads": pickle.loads}
    if make is None:
        if row.state != "resolved":
            return None
        names["p"] = value
    else:
        factory: Any = Unknown(value)
        if row.state == "described":
            if name == "daskref":
                factory = Known(value)
            elif name == "proxystore":
                kind: Any = make
                make = partial(kind, cache_defaults=True, target=value)
            else:
                return None
        elif row.statement.startswith(("dumps", "loads")):
            factory = get_list
        p = make(factory)
        names |= {"p": p, "make": make, "factory": factory}
        if row.state == "resolved":
            # the proxies of the others resolve when asked for their class
            resolve(p) if name == "daskref" else p.__class__
    timer = timeit.Timer(row.statement, timer=time.thread_time, globals=names)
    try:
        if row.statement == "loads(data)":
            names["data"] = pickle.dumps(names["p"])
        elif row.state == "described" and name == "proxystore":
            names["p"] = pickle.loads(pickle.dumps(names["p"]))  # without the target
        timer.timeit(1)
    except NotImplementedError:
        return None
    return timer


@dataclass
class Result:
    """Nanoseconds of each round, by library."""

    row: Row
    times: dict[str, list[float]]

    def ratio(self) -> float | None:
        """Return how much longer the rival takes: the median over the rounds."""
        rival = self.times.get(RIVAL)
        return (
            statistics.median(ratios(rival, self.times["daskref"])) if rival else None
        )


def run_row(row: Row, rounds: int, seconds: float = SLICE) -> Result:
    """Measure one row; the first of *rounds* + 1 rounds does not count.

    *seconds*: how long each library is timed in each round, about.
    """
    loops: dict[str, tuple[timeit.Timer, int]] = {}
    for name, make in {"plain": None, **makers()}.items():
        if (timer := prepare(row, name, make)) is not None:
            once = min(timer.repeat(5, 20)) / 20
            loops[name] = timer, max(1, int(seconds / max(once, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in loops}
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds + 1):
            for name, (timer, number) in loops.items():
                times[name].append(timer.timeit(number) / number * 1e9)
    finally:
        if enabled:
            gc.enable()
    return Result(row, {name: each[1:] for name, each in times.items()})


def report(results: list[Result]) -> dict[str, Any]:
    """Return medians and spreads, plain data for JSON.

    *results*: from :func:`run_row`.
    """
    return {
        "date": datetime.date.today().isoformat(),
        "cpus": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in makers()},
        },
        "rows": [
            {
                "title": result.row.title,
                "ratio": result.ratio(),
                "ns": {
                    name: [statistics.median(times), min(times), max(times)]
                    for name, times in result.times.items()
                },
            }
            for result in results
        ],
    }


def format_table(data: dict[str, Any]) -> str:
    """Return a Markdown table of a :func:`report`."""
    names = [n for n in LIBRARIES if any(n in row["ns"] for row in data["rows"])]
    lines = [
        f"| ns | {' | '.join(names)} | {RIVAL} / daskref |",
        f"|---|{'---:|' * (len(names) + 1)}",
    ]
    for row in data["rows"]:
        cells = [
            "{:.0f} ({:.0f} to {:.0f})".format(*row["ns"][name])
            if name in row["ns"]
            else ""
            for name in names
        ]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"| {row['title']} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark of proxies and print its table."""
    parser = argparse.ArgumentParser(prog="daskref bench proxies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count")
    parser.add_argument("--json", type=Path, help="write the results to a file")
    args = parser.parse_args(argv)
    for name in LIBRARIES[1:]:
        if name not in makers():
            print(f"{name} is not installed: no column for it", file=sys.stderr)
    data = report([run_row(row, args.rounds) for row in ROWS])
    print(", ".join(f"{name} {number}" for name, number in data["versions"].items()))
    print(format_table(data))
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    return 0
