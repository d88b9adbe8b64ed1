"""``dask scheduler --preload daskref`` and ``dask worker --preload daskref``."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import Any

import distributed
import numpy as np
import pytest

import daskref
from tests.support.common import (
    large,
    session_of,
    start_scheduler,
    start_worker,
    wait_until,
)

SUM = 262144.0


def _plugin(dask_scheduler: Any) -> Any:
    plugin = dask_scheduler.plugins.get("daskref")
    return None if plugin is None else plugin.session.info.id


def _worker_session(dask_worker: Any) -> Any:
    return dask_worker.plugins["daskref"].session.info.id


@pytest.mark.slow
def test_a_cluster_that_was_started_with_it() -> None:
    scheduler = start_scheduler("--preload", "daskref")
    worker = start_worker(scheduler.address, "--no-nanny", "--preload", "daskref")
    try:
        with distributed.Client(scheduler.address) as plain:
            plain.wait_for_workers(1, timeout=20)
            session = plain.run_on_scheduler(_plugin)
            assert session is not None
            assert set(plain.run(_worker_session).values()) == {session}
            # plain clients do not notice
            assert plain.submit(np.sum, large()).result() == SUM
            with daskref.Client(scheduler.address, set_as_default=False) as client:
                assert session_of(client).info.id == session
                assert client.submit(np.sum, large()).result() == SUM
                assert daskref.stats(client)["puts"] == 1
            assert plain.run_on_scheduler(_plugin) == session
    finally:
        worker.stop()
        scheduler.stop()


@pytest.mark.slow
def test_bad_settings_do_not_keep_a_scheduler_from_starting() -> None:
    # Dask logs what a preload raises, and goes on
    scheduler = start_scheduler(
        "--preload", "daskref", env={"DASK_DASKREF__THRESHOLD": "abc"}
    )
    try:
        output = scheduler.lines
        wait_until(lambda: any("daskref.threshold='abc'" in line for line in output))
        with distributed.Client(scheduler.address) as plain:
            assert plain.run_on_scheduler(_plugin) is None
    finally:
        scheduler.stop()


@pytest.mark.slow
def test_the_settings_of_the_scheduler_hold() -> None:
    scheduler = start_scheduler(
        "--preload", "daskref", env={"DASK_DASKREF__RESULTS": "on-completion"}
    )
    try:
        with daskref.Client(scheduler.address) as client:
            settings = session_of(client).info.settings
            assert settings.results == "on-completion"
    finally:
        scheduler.stop()


@pytest.mark.slow
def test_nothing_is_left_of_a_scheduler_that_nobody_used(tmp_path: Any) -> None:
    scheduler = start_scheduler(
        "--preload", "daskref", env={"DASK_DASKREF__SHM__ROOT": str(tmp_path)}
    )
    try:
        wait_until(lambda: len(os.listdir(tmp_path)) == 1)
    finally:
        scheduler.stop()
    assert not os.listdir(tmp_path)


def test_dask_finds_the_function() -> None:
    # --preload imports the module and asks for this name
    assert inspect.iscoroutinefunction(importlib.import_module("daskref").dask_setup)
