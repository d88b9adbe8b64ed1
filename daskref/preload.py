"""What Dask calls where ``daskref`` is a preload: of schedulers, workers or clients.

``dask scheduler --preload daskref`` and ``dask worker --preload daskref`` set those up
before any client comes; Dask's setting ``distributed.client.preload`` switches on every
client of a process.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import sys
import weakref
from contextlib import suppress
from importlib import import_module
from typing import Any

logger = logging.getLogger(__name__)

#: Variable of ``daskref run --json``: the process whose clients print what they saw.
REPORTING = "DASKREF_REPORTING"
#: Seconds that a client which closes waits for that: longer than the scheduler waits
#: for its workers.
_PATIENCE = 8.0
#: Clients that have.
_reported: set[str] = set()


async def dask_setup(starting: Any) -> None:
    """Set up a scheduler or a client; register the family.

    A scheduler is set up as its first client with daskref would, a client as by
    :func:`daskref.enable`. A worker learns of the session when it joins the scheduler.

    Parameters
    ----------
    starting
        The scheduler, worker or client that Dask is starting.
    """
    from distributed import Client, Scheduler

    from daskref.background import run_apart

    # Dask calls this on the event loop, which may be the user's
    family = await run_apart(import_module, "daskref.cluster.family")
    family.register_family()
    if isinstance(starting, Client):
        enabling = await run_apart(import_module, "daskref.client.enabling")
        await enabling.enable_starting(starting)
        if _is_reporting():
            atexit.register(_report_at_exit, weakref.ref(starting))
    elif isinstance(starting, Scheduler):
        await _set_up(starting)


async def dask_teardown(leaving: Any) -> None:
    """Print what a client has seen, where ``daskref run --json`` runs the program.

    Parameters
    ----------
    leaving
        The scheduler, worker or client that Dask is closing.
    """
    if _is_reporting() and hasattr(leaving, "_daskref"):  # none but clients have it
        await _report(leaving)


def _is_reporting() -> bool:
    # The variable names the process: its children are no part of the program's output.
    return os.environ.get(REPORTING) == str(os.getpid())


async def _report(client: Any) -> None:
    """Print what ``stats`` tells, once for each client; no error comes of it."""
    if client.id in _reported or client._daskref is None:
        return
    _reported.add(client.id)
    from daskref.client.inventory import ask_stats

    told = None  # of a scheduler that has ended before its client
    with suppress(Exception):
        ask = ask_stats(client.scheduler, client._daskref.session)
        told = await asyncio.wait_for(ask, _PATIENCE)
    line = {"client": client.id, "stats": told}
    print(json.dumps(line), file=sys.stderr, flush=True)


def _report_at_exit(client: weakref.ref[Any]) -> None:
    """Print it of a client that nobody has closed, while its cluster is there."""
    left = client()
    if left is not None and left.status == "running" and not left.asynchronous:
        with suppress(Exception):
            left.sync(_report, left, callback_timeout=2 * _PATIENCE)


async def _set_up(scheduler: Any) -> None:
    from daskref.config import Settings
    from daskref.exceptions import ConnectorError
    from daskref.scheduler.install import start

    try:
        await start(scheduler, {})
    except ConnectorError as exc:
        if Settings.read().on_failure == "raise":
            raise
        logger.warning("%s The first client tries it again.", exc)
