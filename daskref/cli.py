"""The command line: ``daskref info``, ``run``, ``sweep``, ``bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import dask.config
from dask.utils import format_bytes

from daskref._version import __version__
from daskref.cluster.notices import setting_text, tell_unknown
from daskref.cluster.session import open_session_connector
from daskref.config import Settings, setting_name
from daskref.connectors import MultiConnector, SharedMemoryConnector, ZmqConnector
from daskref.connectors.base import Connector
from daskref.exceptions import DaskrefError
from daskref.store.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit status: 0, or 1 if something does not work.
    """
    parser = argparse.ArgumentParser(prog="daskref", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(required=True, metavar="command")
    info = commands.add_parser(
        "info", help="what is configured, what it would use, and whether it works"
    )
    info.set_defaults(run=_info)
    run = commands.add_parser(
        "run",
        usage="daskref run [option ...] (SCRIPT | -m MODULE | -c CODE) [argument ...]",
        help="run a program of Python's: its Dask clients pass large values by "
        "reference",
        description="Run a program as `python` with the same arguments does; all Dask "
        "clients that it makes, or that its libraries make, pass large values by "
        "reference. Options are those of `python`.",
    )
    sweep = commands.add_parser(
        "sweep", help="remove what dead sessions of this user have left"
    )
    sweep.set_defaults(run=_sweep)
    bench = commands.add_parser(
        "bench", help="time plain Dask and daskref, or proxies, in turn", add_help=False
    )
    bench.set_defaults(run=_bench)
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["run"] and argv[1:] not in ([], ["-h"], ["--help"]):
        _run(argv[1:])  # it has options of its own
    args, rest = parser.parse_known_args(argv)
    if args.run is None:
        run.error("which program?")
    if rest and args.run is not _bench:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = args.run(rest)
    except DaskrefError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return status


def _info(rest: list[str]) -> int:
    settings = Settings.read()
    tell_unknown()
    print(f"daskref {__version__}")
    for field, value in vars(settings).items():
        print(f"  {setting_name(field):30} {setting_text(field, value)}")
    connector = open_session_connector(settings)
    with Store("daskref-info", connector) as store:
        print(f"would use {connector!r}")
        _print_space(connector)
        value = bytes(range(256)) * 4096
        works = store.get(store.put(value)) == value
    print("works: a value of 1 MiB came back" + (" as it was" if works else " changed"))
    unusable = list(_unusable_spills(connector))
    for path, reason in dict(unusable).items():
        print(
            "does not work: what shared memory has no room for cannot go to disk, as "
            f"{path} cannot be used ({reason}). "
            f"{_where_set(settings, path)} to a directory that exists and that this "
            "user may write to"
        )
    return 0 if works and not unusable else 1


def _unusable_spills(connector: Any) -> Iterator[tuple[str, str]]:
    """Yield each directory for objects on disk in which none can be made, and why."""
    if isinstance(connector, SharedMemoryConnector | ZmqConnector | MultiConnector):
        for root in _spill_roots(connector.config()):
            try:  # permissions do not tell: whoever is root has them all
                os.rmdir(tempfile.mkdtemp(prefix=".daskref-info-", dir=root))
            except OSError as exc:
                yield root, exc.strerror or repr(exc)


def _spill_roots(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            if name == "spill_directory":
                yield os.path.abspath(value or tempfile.gettempdir())
            else:
                yield from _spill_roots(value)
    elif isinstance(config, list | tuple):
        for each in config:
            yield from _spill_roots(each)


def _where_set(settings: Settings, path: str) -> str:
    """Return how to name another directory, as the begin of an advice."""
    name, ours = setting_name("spill_directory"), settings.spill_directory
    if ours is not None and os.path.abspath(ours) == path:
        return f"Set {name}"
    if path == os.path.abspath(tempfile.gettempdir()):
        return f"Set {name}, which is null, or TMPDIR"
    return f"Set the option spill_directory of {setting_name('connector')}"


def _print_space(connector: Connector) -> None:
    space = connector.space()
    if any(space):
        for name, nbytes in space._asdict().items():
            print(f"  {name:20} {format_bytes(nbytes)}")


def _run(program: list[str]) -> NoReturn:
    """Become Python with a program, and with daskref among its clients' preloads."""
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
    os.execv(sys.executable, [sys.executable, *program])


def _sweep(rest: list[str]) -> int:
    settings = Settings.read()
    removed = SharedMemoryConnector.sweep_sessions(
        settings.shm_root, settings.spill_directory
    )
    for path in removed:
        print(f"removed {path}")
    print(f"{len(removed)} dead sessions removed")
    return 0


def _bench(rest: list[str]) -> int:
    from daskref.bench.program import main as bench

    return bench(rest)


if __name__ == "__main__":
    sys.exit(main())
