"""Each connector against ProxyStore's of the same kind: same server, same run.

Both sides take turns, in one process and on one cluster, with a store of their own:

- *put*: ``store.put(x)`` of an array of random numbers;
- *get*: ``store.get(key)``, nothing cached, and one pass over the result;
- *submit*: ``client.submit(total, store.proxy(x)).result()`` with Dask's own client.

ProxyStore has no connector for shared memory: its files on the same tmpfs stand for it.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import distributed
from dask.utils import format_bytes, parse_bytes
from distributed import LocalCluster

from daskref.bench.measuring import array, compare, timed
from daskref.connectors import open_connector
from daskref.proxy.proxy import get_factory, is_proxy
from daskref.store.store import Store
from daskref.testing.processes import Process, start

SIZES = ("1 KiB", "1 MiB", "10 MiB", "100 MiB", "1 GiB")
#: Sizes up to this are measured this many times in a row.
_SMALL, _REPEATS = 1 << 16, 20

Operation = Callable[[Any, Any, Any], float]


def total(x: Any) -> float:
    """Return the sum: one pass over all of an array."""
    return float(x.sum())


def _put(store: Any, x: Any, client: Any) -> float:
    seconds, key = timed(store.put, x)
    store.evict(key)
    return seconds


def _get(store: Any, x: Any, client: Any) -> float:
    key = store.put(x)
    seconds, _ = timed(lambda: total(store.get(key)))
    store.evict(key)
    return seconds


def _submit(store: Any, x: Any, client: Any) -> float:
    def submit() -> Any:
        proxy = store.proxy(x)
        client.submit(total, proxy, pure=False).result()
        return proxy

    seconds, proxy = timed(submit)
    if is_proxy(proxy):
        factory: Any = get_factory(proxy)
        store.evict(factory.reference.key)
    else:
        store.evict(import_module("proxystore.proxy").get_factory(proxy).key)
    return seconds


OPERATIONS: dict[str, Operation] = {"put": _put, "get": _get, "submit": _submit}


@dataclass(frozen=True)
class Place:
    """Where both sides store their objects."""

    directory: str
    memory: str
    redis_port: int


def _theirs(kind: str, place: Place) -> Any:
    """Return ProxyStore's connector of a kind."""
    from proxystore.connectors.file import FileConnector
    from proxystore.connectors.multi import MultiConnector, Policy
    from proxystore.connectors.redis import RedisConnector

    if kind == "shm":
        return FileConnector(f"{place.memory}/theirs")
    if kind == "file":
        return FileConnector(f"{place.directory}/theirs")
    if kind == "redis":
        return RedisConnector("127.0.0.1", place.redis_port)
    small = RedisConnector("127.0.0.1", place.redis_port)
    large = FileConnector(f"{place.directory}/theirs-large")
    return MultiConnector(
        {
            "small": (small, Policy(max_size_bytes=1 << 20)),
            "large": (large, Policy(min_size_bytes=(1 << 20) + 1)),
        }
    )


def _ours(kind: str, place: Place) -> Any:
    """Return daskref's connector of a kind."""
    redis = f"redis://127.0.0.1:{place.redis_port}"
    if kind == "shm":
        return open_connector("shm://")
    if kind == "file":
        return open_connector(f"file://{place.directory}/ours")
    if kind == "redis":
        return open_connector(redis)
    return open_connector(
        {
            "class": "daskref.connectors:MultiConnector",
            "connectors": {
                "small": [redis, {"max_size_bytes": 1 << 20}],
                "large": [
                    f"file://{place.directory}/ours-large",
                    {"min_size_bytes": (1 << 20) + 1},
                ],
            },
        }
    )


KINDS = ("shm", "file", "redis", "multi")


def _start_redis(directory: str) -> tuple[Process, int]:
    """Start a Redis server of our own, without persistence; return its port too."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("the redis and multi rows need `redis-server` on the PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    try:
        server = start(
            *[program, "--port", str(port), "--bind", "127.0.0.1"],
            *["--save", "", "--appendonly", "no", "--dir", directory],
            pattern="(Ready) to accept",
            timeout=20,
        )
    except AssertionError as exc:
        raise SystemExit(f"redis-server did not start: {exc}") from exc
    return server, port


@contextmanager
def _stores(kind: str, place: Place) -> Iterator[tuple[Any, Any]]:
    from proxystore.store import Store as TheirStore

    options: dict[str, Any] = {
        "cache_size": 0,
        "populate_target": False,
        "register": True,
    }
    with ExitStack() as stack:
        theirs = TheirStore(f"theirs-{kind}", _theirs(kind, place), **options)
        stack.enter_context(theirs)
        ours = Store(f"ours-{kind}", _ours(kind, place), **options)
        stack.enter_context(ours)
        yield theirs, ours


def measure(
    stores: tuple[Any, Any], client: Any, operation: Operation, size: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each round, theirs and ours; the first does not count.

    An empty list stands for a side that cannot do it.
    """
    sides: tuple[list[float], list[float]] = ([], [])
    repeats = _REPEATS if size <= _SMALL else 1
    failed: set[int] = set()
    for number in range(rounds + 1):
        for side, (store, times) in enumerate(zip(stores, sides, strict=True)):
            if side in failed:
                continue
            x = array(size)
            try:
                runs = [operation(store, x, client) for _ in range(repeats)]
            except Exception as exc:
                print(f"… {store!r:.60} failed: {exc!r:.200}", file=sys.stderr)
                failed.add(side)
                times.clear()
                continue
            if number:
                times.append(statistics.median(runs))
    return sides


HEADER = (
    "| connector | operation | size | ProxyStore, median (spread) "
    "| daskref, median (spread) | ratio, median (spread) |\n|---|---|---|---|---|---|"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(prog="daskref bench connectors")
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--sizes", default=",".join(SIZES), help="separated by commas")
    parser.add_argument(
        "--operations", default=",".join(OPERATIONS), help="separated by commas"
    )
    parser.add_argument("--directory", help="for files; default: a temporary one")
    args = parser.parse_args(argv)
    kinds = args.kinds or list(KINDS)
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no such connector here: {', '.join(sorted(unknown))}")
    names = args.operations.split(",")
    if unknown := set(names) - OPERATIONS.keys():
        parser.error(f"no such operation: {', '.join(sorted(unknown))}")
    try:
        import proxystore  # noqa: F401
    except ImportError:
        raise SystemExit(
            "this compares with ProxyStore, which is not installed: "
            "pip install 'daskref[test]'"
        ) from None
    print(HEADER, flush=True)
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bench-", dir=args.directory)
        )
        memory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm")
        )
        port = 0
        if {"redis", "multi"} & set(kinds):
            server, port = _start_redis(directory)
            stack.callback(server.stop)
        cluster = stack.enter_context(
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
        )
        client = stack.enter_context(distributed.Client(cluster))
        for kind in kinds:
            with _stores(kind, Place(directory, memory, port)) as stores:
                for name in names:
                    for size in args.sizes.split(","):
                        nbytes = parse_bytes(size)
                        result = measure(
                            stores, client, OPERATIONS[name], nbytes, args.rounds
                        )
                        row = f"{kind} | {name} | {format_bytes(nbytes)}"
                        print(f"| {row} | {compare(*result)} |", flush=True)
    return 0
