"""Scatter never brings Dask into a state that Dask itself cannot reach."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dask
import numpy as np
import pytest
from distributed import (
    Client,
    Event,
    LocalCluster,
    get_worker,
    wait,
    worker_client,
)

import daskref
from tests.support.common import LARGE, large, wait_until

SUM = LARGE / 8

VALIDATE = {
    "distributed.scheduler.validate": True,
    "distributed.worker.validate": True,
    "distributed.admin.log-format": "%(message)s",
}


def total(x: Any, *ignored: Any) -> float:
    return float(np.asarray(x).sum())


def hold(i: int) -> None:
    """Keep a thread."""
    Event("release").wait(60)


@contextlib.contextmanager
def validated(n_workers: int = 2, nthreads: int = 1) -> Iterator[LocalCluster]:
    """A cluster in this process, over sockets, that checks each of its transitions."""
    with (
        dask.config.set(VALIDATE),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=nthreads,
            processes=False,
            protocol="tcp",
            dashboard_address=":0",
        ) as cluster,
    ):
        yield cluster


def check(client: Any, cluster: Any) -> None:
    """Check the state of the scheduler and of all workers, and that they agree."""

    async def states() -> None:
        cluster.scheduler.validate_state()
        for worker in cluster.workers.values():
            assert worker.status.name == "running"
            worker.state.validate_state()

    client.sync(states)


def workers(cluster: Any) -> list[Any]:
    """Return the states of the workers, their own."""
    return [worker.state for worker in cluster.workers.values()]


def quiet(cluster: Any) -> bool:
    """Whether scheduler and workers know of the same keys, and none is on its way."""
    tasks = dict(cluster.scheduler.tasks)
    there = {
        (key, worker.address)
        for worker in list(cluster.workers.values())
        for key in list(worker.data)
    }
    known = {(key, ws.address) for key, ts in tasks.items() for ws in ts.who_has or ()}
    return there == known and all(ts.state == "memory" for ts in tasks.values())


class TestOneKeyAgainAndAgain:
    def test_scattered_and_dropped(self) -> None:
        x = large()
        with validated() as cluster, daskref.Client(cluster) as client:
            for i in range(100):
                future = client.scatter(x)
                if i % 10 == 0:
                    assert client.submit(total, future, i).result() == SUM
                del future
            check(client, cluster)
            assert client.submit(total, client.scatter(x)).result() == SUM
            wait_until(lambda: not cluster.scheduler.tasks)
            check(client, cluster)

    def test_the_last_one_is_there(self) -> None:
        """What was dropped just before takes nothing away from what is there now."""
        x = large()
        with validated() as cluster, daskref.Client(cluster) as client:
            for _ in range(30):
                del_me = client.scatter(x)
                del del_me
                future = client.scatter(x)
                assert future.status == "finished"
                assert client.who_has(future)[future.key]
                assert total(future.result()) == SUM
                del future

    def test_processes_live_on(self, client: Any) -> None:
        before = client.run(os.getpid)
        x = large()
        for _ in range(100):
            future = client.scatter(x)
            del future
        assert client.submit(total, client.scatter(x + 1)).result() == 2 * SUM
        assert client.run(os.getpid) == before


class TestNamedKeys:
    """A key of the user's, scattered again with another value, has the last one."""

    @pytest.mark.parametrize("make", [large, float], ids=["large", "small"])
    def test_the_last_value_counts(self, make: Any) -> None:
        with validated() as cluster, daskref.Client(cluster) as client:
            future = client.scatter({"x": make(0)})["x"]
            for i in range(1, 6):
                before, future = future, client.scatter({"x": make(i)})["x"]
                del before
                assert np.max(future.result()) == i
                assert client.submit(np.max, future, pure=False).result() == i
                check(client, cluster)
            # the others are gone
            wait_until(lambda: daskref.stats(client)["objects"] == (make is large))
            assert np.max(client.scatter({"x": make(i)})["x"].result()) == i
            assert daskref.stats(client)["objects"] == (make is large)
            del future
            wait_until(lambda: not cluster.scheduler.tasks)

    def test_tasks_that_run_go_on(self) -> None:
        """They run once, with what they were given."""

        def count(x: Any, i: int) -> float:
            Event(f"began {i}").set()
            Event("go").wait(30)
            get_worker()._get_client().log_event("runs", float(np.max(x)))
            return float(np.max(x))

        with validated() as cluster, daskref.Client(cluster) as client:
            first = client.scatter({"x": large(1)}, broadcast=True)["x"]
            futures = [client.submit(count, first, i, pure=False) for i in range(2)]
            for i in range(2):
                Event(f"began {i}").wait(30)
            second = client.scatter({"x": large(2)})["x"]
            Event("go").set()
            assert client.gather(futures) == [1, 1]
            assert [value for _, value in client.get_events("runs")] == [1, 1]
            assert np.max(second.result()) == 2
            check(client, cluster)

    def test_other_clients_and_tasks(self) -> None:
        def scatter(i: int) -> float:
            with worker_client() as client:
                future = client.scatter({"x": large(i)})["x"]
                return float(np.max(future.result(timeout=20)))

        with (
            validated() as cluster,
            daskref.Client(cluster) as client,
            daskref.Client(cluster, set_as_default=False) as other,
        ):
            futures = []
            for i in range(6):
                for each in (client, other):
                    futures.append(each.scatter({"x": large(i)})["x"])
                    assert np.max(futures[-1].result(timeout=20)) == i
            seen = client.gather(client.map(scatter, range(8)))
            assert set(seen) <= set(range(8))
            check(client, cluster)

    @pytest.mark.parametrize("make", [large, float], ids=["large", "small"])
    def test_several_at_a_time(self, make: Any) -> None:
        with validated() as cluster, daskref.Client(cluster) as client:

            async def scatter() -> list[Any]:
                asked = (client._scatter({"x": make(i)}) for i in range(8))
                return await asyncio.wait_for(asyncio.gather(*asked), 20)

            futures = [each["x"] for each in client.sync(scatter)]
            values = {float(np.max(future.result(timeout=20))) for future in futures}
            assert len(values) == 1
            check(client, cluster)
            last = client.scatter({"x": make(9)})["x"]
            assert np.max(last.result(timeout=20)) == 9
            # nothing goes round
            count = len(cluster.scheduler.story("x"))
            assert client.submit(np.max, last).result() == 9
            assert len(cluster.scheduler.story("x")) == count

    def test_forgotten_while_workers_are_told(self) -> None:
        with validated() as cluster, daskref.Client(cluster) as client:
            values = cluster.scheduler.plugins["daskref"]._values
            tell_workers = values.tell_workers

            async def forget_and_tell(places: Any) -> None:
                cluster.scheduler.client_releases_keys(["x"], client.id)
                assert not cluster.scheduler.tasks
                await tell_workers(places)

            values.tell_workers = forget_and_tell
            first = client.scatter({"x": large(1)})["x"]
            second = client.scatter({"x": large(2)})["x"]
            values.tell_workers = tell_workers
            assert np.max(client.scatter({"x": large(3)})["x"].result()) == 3
            del first, second
            wait_until(lambda: not daskref.stats(client)["objects"], "all freed")

    def test_again_before_there_is_a_worker(self) -> None:
        with validated(n_workers=0) as cluster, daskref.Client(cluster) as client:
            for value in (1, 2, 3):
                x = client.scatter({"x": large(value)})["x"]
            cluster.scale(1)
            assert np.max(x.result(timeout=20)) == 3
            del x
            wait_until(lambda: not daskref.stats(client)["objects"], "all freed")

    def test_released_before_it_is_there(self) -> None:
        with validated() as cluster, daskref.Client(cluster) as client:

            async def begin_and_drop() -> None:
                for i in range(10):
                    asked = asyncio.ensure_future(client._scatter({"x": large(i)}))
                    await asyncio.sleep(0.002 * i)
                    asked.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await asked

            client.sync(begin_and_drop)
            last = client.scatter({"x": large(11)})["x"]
            assert np.max(last.result(timeout=20)) == 11
            count = len(cluster.scheduler.story("x"))
            assert client.submit(np.max, last).result() == 11
            assert len(cluster.scheduler.story("x")) == count
            check(client, cluster)


class TestKnownKeys:
    def test_released_while_it_is_scattered_again(self) -> None:
        """Nothing stays behind, though the client was done before the scheduler."""
        x = large()
        with validated() as cluster, daskref.Client(cluster) as client:
            for _ in range(20):
                before = client.scatter(x)
                again = client.scatter(x)  # while the first is there
                del before, again
            wait_until(lambda: not cluster.scheduler.tasks)
            check(client, cluster)

    def test_to_another_worker(self) -> None:
        x = large()
        with validated() as cluster, daskref.Client(cluster) as client:
            addresses = [worker.address for worker in cluster.workers.values()]
            for address in addresses:
                future = client.scatter(x, workers=[address])
                assert address in client.who_has(future)[future.key]
            check(client, cluster)


def test_a_worker_that_is_not_there() -> None:
    with validated() as cluster, daskref.Client(cluster) as client:
        for x in (5, large()):
            with pytest.raises(KeyError, match=r"1\.2\.3\.4"):
                client.scatter(x, workers=["tcp://1.2.3.4:5"])
        address = next(iter(cluster.workers.values())).address
        assert client.scatter(5, workers=address).result() == 5


class TestAtOnce:
    @pytest.mark.parametrize("value", [large(), 5], ids=["large", "small"])
    def test_though_all_threads_are_busy(self, value: Any) -> None:
        with validated() as cluster, daskref.Client(cluster) as client:
            release = Event("release")
            busy = client.map(hold, range(4), pure=False)
            futures = [client.scatter([value], hash=False)[0] for _ in range(8)]
            assert {future.status for future in futures} == {"finished"}
            held = client.has_what()
            assert sorted(map(len, held.values())) == [4, 4]  # in turn
            check(client, cluster)
            release.set()
            wait(busy)

    def test_inside_a_task_that_keeps_the_only_thread(self) -> None:
        def task() -> float:
            client = get_worker()._get_client()
            return total(client.scatter(large()).result()) + float(
                client.scatter(1).result()
            )

        with validated(1) as cluster, daskref.Client(cluster) as client:
            assert client.submit(task).result(timeout=30) == SUM + 1
            check(client, cluster)


def test_sizes_types_and_places_are_those_of_the_values() -> None:
    x = large()
    values = {"array": x, "text": "x" * LARGE, "number": 3}
    seen = []
    for make in (daskref.Client, Client):
        with validated() as cluster, make(cluster) as client:
            futures = client.scatter(values, workers=[cluster.workers[0].address])
            check(client, cluster)
            tasks = cluster.scheduler.tasks
            sizes = {key: tasks[key].nbytes for key in values}
            seen.append((sizes, client.who_has(futures).keys()))
            assert {f.type for f in futures.values()} == {np.ndarray, str, int}
            assert client.has_what()[cluster.workers[0].address]
            assert not client.has_what()[cluster.workers[1].address]
    (ours, places), (theirs, expected) = seen
    assert places == expected
    for key, nbytes in theirs.items():
        assert ours[key] == pytest.approx(nbytes, rel=0.01, abs=64)
    with validated() as cluster, daskref.Client(cluster) as client:
        futures = client.scatter(values)
        assert [cluster.scheduler.tasks[key].type for key in values] == [
            *("numpy.ndarray", "builtins.str", "int"),
        ]


def test_what_is_stored_is_not_charged_to_the_spill_buffer() -> None:
    with validated(1) as cluster, daskref.Client(cluster) as client:
        future = client.scatter(large())
        assert cluster.workers[0].data.fast.total_weight < 10_000
        assert cluster.scheduler.tasks[future.key].nbytes >= LARGE


def test_with_what_a_plain_client_has_scattered() -> None:
    with (
        validated() as cluster,
        Client(cluster, set_as_default=False) as plain,
        daskref.Client(cluster, set_as_default=False) as client,
    ):
        theirs = plain.scatter({"x": large()})
        ours = client.scatter({"x": large()})
        check(client, cluster)
        assert client.submit(total, ours["x"]).result() == SUM
        del theirs
        assert client.submit(total, ours["x"], 1).result() == SUM
        check(client, cluster)


def any_order(seed: int, steps: int) -> None:
    """Do in any order what clients do with scattered values; check each state."""
    rng = random.Random(seed)
    values: list[Any] = [large(1), large(2), "small", {"a": 1}]
    with (
        validated(3) as cluster,
        daskref.Client(cluster, set_as_default=False) as first,
        daskref.Client(cluster, set_as_default=False) as second,
    ):
        held: dict[Any, list[Any]] = {first: [], second: []}

        def scatter(client: Any) -> None:
            i = rng.randrange(len(values))
            options: dict[str, Any] = {
                "hash": rng.random() < 0.8,
                "direct": rng.choice([None, True, False]),
                "broadcast": rng.choice([False, False, True, 2]),
            }
            if rng.random() < 0.3:
                options["workers"] = [
                    rng.choice(list(cluster.workers.values())).address
                ]
            held[client] += [(f, i) for f in client.scatter([values[i]], **options)]

        def name(client: Any) -> None:
            key, i = f"named-{client.id}", rng.randrange(len(values))
            future = client.scatter({key: values[i]})[key]
            assert len(future.result(timeout=30)) == len(values[i])
            held[client] = [h for h in held[client] if h[0].key != key]
            held[client].append((future, i))

        def submit(client: Any) -> None:
            if held[client]:
                future, i = rng.choice(held[client])
                made = client.submit(len, future, pure=False)
                if rng.random() < 0.5:
                    assert made.result(timeout=30) == len(values[i])

        def drop(client: Any) -> None:
            rng.shuffle(held[client])
            del held[client][: rng.randrange(3)]
            gc.collect()

        def cancel(client: Any) -> None:
            if held[client]:
                future, _ = rng.choice(held[client])
                client.cancel([future])
                held[client] = [h for h in held[client] if h[0].key != future.key]

        def lose(client: Any) -> None:
            # as it is where a worker is gone: no copy is left
            async def forget() -> None:
                for ts in list(cluster.scheduler.tasks.values()):
                    if ts.state == "memory" and ts.run_spec is not None:
                        cluster.scheduler.transitions({ts.key: "released"}, "test")

            client.sync(forget)

        def move(client: Any) -> None:
            for op in (client.replicate, client.rebalance):
                with contextlib.suppress(Exception):
                    if held[client]:
                        op([future for future, _ in held[client]])

        actions: list[Callable[[Any], None]] = [
            *[scatter] * 6, name, name, submit, submit,
            drop, drop, drop, cancel, lose, move,
        ]  # fmt: skip
        for step in range(steps):
            client = rng.choice([first, second])
            action = rng.choice(actions)
            try:
                action(client)
                check(client, cluster)
            except BaseException as exc:
                exc.add_note(f"seed {seed}, step {step}: {action.__name__}")
                raise
        for client in held:
            for future, i in held[client]:
                assert client.submit(len, future).result(timeout=30) == len(values[i])
            held[client].clear()
            future = None
        gc.collect()
        wait_until(lambda: quiet(cluster))
        check(first, cluster)


def test_any_order() -> None:
    any_order(seed=7, steps=30)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(12))
def test_any_order_at_length(seed: int) -> None:
    any_order(seed, steps=300)


@pytest.mark.parametrize("threshold", ["1 MiB", 1])
def test_clients_without_pickles(cluster: Any, threshold: Any) -> None:
    """What is no graph is left to Dask, with its own error for what needs a pickle."""
    with daskref.Client(
        cluster,
        threshold=threshold,
        serializers=["dask", "msgpack"],
        set_as_default=False,
    ) as client:
        assert client.gather(client.scatter([1, "a"])) == [1, "a"]
        assert client.gather(client.scatter(large()))[0] == 1
        assert client.submit(total, large(2)).result() == 2 * SUM
        made = client.submit(np.ones, LARGE)
        assert made.result()[0] == 1
        for value in (total, partial(total, large())):
            with pytest.raises(TypeError):
                client.scatter(value)
            future = client.submit(lambda x: x, value)
            wait_until(future.done)
            with pytest.raises(TypeError):
                future.result()
            with pytest.raises(TypeError):
                client.gather(future, direct=True)
            with pytest.raises(TypeError):
                client.run(lambda x=value: x)


def test_tasks_are_made_again_here_at_a_tiny_threshold(cluster: Any) -> None:
    with daskref.Client(cluster, threshold=1) as client:
        x = client.scatter(np.ones(5))
        y = client.submit(np.negative, x)
        future = client.submit(total, y)
        assert client.recreate_task_locally(future) == -5
        failing = client.submit(total, x, x, None, key="fails", nothing=1)
        with pytest.raises(TypeError):
            client.recreate_error_locally(failing)
