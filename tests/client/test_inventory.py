"""``list_objects``: what is stored, and what holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from distributed import Client as PlainClient
from distributed import LocalCluster

from daskref import Client, list_objects, stats
from tests.support.common import wait_until


def double(x: Any) -> Any:
    return 2 * x


def test_arguments_results_and_scattered_values() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster, threshold="10 kB") as client,
    ):
        assert list(list_objects(client)) == []
        x = np.ones((1000, 5))
        scattered = client.scatter(np.ones(20_000))
        result = client.submit(double, np.ones(300_000))
        result.result()
        future = client.submit(double, x)
        future.result()
        found = list_objects(client)
        sizes = [each.nbytes for each in found]
        assert sizes == sorted(sizes, reverse=True)
        told = stats(client)
        assert (len(found), sum(sizes)) == (told["objects"], told["bytes"])
        (argument,) = found.where(lambda each: each.shape == (1000, 5))
        assert argument.type == "numpy.ndarray"
        assert argument.nbytes >= x.nbytes
        assert argument.clients == (client.id,)
        placed_key, made_key = scattered.key, result.key
        (placed,) = found.where(lambda each: placed_key in each.keys)
        assert placed.shape == (20_000,)
        of_task = found.where(lambda each: made_key in each.keys)
        made = of_task.where(lambda each: each.shape is None)
        assert (len(of_task), len(made)) == (2, 1)  # with its argument
        assert made[0].prefixes == ("double",)
        assert "ndarray" in made[0].type
        assert all(each.hosts and not each.readers for each in found)
        assert placed.age > argument.age > 0
        assert len(list_objects(client, most=2)) == 2
        assert "double" in repr(found)
        assert list(found.to_pandas()["nbytes"]) == sizes
        del scattered, result, future, x
        wait_until(lambda: not list_objects(client), "everything released")


def test_plain_clients_are_told_what_to_do() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        PlainClient(cluster) as client,
        pytest.raises(TypeError, match=r"daskref\.enable"),
    ):
        list_objects(client)
