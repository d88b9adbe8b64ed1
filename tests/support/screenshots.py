"""Draws docs/_static/dashboard.png: ``python -m tests.support.screenshots``.

A browser looks at the page of Dask's dashboard while carriers' flights are taken apart
and scored, on a cluster in this process.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import dask
from distributed import LocalCluster

import daskref
from daskref.bench.flights import CARRIERS, HOURS, load, score
from tests.support.chromium import Chromium, Tab
from tests.support.common import wait_until

PICTURE = Path(__file__).parents[2] / "docs" / "_static" / "dashboard.png"
#: Pixels.
WIDTH, HEIGHT = 1200, 900


def flown_by(flights: Any, carrier: str) -> Any:
    """Return the flights of one carrier."""
    return flights[flights["carrier"] == carrier]


def work(client: Any, rounds: int, tab: Tab) -> list[Any]:
    """Take a table apart, and score the parts; return what is kept."""
    flights, kept = load(copies=1), []
    for number in range(rounds):
        parts = [
            client.submit(flown_by, flights, each, key=f"flown-by-{each}-{number}")
            for each in CARRIERS
        ]
        pairs = [
            (part, each, hour)
            for part, each in zip(parts, CARRIERS, strict=True)
            for hour in HOURS
        ]
        client.gather(client.map(score, *zip(*pairs, strict=True), pure=False))
        kept = [flights, parts]
        turn = tab.text()
        wait_until(lambda turn=turn: tab.text() != turn, "the next numbers")
    return kept


def main() -> None:
    """Draw it."""
    settings = {"daskref.shm.budget": "200 MiB", "daskref.threshold": "100 kB"}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        mock.patch("socket.gethostname", return_value="node-1"),
        dask.config.set(settings),
        LocalCluster(
            processes=False, n_workers=4, protocol="tcp://", dashboard_address=":0"
        ) as cluster,
        daskref.Client(cluster) as client,
    ):
        browser = Chromium(Path(profile))
        address = str(cluster.dashboard_link).replace("status", "daskref")
        tab = browser.open(address, WIDTH, HEIGHT)
        wait_until(lambda: "in all" in tab.text(), "the page")
        kept = work(client, 12, tab)
        PICTURE.write_bytes(tab.picture())
        browser.close()
        del kept
    print(PICTURE)


if __name__ == "__main__":
    main()
