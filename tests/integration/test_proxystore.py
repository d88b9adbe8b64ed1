"""ProxyStore, the released package: its connectors here, and data copied from it."""

from __future__ import annotations

import contextlib
import gc
import pickle
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from daskref import Store, resolve
from daskref.connectors import (
    FileConnector,
    LocalConnector,
    MultiConnector,
    Policy,
    open_connector,
)
from daskref.connectors.adapter import AdaptedConnector, adapt
from daskref.connectors.base import DeferrableConnector
from daskref.connectors.registry import connector_path, load_connector
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorError,
    ResolveError,
    WireError,
)
from daskref.testing import RULES, check_connector
from tests.support.common import large, start, wait_until
from tests.support.requirements import require, require_module

SUM = 262144.0  # of large()


def theirs(module: str) -> Any:
    require_module("proxystore")
    return require_module(f"proxystore.{module}")


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    """A Redis server of the tests' own."""
    require(shutil.which("redis-server"), "no program redis-server")
    require_module("redis")
    for attempt in range(5):  # another process may be given the port meanwhile
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        try:
            server = start(
                "redis-server", "--port", str(port), "--bind", "127.0.0.1",
                "--save", "", "--appendonly", "no",
                pattern="(Ready to accept connections)",
            )  # fmt: skip
            break
        except AssertionError:
            if attempt == 4:
                raise
    yield port
    server.stop()


@pytest.fixture(params=["file", "local", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    theirs("connectors")
    return str(request.param)


def spec_of(kind: str, tmp_path: Path, request: Any) -> dict[str, Any]:
    """Return a spec of a connector of theirs."""
    name = {"file": "FileConnector", "redis": "RedisConnector"}.get(
        kind, "LocalConnector"
    )
    spec: dict[str, Any] = {"class": f"proxystore.connectors.{kind}:{name}"}
    if kind == "file":
        spec["store_dir"] = str(tmp_path / "theirs")
    elif kind == "redis":
        spec |= {"hostname": "127.0.0.1", "port": request.getfixturevalue("redis_port")}
    return spec


@pytest.fixture
def spec(kind: str, tmp_path: Path, request: Any) -> dict[str, Any]:
    return spec_of(kind, tmp_path, request)


def instance(spec: dict[str, Any]) -> Any:
    """Return a connector of theirs, as its user makes it."""
    module, name = spec["class"].split(":")
    options = {name: value for name, value in spec.items() if name != "class"}
    return getattr(theirs(module.removeprefix("proxystore.")), name)(**options)


#: What a class with only ProxyStore's methods cannot keep.
RELAXED = {"foreign-keys"}
SLOW = {"processes", "round-trips", "views-outlive"}


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=pytest.mark.slow) if rule in SLOW else rule
        for rule in RULES
        if rule not in RELAXED
    ],
)
def test_theirs_keeps_the_contract(rule: str, kind: str, spec: Any) -> None:
    if kind == "local" and rule in {"processes", "configuration"}:
        pytest.skip("its objects are in one instance")
    check_connector(lambda: open_connector(spec), relax=RULES.keys() - {rule})


class TestAdapted:
    def test_is_of_a_class_of_its_own(self, spec: Any, kind: str) -> None:
        with open_connector(spec) as connector:
            assert isinstance(connector, AdaptedConnector)
            assert isinstance(connector, DeferrableConnector)
            assert connector_path(connector) == spec["class"]
            assert adapt(connector) is connector
            assert repr(connector) == repr(instance(spec))
            if kind == "redis":
                assert connector.hostname == "127.0.0.1"  # type: ignore[attr-defined]
            with pytest.raises(AttributeError):
                _ = connector.no_such_thing  # type: ignore[attr-defined]

    def test_keys_get_their_class_back(self, spec: Any) -> None:
        first = open_connector(spec)
        key = first.put(b"bytes")
        # as a message of Dask's has it, in a process that has put nothing
        plain = tuple(key)
        other = first if "local" in spec["class"] else load_connector(
            spec["class"], first.config()
        )  # fmt: skip
        assert other.exists(plain)
        assert other.get(plain) == b"bytes"
        assert other.get_batch([plain, key]) == [b"bytes"] * 2
        other.evict(plain)
        assert not other.exists(key)
        for foreign in (("a", 1), "text", None, (), 5):
            with pytest.raises(WireError, match="Key"):
                other.get(foreign)  # type: ignore[arg-type]
        other.close()
        first.close()

    def test_a_member_deletes_nothing_when_it_closes(self, tmp_path: Path) -> None:
        module = theirs("connectors.file")
        owner = adapt(module.FileConnector(str(tmp_path / "theirs")))
        key = owner.put(b"bytes")
        member = load_connector(connector_path(owner), owner.config())
        member.close()
        pickle.loads(pickle.dumps(owner)).close()
        assert owner.get(key) == b"bytes"
        owner.close()
        assert not (tmp_path / "theirs").exists()

    def test_close_takes_what_theirs_takes(self, tmp_path: Path) -> None:
        module = theirs("connectors.file")
        connector: Any = adapt(module.FileConnector(str(tmp_path / "theirs")))
        connector.close(clear=False)
        assert (tmp_path / "theirs").exists()
        with pytest.raises(ConnectorClosedError):
            connector.put(b"")

    def test_one_taker_of_many_threads(self, spec: Any) -> None:
        with open_connector(spec) as connector:
            key = connector.put(b"bytes")
            taken = []
            threads = [
                threading.Thread(target=lambda: taken.append(connector.take(key)))
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(view is not None for view in taken) == [False] * 7 + [True]

    @pytest.mark.parametrize(
        "gone", [FileNotFoundError(2, "No such file"), KeyError("x")]
    )
    def test_what_another_deletes_at_the_same_moment_is_no_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: Exception
    ) -> None:
        module = theirs("connectors.file")
        with adapt(module.FileConnector(str(tmp_path / "theirs"))) as connector:
            key = connector.put(b"bytes")
            calls = []

            def evict(key: Any) -> None:
                calls.append(key)
                if len(calls) < 3:
                    raise gone

            monkeypatch.setattr(connector._inner, "evict", evict)  # type: ignore
            connector.evict(key)
            assert calls == [key] * 3

            def get(key: Any) -> None:
                raise gone

            monkeypatch.setattr(connector._inner, "get", get)  # type: ignore
            with pytest.raises(ConnectorError, match="a get failed"):
                connector.get(key)  # it is not that it went just now

    @pytest.mark.slow
    def test_their_errors_become_ours(self) -> None:
        require_module("redis")
        module = theirs("connectors.redis")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # nobody listens
            nobody = module.RedisConnector("127.0.0.1", taken.getsockname()[1])
            with Store("nobody", nobody) as store:
                for call in (
                    lambda: store.put([1]),
                    lambda: store.get(module.RedisKey("x")),
                ):
                    with pytest.raises(ConnectorError, match="ConnectionError"):
                        call()

    def test_a_class_without_annotations(self) -> None:
        class Bare:
            def __init__(self) -> None:
                self.objects: dict[Any, bytes] = {}

            def put(self, obj):  # type: ignore[no-untyped-def]
                self.objects[key := theirs("connectors.local").LocalKey("x")] = obj
                return key

            def get(self, key):  # type: ignore[no-untyped-def]
                return self.objects.get(key) if key.id else None

            def close(self):  # type: ignore[no-untyped-def]
                pass

        connector = adapt(Bare())
        assert not isinstance(connector, DeferrableConnector)
        key = connector.put(bytearray(b"bytes"))
        assert connector.get(tuple(key)) == b"bytes"  # learned from the put

        class Text(Bare):
            def put(self, obj):  # type: ignore[no-untyped-def]
                return "not a tuple"

        with pytest.raises(ConnectorError, match="a key should be a tuple"):
            adapt(Text()).put(b"")

    def test_what_is_got_is_read_only(self) -> None:
        with LocalConnector() as ours:
            assert adapt(ours) is ours
        local = adapt(theirs("connectors.local").LocalConnector())
        view = local.get(local.put(b"bytes"))
        assert view is not None
        assert view.readonly


class TestStores:
    """A daskref Store on a connector of theirs."""

    def test_errors_of_every_method_become_ours(self, monkeypatch: Any) -> None:
        module = theirs("connectors.local")

        def fail(self: Any, *args: Any) -> Any:
            raise OSError("no route to redis://user:hunter2@host")

        local = module.LocalConnector()
        key = local.put(b"bytes")
        names = "put put_batch get get_batch exists evict new_key set".split()
        for name in names:
            monkeypatch.setattr(module.LocalConnector, name, fail)
        connector: Any = adapt(local)
        for call in (
            lambda: connector.put(b""),
            lambda: connector.put_batch([b""]),
            lambda: connector.get(key),
            lambda: connector.get_batch([key]),
            lambda: connector.exists(key),
            lambda: connector.evict(key),
            lambda: connector.take(key),
            lambda: connector.new_key(),
            lambda: connector.set(key, b""),
        ):
            with pytest.raises(ConnectorError, match="no route") as caught:
                call()
            assert "hunter2" not in str(caught.value)

    @pytest.fixture
    def store(self, spec: Any) -> Iterator[Store]:
        with Store(uuid.uuid4().hex, instance(spec), register=True) as store:
            yield store

    def test_objects(self, store: Store) -> None:
        x = np.arange(1000.0)
        key = store.put(x)
        assert type(key).__module__.startswith("proxystore")
        np.testing.assert_array_equal(store.get(key), x)
        assert store.exists(key)
        store.evict(key)
        assert not store.exists(key)
        assert store.get(key, "gone") == "gone"

    def test_batches(self, store: Store) -> None:
        keys = store.put_batch([[1], np.arange(10), b"bytes"])
        assert store.get(keys[0]) == [1]
        np.testing.assert_array_equal(store.get(keys[1]), np.arange(10))
        assert [str(p) for p in store.proxy_batch([[1], [2]])] == ["[1]", "[2]"]

    def test_proxies(self, store: Store) -> None:
        x = np.arange(1000.0)
        proxy = pickle.loads(pickle.dumps(store.proxy(x)))
        np.testing.assert_array_equal(proxy, x)
        proxy += 1
        once = pickle.loads(pickle.dumps(store.proxy([1], evict=True)))
        again = pickle.loads(pickle.dumps(once))
        assert once == [1]
        with pytest.raises(ResolveError, match="single-use"):
            resolve(again)

    def test_futures(self, store: Store) -> None:
        future: Any = store.future()
        proxy = future.proxy()
        future.set_result([1, 2])
        assert proxy == [1, 2]

    def test_hints_go_to_their_multi_connector(self, tmp_path: Path) -> None:
        multi = theirs("connectors.multi")
        local = theirs("connectors.local").LocalConnector
        file = theirs("connectors.file").FileConnector(str(tmp_path / "theirs"))
        connector = multi.MultiConnector(
            {
                "cold": (file, multi.Policy(superset_tags=["cold"], priority=1)),
                "any": (local(), multi.Policy()),
            }
        )
        with Store("multi", connector) as store:
            assert store.put([1]).connector_name == "any"
            key = store.put([1], superset_tags=["cold"])
            assert key.connector_name == "cold"
            plain = ("cold", tuple(key.connector_key))
            assert store.connector.exists(plain)
            assert store.get(plain) == [1]
            keys = store.put_batch([[1], [2]], superset_tags=["cold"])
            assert [store.get(key) for key in keys] == [[1], [2]]

    def test_others_take_no_hints(self, store: Store) -> None:
        with pytest.raises(TypeError, match="superset_tags"):
            store.put([1], superset_tags=["cold"])

    def test_in_a_multi_connector_of_ours(self, spec: Any) -> None:
        children = {
            "theirs": (instance(spec), Policy(max_size_bytes="1 kB")),
            "also": (spec, {"priority": -1}),
        }
        with Store("ours", MultiConnector(children)) as store:
            small, big = store.put([1]), store.put(np.arange(1000))
            assert (small.connector_name, big.connector_name) == ("theirs", "also")
            for key in (small, big):
                plain = (key.connector_name, tuple(key.connector_key))
                assert store.connector.exists(plain)
            np.testing.assert_array_equal(store.get(big), np.arange(1000))


class TestKeys:
    """Keys of theirs, on the same store, are none of ours."""

    @pytest.mark.parametrize("form", [tuple, lambda key: key], ids=["plain", "theirs"])
    def test_are_refused(self, form: Any, kind: str, spec: Any) -> None:
        their = instance(spec)
        key = their.put(b"bytes")
        ours = {
            "file": lambda: FileConnector(spec["store_dir"]),
            "local": LocalConnector,
            "redis": lambda: open_connector(f"redis://127.0.0.1:{spec['port']}"),
        }[kind]
        with ours() as connector:
            for method in "get take exists evict link".split():
                with pytest.raises(WireError, match="Key"):
                    getattr(connector, method)(form(key))
        assert their.get(key) == b"bytes"
        their.evict(key)
        their.close()


def test_with_their_serializers_each_reads_what_the_other_wrote(tmp_path: Path) -> None:
    serialize = theirs("serialize").serialize
    deserialize = theirs("serialize").deserialize
    make = theirs("connectors.file").FileConnector
    with (
        theirs("store").Store("theirs", make(str(tmp_path), clear=False)) as before,
        Store(
            "ours",
            make(str(tmp_path), clear=False),
            serializer=serialize,
            deserializer=lambda data: deserialize(bytes(data)),
        ) as after,
    ):
        for obj in ([1, {"a": 2}], "text", b"bytes", np.arange(10)):
            np.testing.assert_equal(after.get(before.put(obj)), obj)
            np.testing.assert_equal(before.get(after.put(obj)), obj)


# The five paths, with a connector of theirs as the cluster's.


def describe(*args: Any) -> list[Any]:
    return [(type(x).__name__, float(np.asarray(x).sum())) for x in args]


def make(fill: float = 1.0) -> Any:
    return large(fill)


class Accumulator:
    state = None

    def add(self, x: Any) -> Any:
        assert type(x) is np.ndarray
        self.state = x if self.state is None else self.state + x
        return self.state


def stored(spec: dict[str, Any]) -> int:
    """Return how many objects there are, counted without daskref."""
    if "file" in spec["class"]:
        directory = Path(spec["store_dir"])
        return len(list(directory.glob("*.ready"))) if directory.exists() else 0
    redis = require_module("redis")
    with contextlib.closing(redis.Redis(spec["hostname"], spec["port"])) as client:
        return int(client.dbsize())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "redis"])
@pytest.mark.parametrize("given", ["class path", "instance", "in a MultiConnector"])
def test_five_paths(kind: str, given: str, tmp_path: Path, request: Any) -> None:
    theirs("connectors")
    spec = spec_of(kind, tmp_path, request)
    own: Any = None
    connector: Any = spec
    if given == "instance":
        connector = own = instance(spec)
    elif given == "in a MultiConnector":
        connector = {
            "class": "daskref.connectors:MultiConnector",
            "connectors": {
                "theirs": {"connector": spec, "policy": {"type-names": ["numpy.*"]}},
                "rest": {"connector": "shm://", "policy": {"priority": -1}},
            },
        }
    before = stored(spec)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        daskref.Client(cluster, connector=connector) as client,
    ):
        base = stored(spec)
        assert base == before + 1  # what processes that join look for
        first, second = client.scheduler_info()["workers"]
        seen = [("ndarray", SUM)]
        x = large()
        # literals
        assert client.submit(describe, x).result() == seen
        assert stored(spec) > base
        assert client.gather(client.map(describe, [x, x], pure=False)) == [seen] * 2
        assert dask.delayed(describe)(x).compute() == seen
        array = da.from_array(np.arange(1 << 19, dtype=float), chunks=1 << 18)
        assert array.sum().compute() == np.arange(1 << 19, dtype=float).sum()
        # scatter
        for broadcast in (False, True):
            future = client.scatter(x, broadcast=broadcast)
            for worker in (first, second):
                again = client.submit(describe, future, workers=[worker], pure=False)
                assert again.result() == seen
        np.testing.assert_array_equal(future.result(), x)
        # worker to worker, worker to client
        made = client.submit(make, 1.0, workers=[first])
        moved = client.submit(describe, made, workers=[second])
        assert moved.result() == seen
        result = made.result()
        result += 1
        assert made.result()[0] == 1
        # actors, and what Dask runs
        actor = client.submit(Accumulator, actor=True).result()
        assert type(actor.add(x).result()) is np.ndarray
        assert actor.add(x).result()[0] == 2
        ran = client.run(make)
        assert [type(value) for value in ran.values()] == [np.ndarray] * 2
        stats = daskref.stats(client)
        assert stats["puts"] >= 5
        assert stats["fallbacks"] == 0
        # another client comes and goes: nothing is lost
        with daskref.Client(cluster, set_as_default=False) as other:
            assert other.submit(describe, x, pure=False).result() == seen
        assert made.result()[0] == 1
        del future, again, made, moved, actor, array, other, ran, result, x
        gc.collect()
        wait_until(lambda: not client.futures, "no futures")
        wait_until(lambda: stored(spec) == base, "everything deleted")
    if own is not None:
        own.close()
    if kind == "file":
        assert stored(spec) == 0  # its class deletes the directory when it is closed
