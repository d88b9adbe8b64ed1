"""Memory limits: shared pages are not the worker's own."""

from __future__ import annotations

import os
import pickle
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from distributed import LocalCluster
from tornado.ioloop import PeriodicCallback

import daskref
from daskref.connectors import SharedMemoryConnector
from daskref.plugins.bootstrap import nanny_plugin_bytes
from daskref.plugins.nanny import MemoryNannyPlugin, private_memory, shared_nbytes
from daskref.store import Store
from tests.utils import status_kib, wait_until


def test_shared_pages_are_told_from_others() -> None:
    with Store("nanny", SharedMemoryConnector()) as store:
        before = shared_nbytes()
        reference = store.put_reference(np.ones(4 << 20))  # 32 MiB
        x = store.get_reference(reference)
        assert float(x.sum()) == 4 << 20
        after = shared_nbytes()
        assert after - before >= x.nbytes
        assert shared_nbytes(os.getpid()) == pytest.approx(after, rel=0.2)
        x += 1  # a copy of its own now
        assert shared_nbytes() - before < x.nbytes * 1.1
        del x


def test_a_process_that_is_gone_has_none() -> None:
    assert shared_nbytes(2**22 + 1) == 0


def test_private_memory(monkeypatch: Any) -> None:
    monkeypatch.setattr("daskref.plugins.nanny.shared_nbytes", lambda: 600)
    assert private_memory(lambda: 1000)() == 400
    assert private_memory(lambda: 500)() == 0  # read at two moments


class TestPlugin:
    def nanny(self, **memory: Any) -> Any:
        checks: list[int] = []
        manager = SimpleNamespace(
            **{"memory_limit": 1000, "memory_terminate_fraction": 0.95, **memory}
        )
        process = SimpleNamespace(process=SimpleNamespace(pid=os.getpid()))
        callback = PeriodicCallback(lambda: checks.append(1), 1000)
        return SimpleNamespace(
            memory_manager=manager,
            process=process,
            periodic_callbacks={"memory_monitor": callback},
            checks=checks,
        )

    def test_asks_the_nannys_own_check_only_above_the_limit(self) -> None:
        nanny = self.nanny()
        plugin = MemoryNannyPlugin()
        before = nanny.periodic_callbacks["memory_monitor"].callback
        plugin.setup(nanny)
        check = nanny.periodic_callbacks["memory_monitor"].callback
        check()  # this process has more than 1000 bytes
        assert nanny.checks == [1]
        nanny.memory_manager.memory_limit = 2**50
        check()
        assert nanny.checks == [1]
        plugin.teardown(nanny)
        assert nanny.periodic_callbacks["memory_monitor"].callback is before

    def test_a_worker_that_is_not_there(self) -> None:
        nanny = self.nanny()
        MemoryNannyPlugin().setup(nanny)
        check = nanny.periodic_callbacks["memory_monitor"].callback
        for process in (
            None,
            SimpleNamespace(process=None),
            SimpleNamespace(process=SimpleNamespace(pid=None)),
            SimpleNamespace(process=SimpleNamespace(pid=2**22 + 1)),
        ):
            nanny.process = process
            check()
        assert nanny.checks == []

    def test_a_nanny_without_a_limit(self) -> None:
        nanny = SimpleNamespace(periodic_callbacks={})
        plugin = MemoryNannyPlugin()
        plugin.setup(nanny)  # type: ignore[arg-type]
        plugin.teardown(nanny)  # type: ignore[arg-type]
        assert not nanny.periodic_callbacks

    def test_travels_as_a_question(self) -> None:
        plugin = pickle.loads(nanny_plugin_bytes())
        assert plugin.name == "daskref"
        assert not getattr(plugin, "restart", False)
        nanny = self.nanny()
        before = nanny.periodic_callbacks["memory_monitor"].callback
        plugin.setup(nanny)
        assert nanny.periodic_callbacks["memory_monitor"].callback is not before
        plugin.teardown(nanny)
        assert nanny.periodic_callbacks["memory_monitor"].callback is before


GIB = 1 << 30


def read_all(x: Any) -> tuple[int, float]:
    return os.getpid(), float(x.sum())


@pytest.mark.slow
def test_a_worker_over_its_limit_by_shared_data_goes_on() -> None:
    with (
        dask.config.set({"distributed.worker.memory.monitor-interval": "10ms"}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit="500 MB",
            dashboard_address=":0",
        ) as cluster,
        daskref.Client(cluster) as client,
    ):
        (nanny,) = cluster.workers.values()
        assert nanny.process is not None
        pid = nanny.process.process.pid
        x = np.ones(GIB // 8)
        future = client.scatter(x)
        # keeps the mapping, and with it the resident pages
        actor = client.submit(Holder, future, actor=True).result()
        assert actor.read().result() == GIB // 8
        assert status_kib(pid, "VmRSS") > 1_000_000  # twice the limit

        def seen() -> int:
            return int(
                client.run(_checks)[next(iter(client.scheduler_info()["workers"]))]
            )

        before = seen()
        wait_until(lambda: seen() > before + 20, "twenty checks of its memory")
        assert client.submit(os.getpid, pure=False).result() == pid
        assert actor.read().result() == GIB // 8
        status = client.run(lambda dask_worker: dask_worker.status.name)
        assert set(status.values()) == {"running"}
        del actor, future, x


@pytest.mark.slow
def test_a_worker_over_its_limit_by_its_own_data_does_not() -> None:
    with (
        dask.config.set(
            {
                "distributed.worker.memory.monitor-interval": "10ms",
                "distributed.admin.low-level-log-length": 0,
            }
        ),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit="500 MB",
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        daskref.Client(cluster) as client,
    ):
        (nanny,) = cluster.workers.values()
        pid = nanny.process.process.pid
        wait_until(lambda: "daskref" in nanny.plugins)
        future = client.submit(_fill, pure=False)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker's end")
        future.cancel()
        del future


class Holder:
    """An actor that keeps its argument."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def read(self) -> float:
        return float(self.x.sum())


def _checks(dask_worker: Any) -> int:
    # a count of the worker's own checks: its memory monitor runs as often
    callback = dask_worker.periodic_callbacks["memory_monitor"]
    if not hasattr(callback, "daskref_counted"):
        inner, callback.daskref_counted = callback.callback, 0

        def counted() -> Any:
            callback.daskref_counted += 1
            return inner()

        callback.callback = counted
    return int(callback.daskref_counted)


def _fill() -> None:
    kept = [np.ones(32 << 17)]
    while True:
        kept.append(np.ones(32 << 17))  # 32 MiB each, until somebody ends this
