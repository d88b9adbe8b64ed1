"""The five paths of bulk data, on worker processes."""

from __future__ import annotations

import asyncio
import operator
from collections import namedtuple
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import wait

import daskref
from tests.support.common import large, wait_until


def describe(*args: Any, **kwargs: Any) -> list[Any]:
    """Tell what a task sees of its arguments."""
    values = [*args, *kwargs.values()]
    return [
        (type(x).__name__, float(np.asarray(x).sum()), bool(x.flags.writeable))
        for x in values
    ]


SEEN = ("ndarray", 262144.0, True)


def make(fill: float = 1.0) -> Any:
    return large(fill)


def total(x: Any) -> float:
    return float(np.asarray(x).sum())


async def total_in_coroutine(x: Any, y: Any = None) -> Any:
    assert type(x) is np.ndarray
    return float(x.sum())


class Model:
    """A class whose instances have something large inside."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def predict(self) -> float:
        return float(self.weights.sum())


class Accumulator:
    """An actor."""

    state = None

    def add(self, x: Any) -> Any:
        assert type(x) is np.ndarray
        assert x.flags.writeable
        self.state = x if self.state is None else self.state + x
        return self.state

    async def add_async(self, x: Any) -> Any:
        return self.add(x)


class TestLiterals:
    def test_positional_and_keyword_arguments(self, client: Any, puts: Any) -> None:
        x, y = large(1), large(2)
        seen = client.submit(describe, x, y=y).result()
        assert seen == [SEEN, ("ndarray", 524288.0, True)]
        assert puts() == 2

    def test_below_the_threshold_stays_in_band(self, client: Any, puts: Any) -> None:
        x = np.ones(1000)
        assert client.submit(describe, x).result() == [("ndarray", 1000.0, True)]
        assert client.gather(client.scatter([x, 1]))[1] == 1
        assert puts() == 0

    def test_threshold_is_read_per_call(self, client: Any, puts: Any) -> None:
        x = np.ones(1000)
        with dask.config.set({"daskref.threshold": "1 kB"}):
            assert client.submit(describe, x).result() == [("ndarray", 1000.0, True)]
        assert puts() == 1

    def test_containers_keep_their_types(self, client: Any, puts: Any) -> None:
        x = large()
        pair = namedtuple("pair", "a b")
        value = {"list": [x, 1], "tuple": (x, {"deep": x}), "set": {1, 2}}

        def look(value: Any) -> list[str]:
            return [
                type(value["list"][0]).__name__,
                type(value["tuple"][1]["deep"]).__name__,
                type(value["tuple"]).__name__,
                type(value["set"]).__name__,
            ]

        assert client.submit(look, value).result() == [
            "ndarray", "ndarray", "tuple", "set",
        ]  # fmt: skip
        assert client.submit(lambda p: float(p.a[0]), pair(x, 1)).result() == 1.0
        assert puts() == 1

    def test_a_large_list_of_small_things(self, client: Any, puts: Any) -> None:
        numbers = [float(i) for i in range(200_000)]
        assert client.submit(sum, numbers).result() == sum(numbers)
        assert puts() == 1

    def test_futures_beside_large_values_in_one_list(self, client: Any) -> None:
        x, future = large(), client.submit(operator.add, 1, 2)
        assert client.submit(lambda v: v[0].sum() + v[1], [x, future]).result() == (
            262147.0
        )

    def test_what_a_function_closes_over(self, client: Any, puts: Any) -> None:
        x = large()
        assert client.submit(lambda: float(x.sum())).result() == 262144.0
        assert puts() == 1

    def test_attributes_of_an_instance(self, client: Any, puts: Any) -> None:
        model = Model(large())
        assert client.submit(Model.predict, model).result() == 262144.0
        assert client.submit(model.predict).result() == 262144.0
        assert puts() == 1

    def test_coroutine_functions(self, client: Any, puts: Any) -> None:
        x = large()
        assert client.submit(total_in_coroutine, x).result() == 262144.0
        made = client.submit(make)
        assert client.submit(total_in_coroutine, made, y=x).result() == 262144.0

    def test_map(self, client: Any, puts: Any) -> None:
        frame = pd.DataFrame({"a": np.arange(300_000.0)})

        def pick(i: int, df: Any = None) -> float:
            assert type(df) is pd.DataFrame
            return float(df.a[i])

        futures = client.map(pick, range(20), df=frame)
        assert client.gather(futures) == [float(i) for i in range(20)]
        assert puts() == 1
        arrays = [large(i) for i in range(3)]
        assert client.gather(client.map(total, arrays)) == [0, 262144.0, 524288.0]
        assert puts() == 4

    @pytest.mark.parametrize("nbytes", [500_000, 5_000_000])
    def test_large_keywords_of_map(self, client: Any, nbytes: int) -> None:
        def pick(i: int, df: Any = None, more: Any = None) -> float:
            return float(df[i] + more[0][i])

        x = np.arange(nbytes / 8)
        futures = client.map(pick, range(20), df=x, more=[x], batch_size=7)
        assert client.gather(futures) == [2.0 * i for i in range(20)]

    def test_delayed(self, client: Any, puts: Any) -> None:
        x = large()
        assert dask.delayed(total)(x).compute() == 262144.0
        assert dask.delayed(lambda v: total(v["x"]))({"x": x}).compute() == 262144.0
        assert puts() >= 1

    def test_array(self, client: Any, puts: Any) -> None:
        x = np.arange(1 << 20, dtype=float)
        array = da.from_array(x, chunks=1 << 18)
        assert array.sum().compute() == x.sum()
        np.testing.assert_array_equal((array + 1).compute(), x + 1)
        assert puts() >= 4

    def test_dataframe(self, client: Any, puts: Any) -> None:
        frame = pd.DataFrame(
            {"n": np.arange(200_000), "s": [f"row {i}" for i in range(200_000)]}
        )
        ddf = dd.from_pandas(frame, npartitions=2)
        assert ddf.n.sum().compute() == frame.n.sum()
        result = ddf.compute()
        pd.testing.assert_frame_equal(result, frame, check_dtype=False)
        assert puts() >= 2

    def test_shuffle(self, client: Any) -> None:
        frame = pd.DataFrame({"a": range(100), "b": 1.0})
        ddf = dd.from_pandas(frame, npartitions=4)
        with dask.config.set(
            {"daskref.threshold": 1, "dataframe.shuffle.method": "p2p"}
        ):
            found = ddf.shuffle("a").compute()
        pd.testing.assert_frame_equal(found.sort_index(), frame)

    def test_bag(self, client: Any, puts: Any) -> None:
        bag = db.from_sequence([large(1), large(2)], npartitions=2)
        assert bag.map(total).compute() == [262144.0, 524288.0]
        assert puts() >= 2

    def test_persist_and_compute(self, client: Any, puts: Any) -> None:
        x = np.arange(1 << 20, dtype=float)
        array = client.persist(da.from_array(x, chunks=1 << 18))
        wait(array)
        future = client.compute(array.mean())
        assert future.result() == x.mean()
        assert client.compute(array[:3], sync=True).tolist() == [0, 1, 2]

    def test_annotations_survive(self, client: Any) -> None:
        worker = list(client.scheduler_info()["workers"])[1]
        x = np.arange(1 << 20, dtype=float)
        with dask.annotate(workers=[worker]):
            array = da.from_array(x, chunks=1 << 18)
        array = array.persist(optimize_graph=False)
        wait(array)
        assert {w for ws in client.who_has(array).values() for w in ws} == {worker}

    def test_get(self, client: Any) -> None:
        graph = {"x": large(), "y": (total, "x")}
        assert client.get(graph, "y") == 262144.0


class TestScatter:
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
            from distributed import worker_client

            with worker_client() as inner:
                future = inner.scatter(np.ones(1 << 18))
                return type(inner).__mro__[1].__name__, inner.submit(
                    total, future
                ).result()

        assert client.submit(task).result() == ("ByReference", 262144.0)


class TestTransfers:
    def test_worker_to_worker(self, client: Any, puts: Any) -> None:
        first, second = client.scheduler_info()["workers"]
        made = client.submit(make, workers=[first])
        for _ in range(3):
            future = client.submit(describe, made, workers=[second], pure=False)
            assert future.result() == [SEEN]
        assert puts() == 1

    def test_gather(self, client: Any, puts: Any) -> None:
        made = client.submit(make)
        for result in (made.result(), client.gather([made])[0]):
            assert type(result) is np.ndarray
            result += 1  # ours alone
        assert made.result()[0] == 1
        assert client.gather({"x": [made]})["x"][0][0] == 1
        assert puts() == 1

    def test_gather_direct(self, cluster: Any, puts: Any) -> None:
        with daskref.Client(cluster, direct_to_workers=True) as client:
            assert client.submit(make).result()[0] == 1

    def test_alias_of_a_result(self, client: Any) -> None:
        made = client.submit(make)
        wait(made)
        graph = {"again": made, "sum": (total, "again")}
        assert client.get(graph, ["sum"]) == [262144.0]

    def test_results_are_independent(self, client: Any) -> None:
        def change(x: Any) -> float:
            x += 1
            return float(x[0])

        x = client.scatter(large())
        assert [client.submit(change, x, pure=False).result() for _ in range(4)] == (
            [2.0] * 4
        )
        assert x.result()[0] == 1

    def test_read_only_stays_read_only(self, client: Any) -> None:
        x = large()
        x.flags.writeable = False
        assert client.submit(describe, x).result() == [("ndarray", 262144.0, False)]

    def test_replicate_and_rebalance(self, client: Any) -> None:
        made = client.submit(make)
        wait(made)
        client.replicate([made])
        assert len(client.who_has(made)[made.key]) == 2
        client.rebalance([made])
        assert made.result()[0] == 1

    def test_run(self, client: Any) -> None:
        results = client.run(lambda: np.ones(4 << 20))
        assert [type(x) for x in results.values()] == [np.ndarray] * 2
        result = client.run_on_scheduler(lambda: np.ones(4 << 20))
        assert type(result) is np.ndarray
        wait_until(lambda: not daskref.stats(client)["objects"])


class TestActors:
    @pytest.mark.parametrize("direct", [False, True])
    def test_arguments_results_and_attributes(self, cluster: Any, direct: bool) -> None:
        with daskref.Client(cluster, direct_to_workers=direct) as client:
            before = daskref.stats(client)["bytes_kept"]
            actor = client.submit(Accumulator, actor=True).result()
            x = large()
            assert type(actor.add(x).result()) is np.ndarray
            assert actor.add(x=x).result()[0] == 2
            assert actor.add_async(x).result()[0] == 3
            assert type(actor.state) is np.ndarray
            assert actor.state[0] == 3
            kept = daskref.stats(client)["bytes_kept"] - before
            assert kept >= 8 * x.nbytes
            del actor


class TestLazy:
    def test_arrives_as_a_proxy(self, client: Any, puts: Any) -> None:
        def look(p: Any) -> Any:
            assert isinstance(p, daskref.Proxy)
            resolved = daskref.is_resolved(p)
            return resolved, float(p.sum()), type(daskref.extract(p)).__name__

        assert client.submit(look, daskref.lazy(large())).result() == (
            False, 262144.0, "ndarray",
        )  # fmt: skip
        assert puts() == 1

    def test_small_values_and_futures(self, client: Any) -> None:
        def look(p: Any) -> Any:
            return isinstance(p, daskref.Proxy), p + 1

        assert client.submit(look, daskref.lazy(1)).result() == (True, 2)
        one = client.submit(operator.add, 0, 1)
        assert client.submit(look, daskref.lazy(one)).result() == (True, 2)
        assert client.submit(lambda v: v[0] + 1, [daskref.lazy(1)]).result() == 2


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
