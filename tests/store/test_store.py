"""Stores, and the registry of stores by name."""

from __future__ import annotations

import gc
import pickle
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import daskref
from daskref.connectors import FileConnector, LocalConnector, SharedMemoryConnector
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorError,
    MissingKeyError,
    NotProxiableError,
    ResolveError,
)
from daskref.objects.reference import StoreConfig
from daskref.proxy import Proxy, extract, get_factory, is_resolved, resolve
from daskref.store import Store
from daskref.store.factory import (
    FailedFactory,
    StoreFactory,
    is_transparent,
    resolve_reference,
    reveal,
)
from daskref.store.registry import (
    get_or_create_store,
    get_store,
    register_store,
    unregister_store,
)


@pytest.fixture(params=["local", "shm", "file"])
def connector(request: Any, tmp_path: Any) -> Any:
    if request.param == "local":
        return LocalConnector()
    if request.param == "shm":
        return SharedMemoryConnector()
    return FileConnector(tmp_path / "store")


@pytest.fixture
def store(connector: Any) -> Iterator[Store]:
    with Store("test", connector, register=True) as store:
        yield store


@pytest.fixture
def local() -> Iterator[Store]:
    with Store("local", LocalConnector(), register=True) as store:
        yield store


def gets(store: Store) -> int:
    return store.counters.snapshot()["gets"]


class TestObjects:
    def test_put_get_exists_evict(self, store: Store) -> None:
        x = np.arange(1000)
        key = store.put(x)
        assert store.exists(key)
        np.testing.assert_array_equal(store.get(key), x)
        store.evict(key)
        assert not store.exists(key)
        assert store.get(key) is None
        assert store.get(key, "nothing") == "nothing"
        store.evict(key)  # silent

    @pytest.mark.parametrize("obj", [None, 0, "", [], b"", {"a": [1, (2,)]}], ids=repr)
    def test_any_object(self, local: Store, obj: Any) -> None:
        assert local.get(local.put(obj), "default") == obj

    def test_every_put_is_a_new_object(self, local: Store) -> None:
        assert local.put([1]) != local.put([1])

    def test_what_does_not_serialize(self, store: Store) -> None:
        with pytest.raises(NotProxiableError, match="lock"):
            store.put(threading.Lock())
        assert store.counters.snapshot()["puts"] == 0

    def test_counts(self, store: Store) -> None:
        key = store.put([1])
        store.get(key)
        store.get(key)  # from the cache
        store.evict(key)
        counts = store.counters.snapshot()
        assert (counts["puts"], counts["gets"], counts["evictions"]) == (1, 1, 1)

    def test_own_serializer(self) -> None:
        with Store(
            "own",
            LocalConnector(),
            serializer=lambda obj: obj.encode(),
            deserializer=lambda data: bytes(data).decode(),
        ) as store:
            assert store.get(store.put("täxt")) == "täxt"

    def test_arguments_that_make_no_sense(self) -> None:
        with LocalConnector() as connector:
            with pytest.raises(ValueError, match="cache_size=-1"):
                Store("x", connector, cache_size=-1)
            with pytest.raises(ValueError, match="serializer and deserializer"):
                Store("x", connector, serializer=pickle.dumps)


class TestCache:
    def test_one_shared_object_per_key(self, local: Store) -> None:
        key = local.put([1])
        assert not local.is_cached(key)
        assert local.get(key) is local.get(key)
        assert local.is_cached(key)
        local.evict(key)
        assert not local.is_cached(key)

    def test_none_is_cached_too(self, local: Store) -> None:
        key = local.put(None)
        assert local.get(key, 1) is None
        assert local.get(key, 1) is None
        assert gets(local) == 1

    def test_the_size_is_a_limit(self) -> None:
        with Store("cache", LocalConnector(), cache_size=2) as store:
            keys = [store.put(i) for i in range(3)]
            assert [store.get(key) for key in keys] == [0, 1, 2]
            assert [store.is_cached(key) for key in keys] == [False, True, True]
            store.get(keys[1])  # used last
            store.get(keys[0])
            assert [store.is_cached(key) for key in keys] == [True, True, False]

    def test_no_cache(self) -> None:
        with Store("cache", LocalConnector(), cache_size=0) as store:
            key = store.put([1])
            assert store.get(key) is not store.get(key)
            assert not store.is_cached(key)

    def test_threads(self) -> None:
        with Store("cache", LocalConnector(), cache_size=4) as store:
            keys = [store.put(i) for i in range(20)]
            with ThreadPoolExecutor(8) as executor:
                found = list(executor.map(store.get, keys * 20))
            assert found == list(range(20)) * 20
            assert sum(map(store.is_cached, keys)) == 4


class TestProxies:
    def test_resolved_to_the_very_object(self, store: Store) -> None:
        x = np.arange(10)
        proxy = store.proxy(x)
        assert is_resolved(proxy)
        assert extract(proxy) is x
        assert gets(store) == 0

    def test_travels_as_a_reference(self, store: Store) -> None:
        x = np.arange(100_000)
        data = pickle.dumps(store.proxy(x))
        assert len(data) < 2000
        proxy = pickle.loads(data)
        assert not is_resolved(proxy)
        assert proxy.shape == (100_000,)
        np.testing.assert_array_equal(proxy, x)
        assert gets(store) == 1

    def test_without_populating(self) -> None:
        with Store(
            "lazy", LocalConnector(), populate_target=False, register=True
        ) as store:
            proxy = store.proxy([1])
            assert not is_resolved(proxy)
            assert proxy == [1]

    def test_what_was_evicted(self, local: Store) -> None:
        proxy = pickle.loads(pickle.dumps(local.proxy([1])))
        local.evict(get_factory(proxy).reference.key)
        with pytest.raises(ResolveError, match="evicted") as caught:
            resolve(proxy)
        assert isinstance(caught.value.__cause__, MissingKeyError)
        assert not is_resolved(proxy)

    def test_the_objects_own_size_is_known(self, local: Store) -> None:
        reference = local.put_reference(np.zeros(1000), "token")
        assert reference.nbytes >= 8000
        assert reference.metadata.token == "token"
        assert reference.store == local.config()


class OddShape:
    """An instance that raises where one only looks."""

    @property
    def shape(self) -> Any:
        raise RuntimeError("not known before the first fit")


def test_objects_whose_attributes_raise(local: Store) -> None:
    reference = local.put_reference(OddShape())
    assert type(resolve_reference(reference)) is OddShape
    assert reference.metadata.shape is None


def test_what_cannot_be_described_is_stored_all_the_same(local: Store) -> None:
    class Instance:
        lock = threading.Lock()  # the class does not pickle, though its instances do

        def __reduce__(self) -> Any:
            return str, ()

    reference = local.put_reference(Instance())
    assert not reference.metadata.known
    assert local.get_reference(reference) == ""


class TestReferences:
    def test_a_new_private_object_each_time(self, store: Store) -> None:
        reference = store.put_reference(np.zeros(1000))
        first, second = map(store.get_reference, [reference, reference])
        first += 1
        assert second[0] == 0
        assert store.get_reference(reference)[0] == 0

    def test_missing(self, store: Store) -> None:
        reference = store.put_reference([1])
        store.evict(reference.key)
        with pytest.raises(MissingKeyError) as caught:
            store.get_reference(reference)
        assert caught.value.key == reference.key

    def test_what_is_read_lives_on_when_it_is_evicted(self, store: Store) -> None:
        x = np.arange(100_000.0)
        reference = store.put_reference(x)
        found = store.get_reference(reference)
        store.evict(reference.key)
        store.put_reference(np.zeros(100_000))  # may take the same pages
        np.testing.assert_array_equal(found, x)

    @pytest.mark.parametrize("token", [None, "known"])
    def test_relink(self, store: Store, token: Any) -> None:
        x = np.arange(1000.0)
        from daskref.objects.codec import encode

        reference = store.put_reference(x, encode(x).token if token else None)
        found = store.get_reference(reference)
        again = store.provenance.relink(found)
        assert again is not None
        assert again.key != reference.key
        assert store.counters.snapshot()["puts"] == 1
        # each has a life of its own
        store.evict(reference.key)
        np.testing.assert_array_equal(store.get_reference(again), x)

    def test_relink_refuses_what_is_not_the_same_any_more(self, store: Store) -> None:
        reference = store.put_reference(np.zeros(1000))
        found = store.get_reference(reference)
        assert store.provenance.relink(np.zeros(1000)) is None  # another object
        assert store.provenance.relink(5) is None
        found[0] = 1
        assert store.provenance.relink(found) is None
        found[0] = 0
        store.evict(reference.key)
        assert store.provenance.relink(found) is None

    def test_origins_are_forgotten_with_the_objects(self, store: Store) -> None:
        found = store.get_reference(store.put_reference(np.zeros(1000)))
        assert len(store.provenance) == 1
        del found
        gc.collect()
        assert not store.provenance

    def test_objects_without_weak_references_are_not_remembered(
        self, local: Store
    ) -> None:
        found = local.get_reference(local.put_reference([1]))
        assert not local.provenance
        assert local.provenance.relink(found) is None


class TestFactories:
    def test_reveal(self, local: Store) -> None:
        reference = local.put_reference(np.zeros(10))
        inside = Proxy(StoreFactory(reference, transparent=True))
        assert is_transparent(inside)
        first, second = reveal(inside), reveal(inside)
        assert type(first) is np.ndarray
        assert first is not second
        assert not is_resolved(inside)
        users = Proxy(StoreFactory(reference))
        assert not is_transparent(users)
        assert reveal(users) is users
        for other in (1, None, Proxy(list)):
            assert reveal(other) is other

    def test_once(self, local: Store) -> None:
        reference = local.put_reference([1])
        proxy = pickle.loads(pickle.dumps(Proxy(StoreFactory(reference, once=True))))
        assert proxy == [1]
        assert not local.exists(reference.key)
        assert proxy == [1]

    def test_failed(self) -> None:
        error = ConnectorError("<connector>", "it is full")
        proxy = pickle.loads(pickle.dumps(Proxy(FailedFactory(error))))
        assert is_transparent(proxy)
        with pytest.raises(ConnectorError, match="it is full"):
            reveal(proxy)

    def test_an_unreachable_store_says_what_to_know(self) -> None:
        config = StoreConfig(
            "gone",
            "daskref.connectors.local:LocalConnector",
            (("id", uuid.uuid4().hex),),
        )
        with Store("here", LocalConnector()) as store:
            reference = store.put_reference([1])
        reference = type(reference)(reference.key, config, reference.metadata)
        with pytest.raises(ResolveError, match="cannot reach its store"):
            resolve_reference(reference)
        assert get_store("gone") is None


class TestRegistry:
    def test_by_name(self, local: Store) -> None:
        assert get_store("local") is local
        assert get_store("no such store") is None
        register_store(local)  # again: silent
        with Store("local", LocalConnector()) as other:
            with pytest.raises(ValueError, match="'local' is registered already"):
                register_store(other)
            with pytest.raises(ValueError, match="registered already"):
                Store("local", other.connector, register=True)
            register_store(other, exist_ok=True)
            assert get_store("local") is other
        assert get_store("local") is None  # closing unregisters
        unregister_store("local")  # silent

    def test_closing_one_leaves_another_of_its_name(self, local: Store) -> None:
        other = Store("local", LocalConnector())
        other.close()
        assert get_store("local") is local

    def test_one_store_is_made_however_many_threads_ask(
        self, local: Store, monkeypatch: Any
    ) -> None:
        unregister_store("local")
        made = []
        start = threading.Barrier(8, timeout=10)

        def from_config(config: StoreConfig) -> Store:
            made.append(store := original(config))
            return store

        original = Store.from_config
        monkeypatch.setattr(Store, "from_config", from_config)

        def ask(_: int) -> Store:
            start.wait()
            return get_or_create_store(local.config())

        with ThreadPoolExecutor(8) as executor:
            found = set(executor.map(ask, range(8)))
        assert found == set(made)
        (store,) = found
        assert store is not local
        assert store.connector is not local.connector
        key = local.put([1])
        assert store.get(key) == [1]  # the same place
        store.close()

    def test_config_round_trip(self, store: Store) -> None:
        config = pickle.loads(pickle.dumps(store.config()))
        assert get_or_create_store(config) is store
        key = store.put([1])
        with Store.from_config(config) as other:
            assert other is not store
            assert other.config() == config
            assert other.get(key) == [1]
        assert store.get(key) == [1]
        assert get_store("test") is store

    def test_close_is_idempotent_and_final(self, connector: Any) -> None:
        store = Store("closed", connector, register=True)
        key = store.put([1])
        store.close()
        store.close()
        assert get_store("closed") is None
        assert not store.is_cached(key)
        for call in (store.get, store.exists, store.evict, store.put):
            with pytest.raises(ConnectorClosedError):
                call(key)

    def test_repr(self, local: Store) -> None:
        assert repr(local).startswith("<Store 'local' on <LocalConnector")


class ProxyStoreConnector:
    """Has what ProxyStore's connector protocol has, and nothing more."""

    places: dict[str, dict[Any, bytes]] = {}  # noqa: RUF012

    def __init__(self, place: str) -> None:
        self.place = place
        self.objects = self.places.setdefault(place, {})

    def __repr__(self) -> str:
        return f"ProxyStoreConnector({self.place!r})"

    def put(self, obj: bytes) -> Any:
        assert isinstance(obj, bytes)
        key = (uuid.uuid4().hex,)
        self.objects[key] = obj
        return key

    def put_batch(self, objs: Any) -> Any:
        return [self.put(obj) for obj in objs]

    def get(self, key: Any) -> bytes | None:
        return self.objects.get(key)

    def get_batch(self, keys: Any) -> Any:
        return [self.get(key) for key in keys]

    def exists(self, key: Any) -> bool:
        return key in self.objects

    def evict(self, key: Any) -> None:
        self.objects.pop(key, None)

    def config(self) -> dict[str, Any]:
        return {"place": self.place}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ProxyStoreConnector:
        return cls(**config)

    def close(self, clear: bool = False) -> None:
        pass


class TestProxyStoreConnectors:
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        connector: Any = ProxyStoreConnector(uuid.uuid4().hex)
        with Store("proxystore", connector, register=True) as store:
            yield store

    def test_everything_that_a_store_does(self, store: Store) -> None:
        x = np.arange(1000.0)
        key = store.put(x)
        np.testing.assert_array_equal(store.get(key), x)
        proxy = pickle.loads(pickle.dumps(store.proxy(x)))
        np.testing.assert_array_equal(proxy, x)
        proxy += 1  # its own copy
        reference = store.put_reference(x)
        found = store.get_reference(reference)
        assert found.flags.writeable
        assert store.provenance.relink(found) is None  # no links: it is put again
        store.evict(key)
        assert not store.exists(key)

    def test_config_round_trip(self, store: Store) -> None:
        with Store.from_config(store.config()) as other:
            assert other.get(store.put([1])) == [1]

    def test_its_own_errors_become_ours(self, store: Store, monkeypatch: Any) -> None:
        def fail(self: Any, obj: Any) -> Any:
            raise OSError("no route to host")

        monkeypatch.setattr(ProxyStoreConnector, "put", fail)
        with pytest.raises(ConnectorError, match="no route to host"):
            store.put([1])

    def test_errors_of_a_get_become_ours(self, store: Store, monkeypatch: Any) -> None:
        def fail(self: Any, key: Any) -> Any:
            raise OSError("no route to host")

        proxy = pickle.loads(pickle.dumps(store.proxy([1])))
        monkeypatch.setattr(ProxyStoreConnector, "get", fail)
        with pytest.raises(ConnectorError, match="no route to host"):
            store.get(("key",))
        with pytest.raises(ResolveError, match="no route to host"):
            resolve(proxy)

    def test_in_a_cluster_of_one_process(self) -> None:
        path = f"{__name__}:ProxyStoreConnector"
        with daskref.Client(
            processes=False,
            dashboard_address=":0",
            connector={"class": path, "place": uuid.uuid4().hex},
        ) as client:
            x = np.ones(1 << 18)
            assert client.submit(np.sum, x).result() == 1 << 18
            assert client.scatter(x).result()[0] == 1
            assert type(client.run_on_scheduler(lambda: np.ones(1 << 18))) is np.ndarray
