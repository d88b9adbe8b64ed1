"""The registry of stores."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daskref import (
    Proxy,
    Store,
    get_key,
    get_or_create_store,
    get_store,
    is_resolved,
    register_store,
    store_registration,
    unregister_store,
)
from daskref.connectors import FileConnector, LocalConnector
from daskref.exceptions import ConnectorUnavailableError, ResolveError, StoreExistsError
from daskref.objects.reference import StoreConfig
from daskref.store import _registry as stores

MISSING = StoreConfig(
    "gone", "daskref.connectors.local:LocalConnector", (("id", "no"),)
)


@pytest.fixture
def local() -> Iterator[Store]:
    with Store("local", LocalConnector(), register=True) as store:
        yield store


def made() -> list[Store]:
    return list(stores._made.values())


class TestProxies:
    def test_the_store_of_a_proxy(self, local: Store) -> None:
        proxy = local.proxy([1], populate_target=False)
        assert get_store(proxy) is local
        assert local.exists(get_key(proxy))
        assert not is_resolved(proxy)

    def test_of_another_kind(self, local: Store) -> None:
        proxy = Proxy(lambda: [1])
        for function in (get_store, get_key):
            with pytest.raises(TypeError, match="that a store made"):
                function(proxy)
        with pytest.raises(TypeError, match="takes a Proxy"):
            get_key([1])

    def test_another_store_of_the_users_has_the_name(self, local: Store) -> None:
        proxy = pickle.loads(pickle.dumps(local.proxy([1])))
        unregister_store(local)
        with (
            Store("local", LocalConnector(), register=True),
            pytest.raises(ResolveError, match="'local' is another one"),
        ):
            proxy.append(2)


class TestMaking:
    def test_many_threads_make_one(self, local: Store) -> None:
        unregister_store(local)
        proxies = [
            pickle.loads(pickle.dumps(local.proxy([number]))) for number in range(16)
        ]
        start = threading.Barrier(16, timeout=10)

        def use(proxy: Any) -> Any:
            start.wait()
            return proxy[0]

        with ThreadPoolExecutor(16) as executor:
            assert list(executor.map(use, proxies)) == list(range(16))
        (store,) = made()
        assert get_store("local") is store
        assert store is not local
        assert store.connector._shelf.users == 2  # type: ignore[attr-defined]
        store.close()
        assert not made()
        assert get_store("local") is None

    def test_one_place_does_not_hold_up_another(
        self, local: Store, monkeypatch: Any
    ) -> None:
        unregister_store(local)
        connecting, may_go_on = threading.Event(), threading.Event()
        original = Store.from_config

        def from_config(config: StoreConfig) -> Store:
            if config.name == "slow":
                connecting.set()
                assert may_go_on.wait(20)
            return original(config)

        monkeypatch.setattr(Store, "from_config", from_config)
        with ThreadPoolExecutor(1) as executor:
            slow = executor.submit(
                get_or_create_store, local.config()._replace(name="slow")
            )
            assert connecting.wait(20)
            with get_or_create_store(local.config()) as store:
                assert store.exists(local.put(1))
            may_go_on.set()
            slow.result(20).close()

    def test_a_failure_is_tried_again(self, local: Store, monkeypatch: Any) -> None:
        unregister_store(local)
        with pytest.raises(ConnectorUnavailableError):
            get_or_create_store(MISSING)
        assert not stores._making
        assert get_store("gone") is None
        with get_or_create_store(local.config()) as store:
            assert get_or_create_store(local.config()) is store

    def test_two_that_are_made_at_once_become_one(
        self, local: Store, monkeypatch: Any
    ) -> None:
        unregister_store(local)
        first = Store.from_config(local.config())
        second = Store.from_config(local.config())
        assert stores._keep(first) is first
        assert stores._keep(second) is first  # and the second is closed
        assert local.connector._shelf.users == 2  # type: ignore[attr-defined]
        first.close()

    def test_unregistered(self, local: Store) -> None:
        unregister_store(local)
        with get_or_create_store(local.config(), register=False) as store:
            assert store is not local
            assert get_store("local") is None
        register_store(local)
        assert get_or_create_store(local.config(), register=False) is local

    def test_a_name_used_again_for_another_place(self, tmp_path: Any) -> None:
        configs, keys = [], []
        keepers = []
        for place in ("first", "second"):
            store = Store("again", FileConnector(tmp_path / place))
            keepers.append(store)
            configs.append(store.config())
            keys.append(store.put(place))
        found = [get_or_create_store(config) for config in configs * 2]
        assert found[0] is found[2]
        assert found[1] is found[3]
        assert found[0].get(keys[0]) == "first"
        assert found[1].get(keys[1]) == "second"
        for store in {*found, *keepers}:
            store.close()
        assert not made()

    def test_those_not_used_for_long_are_closed(
        self, tmp_path: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(stores, "_MOST_MADE", 2)
        with FileConnector(tmp_path / "store") as connector:
            config = Store("0", connector).config()
            found = [
                get_or_create_store(config._replace(name=str(number)))
                for number in range(3)
            ]
            assert made() == found[1:]
            assert get_store("0") is None
            get_or_create_store(config._replace(name="1"))
            assert made() == [found[2], found[1]]
            for store in found:
                store.close()

    @pytest.mark.slow
    def test_a_second_process_makes_one_however_many_threads_ask(
        self, tmp_path: Any
    ) -> None:
        code = """
import logging, pickle, sys, threading
from concurrent.futures import ThreadPoolExecutor
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
proxies = pickle.load(sys.stdin.buffer)
start = threading.Barrier(len(proxies), timeout=20)
def use(proxy):
    start.wait()
    return proxy[0]
with ThreadPoolExecutor(len(proxies)) as executor:
    print(sum(executor.map(use, proxies)))
import daskref
(name,) = {daskref.get_store(proxy).name for proxy in proxies}
assert daskref.get_store(name) is daskref.get_store(proxies[0])
"""
        with Store("second", FileConnector(tmp_path / "store")) as store:
            proxies = [store.proxy([number]) for number in range(12)]
            child = subprocess.run(
                [sys.executable, "-c", code],
                input=pickle.dumps(proxies),
                capture_output=True,
                timeout=60,
            )
        error = child.stderr.decode()
        assert not child.returncode, error
        assert int(child.stdout) == sum(range(12))
        assert error.count("Initialized") == 1
        assert error.count("Registered") == 1


class TestNames:
    def test_registration_for_a_block(self, local: Store) -> None:
        with Store("other", LocalConnector()) as other:
            with store_registration(other):
                assert get_store("other") is other
            assert get_store("other") is None
            with pytest.raises(RuntimeError), store_registration(other):
                raise RuntimeError
            assert get_store("other") is None
            with Store("local", LocalConnector()) as same:
                with (
                    pytest.raises(StoreExistsError, match="'local'"),
                    store_registration(other, same),
                ):
                    pass
                assert get_store("other") is None
                assert get_store("local") is local
                with store_registration(same, exist_ok=True):
                    assert get_store("local") is same

    def test_a_store_unregisters_itself_only(self, local: Store) -> None:
        with Store("local", LocalConnector()) as other:
            unregister_store(other)
            assert get_store("local") is local
        unregister_store("local")
        unregister_store(local)  # silent
        assert get_store("local") is None
