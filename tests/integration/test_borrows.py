"""Borrows in Dask's tasks: given back when the tasks end, whatever ends them."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest
from distributed import Event, LocalCluster, fire_and_forget, get_client
from distributed.scheduler import KilledWorker

import daskref
from daskref import OwnedProxy, Store, borrow, drop, is_resolved, mut_borrow, update
from daskref.connectors import FileConnector
from daskref.exceptions import OwnershipError, ResolveError
from daskref.ownership.rules import (
    ENDS,
    MUTABLE_CHANGES,
    ONE_OWNER,
    OWNER_LENDS,
    SHARED_OR_MUTABLE,
    VALID,
)
from daskref.store.factory import StoreFactory
from tests.support.common import large, processes, session_of, start_worker, wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of the user's, apart from the session's."""
    name = f"owned-{uuid.uuid4().hex}"
    with Store(name, FileConnector(tmp_path / "files"), register=True) as store:
        yield store


@pytest.fixture
def gate() -> str:
    """Name of an event that a task may wait for."""
    return f"gate-{uuid.uuid4().hex}"


def own(store: Store, obj: Any) -> Any:
    return OwnedProxy(StoreFactory(store.put_reference(obj)))


def stored(store: Store) -> int:
    return store.connector.usage().objects


def breaks(rule: str) -> Any:
    return pytest.raises(OwnershipError, check=lambda exc: exc.rule == rule)


def is_free(owner: Any) -> bool:
    """Tell whether nobody has borrowed an owner's object."""
    try:
        drop(mut_borrow(owner))
    except OwnershipError:
        return False
    return True


def seen(x: Any, *more: Any, **named: Any) -> tuple[str, list[int]]:
    return type(x).__name__, list(x)


def total(x: Any, *more: Any, **named: Any) -> int:
    return int(sum(x))


def total_after(gate: str, x: Any) -> int:
    Event(f"{gate}-begun").set()
    assert Event(gate).wait(30)
    return int(sum(x))


def changed(x: Any, item: int) -> list[int]:
    """Change the local object, and return it."""
    x.append(item)
    return list(x)


def pid_after(gate: str, x: Any) -> tuple[int, list[int]]:
    total_after(gate, x)
    return os.getpid(), list(x)


class TestGivenBack:
    def test_when_the_task_is_done(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        future = client.submit(seen, borrow(owner))
        # a proxy of the value, and in time for the next line
        assert future.result() == ("RefProxy", [1, 2])
        assert is_free(owner)
        assert future.status == "finished"
        assert not is_resolved(owner)

    def test_not_before(self, client: Any, store: Store, gate: str) -> None:
        owner = own(store, [1, 2])
        futures = [client.submit(total_after, gate, borrow(owner)) for _ in range(2)]
        futures.append(client.submit(total, borrow(owner), pure=False))
        assert futures[2].result() == 3
        assert Event(f"{gate}-begun").wait(30)
        with breaks(SHARED_OR_MUTABLE):
            mut_borrow(owner)
        with breaks(VALID):
            drop(owner)
        assert owner == [1, 2]
        Event(gate).set()
        assert client.gather(futures) == [3, 3, 3]
        drop(owner)
        assert stored(store) == 0

    def test_what_was_sent_is_not_used_again(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        borrowed = borrow(owner)
        assert borrowed == [1, 2]
        assert client.submit(total, borrowed).result() == 3
        with breaks(ENDS):
            list(borrowed)
        with breaks(ENDS):
            client.submit(seen, borrowed)
        drop(borrowed)

    def test_one_borrow_in_two_tasks(
        self, client: Any, store: Store, gate: str
    ) -> None:
        owner = own(store, [1, 2])
        borrowed = borrow(owner)
        waiting = client.submit(total_after, gate, borrowed)
        assert client.submit(total, borrowed, pure=False).result() == 3
        assert not is_free(owner)
        Event(gate).set()
        assert waiting.result() == 3
        assert is_free(owner)

    @pytest.mark.parametrize("form", ["list", "keyword", "nested", "closure", "large"])
    def test_wherever_it_is_in_the_arguments(
        self, client: Any, store: Store, form: str
    ) -> None:
        owner = own(store, [1, 2])
        borrowed = borrow(owner)
        if form == "list":
            future = client.submit(lambda xs: total(xs[1]), [0, borrowed])
        elif form == "keyword":
            future = client.submit(lambda x: total(x), x=borrowed)
        elif form == "nested":
            future = client.submit(lambda d: total(d["a"][0]), {"a": [borrowed]})
        elif form == "closure":
            future = client.submit(lambda: total(borrowed))
        else:
            future = client.submit(total, borrowed, large())
        assert future.result() == 3
        assert is_free(owner)

    def test_map(self, client: Any, store: Store, gate: str) -> None:
        owners = [own(store, [i]) for i in range(3)]
        futures = client.map(total, [borrow(owner) for owner in owners])
        assert client.gather(futures) == [0, 1, 2]
        assert all(map(is_free, owners))
        names = [gate, f"{gate}-2"]
        futures = client.map(total_after, names, [borrow(o) for o in owners[:2]])
        Event(names[1]).set()
        assert futures[1].result() == 1
        assert not is_free(owners[0])  # each by itself
        assert is_free(owners[1])
        Event(gate).set()
        assert futures[0].result() == 0
        assert is_free(owners[0])

    def test_delayed_and_what_depends_on_it(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        first = dask.delayed(total)(borrow(owner))
        assert dask.delayed(abs)(first).compute() == 3
        assert is_free(owner)

    def test_a_task_that_fails(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        future = client.submit(divmod, borrow(owner), 0, pure=False)
        assert isinstance(future.exception(), TypeError)
        assert is_free(owner)

    def test_a_task_that_was_done_before(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        future = client.submit(total, borrow(owner))
        assert future.result() == 3
        again = client.submit(total, borrow(owner))
        assert again.key == future.key
        assert again.result() == 3
        gc.collect()
        assert is_free(owner)
        # known to the scheduler, not to this client
        with daskref.Client(client.scheduler.address, set_as_default=False) as other:
            assert other.submit(total, borrow(owner)).result() == 3
            assert is_free(owner)

    def test_a_future_that_is_let_go_of(
        self, client: Any, store: Store, gate: str
    ) -> None:
        owner = own(store, [1, 2])
        future = client.submit(total_after, gate, borrow(owner))
        assert Event(f"{gate}-begun").wait(30)
        assert not is_free(owner)
        del future
        wait_until(lambda: is_free(owner), "given back")
        Event(gate).set()

    def test_a_future_that_is_cancelled(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        # never runs
        future = client.submit(total, borrow(owner), resources={"none": 1})
        assert not is_free(owner)
        future.cancel()
        wait_until(lambda: is_free(owner), "given back")

    def test_fire_and_forget(self, client: Any, store: Store, gate: str) -> None:
        owner = own(store, [1, 2])
        fire_and_forget(client.submit(total_after, gate, mut_borrow(owner)))
        assert Event(f"{gate}-begun").wait(30)
        gc.collect()
        assert client.submit(int, pure=False).result() == 0
        assert not is_free(owner)
        Event(gate).set()
        wait_until(lambda: is_free(owner), "given back")

    def test_the_owner_goes_first(self, client: Any, store: Store, gate: str) -> None:
        future = client.submit(total_after, gate, borrow(own(store, [1, 2])))
        gc.collect()
        assert Event(f"{gate}-begun").wait(30)
        assert stored(store) == 1
        Event(gate).set()
        assert future.result() == 3
        wait_until(lambda: not stored(store), "deleted")

    def test_a_graph_that_the_scheduler_cannot_read(
        self, client: Any, store: Store
    ) -> None:
        owner = own(store, [1, 2])
        future = client.submit(total, borrow(owner), Unreadable())
        assert isinstance(future.exception(), RuntimeError)
        assert is_free(owner)
        wait_until(lambda: not client.run_on_scheduler(watches), "no watch is left")

    def test_coroutines(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        future = client.submit(changed_in_coroutine, mut_borrow(owner), 3)
        assert future.result() == [1, 2, 3]
        assert is_free(owner)


class Unreadable:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def watches(dask_scheduler: Any) -> int:
    return len(dask_scheduler.plugins["daskref"].watches)


async def changed_in_coroutine(x: Any, item: int) -> list[int]:
    return changed(x, item)


class TestChanges:
    def test_are_what_the_task_returns(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        assert client.submit(changed, mut_borrow(owner), 3).result() == [1, 2, 3]
        assert owner == [1, 2]
        assert client.submit(seen, borrow(owner)).result()[1] == [1, 2]
        owner.append(3)
        update(owner)
        assert client.submit(seen, borrow(owner)).result()[1] == [1, 2, 3]
        wait_until(lambda: stored(store) == 1, "one generation is left")

    @pytest.mark.parametrize("resolved", [True, False])
    def test_in_a_task_update_says_what_to_do(
        self, client: Any, store: Store, resolved: bool
    ) -> None:
        owner = own(store, [1, 2])
        rule, text = client.submit(update_it, mut_borrow(owner), resolved).result()
        assert rule == MUTABLE_CHANGES
        assert "return the new value" in text
        assert "Store.owned_proxy()" in text
        assert is_free(owner)
        assert owner == [1, 2]
        assert stored(store) == 1

    def test_nobody_else_borrows_meanwhile(
        self, client: Any, store: Store, gate: str
    ) -> None:
        owner = own(store, [1, 2])
        future = client.submit(total_after, gate, mut_borrow(owner))
        assert Event(f"{gate}-begun").wait(30)
        for use in (mut_borrow, borrow, update):
            with breaks(SHARED_OR_MUTABLE):
                use(owner)
        assert owner == [1, 2]  # what it is, the task does not change
        Event(gate).set()
        assert future.result() == 3

    def test_of_an_attempt_that_is_repeated(self, client: Any, store: Store) -> None:
        owner = own(store, [1])
        future = client.submit(change_and_fail, mut_borrow(owner), retries=2)
        assert isinstance(future.exception(), ZeroDivisionError)
        assert str(future.exception()) == "[1, 2]"
        assert is_free(owner)


def update_it(x: Any, resolved: bool) -> tuple[str, str]:
    if resolved:
        x.append(3)
    with pytest.raises(OwnershipError) as caught:
        update(x)
    return caught.value.rule, str(caught.value)


def change_and_fail(x: Any) -> None:
    raise ZeroDivisionError(str(changed(x, 2)))


class TestRefused:
    def test_owners_do_not_travel(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        client.submit(total, borrow(owner)).result()
        for send in (
            lambda: client.submit(total, owner),
            lambda: client.submit(total, [{"a": owner}]),
            lambda: client.map(total, [owner]),
            lambda: client.scatter(owner),
            lambda: client.scatter({"a": owner}),
            lambda: dask.delayed(total)(owner).compute(),
        ):
            with breaks(ONE_OWNER) as caught:
                send()
            assert "send borrow(owner)" in str(caught.value)
        assert is_free(owner)

    def test_borrows_are_not_scattered(self, client: Any, store: Store) -> None:
        owner = own(store, [1, 2])
        for data in (borrow(owner), [borrow(owner)]):
            with breaks(ENDS) as caught:
                client.scatter(data)
            assert "submit, map or compute" in str(caught.value)

    def test_a_mutable_borrow_is_for_one_task(
        self, client: Any, store: Store, gate: str
    ) -> None:
        owner, other = own(store, [1, 2]), own(store, [1])
        mutable = mut_borrow(owner)
        with breaks(SHARED_OR_MUTABLE) as caught:
            client.map(changed, [mutable, mutable], [3, 4])
        assert "several tasks" in str(caught.value)
        future = client.submit(total_after, gate, mutable)
        # what is lent before the one that is refused is given back
        with breaks(SHARED_OR_MUTABLE):
            client.submit(total, borrow(other), mutable)
        gc.collect()
        wait_until(lambda: is_free(other), "given back")
        Event(gate).set()
        assert future.result() == 3
        assert is_free(owner)

    def test_a_task_does_not_send_on_what_it_borrowed(
        self, client: Any, store: Store
    ) -> None:
        owner = own(store, [1, 2])
        future = client.submit(send_on, borrow(owner))
        assert future.result() == OWNER_LENDS

    def test_an_arrived_borrow_is_not_updated_outside_of_a_task(
        self, client: Any, store: Store
    ) -> None:
        owner = own(store, [1, 2])
        arrived = pickle.loads(pickle.dumps(mutable := mut_borrow(owner)))
        arrived.append(3)
        with pytest.raises(OwnershipError, match="has left its owner's process"):
            update(arrived)
        assert stored(store) == 1
        drop(mutable)

    def test_a_plain_client_cannot_send_an_owner(
        self, cluster: Any, store: Store
    ) -> None:
        owner = own(store, [1, 2])
        with (
            distributed.Client(cluster, set_as_default=False) as plain,
            pytest.raises(TypeError, match="serialize") as caught,
        ):
            plain.submit(total, owner)
        assert isinstance(caught.value.__cause__, OwnershipError)

    def test_a_plain_client_while_the_borrow_is_held(
        self, cluster: Any, store: Store
    ) -> None:
        owner = own(store, [1, 2])
        with distributed.Client(cluster, set_as_default=False) as plain:
            borrowed = borrow(owner)
            assert plain.submit(total, borrowed).result() == 3
            assert not is_free(owner)
            drop(borrowed)
        assert is_free(owner)


def send_on(x: Any) -> Any:
    with pytest.raises(OwnershipError) as caught:
        get_client().submit(total, x)
    return caught.value.rule


def own_in_a_task(directory: str) -> list[Any]:
    """Own and lend inside a task, by the task's own client."""
    with Store("in-task", FileConnector(directory), register=True) as store:
        owner = own(store, [1])
        client = get_client()
        got = [client.submit(total, borrow(owner)).result(), is_free(owner)]
        got += [client.submit(changed, mut_borrow(owner), 2).result(), is_free(owner)]
        drop(owner)
        return [*got, stored(store)]


def test_an_owner_in_a_task(client: Any, tmp_path: Path) -> None:
    future = client.submit(own_in_a_task, str(tmp_path / "files"), pure=False)
    assert future.result() == [1, True, [1, 2], True, 0]


@pytest.mark.slow
def test_in_one_process(store: Store) -> None:
    with (
        LocalCluster(processes=False, n_workers=2, dashboard_address=":0") as cluster,
        daskref.Client(cluster) as client,
    ):
        owner = own(store, [1, 2])
        assert client.submit(seen, borrow(owner)).result() == ("RefProxy", [1, 2])
        assert client.submit(changed, mut_borrow(owner), 3).result() == [1, 2, 3]
        assert owner == [1, 2]
        assert is_free(owner)
        # what cannot be sent; a traceback in a log may keep the futures
        with pytest.raises(TypeError, match="serialize"):
            client.submit(total, borrow(owner), threading.Lock())
        assert is_free(owner)


@pytest.mark.slow
def test_an_asynchronous_client(store: Store) -> None:
    async def test() -> None:
        async with (
            LocalCluster(
                processes=False, n_workers=1, dashboard_address=":0", asynchronous=True
            ) as cluster,
            daskref.Client(cluster, asynchronous=True) as client,
        ):
            owner = own(store, [1, 2])
            assert await client.submit(total, borrow(owner)) == 3
            assert await client.submit(changed, mut_borrow(owner), 3) == [1, 2, 3]
            assert is_free(owner)
            with breaks(ONE_OWNER):
                client.submit(total, owner)
            del owner  # does not hold up the loop, a thread deletes

    asyncio.run(test())
    wait_until(lambda: not stored(store), "deleted")


@pytest.mark.slow
def test_a_client_that_closes_gives_back(store: Store, gate: str) -> None:
    with (
        LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as cluster,
        daskref.Client(cluster) as client,
    ):
        owner = own(store, [1, 2])
        with daskref.Client(cluster, set_as_default=False) as other:
            future = other.submit(total_after, gate, borrow(owner))
            assert Event(f"{gate}-begun", client=client).wait(30)
            assert not is_free(owner)
        assert is_free(owner)
        assert future.status == "cancelled"
        Event(gate, client=client).set()


# Processes that are killed.


@pytest.mark.slow
def test_a_worker_is_killed_and_the_task_runs_elsewhere(
    store: Store, gate: str
) -> None:
    with (
        processes(2) as (scheduler, workers),
        daskref.Client(scheduler.address) as client,
    ):
        shared, mutable = own(store, [1, 2]), own(store, [1, 2])
        futures = [
            client.submit(total_after, gate, borrow(shared)),
            client.submit(pid_after, f"{gate}-2", mut_borrow(mutable)),
        ]
        for name in (gate, f"{gate}-2"):
            assert Event(f"{name}-begun").wait(30)
        for worker in workers:
            worker.kill()
        wait_until(lambda: not client.scheduler_info()["workers"], "both are gone")
        assert not is_free(shared)
        assert not is_free(mutable)
        for name in (gate, f"{gate}-2"):
            Event(name).set()
        workers.append(start_worker(scheduler.address))
        assert futures[0].result(30) == 3
        assert futures[1].result(30) == (workers[-1].pid, [1, 2])
        assert is_free(shared)
        assert is_free(mutable)
        assert stored(store) == 2


def kill_own_worker(x: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_task_that_kills_every_worker_gives_back_in_the_end(store: Store) -> None:
    env = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    with (
        processes(3, env=env) as (scheduler, _),
        daskref.Client(scheduler.address) as client,
    ):
        owner = own(store, [1, 2])
        future = client.submit(kill_own_worker, borrow(owner))
        assert isinstance(future.exception(30), KilledWorker)
        assert is_free(owner)


@pytest.mark.slow
def test_recomputation_after_the_end(store: Store) -> None:
    with (
        processes(2) as (scheduler, workers),
        daskref.Client(scheduler.address) as client,
    ):
        owner, gone = own(store, [1, 2]), own(store, [1])
        futures = [client.submit(seen_by, borrow(one)) for one in (owner, gone)]
        pids = {pid for _, pid in client.gather(futures)}
        drop(gone)
        for worker in workers:
            if worker.pid in pids:
                worker.kill()
        if len(pids) == 2:
            workers.append(start_worker(scheduler.address))
        # the object is still there, or an error says that it is not
        assert futures[0].result(30)[0] == [1, 2]
        with pytest.raises(ResolveError, match="it was evicted"):
            futures[1].result(30)
        assert is_free(owner)


def seen_by(x: Any) -> tuple[list[int], int]:
    return list(x), os.getpid()


@pytest.mark.slow
def test_a_restart_and_the_death_of_the_scheduler_give_back(
    store: Store, gate: str
) -> None:
    with processes(1, args=("--nanny",)) as (scheduler, _):
        client = daskref.Client(scheduler.address, timeout="5s")
        owner = own(store, [1, 2])
        future = client.submit(total_after, gate, borrow(owner))
        assert Event(f"{gate}-begun").wait(30)
        client.restart()
        assert is_free(owner)
        assert future.cancelled()
        future = client.submit(total_after, f"{gate}-2", mut_borrow(owner))
        wait_until(Event(f"{gate}-2-begun").is_set, "begun")
        scheduler.kill()
        client.close(timeout=1)
        assert is_free(owner)
        assert owner == [1, 2]


@pytest.mark.slow
def test_a_client_that_cannot_see_the_sessions_store(
    store: Store, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        processes(1) as (scheduler, _),
        daskref.Client(scheduler.address) as client,
    ):
        monkeypatch.setattr(session_of(client), "store", None)
        owner = own(store, [1, 2])
        future = client.submit(total_after, gate, borrow(owner))
        assert Event(f"{gate}-begun").wait(30)
        assert not is_free(owner)
        Event(gate).set()
        assert future.result() == 3
        assert is_free(owner)
        with breaks(ONE_OWNER):
            client.submit(total, owner)
        monkeypatch.undo()
