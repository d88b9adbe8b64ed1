"""A client's side of ``test_pythons.py``, which runs it with another Python.

What tasks call has a name here, or in NumPy: byte code is not for other Pythons.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import distributed
import numpy as np

import daskref
from daskref import OwnedProxy, Store, borrow, mut_borrow
from daskref.connectors import FileConnector
from daskref.store.factory import StoreFactory

SIZE = 1 << 18


def describe(*values: Any) -> list[str]:
    return [f"{type(x).__name__} of {len(x)}: {x[0]!r} to {x[-1]!r}" for x in values]


def make(kind: str) -> Any:
    return VALUES[kind]()


def fail(x: Any) -> None:
    raise ValueError(f"all {len(x)} of them")


def add_one(x: Any) -> Any:
    return x + 1


def set_later(future: Any) -> None:
    future.set_result(np.arange(SIZE))


def submit_again(x: Any) -> Any:
    return distributed.get_client().submit(describe, x, [x]).result()


class Table:
    """An object of the user's that holds something large."""

    def __init__(self) -> None:
        self.columns = {"a": np.arange(SIZE), "b": bytes(3 * SIZE)}

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        return self.columns["a"][index], self.columns["b"][index]


class Keeper:
    """An actor."""

    def keep(self, x: Any) -> Any:
        return x


VALUES: dict[str, Callable[[], Any]] = {
    "numbers": lambda: np.arange(SIZE, dtype="f8"),
    "dates": lambda: np.arange(SIZE).astype("M8[s]"),
    "texts": lambda: np.array([f"text {i}" for i in range(SIZE // 8)], object),
    "bytes": lambda: b"x" * 2_000_000,
    "text": lambda: "é" * 1_000_000,
    "list": lambda: [np.arange(SIZE), bytearray(SIZE), {"small": 1}],
    "object": Table,
    "small": lambda: [1, 2, 3],
}


def try_all(client: Any, workers: list[str]) -> dict[str, Any]:
    """Do what clients do; return what came of it, by name."""
    made = {kind: make() for kind, make in VALUES.items()}
    steps: dict[str, Callable[[], Any]] = {
        "submit": lambda: [
            client.submit(describe, x, workers=[worker]).result()
            for x in made.values()
            for worker in workers
        ],
        "submit nested": lambda: client.submit(describe, [made["list"]]).result(),
        "map": lambda: client.gather(client.map(describe, list(made.values()))),
        "scatter": lambda: [
            client.submit(describe, future, workers=[worker], pure=False).result()
            for future in client.scatter(list(made.values()), hash=False)
            for worker in workers
        ],
        "broadcast": lambda: describe(
            client.scatter(made["numbers"], broadcast=True).result()
        ),
        "gather": lambda: describe(*client.gather(client.map(make, list(VALUES)))),
        "from worker to worker": lambda: [
            client.submit(
                describe,
                client.submit(make, kind, workers=[first], pure=False),
                workers=[second],
            ).result()
            for kind in VALUES
            for first in workers
            for second in workers
        ],
        "actor": lambda: describe(
            client.submit(Keeper, actor=True).result().keep(made["numbers"]).result()
        ),
        "run": lambda: sorted(
            {text for x in client.run(make, "dates").values() for text in describe(x)}
        ),
        "a task's client": lambda: client.submit(
            submit_again, made["numbers"]
        ).result(),
        "error": lambda: client.submit(fail, made["numbers"]).result(),
    }
    return {name: _outcome(step) for name, step in steps.items()}


def _outcome(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


def try_ours(client: Any, worker: str) -> None:
    """Do what only clients of daskref do."""

    def result(*args: Any) -> Any:
        return client.submit(*args, workers=[worker], pure=False).result()

    x = np.arange(SIZE)
    expected = x.sum()
    assert result(np.sum, daskref.lazy(x)) == expected
    with (
        tempfile.TemporaryDirectory() as directory,
        Store(f"of-{worker}", FileConnector(directory), register=True) as store,
    ):
        assert result(np.sum, store.proxy(x)) == expected
        owner = OwnedProxy(StoreFactory(store.put_reference(x)))
        assert result(np.sum, borrow(owner)) == expected
        assert result(add_one, mut_borrow(owner))[0] == 1
        daskref.drop(owner)
        future = store.future()
        result(set_later, future)
        assert future.result().sum() == expected
        made = client.submit(make, "numbers", workers=[worker])
        bound = store.proxy(x, lifetime=daskref.TaskLifetime(client, made))
        assert result(np.sum, bound) == expected


def main(address: str) -> None:
    """Try all, with plain Dask and with daskref; print what came of it.

    There are two workers, "first" and "second"; "late" comes when the client of daskref
    has connected.
    """
    with distributed.Client(address, set_as_default=False) as client:
        plain = try_all(client, ["first", "second"])
    with daskref.Client(address, set_as_default=False) as client:
        ours = try_all(client, ["first", "second"])
        print("connected as", client.id, flush=True)
        client.wait_for_workers(3, timeout=60)
        late = try_all(client, ["first", "late"])
        for worker in ("first", "second", "late"):
            try_ours(client, worker)
        stats = daskref.stats(client)
    outcomes = {"plain": plain, "daskref": ours, "late": late, "stats": stats}
    print("outcomes:", json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    # by its name: workers import what is here
    from tests.support import pythons_client

    pythons_client.main(sys.argv[1])
