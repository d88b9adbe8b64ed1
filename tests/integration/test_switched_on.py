"""Switched on by configuration: clients that somebody else makes pass by reference."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dask.config
import distributed
import pytest
from distributed import LocalCluster

import daskref
from daskref.client import _attachment
from daskref.client.by_reference import ByReference
from daskref.cluster import notices
from daskref.exceptions import NotInstalledError
from tests.support.common import large, wait_until
from tests.support.tasks import SEEN, describe, make

PRELOAD = "distributed.client.preload"


@pytest.fixture
def switched_on(monkeypatch: Any) -> Iterator[None]:
    """Clients of this process are switched on, and nothing was told of any yet."""
    monkeypatch.setattr(notices, "_told", set())
    with dask.config.set({PRELOAD: ["daskref"]}):
        yield


class Subclass(distributed.Client):
    def _ensure_connected(self, *args: Any, **kwargs: Any) -> Any:
        return super()._ensure_connected(*args, **kwargs)

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        return super().submit(*args, **kwargs)


MAKERS: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "of a cluster": distributed.Client,
    "of an address": lambda cluster: distributed.Client(cluster.scheduler_address),
    "not the default": lambda cluster: distributed.Client(
        cluster, set_as_default=False
    ),
    "of a subclass": Subclass,
}


def take_part(client: Any, puts: int) -> None:
    """Assert that a client passes values by reference."""
    x = large()
    assert client.submit(describe, x).result() == [SEEN]
    future = client.scatter(x)
    assert client.submit(describe, future).result() == [SEEN]
    assert daskref.stats(client)["puts"] == puts + 1
    assert client.submit(make).result()[0] == 1


@pytest.mark.usefixtures("switched_on")
class TestEveryClient:
    @pytest.mark.parametrize("maker", MAKERS.values(), ids=list(MAKERS))
    def test_synchronous(self, cluster: Any, client: Any, maker: Any) -> None:
        with maker(cluster) as made:
            take_part(made, daskref.stats(client)["puts"])

    def test_asynchronous(self, cluster: Any) -> None:
        async def main() -> None:
            address = cluster.scheduler_address
            async with distributed.Client(address, asynchronous=True) as client:
                before = (await daskref.stats(client))["puts"]
                assert await client.submit(describe, large()) == [SEEN]
                assert (await daskref.stats(client))["puts"] == before + 1

        asyncio.run(main())

    def test_synchronous_while_an_event_loop_runs(self, cluster: Any, client: Any):
        async def cell() -> None:  # of a notebook
            with distributed.Client(cluster) as made:
                take_part(made, daskref.stats(client)["puts"])

        asyncio.run(cell())

    def test_with_a_cluster_of_its_own(self) -> None:
        with distributed.Client(processes=False, dashboard_address=":0") as client:
            take_part(client, 0)

    def test_made_by_a_cluster(self) -> None:
        with (
            LocalCluster(processes=False, dashboard_address=":0") as cluster,
            cluster.get_client() as client,
        ):
            take_part(client, 0)

    def test_as_configured(self, cluster: Any, client: Any, puts: Any) -> None:
        with (
            dask.config.set({"daskref.threshold": "1 kB"}),
            distributed.Client(cluster, set_as_default=False) as made,
        ):
            made.submit(describe, large(nbytes=10_000)).result()
        assert puts() == 1

    def test_our_own_is_not_switched_on_twice(self, cluster: Any) -> None:
        with daskref.Client(cluster, threshold="1 kB") as client:
            assert type(client) is daskref.Client
            events = client.get_events("daskref")
            added = {"action": "add-client", "client": client.id}
            assert [event for _, event in events].count(added) == 1
            client.submit(describe, large(nbytes=10_000)).result()
            assert client._daskref.threshold() == 1000  # type: ignore[union-attr]


@pytest.mark.usefixtures("switched_on")
class TestOffAgain:
    def test_one_client(self, cluster: Any, client: Any, puts: Any) -> None:
        with (
            distributed.Client(cluster) as first,
            distributed.Client(cluster) as second,
        ):
            daskref.disable(first)
            assert type(first) is distributed.Client
            assert first.submit(describe, large()).result() == [SEEN]
            assert not puts()
            assert second.submit(describe, large(2)).result()
            assert puts() == 1
            daskref.enable(first)
            assert first.submit(describe, large(3)).result()
            assert puts() == 2

    def test_before_it_is_made(self, cluster: Any, client: Any, puts: Any) -> None:
        with dask.config.set({PRELOAD: []}), distributed.Client(cluster) as plain:
            assert type(plain) is distributed.Client
            assert plain.submit(describe, large()).result() == [SEEN]
        assert not puts()


@pytest.mark.usefixtures("switched_on")
def test_bad_settings_are_told_once_and_clients_stay_plain(
    cluster: Any, caplog: Any
) -> None:
    with dask.config.set({"daskref.threshold": "abc"}):
        for _ in range(2):
            with distributed.Client(cluster) as plain:
                assert type(plain) is distributed.Client
                assert plain.submit(describe, large()).result() == [SEEN]
    (told,) = [r.getMessage() for r in caplog.records if r.name == "daskref"]
    assert "a client goes on as plain Dask: daskref.threshold='abc'" in told


@pytest.mark.usefixtures("switched_on")
def test_a_client_that_connects_again_may_find_a_scheduler_without(
    cluster: Any, monkeypatch: Any
) -> None:
    async def refuse(*args: Any) -> Any:
        raise NotInstalledError(["the scheduler"])

    with distributed.Client(cluster, set_as_default=False) as client:
        assert isinstance(client, ByReference)
        monkeypatch.setattr(_attachment, "_join", refuse)
        comm = client.scheduler_comm
        client.loop.add_callback(comm.comm.abort)
        wait_until(lambda: type(client) is distributed.Client)
        assert client.submit(describe, large()).result() == [SEEN]
        assert client.scheduler_comm is not comm


@pytest.mark.usefixtures("switched_on")
def test_a_client_whose_connection_ends_is_switched_on_as_it_connects_again(
    cluster: Any, client: Any, monkeypatch: Any
) -> None:
    join = _attachment._join
    failed: list[int] = []

    async def fail_once(made: Any, *args: Any) -> Any:
        if not failed:
            failed.append(1)
            made.scheduler_comm.comm.abort()
            raise OSError("the connection has ended")
        return await join(made, *args)

    monkeypatch.setattr(_attachment, "_join", fail_once)
    with distributed.Client(cluster, set_as_default=False) as made:
        wait_until(lambda: getattr(made, "_daskref", None) is not None)
        take_part(made, daskref.stats(client)["puts"])


def test_one_line_tells_what_is_on(cluster: Any, client: Any, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, "daskref"), daskref.Client(cluster) as another:
        events = [event for _, event in another.get_events("daskref")]
    opened = [event for event in events if event["action"] == "open"]
    (told,) = [r.getMessage() for r in caplog.records if r.name == "daskref"]
    assert told == (
        "Large values go by reference: connector auto, threshold 1 MiB, "
        f"budget {opened[-1]['budget']}, hosts 127.0.0.1"
    )


SCRIPT = """
import json
import sys

import numpy
from distributed import Client


def total(x):
    assert type(x) is numpy.ndarray
    return float(x.sum())


def puts(dask_scheduler):
    plugin = dask_scheduler.plugins.get("daskref")
    return None if plugin is None else plugin._reports.puts


if __name__ == "__main__":
    x = numpy.ones(1 << 18)
    with Client(processes=False, dashboard_address=":0") as client:
        done = client.submit(total, x).result()
        print(json.dumps([sys.argv, done, client.run_on_scheduler(puts)]))
    sys.exit(3)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A program that knows nothing of daskref."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def run(command: list[Any], **env: str) -> list[Any]:
    """Run the program; return its arguments, its result, and how often it put."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 3, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
class TestUnmodifiedProgram:
    def test_the_variable(self, script: Path) -> None:
        variable = {"DASK_DISTRIBUTED__CLIENT__PRELOAD": '["daskref"]'}
        found = run([sys.executable, script, "--flag"], **variable)
        assert found == [[str(script), "--flag"], 262144.0, 1]

    def test_a_file(self, script: Path, tmp_path: Path) -> None:
        config = tmp_path / "config"
        config.mkdir()
        (config / "any.yaml").write_text("distributed: {client: {preload: [daskref]}}")
        found = run([sys.executable, script], DASK_CONFIG=str(config))
        assert found == [[str(script)], 262144.0, 1]

    def test_the_command_line(self, script: Path) -> None:
        argv = [sys.executable, "-m", "daskref.cli", "run", script, "--help", "--", "x"]
        found = run(argv)
        assert found == [[str(script), "--help", "--", "x"], 262144.0, 1]


@pytest.mark.slow
@pytest.mark.usefixtures("switched_on")
def test_clients_of_tasks_go_with_that_of_their_program() -> None:
    with distributed.Client(
        n_workers=1, threads_per_worker=2, dashboard_address=":0"
    ) as client:
        # in the worker, clients are switched on, too
        assert client.submit(dask.config.get, PRELOAD).result() == ["daskref"]
        assert client.submit(by_reference, pure=False).result()
        daskref.disable(client)
        gc.collect()
        wait_until(lambda: not client.run_on_scheduler(is_set_up))
        assert not client.submit(by_reference, pure=False).result()


def by_reference() -> bool:
    """Tell whether the client of this task passes values by reference."""
    with distributed.worker_client() as client:
        return getattr(client, "_daskref", None) is not None


def is_set_up(dask_scheduler: Any) -> bool:
    """Tell whether the scheduler has our plugin."""
    return "daskref" in dask_scheduler.plugins
