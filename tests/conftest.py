"""Clusters of worker processes that tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import dask
import pytest
from distributed import LocalCluster

import daskref
from daskref.testing import processes as running
from tests.support import s3 as s3_server
from tests.support.common import wait_until
from tests.support.forkserver import fork
from tests.support.redis_servers import RedisServer


@pytest.fixture(scope="session", autouse=True)
def dask_starts_fast() -> Iterator[None]:
    """Fork the worker processes of this process's clusters off one that has Dask.

    As Dask's own tests do: each that is spawned takes 0.6 s of CPU to import it. So do
    ``dask scheduler`` and ``dask worker``; see :mod:`tests.support.forkserver`.
    Programs that make a cluster, nannies of the command line, and who runs on other
    hosts, other Pythons or with other variables of Dask's, have theirs started as users
    do.
    """
    spawn = running.spawn

    def forked_or_spawned(
        command: tuple[str, ...], env: dict[str, str], stdin: int | None
    ) -> Any:
        forked = None if stdin is not None else fork(*command, env=env)
        return forked or spawn(command, env, stdin)

    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(running, "spawn", forked_or_spawned)
        # now, since workers are forked with the environment of the first cluster
        for name, value in s3_server.ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


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
            f"objects {plugin.state.objects}; "
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
    """An S3 server."""
    with s3_server.server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server for tests that leave it as it was."""
    server = RedisServer()
    yield server
    server.close()
