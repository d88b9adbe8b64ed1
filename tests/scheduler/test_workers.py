"""Workers that do not answer: nobody waits for them for long."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from daskref.scheduler.asking import requests
from tests.support.common import large, wait_until
from tests.support.tasks import SEEN, describe


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster of two workers, whose scheduler waits for hardly any answer."""
    monkeypatch.setattr(requests, "PATIENCE", 0.5)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as made:
        yield made


@pytest.fixture
def stopped(made: LocalCluster) -> Iterator[tuple[str, int]]:
    """Address and process of a worker that is stopped."""
    with distributed.Client(made, set_as_default=False) as plain:
        address, pid = next(iter(plain.run(os.getpid).items()))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield address, pid
    finally:
        os.kill(pid, signal.SIGCONT)


def is_set_up(dask_worker: Any) -> bool:
    return "daskref" in dask_worker.plugins


@pytest.mark.slow
def test_a_client_connects_and_the_worker_follows(
    made: LocalCluster, stopped: tuple[str, int]
) -> None:
    address, pid = stopped
    (other,) = made.scheduler.workers.keys() - {address}
    with daskref.Client(made) as client:
        x = large()
        assert client.submit(describe, x, workers=[other]).result() == [SEEN]
        future = client.submit(describe, x, workers=[address], pure=False)
        assert daskref.stats(client)["puts"] == 1
        os.kill(pid, signal.SIGCONT)
        assert future.result() == [SEEN]
        wait_until(lambda: all(client.run(is_set_up).values()), "the plugin there")


@pytest.mark.slow
def test_a_client_is_switched_off_and_the_worker_follows(made: LocalCluster) -> None:
    with distributed.Client(made) as client:
        daskref.enable(client)
        pid = next(iter(client.run(os.getpid).values()))
        os.kill(pid, signal.SIGSTOP)
        try:
            daskref.disable(client)
            assert "daskref" not in made.scheduler.plugins
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not any(client.run(is_set_up).values()), "the plugins gone")


@pytest.mark.slow
def test_a_task_that_holds_the_gil(made: LocalCluster, tmp_path: Path) -> None:
    released = tmp_path / "released"
    with distributed.Client(made, set_as_default=False) as plain:
        held = plain.submit(hold_gil, str(released))
        wait_until((tmp_path / "held").exists, "the task to run")
        with daskref.Client(made) as client:
            released.touch()
            x = np.arange(300_000.0)
            sums = client.map(np.sum, [x, x + 1])
            assert client.gather(sums) == [x.sum(), x.sum() + x.size]
        held.result()


def hold_gil(released: str) -> None:
    """Let no other thread of this process run until a file is there."""
    libc = ctypes.PyDLL(None)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        Path(released).with_name("held").touch()
        for _ in range(6000):
            if not libc.access(os.fsencode(released), os.F_OK):
                return
            libc.usleep(10_000)
        raise TimeoutError(released)
    finally:
        sys.setswitchinterval(interval)


class Rpc:
    """Workers, some of which never answer."""

    def __init__(self, silent: set[str]) -> None:
        self.silent = silent
        self.asked: list[str] = []
        self.waiting = 0

    def __call__(self, worker: str) -> Any:
        async def question(**message: Any) -> dict[str, Any]:
            self.asked.append(worker)
            if worker in self.silent:
                self.waiting += 1
                try:
                    await asyncio.Event().wait()
                finally:
                    self.waiting -= 1
            return {"place": worker}

        return SimpleNamespace(question=question)


def scheduler_of(rpc: Rpc) -> Any:
    return SimpleNamespace(rpc=rpc)


def test_a_late_question_is_withdrawn() -> None:
    rpc = Rpc({"a"})

    async def main() -> None:
        ask = requests.ask_worker
        assert await ask(scheduler_of(rpc), "a", {"op": "question"}, 0.01) is None
        await asyncio.sleep(0)
        assert rpc.waiting == 0
        found = await ask(scheduler_of(rpc), "b", {"op": "question"})
        assert found == {"place": "b"}

    asyncio.run(main())


def test_a_host_answers_while_one_of_its_workers_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "_NEXT", 0.01)
    rpc = Rpc({"a", "b"})

    async def ask(workers: str) -> Any:
        scheduler, message = scheduler_of(rpc), {"op": "question"}
        found = await requests.ask_any(scheduler, workers, message, "place")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert rpc.waiting == 0
        return found

    assert asyncio.run(ask("abcd")) == {"place": "c"}
    assert rpc.asked == ["a", "b", "c"]
    monkeypatch.setattr(requests, "PATIENCE", 0.1)
    assert asyncio.run(ask("ab")) is None
    assert asyncio.run(ask("")) is None
