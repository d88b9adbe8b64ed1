"""Processes that cannot see the session directory: jobs finish, bulk goes in-band.

Another host or container is played by a mount namespace with its own ``/dev/shm``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import distributed
import numpy as np
import pandas as pd
import pytest
from distributed import get_worker, wait

import daskref
from tests.support.common import (
    DASK,
    Process,
    large,
    start,
    start_scheduler,
    start_worker,
    wait_until,
)
from tests.support.namespaces import ENVIRONMENT, own_shm, require_namespaces

pytestmark = pytest.mark.slow

TIMEOUT = 30
SUM = 262144.0  # of large()


@pytest.fixture(autouse=True)
def namespaces() -> None:
    require_namespaces()


def start_apart(scheduler: str, *args: str) -> Process:
    """Start a worker with a ``/dev/shm`` of its own."""
    return start_worker(scheduler, *args, env=ENVIRONMENT, prefix=own_shm())


def left_apart(process: Process) -> list[str]:
    """Return what is in the ``/dev/shm`` of a running process."""
    return os.listdir(f"/proc/{process.pid}/root/dev/shm")


def warned(process: Process) -> list[str]:
    """Return the warnings of daskref in a process's log."""
    output = process.lines
    return [line for line in output if "cannot see the cluster's store" in line]


class Cluster:
    """Scheduler and workers, some of them apart."""

    def __init__(self) -> None:
        self.scheduler = start_scheduler(env=ENVIRONMENT)
        self.workers: list[Process] = []
        self.apart: list[Process] = []

    @property
    def address(self) -> str:
        return self.scheduler.address

    def add(self, *args: str) -> Process:
        worker = start_worker(self.address, *args, env=ENVIRONMENT)
        self.workers.append(worker)
        return worker

    def add_apart(self, *args: str) -> Process:
        worker = start_apart(self.address, *args)
        self.apart.append(worker)
        return worker

    def stop(self) -> None:
        for process in [*self.workers, *self.apart, self.scheduler]:
            process.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def mixed_cluster() -> Iterator[Cluster]:
    """A worker that sees the store, and one that does not."""
    require_namespaces()
    cluster = Cluster()
    cluster.add("--no-nanny", "--name", "here")
    cluster.add_apart("--no-nanny", "--name", "apart")
    yield cluster
    cluster.stop()


@pytest.fixture
def mixed(mixed_cluster: Cluster) -> Iterator[tuple[Any, str, str]]:
    """A client of theirs, and their names."""
    (here,), (apart,) = mixed_cluster.workers, mixed_cluster.apart
    with daskref.Client(mixed_cluster.address, connector="shm://") as client:
        yield client, "here", "apart"
        assert left_apart(apart) == []
        assert len(warned(apart)) == 1
        assert not warned(here)
        gc.collect()
        wait_until(lambda: not daskref.stats(client)["objects"], "everything freed")


def total(x: Any) -> float:
    assert type(x) is np.ndarray
    assert x.flags.writeable
    return float(x.sum())


def make(fill: float = 1.0) -> Any:
    return large(fill)


class Accumulator:
    """An actor."""

    state = None

    def add(self, x: Any) -> Any:
        assert type(x) is np.ndarray
        self.state = x if self.state is None else self.state + x
        return self.state


class TestWorker:
    def test_submit_and_map(self, mixed: tuple[Any, str, str]) -> None:
        client, here, apart = mixed
        x, y = large(1), large(2)
        for worker in (apart, here, apart):
            futures = [
                client.submit(total, x, workers=[worker], pure=False),
                *client.map(total, [x, y], workers=[worker], pure=False),
                client.submit(
                    lambda v, y: v[0].sum() + v[1]["deep"].sum() + y.sum(),
                    [x, {"deep": y}],
                    y=y,
                    workers=[worker],
                    pure=False,
                ),
                client.submit(lambda: float(x.sum()), workers=[worker], pure=False),
            ]
            assert client.gather(futures) == [SUM, SUM, 2 * SUM, 5 * SUM, SUM]
        assert daskref.stats(client)["puts"] >= 2

    def test_scatter(self, mixed: tuple[Any, str, str]) -> None:
        client, here, apart = mixed
        for options in (
            {"workers": [apart]}, {"workers": [here]}, {"broadcast": True}, {},
            {"hash": False, "direct": True},
        ):  # fmt: skip
            x = large(3)
            future = client.scatter(x, **options)
            for worker in (apart, here):
                seen = client.submit(total, future, workers=[worker], pure=False)
                assert seen.result(TIMEOUT) == 3 * SUM
            np.testing.assert_array_equal(future.result(TIMEOUT), x)

    def test_worker_to_worker(self, mixed: tuple[Any, str, str]) -> None:
        client, here, apart = mixed
        for source, target in ((here, apart), (apart, here)):
            made = client.submit(make, 2.0, workers=[source], pure=False)
            for _ in range(2):
                seen = client.submit(total, made, workers=[target], pure=False)
                assert seen.result(TIMEOUT) == 2 * SUM
            # and back again, after it became a reference or was copied
            seen = client.submit(total, made, workers=[source], pure=False)
            assert seen.result(TIMEOUT) == 2 * SUM

    @pytest.mark.parametrize("direct", [False, True])
    def test_gather(self, mixed: tuple[Any, str, str], direct: bool) -> None:
        client, here, apart = mixed
        made = [client.submit(make, fill, workers=[apart]) for fill in (2.0, 3.0)]
        made.append(client.submit(make, 4.0, workers=[here]))
        values = client.gather(made, direct=direct)
        assert [type(value) for value in values] == [np.ndarray] * 3
        assert [value.sum() for value in values] == [2 * SUM, 3 * SUM, 4 * SUM]

    def test_a_reference_comes_back_as_it_is(self, mixed: tuple[Any, str, str]) -> None:
        client, here, apart = mixed

        def same(x: Any) -> Any:
            return x

        first = client.submit(same, large(), workers=[apart])
        second = client.submit(same, first, workers=[here])
        third = client.submit(same, second, workers=[apart])
        assert total(third.result(TIMEOUT)) == SUM

    @pytest.mark.parametrize("where", ["here", "apart"])
    def test_actors(self, mixed: tuple[Any, str, str], where: str) -> None:
        client, here, apart = mixed
        actor = client.submit(Accumulator, actor=True, workers=[where]).result(TIMEOUT)
        x = large()
        assert actor.add(x).result(TIMEOUT)[0] == 1
        assert type(actor.state) is np.ndarray

        def call(actor: Any, x: Any) -> float:
            return float(actor.add(x).result()[0])

        for count, worker in enumerate((here, apart), 2):
            seen = client.submit(call, actor, x, workers=[worker], pure=False)
            assert seen.result(TIMEOUT) == count
        del actor

    def test_run(self, mixed: tuple[Any, str, str]) -> None:
        client, _, _ = mixed
        results = client.run(make)
        assert [total(x) for x in results.values()] == [SUM, SUM]

    def test_tasks_that_submit(self, mixed: tuple[Any, str, str]) -> None:
        client, here, apart = mixed

        def task() -> list[float]:
            from distributed import worker_client

            with worker_client() as inner:
                x = large()
                scattered = inner.scatter(x)
                futures = [
                    inner.submit(total, value, workers=[worker], pure=False)
                    for value in (x, scattered)
                    for worker in ("here", "apart")
                ]
                made = inner.submit(make, workers=["here"], pure=False)
                return [*inner.gather(futures), total(made.result())]

        for worker in (apart, here):
            future = client.submit(task, workers=[worker], pure=False)
            assert future.result(TIMEOUT) == [SUM] * 5

    def test_lazy(self, mixed: tuple[Any, str, str]) -> None:
        client, here, apart = mixed
        for worker in (here, apart):
            future = client.submit(
                lambda p: (isinstance(p, daskref.Proxy), float(p.sum())),
                daskref.lazy(large()),
                workers=[worker],
                pure=False,
            )
            assert future.result(TIMEOUT) == (True, SUM)

    @pytest.mark.usefixtures("mixed")
    def test_collections(self) -> None:
        x = np.arange(1 << 20, dtype=float)
        array = da.from_array(x, chunks=1 << 18)
        assert array.sum().compute() == x.sum()
        np.testing.assert_array_equal((array + array[::-1]).compute(), x + x[::-1])
        frame = pd.DataFrame({"n": np.arange(400_000), "k": np.arange(400_000) % 7})
        ddf = dd.from_pandas(frame, npartitions=4)
        assert ddf.n.sum().compute() == frame.n.sum()
        expected = frame.groupby("k").n.sum().to_dict()
        assert ddf.groupby("k").n.sum().compute().to_dict() == expected
        bag = db.from_sequence([large(i) for i in range(4)], npartitions=4)
        assert sum(bag.map(total).compute()) == 6 * SUM
        persisted = array.persist()
        wait(persisted)
        assert persisted.mean().compute() == x.mean()

    def test_results_on_completion(self, cluster: Cluster) -> None:
        cluster.add("--no-nanny", "--name", "here")
        cluster.add_apart("--no-nanny", "--name", "apart")
        with (
            dask.config.set({"daskref.results": "on-completion"}),
            daskref.Client(cluster.address, connector="shm://") as client,
        ):
            for source, target in (("here", "apart"), ("apart", "here")):
                made = client.submit(make, workers=[source], pure=False)
                seen = client.submit(total, made, workers=[target])
                assert seen.result(TIMEOUT) == SUM
                assert total(made.result(TIMEOUT)) == SUM


class TestComingAndGoing:
    def test_only_workers_apart(self, cluster: Cluster) -> None:
        apart = [cluster.add_apart() for _ in range(2)]
        with daskref.Client(cluster.address, connector="shm://") as client:
            x = large()
            assert client.submit(total, x).result(TIMEOUT) == SUM
            scattered = client.scatter(x, broadcast=True)
            first, second = client.scheduler_info()["workers"]
            for worker in (first, second):
                seen = client.submit(total, scattered, workers=[worker], pure=False)
                assert seen.result(TIMEOUT) == SUM
            made = client.submit(make, workers=[first])
            seen = client.submit(total, made, workers=[second])
            assert seen.result(TIMEOUT) == SUM
            assert total(made.result(TIMEOUT)) == SUM
            assert [left_apart(worker) for worker in apart] == [[], []]
            assert [len(warned(worker)) for worker in apart] == [1, 1]

    def test_joining_late(self, cluster: Cluster) -> None:
        here = cluster.add("--no-nanny", "--name", "here")
        with daskref.Client(cluster.address, connector="shm://") as client:
            x = large()
            scattered = client.scatter(x)
            made = client.submit(make, 2.0)
            assert client.submit(total, x).result(TIMEOUT) == SUM
            assert total(made.result(TIMEOUT)) == 2 * SUM  # stored by now
            pending = [
                client.submit(total, value, workers=["apart"], pure=False)
                for value in (x, scattered, made)
            ]
            apart = cluster.add_apart("--no-nanny", "--name", "apart")
            assert client.gather(pending) == [SUM, SUM, 2 * SUM]
            # the one that has the data leaves: the other computes what is needed
            here.stop()
            moved = client.submit(total, scattered, pure=False)
            assert moved.result(TIMEOUT) == SUM
            assert total(made.result(TIMEOUT)) == 2 * SUM
            assert left_apart(apart) == []
            # and a new one comes
            cluster.add("--no-nanny", "--name", "new")
            seen = [
                client.submit(total, value, workers=["new"], pure=False)
                for value in (x, scattered, made)
            ]
            assert client.gather(seen) == [SUM, SUM, 2 * SUM]

    @pytest.mark.parametrize("how", ["asked", "killed"])
    def test_leaving(self, cluster: Cluster, how: str) -> None:
        cluster.add("--no-nanny", "--name", "here")
        apart = cluster.add_apart("--no-nanny", "--name", "apart")
        with daskref.Client(cluster.address, connector="shm://") as client:
            x = large()
            scattered = client.scatter(x, workers=["apart"])
            made = client.submit(make, 2.0, workers=["apart"], allow_other_workers=True)
            wait(made)
            if how == "asked":
                apart.stop()
            else:
                apart.kill()
            wait_until(lambda: len(client.scheduler_info()["workers"]) == 1)
            assert client.submit(total, scattered).result(TIMEOUT) == SUM
            assert client.submit(total, made).result(TIMEOUT) == 2 * SUM
            assert total(made.result(TIMEOUT)) == 2 * SUM

    def test_all_who_see_the_store_leave_while_a_value_is_fetched(
        self, cluster: Cluster
    ) -> None:
        here = cluster.add("--no-nanny", "--name", "here")
        cluster.add_apart("--no-nanny", "--name", "apart")
        with daskref.Client(cluster.address, connector="shm://") as client:
            x = large()
            wait(client.submit(total, x, workers=["here"]))
            # alive for the scheduler, but it will not answer
            os.kill(here.pid, signal.SIGSTOP)
            try:
                future = client.submit(total, x, workers=["apart"], pure=False)
                assert not future.done()
            finally:
                here.kill()
            assert future.result(TIMEOUT) == SUM

    def test_with_a_nanny_and_restarts(self, cluster: Cluster) -> None:
        cluster.add_apart("--nanny", "--name", "apart")
        with daskref.Client(cluster.address, connector="shm://") as client:
            client.wait_for_workers(1, timeout=TIMEOUT)
            x = large()
            assert client.submit(total, x).result(TIMEOUT) == SUM
            client.restart()
            assert client.submit(total, x).result(TIMEOUT) == SUM
            assert total(client.submit(make).result(TIMEOUT)) == SUM

    def test_a_scheduler_apart(self) -> None:
        scheduler = start(
            *own_shm(), *DASK, "scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard",
            pattern=r"Scheduler at:\s+(tcp://\S+)", env=ENVIRONMENT,
        )  # fmt: skip
        workers = []
        handler = _Warnings()
        logging.getLogger("daskref").addHandler(handler)
        try:
            for _ in range(2):
                workers.append(start_worker(scheduler.address, env=ENVIRONMENT))
            # nobody sees the store but the scheduler
            with daskref.Client(scheduler.address, connector="shm://") as client:
                assert len(handler.messages) == 1
                everything(client)
                assert [len(warned(worker)) for worker in workers] == [1, 1]
        finally:
            logging.getLogger("daskref").removeHandler(handler)
            for process in [*workers, scheduler]:
                process.stop()


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def everything(client: Any, directs: tuple[bool, ...] = (False, True)) -> None:
    """All paths, from a client and two workers of any kind."""
    first, second = client.scheduler_info()["workers"]
    x, frame = large(), pd.DataFrame({"n": np.arange(400_000)})
    assert client.submit(total, x).result(TIMEOUT) == SUM
    lengths = client.map(lambda i, df: len(df) + i, range(3), df=frame)
    assert client.gather(lengths) == [400_000, 400_001, 400_002]
    scattered = client.scatter([x, frame])
    assert client.submit(total, scattered[0]).result(TIMEOUT) == SUM
    pd.testing.assert_frame_equal(client.gather(scattered)[1], frame)
    for direct in directs:
        made = client.submit(make, 2.0, workers=[first], pure=False)
        moved = client.submit(total, made, workers=[second])
        assert moved.result(TIMEOUT) == 2 * SUM
        result = client.gather(made, direct=direct)
        assert type(result) is np.ndarray
        assert result.sum() == 2 * SUM
        result += 1
    actor = client.submit(Accumulator, actor=True).result(TIMEOUT)
    assert actor.add(x).result(TIMEOUT)[0] == 1
    assert actor.state.sum() == SUM
    array = da.from_array(np.arange(1 << 20, dtype=float), chunks=1 << 18)
    assert array.sum().compute() == float(array.size * (array.size - 1) / 2)
    assert dask.delayed(total)(x).compute() == SUM
    assert len(dd.from_pandas(frame, npartitions=2).compute()) == 400_000
    assert [len(x) for x in client.run(make).values()] == [len(x)] * 2
    del actor


def client_apart(address: str) -> None:
    """Run in a process apart: a client that does everything, then tells."""
    handler = _Warnings()
    logging.getLogger("daskref").addHandler(handler)
    # Dask's own, of large graphs: they do travel here
    warnings.simplefilter("ignore")
    with daskref.Client(address, connector="shm://") as client:
        everything(client)
        stats = daskref.stats(client)
        published = client.get_dataset("theirs")
        got = [total(x) for x in client.gather(published)]
        ours = client.submit(make, 5.0)
        client.publish_dataset(ours=ours)
        wait(ours)
        print("told", json.dumps([stats, handler.messages, got]), flush=True)
        assert os.listdir("/dev/shm") == []


@contextlib.contextmanager
def _client_apart(address: str) -> Iterator[Process]:
    process = start(
        *own_shm(), sys.executable, "-c",
        "from tests.integration.test_store_unreachable import *; "
        f"client_apart({address!r})",
        pattern="told (.*)", env=ENVIRONMENT,
    )  # fmt: skip
    try:
        yield process
        assert process.popen.wait(TIMEOUT) == 0
    finally:
        process.stop()


class TestClient:
    @pytest.mark.parametrize("workers", ["here", "mixed"])
    def test_a_client_apart(self, cluster: Cluster, workers: str) -> None:
        cluster.add()
        if workers == "mixed":
            cluster.add_apart()
        else:
            cluster.add()
        with daskref.Client(cluster.address, connector="shm://") as client:
            x = large(7)
            theirs = [client.scatter(x), client.submit(make, 4.0)]
            wait(theirs)
            client.publish_dataset(theirs=theirs)
            with _client_apart(cluster.address) as process:
                stats, messages, got = json.loads(process.address)
                assert got == [7 * SUM, 4 * SUM]
                assert len(messages) == 1
                assert re.search("cannot see the cluster's store", messages[0])
                assert not stats["fallbacks"]
            ours = client.get_dataset("ours")
            assert total(ours.result(TIMEOUT)) == 5 * SUM
            client.unpublish_dataset("ours")
            client.unpublish_dataset("theirs")

    def test_a_client_apart_comes_first(self, cluster: Cluster) -> None:
        cluster.add()
        cluster.add()
        with distributed.Client(cluster.address) as plain:
            theirs = [plain.scatter(large(7)), plain.submit(make, 4.0)]
            plain.publish_dataset(theirs=theirs)
            with _client_apart(cluster.address):
                pass
        with daskref.Client(cluster.address, connector="shm://") as client:
            assert client.submit(total, large()).result(TIMEOUT) == SUM
            assert daskref.stats(client)["puts"] >= 1


def test_what_is_fetched_in_band_is_freed(mixed: tuple[Any, str, str]) -> None:
    client, here, apart = mixed
    x = large()
    made = client.submit(make, 2.0, workers=[here])
    seen = [client.submit(total, v, workers=[apart]) for v in (x, made)]
    assert client.gather(seen) == [SUM, 2 * SUM]
    del x, made, seen
    wait_until(lambda: not daskref.stats(client)["objects"], "all evicted")


def test_the_worker_knows(mixed: tuple[Any, str, str]) -> None:
    client, here, apart = mixed

    def reachable() -> bool:
        return bool(get_worker().plugins["daskref"].session.reachable)

    seen = [client.submit(reachable, workers=[w], pure=False) for w in (here, apart)]
    assert client.gather(seen) == [True, False]
