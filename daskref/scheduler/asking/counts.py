"""What processes have counted: as each last reported it, also after it has ended."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from daskref.store.metrics import COUNTERS, INBAND

#: Ended processes whose reports are kept one by one: a worker that was cut off may come
#: back, with the same counts.
ENDED = 1000
#: Hosts for which the others are added up; and the name of the host for all further.
HOSTS, OTHERS = 256, "others"


class Counts:
    """The last report of each process.

    Parameters
    ----------
    is_connected
        ``(worker address or client id) -> bool``.

    Notes
    -----
    Bounded: the reports of processes that have ended are added up by host, except the
    last :data:`ENDED` of them.
    """

    #: Process -> the worker or client that sent it, and its report; the last one last.
    _reports: dict[str, tuple[str, dict[str, Any]]]
    #: Host -> the sum for processes that have ended.
    _ended: dict[str, dict[str, Any]]
    #: How many reports there may be until some are added up.
    _most: int

    def __init__(self, is_connected: Callable[[str], bool]) -> None:
        self._is_connected = is_connected
        self._reports = {}
        self._ended = {}
        self._most = ENDED

    def add(self, sender: str, report: dict[str, Any]) -> None:
        """Keep the report of a process, in place of its last one.

        Parameters
        ----------
        sender
            Address of the worker, or id of the client.
        """
        self._reports.pop(report["process"], None)
        self._reports[report["process"]] = sender, report
        if len(self._reports) > self._most:
            self._add_up()

    def reports(self) -> list[dict[str, Any]]:
        """Return what :func:`daskref.cluster.stats.summarize` takes."""
        return [
            *self._ended.values(),
            *(report for _, report in self._reports.values()),
        ]

    def _add_up(self) -> None:
        ended = [
            process
            for process, (sender, _) in self._reports.items()
            if not self._is_connected(sender)
        ]
        for process in islice(ended, max(0, len(ended) - ENDED)):
            _, report = self._reports.pop(process)
            host = report["host"]
            if host not in self._ended and len(self._ended) >= HOSTS:
                host = OTHERS
            total = self._ended.setdefault(host, _nothing(host))
            for name in COUNTERS:
                total[name] += report[name]
            for reason, count in report["inband"].items():
                total["inband"][reason] += count
        # or each report of many processes would be compared with all
        self._most = len(self._reports) + ENDED


def _nothing(host: str) -> dict[str, Any]:
    return {
        "process": f"ended on {host}",
        "host": host,
        "inband": dict.fromkeys(INBAND, 0),
        **dict.fromkeys(COUNTERS, 0),
    }
