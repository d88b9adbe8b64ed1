"""The explicit API of stores: proxies, batches, serializers, single use, the log."""

from __future__ import annotations

import json
import logging
import pickle
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from daskref import Store, get_factory, get_key
from daskref.connectors import FileConnector, LocalConnector, SharedMemoryConnector
from daskref.exceptions import (
    ConnectorError,
    NotProxiableError,
    ResolveError,
    WireError,
)
from daskref.proxy import Proxy, extract, is_resolved, resolve
from tests.store.test_store import ProxyStoreConnector


@pytest.fixture(params=["local", "shm", "file", "proxystore"])
def store(request: Any, tmp_path: Any) -> Iterator[Store]:
    connector: Any = {
        "local": LocalConnector,
        "shm": SharedMemoryConnector,
        "file": lambda: FileConnector(tmp_path / "store"),
        "proxystore": lambda: ProxyStoreConnector(uuid.uuid4().hex),
    }[request.param]()
    with Store("api", connector, register=True) as store:
        yield store


@pytest.fixture
def local() -> Iterator[Store]:
    with Store("api", LocalConnector(), register=True) as store:
        yield store


def copied(proxy: Any) -> Any:
    return pickle.loads(pickle.dumps(proxy))


def gets(store: Store) -> int:
    return store.counters.snapshot()["gets"]


class Lifetime:
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.stores: set[Store] = set()

    def add_key(self, *keys: Any, store: Store | None = None) -> None:
        assert store is not None
        self.keys += keys
        self.stores.add(store)


class Ended(Lifetime):
    def add_key(self, *keys: Any, store: Store | None = None) -> None:
        raise RuntimeError("the lifetime has ended")


class TestProxy:
    @pytest.mark.parametrize("populate", [True, False, None])
    def test_populating(self, store: Store, populate: bool | None) -> None:
        x = np.arange(10)
        proxy = store.proxy(x, populate_target=populate)
        assert is_resolved(proxy) is (populate is not False)
        np.testing.assert_array_equal(copied(proxy), x)
        if populate is not False:
            assert extract(proxy) is x

    def test_resolving_goes_through_the_cache(self, store: Store) -> None:
        proxy = store.proxy([1], populate_target=False)
        first, second = copied(proxy), copied(proxy)
        assert extract(first) is extract(second) is store.get(get_key(proxy))
        assert gets(store) == 1
        assert store.is_cached(get_key(proxy))

    def test_without_a_cache_each_has_its_own(self) -> None:
        with Store("api", LocalConnector(), cache_size=0, register=True) as store:
            proxy = store.proxy([1])
            assert extract(copied(proxy)) is not extract(copied(proxy))

    @pytest.mark.parametrize("value", [None, True, False])
    def test_what_a_proxy_cannot_stand_for(self, local: Store, value: Any) -> None:
        with pytest.raises(NotProxiableError, match="skip_nonproxiable"):
            local.proxy(value)
        assert local.proxy(value, skip_nonproxiable=True) is value
        with pytest.raises(NotProxiableError):
            local.proxy_batch([1, value])
        first, second = local.proxy_batch([value, [1]], skip_nonproxiable=True)
        assert first is value
        assert second == [1]
        assert local.counters.snapshot()["puts"] == 1

    def test_evict_or_a_lifetime(self, local: Store) -> None:
        for call in (local.proxy, local.proxy_batch, local.proxy_from_key):
            with pytest.raises(ValueError, match="exclude each other"):
                call(("x",), evict=True, lifetime=Lifetime())  # type: ignore[operator]
        assert local.counters.snapshot()["puts"] == 0

    def test_from_a_key(self, store: Store) -> None:
        proxy = store.proxy_from_key(store.put({"a": 1}))
        assert not is_resolved(proxy)
        assert repr(proxy) == "<Proxy, not resolved>"
        assert "Reference at" in repr(get_factory(proxy))
        assert copied(proxy)["a"] == 1
        assert isinstance(proxy, dict)

    def test_from_a_key_of_nothing(self, store: Store) -> None:
        key = store.put(1)
        store.evict(key)
        with pytest.raises(ResolveError, match="evicted"):
            resolve(store.proxy_from_key(key))

    def test_of_a_proxy(self, local: Store) -> None:
        inner = local.proxy([1, 2])
        outer = local.proxy(inner, populate_target=False)
        assert sum(copied(outer)) == 3

    def test_batches(self, store: Store) -> None:
        objs: list[Any] = [[1], "text", np.arange(5)]
        proxies = store.proxy_batch(objs)
        assert all(map(is_resolved, proxies))
        for proxy, obj in zip(proxies, objs, strict=True):
            assert isinstance(copied(proxy), type(obj))
            assert list(copied(proxy)) == list(obj)
        assert store.proxy_batch([]) == []

    def test_lifetimes(self, store: Store) -> None:
        lifetime = Lifetime()
        keys = [store.put(1, lifetime=lifetime)]
        keys += store.put_batch([2, 3], lifetime=lifetime)
        keys.append(get_key(store.proxy([4], lifetime=lifetime)))
        keys += map(get_key, store.proxy_batch([[5], [6]], lifetime=lifetime))
        store.proxy_from_key(keys[0], lifetime=lifetime)
        assert lifetime.keys == [*keys, keys[0]]
        assert lifetime.stores == {store}

    def test_nothing_remains_if_a_lifetime_has_ended(self) -> None:
        with Store("api", LocalConnector()) as store:
            for call in (
                lambda: store.put(1, lifetime=Ended()),
                lambda: store.put_batch([1, 2], lifetime=Ended()),
                lambda: store.proxy([1], lifetime=Ended()),
            ):
                with pytest.raises(RuntimeError, match="has ended"):
                    call()
            assert store.connector.usage().objects == 0


class TestKeys:
    def test_batches(self, store: Store) -> None:
        keys = store.put_batch([[1], "text", 3])
        assert len(set(keys)) == 3
        assert list(map(store.get, keys)) == [[1], "text", 3]
        assert store.counters.snapshot()["puts"] == 3
        assert store.put_batch([]) == []

    def test_a_batch_is_one_round_trip_where_that_is_possible(
        self, monkeypatch: Any
    ) -> None:
        batches: list[int] = []
        put_batch = ProxyStoreConnector.put_batch

        def counted(self: Any, objs: Any) -> Any:
            batches.append(len(objs))
            return put_batch(self, objs)

        monkeypatch.setattr(ProxyStoreConnector, "put_batch", counted)
        connector: Any = ProxyStoreConnector(uuid.uuid4().hex)
        with Store("api", connector) as store:
            store.put_batch([1, 2, 3])
            store.proxy_batch([[1], [2]])
        assert batches == [3, 2]

    def test_errors_of_a_batch_become_ours(self, monkeypatch: Any) -> None:
        def fail(self: Any, objs: Any) -> Any:
            raise OSError("no route to host")

        monkeypatch.setattr(ProxyStoreConnector, "put_batch", fail)
        connector: Any = ProxyStoreConnector(uuid.uuid4().hex)
        with (
            Store("api", connector) as store,
            pytest.raises(ConnectorError, match="no route to host"),
        ):
            store.put_batch([1, 2])

    @pytest.mark.parametrize("method", ["put_batch", "proxy_batch"])
    def test_nothing_remains_of_a_batch_that_fails(
        self, local: Store, method: str
    ) -> None:
        with pytest.raises(NotProxiableError, match="lock"):
            getattr(local, method)([[1], [2], threading.Lock()])
        assert local.connector.usage().objects == 0

    def test_an_eviction_while_an_object_is_read(self, local: Store) -> None:
        key = local.put([1])
        get = local.connector.get

        def evicted_meanwhile(key: Any) -> Any:
            data = get(key)
            local.evict(key)
            return data

        local.connector.get = evicted_meanwhile  # type: ignore[method-assign]
        assert local.get(key) == [1]
        assert not local.is_cached(key)
        assert local.get(key) is None

    def test_keywords_for_the_connector(self, local: Store) -> None:
        class Tagged(ProxyStoreConnector):
            tags: list[Any] = []  # noqa: RUF012

            def put(self, obj: bytes, tag: str = "") -> Any:
                self.tags.append(tag)
                return super().put(obj)

            def put_batch(self, objs: Any, tag: str = "") -> Any:
                return [self.put(obj, tag) for obj in objs]

        connector: Any = Tagged(uuid.uuid4().hex)
        with Store("tagged", connector) as store:
            store.put(1, tag="a")
            store.proxy([1], tag="b")
            store.put_batch([1, 2], tag="c")
        assert Tagged.tags == ["a", "b", "c", "c"]
        with pytest.raises(TypeError, match=r"LocalConnector.*subset_tags"):
            local.put(1, subset_tags=["a"])

    def test_hints(self) -> None:
        class Hinted(LocalConnector):
            takes_hints = True
            seen: list[Any] = []  # noqa: RUF012

            def put_frames(self, frames: Any, **hints: Any) -> Any:
                self.seen.append(hints)
                return super().put_frames(frames)

        with Store("hinted", Hinted()) as store:
            store.put(np.arange(3), tag="x")
            store.proxy_batch([[1], "a"])
        assert Hinted.seen == [
            {"type_name": "numpy.ndarray", "tag": "x"},
            {"type_name": "builtins.list"},
            {"type_name": "builtins.str"},
        ]


def to_json(obj: Any) -> bytes:
    return json.dumps(obj).encode()


class TestSerializers:
    def test_per_call(self, store: Store) -> None:
        key = store.put([1], serializer=to_json)
        assert store.get(key, deserializer=json.loads) == [1]
        assert not store.is_cached(key)
        assert bytes(store.connector.get(key)) == b"[1]"  # type: ignore[arg-type]
        with pytest.raises(WireError):
            store.get(key)

    def test_a_view_of_one_is_not_taken_for_another(self, local: Store) -> None:
        key = local.put([1])
        assert type(local.get(key, deserializer=bytes)) is bytes
        assert local.get(key) == [1]
        assert type(local.get(key, deserializer=bytes)) is bytes

    def test_deserializers_get_bytes(self, store: Store) -> None:
        seen: list[type] = []
        key = store.put([1], serializer=to_json)
        store.get(key, deserializer=lambda data: seen.append(type(data)))
        assert seen == [bytes]

    @pytest.mark.parametrize("populate", [True, False])
    def test_a_proxy_shows_what_a_reader_will_see(
        self, store: Store, populate: bool
    ) -> None:
        data = pickle.dumps([1, 2, 3])
        proxy = store.proxy(
            data,
            serializer=lambda s: s,
            deserializer=pickle.loads,
            populate_target=populate,
        )
        assert is_resolved(proxy) is populate
        other = copied(proxy)
        for each in (proxy, other):
            assert each == [1, 2, 3]
            assert isinstance(each, list)
            assert len(each) == 3

    def test_what_is_known_is_of_the_view(self, store: Store) -> None:
        proxy = store.proxy(
            (3, 4),
            serializer=to_json,
            deserializer=lambda data: tuple(json.loads(data)),
        )
        other = copied(proxy)
        assert isinstance(other, tuple)
        assert len(other) == 2
        assert hash(other) == hash((3, 4))
        assert not is_resolved(other)

    def test_a_private_object(self, store: Store) -> None:
        made: Any = get_factory(
            store.proxy_from_key(store.put([1], serializer=to_json), deserializer=eval)
        )
        made.shared = False
        assert made() == [1]
        assert made() is not made()

    def test_a_deserializer_that_fails(self, store: Store) -> None:
        with pytest.raises(WireError, match="could not be deserialized"):
            store.proxy([1], deserializer=json.loads)
        if isinstance(store.connector, LocalConnector):
            assert store.connector.usage().objects == 0
        proxy = store.proxy([1], deserializer=json.loads, populate_target=False)
        with pytest.raises(ResolveError, match="could not be deserialized"):
            resolve(proxy)

    def test_a_serializer_that_returns_no_bytes(self, local: Store) -> None:
        for call in (local.put, local.proxy):
            with pytest.raises(TypeError, match="bytes or another buffer, not str"):
                call([1], serializer=json.dumps)
        assert local.connector.usage().objects == 0

    @pytest.mark.slow
    def test_of_a_store_reach_other_processes(self, tmp_path: Any) -> None:
        prefix = "stored: "
        with Store(
            "own",
            FileConnector(tmp_path / "store"),
            serializer=lambda obj: (prefix + obj).encode(),
            deserializer=lambda data: data.decode(),
            cache_size=3,
            populate_target=False,
            metrics=True,
        ) as store:
            out = in_a_second_process(
                "import daskref\n"
                "store = daskref.get_store(given)\n"
                "print(given, store.config() == config, store.metrics is not None)",
                given=store.proxy("täxt"),
                config=pickle.loads(pickle.dumps(store.config())),
            )
        assert out == "stored: täxt True True"

    def test_unpickling_loads_no_function(self, local: Store) -> None:
        proxy = local.proxy_from_key(local.put([1]), deserializer=Unloadable())
        assert not is_resolved(copied(proxy))
        with pytest.raises(ResolveError, match="loaded too early"):
            resolve(copied(proxy))


class Unloadable:
    """Stands for a function whose module this process does not have."""

    def __call__(self, data: Any) -> Any:
        return data

    def __reduce__(self) -> Any:
        return fail_to_load, ()


def fail_to_load() -> Any:
    raise ImportError("loaded too early")


def in_a_second_process(code: str, **names: Any) -> str:
    """Run code in a new Python process, with names, and return what it prints."""
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pickle, sys; names = pickle.load(sys.stdin.buffer);"
            "exec(names.pop('code'), names)",
        ],
        input=pickle.dumps({"code": code, **names}),
        capture_output=True,
        timeout=60,
    )
    assert not child.returncode, child.stderr.decode()
    return child.stdout.decode().strip()


class TestSingleUse:
    def test_resolving_deletes(self, store: Store) -> None:
        proxy = store.proxy(np.arange(5), evict=True, populate_target=False)
        assert store.exists(get_key(proxy))
        assert proxy.sum() == 10
        assert not store.exists(get_key(proxy))
        assert proxy.sum() == 10
        assert not store.is_cached(get_key(proxy))

    def test_positionally(self, local: Store) -> None:
        assert get_factory(local.proxy([1], True)).once  # type: ignore[attr-defined]

    def test_the_creator_keeps_its_own(self, store: Store) -> None:
        proxy = store.proxy([1], evict=True)
        assert proxy == [1]
        assert store.exists(get_key(proxy))
        assert copied(proxy) == [1]
        assert proxy == [1]

    def test_the_loser_is_told(self, store: Store) -> None:
        proxy = store.proxy({"a": 1}, evict=True, populate_target=False)
        loser = copied(proxy)
        resolve(proxy)
        for _ in range(2):
            with pytest.raises(ResolveError, match="single-use") as caught:
                resolve(loser)
            assert repr(get_key(proxy)) in str(caught.value)
            assert "builtins.dict" in str(caught.value)

    @pytest.mark.parametrize("kind", ["proxy", "proxy_from_key"])
    def test_of_many_copies_in_threads_one_gets_it(
        self, store: Store, kind: str
    ) -> None:
        for _ in range(20):
            proxy = (
                store.proxy([1, 2], evict=True, populate_target=False)
                if kind == "proxy"
                else store.proxy_from_key(store.put([1, 2]), evict=True)
            )
            copies = [copied(proxy) for _ in range(8)]
            start = threading.Barrier(8, timeout=10)

            def race(each: Any, start: threading.Barrier = start) -> Any:
                start.wait()
                try:
                    return sum(each)
                except ResolveError as exc:
                    return str(exc)

            with ThreadPoolExecutor(8) as executor:
                found = list(executor.map(race, copies))
            assert found.count(3) == 1
            assert sum("single-use" in str(each) for each in found) == 7
            assert not store.exists(get_key(proxy))

    @pytest.mark.slow
    @pytest.mark.parametrize("store", ["shm", "file"], indirect=True)
    def test_of_many_copies_in_processes_one_gets_it(self, store: Store) -> None:
        proxies = [
            store.proxy([number], evict=True, populate_target=False)
            for number in range(300)
        ]
        code = (
            "from daskref.exceptions import ResolveError\n"
            "print('ready', flush=True)\n"
            "sys.stdin.buffer.read(1)\n"
            "for number, proxy in enumerate(proxies):\n"
            "    try:\n"
            "        assert proxy == [number]\n"
            "        print(number)\n"
            "    except ResolveError as exc:\n"
            "        assert 'single-use' in str(exc)\n"
        )
        data = pickle.dumps({"code": code, "proxies": proxies, "sys": sys.__name__})
        children = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "import pickle, sys; names = pickle.load(sys.stdin.buffer);"
                    "exec(names.pop('code'), {**names, 'sys': sys})",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        try:
            for child in children:
                assert child.stdin is not None
                child.stdin.write(data)
                child.stdin.flush()
            for child in children:
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
            for child in children:
                assert child.stdin is not None
                child.stdin.write(b"g")
                child.stdin.flush()
            outputs = [child.communicate(timeout=60)[0] for child in children]
        finally:
            for child in children:
                child.kill()
                child.communicate()
        assert not any(child.returncode for child in children)
        won = [list(map(int, output.split())) for output in outputs]
        assert sorted(number for each in won for number in each) == list(range(300))
        assert not any(store.exists(get_key(proxy)) for proxy in proxies)


class TestLog:
    def messages(self, caplog: Any, level: int) -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelno == level and record.name.startswith("daskref.store")
        ]

    def test_each_operation(self, store: Store, caplog: Any) -> None:
        with caplog.at_level(logging.DEBUG, "daskref"):
            key = store.put([1])
            store.get(key)
            store.get(key)
            store.proxy_from_key(key)
            store.evict(key)
            proxy = store.proxy([1, 2], evict=True, populate_target=False)
            resolve(proxy)
            other, *_ = store.put_batch([1, 2])
        seen = [
            re.sub(r"\d+\.\d{3} ms", "T", message)
            for message in self.messages(caplog, logging.DEBUG)
        ]
        expected = [
            f"PUT {key!r} in T, N bytes",
            f"GET {key!r} in T, N bytes (cached=False)",
            f"GET {key!r} in T (cached=True)",
            f"PROXY_FROM_KEY {key!r} in T",
            f"EVICT {key!r} in T",
            f"PUT {get_key(proxy)!r} in T, N bytes",
            f"PROXY {get_key(proxy)!r} in T",
            f"GET {get_key(proxy)!r} in T, N bytes (cached=False)",
            f"EVICT {get_key(proxy)!r} in T",
        ]
        got = [re.sub(r"\d+ bytes", "N bytes", line) for line in seen]
        assert got[:9] == [f"Store 'api': {line}" for line in expected]
        assert len(got) == 11
        assert got[9].startswith(f"Store 'api': PUT {other!r} in T, N bytes")

    def test_stores(self, caplog: Any) -> None:
        with caplog.at_level(logging.INFO, "daskref"):
            store = Store("logged", LocalConnector(), register=True)
            store.put(1)
            store.close()
            store.close()
        assert self.messages(caplog, logging.INFO) == [
            "Registered a store named 'logged'",
            f"Initialized {store!r}",
            "Unregistered a store named 'logged'",
        ]

    def test_secrets_are_masked(self, caplog: Any, monkeypatch: Any) -> None:
        url = "redis://user:hunter2@host/0"
        monkeypatch.setattr(ProxyStoreConnector, "__repr__", lambda self: f"<{url}>")
        monkeypatch.setattr(
            ProxyStoreConnector, "put", lambda self, obj: (f"{url}?password=hunter2",)
        )
        connector: Any = ProxyStoreConnector(uuid.uuid4().hex)
        with (
            caplog.at_level(logging.DEBUG, "daskref"),
            Store("secret", connector) as store,
        ):
            key = store.put(1)
            assert store.get(key) is None
            store.evict(key)
            assert "hunter2" not in repr(store)
            monkeypatch.setattr(ProxyStoreConnector, "put", None)
            with pytest.raises(ConnectorError) as caught:
                store.put(1)
        assert "hunter2" not in str(caught.value)
        assert "redis://***@host/0" in caplog.text
        assert "hunter2" not in caplog.text


def test_arguments_of_close_go_to_the_connector(monkeypatch: Any) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        ProxyStoreConnector, "close", lambda self, clear=False: seen.append(clear)
    )
    connector: Any = ProxyStoreConnector(uuid.uuid4().hex)
    store = Store("closed", connector)
    store.close(clear=True)
    assert seen == [True]


def test_owned_proxies(local: Store) -> None:
    owner = local.owned_proxy([1, 2], populate_target=False)
    assert not is_resolved(owner)
    assert owner == [1, 2]
    assert local.owned_proxy(None) is None
    del owner
    assert local.connector.usage().objects == 0


def test_a_proxy_is_a_proxy(local: Store) -> None:
    assert isinstance(local.proxy([1]), Proxy)
