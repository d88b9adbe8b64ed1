"""The benchmark's rows of objects that are not arrays: models, and users' own classes.

The functions that rows measure are ``(client, size) -> seconds``; these objects have
sizes of their own, so *size* is ignored. Measuring a row imports torch, scikit-learn or
ProxyStore, which daskref does not need.
"""

from __future__ import annotations

import copy
import functools
import os
import shutil
import tempfile
import time
import uuid
from importlib import import_module
from typing import Any

#: The model: layers of so many inputs and outputs, 200 MB together.
LAYERS, WIDTH = 12, 2048
#: Its tasks, one after another: plain Dask makes several copies of it for each.
SUBMITS = 20
#: The forest (50 MB): its trees, the samples to fit them to, its tasks.
TREES, SAMPLES, FOREST_TASKS = 28, 20_000, 40
#: The objects, and the bytes of each.
OBJECTS, PAYLOAD = 20, 20_000_000
_FEATURES = 8


# A model of torch's


def make_model() -> Any:
    """Return a model with new random weights."""
    torch = import_module("torch")
    return torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


def use_model(model: Any, number: int) -> float:
    """Read one weight."""
    return float(model[0].weight[0, number].item())


def submit_model(client: Any, size: int) -> float:
    """Pass a model to many tasks, one after another."""
    model = make_model()
    begin = time.perf_counter()
    for n in range(SUBMITS):
        # impure: Dask's hash of a model would take as long as all the rest
        client.submit(use_model, model, n, pure=False).result()
    return time.perf_counter() - begin


def broadcast_model(client: Any, size: int) -> float:
    """Scatter a model to all workers, and use it on each."""
    model = make_model()
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    begin = time.perf_counter()
    future = client.scatter(model, broadcast=True)
    client.gather(
        [
            client.submit(use_model, future, n, workers=[worker])
            for n, worker in enumerate(workers)
        ]
    )
    return time.perf_counter() - begin


# A forest of scikit-learn's


@functools.cache
def fit_forest(trees: int, samples: int) -> Any:
    """Return a fitted forest; each process fits one only once."""
    import numpy as np

    random = np.random.default_rng(0)
    forest = import_module("sklearn.ensemble").RandomForestRegressor(
        trees, max_features=1, n_jobs=1, random_state=0
    )
    return forest.fit(random.random((samples, _FEATURES)), random.random(samples))


def use_forest(forest: Any, number: int) -> float:
    """Predict one value."""
    return float(forest.predict([[number / FOREST_TASKS] * _FEATURES])[0])


def scatter_forest(client: Any, size: int) -> float:
    """Scatter a forest, and use it in many tasks."""
    # another object each turn: daskref keeps one for as long as its original lives
    forest = copy.copy(fit_forest(TREES, SAMPLES))
    forest.turn = uuid.uuid4().hex
    begin = time.perf_counter()
    future = client.scatter(forest)
    tasks = [client.submit(use_forest, future, n) for n in range(FOREST_TASKS)]
    client.gather(tasks)
    return time.perf_counter() - begin


# Objects of a user's class


class Item:
    """An object as users write them; no dataclass: Dask hashes those by their text."""

    def __init__(self, name: str, payload: bytes) -> None:
        self.name = name
        self.payload = payload


def make_items() -> list[Item]:
    """Return objects of random content."""
    return [Item(f"item-{n}", os.urandom(PAYLOAD)) for n in range(OBJECTS)]


def rotate(item: Any) -> Item:
    """Return another object of the same size."""
    return Item(item.name + "-rotated", item.payload[1:] + item.payload[:1])


def combine(items: list[Any]) -> int:
    """Return one small number that depends on all objects."""
    return sum(len(item.payload) + item.payload[-1] for item in items)


def map_items(client: Any, size: int) -> float:
    """Map a function over large objects, and reduce the results."""
    items = make_items()
    begin = time.perf_counter()
    rotated = client.map(rotate, items)
    total = client.submit(combine, rotated).result()
    seconds = time.perf_counter() - begin
    assert total == _expected(items)
    return seconds


def _expected(items: list[Item]) -> int:
    return sum(len(item.payload) + item.payload[0] for item in items)


def rotate_by_proxy(item: Any) -> Any:
    """Like :func:`rotate`, from a proxy of ProxyStore's to another one."""
    from proxystore.store import get_store

    store: Any = get_store(item)
    return store.proxy(rotate(item))


def map_proxies(client: Any, size: int) -> float:
    """Like :func:`map_items`, with ProxyStore's proxies of files on the same tmpfs."""
    from proxystore.connectors.file import FileConnector
    from proxystore.store import Store

    items = make_items()
    directory = tempfile.mkdtemp(prefix="bench-", dir="/dev/shm")
    try:
        # nothing is read twice: a cache would only keep memory
        name, connector = f"bench-{uuid.uuid4().hex}", FileConnector(directory)
        with Store(name, connector, cache_size=0, register=True) as store:
            begin = time.perf_counter()
            proxies = [store.proxy(item) for item in items]
            rotated = client.map(rotate_by_proxy, proxies, pure=False)
            total = client.submit(combine, rotated, pure=False).result()
            seconds = time.perf_counter() - begin
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    assert total == _expected(items)
    return seconds
