"""A MultiConnector of which some processes of the cluster reach only a part."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from daskref.cluster.session import ClusterStore
from daskref.connectors import MultiConnector, SharedMemoryConnector
from daskref.exceptions import ConnectorUnavailableError
from tests.support.common import large, start_scheduler, start_worker, wait_until
from tests.support.namespaces import ENVIRONMENT, own_shm, require_namespaces

SUM = 262144.0  # of large()
TIMEOUT = 30

pytestmark = pytest.mark.slow


def spec(directory: Path) -> dict[str, Any]:
    """Arrays in shared memory, all else in files."""
    return {
        "class": "daskref.connectors:MultiConnector",
        "connectors": {
            "memory": {
                "connector": "shm://",
                "policy": {"type-names": ["numpy.*"], "priority": 1},
            },
            "files": {"connector": f"file://{directory}", "policy": {}},
        },
    }


def total(x: Any) -> float:
    assert type(x) is np.ndarray
    return float(x.sum())


def make(kind: str) -> Any:
    # not a list: in-band, Dask serializes each of its elements by itself
    return large() if kind == "array" else "text " * 600_000


def test_a_worker_that_reaches_a_part_gets_values_in_band(tmp_path: Path) -> None:
    require_namespaces()
    scheduler = start_scheduler(env=ENVIRONMENT)
    workers = []
    try:
        for prefix, name in (((), "here"), (own_shm(), "apart")):
            workers.append(
                start_worker(
                    scheduler.address, "--no-nanny", "--name", name,
                    env=ENVIRONMENT, prefix=prefix,
                )
            )  # fmt: skip
        with daskref.Client(scheduler.address, connector=spec(tmp_path)) as client:
            x, text = large(), make("text")
            for worker in ("apart", "here"):
                where = {"workers": [worker], "pure": False}
                assert client.submit(total, x, **where).result(TIMEOUT) == SUM
                assert client.submit(len, text, **where).result(TIMEOUT) == len(text)
            assert daskref.stats(client)["puts"] >= 2
            for source, target in (("apart", "here"), ("here", "apart")):
                for kind, function in (("array", total), ("text", len)):
                    made = client.submit(make, kind, workers=[source], pure=False)
                    moved = client.submit(function, made, workers=[target], pure=False)
                    assert moved.result(TIMEOUT) == function(make(kind))
                    assert len(made.result(TIMEOUT)) == len(make(kind))
            del made, moved, x, text
            gc.collect()
            wait_until(lambda: not daskref.stats(client)["objects"], "all deleted")
        said = [worker.lines for worker in workers]
        warnings = [
            [line for line in lines if "cannot see the cluster's store" in line]
            for lines in said
        ]
        assert [len(lines) for lines in warnings] == [0, 1]
        assert "connector 'memory'" in warnings[1][0]
    finally:
        for process in [*workers, scheduler]:
            process.stop()
    assert not list(tmp_path.iterdir())


def test_each_value_goes_where_its_policy_says(tmp_path: Path) -> None:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        daskref.Client(cluster, connector=spec(tmp_path)) as client,
    ):
        x, text = large(), make("text")
        future = client.scatter([x])[0]
        assert client.submit(total, future).result() == SUM

        def files() -> int:
            return len([p for p in tmp_path.glob("daskref-*/*-*") if len(p.name) > 30])

        base = files()
        assert base == 1  # what processes that join look for
        measured = client.submit(len, text)
        assert measured.result() == len(text)
        assert files() == 2
        first, second = client.scheduler_info()["workers"]
        made = client.submit(make, "text", workers=[first])
        assert client.submit(len, made, workers=[second]).result() == len(text)
        assert files() == 3
        assert daskref.stats(client)["objects"] == 3  # without those looked for
        del future, made, x, text, measured
        gc.collect()
        wait_until(lambda: not daskref.stats(client)["objects"], "all deleted")
        wait_until(lambda: files() == base, "all files deleted")


def test_a_scheduler_has_to_reach_every_child(caplog: Any) -> None:
    gone = SharedMemoryConnector()
    with MultiConnector({"gone": (gone, None), "local": ("local://", None)}) as multi:
        config = multi.config()
        gone.close()
        settings = daskref.config.Settings.read(
            connector={
                "class": "daskref.connectors:MultiConnector",
                "from-config": config,
            }
        )
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(ConnectorUnavailableError, match="connector 'gone'"),
        ):
            ClusterStore.create(settings)
