"""Objects bound to Dask's keys: they go with the key, in whichever store they are."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed import LocalCluster

import daskref
import daskref.store
from daskref import StaticLifetime, Store, TaskLifetime
from daskref.connectors import FileConnector
from daskref.exceptions import LifetimeError
from tests.support.common import processes, session_of, start, wait_until
from tests.support.namespaces import ENVIRONMENT


def gone(store: Store, *keys: Any) -> bool:
    return not any(store.exists(key) for key in keys)


@pytest.fixture
def explicit(tmp_path: Path) -> Iterator[Store]:
    """A store of the user's, apart from the session's."""
    name = f"explicit-{uuid.uuid4().hex}"
    with Store(name, FileConnector(tmp_path / "files"), register=True) as store:
        yield store


class TestTask:
    def test_lives_as_long_as_the_key(self, client: Any, explicit: Store) -> None:
        kept = explicit.put("kept")
        future = client.submit(int, 1, key=f"k-{uuid.uuid4().hex}")
        lifetime = TaskLifetime(client, future)
        keys = [explicit.put(i) for i in range(3)]
        lifetime.add_key(*keys, store=explicit)
        lifetime.add_proxy(explicit.proxy("proxied"))
        assert future.result() == 1
        assert lifetime.active_count() == 4
        dependent = client.submit(abs, future, key=f"d-{uuid.uuid4().hex}")
        assert dependent.result() == 1
        assert explicit.connector.usage().objects == 5
        assert not lifetime.done()
        del future
        # a task depends on it: Dask does not forget the key yet
        assert client.submit(int, pure=False).result() == 0
        assert explicit.connector.usage().objects == 5
        del dependent
        wait_until(lambda: gone(explicit, *keys), "evicted")
        wait_until(lifetime.done, "the client was told")
        assert lifetime.active_count() == 0
        assert explicit.connector.usage().objects == 1
        assert explicit.get(kept) == "kept"
        with pytest.raises(LifetimeError):
            lifetime.add_key(kept, store=explicit)

    def test_objects_of_the_sessions_own_store(self, client: Any) -> None:
        store = daskref.store.registry.get_store(session_of(client).info.store.name)
        assert store is not None
        key = store.put("something")
        future = client.submit(int, 2, pure=False)
        lifetime = TaskLifetime(client, future)
        lifetime.add_key(key, store=store)
        assert future.result() == 2
        assert store.exists(key)
        del future
        wait_until(lambda: gone(store, key), "evicted")
        wait_until(lifetime.done, "the client was told")

    def test_objects_of_the_sessions_own_store_do_not_need_the_client(
        self, client: Any, cluster: Any
    ) -> None:
        store = daskref.store.registry.get_store(session_of(client).info.store.name)
        assert store is not None
        name = uuid.uuid4().hex
        key, closed = store.put("something"), store.put("else")
        with daskref.Client(cluster, set_as_default=False) as binder:
            future = binder.submit(int, 7, key=f"k-{name}")
            TaskLifetime(binder, future).add_key(key, store=store)
            with TaskLifetime(binder, future) as lifetime:
                lifetime.add_key(closed, store=store)
            wait_until(lambda: gone(store, closed), "evicted")
            binder.publish_dataset(future, name=name)
        held = client.get_dataset(name)
        client.unpublish_dataset(name)
        assert held.result() == 7
        assert store.exists(key)
        del held
        wait_until(lambda: gone(store, key), "evicted")

    def test_a_key_that_is_forgotten_already(
        self, client: Any, explicit: Store
    ) -> None:
        future = client.submit(int, 3, pure=False)
        assert future.result() == 3
        lifetime = TaskLifetime(client, future)
        future.cancel()
        wait_until(future.cancelled, "cancelled")
        key = explicit.put(1)
        lifetime.add_key(key, store=explicit)
        wait_until(lambda: gone(explicit, key), "evicted at once")
        wait_until(lifetime.done, "the client was told")

    def test_two_keys_hold_one_object(self, client: Any, explicit: Store) -> None:
        one = client.submit(int, 4, pure=False)
        two = client.submit(int, 5, pure=False)
        key = explicit.put(1)
        lifetimes = [TaskLifetime(client, future) for future in (one, two)]
        for lifetime in lifetimes:
            lifetime.add_key(key, store=explicit)
        del one
        wait_until(lifetimes[0].done, "the first key is gone")
        assert explicit.exists(key)
        del two
        wait_until(lambda: gone(explicit, key), "evicted")

    def test_closed_before_the_key_goes(self, client: Any, explicit: Store) -> None:
        future = client.submit(int, 6, pure=False)
        bound, other = explicit.put(1), explicit.put(2)
        TaskLifetime(client, future).add_key(other, store=explicit)
        with TaskLifetime(client, future) as lifetime:
            lifetime.add_key(bound, store=explicit)
        assert lifetime.done()
        wait_until(lambda: gone(explicit, bound), "evicted")
        assert explicit.exists(other)
        del future
        wait_until(lambda: gone(explicit, other), "evicted")

    def test_the_client_that_bound_it_leaves(
        self, client: Any, cluster: Any, explicit: Store
    ) -> None:
        name = uuid.uuid4().hex
        key = explicit.put(1)
        with daskref.Client(cluster, set_as_default=False) as binder:
            bound = binder._daskref.bound
            future = binder.submit(int, 7, key=f"k-{name}")
            lifetime = TaskLifetime(binder, future)
            lifetime.add_key(key, store=explicit)
            binder.publish_dataset(future, name=name)
        assert lifetime.done()
        held = client.get_dataset(name)
        client.unpublish_dataset(name)
        assert held.result() == 7
        assert explicit.exists(key)
        # left to its lease; nobody will tell this process when the key is forgotten
        (obj,) = bound._objects.values()
        assert not obj.holders
        obj.when = 0.0
        bound.work()
        assert gone(explicit, key)

    def test_the_client_leaves_and_the_key_with_it(
        self, client: Any, cluster: Any, explicit: Store
    ) -> None:
        keys = [explicit.put(i) for i in range(2)]
        with daskref.Client(cluster, set_as_default=False) as binder:
            first = binder.submit(int, 7, pure=False)
            second = binder.submit(abs, first, pure=False)
            lifetime = TaskLifetime(binder, first)
            lifetime.add_key(*keys, store=explicit)
            assert second.result() == 7
            assert not gone(explicit, *keys)
        assert gone(explicit, *keys)  # when the client is closed, at the latest
        assert lifetime.done()
        with pytest.raises(LifetimeError):
            lifetime.add_key(explicit.put(1), store=explicit)

    def test_bound_at_once_to_a_graph_that_was_just_sent(
        self, client: Any, explicit: Store
    ) -> None:
        for _ in range(20):
            key = explicit.put(1)
            future = client.submit(int, 7, pure=False)
            TaskLifetime(client, future).add_key(key, store=explicit)
            assert future.result() == 7
            assert explicit.exists(key)
        del future
        wait_until(lambda: gone(explicit, key), "evicted")

    def test_a_graph_that_the_scheduler_cannot_read(
        self, client: Any, explicit: Store
    ) -> None:
        key = explicit.put(1)
        future = client.submit(int, Unreadable())
        TaskLifetime(client, future).add_key(key, store=explicit)
        assert isinstance(future.exception(), RuntimeError)
        wait_until(lambda: gone(explicit, key), "evicted")

    def test_a_client_that_goes_back_to_plain_dask(
        self, client: Any, cluster: Any, explicit: Store
    ) -> None:
        key = explicit.put(1)
        with distributed.Client(cluster, set_as_default=False) as other:
            daskref.enable(other)
            future = other.submit(int, 7, pure=False)
            lifetime = TaskLifetime(other, future)
            lifetime.add_key(key, store=explicit)
            bound = other._daskref.bound
            daskref.disable(other)
            assert future.result() == 7
            assert lifetime.done()
            assert explicit.exists(key)
        lifetime.close()
        (obj,) = bound._objects.values()
        obj.when = 0.0
        bound.work()
        assert gone(explicit, key)

    def test_a_failed_key_holds_until_it_is_forgotten(
        self, client: Any, explicit: Store
    ) -> None:
        future = client.submit(divmod, 1, 0, pure=False)
        key = explicit.put(1)
        TaskLifetime(client, future).add_key(key, store=explicit)
        assert isinstance(future.exception(), ZeroDivisionError)
        assert explicit.exists(key)
        del future
        wait_until(lambda: gone(explicit, key), "evicted")

    def test_a_plain_client(self, cluster: Any) -> None:
        with distributed.Client(cluster, set_as_default=False) as plain:
            future = plain.submit(int, 8, pure=False)
            with pytest.raises(TypeError, match="plain Dask client: use daskref"):
                TaskLifetime(plain, future)

    def test_bad_arguments(self, client: Any, explicit: Store) -> None:
        with pytest.raises(TypeError, match="takes a future, not str"):
            TaskLifetime(client, "some-key")
        future = client.submit(int, 9, pure=False)
        with pytest.raises(ValueError, match="needs the store"):
            TaskLifetime(client, future).add_key(explicit.put(1))
        with pytest.raises(ValueError, match="needs the store"):
            StaticLifetime().add_key(explicit.put(1))


class Unreadable:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.fixture
def fresh() -> Iterator[Any]:
    """A cluster that a test may restart or end."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_restart_evicts(fresh: Any, explicit: Store) -> None:
    with daskref.Client(fresh) as client:
        future = client.submit(int, 1)
        key = explicit.put(1)
        lifetime = TaskLifetime(client, future)
        lifetime.add_key(key, store=explicit)
        assert future.result() == 1
        client.restart()
        wait_until(lambda: gone(explicit, key), "evicted")
        wait_until(lifetime.done, "the client was told")


@pytest.mark.slow
def test_the_end_of_the_scheduler_evicts(fresh: Any, explicit: Store) -> None:
    with daskref.Client(fresh) as client:
        future = client.submit(int, 1)
        key, unbound = explicit.put(1), explicit.put(2)
        TaskLifetime(client, future).add_key(key, store=explicit)
        assert future.result() == 1
        fresh.close()
    wait_until(lambda: gone(explicit, key), "evicted")
    assert explicit.exists(unbound)


@pytest.mark.slow
def test_recomputation_keeps_what_is_bound(explicit: Store) -> None:
    with (
        processes(2) as (scheduler, workers),
        daskref.Client(scheduler.address) as client,
    ):
        future = client.submit(os.getpid, pure=False)
        first = future.result()
        key = explicit.put(1)
        TaskLifetime(client, future).add_key(key, store=explicit)
        (process,) = [worker for worker in workers if worker.pid == first]
        process.kill()
        again = client.submit(int, future, pure=False)
        assert again.result(30) != first
        assert explicit.exists(key)
        del again, future
        wait_until(lambda: gone(explicit, key), "evicted")


def bind_and_be_killed(address: str, directory: str) -> None:
    """Bind an object to a key, keep it for longer than a lease, and be killed."""
    client = daskref.Client(address)
    store = Store("bound", FileConnector(directory, clear=False), register=True)
    future = client.submit(int, 1)
    TaskLifetime(client, future).add_proxy(store.proxy("proxied"))
    bound = client._daskref.bound
    bound.work()  # the lease is written
    ends = [obj.when + bound._lease for obj in bound._objects.values()]
    wait_until(lambda: time.monotonic() > max(ends), "the end of the first lease")
    assert store.connector.sweep() == []
    bound.work()
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_lease_covers_the_death_of_the_client(tmp_path: Path) -> None:
    directory = tmp_path / "files"
    with processes(1, env={**ENVIRONMENT, "DASK_DASKREF__LEASE": "2s"}) as (
        scheduler,
        _,
    ):
        code = "from tests.integration.test_task_lifetimes import *; "
        process = start(
            sys.executable, "-c",
            f"{code}bind_and_be_killed({scheduler.address!r}, {str(directory)!r})",
            pattern="(ready)", env=ENVIRONMENT,
        )  # fmt: skip
        assert process.popen.wait(30) == -signal.SIGKILL
        process.stop()
        (session,) = directory.iterdir()
        identity = json.loads((session / "identity").read_text())
        connector = FileConnector(
            directory, clear=False, session=session.name, nonce=identity["nonce"]
        )
        with Store("other", connector) as store:
            assert store.connector.usage().objects == 1
            wait_until(store.connector.sweep, "the lease has expired")
            assert store.connector.usage().objects == 0
