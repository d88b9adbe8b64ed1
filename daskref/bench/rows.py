"""The rows of the comparison with plain Dask: what is measured, and how.

A row with a cluster measures ``(client, size in bytes) -> seconds``; any other one
``(size) -> (seconds of the other side, seconds of daskref)``, in this process.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from distributed import wait

from daskref.bench import flights
from daskref.bench import objects as bench_objects
from daskref.bench.measuring import array, nbytes, timed
from daskref.connectors import SharedMemoryConnector
from daskref.objects.codec import encode


@dataclass(frozen=True)
class Rival:
    """Another library that takes turns with both sides, on plain Dask's cluster."""

    name: str
    #: The ratio rival / daskref should be at least this.
    target: float
    #: ``(client, size in bytes) -> seconds``.
    measure: Callable[..., float]
    #: Packages that the rival needs.
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    title: str
    #: The ratio plain / daskref should be at least this.
    target: float
    measure: Callable[..., Any]
    #: ``False``: two functions in this process, no cluster.
    cluster: bool = True
    #: Settings of daskref for this row.
    settings: dict[str, Any] | None = None
    #: Each round is a program of its own with a cluster of its own: nothing is warm.
    fresh: bool = False
    #: Packages that the row needs. All workers import these before the first round.
    needs: tuple[str, ...] = ()
    rival: Rival | None = None


def noop(*args: Any) -> None:
    """Do nothing."""


def _submit(client: Any, size: int) -> float:
    x = array(size)
    seconds, found = timed(lambda: client.submit(nbytes, x, pure=True).result())
    assert found == x.nbytes
    return seconds


def _scatter(client: Any, size: int, **options: Any) -> float:
    x = array(size)
    return timed(lambda: client.scatter(x, **options))[0]


def _transfer(client: Any, size: int, consumer: int) -> float:
    """Have workers read, one after another, what another worker has made."""
    names = list(client.scheduler_info(n_workers=-1)["workers"])
    made = client.submit(array, size, workers=[names[0]], pure=False)
    wait(made)

    def read(worker: str) -> None:
        client.submit(nbytes, made, workers=[worker], pure=False).result()

    return [timed(read, name)[0] for name in names[1:3]][consumer]


def _gather(client: Any, size: int) -> float:
    made = client.submit(array, size, pure=False)
    made.result()  # now it is in the store
    return timed(made.result)[0]


def _flights(client: Any, size: int) -> float:
    frame, steps = flights.load(), flights.sweep()
    return timed(
        lambda: client.gather(
            [client.submit(flights.score, frame, *step) for step in steps]
        )
    )[0]


def _round_trips(client: Any, size: int) -> float:
    times = [
        timed(lambda n=n: client.submit(noop, n, pure=False).result())[0]
        for n in range(100)
    ]
    return statistics.median(times)


def _map(client: Any, size: int, make: Callable[[int], Any], count: int) -> float:
    arguments = [make(n) for n in range(count)]

    def run() -> Any:
        futures = client.map(noop, arguments, pure=False)
        wait(futures)
        return futures  # released after the clock has stopped

    return timed(run)[0]


def _put(size: int) -> tuple[float, float]:
    x = array(size)
    target = np.empty_like(x)
    target[:] = 0  # touched
    with SharedMemoryConnector() as connector:
        for _ in range(2):
            connector.evict(connector.put_frames(encode(x).frames))
        memcpy, _ = timed(np.copyto, target, x)
        put, _ = timed(lambda: connector.put_frames(encode(x).frames))
    return memcpy, put


def _get(size: int) -> tuple[float, float]:
    def measure(nbytes: int) -> float:
        key = connector.put_frames(encode(array(nbytes)).frames)
        connector.get(key)
        return timed(connector.get, key)[0]

    with SharedMemoryConnector() as connector:
        return measure(1 << 20), measure(size)


ROWS = (
    Row("submit", "submit(f, x), recycled pages", 20, _submit),
    Row(
        "submit-new",
        "submit(f, x), first touch",
        6,
        _submit,
        settings={"daskref.shm.recycle": 0},
    ),
    Row("scatter", "scatter(x)", 10, _scatter),
    Row(
        "broadcast",
        "scatter(x, broadcast=True), 4 workers",
        30,
        partial(_scatter, broadcast=True),
    ),
    Row(
        "transfer",
        "worker to worker, first consumer",
        1.2,
        partial(_transfer, consumer=0),
    ),
    Row(
        "transfer-2",
        "worker to worker, second consumer",
        50,
        partial(_transfer, consumer=1),
    ),
    Row("gather", "gather of what is in the store", 50, _gather),
    Row("put", "put, recycled pages (against memcpy)", 0.7, _put, cluster=False),
    Row("get", "get (against get of 1 MiB)", 0.5, _get, cluster=False),
    Row("flights", "flights sweep, 40 submits of 188 MB", 15, _flights, fresh=True),
    Row("flights-again", "flights sweep, on a used cluster", 15, _flights),
    Row(
        "model",
        "a torch model of 200 MB in 20 submits",
        3,
        bench_objects.submit_model,
        needs=("torch",),
    ),
    Row(
        "model-broadcast",
        "a torch model of 200 MB, broadcast to 4 workers and used",
        3,
        bench_objects.broadcast_model,
        needs=("torch",),
    ),
    Row(
        "forest",
        "a random forest of 50 MB, scattered, used by 40 tasks",
        3,
        bench_objects.scatter_forest,
        needs=("sklearn.ensemble",),
    ),
    Row(
        "objects",
        "20 objects with 20 MB of bytes each, map and reduce",
        2,
        bench_objects.map_items,
        rival=Rival(
            "ProxyStore", 1, bench_objects.map_proxies, needs=("proxystore.store",)
        ),
    ),
    Row("round-trip", "submit(noop, i).result(), one at a time", 1, _round_trips),
    Row(
        "noops",
        "20,000 no-op tasks",
        1 / 1.03,
        partial(_map, make=int, count=20_000),
    ),
    Row(
        "small",
        "10,000 tasks with a 10 kB argument",
        1 / 1.03,
        partial(_map, make=lambda _: array(10_000), count=10_000),
    ),
)
