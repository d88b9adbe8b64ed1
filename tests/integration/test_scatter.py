"""Scattered data: it arrives, stored once, and survives its workers."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster, Variable, worker_client

import daskref
from tests.support.common import LARGE, large, processes, start_worker, wait_until
from tests.support.tasks import SEEN, describe, total

SUM = LARGE / 8

#: A scheduler that looks for objects of dead processes all the time.
RECONCILE = {
    "DASK_DASKREF__RECONCILE_INTERVAL": "100ms",
    "DASK_DASKREF__RECONCILE_GRACE": "100ms",
}


def addresses(client: Any) -> list[str]:
    return list(client.scheduler_info(n_workers=-1)["workers"])


def kill(client: Any, *workers: str) -> None:
    """SIGKILL workers, and wait until the scheduler knows."""
    pids = client.run(os.getpid, workers=list(workers))
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(workers) & set(addresses(client)))


@contextlib.contextmanager
def one_more(scheduler: Any, client: Any) -> Iterator[None]:
    """Let a worker join."""
    worker = start_worker(scheduler.address)
    try:
        wait_until(lambda: addresses(client))
        yield
    finally:
        worker.stop()


class TestArrives:
    @pytest.mark.parametrize("broadcast", [False, True])
    @pytest.mark.parametrize("hash", [False, True])
    @pytest.mark.parametrize("direct", [None, True])
    def test_object(
        self, client: Any, puts: Any, broadcast: bool, hash: bool, direct: Any
    ) -> None:
        x = large()
        future = client.scatter(x, broadcast=broadcast, hash=hash, direct=direct)
        assert future.status == "finished"
        assert future.type is np.ndarray
        assert client.submit(describe, future).result() == [SEEN]
        np.testing.assert_array_equal(future.result(), x)
        assert puts() == 1

    def test_containers(self, client: Any) -> None:
        x, y = large(1), large(2)
        pair = namedtuple("pair", "a b")
        for data in ([x, y, 3], (x, 3), pair(x, y)):
            futures = client.scatter(data)
            if type(data) is pair and type(futures) is not pair:
                continue  # Dask before 2026.1
            assert type(futures) is type(data)
            for value, item in zip(client.gather(list(futures)), data, strict=True):
                np.testing.assert_array_equal(value, item)
        assert {f.result() for f in client.scatter({1, 2})} == {1, 2}
        futures = client.scatter({"x": x, "small": 3})
        assert set(futures) == {"x", "small"}
        assert client.gather(futures)["small"] == 3
        assert client.gather(client.scatter(range(3))) == [0, 1, 2]
        with pytest.raises(TypeError, match="Iterators"):
            client.scatter(iter([x]))

    def test_a_list_as_one_value(self, client: Any, puts: Any) -> None:
        futures = client.scatter({"arrays": [large(1), large(2)]})
        arrays = futures["arrays"].result()
        assert [float(a[0]) for a in arrays] == [1, 2]
        assert puts() == 1

    def test_many_small_values_do_not_pile_up(self, client: Any, puts: Any) -> None:
        arrays = [np.full(25_000, float(i)) for i in range(20)]
        futures = client.scatter(arrays)
        assert [float(a[0]) for a in client.gather(futures)] == list(range(20))
        assert puts() == 20

    def test_workers(self, client: Any) -> None:
        worker = list(client.scheduler_info()["workers"])[1]
        future = client.scatter(large(), workers=worker)
        assert list(client.who_has(future).values()) == [(worker,)]

    def test_inside_a_task(self, client: Any) -> None:
        def task() -> Any:
            with worker_client() as inner:
                future = inner.scatter(np.ones(1 << 18))
                return type(inner).__mro__[1].__name__, inner.submit(
                    total, future
                ).result()

        assert client.submit(task).result() == ("ByReference", 262144.0)


class TestKilledWorkers:
    def test_one_and_all(self) -> None:
        with (
            processes(2, env=RECONCILE) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            first, second = addresses(client)
            futures = {
                "large": client.scatter(large(1)),
                "unhashed": client.scatter(large(2), hash=False),
                "direct": client.scatter(large(3), direct=True),
                "broadcast": client.scatter(large(4), broadcast=True),
                "here": client.scatter(large(5), workers=[first]),
                "there": client.scatter(large(6), workers=second),
                "small": client.scatter(7),
                "small here": client.scatter(np.full(3, 8.0), workers=[first]),
                "small there": client.scatter("nine", workers=[second]),
                "list": client.scatter({"list": [large(10), 10]})["list"],
            }
            derived = client.submit(total, futures["large"], workers=[first])
            derived.result()

            def check() -> None:
                values = client.gather(futures)
                for name, fill in {
                    "large": 1, "unhashed": 2, "direct": 3, "broadcast": 4,
                    "here": 5, "there": 6,
                }.items():  # fmt: skip
                    assert type(values[name]) is np.ndarray
                    assert values[name].sum() == fill * SUM
                assert values["small"] == 7
                assert values["small here"].tolist() == [8] * 3
                assert values["small there"] == "nine"
                assert values["list"][0].sum() == 10 * SUM

            puts = daskref.stats(client)["puts"]
            kill(client, first)
            check()
            # by tasks too, on the worker that is left
            sums = [client.submit(total, futures[n]) for n in ("here", "small here")]
            assert client.gather(sums) == [5 * SUM, 24]
            kill(client, second)
            assert not addresses(client)
            with one_more(scheduler, client):
                check()
                assert client.gather(sums) == [5 * SUM, 24]
                assert daskref.stats(client)["puts"] == puts  # read, not put again

    def test_while_a_task_waits_for_it(self) -> None:
        with (
            processes(2) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            first, second = addresses(client)
            x = client.scatter(large(), workers=[first])
            y = client.scatter(5, workers=[first])
            kill(client, first)
            futures = [client.submit(total, v, workers=[second]) for v in (x, y)]
            del x, y
            assert client.gather(futures) == [SUM, 5]

    def test_scattered_inside_a_task(self) -> None:
        def task() -> Any:
            with worker_client() as inner:
                Variable("large").set(inner.scatter(large(1)))
                Variable("small").set(inner.scatter(2))

        with (
            processes(2, env=RECONCILE) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            first, _ = addresses(client)
            client.submit(task, workers=[first]).result()
            kill(client, first)
            variables = [Variable(name, client=client) for name in ("large", "small")]
            big, small = (variable.get() for variable in variables)
            assert client.submit(total, big).result() == SUM
            assert small.result() == 2
            del big, small
            for variable in variables:
                variable.delete()
            wait_until(lambda: not daskref.stats(client)["objects"], timeout=5)

    def test_the_task_that_scattered_is_run_again(self) -> None:
        def task() -> float:
            with worker_client() as inner:
                return float(inner.submit(total, inner.scatter(large())).result())

        with (
            processes(2) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            first, _ = addresses(client)
            future = client.submit(task, workers=[first], allow_other_workers=True)
            assert future.result() == SUM
            kill(client, first)
            assert future.result() == SUM
            del future
            wait_until(lambda: not daskref.stats(client)["objects"], timeout=5)


class TestNoWorkers:
    @pytest.mark.parametrize("broadcast", [False, True])
    def test_scatter_before_there_is_one(self, broadcast: bool) -> None:
        with (
            processes(0) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            x = client.scatter(large(), broadcast=broadcast)
            y, z = client.scatter([3, "small"], broadcast=broadcast)
            sums = client.map(total, [x, y], pure=False)
            assert x.status == y.status == sums[0].status == "pending"
            with one_more(scheduler, client):
                assert client.gather(sums) == [SUM, 3]
                assert client.gather([x, z])[0][0] == 1
                assert z.result() == "small"

    def test_a_timeout_is_for_the_first_one(self) -> None:
        with (
            processes(0) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            for values in (large(), [3, "small"], {"x": large()}):
                with pytest.raises(TimeoutError, match="No valid workers"):
                    client.scatter(values, timeout=0.1)
            del values
            gc.collect()  # tracebacks keep their frames
            assert not client.futures
            wait_until(lambda: not daskref.stats(client)["objects"])
            with ThreadPoolExecutor(1) as pool:
                scattered = pool.submit(client.scatter, large(), timeout=60)
                wait_until(lambda: client.futures)
                with one_more(scheduler, client):
                    assert client.submit(total, scattered.result()).result() == SUM

    def test_adaptive_down_to_none(self) -> None:
        with (
            LocalCluster(
                n_workers=0, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            daskref.Client(cluster) as client,
        ):
            cluster.adapt(minimum=0, maximum=2, interval="50ms", wait_count=2)
            x, y = client.scatter(large()), client.scatter(7)
            assert client.submit(total, x).result() == SUM
            assert client.submit(total, y).result() == 7
            for i in range(2):
                # what nobody needs goes, data or not
                wait_until(lambda: len(addresses(client)) <= 1)
                for worker in addresses(client):
                    kill(client, worker)
                assert client.submit(total, x, i).result() == SUM
                assert y.result() == 7
            assert x.result()[0] == 1
