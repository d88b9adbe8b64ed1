"""Futures: an object that comes after its key."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from daskref import Proxy, Store, extract, get_store, is_resolved
from daskref.connectors import FileConnector, LocalConnector, SharedMemoryConnector
from daskref.exceptions import (
    ConnectorError,
    MissingKeyError,
    NotDeferrableError,
    NotProxiableError,
    ResolveError,
    ResolveTimeoutError,
    WireError,
)
from daskref.store._future import Future, Polling
from tests.store.test_store import ProxyStoreConnector


@pytest.fixture(params=["local", "shm", "file"])
def store(request: Any, tmp_path: Any) -> Iterator[Store]:
    connector = {
        "local": LocalConnector,
        "shm": SharedMemoryConnector,
        "file": lambda: FileConnector(tmp_path / "store"),
    }[request.param]()
    with Store("futures", connector, register=True) as store:
        yield store


@pytest.fixture
def local() -> Iterator[Store]:
    with Store("futures", LocalConnector(), register=True) as store:
        yield store


class TestSetting:
    def test_result(self, store: Store) -> None:
        future = store.future()
        proxy = future.proxy()
        assert not future.done()
        x = np.arange(100_000)
        future.set_result(x)
        assert future.done()
        assert not is_resolved(proxy)
        np.testing.assert_array_equal(future.result(), x)
        np.testing.assert_array_equal(proxy, x)
        assert isinstance(proxy, np.ndarray)

    def test_a_copy_is_the_same_future(self, store: Store) -> None:
        future = store.future()
        copy: Any = pickle.loads(pickle.dumps(future))
        proxy = pickle.loads(pickle.dumps(future.proxy()))
        copy.set_result([1])
        assert future.done()
        assert proxy == [1]
        assert future.result() == copy.result() == [1]

    @pytest.mark.parametrize("value", [None, False, 0, b""])
    def test_any_result(self, local: Store, value: Any) -> None:
        future = local.future()
        future.set_result(value)
        assert future.result() == value
        assert extract(future.proxy()) == value

    def test_only_once(self, store: Store) -> None:
        future = store.future()
        future.set_result(1)
        with pytest.raises(ResolveError, match="set already"):
            future.set_result(2)
        with pytest.raises(ResolveError, match="set already"):
            future.set_exception(ValueError())
        assert future.result() == 1

    def test_what_does_not_serialize_leaves_it_unset(self, local: Store) -> None:
        future = local.future()
        with pytest.raises(NotProxiableError):
            future.set_result(threading.Lock())
        assert not future.done()
        future.set_result(1)
        assert future.result() == 1

    def test_errors_of_the_store(self, local: Store, monkeypatch: Any) -> None:
        def fail(*args: Any) -> None:
            raise OSError("no route to host")

        future = local.future()
        monkeypatch.setattr(LocalConnector, "set_frames", fail)
        with pytest.raises(ConnectorError, match="no route to host"):
            future.set_result(1)

    def test_own_functions(self, local: Store) -> None:
        future = pickle.loads(
            pickle.dumps(
                local.future(
                    serializer=lambda obj: obj.encode(),
                    deserializer=lambda data: data.decode().upper(),
                )
            )
        )
        future.set_result("täxt")
        assert future.result() == "TÄXT"
        assert future.proxy() == "TÄXT"

    def test_single_use(self, store: Store) -> None:
        future = store.future(evict=True, polling_timeout=0)
        first, second = future.proxy(), pickle.loads(pickle.dumps(future.proxy()))
        future.set_result([1])
        assert first == [1]
        assert not future.done()
        with pytest.raises(ResolveTimeoutError, match="single-use"):
            len(second)


class TestExceptions:
    def test_result_raises_it_and_a_proxy_has_it_as_its_cause(
        self, store: Store
    ) -> None:
        future = store.future()
        future.set_exception(ZeroDivisionError("no"))
        assert future.done()
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="no"):
                future.result()
        with pytest.raises(ResolveError, match="ZeroDivisionError: no") as caught:
            len(future.proxy())
        assert type(caught.value.__cause__) is ZeroDivisionError

    def test_where_it_was_raised_comes_along(self, local: Store) -> None:
        future = local.future()
        try:
            raise KeyError("inner")
        except KeyError as exc:
            future.set_exception(exc)
        with pytest.raises(KeyError) as caught:
            future.result()
        assert "test_where_it_was_raised_comes_along" in caught.value.__notes__[0]

    def test_one_of_ours_is_not_taken_for_the_stores(self, local: Store) -> None:
        future = local.future(polling_timeout=60)
        future.set_exception(MissingKeyError(("another",), "<elsewhere>"))
        with pytest.raises(MissingKeyError, match="elsewhere"):
            future.result()

    def test_one_that_does_not_pickle_is_told_as_text(self, local: Store) -> None:
        class Odd(Exception):
            def __reduce__(self) -> Any:
                raise TypeError("will not")

        future = local.future()
        future.set_exception(Odd("some text"))
        with pytest.raises(RuntimeError, match="Odd: some text"):
            future.result()

    def test_with_functions_of_the_users(self) -> None:
        with Store(
            "own",
            LocalConnector(),
            serializer=lambda obj: bytes(obj),
            deserializer=lambda data: list(data),
            register=True,
        ) as store:
            future = store.future()
            future.set_exception(ValueError("no"))
            with pytest.raises(ValueError, match="no"):
                future.result()

    def test_by_key(self, local: Store) -> None:
        future = local.future()
        future.set_exception(ValueError("no"))
        key = future._factory.key
        with pytest.raises(ValueError, match="no"):
            local.get(key)
        with pytest.raises(ResolveError, match="ValueError: no"):
            len(local.proxy_from_key(key))

    def test_only_exceptions(self, local: Store) -> None:
        with pytest.raises(TypeError, match="not a str"):
            local.future().set_exception("no")  # type: ignore[arg-type]


class TestWaiting:
    def test_for_another_thread(self, store: Store) -> None:
        future = store.future(polling_timeout=60)
        proxy: Any = future.proxy()
        found: list[Any] = []
        waiting = threading.Event()
        poll = store.connector.get

        def seen(key: Any) -> Any:
            waiting.set()
            return poll(key)

        store.connector.get = seen  # type: ignore[method-assign]
        thread = threading.Thread(target=lambda: found.append(sum(proxy)))
        thread.start()
        assert waiting.wait(10)
        assert not found
        future.set_result([1, 2])
        thread.join(30)
        assert found == [3]

    def test_a_bounded_time(self, store: Store) -> None:
        future = store.future(polling_timeout=0.05)
        with pytest.raises(ResolveTimeoutError, match="not set within") as caught:
            future.result()
        assert isinstance(caught.value, TimeoutError)
        assert repr(future._factory.key) in str(caught.value)
        proxy: Any = future.proxy()
        with pytest.raises(ResolveTimeoutError, match="set_result"):
            len(proxy)
        future.set_result([1])
        assert len(proxy) == 1  # it tries again

    def test_a_time_of_its_own(self, local: Store) -> None:
        with pytest.raises(TimeoutError):
            local.future().result(timeout=0)

    def test_by_default_it_is_bounded(self, local: Store) -> None:
        assert local.future()._factory.polling.timeout == 3600

    def test_looks_less_and_less_often(self, monkeypatch: Any) -> None:
        now = 0.0
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds
            waits.append(seconds)

        monkeypatch.setattr(time, "sleep", sleep)
        monkeypatch.setattr(time, "monotonic", lambda: now)
        assert len(list(Polling(1, 2, 5, 20).looks())) == 7
        assert waits == [1, 2, 4, 5, 5, 3]
        waits.clear()
        assert len(list(Polling(1, 1, None, 0).looks())) == 1
        assert not waits

    @pytest.mark.parametrize(
        "arguments",
        [
            {"polling_interval": 0},
            {"polling_interval_limit": -1},
            {"polling_backoff_factor": 0.5},
            {"polling_timeout": -1},
        ],
    )
    def test_numbers_that_make_no_sense(self, local: Store, arguments: Any) -> None:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            local.future(**arguments)

    @pytest.mark.slow
    @pytest.mark.parametrize("store", ["shm", "file"], indirect=True)
    def test_another_process_sets_it(self, store: Store) -> None:
        future: Future[Any] = store.future(polling_timeout=60)
        child = subprocess.run(
            [
                sys.executable,
                "-c",
                "import pickle, sys; future = pickle.load(sys.stdin.buffer);"
                "assert not future.done(); future.set_result(list(range(5)))",
            ],
            input=pickle.dumps(future),
            capture_output=True,
            timeout=60,
        )
        assert not child.returncode, child.stderr.decode()
        assert future.result() == list(range(5))


class TestConnectorsThatCannot:
    def test_one_of_proxystores(self) -> None:
        connector: Any = ProxyStoreConnector("deferred")
        with Store("cannot", connector) as store:
            with pytest.raises(NotDeferrableError, match="ProxyStoreConnector") as seen:
                store.future()
            assert isinstance(seen.value, NotImplementedError)
            with pytest.raises(NotDeferrableError):
                store.set(("key",), 1)

    def test_a_deferrable_one_of_proxystores(self) -> None:
        class Deferrable(ProxyStoreConnector):
            def new_key(self, obj: Any = None) -> Any:
                return (f"new-{len(self.objects)}",)

            def set(self, key: Any, obj: Any) -> None:
                assert isinstance(obj, bytes)
                self.objects[key] = obj

        with Store("can", Deferrable("can"), register=True) as store:  # type: ignore[arg-type]
            future = store.future()
            future.set_result([1])
            assert future.proxy() == [1]
            assert get_store(future.proxy()) is store

    def test_one_that_says_so(self, local: Store, monkeypatch: Any) -> None:
        def new_key(self: Any, obj: Any = None) -> Any:
            raise NotImplementedError

        monkeypatch.setattr(LocalConnector, "new_key", new_key)
        with pytest.raises(NotDeferrableError, match="LocalConnector"):
            local.future()


def test_a_key_of_another_kind(local: Store) -> None:
    with pytest.raises(WireError):
        local.set(("foreign", 1), [1])


def test_repr_looks_at_nothing(local: Store) -> None:
    future = local.future()
    assert repr(future).startswith("<Future of <Reference at LocalKey(")
    assert repr(future.proxy()) == "<Proxy, not resolved>"
    assert isinstance(future.proxy(), Proxy)
    assert local.counters.snapshot()["gets"] == 0
