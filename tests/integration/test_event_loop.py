"""Event loops stay responsive: nothing is put, got or evicted on one.

The one exception is what Dask's contract asks for: ``submit``, ``map`` and graphs take
their values when they are called, so an asynchronous client puts them in the caller's
thread, which is its loop's. Its ``scatter`` and ``gather`` do not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import pytest
from distributed import worker_client

import daskref
from daskref.connectors import SharedMemoryConnector
from tests.support.common import large, processes, wait_until
from tests.support.namespaces import ENVIRONMENT

pytestmark = pytest.mark.slow

METHODS = (
    *["put_frames", "get", "take", "evict", "link", "exists", "renew", "sweep"],
    *["usage", "new_key", "set_frames"],
)
#: Seconds that a loop may stand still while a gibibyte is put.
ALLOWED = 0.1


def watch() -> None:
    """Note each call of this process's connectors, and whether it was on a loop."""
    SharedMemoryConnector.calls = []  # type: ignore[attr-defined]

    def watched(name: str) -> Any:
        method = getattr(SharedMemoryConnector, name)

        def call(self: Any, *args: Any) -> Any:
            try:
                asyncio.get_running_loop()
                on_loop = True
            except RuntimeError:
                on_loop = False
            SharedMemoryConnector.calls.append((name, on_loop))  # type: ignore[attr-defined]
            return method(self, *args)

        call.watched = method  # type: ignore[attr-defined]
        return call

    for name in METHODS:
        setattr(SharedMemoryConnector, name, watched(name))


def unwatch() -> None:
    for name in METHODS:
        method = SharedMemoryConnector.__dict__[name]
        setattr(SharedMemoryConnector, name, method.watched)
    del SharedMemoryConnector.calls  # type: ignore[attr-defined]


def calls() -> list[tuple[str, bool]]:
    """Return what was noted, and begin anew."""
    noted = SharedMemoryConnector.calls  # type: ignore[attr-defined]
    SharedMemoryConnector.calls = []  # type: ignore[attr-defined]
    return list(noted)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster whose processes note the calls."""
    with (
        processes(2, env=ENVIRONMENT) as (scheduler, _),
        daskref.Client(scheduler.address) as client,
    ):
        client.run_on_scheduler(watch)
        client.run(watch)
        address = scheduler.address
        client.close()  # or the tests' clients would find the session joined
        yield address


@pytest.fixture
def watched() -> Iterator[None]:
    """Note the calls of this process."""
    watch()
    yield
    unwatch()


def total(x: Any) -> float:
    assert type(x) is np.ndarray
    return float(x.sum())


async def total_in_coroutine(x: Any, y: Any = None) -> float:
    return total(x)


def make(fill: float = 1.0) -> Any:
    return large(fill)


class Accumulator:
    """An actor."""

    state = None

    def add(self, x: Any) -> Any:
        self.state = x if self.state is None else self.state + x
        return self.state

    async def add_in_coroutine(self, x: Any) -> Any:
        return self.add(x)


def submit_in_task(x: Any) -> float:
    with worker_client() as inner:
        futures = [inner.submit(total, x + 1), inner.scatter(x + 2)]
        return float(futures[0].result() + futures[1].result().sum())


def check(client: Any, expected: set[str]) -> None:
    """Check that nothing was on a loop, and that the watch saw what it should."""
    noted = {
        "the scheduler": client.run_on_scheduler(calls),
        **client.run(calls),
        "the client": calls(),
    }
    on_loop = {where: [n for n, on in seen if on] for where, seen in noted.items()}
    assert not any(on_loop.values()), on_loop
    assert expected <= {name for seen in noted.values() for name, _ in seen}


@pytest.mark.usefixtures("watched")
class TestNothingOnALoop:
    @pytest.fixture
    def client(self, address: str) -> Iterator[Any]:
        with daskref.Client(address) as client:
            calls()
            yield client

    def test_literals(self, client: Any) -> None:
        x = large()
        assert client.submit(total, x).result() == x.sum()
        assert client.submit(total_in_coroutine, x, y=[x]).result() == x.sum()
        assert client.gather(client.map(total, [x, x + 1], pure=False))[0] == x.sum()
        array = da.from_array(np.arange(1 << 20, dtype=float), chunks=1 << 18)
        assert array.sum().compute() > 0
        check(client, {"put_frames", "get"})

    def test_scatter(self, client: Any) -> None:
        for options in ({}, {"broadcast": True}, {"direct": True}, {"hash": False}):
            future = client.scatter([large(), 1], **options)[0]
            assert client.submit(total, future, pure=False).result() > 0
            assert client.submit(total_in_coroutine, future, pure=False).result() > 0
        check(client, {"put_frames", "get"})

    @pytest.mark.parametrize("direct", [False, True])
    def test_results(self, client: Any, direct: bool) -> None:
        first, second = client.scheduler_info()["workers"]
        made = client.map(make, range(4), workers=[first], pure=False)
        moved = client.map(total, made, workers=[second], pure=False)
        assert client.gather(moved)[1] > 0
        coroutine = client.submit(total_in_coroutine, made[0], workers=[second])
        assert coroutine.result() == 0
        assert client.gather(made, direct=direct)[1][0] == 1
        assert len(client.run(make)) == 2
        check(client, {"put_frames", "get"})

    @pytest.mark.parametrize("direct", [False, True])
    def test_actors(self, address: str, direct: bool) -> None:
        with daskref.Client(address, direct_to_workers=direct) as client:
            calls()
            actor = client.submit(Accumulator, actor=True).result()
            x = large()
            assert actor.add(x).result()[0] == 1
            assert actor.add_in_coroutine(x).result()[0] == 2
            assert actor.state[0] == 2
            check(client, {"put_frames", "take"})
            del actor

    def test_tasks_that_submit(self, client: Any) -> None:
        assert client.submit(submit_in_task, large()).result() > 0
        check(client, {"put_frames", "get"})

    def test_eviction(self, client: Any) -> None:
        x = large()
        future = client.submit(total, x)
        scattered = client.scatter(large(2))
        made = client.submit(make)
        assert made.result()[0] == 1
        future.result()
        check(client, {"put_frames"})
        del x, future, scattered, made
        wait_until(lambda: not daskref.stats(client)["objects"], "all evicted")
        check(client, {"evict", "usage"})

    def test_reconciliation(self, client: Any) -> None:
        client.run_on_scheduler(_reconcile)
        check(client, {"sweep"})

    def test_joining_and_leaving(self, address: str) -> None:
        for _ in range(2):
            with daskref.Client(address) as client:
                assert client.submit(total, large(), pure=False).result() > 0
                check(client, {"put_frames", "get"})

    def test_asynchronous_client(self, address: str, client: Any) -> None:
        async def main() -> None:
            async with daskref.Client(address, asynchronous=True) as inner:
                future = await inner.scatter(large())
                assert await inner.submit(total, future, pure=False) > 0
                made = inner.submit(make, pure=False)
                assert (await made)[0] == 1
                assert (await inner.gather([made, future]))[1][0] == 1
                actor = await inner.submit(Accumulator, actor=True)
                assert (await actor.add(large()))[0] == 1
                assert (await actor.state)[0] == 1
                assert len(await inner.run(make)) == 2
                await daskref.stats(inner)
                del actor, future, made

        asyncio.run(main())
        check(client, {"put_frames", "get"})

    def test_submit_of_an_asynchronous_client_is_the_exception(
        self, address: str, client: Any
    ) -> None:
        async def main() -> list[tuple[str, bool]]:
            async with daskref.Client(address, asynchronous=True) as inner:
                calls()
                x = large()
                future = inner.submit(total, x, pure=False)
                x += 1  # the value was taken at the call
                assert await future == x.size
                return calls()

        assert ("put_frames", True) in asyncio.run(main())
        check(client, {"get"})


async def _reconcile(dask_scheduler: Any) -> None:
    await dask_scheduler.plugins["daskref"].reconcile()


# Heartbeats


async def start_ticking(dask_worker: Any) -> None:
    """Let the worker's loop tick, and note the longest pause."""

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(0.005)
            now = loop.time()
            dask_worker.longest = max(dask_worker.longest, now - last)
            last = now

    dask_worker.longest = 0.0
    dask_worker.ticking = asyncio.create_task(tick())


async def stop_ticking(dask_worker: Any) -> float:
    dask_worker.ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await dask_worker.ticking
    return float(dask_worker.longest)


def test_a_put_of_a_gibibyte_does_not_hold_up_the_worker() -> None:
    with (
        processes(1, env=ENVIRONMENT) as (scheduler, _),
        daskref.Client(scheduler.address) as client,
    ):
        (worker,) = client.scheduler_info()["workers"]
        assert client.submit(make).result()[0] == 1
        pauses = []
        for i in range(3):
            made = client.submit(np.full, (1 << 27,), float(i))
            wait_until(lambda made=made: made.done(), "made")
            puts = daskref.stats(client)["puts"]
            client.run(start_ticking)
            assert made.result()[-1] == i
            pauses.append(client.run(stop_ticking)[worker])
            assert daskref.stats(client)["puts"] == puts + 1
            del made
            if pauses[-1] < ALLOWED:
                break
            wait_until(lambda: not daskref.stats(client)["objects"], "evicted")
        assert min(pauses) < ALLOWED, pauses
