"""Leases: what keeps objects that no Dask key keeps."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import dask
import pytest

from daskref.cluster import _leases as leases
from daskref.cluster._leases import LeaseKeeper, keep_alive
from daskref.connectors import LocalConnector
from daskref.proxy import Proxy, get_factory
from daskref.store import Store
from daskref.store.factory import StoreFactory
from tests.support.common import wait_until


class Recorder(LocalConnector):
    """Remembers which leases were renewed."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id)
        self.renewed: list[tuple[Any, float]] = []

    def renew(self, key: Any, seconds: float) -> bool:
        self.renewed.append((key, seconds))
        return super().renew(key, seconds)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("leases", Recorder(), register=True) as store:
        yield store


def ended(keeper: LeaseKeeper | None) -> Any:
    assert keeper is not None
    return wait_until(lambda: not keeper._background.running, "the thread's end")


def make(store: Store) -> Any:
    # no fixture: that would keep it alive
    return Proxy(StoreFactory(store.put_reference([1])))


def reference_of(proxy: Any) -> Any:
    return get_factory(proxy).reference


def test_renewed_while_the_proxy_lives(store: Store) -> None:
    connector: Any = store.connector
    proxy = make(store)
    reference = reference_of(proxy)
    keeper = LeaseKeeper(0.06)
    connector.renew(reference.key, 0.06)
    keeper.add(proxy, reference)
    wait_until(lambda: len(connector.renewed) > 6)
    assert {seconds for _, seconds in connector.renewed} == {0.06}
    assert connector.sweep() == []
    del proxy
    gc.collect()
    assert wait_until(connector.sweep, "the lease's end") == [reference.key]
    ended(keeper)


def test_the_thread_starts_again(store: Store) -> None:
    keeper = LeaseKeeper(0.03)
    for _ in range(3):
        proxy = make(store)
        keeper.add(proxy, reference_of(proxy))
        assert keeper._background.running
        assert keeper._background.thread.is_alive()
        del proxy
        gc.collect()
        ended(keeper)
    assert not keeper._kept


def test_several_proxies_of_one_object(store: Store) -> None:
    connector: Any = store.connector
    proxy = make(store)
    keeper = LeaseKeeper(0.03)
    other: Any = Proxy(StoreFactory(reference_of(proxy)))
    for each in (proxy, other):
        keeper.add(each, reference_of(each))
    del proxy, each
    gc.collect()
    connector.renewed.clear()
    wait_until(lambda: connector.renewed)
    del other
    gc.collect()
    ended(keeper)


def test_a_store_that_fails_ends_nothing(store: Store, monkeypatch: Any) -> None:
    connector: Any = store.connector
    proxy = make(store)
    failures = []

    def fail(key: Any, seconds: float) -> bool:
        failures.append(key)
        raise OSError("no route to host")

    monkeypatch.setattr(connector, "renew", fail)
    keeper = LeaseKeeper(0.03)
    keeper.add(proxy, reference_of(proxy))
    wait_until(lambda: len(failures) > 2)
    monkeypatch.undo()
    wait_until(lambda: connector.renewed)
    del proxy
    gc.collect()
    ended(keeper)


def test_one_keeper_per_process(store: Store, monkeypatch: Any) -> None:
    connector: Any = store.connector
    proxy = make(store)
    monkeypatch.setattr(leases, "_keeper", LeaseKeeper(0.03))
    keep_alive(proxy, reference_of(proxy))
    wait_until(lambda: connector.renewed)
    del proxy
    gc.collect()
    ended(leases._keeper)


def test_the_keeper_takes_the_configured_lease(store: Store, monkeypatch: Any) -> None:
    connector: Any = store.connector
    proxy = make(store)
    monkeypatch.setattr(leases, "_keeper", None)
    with dask.config.set({"daskref.lease": "60ms"}):
        keep_alive(proxy, reference_of(proxy))
    wait_until(lambda: connector.renewed)
    assert connector.renewed[0][1] == 0.06
    del proxy
    gc.collect()
    ended(leases._keeper)
