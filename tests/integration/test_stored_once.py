"""Stored once: the same content is put once, and what is in the store is not copied."""

from __future__ import annotations

import os
import shutil
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import psutil
import pytest
from distributed import LocalCluster, get_worker, wait

import daskref
from tests.support.common import LARGE, large, pss_kib, wait_until
from tests.support.requirements import require

GIB = 1 << 30


def total(x: Any, *ignored: Any) -> float:
    return float(np.asarray(x).sum())


def identity(x: Any, *ignored: Any) -> Any:
    return x


def make(fill: float = 1.0) -> Any:
    return large(fill)


def stored(client: Any) -> int:
    """Return how many objects are in the store, as its directory shows."""
    objects: int = daskref.stats(client)["objects"]
    return objects


class TestSameContent:
    def test_forty_submits_of_one_frame(self, client: Any, puts: Any) -> None:
        frame = pd.DataFrame({"a": np.arange(300_000.0), "b": 1})

        def pick(df: Any, row: int) -> float:
            return float(df.a[row])

        futures = [client.submit(pick, frame, row) for row in range(40)]
        assert client.gather(futures) == [float(row) for row in range(40)]
        assert puts() == 1
        assert stored(client) == 1

    def test_forty_calls_one_after_the_other(self, client: Any, puts: Any) -> None:
        x = large()
        for i in range(40):  # no future lives: the array itself holds what is stored
            assert client.submit(total, x, i).result() == LARGE / 8
        assert puts() == 1

    def test_across_the_ways_to_submit(self, client: Any, puts: Any) -> None:
        x = large()
        futures = [
            client.submit(total, x),
            *client.map(identity, range(2), x=x),
            client.compute(dask.delayed(total)(x)),
            client.scatter(x),
            client.submit(lambda: total(x)),
        ]
        wait(futures)
        assert puts() == 1

    @pytest.mark.parametrize("kind", ["array", "frame"])
    def test_a_change_between_two_submits(
        self, client: Any, puts: Any, kind: str
    ) -> None:
        x = large() if kind == "array" else pd.DataFrame({"a": large()})
        first = client.submit(total, x)
        if kind == "array":
            x[0] = 3.0
        else:
            x.loc[0, "a"] = 3.0
        second = client.submit(total, x)
        assert client.gather([first, second]) == [LARGE / 8, LARGE / 8 + 2]
        assert puts() == 2

    def test_changed_back(self, client: Any, puts: Any) -> None:
        x = large()
        futures = [client.submit(total, x)]
        x[0] = 3.0
        futures.append(client.submit(total, x))
        x[0] = 1.0
        futures.append(client.submit(identity, x))
        wait(futures)
        assert puts() == 2  # the first version is there as long as its future lives

    def test_old_versions_do_not_pile_up(self, client: Any, puts: Any) -> None:
        x = large()
        for i in range(20):
            x[0] = i
            assert client.submit(total, x).result() == LARGE / 8 - 1 + i
            wait_until(lambda: stored(client) == 1, "the version before is freed")
        assert puts() == 20

    def test_versions_stay_while_their_futures_live(self, client: Any) -> None:
        x = large()
        futures = []
        for i in range(5):
            x[0] = i
            futures.append(client.submit(total, x))
        wait(futures)
        assert stored(client) == 5
        assert client.gather(futures) == [LARGE / 8 - 1 + i for i in range(5)]
        del futures
        wait_until(lambda: stored(client) == 1, "old versions are freed")

    def test_equal_temporaries_while_a_future_lives(
        self, client: Any, puts: Any
    ) -> None:
        first = client.submit(total, large(3))
        second = client.submit(total, large(3), "again")
        assert client.gather([first, second]) == [3 * LARGE / 8] * 2
        assert puts() == 1

    @pytest.mark.parametrize(
        "value",
        [
            b"x" * LARGE,
            bytearray(b"x" * LARGE),
            "x" * LARGE,
            [f"{i:1000}" for i in range(LARGE // 900)],
            tuple(f"{i:1000}" for i in range(LARGE // 900)),
            {i: f"{i:1000}" for i in range(LARGE // 900)},
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_values_without_weak_references(
        self, client: Any, puts: Any, value: Any
    ) -> None:
        futures = [client.submit(_length, value, i) for i in range(4)]
        assert client.gather(futures) == [(type(value).__name__, len(value))] * 4
        assert puts() == 1
        assert stored(client) == 1
        del futures
        # nothing but futures can tell that such a value is still wanted
        wait_until(lambda: stored(client) == 0, "freed with the last future")

    def test_arrays_in_forty_lists(self, client: Any, puts: Any) -> None:
        x = large()
        futures = [client.submit(_length, [x, i]) for i in range(40)]
        assert client.gather(futures) == [("list", 2)] * 40
        assert puts() == 1

    def test_two_clients_that_hold_their_own(self, cluster: Any, client: Any) -> None:
        x = large()
        first = client.submit(total, x)
        with daskref.Client(cluster, set_as_default=False) as other:
            second = other.submit(total, x, "other")
            assert first.result() == second.result()
            del second
        assert client.submit(total, x, "again").result() == first.result()


def _length(value: Any, *ignored: Any) -> tuple[str, int]:
    return type(value).__name__, len(value)


class TestFromTheStore:
    """What came from the store goes on as a reference."""

    def test_a_task_returns_its_argument(self, client: Any, puts: Any) -> None:
        x = large()
        future = client.submit(identity, x)
        np.testing.assert_array_equal(future.result(), x)
        np.testing.assert_array_equal(client.submit(identity, future).result(), x)
        assert puts() == 1

    def test_a_task_changes_its_argument(self, client: Any, puts: Any) -> None:
        def change(x: Any) -> Any:
            x[0] = 5
            return x

        x = large()
        assert client.submit(change, x).result()[0] == 5
        assert client.submit(identity, x).result()[0] == 1
        assert puts() == 2

    def test_a_gathered_result_is_submitted(self, client: Any, puts: Any) -> None:
        made = client.submit(make)
        result = made.result()
        for i in range(3):
            assert client.submit(total, result, i).result() == LARGE / 8
        assert puts() == 1
        result += 1
        assert client.submit(total, result).result() == LARGE / 4
        assert puts() == 2

    def test_a_gathered_result_whose_future_is_gone(
        self, client: Any, puts: Any
    ) -> None:
        result = client.submit(make).result()
        for i in range(3):  # each may be freed before the next is sent
            result = client.submit(identity, result, i).result()
            wait_until(lambda: stored(client) == 1, "the one before is freed")
        assert result[0] == 1
        assert puts() == 1

    def test_a_gathered_result_is_scattered(self, client: Any, puts: Any) -> None:
        made = client.submit(make)
        scattered = client.scatter(made.result())
        assert client.submit(total, scattered).result() == LARGE / 8
        assert puts() == 1
        del made  # the scattered value has a life of its own
        assert client.submit(total, scattered, "again").result() == LARGE / 8

    def test_a_gathered_value_of_a_scatter(self, client: Any, puts: Any) -> None:
        value = client.scatter(large()).result()
        future = client.scatter(large(2))
        assert client.submit(total, future.result()).result() == LARGE / 4
        assert value[0] == 1
        assert puts() == 2

    def test_a_chain_of_workers(self, client: Any, puts: Any) -> None:
        first, second = client.scheduler_info()["workers"]
        future = client.submit(make, workers=[first])
        for i in range(4):
            worker = first if i % 2 else second
            future = client.submit(identity, future, i, workers=[worker])
        assert future.result()[0] == 1
        assert puts() == 1

    def test_a_result_that_many_take_at_once(self, client: Any, puts: Any) -> None:
        first, second = client.scheduler_info()["workers"]
        made = client.submit(make, workers=[first])
        futures = [
            client.submit(total, made, i, workers=[worker])
            for worker in (first, second)
            for i in range(10)
        ]
        assert client.gather(futures) == [LARGE / 8] * 20
        assert [float(x[0]) for x in client.gather([made] * 3)] == [1] * 3
        assert puts() == 1

    def test_inside_tasks(self, client: Any, puts: Any) -> None:
        def task(x: Any) -> float:
            from distributed import worker_client

            with worker_client() as inner:
                return float(inner.submit(total, x).result())

        x = large()
        assert client.submit(task, x).result() == LARGE / 8
        assert puts() == 1

    def test_collections(self, client: Any, puts: Any) -> None:
        array = da.from_array(large(nbytes=2 * LARGE), chunks=LARGE // 8).persist()
        wait(array)
        chunks = [client.compute(block) for block in array.to_delayed()]
        values = client.gather(chunks)
        before = puts()
        again = client.map(total, values)
        assert client.gather(again) == [LARGE / 8] * 2
        assert client.gather(client.compute(list(array.to_delayed())))[1][0] == 1
        assert puts() == before


@pytest.mark.slow
def test_workers_of_a_host_map_one_copy() -> None:
    """Eight workers read 1 GiB: together they have one copy of it."""
    available = psutil.virtual_memory().available
    require(available > 6 * GIB, "6 GiB of free memory")
    require(shutil.disk_usage("/dev/shm").free > 2 * GIB, "2 GiB free in /dev/shm")

    def read(x: Any, i: int) -> tuple[int, float]:
        get_worker().kept = x
        return os.getpid(), float(x.sum())

    with (
        LocalCluster(
            n_workers=8,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            memory_limit=0,
        ) as cluster,
        daskref.Client(cluster) as client,
    ):
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        assert len(workers) == 8

        def read_on_all(x: Any) -> dict[int, float]:
            return dict(
                client.gather(
                    [
                        client.submit(read, x, i, workers=[worker], pure=False)
                        for i, worker in enumerate(workers)
                    ]
                )
            )

        pids = list(read_on_all(large()))  # what is imported counts as the base
        base = sum(map(pss_kib, pids))
        x = np.ones(GIB // 8)
        assert read_on_all(x) == dict.fromkeys(pids, GIB / 8)
        over = (sum(map(pss_kib, pids)) - base) * 1024
        assert over <= 1.15 * GIB
        # they do have it: the rest is what this process has mapped itself
        assert over > 0.8 * GIB
        assert daskref.stats(client)["puts"] == 2
