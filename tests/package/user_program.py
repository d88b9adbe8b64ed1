"""What a user writes who checks types: `test_typing` has it checked, and run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import assert_type

import daskref
from daskref import Client, Proxy, Store, StoreConfig, borrow, extract, lazy
from daskref.cluster.stats import HostStats
from daskref.connectors import LocalConnector, SharedMemoryConnector
from daskref.ownership import RefMutProxy, RefProxy


@dataclass
class Model:
    weights: list[float]

    def score(self, row: list[float]) -> float:
        return sum(w * x for w, x in zip(self.weights, row, strict=True))


def score(model: Model, row: list[float]) -> float:
    return model.score(row)


def train(model: RefMutProxy[Model]) -> None:
    model.weights[0] += 1
    daskref.update(model)


def with_a_client(model: Model) -> None:
    with Client(n_workers=1, threshold="1 kB", dashboard_address=":0") as client:
        future = client.submit(score, lazy(model), [1.0, 2.0])
        result: float = future.result()
        assert result == 5.0
        stats = daskref.stats(client)
        assert_type(stats["puts"], int)
        for record in daskref.list_objects(client):
            assert_type(record.disk, int | None)
        for name, host in stats["hosts"].items():
            print(f"{name}: {host['memory'] / 1e6:.1f} MB")


async def with_an_asynchronous_client(model: Model) -> None:
    async with Client(
        processes=False, asynchronous=True, threshold="1 kB", dashboard_address=":0"
    ) as client:
        future = client.submit(score, lazy(model), [1.0, 2.0])
        result: float = await future
        assert result == 5.0
        stats = await daskref.stats(client)
        assert_type(stats["puts"], int)
        for record in await daskref.list_objects(client):
            assert_type(record.memory, int | None)
    other = await Client(asynchronous=True, processes=False, dashboard_address=":0")
    async with other:
        assert_type((await daskref.stats(other))["hosts"], dict[str, HostStats])


def with_proxies(store: Store, model: Model) -> None:
    proxy = store.proxy(model)
    assert_type(proxy, Proxy[Model])
    assert_type(extract(proxy), Model)
    assert_type(lazy(model), Model)
    assert score(proxy, [1.0, 2.0]) == proxy.score([1.0, 2.0]) == 5.0
    assert [extract(p) for p in store.proxy_batch([1, 2])] == [1, 2]
    assert_type(store.locked_proxy(model).unlock(), Proxy[Model])
    key = store.put(model)
    again: Model = store.get(key)
    assert again == model
    assert_type(store.config(), StoreConfig)


def with_owners(store: Store, model: Model) -> None:
    owner = store.owned_proxy(model)
    shared = borrow(owner)
    assert_type(shared, RefProxy[Model])
    assert score(shared, [1.0, 2.0]) == 5.0
    daskref.drop(shared)
    mutable = daskref.mut_borrow(owner)
    assert_type(mutable, RefMutProxy[Model])
    train(mutable)
    daskref.drop(mutable)
    other = daskref.clone(owner)
    assert_type(extract(other), Model)
    for each in (owner, other):
        daskref.drop(each)


if __name__ == "__main__":
    with_a_client(Model([1.0, 2.0]))
    asyncio.run(with_an_asynchronous_client(Model([1.0, 2.0])))
    for connector in (LocalConnector(), SharedMemoryConnector()):
        with Store("typed", connector, register=True) as store:
            with_proxies(store, Model([1.0, 2.0]))
            with_owners(store, Model([1.0, 2.0]))
