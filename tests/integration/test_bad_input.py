"""Bad input: one clear error, nothing hung, nothing lost."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest
from distributed import LocalCluster
from distributed.protocol import deserialize

import daskref
from daskref.config import Settings
from daskref.connectors import SharedMemoryConnector, ZmqConnector
from daskref.connectors.shm import SharedMemoryKey
from daskref.exceptions import (
    ConfigError,
    ConnectorError,
    DaskrefError,
    MissingKeyError,
    ResolveError,
    WireError,
)
from daskref.objects import codec
from daskref.proxy import Proxy, resolve
from daskref.store import Store
from daskref.store.factory import StoreFactory
from tests.support.common import large, session_of, wait_until

SUM = 262144.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of this module's own.

    After a transfer that did not pickle, Dask uses the same connection again, out of
    step: the next transfer between these workers may fail.
    """
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


def total(x: Any) -> float:
    return float(np.sum(x))


def works(client: Any) -> None:
    """Check that a cluster still does all that it should."""
    x = large()
    assert client.submit(total, x, pure=False).result(timeout=20) == SUM
    future = client.scatter(x)
    assert client.submit(total, future, pure=False).result(timeout=20) == SUM
    assert total(future.result(timeout=20)) == SUM


@pytest.fixture(scope="module")
def watcher(cluster: Any) -> Iterator[Any]:
    with daskref.Client(cluster, set_as_default=False) as watcher:
        yield watcher


@pytest.fixture
def client(cluster: Any, watcher: Any) -> Iterator[Any]:
    """A client with daskref; when it has gone, nothing of it may be stored.

    Before, there may be: Dask keeps a future whose error was raised, in the frames of
    that error, and so does pytest with what was logged.
    """
    with daskref.Client(cluster) as client:
        yield client
    wait_until(lambda: not daskref.stats(watcher)["objects"], "everything freed", 5)


@pytest.fixture
def lone() -> Iterator[Any]:
    """A cluster in this process that has no session yet."""
    with LocalCluster(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0"
    ) as cluster:
        yield cluster


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "setting"),
        [
            ({"threshold": "abc"}, "daskref.threshold"),
            ({"threshold": -1}, "daskref.threshold"),
            ({"threshold": "1 parsec"}, "daskref.threshold"),
            ({"threshold": ""}, "daskref.threshold"),
            ({"threshold": True}, "daskref.threshold"),
            ({"connector": "shmm"}, "daskref.connector"),
            ({"connector": ""}, "daskref.connector"),
            ({"connector": {"path": "/x"}}, "daskref.connector"),
            ({"connector": 5}, "daskref.connector"),
        ],
        ids=str,
    )
    def test_of_a_client_before_it_connects(self, options: Any, setting: str) -> None:
        with pytest.raises(ConfigError) as caught:
            daskref.Client("tcp://127.0.0.1:1", timeout=1, **options)
        assert caught.value.setting == setting
        assert "expected" in str(caught.value)

    @pytest.mark.parametrize(
        ("connector", "text"),
        [
            ("shmm://", r"did you mean shm://\?"),
            ("nobody://host", "file://, fsspec://"),
            ("shm://?colour=blue", "colour"),
            ("shm://?budget=a%20lot", "budget"),
            ("file://relative/path", "absolute"),
            ({"class": "no.such.module:Thing"}, r"no\.such\.module"),
            ({"class": "os:path"}, "class"),
            ({"class": "daskref.connectors.shm:SharedMemoryConnector", "x": 1}, "x"),
        ],
        ids=str,
    )
    def test_specs_that_only_the_scheduler_can_judge(
        self, lone: Any, connector: Any, text: str
    ) -> None:
        with pytest.raises(ConfigError, match=text):
            daskref.Client(lone, set_as_default=False, connector=connector)
        with distributed.Client(lone, set_as_default=False) as plain:
            with pytest.raises(ConfigError, match=text):
                daskref.enable(plain, connector=connector)
            assert type(plain) is distributed.Client
            assert plain.submit(total, large()).result() == SUM
        assert not lone.scheduler.plugins.keys() & {"daskref"}

    def test_a_store_that_does_not_work(self, lone: Any) -> None:
        with (
            dask.config.set({"daskref.on-failure": "raise"}),
            pytest.raises(ConnectorError, match="/proc/no"),
        ):
            daskref.Client(lone, set_as_default=False, connector="file:///proc/no")
        # the client that could not be made is not left connected
        wait_until(lambda: not set(lone.scheduler.clients) - {"fire-and-forget"})

    @pytest.mark.parametrize(
        "options",
        [{"daskref.threshold": "abc"}, {"daskref.connector": "shmm"}],
        ids=str,
    )
    def test_configured(self, lone: Any, options: Any) -> None:
        with dask.config.set(options), pytest.raises(ConfigError) as caught:
            daskref.Client(lone, set_as_default=False)
        assert caught.value.setting in options
        with daskref.Client(lone, set_as_default=False) as client:
            works(client)

    def test_a_threshold_that_turns_bad_later(self, client: Any) -> None:
        with dask.config.set({"daskref.threshold": "abc"}):
            with pytest.raises(ConfigError, match=r"daskref\.threshold='abc'"):
                client.submit(total, large())
            with pytest.raises(ConfigError, match=r"daskref\.threshold='abc'"):
                client.scatter(large())
        works(client)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "value", "setting"),
        [
            ("DASK_DASKREF__THRESHOLD", "abc", "daskref.threshold"),
            ("DASK_DASKREF__CONNECTOR", "shmm://", "daskref.connector"),
            ("DASK_DASKREF__ON_FAILURE", "shrug", "daskref.on-failure"),
            ("DASK_DASKREF__SHM__BUDGET", "-3", "daskref.shm.budget"),
        ],
    )
    def test_in_the_environment(self, name: str, value: str, setting: str) -> None:
        code = (
            "import daskref\n"
            "with daskref.Client(processes=False, dashboard_address=':0'): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, name: value},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert f"daskref.exceptions.ConfigError: {setting}" in done.stderr


@pytest.fixture
def store() -> Iterator[Any]:
    with Store("bad", SharedMemoryConnector(), register=True) as store:
        yield store


BAD_KEYS = [
    ("../../etc/passwd", 100),
    ("/etc/passwd", 100),
    ("lock", 0),
    ("identity", 45),
    ("p-00000000", 0),
    ("free", 4096),
    ("", 0),
    (".", 0),
    ("00000000-000000000000000000000000\n", 1),
    ("00000000-000000000000000000000000/..", 1),
    ("00000000-000000000000000000000000", -2),
    ("00000000-000000000000000000000000", "1"),
    ("00000000-000000000000000000000000", None),
    ("00000000-000000000000000000000000",),
    (b"00000000-000000000000000000000000", 1),
    ("0" * 8 + "-" + "0" * 23 + "\0", 1),
    (),
    None,
    5,
    "00000000-000000000000000000000000",
    {"name": "x"},
]


class TestKeys:
    @pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
    def test_that_are_none(self, store: Store, key: Any) -> None:
        before = sorted(os.listdir(store.connector.directory))  # type: ignore[attr-defined]
        for call in (
            store.connector.get,
            store.connector.exists,
            store.connector.evict,
            store.connector.link,
        ):
            with pytest.raises(WireError, match="not a SharedMemoryKey"):
                call(key)
        assert sorted(os.listdir(store.connector.directory)) == before  # type: ignore[attr-defined]

    def test_unknown(self, store: Store) -> None:
        key = SharedMemoryKey("0" * 8 + "-" + "0" * 24, 100)
        assert store.get(key) is None
        assert not store.exists(key)
        store.evict(key)
        reference = store.put_reference([1])
        reference = type(reference)(key, reference.store, reference.metadata)
        with pytest.raises(MissingKeyError, match="evicted"):
            store.get_reference(reference)
        with pytest.raises(ResolveError, match="evicted"):
            resolve(Proxy(StoreFactory(reference)))

    def test_of_another_size_than_the_object(self, store: Store) -> None:
        key = store.put(b"x" * 1000)
        with pytest.raises(WireError, match="its key says 5"):
            store.get(key._replace(nbytes=5))  # type: ignore[attr-defined]
        assert store.get(key) == b"x" * 1000

    @pytest.mark.parametrize("key", [("../../etc/passwd", 100), (1, 2), "x", None])
    def test_in_requests_to_servers(self, client: Any, key: Any) -> None:
        async def ask(rpc: Any) -> Any:
            return await rpc.daskref_fetch(key=key)

        (address, *_) = client.scheduler_info()["workers"]
        for rpc in (client.scheduler, client.rpc(address)):
            with pytest.raises((WireError, TypeError)):
                client.sync(ask, rpc)
        works(client)


def path_of(store: Any, key: Any) -> Path:
    connector = store.connector
    if isinstance(connector, ZmqConnector):
        return Path(connector.local.directory, key[0])
    return Path(connector.directory, key[0])


def rewrite(path: Path, data: bytes) -> None:
    """Replace a file as no daskref would: under the same name."""
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o600)


class TestFiles:
    def test_truncated(self, store: Any) -> None:
        key = store.put(np.arange(100_000))
        with open(path_of(store, key), "r+b") as file:
            file.truncate(1000)
        with pytest.raises(WireError, match="has 1000 bytes"):
            store.get(key)

    @pytest.mark.parametrize("nbytes", [0, 10, 100, 5000])
    def test_truncated_with_a_key_that_agrees(self, store: Any, nbytes: int) -> None:
        key = store.put(np.arange(100_000))
        with open(path_of(store, key), "r+b") as file:
            file.truncate(nbytes)
        with pytest.raises(WireError, match="truncated"):
            store.get(key._replace(nbytes=nbytes))

    def test_foreign(self, store: Any) -> None:
        key = store.put(b"x" * 1000)
        rewrite(path_of(store, key), b"#!/bin/sh\n".ljust(key.nbytes))
        with pytest.raises(WireError, match="daskref did not write"):
            store.get(key)

    def test_of_a_newer_version(self, store: Any) -> None:
        key = store.put(b"x" * 1000)
        data = bytearray(path_of(store, key).read_bytes())
        struct.pack_into("<H", data, len(codec.MAGIC), codec.VERSION + 1)
        rewrite(path_of(store, key), bytes(data))
        with pytest.raises(WireError, match="use the same daskref"):
            store.get(key)

    def test_a_directory_or_a_link_in_the_place_of_an_object(
        self, store: Any, tmp_path: Path
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"x" * 1000)
        for make in (lambda p: p.mkdir(), lambda p: p.symlink_to(secret)):
            key = store.put(b"x" * 1000)
            path = path_of(store, key)
            path.unlink()
            make(path)
            with pytest.raises(DaskrefError):
                store.get(key)
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def test_in_a_cluster(self, client: Any) -> None:
        """A damaged object fails the task that wants it, and no more."""
        future = client.scatter(large(5))
        (held,) = client._daskref.holdings._by_key[future.key]
        store = session_of(client).store
        path = path_of(store, held.reference.key)
        rewrite(path, b"not an object".ljust(held.reference.nbytes))
        failed = client.submit(total, future, pure=False)
        with pytest.raises(DaskrefError, match="daskref did not write"):
            failed.result(timeout=20)
        with pytest.raises(DaskrefError, match="daskref did not write"):
            future.result(timeout=20)
        del failed
        works(client)
        del future, held

    def test_an_object_that_vanished(self, client: Any) -> None:
        future = client.scatter(large(6))
        (held,) = client._daskref.holdings._by_key[future.key]
        path_of(session_of(client).store, held.reference.key).unlink()
        failed = client.submit(total, future, pure=False)
        with pytest.raises(ResolveError, match="does not give it"):
            failed.result(timeout=20)
        with pytest.raises(ResolveError, match="does not give it"):
            future.result(timeout=20)
        del failed, future, held
        works(client)


def test_a_family_header_of_a_newer_version() -> None:
    from daskref.cluster.family import VERSION

    header = {"serializer": "daskref", "version": VERSION + 1, "something": "new"}
    with pytest.raises(WireError, match="use the same daskref on all processes"):
        deserialize(header, [], deserializers=["daskref", "dask", "pickle"])


class Unpicklable:
    """Large, and does not pickle."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.data = large()


class FailsToLoad:
    """Large, pickles, and does not come back."""

    def __init__(self) -> None:
        self.data = large()

    def __reduce__(self) -> Any:
        return _refuse, (self.data,)


def _refuse(data: Any) -> Any:
    raise ZeroDivisionError("cannot be loaded")


def make_unpicklable() -> Any:
    return Unpicklable()


def make_lock() -> Any:
    return threading.Lock()


class Actor:
    def take(self, x: Any) -> str:
        return type(x).__name__

    def give(self) -> Any:
        return Unpicklable()


class TestWhatDoesNotPickle:
    @pytest.mark.parametrize("make", [make_lock, make_unpicklable])
    def test_as_an_argument(self, client: Any, make: Any) -> None:
        x = make()
        for args in ((x,), ([x],), (large(), x), ({"x": [large(), x]},)):
            with pytest.raises((TypeError, pickle.PicklingError)):
                client.submit(total, *args, pure=False)
        with pytest.raises((TypeError, pickle.PicklingError)):
            client.map(total, [x, x], pure=False)
        with pytest.raises((TypeError, pickle.PicklingError)):
            client.compute(dask.delayed(total)(x, pure=False))
        del x, args
        gc.collect()
        works(client)

    @pytest.mark.parametrize("make", [make_lock, make_unpicklable])
    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, large()]])
    def test_in_scatter(self, client: Any, make: Any, wrap: Any) -> None:
        with pytest.raises((TypeError, pickle.PicklingError, DaskrefError)):
            client.scatter(wrap(make()))
        with pytest.raises((TypeError, pickle.PicklingError, DaskrefError)):
            client.scatter(wrap(make()), broadcast=True, hash=False)
        gc.collect()
        works(client)

    @pytest.mark.parametrize("make", [make_lock, make_unpicklable])
    def test_as_a_result(self, client: Any, make: Any) -> None:
        future = client.submit(make, pure=False)
        # it may live on its worker, and be used there
        assert client.submit(_type_name, future).result(timeout=20)
        with pytest.raises(TypeError, match="Could not serialize"):
            future.result(timeout=20)
        del future
        works(client)

    @pytest.mark.slow
    def test_as_what_a_task_on_another_worker_wants(self, client: Any) -> None:
        first, second = client.scheduler_info()["workers"]
        future = client.submit(make_unpicklable, workers=[first], pure=False)
        distributed.wait(future)
        other = client.submit(_type_name, future, workers=[second])
        # As in plain Dask: the other worker asks again, until somebody gives up.
        with pytest.raises(TimeoutError):
            other.result(timeout=0.5)
        other.release()
        del future, other
        works(client)

    @pytest.mark.slow
    def test_with_actors(self, client: Any) -> None:
        actor = client.submit(Actor, actor=True, pure=False).result()
        # As in plain Dask, which logs the error and tells nobody.
        for call in (partial(actor.take, Unpicklable()), actor.give):
            with pytest.raises(TimeoutError):
                call().result(timeout=0.5)
        assert actor.take(large()).result(timeout=20) == "ndarray"
        del actor
        works(client)

    def test_what_pickles_and_does_not_load(self, client: Any) -> None:
        failed = client.submit(_type_name, FailsToLoad(), pure=False)
        with pytest.raises(ZeroDivisionError, match="cannot be loaded"):
            failed.result(timeout=20)
        future = client.submit(FailsToLoad, pure=False)
        with pytest.raises(ZeroDivisionError, match="cannot be loaded"):
            future.result(timeout=20)
        del failed, future
        works(client)

    def test_an_asynchronous_client(self, cluster: Any) -> None:
        async def main() -> None:
            async with daskref.Client(
                cluster.scheduler_address, asynchronous=True
            ) as client:
                with pytest.raises((TypeError, pickle.PicklingError)):
                    client.submit(total, Unpicklable())
                with pytest.raises((TypeError, pickle.PicklingError, DaskrefError)):
                    await client.scatter(Unpicklable())
                assert await client.submit(total, large()) == SUM

        asyncio.run(main())


def _type_name(x: Any) -> str:
    return type(x).__name__


def test_errors_of_the_task_itself_are_what_they_were(client: Any) -> None:
    def fail(x: Any) -> Any:
        raise LookupError(f"no such thing in {x.shape}")

    failed = client.submit(fail, large())
    with pytest.raises(LookupError, match=r"no such thing in \(262144,\)"):
        failed.result(timeout=20)
    del failed
    works(client)


def test_stats_and_disable_of_what_is_no_client() -> None:
    with pytest.raises(TypeError, match="takes a client"):
        daskref.stats("client")


def test_settings_have_one_error_per_mistake() -> None:
    with pytest.raises(TypeError, match="no such setting: treshold"):
        Settings.read(treshold=1)
