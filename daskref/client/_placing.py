"""The wait of a scatter until workers have its values."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, repr=False)
class Placing:
    """The scatters of one client that are under way. For the event loop."""

    #: Held while values get a user's keys: each is placed before the next one.
    naming: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Waits that end where there is no worker: task -> states.
    _waiting: dict[asyncio.Task[None], Mapping[Any, Any]] = field(default_factory=dict)

    async def wait(
        self, states: Mapping[Any, Any], timeout: float | None, patient: bool
    ) -> bool:
        """Wait until workers have values, or until no worker can be expected to.

        Returns whether workers have them all; the rest follows by itself.

        Parameters
        ----------
        states
            Key -> Dask's state of its futures.
        timeout
            Seconds. A worker that the scheduler still trusts may not answer; another
            one gets the values later.
        patient
            Whether to wait for a first worker.
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
        """End waits for a key that no worker can take yet."""
        for task, states in self._waiting.items():
            if key in states:
                task.cancel()
