"""Clusters of worker processes that tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import LocalCluster

import daskref
from tests.utils import wait_until


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two worker processes; for tests that leave them as they were."""
    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    """A client with daskref; afterwards nothing may be stored any more."""
    with daskref.Client(cluster) as client:
        yield client
        gc.collect()
        wait_until(
            lambda: not client.futures and not daskref.stats(client)["objects"],
            f"everything freed ({list(client.futures)})",
        )


@pytest.fixture
def puts(client: Any) -> Any:
    """``() -> int``: puts since the test began."""
    before = daskref.stats(client)["puts"]
    return lambda: daskref.stats(client)["puts"] - before
