"""The paths of bulk data through Dask, with an object store behind them."""

from __future__ import annotations

import pickle
from urllib.parse import quote

import dask
import fsspec
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from daskref.cluster.session import sessions
from daskref.connectors.fsspec._session import NAME
from daskref.exceptions import ConnectorUnavailableError
from daskref.graph.nodes import references_in
from tests.support import s3 as s3_server
from tests.support.common import large, wait_until

pytestmark = pytest.mark.slow

SECRET = "hunter2hunter2"


def _spec(s3, bucket, kind):
    if kind == "mapping":
        return {
            "class": "daskref.connectors.fsspec:FsspecConnector",
            "url": f"s3://{bucket}/prefix",
            "endpoint-url": s3.endpoint,
            "key": "AKIASECRETKEY",
            "secret": SECRET,
        }
    endpoint = quote(s3.endpoint, safe="")
    return (
        f"s3://{bucket}/prefix?endpoint_url={endpoint}&key=AKIASECRETKEY"
        f"&secret={SECRET}"
    )


@pytest.fixture(params=["mapping", "url"])
def session(request, s3):
    """A client on a cluster of processes whose values go through a bucket."""
    bucket = s3.bucket()
    spec = _spec(s3, bucket, request.param)
    with _cluster(2) as cluster, daskref.Client(cluster, connector=spec) as client:
        yield client, s3, bucket
    wait_until(lambda: not s3.keys(bucket), "an empty bucket", 30)
    assert not s3.uploads(bucket)


def _cluster(workers, processes=True):
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=processes,
        dashboard_address=":0",
    )


def _total(array):
    return float(array.sum())


def _key_of_this_process():
    (session,) = sessions()
    connector = session.store.connector
    return type(connector).__name__, connector._blobs._fs.key


def test_all_paths_go_through_the_bucket(session):
    client, s3, bucket = session
    one, other = client.scheduler_info(n_workers=-1)["workers"]
    value = large(2.0)
    total = float(value.sum())

    def puts():
        return daskref.stats(client)["puts"]

    # submit: the argument is stored once
    futures = [client.submit(_total, value, pure=False) for _ in range(3)]
    assert client.gather(futures) == [total] * 3
    assert puts() == 1

    # scatter
    scattered = client.scatter(large(3.0))
    assert client.submit(_total, scattered).result() == 3 * total / 2
    assert puts() == 2

    # worker to worker
    made = client.submit(large, 4.0, workers=one)
    assert client.submit(_total, made, workers=other).result() == 2 * total
    assert puts() == 3

    # gather: of what is stored already
    got = made.result()
    assert type(got) is np.ndarray
    assert got.flags.writeable
    assert (got == 4.0).all()

    assert puts() == 3

    # actors
    actor = client.submit(_Actor, actor=True, workers=one).result()
    assert (actor.made(5.0).result() == 5.0).all()

    stats = daskref.stats(client)
    assert stats["puts"] == 4
    assert sum(host["fallbacks"] for host in stats["hosts"].values()) == 0
    stored = {key.rpartition("/")[2] for key in s3.keys(bucket)}
    assert len([name for name in stored if NAME.fullmatch(name)]) >= 3

    # no secret is in what travels; every process was told, apart from it
    value = large(6.0)
    future = client.submit(_total, value)
    assert future.result() == float(value.sum())
    references = client.run_on_scheduler(_references, future.key)
    assert references
    for text in references:
        assert bucket.encode() in text
        assert SECRET.encode() not in text
        assert b"AKIASECRETKEY" not in text
    workers = client.run(_key_of_this_process)
    assert set(workers.values()) == {("FsspecConnector", "AKIASECRETKEY")}


class _Actor:
    def made(self, fill):
        return large(fill)


def _references(key, dask_scheduler):
    spec = dask_scheduler.tasks[key].run_spec
    return [pickle.dumps(reference) for reference in references_in(spec)]


@pytest.mark.parametrize("on_failure", ["inband", "raise"])
def test_a_store_that_dies_falls_back_or_raises(monkeypatch, on_failure):
    for name, value in s3_server.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with (
        dask.config.set({"daskref.on-failure": on_failure}),
        s3_server.server() as server,
        _cluster(1) as cluster,
    ):
        spec = {
            "class": "daskref.connectors.fsspec:FsspecConnector",
            **server.arguments,
            **{"connect-timeout": 1, "timeout": 10, "retries": 0},
        }
        with daskref.Client(cluster, connector=spec) as client:
            value = large(2.0)
            assert client.submit(_total, value).result() == float(value.sum())
            server.stop()
            value = large(3.0)
            if on_failure == "raise":
                with pytest.raises(ConnectorUnavailableError, match="be reached"):
                    client.submit(_total, value)
                with pytest.raises(ConnectorUnavailableError, match="be reached"):
                    client.submit(large, 4.0).result()
            else:
                assert client.submit(_total, value).result() == float(value.sum())
                assert (client.submit(large, 4.0).result() == 4.0).all()


def test_memory_is_out_of_reach_of_worker_processes():
    spec = "memory://of-the-scheduler"
    with _cluster(1) as cluster, daskref.Client(cluster, connector=spec) as client:
        value = large(6.0)
        assert client.submit(_total, value).result() == float(value.sum())
        assert client.submit(large, 7.0).result().nbytes == value.nbytes
    assert not fsspec.filesystem("memory").find("/of-the-scheduler")


def test_threads_share_memory():
    spec = "memory://of-threads"
    with (
        _cluster(1, processes=False) as cluster,
        daskref.Client(cluster, connector=spec) as client,
    ):
        value = large(8.0)
        assert client.submit(_total, value).result() == float(value.sum())
        assert daskref.stats(client)["puts"] == 1
        assert fsspec.filesystem("memory").find("/of-threads")
    assert not fsspec.filesystem("memory").find("/of-threads")
