"""How many modules one call passes through: ``python -m tests.package.hops``.

A reader who follows such a call opens that many files. Counted are the calls of
daskref's own functions in the calling thread, once all that is made on first use is
there: the shortest of a few runs, since some look at a clock.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from distributed import LocalCluster

from daskref import Client, Store
from daskref.connectors import (
    Connector,
    FileConnector,
    SharedMemoryConnector,
    ZmqConnector,
)

NBYTES = 4 * 2**20
RUNS = 5


class Trace(NamedTuple):
    """What one call passes through."""

    #: Of daskref's functions.
    calls: int
    #: How often the module changes from one of these calls to the next.
    hops: int
    #: In the order in which they are first called.
    modules: tuple[str, ...]


class _Profiler:
    def __init__(self) -> None:
        self.called: list[str] = []

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("daskref."):
            self.called.append(name.removeprefix("daskref."))

    def trace(self) -> Trace:
        pairs = zip(["", *self.called], self.called, strict=False)
        hops = sum(before != after for before, after in pairs)
        return Trace(len(self.called), hops, tuple(dict.fromkeys(self.called)))


def trace(function: Callable[..., Any], *args: Any) -> tuple[Trace, Any]:
    """Call a function; return what of daskref it passed through, and its result."""
    profiler, before = _Profiler(), sys.getprofile()
    sys.setprofile(profiler)
    try:
        result = function(*args)
    finally:
        sys.setprofile(before)
    return profiler.trace(), result


def _shortest(run: Callable[[int], Trace]) -> Trace:
    return min((run(i) for i in range(RUNS)), key=lambda it: (len(it.modules), it))


def _array(seed: int) -> Any:
    return np.random.default_rng(seed).random(NBYTES // 8)


def submit() -> Trace:
    """``client.submit(f, array)``, default connector, all on one host."""
    options = {"processes": False, "n_workers": 1, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        kept: list[Any] = []  # or the next put may take their pages

        def run(seed: int) -> Trace:
            array = _array(seed)
            found, future = trace(client.submit, len, array)
            kept.append((array, future))
            future.result()
            return found

        return _shortest(run)


def proxy(connector: Connector) -> Trace:
    """``Store.proxy(array)``."""
    with Store("hops", connector) as store:

        def run(seed: int) -> Trace:
            return trace(store.proxy, _array(seed))[0]

        return _shortest(run)


def get(connector: Connector) -> Trace:
    """``Store.get(key)``, not cached."""
    with Store("hops", connector, cache_size=0) as store:

        def run(seed: int) -> Trace:
            return trace(store.get, store.put(_array(seed)))[0]

        return _shortest(run)


def fetch() -> Trace:
    """``ZmqConnector.get`` of an object of another host."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="daskref-hops-") as base:

        def host(name: str, **options: Any) -> ZmqConnector:
            (Path(base) / name).mkdir()
            return ZmqConnector(
                root=f"{base}/{name}",
                spill_directory=base,
                interface="127.0.0.1",
                **options,
            )

        with (
            host("a", serve=True) as a,
            host("b", session=a.config()["session"], peers={a.host: a.endpoints}) as b,
        ):

            def run(seed: int) -> Trace:
                return trace(b.get, a.put(_array(seed)))[0]

            return _shortest(run)


@contextmanager
def _file() -> Iterator[Connector]:
    with tempfile.TemporaryDirectory() as directory:
        yield FileConnector(directory)


@contextmanager
def _shm() -> Iterator[Connector]:
    yield SharedMemoryConnector()


class Call(NamedTuple):
    """A call that is measured, and how many modules it shall pass through."""

    trace: Callable[[], Trace]
    #: At most so many today: lower it when the call gets shorter. One more than is seen
    #: most of the time where the pages at hand, or the clock, may add a module.
    bound: int
    #: The aim, if there is one.
    wanted: int | None


def _on(call: Callable[[Connector], Trace], made: Any) -> Callable[[], Trace]:
    def measure() -> Trace:
        with made() as connector:
            return call(connector)

    return measure


CALLS = {
    "client.submit(f, 4 MiB array)": Call(submit, 28, 22),
    "Store.proxy(array), file": Call(_on(proxy, _file), 15, 12),
    "Store.proxy(array), shm": Call(_on(proxy, _shm), 18, None),
    "Store.get(key), file": Call(_on(get, _file), 8, 8),
    "Store.get(key), shm": Call(_on(get, _shm), 11, None),
    "ZmqConnector.get, other host": Call(fetch, 22, 18),
}


def main() -> None:
    """Print the table, and each call's modules in order."""
    traces = {name: call.trace() for name, call in CALLS.items()}
    print(f"{'call':32}{'calls':>7}{'hops':>6}{'modules':>9}{'bound':>7}{'wanted':>8}")
    for name, found in traces.items():
        _, bound, wanted = CALLS[name]
        counts = f"{found.calls:7}{found.hops:6}{len(found.modules):9}{bound:7}"
        print(f"{name:32}{counts}{wanted or '-':>8}")
    for name, found in traces.items():
        print(f"\n{name}\n  {' > '.join(found.modules)}")


if __name__ == "__main__":
    main()
