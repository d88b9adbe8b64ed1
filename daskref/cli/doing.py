"""Commands that do something: ``run``, ``sweep``, ``bench``."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

import click
import dask.config

from daskref.cli._printing import json_option, progress, say, say_json
from daskref.config import Settings
from daskref.connectors import SharedMemoryConnector
from daskref.preload import REPORTING


class _Verbatim(click.Command):
    """A command that passes its arguments on to another program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments unparsed, except for a request for help."""
        if not self.add_help_option or args not in ([], ["-h"], ["--help"]):
            ctx.params["arguments"] = args
            return []
        if not args:
            raise click.UsageError("which program?", ctx)
        return super().parse_args(ctx, args)


@click.command(
    cls=_Verbatim,
    options_metavar="[--json] [option ...] (SCRIPT | -m MODULE | -c CODE) "
    "[argument ...]",
)
def run(arguments: list[str]) -> NoReturn:
    """Run a program: its Dask clients pass large values by reference.

    It runs as `python` with the same arguments does, and all Dask clients that it
    makes, or that its libraries make, pass large values by reference. Options are those
    of `python`; the exit code is the program's.

    With --json, which comes first, each client of the program prints one line of JSON
    on stderr as it closes, or the program ends: its name, and what `daskref stats`
    tells then.
    """
    reports = arguments[0] == "--json"
    if reports and not (arguments := arguments[1:]):
        raise click.UsageError("which program?")
    preload = dask.config.get("distributed.client.preload", [])
    preload = [preload] if isinstance(preload, str) else list(preload)
    options = list(dask.config.get("distributed.client.preload-argv", []))
    if "daskref" not in preload:
        preload.append("daskref")
        if options and not isinstance(options[0], str):  # a list for each preload
            options.append([])
    # read by this program's child processes, too: Dask's workers are such
    os.environ["DASK_DISTRIBUTED__CLIENT__PRELOAD"] = json.dumps(preload)
    os.environ["DASK_DISTRIBUTED__CLIENT__PRELOAD_ARGV"] = json.dumps(options)
    os.environ.pop(REPORTING, None)
    if reports:
        os.environ[REPORTING] = str(os.getpid())  # which the program will have
    os.execv(sys.executable, [sys.executable, *arguments])


@click.command
@click.option("--dry-run", is_flag=True, help="Remove nothing, only say what is left.")
@json_option
def sweep(dry_run: bool, as_json: bool) -> None:
    """Remove what dead sessions of this user have left on this machine."""
    settings = Settings.read()
    with progress("looking for dead sessions"):
        found = SharedMemoryConnector.sweep_sessions(
            settings.shm_root, settings.spill_directory, remove=not dry_run
        )
    if as_json:
        say_json({"removed": not dry_run, "paths": found})
        return
    for path in found:
        say(f"{'would remove' if dry_run else 'removed'} {path}")
    say(f"{len(found)} dead sessions {'found' if dry_run else 'removed'}")


@click.command(cls=_Verbatim, add_help_option=False, options_metavar="[row ...]")
def bench(arguments: list[str]) -> Any:
    """Time plain Dask and daskref, or proxies, in turn."""
    from daskref.bench.program import main

    return main(arguments)
