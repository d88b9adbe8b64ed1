"""Freed when Dask frees, and never before.

``stored`` counts what is in the store's directory. "Within a second" is checked with a
bound of five: a loaded machine is no leak.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from distributed import (
    Event,
    LocalCluster,
    Queue,
    Variable,
    fire_and_forget,
    get_client,
    wait,
    worker_client,
)

import daskref
from daskref.exceptions import ResolveError
from daskref.proxy import get_factory
from daskref.store.factory import resolve_reference
from daskref.worker._data import peek
from tests.support.common import (
    LARGE,
    large,
    processes,
    session_of,
    start,
    start_worker,
    wait_until,
)

#: Sum of what ``large()`` returns.
SUM = LARGE / 8

#: A scheduler that compares its table with the store all the time.
RECONCILE = {
    "DASK_DASKREF__RECONCILE_INTERVAL": "100ms",
    "DASK_DASKREF__RECONCILE_GRACE": "100ms",
    "DASK_DASKREF__LEASE": "1s",
}


def total(x: Any, *ignored: Any) -> float:
    return float(np.asarray(x).sum())


def double(x: Any, *ignored: Any) -> Any:
    return x * 2


def make(fill: float = 1.0) -> Any:
    return large(fill)


def total_after(gate: str, x: Any) -> float:
    assert Event(gate).wait(30)
    return total(x)


def total_if(path: str, x: Any) -> float:
    """Fail until there is a file."""
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    return total(x)


def reference_of(key: str, dask_worker: Any) -> Any:
    return get_factory(peek(dask_worker.data, key)).reference


def stored(client: Any) -> int:
    """Return how many objects are in the store, as its directory shows."""
    objects: int = daskref.stats(client)["objects"]
    return objects


def settle(client: Any) -> None:
    """Wait until the scheduler has seen what the client said so far."""
    gc.collect()
    for _ in range(2):  # messages are sent in batches, evictions as well
        assert client.submit(int, pure=False).result() == 0


def assert_freed(client: Any, but: int = 0) -> None:
    gc.collect()
    wait_until(lambda: stored(client) == but, f"{but} objects are left", timeout=5)


def take_over(futures: list[Any], client: Any) -> list[Any]:
    """Return another client's futures of the same keys."""
    name = uuid.uuid4().hex
    futures[0].client.publish_dataset(futures, name=name)
    theirs: list[Any] = client.get_dataset(name)
    client.unpublish_dataset(name)
    return theirs


@pytest.fixture
def gate() -> Any:
    """Name of an event that a task may wait for."""
    return f"gate-{uuid.uuid4().hex}"


@pytest.fixture
def plain(cluster: Any) -> Iterator[Any]:
    """A second client of the cluster."""
    with daskref.Client(cluster, set_as_default=False) as client:
        yield client


class TestFreed:
    def test_with_the_last_future_and_the_original(self, client: Any) -> None:
        x = large()
        first = client.submit(total, x)
        second = client.submit(total, x, "again")
        assert client.gather([first, second]) == [SUM, SUM]
        del x
        assert stored(client) == 1
        del first
        settle(client)
        assert stored(client) == 1
        stats = daskref.stats(client)
        assert LARGE <= stats["bytes"] < LARGE + 4096
        evictions = stats["evictions"]
        del second
        assert_freed(client)
        stats = daskref.stats(client)
        assert stats["bytes"] == 0
        assert stats["evictions"] == evictions + 1

    def test_the_original_holds_without_futures(self, client: Any) -> None:
        x = large()
        assert client.submit(total, x).result() == SUM
        settle(client)
        assert stored(client) == 1
        del x
        assert_freed(client)

    def test_results(self, client: Any) -> None:
        made = client.submit(make)
        result = made.result()
        assert stored(client) == 1
        del made
        settle(client)
        assert stored(client) == 1  # it may be sent again, and is mapped anyway
        del result
        assert_freed(client)

    def test_results_that_nobody_took(self, client: Any) -> None:
        first, second = client.scheduler_info()["workers"]
        made = client.submit(make, workers=[first])
        assert client.submit(total, made, workers=[second]).result() == SUM
        assert stored(client) == 1
        del made
        assert_freed(client)

    def test_scattered(self, client: Any) -> None:
        futures = client.scatter([large(1), large(2)])
        settle(client)
        assert stored(client) == 2
        del futures[0]
        assert_freed(client, but=1)
        assert futures[0].result()[0] == 2
        del futures
        assert_freed(client)

    @pytest.mark.parametrize("how", ["map", "many", "persist", "arguments", "layers"])
    def test_each_on_its_own(self, client: Any, how: str) -> None:
        arrays = [large(i) for i in range(3)]
        if how == "map":
            futures = client.map(total, arrays)
        elif how == "many":  # more than Dask sends without looking
            futures = client.map(total, [*arrays, *range(20)])[:3]
        elif how == "persist":
            made = client.persist([dask.delayed(double)(x) for x in arrays])
            futures = distributed.futures_of(made)
            del made
        elif how == "arguments":
            made = client.compute([dask.delayed(total)({"x": [x]}) for x in arrays])
            futures = list(made)
            del made
        else:
            layers = [dask.delayed(double)(dask.delayed(double)(x)) for x in arrays]
            futures = client.compute([dask.delayed(total)(x) for x in layers])
            del layers
        wait(futures)
        assert stored(client) == 3
        del arrays
        for left in (2, 1, 0):
            del futures[0]
            assert_freed(client, but=left)

    def test_after_an_error(self, client: Any) -> None:
        future = client.submit(total_if, "/does/not/exist", large())
        wait(future)
        assert future.status == "error"
        settle(client)
        assert stored(client) == 1  # for a retry
        del future
        assert_freed(client)

    def test_collections(self, client: Any) -> None:
        array = da.from_array(large(nbytes=2 * LARGE), chunks=SUM).persist()
        wait(array)
        assert (array + 1).sum().compute() == 4 * SUM
        settle(client)
        assert stored(client) >= 1
        del array
        assert_freed(client)

    def test_when_cancelled(self, client: Any, gate: str) -> None:
        blocked = client.submit(total_after, gate, large())
        scattered = client.scatter(large(2))
        settle(client)
        assert stored(client) == 2
        client.cancel([blocked, scattered], force=True)
        Event(gate, client=client).set()
        assert blocked.cancelled()
        del blocked, scattered
        assert_freed(client)

    def test_messages(self, client: Any) -> None:
        class Actor:
            state: Any = None

            def add(self, x: Any) -> Any:
                self.state = x + 1
                return self.state

        sums = client.run(lambda: np.ones(LARGE // 4)).values()
        assert [x.sum() for x in sums] == [2 * SUM] * 2
        assert client.run_on_scheduler(make).sum() == SUM
        assert [x.sum() for x in client.run(double, large()).values()] == [2 * SUM] * 2
        assert_freed(client)
        actor = client.submit(Actor, actor=True).result()
        assert actor.add(large()).result()[0] == 2
        assert actor.state[0] == 2
        assert_freed(client)

    def test_an_actor_and_what_it_was_made_of(self, client: Any) -> None:
        class Actor:
            def __init__(self, x: Any) -> None:
                self.x = x

            def sum(self) -> float:
                return float(self.x.sum())

        future = client.submit(Actor, large(), actor=True)
        assert future.result().sum().result() == SUM
        del future
        assert_freed(client)


class TestNotBefore:
    def test_a_running_task(self, client: Any, gate: str) -> None:
        future = client.submit(total_after, gate, large())
        settle(client)
        assert stored(client) == 1
        Event(gate, client=client).set()
        assert future.result() == SUM
        del future
        assert_freed(client)

    def test_dependents_that_are_pending(self, client: Any, gate: str) -> None:
        scattered = client.scatter(large())
        made = client.submit(double, scattered)
        futures = [client.submit(total_after, gate, x) for x in (scattered, made)]
        wait(made)
        del scattered, made
        settle(client)
        assert stored(client) >= 1
        Event(gate, client=client).set()
        assert client.gather(futures) == [SUM, 2 * SUM]
        del futures
        assert_freed(client)

    def test_retries(self, client: Any, tmp_path: Path) -> None:
        def flaky(path: Path, x: Any) -> float:
            attempts = len(list(path.iterdir()))
            (path / str(attempts)).touch()
            if attempts < 3:
                raise RuntimeError("not yet")
            return total(x)

        future = client.submit(flaky, tmp_path, large(), retries=3)
        assert future.result() == SUM
        del future
        assert_freed(client)

    def test_a_retry_by_hand(self, client: Any, tmp_path: Path) -> None:
        path = tmp_path / "there"
        future = client.submit(total_if, str(path), client.submit(double, large()))
        assert isinstance(future.exception(), FileNotFoundError)
        settle(client)
        path.touch()
        future.retry()
        assert future.result() == 2 * SUM
        del future
        assert_freed(client)

    def test_a_second_client(self, cluster: Any, plain: Any) -> None:
        with daskref.Client(cluster, set_as_default=False) as first:
            scattered, made = first.scatter(large()), first.submit(double, large())
            assert made.result()[0] == 2
            held = take_over([scattered, made], plain)
        settle(plain)
        assert [x[0] for x in plain.gather(held)] == [1, 2]
        assert plain.submit(total, held[0]).result() == SUM
        del held
        assert_freed(plain)

    def test_a_second_client_that_submits_the_same(
        self, cluster: Any, plain: Any, gate: str
    ) -> None:
        with daskref.Client(cluster, set_as_default=False) as first:
            mine = first.submit(total_after, gate, large())
            settle(first)
            theirs = plain.submit(total_after, gate, large())
            assert mine.key == theirs.key
            settle(plain)
        settle(plain)
        Event(gate, client=plain).set()
        assert theirs.result() == SUM
        del theirs
        assert_freed(plain)

    def test_a_second_client_that_scatters_the_same(
        self, cluster: Any, plain: Any
    ) -> None:
        workers = list(plain.scheduler_info()["workers"])
        mine = plain.scatter(large(), workers=workers[:1])
        with daskref.Client(cluster, set_as_default=False) as second:
            theirs = second.scatter(large(), workers=workers[1:])
            assert mine.key == theirs.key
            settle(second)
        settle(plain)
        for worker in workers:  # one has it from the second client
            future = plain.submit(total, mine, worker, workers=[worker])
            assert future.result() == SUM
        del mine, future
        assert_freed(plain)

    def test_scattered_again_while_something_else_holds_it(self, client: Any) -> None:
        variable = Variable(uuid.uuid4().hex, client=client)
        first, second = client.scheduler_info()["workers"]
        variable.set(client.scatter(large(), workers=[first]))
        settle(client)  # the client itself holds nothing any more
        client.scatter(large(), workers=[second])
        settle(client)
        for worker in (first, second):
            future = client.submit(total, variable.get(), worker, workers=[worker])
            assert future.result() == SUM
        del future
        variable.delete()
        assert_freed(client)

    def test_a_client_that_closes(self, cluster: Any, plain: Any) -> None:
        with daskref.Client(cluster, set_as_default=False) as first:
            x = large()
            future = first.submit(total, x)
            assert future.result() == SUM
            assert stored(plain) == 1
        assert_freed(plain)
        assert x[0] == 1

    def test_a_plain_client_as_the_second(self, cluster: Any, plain: Any) -> None:
        with distributed.Client(cluster, set_as_default=False) as other:
            future = plain.scatter(large())
            (held,) = take_over([future], other)
            del future
            settle(plain)
            assert stored(plain) == 1
            assert held.result()[0] == 1
            del held
            assert_freed(plain)

    def test_published(self, client: Any, plain: Any) -> None:
        scattered, made = client.scatter(large()), client.submit(double, large())
        client.publish_dataset(pair=[scattered, made])
        try:
            del scattered, made
            settle(client)
            scattered, made = plain.get_dataset("pair")
            assert plain.submit(total, scattered).result() == SUM
            assert made.result()[0] == 2
            del scattered, made
            settle(plain)
            assert stored(client) >= 2
        finally:
            client.unpublish_dataset("pair")
        assert_freed(client)

    def test_in_a_variable(self, client: Any, plain: Any) -> None:
        variable = Variable(uuid.uuid4().hex, client=client)
        variable.set(client.scatter(large()))
        settle(client)
        assert stored(client) == 1
        theirs = Variable(variable.name, client=plain)
        assert theirs.get().result()[0] == 1
        assert plain.submit(total, theirs.get()).result() == SUM
        variable.set(client.submit(make, 2.0))
        assert theirs.get().result()[0] == 2
        variable.delete()
        assert_freed(client)

    def test_in_a_queue(self, client: Any, plain: Any) -> None:
        queue = Queue(uuid.uuid4().hex, client=client)
        for i in range(3):
            queue.put(client.scatter(large(i)))
        settle(client)
        assert stored(client) == 3
        theirs = Queue(queue.name, client=plain)
        assert [theirs.get().result()[0] for _ in range(3)] == [0, 1, 2]
        assert_freed(client)
        queue.close()

    def test_fire_and_forget(self, client: Any, gate: str, tmp_path: Path) -> None:
        def save(path: Path, gate: str, x: Any) -> None:
            path.with_suffix(".part").write_text(str(total_after(gate, x)))
            path.with_suffix(".part").rename(path)

        path = tmp_path / "sum"
        fire_and_forget(client.submit(save, path, gate, large()))
        settle(client)
        assert stored(client) == 1
        Event(gate, client=client).set()
        wait_until(path.exists)
        assert float(path.read_text()) == SUM
        assert_freed(client)

    def test_tasks_that_submit_tasks(self, client: Any) -> None:
        def by_worker_client(x: Any) -> list[float]:
            with worker_client() as inner:
                y = inner.submit(double, x, pure=False)
                z = inner.scatter(large(3))
                sums = inner.map(total, [x, y, z], pure=False)
                return [float(s) for s in inner.gather(sums)]

        def by_get_client(name: str, x: Any) -> Any:
            future = get_client().submit(double, x, pure=False)
            Variable(name).set(future)  # outlives the task

        def by_compute(x: Any) -> float:
            return float(dask.delayed(total)(dask.delayed(double)(x)).compute())

        x = large()
        assert client.submit(by_worker_client, x).result() == [SUM, 2 * SUM, 3 * SUM]
        variable = Variable(uuid.uuid4().hex, client=client)
        client.submit(by_get_client, variable.name, x).result()
        assert variable.get().result()[0] == 2
        assert client.submit(by_compute, x).result() == 2 * SUM
        del x
        variable.delete()
        assert_freed(client)


class TestKilled:
    def test_a_client_with_objects(self, client: Any, cluster: Any) -> None:
        holder = start_client(cluster.scheduler_address)
        try:
            assert stored(client) == 3
        finally:
            holder.kill()
            holder.stop()
        assert_freed(client)

    def test_the_worker_with_the_result(self) -> None:
        with (
            processes(2) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            pids = client.run(os.getpid)
            first, second = pids
            options = {"workers": [first], "allow_other_workers": True}
            plain = client.submit(double, large(1), **options)
            served = client.submit(double, large(2), **options)
            chained = client.submit(double, served, **options)
            wait([plain, chained])
            assert client.submit(total, served, workers=[second]).result()
            assert served.result()[0] == 4
            assert client.who_has([chained])[chained.key] == (first,)
            os.kill(pids[first], signal.SIGKILL)
            wait_until(lambda: len(client.scheduler_info()["workers"]) == 1)
            assert [x[0] for x in client.gather([plain, served, chained])] == [
                2, 4, 8,
            ]  # fmt: skip
            assert client.submit(total, chained).result() == 8 * SUM
            del plain, served, chained
            assert_freed(client)

    def test_a_reference_that_was_sent_just_before(self) -> None:
        with (
            processes(2) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            pids = client.run(os.getpid)
            first = next(iter(pids))
            options = {"workers": [first], "allow_other_workers": True}
            made = client.submit(make, **options)
            assert made.result()[0] == 1  # put now
            reference = client.run(reference_of, made.key, workers=[first])[first]
            os.kill(pids[first], signal.SIGKILL)
            wait_until(lambda: first not in client.scheduler_info()["workers"])
            wait(made)  # it was computed again
            assert total(resolve_reference(reference)) == SUM
            del made
            assert_freed(client)

    def test_a_running_task_of_the_worker(self) -> None:
        with (
            processes(2) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            pids = client.run(os.getpid)
            gate = Event("gate", client=client)
            future = client.submit(total_after, "gate", client.scatter(large()))
            made = client.submit(total_after, "gate", client.submit(make))
            wait_until(lambda: any(client.processing().values()))
            worker = next(w for w, keys in client.processing().items() if keys)
            os.kill(pids[worker], signal.SIGKILL)
            wait_until(lambda: len(client.scheduler_info()["workers"]) == 1)
            gate.set()
            assert client.gather([future, made]) == [SUM, SUM]
            del future, made
            assert_freed(client)

    def test_what_nobody_told_the_scheduler(self) -> None:
        with (
            processes(1, env=RECONCILE) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            x = large()
            future = client.submit(total, x)
            assert future.result() == SUM
            silent = start_client(scheduler.address, "silent")
            wait_until(lambda: stored(client) == 2)
            swept = daskref.stats(client)["evictions"]
            silent.kill()  # in the middle of a put, as it were
            silent.stop()
            assert_freed(client, but=1)
            assert daskref.stats(client)["evictions"] == swept + 1
            # and only that
            assert client.submit(total, x, "again").result() == SUM

    def test_what_a_living_process_has_not_told_yet(self) -> None:
        with (
            processes(1, env=RECONCILE) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            session = session_of(client)
            reference = session.put(large())
            proxy = session.put_once(large(2))  # a message that nobody reads
            assert stored(client) == 2
            assert_freed(client, but=1)
            assert session.store.exists(reference.key)
            with pytest.raises(ResolveError):
                daskref.resolve(proxy)
            session.store.evict(reference.key)

    def test_a_message_that_is_under_way(self) -> None:
        with (
            processes(1, env=RECONCILE) as (scheduler, _),
            daskref.Client(scheduler.address) as client,
        ):
            actor = client.submit(Sleeper, actor=True).result()
            pending = actor.add(large())
            assert pending.result() == SUM
            assert_freed(client)


class Sleeper:
    def add(self, x: Any) -> float:
        return total(x)


CLIENT = """
import signal, sys
import daskref, numpy as np
from tests.support.common import large, session_of
from tests.integration.test_lifetimes import double

if __name__ == "__main__":
    address, how = sys.argv[1:]
    client = daskref.Client(address)
    if how == "silent":
        reference = session_of(client).put(large(5))
    else:
        x = large(1)
        future = client.submit(len, x)
        scattered = client.scatter(large(2))
        made = client.submit(double, scattered)
        made.result()
        future.result()
    print("ready", how, flush=True)
    signal.pause()
"""


def start_client(address: str, how: str = "holding") -> Any:
    """Start a client in a process of its own, which then waits to be killed."""
    return start(sys.executable, "-c", CLIENT, address, how, pattern=r"ready (\w+)")


class TestRestart:
    def test_restart(self) -> None:
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            daskref.Client(cluster) as client,
        ):
            x = large()
            future = client.submit(total, x)
            scattered = client.scatter(large(2))
            made = client.submit(double, scattered)
            assert made.result()[0] == 4
            assert stored(client) == 3
            client.restart()
            assert_freed(client, but=1)  # the original that the client has
            assert future.status == scattered.status == "cancelled"
            puts = daskref.stats(client)["puts"]
            assert client.submit(total, x).result() == SUM
            assert daskref.stats(client)["puts"] == puts
            assert client.submit(total, client.scatter(large(2))).result() == 2 * SUM
            del x
            assert_freed(client)

    def test_restart_of_workers(self) -> None:
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            daskref.Client(cluster) as client,
        ):
            scattered = client.scatter(large())
            made = client.submit(double, large())
            wait(made)
            client.restart_workers(list(client.scheduler_info()["workers"]))
            assert [x[0] for x in client.gather([scattered, made])] == [1, 2]
            del scattered, made
            assert_freed(client)


def make_when(event: str) -> Any:
    assert distributed.Event(event).wait(20)
    return make(3.0)


def test_results_that_are_put_on_completion() -> None:
    with (
        dask.config.set({"daskref.results": "on-completion"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        daskref.Client(cluster) as client,
    ):
        made = client.submit(make)
        small = client.submit(int)
        wait([made, small])
        wait_until(lambda: stored(client) == 1, "put without being asked for")
        there = client.who_has(made)[made.key][0]
        other = next(w for w in client.scheduler_info()["workers"] if w != there)
        assert client.submit(total, made, workers=[other]).result() == SUM
        chained = client.submit(double, made)
        assert chained.result()[0] == 2
        assert daskref.stats(client)["puts"] == 2
        del made
        assert_freed(client, but=1)
        # a result that is released at once; if it were there before Dask hears that
        # it is to be forgotten, Dask would keep it
        fire_and_forget(client.submit(make_when, "told"))
        settle(client)
        distributed.Event("told").set()
        for i in range(5):
            client.submit(make, float(i), pure=False)
        del chained
        settle(client)
        assert_freed(client)


def test_a_worker_that_leaves_in_peace_hands_over() -> None:
    with (
        processes(2) as (scheduler, _),
        daskref.Client(scheduler.address) as client,
    ):
        first, second = client.scheduler_info()["workers"]
        made = client.submit(make, workers=[first], allow_other_workers=True)
        scattered = client.scatter(large(2), workers=[first])
        wait([made, scattered])
        client.retire_workers([first])
        wait_until(lambda: list(client.scheduler_info()["workers"]) == [second])
        assert client.who_has(made)[made.key] == (second,)
        assert [x[0] for x in client.gather([made, scattered])] == [1, 2]
        late = start_worker(scheduler.address)
        try:
            client.wait_for_workers(2)
            third = next(w for w in client.scheduler_info()["workers"] if w != second)
            assert client.submit(total, made, workers=[third]).result() == SUM
            del made, scattered
            assert_freed(client)
        finally:
            late.stop()
