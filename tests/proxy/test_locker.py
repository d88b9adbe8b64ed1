"""Locked proxies."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from daskref import Proxy, ProxyLocker, Store, extract, is_resolved, resolve
from daskref.connectors import LocalConnector
from daskref.exceptions import ResolveError


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("locked", LocalConnector(), register=True) as store:
        yield store


@pytest.mark.parametrize("populate", [True, False])
def test_resolving_is_refused_until_unlocked(store: Store, populate: bool) -> None:
    locked = store.locked_proxy([1, 2], populate_target=populate)
    assert type(locked) is ProxyLocker
    for function in (resolve, extract, is_resolved):
        with pytest.raises(ResolveError, match=r"unlock\(\)"):
            function(locked)
    for use in (len, iter, sum, lambda p: p[0], lambda p: p * 2, lambda p: p.append):
        with pytest.raises((TypeError, AttributeError)):
            use(locked)
    assert store.counters.snapshot()["gets"] == 0
    proxy = locked.unlock()
    assert isinstance(proxy, Proxy)
    assert is_resolved(proxy) is populate
    assert proxy == [1, 2]


def test_travels_locked(store: Store) -> None:
    locked = pickle.loads(pickle.dumps(store.locked_proxy([1])))
    assert repr(locked) == "<ProxyLocker, locked>"
    assert not hasattr(locked, "_proxy")
    assert store.counters.snapshot()["gets"] == 0
    assert locked.unlock() == [1]


def test_what_cannot_be_proxied_is_returned(store: Store) -> None:
    found: Any = store.locked_proxy(None)
    assert found is None


def test_through_a_cluster(client: Any, store: Store) -> None:
    locked = store.locked_proxy([1], populate_target=False)
    assert type(client.submit(lambda x: x, locked).result()) is ProxyLocker
    assert store.counters.snapshot()["gets"] == 0
