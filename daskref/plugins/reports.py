"""What processes have counted, put together on the scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daskref.plugins.holders import Holders
from daskref.plugins.network import Network
from daskref.session import PROBE, Session

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
    holders
        Who holds what.
    network
        ``None`` if all processes share one store.
    """

    _reports: dict[str, dict[str, Any]]

    def __init__(
        self,
        scheduler: Scheduler,
        session: Session,
        holders: Holders,
        network: Network | None,
    ) -> None:
        self._scheduler = scheduler
        self._session = session
        self._holders = holders
        self._network = network
        self._reports = {}

    def add(self, report: dict[str, Any], client: str | None = None) -> None:
        """Take note of what a process has counted: a client, as it leaves."""
        self._reports[report["process"]] = report

    async def stats(self) -> dict[str, Any]:
        """Ask the workers, and return all counts, and how much is stored."""
        responses = await self._scheduler.broadcast(
            msg={"op": "daskref_counters"}, on_error="ignore"
        )
        for report in responses.values():
            if "process" in report:  # not of a worker that is just leaving
                self.add(report)
        own = self._session.report()
        usage = await self._session.run(self._usage)
        if self._network is not None:
            stored = [each["stored"] for each in responses.values() if "stored" in each]
            usage = self._network.total(stored, usage)
        objects, nbytes = usage
        return {
            "objects": objects,
            "bytes": nbytes,
            "host": own["host"],
            "processes": [*self._reports.values(), own],
        }

    def _usage(self) -> tuple[int, int]:
        """Return how many objects are in the store, and their bytes; not the probes."""
        assert self._session.store is not None
        connector = self._session.store.connector
        try:
            usage = connector.usage()
        except (AttributeError, NotImplementedError):  # it cannot tell: what is held
            return len(self._holders), self._holders.nbytes
        probes = len(self._session.info.probes)
        return usage.objects - probes, usage.nbytes - probes * len(PROBE)
