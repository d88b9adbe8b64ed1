"""Commands that look: ``info``, ``stats``, ``objects``, ``top``. They put nothing."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import click
from dask.utils import format_bytes

from daskref._version import __version__
from daskref.cli._cluster import Cluster, Target, cluster_options
from daskref.cli._findings import of_folders, of_trips
from daskref.cli._printing import (
    FAILED,
    json_option,
    progress,
    quantity,
    say,
    say_json,
    tell,
)
from daskref.client.inventory import PAGE, ObjectRecord, ask_objects, ask_stats
from daskref.client.tables import Table, printable
from daskref.cluster.health import describe_store
from daskref.cluster.notices import setting_text
from daskref.cluster.opening import open_session_connector
from daskref.cluster.stats import STORED, Stats
from daskref.config import Settings, setting_name, tell_unknown
from daskref.store.metrics import COUNTERS, INBAND
from daskref.units import parse_seconds, parse_size

#: Counters in bytes.
_SIZES = {*STORED, "bytes_kept"} - {"objects"}
#: Holders of each object that `top` shows: all tasks of a sweep may need one.
_HOLDERS = 50
#: Of a core, that a host may spend on what `top` asks of its file systems: 100,000
#: objects take a second.
_SHARE = 0.02
#: Objects that are looked at for those that are wanted.
_MOST = 10_000


@click.command
@cluster_options(required=False)
@json_option
def info(target: Target | None, as_json: bool) -> int:
    """Tell what is configured here and whether it works, or what a cluster has.

    Without ADDRESS: all settings, the store that they mean on this machine, and whether
    a value that is put into it comes back. With ADDRESS, of a scheduler: whether
    daskref is on there, and how it was opened.
    """
    if target is not None:
        return target.run(lambda cluster: _info(cluster, as_json))
    settings = Settings.read()
    tell_unknown()
    texts = {
        setting_name(field): setting_text(field, value)
        for field, value in vars(settings).items()
    }
    with progress("trying the store"), open_session_connector(settings) as connector:
        told = describe_store(connector)
    found = [*of_trips("here", told["trips"]), *of_folders("here", told["folders"])]
    wrong = [
        f"{each.told}. {each.mend}"
        for each in dict.fromkeys(found)
        if each.status == "failed" and each.check in ("round trip", "disk")
    ]
    works = not any(told["trips"].values())
    if as_json:
        store = {"connector": told["connector"], "space": told["space"]}
        say_json(
            {"version": __version__, "settings": texts, **store, "problems": wrong}
        )
        return FAILED if wrong else 0
    say(f"daskref {__version__}")
    for name, text in texts.items():
        say(f"  {name:30} {text}")
    say(f"would use {told['connector']}")
    if any(told["space"].values()):
        for name, nbytes in told["space"].items():
            say(f"  {name:20} {format_bytes(nbytes)}")
    if works:
        say("works: a value of 1 MiB came back as it was")
    for text in wrong:
        say(f"does not work: {text}")
    return FAILED if wrong else 0


async def _info(cluster: Cluster, as_json: bool) -> int:
    opened = await cluster.opened()
    known = cluster.identity
    told = {
        "address": cluster.address,
        "version": opened["version"],
        "workers": len(known["workers"]),
        "threads": sum(each["nthreads"] for each in known["workers"].values()),
        **opened["opened"],
    }
    if as_json:
        say_json({**told, "here": __version__})
        return 0
    say(f"daskref {told['version']} is on at {cluster.address}; here is {__version__}")
    for name in ("connector", "threshold", "budget"):
        say(f"  {name:10} {told.get(name, '')}")
    say(f"  {'hosts':10} {', '.join(told.get('hosts', ())) or 'none yet'}")
    say(f"  {'workers':10} {told['workers']}, with {told['threads']} threads")
    return 0


@click.command
@cluster_options()
@json_option
def stats(target: Target, as_json: bool) -> None:
    """Print what a cluster has stored, put, got and deleted, and what went in-band.

    What clients have counted is in it as of when they left.
    """
    told = target.run(_stats)
    if as_json:
        say_json(told)
        return
    say(*_lines(told))
    for reason, count in told["inband"].items():
        if count:
            say(f"{count} in-band, {reason}: {INBAND.get(reason, '')}")


async def _stats(cluster: Cluster) -> Stats:
    await cluster.opened()
    return await cluster.wait("asking all workers", ask_stats(cluster.scheduler))


def _lines(told: Stats, before: Stats | None = None, seconds: float = 0) -> list[str]:
    """Return a table of hosts; counters per second if *before* is known."""
    names = [*STORED, *COUNTERS]
    heads = [f"{n}/s" if before and n in COUNTERS else n for n in names]
    whole: dict[str, Any] = {**told["hosts"]}
    if len(whole) != 1:
        whole["all"] = told
    earlier: dict[str, Any] = {**(before["hosts"] if before else {}), "all": before}
    rows = []
    for host, counts in whole.items():
        cells = [host]
        for name in names:
            value: float = counts[name]
            if before and name in COUNTERS:
                was = (earlier.get(host) or {}).get(name, 0)
                value = max(0, value - was) / seconds
            cells.append(_cell(name, value))
        rows.append(tuple(cells))
    return Table(("host", *heads), rows).lines()


def _cell(name: str, value: float) -> str:
    return format_bytes(int(value)) if name in _SIZES else f"{round(value, 1):g}"


def _read_patterns(
    ctx: Any, param: Any, value: tuple[str, ...]
) -> list[tuple[str, str]]:
    read = []
    for each in value:
        field, found, pattern = each.partition("=")
        if not found or field not in ObjectRecord._fields:
            fields = ", ".join(ObjectRecord._fields)
            text = f"{each!r} is not FIELD=PATTERN with one of {fields}"
            raise click.BadParameter(text, ctx, param)
        read.append((field, pattern))
    return read


@click.command
@cluster_options()
@click.option(
    "--sort",
    type=click.Choice(ObjectRecord._fields),
    default="nbytes",
    show_default=True,
    help="Order by this field, the largest first.",
)
@click.option("--reverse", is_flag=True, help="The smallest first.")
@click.option(
    "--where",
    "wanted",
    callback=_read_patterns,
    metavar="FIELD=PATTERN",
    multiple=True,
    help="Only objects of which the field, or something in it, matches a pattern of "
    "the shell's, as in hosts=node-1* or keys=score-*. All that are given hold.",
)
@click.option(
    "--larger",
    callback=quantity(parse_size),
    metavar="SIZE",
    default="0",
    help='Only objects of this size at least, as in "1 MiB".',
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    help="How many to print.",
)
@click.option(
    "--among",
    type=click.IntRange(min=1),
    default=_MOST,
    show_default=True,
    help="How many of the largest objects to look at.",
)
@json_option
def objects(
    target: Target,
    sort: str,
    reverse: bool,
    wanted: list[tuple[str, str]],
    larger: int,
    limit: int,
    among: int,
    as_json: bool,
) -> None:
    """List the objects that a cluster has stored, and what holds each."""

    async def _objects(cluster: Cluster) -> Table[ObjectRecord]:
        await cluster.opened()
        ask = ask_objects(cluster.scheduler, among)
        pages = -(-among // PAGE)
        return await cluster.wait("asking the scheduler", ask, pages)

    looked_at = target.run(_objects)
    if len(looked_at) == among:
        tell(f"Only the {among} largest objects were looked at; see --among.")
    found = looked_at.where(
        lambda each: (
            each.nbytes >= larger
            and all(_matches(getattr(each, field), p) for field, p in wanted)
        )
    )
    found = found.by(sort, descending=not reverse)
    shown = Table(found.fields, found[:limit])
    if as_json:
        say_json([each._asdict() for each in shown])
        return
    say(*shown.lines())
    if len(found) > limit:
        say(f"… and {len(found) - limit:,} more")


def _matches(value: Any, pattern: str) -> bool:
    each = value if isinstance(value, tuple) else (value,)
    return any(fnmatchcase(str(one), pattern) for one in each)


@click.command
@cluster_options()
@click.option(
    "--interval",
    callback=quantity(parse_seconds),
    metavar="TIME",
    default="2 s",
    show_default=True,
    help="Time between two looks.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the largest objects to show.",
)
@click.option(
    "--count", type=click.IntRange(min=1), help="Look so many times, and end."
)
@click.option("--once", is_flag=True, help="Look once: --count 1.")
@json_option
def top(
    target: Target,
    interval: float,
    limit: int,
    count: int | None,
    once: bool,
    as_json: bool,
) -> None:
    """Show what a cluster does, again and again, until Ctrl-C.

    After the first look, what is counted is shown per second. With --json, each look is
    one line.
    """
    if once and count is not None:
        raise click.UsageError("--once is --count 1: give one of them")
    looks = 1 if once else count

    async def look(cluster: Cluster, again: bool) -> tuple[Stats, Table[ObjectRecord]]:
        await cluster.opened()  # it may have been switched off meanwhile
        ask = ask_stats(cluster.scheduler, share=_SHARE if again else None)
        told = await cluster.wait("asking all workers", ask)
        listing = ask_objects(cluster.scheduler, limit, holders=_HOLDERS)
        return told, await cluster.wait("asking the scheduler", listing)

    async def _top(cluster: Cluster) -> None:
        before: tuple[float, Stats] | None = None
        number = 0
        while True:
            number += 1
            now = time.monotonic()
            told, largest = await look(cluster, number > 1)
            if as_json:
                listed = [each._asdict() for each in largest]
                say_json({"time": time.time(), "stats": told, "objects": listed})
            else:
                if number > 1 and not sys.stdout.isatty():
                    say("")
                _show(list(_frame(cluster.address, told, largest, before, now)))
            if number == looks:
                return
            before = now, told
            cluster.idle()
            await asyncio.sleep(interval)

    with suppress(KeyboardInterrupt):  # that is how it ends
        target.run(_top)


def _frame(
    address: str,
    told: Stats,
    largest: Table[ObjectRecord],
    before: tuple[float, Stats] | None,
    now: float,
) -> Iterator[str]:
    yield f"daskref at {address}, {time.strftime('%H:%M:%S')}"
    yield ""
    if before is None:
        yield from _lines(told)
    else:
        yield from _lines(told, before[1], now - before[0])
    if inband := {reason: n for reason, n in told["inband"].items() if n}:
        yield "in-band: " + ", ".join(f"{n} {reason}" for reason, n in inband.items())
    if largest:
        yield ""
        yield from largest.lines()


def _show(frame: list[str]) -> None:
    """Print a frame; on a terminal, over the previous one."""
    if not sys.stdout.isatty():
        say(*frame)
        return
    width, height = shutil.get_terminal_size()
    lines = [printable(line)[:width] for line in frame[: height - 1]]
    # home, each line to its end, and what is below
    click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
