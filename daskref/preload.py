"""``dask scheduler --preload daskref`` and ``dask worker --preload daskref``."""

from __future__ import annotations

from typing import Any


async def dask_setup(server: Any) -> None:
    """Set up a scheduler, as its first client with daskref would; register the family.

    A worker learns of the session when it joins the scheduler.

    Parameters
    ----------
    server
        The scheduler or worker that Dask is starting.
    """
    from distributed.scheduler import Scheduler

    from daskref.family import register_family
    from daskref.plugins.joining import start

    register_family()
    if isinstance(server, Scheduler):
        await start(server, {})
