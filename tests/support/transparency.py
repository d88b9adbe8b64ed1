"""Generates docs/transparency.md: ``python -m tests.support.transparency``.

The results are kept in transparency.json beside this file, and the page is made of
them. What is not installed keeps the results that are there. Times are not measured
here but taken over, with ``--speed FILE``, from ``daskref bench proxies --json FILE``.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import re
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from daskref.bench.proxies import format_table
from tests.support.proxy_cases import TARGETS, Factory
from tests.support.proxy_libraries import LIBRARIES, Library
from tests.support.proxy_operations import BEFORE_312, CASES, SINCE_312, outcome, same
from tests.support.proxy_quiet import KINDS, METADATA, QUIET, QUIET_IN_DASK, ask
from tests.support.transparency_values import TEXT, arrivals, table

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[2] / "docs" / "transparency.md"

#: What the results depend on, besides the four libraries.
AROUND = ("numpy", "pandas", "polars", "pyarrow", "dask", "distributed")

TITLES = {
    "ndarray": "NumPy array",
    "ndarray0": "NumPy array without dimensions",
    "scalar": "NumPy scalar",
    "frame": "pandas DataFrame",
    "series": "pandas Series",
    "index": "pandas Index",
    "table": "Arrow table",
    "polars": "polars DataFrame",
    "pair": "named tuple",
    "none": "None",
    "point": "dataclass instance",
    "plain": "class instance",
    "texts": "class instance with conversions of its own",
    "path": "path",
    "function": "function",
    "class": "class",
    "context": "context manager",
    "coroutine": "coroutine",
}

#: Raise TypeError for many plain objects as well.
MAY_REFUSE = ("dispatch", "Task tokenized")


def environment() -> dict[str, str]:
    """Return the versions of everything that the results depend on."""
    major, minor, _ = platform.python_version_tuple()
    return {"python": f"{major}.{minor}"} | {name: version(name) for name in AROUND}


def users(library: Library) -> dict[str, dict[str, list[str]]]:
    """Return how proxies differ from their targets: kind -> verdict -> cases."""
    found: dict[str, dict[str, list[str]]] = {}
    for kind, make in TARGETS.items():
        verdicts: dict[str, list[str]] = {"differs": [], "fails": []}
        for case, function in CASES.items():
            plain = outcome(function, make)
            proxied = outcome(function, lambda m=make: library.make(Factory(m())))
            if not same(plain, proxied):
                verdicts["fails" if proxied[0] == "raises" else "differs"].append(case)
        found[kind] = {name: cases for name, cases in verdicts.items() if cases}
    return found


def quiet(library: Library, table: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Return what fetches for nothing: action -> verdict -> kinds."""
    found: dict[str, dict[str, list[str]]] = {}
    for action, function in table.items():
        verdicts: dict[str, list[str]] = {"fetches": [], "fails": []}
        for kind, make in KINDS.items():
            factory = Factory(make())
            p = library.make(factory)
            failed = False
            try:
                function(p)
            except Exception as exc:
                failed = not (type(exc) is TypeError and action in MAY_REFUSE)
            if factory.calls:
                verdicts["fetches"].append(kind)
            elif failed:
                verdicts["fails"].append(kind)
        found[action] = {name: kinds for name, kinds in verdicts.items() if kinds}
    return found


def metadata(library: Library) -> dict[str, dict[str, list[str]]]:
    """Return which ordinary metadata fetch: question -> verdict -> kinds."""
    found: dict[str, dict[str, list[str]]] = {}
    for question, kinds in METADATA.items():
        verdicts: dict[str, list[str]] = {"fetches": [], "differs": []}
        for kind in kinds:
            factory = Factory(TARGETS[kind]())
            answer = ask(library.make(factory), question)
            if factory.calls:
                verdicts["fetches"].append(kind)
            elif not same(answer, ask(factory.value, question)):
                verdicts["differs"].append(kind)
        found[question] = {name: kinds for name, kinds in verdicts.items() if kinds}
    return found


def measure(name: str) -> dict[str, Any]:
    """Return all results of one library."""
    library = LIBRARIES[name]
    logging.disable()  # Dask writes down what does not pickle
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of coroutines that no case awaits
            return {
                "users": users(library),
                "dask": quiet(library, QUIET_IN_DASK),
                "python": quiet(library, QUIET),
                "metadata": metadata(library),
            }
    finally:
        logging.disable(logging.NOTSET)


# The page

HEAD = """\
# Transparency

<!-- generated by `make transparency`, out of the tables of cases of the tests -->

This page lists every known difference between a proxy and the object that it stands
for, in daskref and in three other libraries that make lazy proxies. It is for users of
explicit proxies who want to know whether an operation works on a proxy, or fetches.

Code that uses a proxy should see the object; code that only passes a proxy on should
not fetch the object. The page is generated from the tables of cases in daskref's tests,
and a test compares it with the installed libraries.

Each library is tested at its best. If a library lets a proxy know the type or the hash
of its target in advance, it does here (ProxyStore's `cache_defaults`, wrapt's
`interface`, daskref's metadata). daskref's tests also run the same cases with proxies
that know nothing of their targets.
"""

USERS = """\
## What users do to a proxy

Every case runs on a plain object and on a proxy of it. The case is the *same* if both
return equal results of the same type, or both raise. It *differs* if the proxy returns
another result, or returns where the plain object raises. It *fails* if the proxy raises
where the plain object does not. A proxy inside a result counts as its target.

In cases such as `p + 2` and `list + p`, `p` is the proxy. *itself* marks a case with
the same proxy on both sides. `iadd` and the like are in-place operators.
"""

QUIET_TEXT = """\
## What must not fetch

Dask and Python's own library pass on, print, pickle, copy, size and inspect unresolved
proxies. None of these operations needs the object. Each row is one operation on proxies
of {count} kinds of object, and counts the kinds for which it *fetches* the object, or
*fails*. A dot means none.
"""

METADATA_TEXT = """\
## Ordinary metadata

These questions have answers without fetching the object, if the proxy gets the
metadata when it is made. daskref collects metadata when it stores the object, as long
as they are small: up to 64 names of columns, and 1 KiB in all. A resolved proxy
answers from its target, including later changes.
"""

SPEED_TEXT = """\
## Speed

The table has nanoseconds of processor time per operation, median and spread of the
rounds, measured by `daskref bench proxies` on {date} ({cpus} CPUs, {versions}). All
libraries run in turn in each round, and the ratio is the median of the ratios of the
rounds. Rows without a remark are of resolved proxies. *Described* proxies know type and
hash, if the library allows it. lazy-object-proxy resolves a proxy to pickle it, and
wrapt refuses to pickle.
"""


def render(data: dict[str, Any]) -> str:
    """Return the page."""
    names = [name for name in LIBRARIES if name in data["libraries"]]
    libraries = data["libraries"]
    made = ", ".join(f"{name} {number}" for name, number in data["made with"].items())
    compared = ", ".join(
        f"{name} {libraries[name]['version']}" for name in names if name != "daskref"
    )
    parts = [
        HEAD,
        f"daskref is compared with {compared}. The page was made with {made}.",
        USERS,
        _matrix(libraries, names),
        *(_kind(libraries, names, kind) for kind in TARGETS),
        _versions_of_python(),
        QUIET_TEXT.format(count=len(KINDS)),
        "### By Dask",
        _quiet(libraries, names, "dask", QUIET_IN_DASK),
        "### By Python's library",
        _quiet(libraries, names, "python", QUIET),
        METADATA_TEXT,
        _metadata(libraries, names),
        TEXT,
        table(data["values"]),
    ]
    if speed := data.get("speed"):
        used = ", ".join(f"{name} {n}" for name, n in speed["versions"].items())
        parts += [
            SPEED_TEXT.format(date=speed["date"], cpus=speed["cpus"], versions=used),
            format_table(speed),
        ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _title(kind: str) -> str:
    return TITLES.get(kind, kind)


def _matrix(libraries: dict[str, Any], names: list[str]) -> str:
    rows = []
    totals = dict.fromkeys(names, (0, 0))
    for kind in TARGETS:
        row = [f"[{_title(kind)}](#{_title(kind).lower().replace(' ', '-')})"]
        for name in names:
            verdicts = libraries[name]["results"]["users"][kind]
            counts = (len(verdicts.get("differs", ())), len(verdicts.get("fails", ())))
            totals[name] = (totals[name][0] + counts[0], totals[name][1] + counts[1])
            row.append(_counts(len(CASES), *counts))
        rows.append(row)
    total = len(CASES) * len(TARGETS)
    rows.append(["**all**", *(_counts(total, *totals[name]) for name in names)])
    return "Same / differs / fails:\n\n" + _table(["object", *names], rows)


def _counts(cases: int, differs: int, fails: int) -> str:
    return f"{cases - differs - fails} / {differs} / {fails}"


def _kind(libraries: dict[str, Any], names: list[str], kind: str) -> str:
    lines = [f"### {_title(kind)}\n"]
    for name in names:
        verdicts = libraries[name]["results"]["users"][kind]
        texts = [f"{verdict}: {_code(cases)}" for verdict, cases in verdicts.items()]
        lines.append(f"- **{name}** {'; '.join(texts) or 'nothing differs'}")
    return "\n".join(lines)


def _code(cases: list[str]) -> str:
    return ", ".join(f"`{case}`" for case in cases)


def _versions_of_python() -> str:
    def listed(table: dict[str, list[str]]) -> str:
        return "; ".join(f"`{case}` ({', '.join(k)})" for case, k in table.items())

    return (
        "### Versions of Python\n\n"
        "Before Python 3.12 no class can offer a buffer. These cases fail with daskref "
        f"there, and are the same from 3.12 on: {listed(BEFORE_312)}. From 3.12 on, "
        "NumPy takes a proxy of bytes for an array of integers, and these differ: "
        f"{listed(SINCE_312)}."
    )


def _quiet(
    libraries: dict[str, Any], names: list[str], part: str, table: dict[str, Any]
) -> str:
    rows = []
    for action in table:
        row = [f"`{action}`"]
        for name in names:
            verdicts = libraries[name]["results"][part][action]
            texts = [
                f"{verdict} {'all' if len(kinds) == len(KINDS) else len(kinds)}"
                for verdict, kinds in verdicts.items()
            ]
            row.append(", ".join(texts) or "·")
        rows.append(row)
    return _table(["done to the proxy", *names], rows)


def _metadata(libraries: dict[str, Any], names: list[str]) -> str:
    rows = []
    for question, kinds in METADATA.items():
        row = [f"`{question}`", ", ".join(map(_title, kinds))]
        for name in names:
            verdicts = libraries[name]["results"]["metadata"][question]
            texts = [
                f"{verdict}{'' if some == kinds else f' {len(some)} of {len(kinds)}'}"
                for verdict, some in verdicts.items()
            ]
            row.append(", ".join(texts) or "answers")
        rows.append(row)
    return _table(["asked", "of", *names], rows)


def main() -> None:
    """Measure what is installed; write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", type=Path, help="results of `daskref bench proxies`")
    args = parser.parse_args()
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"libraries": {}}
    libraries = old["libraries"]
    for name, library in LIBRARIES.items():
        if library.version is None:
            print(f"{name} is not installed: its results stay as they are")
            continue
        libraries[name] = {"version": library.version, "results": measure(name)}
    data = {
        "made with": environment(),
        "libraries": libraries,
        "values": arrivals(),
        "speed": old.get("speed"),
    }
    if args.speed:
        data["speed"] = json.loads(args.speed.read_text())
    text = json.dumps(data, indent=1, sort_keys=True)
    # one line for each list
    text = re.sub(r"\[[^][{}]*\]", lambda m: " ".join(m[0].split()), text)
    RESULTS.write_text(text + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
