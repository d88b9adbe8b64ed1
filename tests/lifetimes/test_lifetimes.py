"""Lifetime managers: what is bound to them goes when they end, and not before."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Event

import daskref
import daskref.store
from daskref import ContextLifetime, LeaseLifetime, StaticLifetime, Store, TaskLifetime
from daskref.connectors import FileConnector, LocalConnector, SharedMemoryConnector
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorError,
    LifetimeError,
    NotStoredError,
)
from daskref.lifetimes import Lifetime, register_lifetime_atexit
from daskref.proxy import Proxy
from tests.support.common import Process, processes, session_of, start, wait_until
from tests.support.namespaces import ENVIRONMENT

#: Seconds that no test waits for.
LONG = 600.0


class Unleased(LocalConnector):
    """A connector that knows no leases."""

    def renew(self, key: Any, seconds: float) -> bool:
        return False


class Failing(LocalConnector):
    """A connector that does not delete what is named in ``refuses``."""

    refuses: Any = ()

    def evict(self, key: Any) -> None:
        if key in self.refuses:
            raise ConnectorError(repr(self), "it does not delete this")
        super().evict(key)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(f"store-{uuid.uuid4().hex}", LocalConnector(), register=True) as store:
        yield store


def soon() -> datetime:
    return datetime.now() + timedelta(seconds=0.1)


def gone(store: Store, *keys: Any) -> bool:
    return not any(store.exists(key) for key in keys)


class TestContext:
    def test_evicts_at_the_end_of_the_block(self, store: Store) -> None:
        kept = store.put("kept")
        with ContextLifetime(store) as lifetime:
            keys = [store.put(i) for i in range(3)]
            lifetime.add_key(*keys)
            lifetime.add_key(keys[0], store=store)
            proxy = store.proxy([1, 2])
            lifetime.add_proxy(proxy)
            assert lifetime.active_count() == 4
            assert not lifetime.done()
            assert store.connector.usage().objects == 5
        assert lifetime.done()
        assert lifetime.active_count() == 0
        assert gone(store, *keys)
        assert store.connector.usage().objects == 1
        assert store.get(kept) == "kept"

    def test_an_error_in_the_block_ends_it_as_well(self, store: Store) -> None:
        key = store.put(1)
        lifetime = ContextLifetime(store)
        lifetime.add_key(key)
        with pytest.raises(ZeroDivisionError), lifetime:
            divmod(1, 0)
        assert gone(store, key)

    def test_nothing_is_added_after_the_end(self, store: Store) -> None:
        lifetime = ContextLifetime(store, name="mine")
        lifetime.close()
        lifetime.close()
        key = store.put(1)
        with pytest.raises(LifetimeError, match="mine has ended"):
            lifetime.add_key(key)
        with pytest.raises(RuntimeError):
            lifetime.add_proxy(store.proxy(1))
        assert store.exists(key)

    def test_it_does_not_evict_from_another_store(self, store: Store) -> None:
        with Store("another", LocalConnector()) as other:
            key = other.put(1)
            lifetime = ContextLifetime(store)
            with pytest.raises(ValueError, match="'another'"):
                lifetime.add_key(key, store=other)
            with pytest.raises(ValueError, match="'another'"):
                lifetime.add_proxy(other.proxy(1))
            lifetime.close()
            assert other.exists(key)

    def test_it_takes_proxies_of_stores_only(self, store: Store) -> None:
        with (
            ContextLifetime(store) as lifetime,
            pytest.raises(NotStoredError, match="function"),
        ):
            lifetime.add_proxy(Proxy(lambda: 1))

    def test_close_stores(self, store: Store) -> None:
        ContextLifetime(store).close(close_stores=True)
        with pytest.raises(ConnectorClosedError):
            store.put(1)

    def test_one_failure_does_not_keep_the_others(self) -> None:
        with Store("failing", Failing()) as store:
            keys = [store.put(i) for i in range(5)]
            assert isinstance(store.connector, Failing)
            store.connector.refuses = [keys[2]]
            lifetime = ContextLifetime(store)
            lifetime.add_key(*keys)
            with pytest.raises(ConnectorError, match="does not delete this"):
                lifetime.close()
            assert lifetime.done()
            assert [store.exists(key) for key in keys] == [False] * 2 + [True] + [
                False
            ] * 2


def test_all_have_the_protocol(store: Store) -> None:
    with LeaseLifetime(store, LONG) as lease:
        for lifetime in (ContextLifetime(store), lease, StaticLifetime()):
            assert isinstance(lifetime, Lifetime)
            assert str(lifetime.active_count()) in repr(lifetime)
    assert issubclass(TaskLifetime, Lifetime)


class TestLease:
    @pytest.mark.parametrize(
        "expiry",
        [
            lambda: LONG,
            lambda: timedelta(seconds=LONG),
            # when the test runs, which may be long after it is collected
            lambda: datetime.now(UTC) + timedelta(seconds=LONG),
        ],
        ids=["seconds", "timedelta", "datetime"],
    )
    def test_forms_of_expiry(self, store: Store, expiry: Any) -> None:
        lifetime = LeaseLifetime(store, expiry())
        key = store.put(1)
        lifetime.add_key(key)
        assert store.connector.sweep() == []
        assert not lifetime.done()
        lifetime.close()
        assert lifetime.done()
        assert gone(store, key)

    @pytest.mark.parametrize("expiry", ["1 s", None, True])
    def test_other_forms(self, store: Store, expiry: Any) -> None:
        with pytest.raises(TypeError, match="expiry must be seconds"):
            LeaseLifetime(store, expiry)

    def test_ends_by_itself(self, store: Store) -> None:
        lifetime = LeaseLifetime(store, LONG)
        key = store.put(1)
        lifetime.add_key(key)
        lifetime.extend(soon())
        wait_until(lifetime.done, "the end of the lease")
        wait_until(lambda: gone(store, key), "evicted")
        with pytest.raises(LifetimeError):
            lifetime.extend(1)
        with pytest.raises(LifetimeError):
            lifetime.add_key(store.put(2))

    def test_in_the_past(self, store: Store) -> None:
        lifetime = LeaseLifetime(store, datetime.now() - timedelta(days=1))
        wait_until(lifetime.done, "the end of the lease")

    def test_lives_on_without_a_variable(self, store: Store) -> None:
        key = store.put(1)
        lifetime = LeaseLifetime(store, LONG)
        lifetime.add_key(key)
        lifetime.extend(soon())
        del lifetime
        wait_until(lambda: gone(store, key), "evicted")

    @pytest.mark.slow
    def test_extend_adds(self, store: Store) -> None:
        key = store.put(1)
        lifetime = LeaseLifetime(store, 2)
        lifetime.add_key(key)
        lifetime.extend(LONG)
        lifetime.extend(timedelta(seconds=LONG))
        short = LeaseLifetime(store, 2)  # ends after the first would have
        wait_until(short.done, "the end of the other lease")
        assert not lifetime.done()
        # both for whoever sweeps …
        assert store.connector.sweep() == []
        assert store.exists(key)
        # … and here
        lifetime.extend(datetime.now())
        wait_until(lifetime.done, "the end of the lease")
        assert gone(store, key)

    def test_extend_to_a_point_in_time_may_shorten(self, store: Store) -> None:
        key = store.put(1)
        lifetime = LeaseLifetime(store, LONG)
        lifetime.add_key(key)
        lifetime.extend(soon())
        wait_until(lifetime.done, "the end of the lease")
        assert gone(store, key)

    def test_leases_of_dead_creators_end_with_ones_own(self, store: Store) -> None:
        abandoned = store.put(1)
        store.connector.renew(abandoned, 0)
        living = store.put(2)
        store.connector.renew(living, LONG)
        LeaseLifetime(store, 0)
        wait_until(lambda: gone(store, abandoned), "swept")
        assert store.exists(living)

    def test_without_leases_the_creator_evicts(self) -> None:
        with Store("unleased", Unleased()) as store:
            key = store.put(1)
            lifetime = LeaseLifetime(store, LONG)
            lifetime.add_key(key)
            lifetime.extend(soon())
            wait_until(lambda: gone(store, key), "evicted")

    def test_a_store_that_was_closed_is_no_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Store("closed", LocalConnector()) as store:
            lifetime = LeaseLifetime(store, LONG)
            lifetime.add_key(store.put(1))
        with pytest.raises(ConnectorClosedError):
            lifetime.extend(datetime.now())
        wait_until(lifetime.done, "the end of the lease")
        wait_until(lambda: "not all is deleted" in caplog.text, "a warning")
        assert "Traceback" not in caplog.text


# Processes that end.


def hold(kind: str, directory: str, ends: str) -> None:
    """Put objects in a directory and bind them; then be killed, or exit."""
    cls = UnleasedFiles if kind == "unleased" else FileConnector
    store = Store("held", cls(directory, clear=False), register=True)
    keys = [store.put(i) for i in range(3)]
    if kind == "static":
        StaticLifetime().add_key(keys[0], store=store)
        StaticLifetime().add_proxy(store.proxy("proxied"))
    elif kind == "atexit":
        lifetime = ContextLifetime(store)
        lifetime.add_key(keys[0])
        register_lifetime_atexit(lifetime)
    else:
        lifetime = LeaseLifetime(store, LONG)
        lifetime.add_key(keys[0])
    if os.fork() == 0:
        sys.exit()  # a child evicts nothing, whatever it runs at its exit
    os.wait()
    assert store.exists(keys[0])
    print("ready", flush=True)
    if ends == "kill":
        lifetime.extend(datetime.now() + timedelta(seconds=1))
        os.kill(os.getpid(), signal.SIGKILL)


class UnleasedFiles(FileConnector):
    def renew(self, key: Any, seconds: float) -> bool:
        return False


def objects(directory: Path) -> list[Path]:
    return [path for path in directory.glob("*/*") if len(path.name) == 33]


def run_hold(kind: str, directory: Path, ends: str) -> Process:
    code = f"from tests.lifetimes.test_lifetimes import *; hold({kind!r}, "
    return start(
        sys.executable, "-W", "ignore", "-c", f"{code}{str(directory)!r}, {ends!r})",
        pattern="(ready)", env=ENVIRONMENT,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["static", "atexit", "unleased"])
def test_objects_go_at_the_exit_of_the_process(kind: str, tmp_path: Path) -> None:
    process = run_hold(kind, tmp_path, "exit")
    assert process.popen.wait(30) == 0, process.lines
    process.stop()
    # those that were not bound are left
    assert len(objects(tmp_path)) == 2


@pytest.mark.slow
def test_a_leased_object_outlives_the_exit_of_the_process(tmp_path: Path) -> None:
    process = run_hold("leased", tmp_path, "exit")
    assert process.popen.wait(30) == 0  # at once, not at the end of the lease
    process.stop()
    assert len(objects(tmp_path)) == 3


@pytest.mark.slow
def test_a_lease_survives_the_sigkill_of_its_creator(tmp_path: Path) -> None:
    process = run_hold("leased", tmp_path, "kill")
    (session,) = tmp_path.iterdir()
    identity = json.loads((session / "identity").read_text())
    assert process.popen.wait(30) == -signal.SIGKILL
    process.stop()
    assert len(objects(tmp_path)) == 3
    connector = FileConnector(
        tmp_path, clear=False, session=session.name, nonce=identity["nonce"]
    )
    with Store("other", connector) as store:
        swept: list[Any] = []

        def sweep() -> list[Any]:
            swept.extend(store.connector.sweep())
            return swept

        wait_until(sweep, "the lease has expired")
        (key,) = swept
        assert not store.exists(key)
        assert len(objects(tmp_path)) == 2


def leave(root: str) -> None:
    """Put leased objects into shared memory, say where, and be killed."""
    store = Store("left", SharedMemoryConnector(root=root), register=True)
    lifetime = LeaseLifetime(store, LONG)
    lifetime.add_proxy(store.proxy(np.ones(1000)))
    print("ready", flush=True)
    signal.pause()


@pytest.mark.slow
def test_the_next_start_deletes_what_a_killed_process_has_leased(
    tmp_path: Path,
) -> None:
    code = f"from tests.lifetimes.test_lifetimes import *; leave({str(tmp_path)!r})"
    process = start(sys.executable, "-c", code, pattern="(ready)", env=ENVIRONMENT)
    assert len(objects(tmp_path)) == 1
    process.kill()
    process.stop()
    assert len(objects(tmp_path)) == 1
    with SharedMemoryConnector(root=tmp_path):
        assert not objects(tmp_path)


def lease_in_session(address: str) -> None:
    """Put into the store of a cluster, lease, and be killed."""
    client = daskref.Client(address)
    name = session_of(client).info.store.name
    store = daskref.store.registry.get_store(name)
    assert store is not None
    lifetime = LeaseLifetime(store, LONG)
    lifetime.add_key(store.put(np.ones(1000)))
    print("ready", flush=True)
    assert Event("looked", client=client).wait(30)
    lifetime.extend(datetime.now() + timedelta(seconds=1))
    os.kill(os.getpid(), signal.SIGKILL)


#: A scheduler that compares its table with the store all the time.
RECONCILE = {"DASK_DASKREF__RECONCILE_INTERVAL": "100ms"}


@pytest.mark.slow
def test_the_scheduler_sweeps_the_leases_of_its_session() -> None:
    with (
        processes(1, env={**ENVIRONMENT, **RECONCILE}) as (scheduler, _),
        daskref.Client(scheduler.address) as client,
    ):
        code = "from tests.lifetimes.test_lifetimes import *; lease_in_session("
        process = start(
            sys.executable, "-c", f"{code}{scheduler.address!r})",
            pattern="(ready)", env=ENVIRONMENT,
        )  # fmt: skip
        assert daskref.stats(client)["objects"] == 1
        Event("looked").set()
        assert process.popen.wait(30) == -signal.SIGKILL
        process.stop()
        wait_until(lambda: not daskref.stats(client)["objects"], "swept")
