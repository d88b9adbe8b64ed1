"""All commands, and how they end."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import click

from daskref._version import __version__
from daskref.cli._printing import FAILED, INTERRUPTED, CommandError, tell
from daskref.cli.doing import bench, run, sweep
from daskref.cli.examining import doctor
from daskref.cli.looking import info, objects, stats, top
from daskref.exceptions import DaskrefError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 something does not work; 2 wrong usage; 3 a cluster "
    "does not answer; 4 daskref is off there; 130 interrupted.",
)
@click.version_option(__version__, message="%(version)s")
def commands() -> None:
    """Pass-by-reference for Dask: see it, examine it, tidy up after it."""


for _command in (info, stats, objects, top, doctor, run, sweep, bench):
    commands.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; default: those of the process.

    Returns
    -------
    int
        The exit status; ``daskref --help`` explains each one.
    """
    given = None if argv is None else list(argv)
    try:
        status = commands.main(given, prog_name="daskref", standalone_mode=False)
    except CommandError as exc:
        exc.show()
        return exc.status
    except click.ClickException as exc:  # wrong usage
        exc.show()
        return exc.exit_code
    except click.Abort:
        return INTERRUPTED
    except DaskrefError as exc:
        tell(f"error: {exc}")
        return FAILED
    except OSError as exc:
        if exc.errno != errno.ENOSPC or exc.filename is not None:
            raise
        # nor at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        tell("error: there is no space left for the output")
        return FAILED
    return status if isinstance(status, int) else 0
