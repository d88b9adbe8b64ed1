"""Tracebacks of what fails show the user's frames, and no more of ours than of Dask's.

The same lines run with plain Dask's client, which is the referee.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from dask import delayed

import daskref
from daskref.client.by_reference import ByReference
from daskref.graph.nodes import PackedNode
from daskref.worker._boundary import Boundary
from tests.support.common import large


def inner(x: Any) -> Any:
    raise ValueError("on purpose")


def fail(x: Any, **kwargs: Any) -> Any:
    return inner(x)


async def fail_async(x: Any) -> Any:
    return inner(x)


def nested(x: Any) -> Any:
    with distributed.worker_client() as client:
        return client.submit(fail, x, pure=False).result()


class Failing:
    def __init__(self, x: Any = None) -> None:
        if x is not None:
            inner(x)

    def fail(self, x: Any) -> Any:
        return inner(x)


class FailsToPickle:
    def __reduce__(self) -> Any:
        return inner(self)


def _blocks(client: Any, x: Any) -> Any:
    array = da.from_array(x, chunks=len(x) // 2)
    return array.map_blocks(fail, meta=np.ones(1)).compute()


def _by_actor(client: Any, x: Any) -> Any:
    actor = client.submit(Failing, actor=True, pure=False).result()
    return actor.fail(x).result()


CASES: dict[str, Callable[[Any, Any], Any]] = {
    "submit": lambda c, x: c.submit(fail, x, pure=False).result(),
    "keyword": lambda c, x: c.submit(fail, 1, y=x, pure=False).result(),
    "gather": lambda c, x: c.gather([c.submit(fail, x, pure=False)]),
    "map": lambda c, x: c.gather(c.map(fail, [x], pure=False)),
    "coroutine": lambda c, x: c.submit(fail_async, x, pure=False).result(),
    "delayed": lambda c, x: delayed(fail)(x).compute(),
    "compute": lambda c, x: c.compute(delayed(fail)(x), sync=True),
    "persist": lambda c, x: delayed(fail)(x).persist().compute(),
    "get": lambda c, x: c.get({"a": (fail, x)}, "a"),
    "collection": _blocks,
    "dependency": lambda c, x: c.submit(
        fail, c.submit(np.copy, x, pure=False), pure=False
    ).result(),
    "scattered": lambda c, x: c.submit(
        fail, c.scatter(x, hash=False), pure=False
    ).result(),
    "nested": lambda c, x: c.submit(nested, x, pure=False).result(),
    "actor's method": _by_actor,
    "actor's init": lambda c, x: c.submit(Failing, x, actor=True, pure=False).result(),
    "no such argument": lambda c, x: c.submit(np.copy, bad=x, pure=False).result(),
    "result that does not pickle": lambda c, x: c.submit(
        FailsToPickle, pure=False
    ).result(),
    "no such call": lambda c, x: delayed(5)(x).compute(),
}

SETTINGS = {
    "as it is by default": dask.config.get("admin.traceback.shorten"),
    "the user's own": [r"dask[\\\/]_task_spec", r"distributed[\\\/](client|utils)"],
    "nothing": [],
}


def frames(client: Any, case: str, x: Any) -> list[tuple[str, str, list[str]]]:
    """Return what a traceback shows, error by error."""
    with client.as_current(), pytest.raises(Exception) as caught:
        CASES[case](client, x)
    error: BaseException | None = caught.value
    shown = []
    while error is not None:
        names = [
            f"{frame.filename}:{frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        shown.append((type(error).__name__, str(error)[:40], names))
        error = error.__cause__
    return shown


@pytest.fixture(scope="module")
def clients():
    """Ours and Dask's, on a cluster of their own.

    An error that was raised keeps its future alive, by its frames, until its client is
    closed. Those of tasks are clients of workers, and are closed with them.
    """
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        daskref.Client(cluster) as ours,
        distributed.Client(cluster) as plain,
    ):
        yield ours, plain


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_traceback_is_the_one_of_plain_dask(clients, case):
    for x in (np.arange(10.0), large()):
        for name, setting in SETTINGS.items():
            with dask.config.set({"admin.traceback.shorten": setting}):
                ours, expected = (frames(client, case, x) for client in clients)
            if not setting:  # then Dask shows its own frames, and so do we
                ours, expected = _users(ours), _users(expected)
            assert ours == expected, f"{case}, {x.nbytes} B, shortened by {name}"


def _users(shown: Any) -> Any:
    return [
        (kind, text, [name for name in names if name.startswith(__file__)])
        for kind, text, names in shown
    ]


def test_a_workers_log_shows_what_it_shows_with_plain_dask(clients):
    client, _ = clients

    def text(key: str, dask_scheduler: Any = None) -> str:
        shown: str = dask_scheduler.tasks[key].erred_on and (
            dask_scheduler.tasks[key].traceback_text
        )
        return shown

    for function in (fail, fail_async):
        for argument in (1, large(), client.submit(large)):
            future = client.submit(function, argument, pure=False)
            distributed.wait(future)
            told = client.run_on_scheduler(text, future.key)
            assert told.count("File ") == 2, told
            names = [frame.name for frame in traceback.extract_tb(future.traceback())]
            assert names == [function.__name__, "inner"]


@pytest.mark.parametrize(
    "function",
    [Boundary.__call__, PackedNode.__call__, ByReference._gather],
    ids=lambda function: function.__qualname__,
)
def test_source_is_found_all_the_same(function):
    assert function.__name__ in inspect.getsource(function)
    module = inspect.getmodule(function)
    path = os.path.normpath(function.__code__.co_filename)
    assert os.path.samefile(path, module.__file__)
