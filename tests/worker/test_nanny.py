"""Memory limits: pages of objects are not the worker's own."""

from __future__ import annotations

import mmap
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import numpy as np
import psutil
import pytest
from distributed import LocalCluster
from tornado.ioloop import PeriodicCallback

import daskref
from daskref.cluster.by_value import nanny_plugin_bytes
from daskref.connectors import FileConnector, SharedMemoryConnector
from daskref.worker._memory import OwnMemory
from daskref.worker.nanny import ReferenceNannyPlugin
from tests.support.common import status_kib, wait_until

MIB = 2**20


def own() -> int:
    return OwnMemory().of(psutil.Process().memory_info().rss)


def connector(kind: str, path: Path) -> Any:
    if kind == "file":
        return FileConnector(path)
    budget = "1 B" if kind == "spill" else 0.8
    return SharedMemoryConnector(budget=budget, spill_directory=path)


@pytest.mark.parametrize("kind", ["shm", "spill", "file"])
def test_an_objects_pages_are_not_the_readers_own(kind: str, tmp_path: Path) -> None:
    with connector(kind, tmp_path) as store:
        key = store.put(np.ones(64 * MIB, "u1"))
        before = own()
        x = np.frombuffer(store.get(key), "u1")
        assert int(x.sum()) == 64 * MIB
        assert abs(own() - before) < 16 * MIB
        x[: 32 * MIB] = 2  # copies: its own now
        assert 24 * MIB < own() - before < 48 * MIB
        store.evict(key)
        assert 24 * MIB < own() - before < 48 * MIB  # of a file that was deleted
        del x


@pytest.mark.parametrize("of", ["nobody", "file"])
def test_memory_that_a_task_shares_is_its_own(of: str, tmp_path: Path) -> None:
    with SharedMemoryConnector() as store:
        key = store.put(np.ones(8 * MIB, "u1"))
        x = np.frombuffer(store.get(key), "u1")
        assert int(x.sum()) == 8 * MIB
        before = own()
        if of == "nobody":
            mapped = mmap.mmap(-1, 64 * MIB)
        else:
            with open(tmp_path / "data", "w+b") as file:
                file.truncate(64 * MIB)
                mapped = mmap.mmap(file.fileno(), 64 * MIB)
        view = np.frombuffer(mapped, "u1")
        view[:] = 1
        assert own() - before > 60 * MIB
        del x, view
        mapped.close()


def test_counts_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    maps = b"7f0000000000-7f0000200000 rw-p 0 0:1 1 /dev/shm/d/%s\n"
    ours = maps % b"01234567-0123456789abcdef01234567"
    shared, resident = 1024, 1024
    files = {
        "maps": lambda: ours,
        "status": lambda: b"RssFile:\t 0 kB\nRssShmem:\t %d kB\n" % shared,
        "smaps": lambda: ours + b"Rss: %d kB\nAnonymous: 24 kB\n" % resident,
    }

    def read(self: OwnMemory, name: str) -> bytes:
        reads.append(name)
        return files[name]()

    monkeypatch.setattr(OwnMemory, "_read", read)
    now = 0.0

    def monotonic() -> float:  # each count takes a second
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr("daskref.worker._memory.time.monotonic", monotonic)
    memory = OwnMemory()
    assert memory.of(4096 * 1024) == (4096 - 1000) * 1024
    for _ in range(100):
        memory.of(4096 * 1024)
    assert reads.count("smaps") == 1  # nothing has changed
    shared = 1536
    assert memory.of(4096 * 1024) == (4096 - 1512) * 1024  # taken for the session's
    assert reads.count("smaps") == 1
    now += 100
    assert memory.of(4096 * 1024) == (4096 - 1000) * 1024  # it was not
    assert reads.count("smaps") == 2
    ours = maps % b"data"
    assert memory.of(4096 * 1024) == 4096 * 1024
    assert reads.count("smaps") == 2


def test_a_process_without_objects_looks_at_its_mappings_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[str] = []
    shared, now = 1024, 0.0
    maps = b"7f0000000000-7f0000200000 rw-p 0 0:1 1 /lib/libc.so\n"

    def read(self: OwnMemory, name: str) -> bytes:
        reads.append(name)
        return b"RssShmem:\t %d kB\n" % shared if name == "status" else maps

    monkeypatch.setattr(OwnMemory, "_read", read)
    monkeypatch.setattr("daskref.worker._memory.time.monotonic", lambda: now)
    memory = OwnMemory()
    for _ in range(100):
        assert memory.of(4096) == 4096
    assert reads.count("maps") == 1
    shared = 1028
    memory.of(4096)
    assert reads.count("maps") == 2  # a page has come, which may be an object's
    now = 1.5
    memory.of(4096)
    assert reads.count("maps") == 3


def test_a_process_that_is_gone_has_none() -> None:
    assert OwnMemory(2**22 + 1).of(10) == 10


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
        plugin = ReferenceNannyPlugin(None)
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
        ReferenceNannyPlugin(None).setup(nanny)
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
        plugin = ReferenceNannyPlugin(None)
        plugin.setup(nanny)  # type: ignore[arg-type]
        plugin.teardown(nanny)  # type: ignore[arg-type]
        assert not nanny.periodic_callbacks

    def test_travels_as_a_question(self) -> None:
        session = {"root": None}
        plugin = pickle.loads(nanny_plugin_bytes(session))
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


@pytest.mark.slow
def test_a_worker_with_shared_memory_of_its_own_is_seen() -> None:
    def seen() -> tuple[int, int]:
        mapped = mmap.mmap(-1, 400 * MIB)
        np.frombuffer(mapped, "u1")[:] = 1
        worker = distributed.get_worker()
        return psutil.Process().memory_info().rss, worker.monitor.get_process_memory()

    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit="1 GB",
            dashboard_address=":0",
        ) as cluster,
        daskref.Client(cluster) as client,
    ):
        future = client.scatter(np.ones(8 * MIB))
        resident, own = client.submit(lambda x: (x.sum(), seen())[1], future).result()
        assert own > 400 * MIB
        assert resident - own > 32 * MIB  # the argument
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
