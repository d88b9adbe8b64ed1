"""Requests of the scheduler to workers, which may be stopped, or hold their GIL.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=============================================  =====================================
name                                           what for
=============================================  =====================================
``Scheduler._ongoing_background_tasks``        tasks that end with the scheduler
=============================================  =====================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed.core import AsyncTaskGroupClosedError

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Seconds that a request waits. Plain Dask asks no worker when a client connects.
PATIENCE = 5.0


async def tell_workers(
    scheduler: Scheduler,
    message: dict[str, Any],
    workers: Iterable[str] | None = None,
    patience: float | None = None,
) -> dict[str, Any]:
    """Send a message to workers, by default all; return the answers, by address.

    An answer is an exception where a worker could not be asked. A worker without an
    answer within *patience* seconds is left out; it gets the message all the same.
    """
    addresses = list(scheduler.workers if workers is None else workers)
    answers: dict[str, Any] = {}
    complete = asyncio.Event()

    async def tell(address: str) -> None:
        answer = await scheduler.broadcast(
            msg=message, workers=[address], on_error="return"
        )
        answers.update(answer)
        if len(answers) == len(addresses):
            complete.set()

    if addresses:
        with suppress(AsyncTaskGroupClosedError, TimeoutError):
            for address in addresses:
                scheduler._ongoing_background_tasks.call_soon(tell, address)
            async with asyncio.timeout(PATIENCE if patience is None else patience):
                await complete.wait()
    return dict(answers)


async def ask_worker(
    scheduler: Scheduler,
    worker: str,
    message: dict[str, Any],
    patience: float | None = None,
) -> Any:
    """Return what a worker answers; ``None`` if it does not, within *patience* seconds.

    A late question is withdrawn: pages that are open ask again every second.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE if patience is None else patience):
            answers = await scheduler.broadcast(
                msg=message, workers=[worker], on_error="ignore"
            )
            return answers.get(worker)
    return None
