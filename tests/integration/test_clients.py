"""Clients of every kind: asynchronous, enabled later, with clusters of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import dask.array as da
import dask.config
import distributed
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from daskref.client import _attachment
from tests.support.common import large, wait_until
from tests.support.tasks import SEEN, describe, make


def test_asynchronous_client(cluster: Any) -> None:
    async def main() -> None:
        address = cluster.scheduler_address
        async with daskref.Client(address, asynchronous=True) as client:
            before = (await daskref.stats(client))["puts"]
            x = large()
            assert await client.submit(describe, x) == [SEEN]
            future = await client.scatter(x)
            assert await client.submit(describe, future) == [SEEN]
            made = client.submit(make)
            assert type(await made) is np.ndarray
            assert (await client.gather([made]))[0][0] == 1
            assert (await client.compute(da.from_array(x, chunks=-1).sum())) == 262144
            assert (await daskref.stats(client))["puts"] == before + 2

    asyncio.run(main())


def test_enable_and_disable(cluster: Any) -> None:
    with distributed.Client(cluster) as client:
        cls = type(client)
        assert daskref.enable(client, threshold="1 kB") is client
        assert client.submit(describe, np.ones(1000)).result()[0][0] == "ndarray"
        assert daskref.stats(client)["bytes_kept"] > 0
        daskref.disable(client)
        assert type(client) is cls
        assert client.rpc.serializers is None
        assert client.submit(describe, large()).result() == [SEEN]
        with pytest.raises(TypeError, match="plain Dask client"):
            daskref.stats(client)
        daskref.disable(client)  # silent


def test_a_client_that_joins_is_asked_for_counts_early(
    cluster: Any, client: Any, monkeypatch: Any
) -> None:
    join = _attachment.ClusterStore.join

    def asked_meanwhile(info: Any) -> Any:
        daskref.stats(client)  # the scheduler asks all its clients
        return join(info)

    monkeypatch.setattr(_attachment.ClusterStore, "join", asked_meanwhile)
    with daskref.Client(cluster) as other:
        x = large()
        assert other.submit(describe, x).result() == [SEEN]
        assert daskref.stats(other)["puts"] > 0


def test_switched_off_while_a_worker_dies(tmp_path: Path) -> None:
    with (
        dask.config.set({"daskref.shm.root": str(tmp_path)}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as made,
        distributed.Client(made) as client,
    ):
        daskref.enable(client)
        assert client.submit(describe, large()).result() == [SEEN]
        scheduler = made.scheduler
        dying = next(iter(client.run(os.getpid).values()))
        os.kill(dying, signal.SIGSTOP)
        off = threading.Thread(target=daskref.disable, args=(client,))
        off.start()
        try:
            wait_until(lambda: "daskref" not in scheduler.plugins, "the plugin to go")
        finally:
            os.kill(dying, signal.SIGKILL)
        off.join(60)
        assert not off.is_alive()
        wait_until(lambda: not list(tmp_path.iterdir()), "the session to be deleted")
        ours = [op for op in scheduler.handlers if op.startswith("daskref_")]
        assert not ours
        client.wait_for_workers(2)
        assert client.submit(describe, large()).result() == [SEEN]


def test_in_process_cluster() -> None:
    with daskref.Client(processes=False, dashboard_address=":0") as client:
        x = large()
        assert client.submit(describe, x).result() == [SEEN]
        future = client.scatter(x)
        assert client.submit(describe, future).result() == [SEEN]
        assert client.submit(make).result()[0] == 1
        assert daskref.stats(client)["puts"] == 1
