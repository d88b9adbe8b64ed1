"""Clusters of worker processes that tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import LocalCluster

import daskref
from tests import s3 as s3_server
from tests.connectors.redisservers import RedisServer
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
    """A client with daskref; nothing is stored before it, nor afterwards."""
    with daskref.Client(cluster) as client:
        wait_until_freed(cluster, client)
        yield client
        gc.collect()
        wait_until_freed(cluster, client)


def wait_until_freed(cluster: Any, client: Any) -> None:
    """Wait until nothing is stored; the error tells what is, and what holds it."""

    def is_freed() -> bool:
        if not client.futures and not daskref.stats(client)["objects"]:
            return True
        client.run(gc.collect)  # an error there may hold futures, in its frames
        return False

    try:
        wait_until(is_freed, "everything freed")
    except AssertionError as exc:
        plugin = cluster.scheduler.plugins["daskref"]
        exc.add_note(
            f"futures {list(client.futures)}; tasks {list(cluster.scheduler.tasks)}; "
            f"holders {plugin.holders._holders}; deleting {list(plugin._evictions)}; "
            f"files {os.listdir(plugin.session.store.connector.directory)}"
        )
        raise


@pytest.fixture
def puts(client: Any) -> Any:
    """``() -> int``: puts since the test began."""
    before = daskref.stats(client)["puts"]
    return lambda: daskref.stats(client)["puts"] - before


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_server.Server]:
    """An S3 server, with the environment that makes drivers ask nobody else."""
    with pytest.MonkeyPatch.context() as patch, s3_server.server() as server:
        for name, value in s3_server.ENVIRONMENT.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server for tests that leave it as it was."""
    server = RedisServer()
    yield server
    server.close()
