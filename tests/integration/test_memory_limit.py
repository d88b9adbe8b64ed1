"""A container with little memory, which workers and stored objects want to fill."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from tests.support.namespaces import MemoryGroup, require_namespaces, run_case

MIB = 2**20
#: Numbers of each array: 80 MB.
COUNT = 10_000_000


# What runs in the container.


def make(i: int) -> Any:
    return np.full(COUNT, float(i))


def add(a: Any, b: Any) -> Any:
    return a + b


def hold(a: Any) -> Any:
    """Return what needs no memory of its own, but keeps the object."""
    return [a, 1]


def total(a: Any) -> float:
    return float(a.sum())


def fill() -> list[float]:
    """Have 12 objects of the client's, and 25 results: twice the memory there is."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c,
        daskref.Client(c) as client,
    ):
        scattered = [client.scatter(np.full(COUNT, float(i))) for i in range(12)]
        held = [client.submit(hold, each) for each in scattered]
        made = client.map(make, range(25))
        pairs = [client.submit(add, *pair) for pair in pairwise(made)]
        sums: list[float] = client.gather(client.map(total, pairs))
        sums += client.gather(client.map(total, scattered))
        assert client.gather(client.map(len, held)) == [2] * 12
        return sums


# What is tested.


@pytest.mark.slow
def test_the_kernel_ends_no_worker() -> None:
    require_namespaces()
    with MemoryGroup(1536 * MIB) as group:
        sums = run_case(
            "tests.integration.test_memory_limit",
            "fill",
            size="2g",
            within=group.prefix,
        )
        assert group.kills() == 0
    assert sums[:24] == [COUNT * (2.0 * i + 1) for i in range(24)]
    assert sums[24:] == [COUNT * float(i) for i in range(12)]
