"""Waiting until workers have what was scattered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class Placing:
    """Scatters of one client that are under way.

    Notes
    -----
    Not thread-safe: it belongs to the client's event loop.
    """

    #: Those that do not wait for the first worker: task -> what they wait for.
    #: Held while values get keys of the user's: each is there before the next one.
    naming: asyncio.Lock
    _waiting: dict[asyncio.Task[None], Mapping[Any, Any]]

    def __init__(self) -> None:
        self.naming = asyncio.Lock()
        self._waiting = {}

    async def wait(
        self, states: Mapping[Any, Any], timeout: float | None, patient: bool
    ) -> bool:
        """Wait until workers have values, or until none can be expected to.

        Returns whether workers have them all; what is left comes later by itself.

        Parameters
        ----------
        states
            Key -> Dask's state of its futures.
        timeout
            Seconds. A worker that the scheduler still trusts may not answer; another
            one gets the values once that is known.
        patient
            Whether to wait where there is no worker.
        """
        task = asyncio.create_task(self._wait(states))
        if not patient:
            self._waiting[task] = states
        try:
            await asyncio.wait([task], timeout=timeout)
        finally:
            self._waiting.pop(task, None)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return all(state.status == "finished" for state in states.values())

    @staticmethod
    async def _wait(states: Mapping[Any, Any]) -> None:
        for state in states.values():
            await state.wait()

    def give_up(self, key: Any) -> None:
        """Take note that there is no worker for a key yet."""
        for task, states in self._waiting.items():
            if key in states:
                task.cancel()
