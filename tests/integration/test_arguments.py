"""Arguments: functions get the objects that were passed, wherever in the arguments."""

from __future__ import annotations

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
from tests.support.common import large
from tests.support.tasks import SEEN, describe, make, total


async def total_in_coroutine(x: Any, y: Any = None) -> Any:
    assert type(x) is np.ndarray
    return float(x.sum())


class Model:
    """A class whose instances have something large inside."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def predict(self) -> float:
        return float(self.weights.sum())


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
