"""Proxies that are resolved in the background."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from daskref import Proxy, Store, is_resolved, resolve_async
from daskref.background import Executor
from daskref.connectors import LocalConnector
from daskref.exceptions import ResolveError
from daskref.proxy._prefetch import fetch
from tests.support.common import wait_until


class Slow:
    """A factory that waits until it may return; counts its calls and their threads."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.may_end = threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self) -> list[int]:
        self.threads.append(threading.current_thread())
        self.started.set()
        assert self.may_end.wait(20)
        return [1, 2, 3]


def test_fetches_once_and_a_use_waits_for_it() -> None:
    factory = Slow()
    proxy: Any = Proxy(factory)
    resolve_async(proxy)
    assert factory.started.wait(20)
    threading.Timer(0.05, factory.may_end.set).start()
    assert sum(proxy) == 6
    resolve_async(proxy)  # silent
    assert len(factory.threads) == 1
    assert factory.threads[0] is not threading.current_thread()
    assert factory.threads[0].daemon


def test_without_a_use() -> None:
    with Store("ahead", LocalConnector(), register=True) as store:
        proxy = store.proxy([1], populate_target=False)
        resolve_async(proxy)
        wait_until(lambda: is_resolved(proxy))
        assert store.counters.snapshot()["gets"] == 1


def test_what_failed_is_tried_again_by_its_user() -> None:
    tries: list[int] = []

    def factory() -> list[int]:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("down")
        return [1]

    proxy: Any = Proxy(factory)
    resolve_async(proxy)
    wait_until(lambda: tries)
    with pytest.raises(ResolveError, match="down"):
        len(proxy)
    assert len(proxy) == 1


def test_threads_are_bounded_and_end() -> None:
    executor = Executor(2, "prefetch", idle=0.01)
    factories = [Slow() for _ in range(5)]
    proxies: list[Any] = [Proxy(factory) for factory in factories]
    for proxy in proxies:
        executor.submit(fetch, weakref.ref(proxy))
    assert factories[0].started.wait(20)
    assert factories[1].started.wait(20)
    assert executor.threads == 2
    assert not any(factory.started.is_set() for factory in factories[2:])
    factories[4].may_end.set()
    assert len(proxies[4]) == 3  # used before its turn: by its user
    for factory in factories:
        factory.may_end.set()
    wait_until(lambda: all(map(is_resolved, proxies)))
    wait_until(lambda: not executor.threads, "threads ended")
    threads = {thread for factory in factories for thread in factory.threads}
    assert len(threads - {threading.current_thread()}) == 2
    assert factories[4].threads == [threading.current_thread()]


def test_what_nobody_has_any_more_is_not_fetched() -> None:
    executor = Executor(1, "prefetch", idle=0.01)
    first, second = Slow(), Slow()
    proxies: list[Any] = [Proxy(first), Proxy(second)]
    for proxy in proxies:
        executor.submit(fetch, weakref.ref(proxy))
    assert first.started.wait(20)
    del proxy
    proxies.pop()
    gc.collect()
    first.may_end.set()
    wait_until(lambda: not executor.threads)
    assert not second.threads


def test_only_proxies() -> None:
    with pytest.raises(TypeError, match="takes a Proxy, not list"):
        resolve_async([1])  # type: ignore[arg-type]
