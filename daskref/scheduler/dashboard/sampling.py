"""The data of the page: collected only while a user has the page open.

All open pages share one :class:`Sampler`. It repeats three requests: the counts of
processes, the stores of hosts, the largest objects. Each request is repeated so seldom
that it costs no more than :data:`SHARE` of a core. Answers are bounded, however many
hosts, objects and holders there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from daskref.cluster.stats import Stats, summarize

logger = logging.getLogger(__name__)

#: Share of a core that each of the three requests may take.
SHARE = 0.02
#: Seconds between two answers, at least: of counts, and of the other requests.
OFTEN, SELDOM = 1.0, 2.0
#: Rates that are kept: of five minutes or more.
HISTORY = 300
#: Objects, transfers and warnings on the page, and holders of each object.
ROWS, HOLDERS = 20, 50


class Rates(NamedTuple):
    """Events per second between two answers."""

    #: Milliseconds since 1970, of the later one.
    time: float
    puts: float
    gets: float
    evictions: float
    inband: float
    bytes_kept: float


@dataclass(eq=False, repr=False)
class Sampler:
    """Collect the data of open pages. For the scheduler's event loop."""

    #: The scheduler's :class:`~daskref.scheduler._reports.Reports`.
    _reports: Any
    #: As :func:`daskref.stats` returns it; ``None`` before the first answers.
    stats: Stats | None = None
    #: Of the last minutes in which a page was open.
    rates: deque[Rates] = field(default_factory=lambda: deque(maxlen=HISTORY))
    objects: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    transfers: dict[str, Any] = field(
        default_factory=lambda: {"hosts": [], "now": [], "moving": 0}
    )
    warnings: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    #: Grows with each answer.
    turn: int = 0
    #: Whether daskref was switched off.
    ended: bool = False
    _stores: list[dict[str, Any]] | None = None
    _before: tuple[float, list[int]] | None = None
    _looking: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def enter(self) -> None:
        """Record an opened page."""
        self._looking += 1
        if self._looking == 1 and not self.ended:
            # there are no rates for the time without an open page
            self.rates.clear()
            self._before = None
            self._tasks = [
                asyncio.create_task(self._repeat(self._look, SELDOM)),
                asyncio.create_task(self._repeat(self._count, OFTEN)),
                asyncio.create_task(self._repeat(self._list, SELDOM)),
            ]

    def leave(self) -> None:
        """Record a closed page."""
        self._looking -= 1
        if not self._looking:
            self._stop()

    def close(self) -> None:
        """Stop: daskref is switched off."""
        self.ended = True
        self._stop()

    def _stop(self) -> None:
        while self._tasks:
            self._tasks.pop().cancel()

    async def _repeat(self, ask: Callable[[], Awaitable[float]], pause: float) -> None:
        """Ask until cancelled; *ask* returns the CPU seconds that it took."""
        while True:
            seconds = 0.0
            try:
                seconds = await ask()
            except Exception:  # a host does not answer: its last answer stays
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
        totals = [
            stats["puts"],
            stats["gets"],
            stats["evictions"],
            sum(stats["inband"].values()),
            stats["bytes_kept"],
        ]
        if self._before is not None:
            then, before = self._before
            grown = [
                max(0, total - was) / (now - then)
                for total, was in zip(totals, before, strict=True)
            ]
            self.rates.append(Rates(time.time() * 1000, *grown))
        self._before = now, totals

    async def _list(self) -> float:
        begin = time.thread_time()
        self.objects = await self._reports.largest(ROWS, HOLDERS)
        self.transfers = self._reports.transfers(ROWS)
        self.warnings = self._reports.warnings(ROWS)
        return time.thread_time() - begin
