"""What a dashboard is told, without a cluster."""

from __future__ import annotations

from typing import Any

from daskref.cluster.stats import STORED
from daskref.store.metrics import COUNTERS, INBAND


def stored(host: str, **sizes: int) -> dict[str, Any]:
    """Return what one host tells of its store."""
    nothing = dict.fromkeys(STORED, 0)
    return {**nothing, "place": host, "host": host, "seconds": 0.0, **sizes}


def counted(process: str, host: str, **counts: int) -> dict[str, Any]:
    """Return what one process has counted."""
    inband = {**dict.fromkeys(INBAND, 0), "gpu": counts.pop("gpu", 0)}
    nothing = dict.fromkeys(COUNTERS, 0)
    told = {**nothing, "process": process, "host": host, "inband": inband}
    return {**told, **counts}


class Reports:
    """Answers at once, and counts how often it was asked."""

    def __init__(self) -> None:
        self.puts = 0
        self.asked = {"processes": 0, "stores": 0, "largest": 0}
        self.of_processes: list[dict[str, Any]] = []
        self.of_stores = [stored("a")]
        self.objects: list[tuple[dict[str, Any], int]] = []
        self.of_transfers: dict[str, Any] = {"hosts": [], "now": [], "moving": 0}
        self.of_warnings: list[tuple[float, dict[str, Any]]] = []

    async def processes(self) -> list[dict[str, Any]]:
        self.asked["processes"] += 1
        return self.of_processes

    async def stores(self) -> list[dict[str, Any]]:
        self.asked["stores"] += 1
        return self.of_stores

    async def largest(
        self, most: int, holders: int
    ) -> list[tuple[dict[str, Any], int]]:
        self.asked["largest"] += 1
        return self.objects[:most]

    def transfers(self, most: int) -> dict[str, Any]:
        return self.of_transfers

    def warnings(self, most: int) -> list[tuple[float, dict[str, Any]]]:
        return self.of_warnings
