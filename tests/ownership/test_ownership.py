"""Owners and borrows in one process: the rules, and errors that name them."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask.base
import numpy as np
import pytest
from distributed.protocol.serialize import deserialize, serialize

import daskref
from daskref import (
    OwnedProxy,
    Proxy,
    Store,
    borrow,
    clone,
    drop,
    extract,
    get_key,
    get_store,
    into_owned,
    is_resolved,
    mut_borrow,
    resolve,
    update,
)
from daskref.cluster.family import register_family
from daskref.connectors import LocalConnector
from daskref.exceptions import (
    MutableBorrowError,
    NotStoredError,
    OwnershipError,
    ReferenceInvalidError,
    ReferenceNotOwnedError,
    ResolveError,
)
from daskref.ownership import RefMutProxy, RefProxy
from daskref.ownership.borrows import owned, reaper
from daskref.ownership.rules import (
    ENDS,
    MUTABLE_CHANGES,
    ONE_OWNER,
    OWNER_LENDS,
    RULES,
    SHARED_OR_MUTABLE,
    VALID,
)
from daskref.proxy import get_factory
from daskref.store.factory import StoreFactory
from tests.support.common import wait_until
from tests.support.namespaces import ENVIRONMENT


class Slow(LocalConnector):
    """A connector that deletes when it is told to."""

    gate: threading.Event

    def evict(self, key: Any) -> None:
        assert self.gate.wait(30)
        super().evict(key)


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(f"store-{uuid.uuid4().hex}", LocalConnector(), register=True) as store:
        yield store


def own(store: Store, obj: Any) -> Any:
    return OwnedProxy(StoreFactory(store.put_reference(obj)))


def stored(store: Store) -> int:
    return store.connector.usage().objects


def breaks(rule: str) -> Any:
    """Expect an error that names a rule."""
    assert rule in RULES
    return pytest.raises(OwnershipError, check=lambda exc: exc.rule == rule)


class TestKindsOfErrors:
    def test_a_borrow_beside_others(self, store: Store) -> None:
        owner = own(store, [1])
        lent = borrow(owner)
        for function in (mut_borrow, update):
            with pytest.raises(MutableBorrowError):
                function(owner)
        drop(lent)
        lent = mut_borrow(owner)
        for function in (borrow, mut_borrow, clone, update):
            with pytest.raises(MutableBorrowError):
                function(owner)
        drop(lent)

    def test_what_only_an_owner_does(self, store: Store) -> None:
        owner = own(store, [1])
        lent = borrow(owner)
        for function in (borrow, mut_borrow, clone, update):
            for proxy in (lent, store.proxy([1])):
                with pytest.raises(ReferenceNotOwnedError):
                    function(proxy)

    def test_a_borrow_that_has_ended(self, store: Store) -> None:
        owner = own(store, [1])
        lent = borrow(owner)
        drop(lent)
        with pytest.raises(ReferenceInvalidError):
            resolve(lent)
        drop(owner)
        with pytest.raises(ReferenceInvalidError):
            resolve(owner)


class TestOwner:
    def test_its_key_is_that_of_the_object(self, store: Store) -> None:
        owner = store.owned_proxy([1, 2])
        key = get_key(owner)
        assert store.get(key) == [1, 2]
        lent = borrow(owner)
        assert get_key(lent) == get_key(pickle.loads(pickle.dumps(lent))) == key
        assert get_store(owner) is store
        drop(lent)
        owner.append(3)
        update(owner)
        assert store.get(get_key(owner)) == [1, 2, 3]
        drop(owner)
        with breaks(VALID):
            get_key(owner)

    def test_is_a_proxy_like_any_other(self, store: Store) -> None:
        owner = own(store, np.arange(5))
        assert isinstance(owner, OwnedProxy)
        assert isinstance(owner, Proxy)
        assert not is_resolved(owner)
        assert isinstance(owner, np.ndarray)
        assert owner.shape == (5,)
        assert not is_resolved(owner)
        assert owner.sum() == 10
        assert (owner + 1)[0] == 1
        assert is_resolved(owner)
        assert isinstance(owner, OwnedProxy)
        assert repr(owner) == repr(np.arange(5))

    @pytest.mark.parametrize("resolved", [False, True])
    def test_its_end_is_that_of_the_object(self, store: Store, resolved: bool) -> None:
        kept = store.put("kept")
        owner = own(store, [1, 2])
        if resolved:
            assert owner == [1, 2]
        assert stored(store) == 2
        del owner
        assert stored(store) == 1
        assert store.get(kept) == "kept"

    def test_garbage_in_a_cycle(self, store: Store) -> None:
        cycle: list[Any] = [own(store, 1)]
        cycle.append(cycle)
        del cycle
        gc.collect()
        assert stored(store) == 0

    @pytest.mark.slow
    def test_deleting_waits_for_no_store_for_ever(self) -> None:
        connector = Slow()
        connector.gate = threading.Event()
        with Store("slow", connector, register=True) as store:
            owner = own(store, 1)
            del owner  # returns, though nothing is deleted
            assert stored(store) == 1
            connector.gate.set()
            wait_until(lambda: not stored(store), "deleted")

    @pytest.mark.slow
    def test_a_finalizer_inside_a_lock_of_the_store_is_no_deadlock(
        self, store: Store
    ) -> None:
        owner = own(store, 1)
        with store._reader._lock:  # as if the garbage collector ran there
            del owner
        wait_until(lambda: not stored(store), "deleted")

    def test_drop(self, store: Store) -> None:
        owner = own(store, [1, 2])
        assert owner == [1, 2]
        drop(owner)
        assert stored(store) == 0
        drop(owner)
        for use in (len, extract, borrow, mut_borrow, clone, update):
            with breaks(VALID):
                use(owner)
        assert "not resolved" in repr(owner)

    def test_does_not_pickle(self, store: Store) -> None:
        owner = own(store, [1, 2])
        for dumps in (pickle.dumps, cloudpickle.dumps):
            with breaks(ONE_OWNER) as caught:
                dumps([owner])
            assert "send borrow(owner)" in str(caught.value)
        for copying in (copy.copy, copy.deepcopy):
            for proxy in (owner, borrow(owner)):
                with breaks(ONE_OWNER):
                    copying(proxy)
        assert owner == [1, 2]

    def test_one_per_object(self, store: Store) -> None:
        proxy = store.proxy([1, 2])
        owner = into_owned(proxy)
        with breaks(ONE_OWNER):
            into_owned(proxy)
        for other in (owner, borrow(owner)):
            with breaks(ONE_OWNER):
                into_owned(other)
        del other
        drop(owner)
        assert stored(store) == 0

    def test_into_owned(self, store: Store) -> None:
        plain = store.proxy([1, 2])
        owner = into_owned(plain)
        assert is_resolved(owner)
        assert extract(owner) is extract(plain)
        assert not is_resolved(into_owned(store.proxy([1]), populate_target=False))
        single = Proxy(StoreFactory(store.put_reference("single use"), once=True))
        owner = into_owned(single)
        assert owner == "single use"
        assert borrow(owner, populate_target=False) == "single use"

    def test_only_proxies_of_stores_have_owners(self, store: Store) -> None:
        with pytest.raises(NotStoredError, match="that a store made"):
            into_owned(Proxy(lambda: 1))
        with pytest.raises(TypeError, match="takes a Proxy, not int"):
            into_owned(1)
        with pytest.raises(TypeError, match="made by borrow"):
            RefProxy(StoreFactory(store.put_reference(1)))  # type: ignore[arg-type]

    def test_the_thread_ends_with_the_last_owner(self, store: Store) -> None:
        owners = [own(store, i) for i in range(3)]
        assert reaper._background.running
        drop(owners[0])
        owners.clear()
        wait_until(lambda: not reaper._background.running, "no thread")
        assert not owned
        owner = own(store, 1)
        assert reaper._background.running
        drop(owner)
        wait_until(lambda: not reaper._background.running, "no thread")


class TestBorrow:
    def test_any_number_of_shared_ones(self, store: Store) -> None:
        owner = own(store, [1, 2])
        borrows = [borrow(owner) for _ in range(5)]
        assert all(isinstance(b, RefProxy) and b == [1, 2] for b in borrows)
        with breaks(SHARED_OR_MUTABLE) as caught:
            mut_borrow(owner)
        assert "borrowed 5 times" in str(caught.value)
        with breaks(VALID):
            drop(owner)
        with breaks(SHARED_OR_MUTABLE):
            update(owner)
        del borrows
        mut_borrow(owner)

    def test_or_one_mutable_one(self, store: Store) -> None:
        owner = own(store, [1, 2])
        mutable = mut_borrow(owner)
        assert isinstance(mutable, RefMutProxy)
        for use in (borrow, mut_borrow, update, clone):
            with breaks(SHARED_OR_MUTABLE):
                use(owner)
        with breaks(VALID):
            drop(owner)
        assert owner == [1, 2]
        drop(mutable)
        drop(mutable)
        with breaks(ENDS):
            extract(mutable)
        with breaks(ENDS):
            update(mutable)
        assert borrow(owner) == [1, 2]
        drop(owner)

    def test_only_owners_lend(self, store: Store) -> None:
        owner = own(store, [1, 2])
        borrowed = borrow(owner)
        for what in (borrowed, store.proxy(1), [1, 2]):
            for use in (borrow, mut_borrow, clone):
                with breaks(OWNER_LENDS):
                    use(what)
        for what in (borrowed, store.proxy(1), [1, 2]):
            with breaks(MUTABLE_CHANGES):
                update(what)
        for what in (store.proxy(1), [1, 2]):
            with breaks(VALID):
                drop(what)

    def test_resolved_as_the_owner_is(self, store: Store) -> None:
        owner = own(store, [1, 2])
        assert not is_resolved(borrow(owner))
        assert owner == [1, 2]
        assert extract(borrow(owner)) is extract(owner)
        assert not is_resolved(borrow(owner, populate_target=False))
        assert extract(mut_borrow(owner)) is extract(owner)
        assert not is_resolved(mut_borrow(owner, populate_target=False))

    def test_keeps_the_object_of_an_owner_that_is_gone(self, store: Store) -> None:
        owner = own(store, [1, 2])
        first, second = borrow(owner), borrow(owner)
        del owner
        del first
        assert stored(store) == 1
        assert second == [1, 2]
        del second
        wait_until(lambda: not stored(store), "deleted")

    def test_dropping_one_that_is_left_deletes(self, store: Store) -> None:
        borrowed = borrow(own(store, [1, 2]))
        drop(borrowed)
        wait_until(lambda: not stored(store), "deleted")

    def test_a_pickled_one_is_a_borrow_elsewhere(self, store: Store) -> None:
        owner = own(store, [1, 2])
        borrowed = borrow(owner)
        arrived = pickle.loads(pickle.dumps(borrowed))
        assert type(arrived) is not list
        assert isinstance(arrived, RefProxy)
        assert arrived == [1, 2]
        assert borrowed == [1, 2]
        for use in (drop, update, borrow):
            with pytest.raises(OwnershipError):
                use(arrived)
        del arrived
        with breaks(SHARED_OR_MUTABLE):
            mut_borrow(owner)

    def test_in_a_message_of_dasks(self, store: Store) -> None:
        owner = own(store, [1, 2])
        register_family()
        for families in (None, ["daskref", "pickle"], ["pickle"]):
            header, frames = serialize(borrow(owner), serializers=families)
            arrived = deserialize(header, frames)
            assert isinstance(arrived, RefProxy)
            assert arrived == [1, 2]
            with pytest.raises(TypeError, match="serialize") as caught:
                serialize(owner, serializers=families, on_error="raise")
            assert isinstance(caught.value.__cause__, OwnershipError)

    def test_tokens(self, store: Store) -> None:
        owner = own(store, [1, 2])
        tokenize = dask.base.tokenize
        assert tokenize(borrow(owner)) == tokenize(borrow(owner))
        mutable = mut_borrow(owner)
        token = tokenize(mutable)
        assert token == tokenize(mutable)
        drop(mutable)
        # a task that changes something is not done because another was
        assert tokenize(mut_borrow(owner)) != token
        other = own(store, [1, 2])
        assert len({*map(tokenize, [owner, other, borrow(owner)])}) == 3


class TestUpdate:
    def test_by_the_owner(self, store: Store) -> None:
        owner = own(store, [1, 2])
        update(owner)  # not resolved: nothing to write
        before = get_factory(borrow(owner)).factory.reference.key
        owner.append(3)
        update(owner)
        assert owner == [1, 2, 3]
        assert borrow(owner, populate_target=False) == [1, 2, 3]
        wait_until(lambda: stored(store) == 1, "one generation is left")
        assert not store.exists(before)
        drop(owner)
        wait_until(lambda: not stored(store), "deleted")

    def test_by_a_mutable_borrow(self, store: Store) -> None:
        owner = own(store, [1, 2])
        assert owner == [1, 2]
        mutable = mut_borrow(owner, populate_target=False)
        update(mutable)
        mutable.append(3)
        assert owner == [1, 2]
        update(mutable)
        assert owner == [1, 2, 3]
        assert len(owner) == 3
        mutable.append(4)
        update(mutable)
        del mutable
        assert borrow(owner) == [1, 2, 3, 4]
        wait_until(lambda: stored(store) == 1, "one generation is left")

    def test_a_shared_local_object_stays_the_same(self, store: Store) -> None:
        owner = own(store, [1, 2])
        local = extract(owner)
        mutable = mut_borrow(owner)
        mutable.append(3)
        update(mutable)
        assert extract(owner) is local
        drop(mutable)
        assert borrow(owner, populate_target=False) == [1, 2, 3]

    def test_metadata_follow(self, store: Store) -> None:
        owner = own(store, [0, 0, 0])
        mutable = mut_borrow(owner)
        mutable += [1, 1]
        update(mutable)
        assert not is_resolved(owner)
        assert len(owner) == 5
        assert not is_resolved(owner)
        drop(mutable)
        borrowed = borrow(owner)
        assert len(borrowed) == 5
        assert not is_resolved(borrowed)

    def test_with_serializers_of_the_users(self) -> None:
        with Store(
            "texts",
            LocalConnector(),
            serializer=lambda text: text.encode(),
            deserializer=lambda data: bytes(data).decode(),
            register=True,
        ) as store:
            owner = own(store, "text")
            mutable = mut_borrow(owner)
            assert mutable == "text"
            update(mutable)
            drop(mutable)
            assert borrow(owner) == "text"
            mutable = mut_borrow(owner)
            assert mutable == "text"
            update(mutable, serializer=lambda text: text.upper().encode())
            assert owner == "TEXT"
            assert len(owner) == 4
            drop(mutable)

    def test_what_does_not_serialize_changes_nothing(self, store: Store) -> None:
        owner = own(store, [1, 2])
        owner.append(threading.Lock())
        with pytest.raises(daskref.exceptions.NotProxiableError):
            update(owner)
        assert borrow(owner, populate_target=False) == [1, 2]
        mut_borrow(owner)
        assert stored(store) == 1


class TestClone:
    @pytest.mark.parametrize("links", [True, False])
    def test_is_another_object(
        self, store: Store, links: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not links:
            monkeypatch.setattr(store.connector, "link", lambda key: None)
        owner = own(store, [1, [2]])
        assert owner == [1, [2]]
        copied = clone(owner)
        assert isinstance(copied, OwnedProxy)
        assert copied == [1, [2]]
        assert copied[1] is not owner[1]
        assert stored(store) == (1 if links else 2)  # linked ones are counted once
        drop(owner)
        assert borrow(copied, populate_target=False) == [1, [2]]
        drop(copied)
        assert stored(store) == 0

    def test_of_an_unresolved_one(self, store: Store) -> None:
        owner = own(store, [1])
        held = borrow(owner)
        copied = clone(owner)
        assert not is_resolved(owner)
        assert not is_resolved(copied)
        assert copied == held == [1]

    def test_of_an_object_that_is_gone(self, store: Store) -> None:
        owner = own(store, [1])
        store.evict(get_factory(borrow(owner)).factory.reference.key)
        with pytest.raises(ResolveError, match="no object under"):
            clone(owner)
        drop(owner)


# Ends of processes.


def leave(directory: str, how: str) -> None:
    from daskref.connectors import FileConnector

    store = Store("left", FileConnector(directory, clear=False), register=True)
    owner = own(store, 1)
    borrowed = borrow(owner)
    store.put("not owned")
    if how == "fork":
        if os.fork() == 0:
            try:
                borrow(owner)
            except OwnershipError as exc:
                print(exc.rule)
            del owner, borrowed
            gc.collect()
            sys.exit()
        os.wait()
    print(stored(store))
    del borrowed


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit", "fork"])
def test_the_exit_of_the_owners_process_deletes(how: str, tmp_path: Path) -> None:
    code = "from tests.ownership.test_ownership import *; "
    code += f"leave({str(tmp_path)!r}, {how!r})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines == ([ONE_OWNER] if how == "fork" else []) + ["2"]
    left = [path for path in tmp_path.glob("*/*") if len(path.name) == 33]
    assert len(left) == 1  # what was not owned


def test_threads_keep_to_the_rules(store: Store) -> None:
    owner = own(store, np.zeros(4))
    barrier = threading.Barrier(4)
    done = []
    refused = []

    def work() -> None:
        barrier.wait(30)
        for _ in range(50):
            try:
                mutable = mut_borrow(owner, populate_target=False)
            except OwnershipError as exc:
                refused.append(exc.rule)
                continue
            mutable += 1
            update(mutable)
            done.append(1)
            drop(mutable)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) + len(refused) == 200
    assert set(refused) <= {SHARED_OR_MUTABLE}
    assert borrow(owner, populate_target=False).tolist() == [len(done)] * 4
    wait_until(lambda: stored(store) == 1, "one generation is left")


class Mine(OwnedProxy[Any]):
    def __init__(self, factory: Any) -> None:
        super().__init__(factory)


def test_a_subclass_that_calls_its_base_owns() -> None:
    with Store("mine", LocalConnector(), register=True) as store:
        owner = Mine(get_factory(store.proxy([1, 2], populate_target=False)))
        assert list(borrow(owner)) == [1, 2]
        drop(owner)
