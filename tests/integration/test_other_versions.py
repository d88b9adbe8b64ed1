"""Peers of other versions: what travels to them, and what they are told."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import distributed
import numpy as np
import pytest
from distributed import LocalCluster, Nanny, Worker

import daskref
from daskref import OwnedProxy, Store, borrow, mut_borrow
from daskref._version import PROTOCOL, __version__
from daskref.cluster import by_value as bootstrap
from daskref.cluster.joining import identify, lacking
from daskref.connectors import FileConnector
from daskref.exceptions import IncompatibleError
from daskref.store.factory import StoreFactory
from tests.support.common import (
    large,
    processes,
    start_scheduler,
    start_worker,
    wait_until,
)

SUM = 262144.0
PACKAGE = Path(daskref.__file__).parent


def total(x: Any) -> float:
    return float(x.sum())


def make(fill: float) -> Any:
    return large(fill)


def fail(x: Any) -> None:
    raise ValueError(x.shape)


def submit_again(x: Any) -> float:
    return float(distributed.get_client().submit(total, x * 2).result())


def refill(x: Any) -> Any:
    return x + 1


def set_later(future: Any) -> None:
    future.set_result(large(5))


class Keeper:
    """An actor."""

    def keep(self, x: Any) -> Any:
        return x


@pytest.fixture
def code(monkeypatch: Any) -> list[str]:
    """Files of the code objects that this process has pickled so far."""
    pickled: list[str] = []
    table = cloudpickle.Pickler._dispatch_table
    reduce = table[types.CodeType]

    def look(obj: types.CodeType) -> Any:
        pickled.append(obj.co_filename)
        return reduce(obj)

    monkeypatch.setitem(table, types.CodeType, look)
    return pickled


@pytest.fixture
def traffic(monkeypatch: Any) -> list[bytes]:
    """Frames that this process has sent and received so far."""
    from distributed.comm import tcp

    seen: list[bytes] = []
    to_frames, from_frames = tcp.to_frames, tcp.from_frames

    async def write(*args: Any, **kwargs: Any) -> Any:
        frames = await to_frames(*args, **kwargs)
        seen.extend(bytes(memoryview(frame).cast("B")) for frame in frames)
        return frames

    async def read(frames: Any, **kwargs: Any) -> Any:
        seen.extend(bytes(memoryview(frame).cast("B")) for frame in frames)
        return await from_frames(frames, **kwargs)

    monkeypatch.setattr(tcp, "to_frames", write)
    monkeypatch.setattr(tcp, "from_frames", read)
    return seen


@contextlib.contextmanager
def late(cluster: Any, kind: Any) -> Iterator[Any]:
    """A worker or nanny in this process, that comes to a cluster."""

    async def start() -> Any:
        return await kind(cluster.scheduler_address, dashboard_address=":0")

    server = cluster.sync(start)
    try:
        yield server
    finally:
        cluster.sync(server.close)


@pytest.mark.slow
def test_nothing_of_daskref_travels_as_byte_code(
    code: list[str], traffic: list[bytes], tmp_path: Path
) -> None:
    with (
        LocalCluster(
            processes=False, protocol="tcp://", n_workers=1, dashboard_address=":0"
        ) as cluster,
        daskref.Client(cluster) as client,
        late(cluster, Worker),
        late(cluster, Nanny),
    ):
        client.wait_for_workers(3)
        workers = list(client.scheduler_info()["workers"])
        x = large()
        # paths of values
        assert client.submit(total, x).result() == SUM
        assert client.gather(client.map(total, [x, large(2)])) == [SUM, 2 * SUM]
        made = client.submit(make, 3, workers=workers[:1])
        for worker in workers:
            assert client.submit(total, made, workers=[worker]).result() == 3 * SUM
        assert made.result()[0] == 3
        scattered = client.scatter([x, 1], broadcast=True)
        assert client.submit(total, scattered[0]).result() == SUM
        assert client.submit(submit_again, x).result() == 2 * SUM
        assert client.submit(total, daskref.lazy(x)).result() == SUM
        keeper = client.submit(Keeper, actor=True).result()
        assert keeper.keep(x).result()[0] == 1
        assert {x[0] for x in client.run(make, 2).values()} == {2}
        assert client.run_on_scheduler(make, 2)[0] == 2
        client.publish_dataset(made=made)
        client.unpublish_dataset("made")
        # explicit stores: proxies, futures, lifetimes, owners
        with Store("bytes", FileConnector(tmp_path / "files"), register=True) as store:
            lifetime = daskref.TaskLifetime(client, made)
            proxy = store.proxy(x, lifetime=lifetime)
            assert client.submit(total, proxy).result() == SUM
            with daskref.ContextLifetime(store) as lifetime:
                proxy = store.proxy(x, lifetime=lifetime)
                assert client.submit(total, proxy).result() == SUM
            later = store.future()
            assert client.submit(set_later, later).result() is None
            assert float(later.proxy().sum()) == 5 * SUM
            owner = OwnedProxy(StoreFactory(store.put_reference(x)))
            assert client.submit(total, borrow(owner)).result() == SUM
            assert client.submit(refill, mut_borrow(owner)).result()[0] == 2
            daskref.drop(owner)
        daskref.stats(client)
        client.get_versions(check=True)
        # on and off
        with distributed.Client(cluster, set_as_default=False) as plain:
            daskref.enable(plain)
            assert plain.submit(total, x).result() == SUM
            daskref.disable(plain)
        with pytest.raises(ValueError, match=r"\(262144,\)"):
            client.submit(fail, x).result()
        assert not code
        assert not [frame for frame in traffic if b"CodeType" in frame]
        # a function of the user's may, and is seen
        assert client.submit(lambda: 1).result() == 1
        assert __file__ in code
        assert [frame for frame in traffic if b"CodeType" in frame]
        del made, scattered, keeper
        daskref.disable(client)


def copy_of(folder: Path, protocol: int, version: str = "9.9.9") -> dict[str, str]:
    """Copy the package with other numbers; returns the environment to import it in."""
    shutil.copytree(
        PACKAGE, folder / "daskref", ignore=shutil.ignore_patterns("__pycache__")
    )
    path = folder / "daskref" / "_version.py"
    text = path.read_text()
    for before, after in (
        (f'__version__ = "{__version__}"', f'__version__ = "{version}"'),
        (f"PROTOCOL = {PROTOCOL}", f"PROTOCOL = {protocol}"),
    ):
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    # what it is installed as
    info = folder / f"daskref-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: daskref\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(
        "[dask.sizeof]\ndaskref = daskref.entry:register_sizeof\n"
    )
    # `python -m` would look in the current directory first, which is ours
    paths = os.pathsep.join([str(folder), str(PACKAGE.parent)])
    return {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}


@pytest.fixture(scope="module")
def other(tmp_path_factory: Any) -> dict[str, str]:
    """Environment of a process whose daskref has another protocol."""
    return copy_of(tmp_path_factory.mktemp("other"), PROTOCOL + 1)


OURS = f"daskref {__version__} (protocol {PROTOCOL})"
THEIRS = f"daskref 9.9.9 (protocol {PROTOCOL + 1})"


def nothing_is_set_up(dask_scheduler: Any) -> bool:
    ops = [*dask_scheduler.handlers, *dask_scheduler.stream_handlers]
    plugins = [
        dask_scheduler.plugins,
        dask_scheduler.worker_plugins,
        dask_scheduler.nanny_plugins,
    ]
    return not any("daskref" in name for names in [ops, *plugins] for name in names)


class TestOtherVersions:
    @pytest.mark.slow
    def test_a_scheduler_of_another_protocol(self, other: dict[str, str]) -> None:
        with (
            processes(workers=1, env=other) as (scheduler, _),
            distributed.Client(scheduler.address) as plain,
        ):
            for connect in (
                lambda: daskref.Client(scheduler.address, set_as_default=False),
                lambda: daskref.enable(plain),
            ):
                with pytest.raises(IncompatibleError) as caught:
                    connect()
                text = str(caught.value)
                assert f"the scheduler {scheduler.address} has {THEIRS}" in text
                assert f"this client has {OURS}" in text
                assert "`pip install daskref==9.9.9` in the environment of this" in text
                assert f"`pip install daskref=={__version__}` in all others" in text
            assert type(plain) is distributed.Client
            assert plain.run_on_scheduler(nothing_is_set_up)
            assert plain.submit(np.sum, large()).result() == SUM
            # Dask logs what raises there
            assert not [line for line in scheduler.lines if "Traceback" in line]

    @pytest.mark.slow
    def test_workers_of_another_protocol(self, other: dict[str, str]) -> None:
        scheduler = start_scheduler()
        started = [
            start_worker(scheduler.address),
            start_worker(scheduler.address, env=other),
        ]
        try:
            with distributed.Client(scheduler.address) as plain:
                with pytest.raises(IncompatibleError) as caught:
                    daskref.enable(plain)
                text = str(caught.value)
                assert f"the scheduler {scheduler.address} has {OURS}" in text
                assert f"has {THEIRS}" in text
                (worker,) = caught.value.others
                assert (
                    f"`pip install daskref=={__version__}` in the environment" in text
                )
                assert plain.run_on_scheduler(nothing_is_set_up)
                assert plain.submit(np.sum, large()).result() == SUM
                plain.retire_workers([worker.removeprefix("worker ")])
                wait_until(lambda: len(plain.scheduler_info()["workers"]) == 1)
                daskref.enable(plain)
                # one that comes late says so itself, and goes
                late = start_worker(scheduler.address, env=other)
                started.append(late)
                wait_until(
                    lambda: any(f"it has {THEIRS}, the" in line for line in late.lines),
                    "its complaint",
                )
                assert any(f"scheduler has {OURS}" in line for line in late.lines)
                assert any(f"daskref=={__version__}" in line for line in late.lines)
                late.popen.wait(30)
                assert plain.submit(np.sum, large()).result() == SUM
                assert daskref.stats(plain)["puts"] == 1
        finally:
            for process in [*started, scheduler]:
                process.stop()

    @pytest.mark.slow
    def test_another_version_of_the_same_protocol(self, tmp_path: Path) -> None:
        env = copy_of(tmp_path, PROTOCOL)
        with (
            processes(workers=1, env=env) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            assert set(client.run(version).values()) == {"9.9.9"}
            assert client.submit(np.sum, large()).result() == SUM
            assert daskref.stats(client)["puts"] == 1
            with pytest.warns(UserWarning, match=r"\| daskref +\|.*9\.9\.9"):
                client.get_versions(check=True)


def version() -> str:
    return daskref.__version__


def test_workers_that_run_no_functions_for_others() -> None:
    with (
        dask.config.set({"distributed.worker.blocked-handlers": ["run"]}),
        LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as cluster,
        daskref.Client(cluster) as client,
    ):
        assert client.submit(total, large()).result() == SUM
        assert daskref.stats(client)["puts"] == 1


def test_versions_list_daskref(client: Any) -> None:
    versions = client.get_versions(check=True, packages=["pytest"])
    for each in [
        versions["client"],
        versions["scheduler"],
        *versions["workers"].values(),
    ]:
        assert each["packages"]["daskref"] == __version__
        assert "pytest" in each["packages"]


class TestQuestions:
    """What peers are sent that may lack daskref."""

    @pytest.mark.parametrize(
        "question",
        [
            pickle.dumps(bootstrap.identify),
            pickle.dumps(bootstrap.join),
            bootstrap.worker_plugin_bytes(identify(), b""),
            bootstrap.nanny_plugin_bytes({"root": None}),
        ],
    )
    def test_needs_nothing_but_text_and_dask(self, question: bytes) -> None:
        found = []

        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                found.append((module, name))
                return super().find_class(module, name)

        Unpickler(io.BytesIO(question)).load()
        assert found == [("builtins", "eval")]

    def test_the_answer_of_this_process(self) -> None:
        ask = pickle.loads(pickle.dumps(bootstrap.identify))
        assert ask() == {"protocol": PROTOCOL, "version": __version__}

    def test_a_broken_installation(self, monkeypatch: Any) -> None:
        monkeypatch.setitem(sys.modules, "daskref.cluster.joining", None)
        ask = pickle.loads(pickle.dumps(bootstrap.identify))
        assert lacking("worker one", ask()).startswith("worker one (import of daskref")
