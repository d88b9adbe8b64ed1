"""What the page shows: looked up while somebody looks at it, and not else.

All who look share one :class:`Sampler`. It asks three questions again and again: what
processes have counted, what hosts have stored, which objects there are. Each has its
own pace: a question that costs more is asked less often, so that it takes no more than
:data:`SHARE` of a core. What is told is bounded, however many hosts, objects and
holders there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from daskref.cluster.stats import Stats, summarize

logger = logging.getLogger(__name__)

#: Of a core, for each of the three questions, while somebody looks.
SHARE = 0.02
#: Seconds between two answers, at least: of counts, and of what takes a longer look.
OFTEN, SELDOM = 1.0, 2.0
#: Rates that are kept: five minutes' or more.
HISTORY = 300
#: Objects, transfers and warnings that are shown, and holders of each object.
ROWS, HOLDERS = 20, 50


class Reports(Protocol):
    """Where a sampler asks; the scheduler's is one."""

    #: Puts since the start.
    puts: int

    async def processes(self) -> list[dict[str, Any]]:
        """Return what processes have counted, as :func:`summarize` takes it."""

    async def stores(self) -> list[dict[str, Any]]:
        """Return what hosts have stored, likewise, each with ``seconds`` of a core."""

    async def largest(
        self, most: int, holders: int
    ) -> list[tuple[dict[str, Any], int]]:
        """Return the largest objects, and how many holders each has."""

    def transfers(self, most: int) -> dict[str, Any]:
        """Return what goes from host to host."""

    def warnings(self, most: int) -> list[tuple[float, dict[str, Any]]]:
        """Return events that a user may have to do something about."""


class Rates(NamedTuple):
    """What happened per second, between two answers."""

    #: Milliseconds since 1970, of the later one.
    time: float
    puts: float
    gets: float
    evictions: float
    inband: float
    bytes_kept: float


class Sampler:
    """Asks, and keeps the last answers.

    Parameters
    ----------
    reports
        Where to ask.

    Attributes
    ----------
    stats
        As :func:`daskref.stats` has it; ``None`` until all have answered.
    rates
        Of the last minutes, as far as somebody has looked.
    objects, transfers, warnings
        As the reports have them.
    turn
        Grows with each answer.
    ended
        Whether daskref was switched off.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop.
    """

    stats: Stats | None
    rates: deque[Rates]
    objects: list[tuple[dict[str, Any], int]]
    transfers: dict[str, Any]
    warnings: list[tuple[float, dict[str, Any]]]
    turn: int
    ended: bool
    _tasks: list[asyncio.Task[None]]

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.stats = None
        self.rates = deque(maxlen=HISTORY)
        self.objects = []
        self.transfers = {"hosts": [], "now": [], "moving": 0}
        self.warnings = []
        self.turn = 0
        self.ended = False
        self._stores: list[dict[str, Any]] | None = None
        self._before: tuple[float, dict[str, int]] | None = None
        self._looking = 0
        self._tasks = []

    def enter(self) -> None:
        """Take note that somebody looks."""
        self._looking += 1
        if self._looking == 1 and not self.ended:
            # there are no rates of the time for which nobody looked
            self.rates.clear()
            self._before = None
            self._tasks = [
                asyncio.create_task(self._repeat(self._look, SELDOM)),
                asyncio.create_task(self._repeat(self._count, OFTEN)),
                asyncio.create_task(self._repeat(self._list, SELDOM)),
            ]

    def leave(self) -> None:
        """Take note that somebody looks no longer."""
        self._looking -= 1
        if not self._looking:
            self._stop()

    def close(self) -> None:
        """Ask no more: daskref is switched off."""
        self.ended = True
        self._stop()

    def _stop(self) -> None:
        while self._tasks:
            self._tasks.pop().cancel()

    async def _repeat(self, ask: Callable[[], Awaitable[float]], pause: float) -> None:
        """Ask until cancelled.

        Parameters
        ----------
        ask
            () -> what it took, in seconds of a core.
        pause
            Seconds between two answers, at least.
        """
        while True:
            seconds = 0.0
            try:
                seconds = await ask()
            except Exception:  # a host does not answer: what it told before stays
                logger.debug("The dashboard's page was not updated", exc_info=True)
            self.turn += 1
            await asyncio.sleep(max(pause, seconds / SHARE))

    async def _look(self) -> float:
        begin = time.thread_time()
        try:
            self._stores = await self._reports.stores()
        finally:
            self._stores = self._stores or []  # counts are shown without
        here = time.thread_time() - begin
        return max(here, *(float(each["seconds"]) for each in self._stores), 0.0)

    async def _count(self) -> float:
        begin = time.thread_time()
        processes = await self._reports.processes()
        while self._stores is None:  # at the beginning
            await asyncio.sleep(0.01)
        stats = summarize(self._reports.puts, self._stores, processes)
        self._take(stats, time.monotonic())
        return time.thread_time() - begin

    def _take(self, stats: Stats, now: float) -> None:
        self.stats = stats
        totals = {
            "puts": stats["puts"],
            "gets": stats["gets"],
            "evictions": stats["evictions"],
            "inband": sum(stats["inband"].values()),
            "bytes_kept": stats["bytes_kept"],
        }
        if self._before is not None:
            then, before = self._before
            grown = {
                name: max(0, totals[name] - before[name]) / (now - then)
                for name in totals
            }
            self.rates.append(Rates(time.time() * 1000, **grown))
        self._before = now, totals

    async def _list(self) -> float:
        begin = time.thread_time()
        self.objects = await self._reports.largest(ROWS, HOLDERS)
        self.transfers = self._reports.transfers(ROWS)
        self.warnings = self._reports.warnings(ROWS)
        return time.thread_time() - begin
