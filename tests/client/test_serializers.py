"""A client that is made with any serializers connects, and does what Dask's does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import distributed
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from tests.support.common import large

pytestmark = pytest.mark.slow

FAMILIES: list[tuple[Any, Any]] = [
    (["pickle"], None),
    (["msgpack"], None),
    (["dask"], ["dask"]),
    (["dask"], ["dask", "pickle"]),
    (["dask", "pickle"], ["dask"]),
    (["dask", "pickle"], ["error"]),
    (["error"], None),
    (["dask", "error"], ["dask", "error"]),
    ([], None),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        yield cluster


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the name of the error that it raises."""
    try:
        return call()
    except Exception as exc:
        return type(exc).__name__


def outcomes(make: Any, address: str, serializers: Any, deserializers: Any) -> Any:
    with make(address, serializers=serializers, deserializers=deserializers) as client:

        def scattered(value: Any) -> Any:
            return client.gather(client.scatter(value, hash=False))

        def called(value: Any) -> Any:
            return client.submit(np.sum, value, pure=False).result(timeout=30)

        def returned(nbytes: int) -> Any:
            value = client.submit(large, 1.0, nbytes, pure=False).result(timeout=30)
            return value.shape

        calls = {
            "scatter": lambda: scattered(large()).sum(),
            "scatter small": lambda: scattered(b"x"),
            "submit": partial(called, large()),
            "submit small": partial(called, [1, 2]),
            "result": partial(returned, 2 << 20),
            "a small result": partial(returned, 80),
        }
        return {name: outcome(call) for name, call in calls.items()}


@pytest.mark.parametrize(("serializers", "deserializers"), FAMILIES)
def test_as_plain(cluster: LocalCluster, serializers: Any, deserializers: Any) -> None:
    families = cluster.scheduler_address, serializers, deserializers
    expected = outcomes(distributed.Client, *families)
    assert outcomes(daskref.Client, *families) == expected
