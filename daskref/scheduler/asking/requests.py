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
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed.core import AsyncTaskGroupClosedError

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Seconds that a request waits. Plain Dask asks no worker when a client connects.
PATIENCE = 5.0
#: Seconds after which another worker of a host is asked.
_NEXT = 1.0


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

    A late question is withdrawn, and its connection closed: pages that are open ask
    again every second. ``Scheduler.broadcast`` does not end what it has begun.
    """
    arguments = dict(message)
    request = getattr(scheduler.rpc(worker), arguments.pop("op"))
    asked = asyncio.ensure_future(request(**arguments))
    try:
        await asyncio.wait([asked], timeout=PATIENCE if patience is None else patience)
        if asked.done():
            return asked.result()
    except Exception as exc:
        logger.debug("Worker %s does not answer: %r", worker, exc)
    finally:
        asked.cancel()
    return None


async def ask_any(
    scheduler: Scheduler, workers: Iterable[str], message: dict[str, Any], field: str
) -> dict[str, Any] | None:
    """Return the first answer of several workers that has *field*, if there is one.

    The next worker is asked as well when the ones before have not answered for a
    second; all of them have `PATIENCE` seconds together.
    """
    left = iter(workers)
    asked: set[asyncio.Future[Any]] = set()
    try:
        async with asyncio.timeout(PATIENCE):
            while (worker := next(left, None)) is not None or asked:
                if worker is not None:
                    question = ask_worker(scheduler, worker, message)
                    asked.add(asyncio.ensure_future(question))
                done, asked = await asyncio.wait(
                    asked,
                    timeout=None if worker is None else _NEXT,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for answered in done:
                    answer = answered.result()
                    if isinstance(answer, dict) and field in answer:
                        return answer
    except TimeoutError:
        pass
    finally:
        for late in asked:
            late.cancel()
    return None
