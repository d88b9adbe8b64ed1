"""The scheduler never sees bulk data, nor the modules that it would need for them.

Collections are left out where modules are missing: their graphs name functions of NumPy
and pandas, in plain Dask as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pandas as pd
import pytest

import daskref
from tests.support.common import (
    Process,
    large,
    processes,
    start_scheduler,
    start_worker,
    status_kib,
)

pytestmark = pytest.mark.slow

GIB = 1 << 30
#: What the scheduler's memory may move by, in KiB.
ALLOWED = 5 << 10


def restart_high_water_mark(pid: int) -> None:
    """Let ``VmHWM`` of a process begin anew, at what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


#: What is sent, far more than what is allowed; a gibibyte in `make stress`.
SIZES = [GIB // 4, pytest.param(GIB, marks=pytest.mark.stress)]


@pytest.mark.parametrize("nbytes", SIZES)
def test_submitting_much_leaves_no_trace(nbytes: int) -> None:
    def total(x: Any) -> float:
        return float(x.sum())

    with processes(2) as (scheduler, _), daskref.Client(scheduler.address) as client:
        pid = scheduler.pid
        first, second = client.scheduler_info()["workers"]

        def everything(x: Any, fill: float) -> None:
            assert client.submit(total, x).result() == fill * x.size
            made = client.submit(lambda x: x * 2, client.scatter(x), workers=[first])
            moved = client.submit(total, made, workers=[second])
            assert moved.result() == 2 * fill * x.size
            assert made.result()[-1] == 2 * fill

        everything(large(3.0), 3)  # loads what it needs, allocates its buffers
        big = np.full(nbytes // 8, 1.0)
        restart_high_water_mark(pid)
        before, peak = status_kib(pid, "VmRSS"), status_kib(pid, "VmHWM")
        kept = daskref.stats(client)["bytes_kept"]
        # a large-graph warning would be an error here
        everything(big, 1)
        assert status_kib(pid, "VmRSS") - before < ALLOWED
        assert status_kib(pid, "VmHWM") - peak < ALLOWED
        stats = daskref.stats(client)
        assert stats["bytes_kept"] - kept >= 3 * nbytes
        assert not stats["fallbacks"]


@pytest.fixture
def without_libraries(tmp_path: Path) -> Iterator[Process]:
    """A scheduler where NumPy, pandas and Arrow cannot be imported."""
    for name in ("numpy", "pandas", "pyarrow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            f'raise ImportError("there is no {name} here")\n'
        )
    scheduler = start_scheduler(env={"PYTHONPATH": str(tmp_path)})
    yield scheduler
    scheduler.stop()


def test_a_scheduler_without_numpy_and_pandas(without_libraries: Process) -> None:
    # Functions that go by value: this module could not be imported there.
    def describe(*args: Any, **kwargs: Any) -> list[tuple[str, int]]:
        return [(type(x).__name__, len(x)) for x in (*args, *kwargs.values())]

    def same(x: Any) -> Any:
        return x.copy()

    def without(name: str) -> bool:
        try:
            __import__(name)
        except ImportError:
            return True
        return False

    array = large()
    frame = pd.DataFrame(
        {"n": np.arange(200_000), "s": [f"row {i}" for i in range(200_000)]}
    )
    address = without_libraries.address
    workers = [start_worker(address) for _ in range(2)]
    try:
        with daskref.Client(address) as client:
            for name in ("numpy", "pandas", "pyarrow"):
                assert client.run_on_scheduler(without, name)
            seen = [("ndarray", len(array)), ("DataFrame", len(frame))]
            assert client.submit(describe, array, frame=frame).result() == seen
            assert client.submit(describe, [array], {"df": frame}).result() == [
                ("list", 1), ("dict", 1),
            ]  # fmt: skip
            scattered = client.scatter([array, frame])
            assert client.submit(describe, *scattered).result() == seen
            assert [type(x) for x in client.gather(scattered)] == [
                np.ndarray, pd.DataFrame,
            ]  # fmt: skip
            described = client.map(describe, [array, frame], df=frame)
            assert client.gather(described) == [[item, seen[1]] for item in seen]
            first, second = client.scheduler_info()["workers"]
            made = client.map(same, scattered, workers=[first])
            moved = client.submit(describe, *made, workers=[second])
            assert moved.result() == seen
            values = client.gather(made)
            np.testing.assert_array_equal(values[0], array)
            pd.testing.assert_frame_equal(values[1], frame)
            assert dask.delayed(describe)(array, frame).compute() == seen
            assert client.run_on_scheduler(without, "numpy")
    finally:
        for worker in workers:
            worker.stop()


def test_preloaded_on_scheduler_and_worker() -> None:
    scheduler = start_scheduler("--preload", "daskref")
    workers: list[Process] = []
    try:
        for _ in range(2):
            workers.append(
                start_worker(scheduler.address, "--no-nanny", "--preload", "daskref")
            )

        def total(x: Any) -> float:
            return float(x.sum())

        # a client that knows nothing of it gets plain values …
        with distributed.Client(scheduler.address) as plain:
            assert plain.submit(lambda: b"x" * (4 << 20)).result() == b"x" * (4 << 20)
        # … and one with daskref finds the session that the scheduler made.
        with daskref.Client(scheduler.address) as client:
            x = large()
            assert client.submit(total, x).result() == x.sum()
            assert client.submit(total, client.scatter(x)).result() == x.sum()
            first, second = client.scheduler_info()["workers"]
            made = client.submit(lambda x: x + 1, x, workers=[first])
            assert client.submit(total, made, workers=[second]).result() == (
                2 * x.sum()
            )
            assert made.result()[0] == 2
            assert daskref.stats(client)["puts"] == 2
    finally:
        for process in [*workers, scheduler]:
            process.stop()


def test_preloaded_in_a_nanny_process() -> None:
    scheduler = start_scheduler("--preload", "daskref")
    worker = None
    try:
        worker = start_worker(scheduler.address, "--nanny", "--preload", "daskref")
        with daskref.Client(scheduler.address) as client:
            client.wait_for_workers(1, timeout=30)
            x = large()
            assert client.submit(lambda x: float(x.sum()), x).result() == x.sum()
            client.restart()
            assert client.submit(lambda x: float(x[1]), x).result() == 1
            assert daskref.stats(client)["puts"] >= 1
    finally:
        for process in [*([worker] if worker else []), scheduler]:
            process.stop()
