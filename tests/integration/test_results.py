"""Results: tasks and clients get them once, and each its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from distributed import wait

import daskref
from tests.support.common import large, wait_until
from tests.support.tasks import SEEN, describe, make, total


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
