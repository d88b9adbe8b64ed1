"""Clients of every kind: asynchronous, enabled later, with clusters of their own."""

from __future__ import annotations

import asyncio
from typing import Any

import dask.array as da
import numpy as np
import pytest

import daskref
from tests.support.common import large
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
    import distributed

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


def test_in_process_cluster() -> None:
    with daskref.Client(processes=False, dashboard_address=":0") as client:
        x = large()
        assert client.submit(describe, x).result() == [SEEN]
        future = client.scatter(x)
        assert client.submit(describe, future).result() == [SEEN]
        assert client.submit(make).result()[0] == 1
        assert daskref.stats(client)["puts"] == 1
