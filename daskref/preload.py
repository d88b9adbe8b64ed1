"""What Dask calls where ``daskref`` is a preload: of schedulers, workers or clients.

``dask scheduler --preload daskref`` and ``dask worker --preload daskref`` set those up
before any client comes; Dask's setting ``distributed.client.preload`` switches on every
client of a process.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

logger = logging.getLogger(__name__)


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
    elif isinstance(starting, Scheduler):
        await _set_up(starting)


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
