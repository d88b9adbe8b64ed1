"""What the scheduler tells a process to do, off the stream that tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Errands:
    """Coroutines that run until they are done, or nobody wants them any more.

    Notes
    -----
    Not thread-safe: it belongs to an event loop. Dask reads no further message of a
    stream before the handler of this one is done, so what takes long must not be one.
    """

    _tasks: set[asyncio.Task[Any]]
    _stopped: bool

    def __init__(self) -> None:
        self._tasks = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._tasks)

    def run(self, errand: Coroutine[Any, Any, Any]) -> None:
        """Begin an errand; it sees to its own errors."""
        if self._stopped:
            errand.close()
            return
        task = asyncio.get_running_loop().create_task(errand)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Cancel what runs and begin nothing more; silent the second time."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
