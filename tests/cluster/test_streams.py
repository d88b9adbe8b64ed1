"""Messages are held back for less time, on the streams of those who asked for it."""

from __future__ import annotations

import asyncio
from typing import Any

import dask.config
import distributed
import pytest
from distributed import LocalCluster, Worker

import daskref
from daskref.cluster.connections import Streams


class Stream:
    interval = 0.005


def test_an_interval_is_shortened_once_and_restored():
    streams, stream, other = Streams(0.001), Stream(), Stream()
    streams.shorten(stream)
    streams.shorten(stream)
    streams.shorten(other)
    streams.shorten(None)
    assert (stream.interval, other.interval) == (0.001, 0.001)
    streams.restore(stream)
    streams.restore(stream)
    assert (stream.interval, other.interval) == (0.005, 0.001)
    streams.restore_all()
    assert other.interval == 0.005


@pytest.mark.parametrize("latency", ["dask", 0.1])
def test_an_interval_is_never_lengthened(latency):
    streams, stream = Streams(latency), Stream()
    streams.shorten(stream)
    assert stream.interval == 0.005
    streams.restore_all()
    assert stream.interval == 0.005


def intervals(client: Any, cluster: Any) -> dict[str, float]:
    scheduler = cluster.scheduler
    return {
        "client": client.scheduler_comm.interval,
        "to the client": scheduler.client_comms[client.id].interval,
        **{
            f"to {ws.name}": scheduler.stream_comms[address].interval
            for address, ws in scheduler.workers.items()
        },
        **{
            f"of {name}": worker.batched_stream.interval
            for name, worker in cluster.workers.items()
        },
    }


def test_all_streams_of_a_client_and_its_cluster_and_back():
    async def test() -> None:
        async with (
            LocalCluster(
                n_workers=1, processes=False, dashboard_address=":0", asynchronous=True
            ) as cluster,
            distributed.Client(cluster, asynchronous=True) as plain,
            distributed.Client(cluster, asynchronous=True) as client,
        ):
            before = intervals(client, cluster)
            assert min(before.values()) > 0.001
            await daskref.enable(client)
            assert set(intervals(client, cluster).values()) == {0.001}
            assert plain.scheduler_comm.interval == before["client"]
            to_plain = cluster.scheduler.client_comms[plain.id]
            assert to_plain.interval == before["to the client"]
            async with Worker(cluster.scheduler_address, name="late") as late:
                assert late.batched_stream.interval == 0.001
                to_late = cluster.scheduler.stream_comms[late.address]
                assert to_late.interval == 0.001
                futures = client.map(abs, range(-100, 0), pure=False)
                assert sum(await client.gather(futures)) == 5050
            del futures
            await daskref.disable(client)
            async with asyncio.timeout(10):
                while intervals(client, cluster) != before:
                    await asyncio.sleep(0.01)

    asyncio.run(test())


def test_dasks_own_intervals_are_left_if_the_setting_says_so():
    async def test() -> None:
        async with LocalCluster(
            n_workers=1, processes=False, dashboard_address=":0", asynchronous=True
        ) as cluster:
            async with distributed.Client(cluster, asynchronous=True) as plain:
                before = intervals(plain, cluster)
            with dask.config.set({"daskref.latency": "dask"}):
                async with daskref.Client(cluster, asynchronous=True) as client:
                    assert intervals(client, cluster) == before

    asyncio.run(test())
