"""Clients that libraries make, switched on by configuration.

Prefect has a program of its own, ``tests/support/prefect_flow.py``: its server takes
too long to start for a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask.config
import distributed
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from tests.support.common import large
from tests.support.requirements import require_module
from tests.support.tasks import total

SUM = 262144.0


@pytest.fixture(autouse=True)
def switched_on() -> Iterator[None]:
    """Clients of this process are switched on."""
    with dask.config.set({"distributed.client.preload": ["daskref"]}):
        yield


@pytest.fixture
def put() -> Iterator[Any]:
    """A cluster, and how often anybody has put something there."""
    with (
        LocalCluster(processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield cluster.scheduler_address, lambda: daskref.stats(client)["puts"]


@contextmanager
def joblib_on(address: str) -> Iterator[Any]:
    """Let joblib make a client, which it leaves open."""
    joblib = require_module("joblib")
    with joblib.parallel_config("dask", scheduler_host=address):
        yield joblib
        joblib.parallel.get_active_backend()[0].client.close()


def test_joblib(put: Any) -> None:
    address, puts = put
    x = large()
    with joblib_on(address) as joblib:
        found = joblib.Parallel()(joblib.delayed(total)(x, i) for i in range(4))
    assert found == [SUM] * 4
    assert puts() == 1


@pytest.mark.slow
def test_scikit_learn(put: Any) -> None:
    model_selection = require_module("sklearn.model_selection")
    linear_model = require_module("sklearn.linear_model")
    address, puts = put
    x = np.random.default_rng(0).normal(size=(20_000, 20))
    y = x @ np.arange(20.0)
    search = model_selection.GridSearchCV(
        linear_model.Ridge(), {"alpha": [0.1, 1.0]}, cv=2
    )
    with joblib_on(address):
        search.fit(x, y)
    assert search.best_params_ == {"alpha": 0.1}
    assert puts() >= 1


@pytest.mark.slow
def test_dask_ml(put: Any) -> None:
    reason = "dask-ml brings numba and LLVM"
    model_selection = pytest.importorskip("dask_ml.model_selection", reason=reason)
    linear_model = require_module("sklearn.linear_model")
    address, puts = put
    x = np.random.default_rng(0).normal(size=(20_000, 20))
    y = x @ np.arange(20.0)
    search = model_selection.GridSearchCV(
        linear_model.Ridge(), {"alpha": [0.1, 1.0]}, cv=2
    )
    with distributed.Client(address):
        search.fit(x, y)
    assert search.best_params_ == {"alpha": 0.1}
    assert puts() >= 1


def test_xarray(put: Any) -> None:
    xarray = require_module("xarray")
    address, puts = put
    with distributed.Client(address):
        array = xarray.DataArray(large().reshape(512, 512), dims=("a", "b"))
        assert float(array.chunk({"a": 512}).sum().compute()) == SUM
    assert puts() >= 1
