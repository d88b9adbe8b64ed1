"""What stays in the store for a while: results that are computed again, old values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from daskref.connectors.base import Key
from daskref.scheduler._holders import Holder, Holders

#: Seconds for which a lost result stays in the store while it is computed again: who
#: was sent its reference just before may still be about to read it.
LOST = 10.0
#: Seconds for which a value stays that was scattered before under the same key: who was
#: just sent its reference may be about to read it.
REPLACED = 1.0


class LostResults:
    """Results that stay in the store for a while.

    Parameters
    ----------
    holders
        Who holds what.
    evict
        ``(keys) -> None``: delete objects that nobody holds.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop.
    """

    _timers: dict[Any, asyncio.TimerHandle]

    def __init__(self, holders: Holders, evict: Callable[[list[Key]], None]) -> None:
        self._holders = holders
        self._evict = evict
        self._timers = {}

    def keep(self, key: Any) -> None:
        """Keep what a Dask key's result holds; anew if there is something already."""
        self._keep(key, self._holders.held(Holder("result", key)), LOST)

    def keep_replaced(self, objects: Iterable[Key], is_read: bool) -> None:
        """Keep what a Dask key stood for, which stands for something else now.

        Parameters
        ----------
        objects
            Silent about those that nobody holds any more: they are gone.
        is_read
            Whether tasks may be about to read them.
        """
        for name in objects:
            nbytes = self._holders.size(name)
            if nbytes is not None:
                self._keep(name, {name: nbytes}, LOST if is_read else REPLACED)

    def _keep(self, key: Any, objects: dict[Key, int], seconds: float) -> None:
        for name, nbytes in objects.items():
            self._holders.hold(Holder("lost", key), name, nbytes)
        if objects:
            loop = asyncio.get_running_loop()
            self._cancel(key)
            self._timers[key] = loop.call_later(seconds, self._let_go, key)

    def forget(self, key: Any) -> None:
        """Let go of what is kept for a key. Silent if there is nothing."""
        if key in self._timers:
            self._let_go(key)

    def _let_go(self, key: Any) -> None:
        self._cancel(key)
        self._evict(self._holders.release(Holder("lost", key)))

    def _cancel(self, key: Any) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    def close(self) -> None:
        """Let go of nothing any more."""
        for key in list(self._timers):
            self._cancel(key)
