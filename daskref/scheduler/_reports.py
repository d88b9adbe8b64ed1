"""What processes have counted, put together on the scheduler."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from daskref.cluster.session import Session
from daskref.metrics import STORED
from daskref.scheduler._state import State

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler


class Reports:
    """Counts of the scheduler, of workers, and of clients as last told.

    Parameters
    ----------
    scheduler
        Dask's.
    session
        That of the scheduler; it has a store.
    state
        What is stored, and where.
    """

    _reports: dict[str, dict[str, Any]]

    def __init__(self, scheduler: Scheduler, session: Session, state: State) -> None:
        self._scheduler = scheduler
        self._session = session
        self._state = state
        self._reports = {}

    def add(self, report: dict[str, Any], client: str | None = None) -> None:
        """Take note of what a process has counted: a client, as it leaves."""
        self._reports[report["process"]] = report

    async def stats(self) -> dict[str, Any]:
        """Ask the workers, and return what :func:`summarize` takes."""
        hosts = self._state.hosts
        others = [hosts.on(h, "worker") for h in hosts.hosts if h != self._state.home]
        counted, *stores = await asyncio.gather(
            self._ask("daskref_counters", None),
            self._session.run(self._stored, self._state.sizes),
            *map(self._ask_first, others),
        )
        for report in counted.values():
            if "process" in report:  # not of a worker that is just leaving
                self.add(report)
        return {
            "stores": [report for report in stores if report is not None],
            "processes": [*self._reports.values(), self._session.report()],
        }

    async def _ask(self, op: str, workers: list[str] | None) -> dict[str, Any]:
        """Return what workers answer, those that do, by their addresses."""
        answers: dict[str, Any] = await self._scheduler.broadcast(
            msg={"op": op}, workers=workers, on_error="ignore"
        )
        return answers

    async def _ask_first(self, workers: tuple[str, ...]) -> dict[str, Any] | None:
        """Return what one host has stored: whoever of it answers looks."""
        for worker in workers:
            for report in (await self._ask("daskref_stored", [worker])).values():
                if "place" in report:
                    return dict(report)
        return None

    def _stored(self, sizes: list[int]) -> dict[str, Any]:
        try:
            return self._session.stored()
        except (AttributeError, NotImplementedError):  # it cannot tell: what is held
            return {
                **dict.fromkeys(STORED, 0),
                "place": "",
                "host": socket.gethostname(),
                "objects": len(sizes),
                "bytes": sum(sizes),
            }
