"""Client, scheduler and workers of other Pythons: the same outcomes as with plain Dask.

``make test-pythons`` makes the environments that this needs, and runs it.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.support import pythons
from tests.support.common import (
    Process,
    start,
    start_scheduler,
    start_worker,
    wait_until,
)
from tests.support.requirements import missing, require

pytestmark = pytest.mark.pythons

ENVIRONMENT = {"PYTHONPATH": str(pythons.ROOT)}


def python_of(version: str) -> str:
    if version not in pythons.interpreters():
        pytest.skip(f"no Python {version} on this machine")
    if (path := pythons.python(version)) is None:
        missing(f"no environment for Python {version}: `make test-pythons` makes it")
    return str(path)


def test_there_are_others() -> None:
    found = pythons.interpreters()
    require(len(found) > 1, "no other Python is found: DASKREF_PYTHONS may name one")


@pytest.mark.parametrize(
    ("server", "client"), list(itertools.permutations(pythons.VERSIONS, 2))
)
def test_any_two(server: str, client: str) -> None:
    """Scheduler and a worker of one version; client and other workers of another."""
    here, there = python_of(server), python_of(client)
    scheduler = start_scheduler(python=here, env=ENVIRONMENT)
    started = [scheduler]

    def start_one(python: str, name: str, *nanny: str) -> Process:
        args = (scheduler.address, "--name", name, *nanny)
        worker = start_worker(*args, python=python, env=ENVIRONMENT)
        started.append(worker)
        return worker

    try:
        start_one(here, "first", "--no-nanny")
        start_one(there, "second", "--no-nanny")
        process = start(
            there, "-m", "tests.support.pythons_client", scheduler.address,
            pattern=r"connected as (\S+)", env=ENVIRONMENT,
        )  # fmt: skip
        started.append(process)
        start_one(there, "late", "--nanny")
        assert process.popen.wait(60) == 0, "".join(process.lines)
        outcomes = outcomes_of(process)
        assert all(other.popen.poll() is None for other in started if other != process)
        assert outcomes["daskref"] == outcomes["plain"]
        assert outcomes["late"] == outcomes["plain"]
        assert isinstance(outcomes["plain"]["submit"], list)
        stats = outcomes["stats"]
        assert stats["puts"] > 10
        assert not stats["fallbacks"]
    finally:
        for each in reversed(started):
            each.stop()


def outcomes_of(process: Process) -> Any:
    """Return what the client has printed last."""
    start = "outcomes: "
    line = wait_until(
        lambda: next((x for x in process.lines if x.startswith(start)), None), start
    )
    return json.loads(line.removeprefix(start))
