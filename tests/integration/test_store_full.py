"""A tmpfs of 64 MiB, as containers have it, and values of 100 MiB.

Each case runs in a process with such a ``/dev/shm``: scheduler and workers are its
children, the client is in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

import daskref
from daskref.exceptions import ConnectorError
from tests.support.common import Process, processes, wait_until
from tests.support.namespaces import ENVIRONMENT, require_namespaces, run_case

pytestmark = pytest.mark.slow

#: Bytes: more than the whole file system.
BIG = 100 << 20
SIZE = "64m"
TIMEOUT = 60


@pytest.fixture(autouse=True)
def namespaces() -> None:
    require_namespaces()


# What runs in the process with the small file system.


def make(fill: float = 1.0) -> Any:
    return np.full(BIG // 8, fill)


def total(x: Any) -> float:
    assert type(x) is np.ndarray
    assert x.flags.writeable
    return float(x.sum())


class _Warnings(logging.Handler):
    """The warnings that daskref logs in this process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("daskref"):
            self.messages.append(record.getMessage())


def _logged(process: Process) -> list[str]:
    """Return the warnings that daskref logged in another process."""
    return [
        line
        for line in process.lines
        if "The store failed" in line
        or "goes to disk" in line
        or ("daskref" in line and "WARNING" in line)
    ]


@contextlib.contextmanager
def _cluster(spill: str, on_failure: str) -> Iterator[Any]:
    """Yield a client, its workers, and a function that tells what happened so far."""
    assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 << 20
    handler = _Warnings()
    logging.getLogger("daskref").addHandler(handler)
    env = {
        **ENVIRONMENT,
        "DASK_DASKREF__SPILL_DIRECTORY": spill,
        "DASK_DASKREF__ON_FAILURE": on_failure,
    }
    # of the large graph, which is then what travels
    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
    with (
        dask.config.set({"daskref.on-failure": on_failure}),
        processes(2, env=env) as (scheduler, workers),
    ):
        with daskref.Client(scheduler.address) as client:

            def happened() -> dict[str, Any]:
                stats = daskref.stats(client)
                return {
                    "fallbacks": stats["fallbacks"],
                    "puts": stats["puts"],
                    "client": handler.messages,
                    "workers": [_logged(worker) for worker in workers],
                }

            yield client, list(client.scheduler_info()["workers"]), happened
        for process in [*workers, scheduler]:
            assert process.popen.poll() is None, process.popen.returncode
    assert os.listdir("/dev/shm") == []
    for process in [*workers, scheduler]:
        assert process.popen.returncode == 0


def send(spill: str) -> Any:
    """The client's values: submit, map, scatter."""
    with _cluster(spill, "inband") as (client, _, happened):
        said = []
        x = make()
        assert client.submit(total, x).result(TIMEOUT) == x.size
        said.append(happened())
        y = make(2.0)
        assert client.gather(client.map(total, [y]))[0] == 2 * y.size
        said.append(happened())
        scattered = client.scatter(make(3.0))
        (holders,) = client.who_has(scattered).values()
        seen = client.submit(total, scattered, workers=holders)
        assert seen.result(TIMEOUT) == 3 * y.size
        said.append(happened())
        # what fits still goes by reference
        small = np.ones(1 << 20)
        assert client.submit(total, small).result(TIMEOUT) == small.size
        said.append(happened())
        return said


def fetch(spill: str) -> Any:
    """The workers' values: to the client, to another worker."""
    with _cluster(spill, "inband") as (client, (first, second), happened):
        made = client.submit(make, 2.0, workers=[first])
        result = made.result(TIMEOUT)
        assert type(result) is np.ndarray
        assert result.sum() == 2 * result.size
        result += 1
        said = [happened()]
        other = client.submit(make, 3.0, workers=[first])
        moved = client.submit(total, other, workers=[second])
        assert moved.result(TIMEOUT) == 3 * result.size
        said.append(happened())
        return said


def fail(spill: str) -> Any:
    """Every path, with ``daskref.on-failure: raise``."""
    with _cluster(spill, "raise") as (client, (first, second), _):
        errors = {}

        def attempt(name: str, call: Any) -> None:
            try:
                call()
            except ConnectorError as exc:
                errors[name] = str(exc)

        x = make()
        attempt("submit", lambda: client.submit(total, x))
        attempt("submit in a list", lambda: client.submit(len, [x, 1]))
        attempt("map", lambda: client.map(total, [x]))
        attempt("delayed", lambda: dask.delayed(total)(x).compute())
        attempt("scatter", lambda: client.scatter(x))
        made = client.submit(make, workers=[first])
        attempt("result", lambda: made.result(TIMEOUT))
        attempt("gather", lambda: client.gather([made]))
        moved = client.submit(total, made, workers=[second])
        attempt("worker to worker", lambda: moved.result(TIMEOUT))
        # what stands for the value is no replica: Dask might delete the real one
        wait_until(lambda: client.who_has([made])[made.key] == (first,))
        # and all is well afterwards
        again = client.submit(total, made, workers=[first], pure=False)
        assert again.result(TIMEOUT) == x.size
        small = np.ones(1 << 20)
        assert client.submit(total, small).result(TIMEOUT) == small.size
        return errors


def churn(spill: str) -> Any:
    """Many values that fit one by one, not together; some are written to."""
    nbytes = 20 << 20
    with _cluster(spill, "inband") as (client, (first, second), happened):

        def change(x: Any) -> float:
            x += 1  # the task's own pages
            return float(x[0])

        held, bytes_held = [], 0
        for i in range(8):
            x = np.full(nbytes // 8, float(i))
            held.append(client.scatter(x))
            bytes_held += nbytes
            futures = [
                client.submit(change, held[-1], workers=[worker], pure=False)
                for worker in (first, second)
            ]
            assert client.gather(futures) == [i + 1, i + 1]
        for i, value in enumerate(client.gather(held)):
            assert value[0] == value[-1] == i
        assert daskref.stats(client)["bytes"] >= bytes_held
        del held, x, futures, value
        wait_until(lambda: not daskref.stats(client)["objects"], "all evicted")
        return [happened()]


# What is tested.


def _directory(tmp_path: Path, usable: bool) -> Path:
    if usable:
        return tmp_path
    (tmp_path / "file").touch()
    return tmp_path / "file" / "below"


class TestSpill:
    @pytest.mark.parametrize("case", ["send", "fetch", "churn"])
    def test_what_does_not_fit_goes_to_disk(self, case: str, tmp_path: Path) -> None:
        for said in run_case(
            "tests.integration.test_store_full", case, str(tmp_path), size=SIZE
        ):
            assert said["fallbacks"] >= 1
            assert said["puts"] >= 1
            # whoever overflows says it once
            messages = [said["client"], *said["workers"]]
            assert max(map(len, messages)) == 1
            assert all("goes to disk" in text for said in messages for text in said)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spill", ["on a file", "on the full tmpfs"])
class TestNowhereToSpill:
    def _spill(self, spill: str, tmp_path: Path) -> str:
        if spill == "on the full tmpfs":
            return "/dev/shm"
        (tmp_path / "file").touch()
        return str(tmp_path / "file" / "below")

    def test_the_clients_values_arrive(self, spill: str, tmp_path: Path) -> None:
        first, second, third, last = run_case(
            "tests.integration.test_store_full",
            "send",
            self._spill(spill, tmp_path),
            size=SIZE,
        )
        assert first["fallbacks"] == 1
        assert second["fallbacks"] == 2
        assert third["fallbacks"] == 3
        assert last["fallbacks"] == 3
        assert last["puts"] == 1
        assert last["workers"] == [[], []]
        assert len(last["client"]) == 1
        assert "in-band" in last["client"][0]

    def test_the_workers_values_arrive(self, spill: str, tmp_path: Path) -> None:
        first, last = run_case(
            "tests.integration.test_store_full",
            "fetch",
            self._spill(spill, tmp_path),
            size=SIZE,
        )
        assert first["fallbacks"] == 1
        assert last["fallbacks"] == 2
        assert last["client"] == []
        # each worker says it once
        assert sorted(map(len, last["workers"])) == [0, 1]

    def test_or_an_error_says_what_to_do(self, spill: str, tmp_path: Path) -> None:
        errors = run_case(
            "tests.integration.test_store_full",
            "fail",
            self._spill(spill, tmp_path),
            size=SIZE,
        )
        assert list(errors) == [
            "submit", "submit in a list", "map", "delayed", "scatter", "result",
            "gather", "worker to worker",
        ]  # fmt: skip
        for text in errors.values():
            assert "SharedMemoryConnector /dev/shm/daskref-" in text
            assert any(str(BIG + more) in text for more in range(2048))  # its header
            assert "B free in /dev/shm" in text
            assert "daskref.spill-directory" in text
            assert "daskref.shm.budget" in text
