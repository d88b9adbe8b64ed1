"""``dask scheduler --preload daskref`` and ``dask worker --preload daskref``."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)


async def dask_setup(server: Any) -> None:
    """Set up a scheduler, as its first client with daskref would; register the family.

    A worker learns of the session when it joins the scheduler.

    Parameters
    ----------
    server
        The scheduler or worker that Dask is starting.
    """
    from distributed.scheduler import Scheduler

    from daskref.cluster.family import register_family
    from daskref.config import Settings
    from daskref.exceptions import ConnectorError
    from daskref.scheduler.install import start

    register_family()
    if isinstance(server, Scheduler):
        try:
            await start(server, {})
        except ConnectorError as exc:
            if Settings.read().on_failure == "raise":
                raise
            logger.warning("%s The first client tries it again.", exc)
