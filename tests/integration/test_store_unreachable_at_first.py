"""A store that cannot be opened when the first client comes, and later can."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from daskref.exceptions import ConnectorError
from tests.support.common import (
    large,
    processes,
    start_scheduler,
    start_worker,
    wait_until,
)
from tests.support.namespaces import require_namespaces, run_case
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.slow

SOON = {"daskref.retry-interval": "50ms"}


@contextmanager
def small_cluster() -> Iterator[Any]:
    with LocalCluster(
        n_workers=1, processes=False, dashboard_address=":0", protocol="tcp://"
    ) as cluster:
        yield cluster


def goes_on(client: Any) -> None:
    """Assert that all works, whatever becomes of the store meanwhile."""
    x = large(2.0)
    assert client.submit(np.sum, x).result() == x.sum()
    assert float(client.scatter(x).result().sum()) == x.sum()
    np.testing.assert_array_equal(client.submit(np.copy, x, pure=False).result(), x)
    assert dask.delayed(np.sum)(x).compute(scheduler=client) == x.sum()


def comes_back(client: Any) -> None:
    """Assert that large values go by reference again."""

    def puts() -> int:
        client.submit(np.sum, large(3.0), pure=False).result()
        return int(daskref.stats(client)["puts"])

    wait_until(lambda: puts() > 1, "values in the store")


# Places that cannot be used, and what repairs them.


def a_file_in_its_place(path: Path) -> tuple[str, dict[str, Any], Callable[[], Any]]:
    (path / "shared").write_text("")
    return f"file://{path}/shared", {}, (path / "shared").unlink


def no_directory_for_shared_memory(
    path: Path,
) -> tuple[str, dict[str, Any], Callable[[], Any]]:
    root = path / "missing"
    return "auto", {"daskref.shm.root": str(root)}, root.mkdir


PLACES = [a_file_in_its_place, no_directory_for_shared_memory]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("daskref")
    ]


@pytest.mark.parametrize("place", PLACES)
def test_in_band_until_it_is_back(
    place: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec, settings, repair = place(tmp_path)
    with (
        caplog.at_level(logging.WARNING, "daskref"),
        dask.config.set(SOON | settings),
        small_cluster() as cluster,
        daskref.Client(cluster, connector=spec) as client,
    ):
        goes_on(client)
        assert daskref.stats(client)["puts"] == 0
        (warning,) = told(caplog)
        assert "in-band" in warning
        assert "daskref.connector" in warning
        repair()
        comes_back(client)
        goes_on(client)
        _, back = told(caplog)
        assert "by reference again" in back


@pytest.mark.parametrize("place", PLACES)
def test_on_failure_raise(
    place: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec, settings, _ = place(tmp_path)
    settings |= {"daskref.on-failure": "raise"}
    with small_cluster() as cluster, dask.config.set(SOON | settings):
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(ConnectorError) as caught,
        ):
            daskref.Client(cluster, connector=spec)
        assert len(str(caught.value).splitlines()) == 1
        assert caught.value.__cause__ is None
        assert not [r for r in caplog.records if "Traceback" in r.getMessage()]


def test_redis_is_down(caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer()
    server.kill()
    try:
        with (
            caplog.at_level(logging.WARNING, "daskref"),
            dask.config.set(SOON),
            small_cluster() as cluster,
            daskref.Client(cluster, connector=server.url) as client,
        ):
            goes_on(client)
            assert len(told(caplog)) == 1
            server.start()
            comes_back(client)
    finally:
        server.close()


@pytest.mark.parametrize("lacks", ["bucket", "credentials"])
def test_s3(
    lacks: str,
    s3: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = {"class": "daskref.connectors:FsspecConnector", **s3.arguments}
    if lacks == "bucket":
        spec["url"] = "s3://there-is-none-yet/prefix"
    else:
        for name in list(os.environ):
            if name.startswith("AWS_") and "KEY" in name:
                monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with (
        caplog.at_level(logging.WARNING, "daskref"),
        dask.config.set(SOON),
        small_cluster() as cluster,
        daskref.Client(cluster, connector=spec) as client,
    ):
        goes_on(client)
        (warning,) = told(caplog)
        assert lacks in warning


def test_a_scheduler_that_brings_it_along(tmp_path: Path) -> None:
    spec, _, repair = a_file_in_its_place(tmp_path)
    env = {"DASK_DASKREF__CONNECTOR": spec}
    scheduler = start_scheduler("--preload", "daskref", env=env)
    worker = start_worker(scheduler.address)
    try:
        with dask.config.set(SOON), daskref.Client(scheduler.address) as client:
            goes_on(client)
            repair()
            comes_back(client)
    finally:
        worker.stop()
        scheduler.stop()


def test_enabled_closed_and_disabled_meanwhile(tmp_path: Path) -> None:
    spec, _, repair = a_file_in_its_place(tmp_path)
    with dask.config.set(SOON), small_cluster() as cluster:
        with cluster.get_client() as client:
            plain = type(client)
            daskref.enable(client, connector=spec)
            goes_on(client)
            daskref.disable(client)
            assert type(client) is plain
            with pytest.raises(TypeError, match="plain"):
                daskref.stats(client)
        with daskref.Client(cluster, connector=spec) as one:
            with daskref.Client(cluster, connector=spec) as two:
                goes_on(two)
            goes_on(one)
            repair()
            comes_back(one)


# In a process with a /dev/shm of its own.


def _shared_memory(harm: str, repair: str) -> list[str]:
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logging.getLogger("daskref").addHandler(Handler(logging.WARNING))
    subprocess.run(harm, shell=True, check=True)
    with (
        dask.config.set(SOON),
        small_cluster() as cluster,
        daskref.Client(cluster) as client,
    ):
        goes_on(client)
        assert daskref.stats(client)["puts"] == 0
        subprocess.run(repair, shell=True, check=True)
        comes_back(client)
    return said


_FILL = "dd if=/dev/zero of=/dev/shm/fill bs=4k 2> /dev/null"


@pytest.mark.parametrize(
    ("harm", "repair"),
    [
        ("mount -o remount,ro /dev/shm", "mount -o remount,rw /dev/shm"),
        (f"{_FILL} || true", "rm /dev/shm/fill"),
    ],
    ids=["read-only", "full"],
)
def test_shared_memory(harm: str, repair: str) -> None:
    require_namespaces()
    said = run_case(
        "tests.integration.test_store_unreachable_at_first",
        "_shared_memory",
        harm,
        repair,
        size="64m",
    )
    assert ["in-band" in each for each in said] == [True, False], said


def test_a_worker_alone(tmp_path: Path) -> None:
    """Its own mount hides the directory that all others share."""
    require_namespaces()
    shared = tmp_path / "shared"
    shared.mkdir()
    hide = f'mount -t tmpfs tmpfs {shared} && exec "$@"'
    env = {"DASK_DASKREF__RETRY_INTERVAL": "50ms"}
    with processes(0, env=env) as (scheduler, _):
        with dask.config.set(SOON):
            client = daskref.Client(scheduler.address, connector=f"file://{shared}/s")
        prefix = ("unshare", "-m", "sh", "-c", hide, "sh")
        with client:
            worker = start_worker(scheduler.address, env=env, prefix=prefix)
            try:
                wait_until(lambda: client.ncores(), "the worker")
                goes_on(client)
                assert sum("cannot see" in line for line in worker.lines) == 1
                subprocess.run(
                    ["nsenter", "-t", str(worker.pid), "-m", "umount", str(shared)],
                    check=True,
                )
                wait_until(
                    lambda: any("by reference again" in each for each in worker.lines),
                    "the worker takes part",
                )
                future = client.submit(np.ones, 500_000, pure=False)
                puts = daskref.stats(client)["puts"]
                assert float(future.result().sum()) == 500_000
                assert daskref.stats(client)["puts"] > puts
                goes_on(client)
            finally:
                worker.stop()
