"""Sessions for many hosts on one machine: coming, going, and coming again."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Any

import dask
import distributed
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from tests.support.common import large, wait_until

pytestmark = pytest.mark.slow

TIMEOUT = 60
SUM = 262144.0  # of large()


def total(x: Any) -> float:
    return float(x.sum())


def make(fill: float) -> Any:
    return large(fill)


def submit_inside(fill: float) -> float:
    """Send a large value, and get one, in a task."""
    client = distributed.get_client()
    there = client.submit(total, large(fill), pure=False).result(TIMEOUT)
    back = client.submit(make, fill, pure=False).result(TIMEOUT)
    distributed.secede()
    return float(there + back.sum())


def kind_of_client() -> str:
    """Tell whether a task's client passes by reference."""
    client = distributed.get_client()
    return "by reference" if hasattr(client, "_daskref") else type(client).__name__


def own_client(address: str, connector: str) -> float:
    """Have a client of one's own in a task."""
    with daskref.Client(address, connector=connector, set_as_default=False) as client:
        return client.submit(total, large(2), pure=False).result(TIMEOUT)  # type: ignore


@pytest.fixture(params=[True, False], ids=["processes", "threads"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Workers that nobody has used before."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        processes=request.param,
        protocol="tcp",
        dashboard_address=":0",
    ) as cluster:
        yield cluster


@pytest.fixture(params=["auto", "zmq://"])
def connector(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing goes wrong unheard in this process."""
    yield
    wrong = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR
        or (record.levelno >= logging.WARNING and record.name.startswith("daskref"))
    ]
    # 1. A stream of Dask's waits for its next deadline. 2. That comes. 3. Its client's
    # loop stops before the stream has looked.
    wrong = [text for text in wrong if "TimeoutError('Timeout')" not in text]
    assert not wrong


def use(client: Any, fill: float) -> None:
    """Send large values both ways and between workers, and see that they go."""
    before = daskref.stats(client)["puts"]
    assert client.submit(total, large(fill)).result(TIMEOUT) == fill * SUM
    one, two = sorted(client.scheduler_info()["workers"])
    made = client.submit(make, fill, workers=[one], pure=False)
    moved = client.submit(total, made, workers=[two], pure=False)
    assert moved.result(TIMEOUT) == fill * SUM
    np.testing.assert_array_equal(made.result(TIMEOUT), large(fill))
    assert daskref.stats(client)["puts"] >= before + 1
    del made, moved
    gc.collect()
    wait_until(lambda: not daskref.stats(client)["objects"], "everything freed")


def test_enabled_disabled_and_enabled_again(cluster: Any, connector: str) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        workers = set(client.scheduler_info()["workers"])
        scheduler = cluster.scheduler
        for fill in range(1, 4):
            daskref.enable(client, connector=connector)
            use(client, fill)
            daskref.disable(client)
            assert client.submit(total, large(fill)).result(TIMEOUT) == fill * SUM
            assert "daskref" not in scheduler.plugins
            assert not [op for op in scheduler.handlers if op.startswith("daskref")]
        assert set(client.scheduler_info()["workers"]) == workers


def test_tasks_with_clients_follow_when_it_is_disabled_and_enabled(
    cluster: Any, connector: str
) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        for fill in range(1, 4):
            daskref.enable(client, connector=connector)
            for worker in client.scheduler_info()["workers"]:
                made = client.submit(submit_inside, fill, workers=[worker], pure=False)
                assert made.result(TIMEOUT) == 2 * fill * SUM
            del made
            use(client, fill)
            daskref.disable(client)
            for worker in client.scheduler_info()["workers"]:
                made = client.submit(kind_of_client, workers=[worker], pure=False)
                assert made.result(TIMEOUT) == "Client", worker
                made = client.submit(submit_inside, fill, workers=[worker], pure=False)
                assert made.result(TIMEOUT) == 2 * fill * SUM
            assert "daskref" not in cluster.scheduler.plugins


@pytest.mark.parametrize("connector", ["zmq://"])
def test_a_worker_that_cannot_serve_works_in_band(
    connector: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        dask.config.set({"daskref.zmq.interface": "no-such-interface"}),
        LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as cluster,
        daskref.Client(cluster, connector=connector) as client,
    ):
        assert client.submit(total, large(3)).result(TIMEOUT) == 3 * SUM
        np.testing.assert_array_equal(client.submit(make, 2).result(TIMEOUT), large(2))
        assert not daskref.stats(client)["puts"]
        (record,) = (
            r for r in caplog.records if r.name.startswith("daskref.cluster.inband")
        )
        assert "no-such-interface" in record.getMessage()
    caplog.clear()


def test_one_client_goes_and_another_stays(cluster: Any, connector: str) -> None:
    options: dict[str, Any] = {"connector": connector, "set_as_default": False}
    with daskref.Client(cluster, **options) as stays:
        for fill in range(1, 3):
            with daskref.Client(cluster, **options) as goes:
                use(goes, fill)
            use(stays, fill)


def test_a_client_that_reconnects(cluster: Any, connector: str) -> None:
    options: dict[str, Any] = {"connector": connector, "set_as_default": False}
    with daskref.Client(cluster, **options) as client:
        use(client, 1)
        x = large(3)
        before = client._daskref
        client.loop.add_callback(client.scheduler_comm.comm.abort)
        wait_until(
            lambda: (
                client._daskref not in (before, None) and client.status == "running"
            ),
            "connected again",
        )
        assert client.submit(total, x).result(TIMEOUT) == 3 * SUM
        del x
        use(client, 2)
        hosts = cluster.scheduler.plugins["daskref"].state.hosts
        (host,) = hosts.hosts
        assert client.id in hosts.on(host)


def test_clients_inside_tasks(cluster: Any, connector: str) -> None:
    options: dict[str, Any] = {"connector": connector, "set_as_default": False}
    with daskref.Client(cluster, **options) as client:
        futures = [client.submit(submit_inside, fill) for fill in range(1, 4)]
        assert client.gather(futures) == [2 * fill * SUM for fill in range(1, 4)]
        address = cluster.scheduler_address
        mine = client.submit(own_client, address, connector, pure=False)
        assert mine.result(TIMEOUT) == 2 * SUM
        del futures, mine
        use(client, 4)


def test_workers_that_come_and_go(cluster: Any, connector: str) -> None:
    options: dict[str, Any] = {"connector": connector, "set_as_default": False}
    with daskref.Client(cluster, **options) as client:
        hosts = cluster.scheduler.plugins["daskref"].state.hosts
        for count in (3, 1, 2):
            cluster.scale(count)
            wait_until(
                lambda count=count: len(cluster.scheduler.workers) == count,
                f"{count} workers",
                timeout=TIMEOUT,
            )
            assert client.submit(total, large(count)).result(TIMEOUT) == count * SUM
        client.wait_for_workers(2, timeout=TIMEOUT)
        use(client, 5)
        (host,) = hosts.hosts
        serving = hosts.endpoints(host)
        assert len(serving) == (0 if connector == "auto" else 2)
