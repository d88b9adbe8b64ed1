"""Who only passes a value on does not fetch what a user's proxy stands for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import daskref
from daskref import Proxy, Store, is_resolved

VALUES: dict[str, Any] = {
    "list": [1, [2]],
    "dict": {"a": {"b": 1}},
    "function": len,
    "tuple": (len, 1),
    "set": {1, 2},
    "text": "text",
}


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("walkers", "shm://", register=True) as made:
        yield made


def nothing(*args: Any, **kwargs: Any) -> int:
    return len(args) + len(kwargs)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    "how", ["submit", "nested", "keyword", "map", "scatter", "delayed"]
)
def test_an_unresolved_proxy_is_not_fetched(
    client: daskref.Client, store: Store, kind: str, how: str
) -> None:
    proxy: Proxy[Any] = store.proxy_from_key(store.put(VALUES[kind]))
    if how == "submit":
        future = client.submit(nothing, proxy, pure=False)
    elif how == "nested":
        future = client.submit(nothing, [{"a": proxy}], pure=False)
    elif how == "keyword":
        future = client.submit(nothing, x=proxy, pure=False)
    elif how == "map":
        (future,) = client.map(nothing, [proxy], pure=False)
    elif how == "scatter":
        future = client.scatter(proxy, hash=False)
    else:
        import dask

        future = client.compute(dask.delayed(nothing)([proxy]))
    assert not is_resolved(proxy)
    future.result(30)
