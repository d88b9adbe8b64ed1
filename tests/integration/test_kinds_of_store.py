"""Clusters of processes on each kind of store: the five paths, lifetimes, failures.

A connector takes part by an entry in :data:`STORES`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import wait

import daskref
from daskref.exceptions import ConnectorError, ResolveError
from daskref.store.factory import resolve_reference
from tests.support import s3 as s3_server
from tests.support.common import Process, large, processes, session_of, wait_until
from tests.support.namespaces import ENVIRONMENT
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.slow

TIMEOUT = 60
#: Seen by the client alone; the session hands it to the others.
PASSWORD = "hunter2-is-secret"


@dataclass
class Place:
    """A store of a test's own."""

    #: For ``daskref.Client(connector=…)``; may have credentials.
    spec: str | dict[str, Any]
    #: ``() -> set``: names of whatever is in the store.
    names: Callable[[], set[str]]
    #: Let the store fail for good; ``None`` if it cannot.
    break_it: Callable[[], None] | None = None
    #: Let it work again.
    repair: Callable[[], None] | None = None
    #: What must be in no reference and no key.
    secrets: list[str] = field(default_factory=list)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[Place]:
    def names() -> set[str]:
        return {str(found) for found in path.rglob("*")}

    yield Place(f"file://{path}/store", names)


@contextlib.contextmanager
def _redis(path: Path) -> Iterator[Place]:
    server = RedisServer(requirepass=PASSWORD)
    try:
        options = "timeout=2&connect_timeout=2&retries=1"
        spec = server.url.replace("//", f"//:{PASSWORD}@") + f"?{options}"
        yield Place(
            spec,
            lambda: server.names(PASSWORD),
            server.kill,
            server.start,
            [PASSWORD],
        )
    finally:
        server.close()


@contextlib.contextmanager
def _s3(path: Path) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch, s3_server.server() as server:
        for name, value in s3_server.ENVIRONMENT.items():
            patch.setenv(name, value)
        bucket = server.bucket()
        spec = {
            "class": "daskref.connectors:FsspecConnector",
            "url": f"s3://{bucket}/prefix",
            "endpoint-url": server.endpoint,
            "key": "an-access-key",
            "secret": PASSWORD,
        }
        yield Place(spec, lambda: set(server.keys(bucket)), secrets=[PASSWORD])


@contextlib.contextmanager
def _multi(path: Path) -> Iterator[Place]:
    """Large objects in files, smaller ones in Redis."""
    with _file(path) as files, _redis(path) as redis:
        spec = {
            "class": "daskref.connectors:MultiConnector",
            "connectors": {
                "files": [files.spec, {"min_size_bytes": 3 << 20}],
                "redis": [redis.spec, {"max_size_bytes": (3 << 20) - 1}],
            },
        }
        yield Place(spec, lambda: files.names() | redis.names(), secrets=redis.secrets)


#: Name -> ``(directory) -> context manager of a Place``.
STORES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "file": _file,
    "multi": _multi,
    "redis": _redis,
    "s3": _s3,
}
#: Those that a test can let fail.
BREAKABLE = ["redis"]


@dataclass
class Cluster:
    place: Place
    client: Any
    scheduler: Process
    workers: list[Process]

    @property
    def addresses(self) -> list[str]:
        return list(self.client.scheduler_info()["workers"])

    def stat(self, name: str) -> int:
        return int(daskref.stats(self.client)[name])


@contextlib.contextmanager
def cluster_on(place: Place, **settings: Any) -> Iterator[Cluster]:
    """Run a scheduler, two workers, and a client that names the store."""
    config = {f"daskref.{name.replace('_', '-')}": v for name, v in settings.items()}
    with dask.config.set(config), processes(2, env=ENVIRONMENT) as (scheduler, workers):
        with daskref.Client(scheduler.address, connector=place.spec) as client:
            client.wait_for_workers(2, timeout=TIMEOUT)
            yield Cluster(place, client, scheduler, workers)
        for process in [*workers, scheduler]:
            process.stop()
            assert process.popen.returncode == 0, process.lines


@pytest.fixture(params=sorted(STORES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with STORES[request.param](tmp_path) as place:
        yield place


@pytest.fixture(params=BREAKABLE)
def breakable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with STORES[request.param](tmp_path) as place:
        assert place.break_it is not None
        yield place


def total(x: Any, y: Any = 0) -> float:
    assert type(x) is np.ndarray
    assert x.flags.writeable
    return float(np.sum(x) + np.sum(y))


def make(fill: float = 1.0) -> Any:
    return large(fill)


def identity(x: Any) -> Any:
    return x


class Accumulator:
    """An actor."""

    state = None

    def add(self, x: Any) -> Any:
        assert type(x) is np.ndarray
        self.state = x if self.state is None else self.state + x
        return self.state


def test_the_five_paths_lifetimes_and_the_end(place: Place) -> None:
    before = place.names()
    with cluster_on(place) as cluster:
        client, (first, second) = cluster.client, cluster.addresses
        assert daskref.stats(client)["objects"] == 0
        x = large(1.0)
        size = x.size

        # literals: submit, keywords, map
        assert client.submit(total, x).result(TIMEOUT) == size
        assert client.submit(total, large(2.0), y=x).result(TIMEOUT) == 3 * size
        assert client.gather(client.map(total, [x, large(3.0)])) == [size, 3 * size]
        assert cluster.stat("puts") == 3

        # scatter
        scattered = client.scatter(large(4.0), broadcast=True)
        for worker in (first, second):
            seen = client.submit(total, scattered, workers=[worker], pure=False)
            assert seen.result(TIMEOUT) == 4 * size
        assert cluster.stat("puts") == 4

        # worker to worker, gather: one put for all
        made = client.submit(make, 5.0, workers=[first])
        moved = client.submit(total, made, workers=[second])
        assert moved.result(TIMEOUT) == 5 * size
        result = made.result(TIMEOUT)
        assert type(result) is np.ndarray
        result += 1  # ours alone
        np.testing.assert_array_equal(client.gather([made])[0], large(5.0))
        assert cluster.stat("puts") == 5

        # actors, run
        kept = cluster.stat("bytes_kept")
        actor = client.submit(Accumulator, actor=True).result(TIMEOUT)
        assert actor.add(x).result(TIMEOUT)[0] == 1
        assert actor.add(x=x).result(TIMEOUT)[0] == 2
        assert cluster.stat("bytes_kept") >= kept + 4 * x.nbytes
        found = client.run(make, 6.0)
        assert [float(value[0]) for value in found.values()] == [6.0, 6.0]

        # nothing went in-band, and every process sees the store
        assert cluster.stat("fallbacks") == 0
        assert place.names() - before

        check_credentials(cluster)

        # an object goes with the last that needs it
        del actor, x, result, found, scattered, seen
        client.run(lambda: None)
        del made, moved
        gc.collect()
        wait_until(lambda: cluster.stat("objects") == 0, "all evicted")
    # the session ends with the scheduler
    wait_until(lambda: place.names() <= before | _root(place), "nothing is left")


def _root(place: Place) -> set[str]:
    found = re.search(r"file://([^'\"]+)", str(place.spec))
    return set() if found is None else {found[1]}


def test_a_worker_that_was_killed_leaves_nothing_behind(place: Place) -> None:
    before = place.names()
    with cluster_on(place) as cluster:
        client = cluster.client
        scattered = client.scatter(large(2.0))
        made = client.submit(make, 3.0, workers=[cluster.addresses[0]],
                             allow_other_workers=True)  # fmt: skip
        assert total(made.result(TIMEOUT)) == 3 * large().size
        victim = client.run(os.getpid)[cluster.addresses[0]]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(cluster.addresses) == 1, "the worker is gone")
        assert client.submit(total, scattered).result(TIMEOUT) == 2 * large().size
        assert client.submit(total, made).result(TIMEOUT) == 3 * large().size
        for process in cluster.workers:
            if process.popen.poll() is not None:
                cluster.workers.remove(process)
                process.popen.stdout.close()  # type: ignore[union-attr]
    wait_until(lambda: place.names() <= before | _root(place), "nothing is left")


def check_credentials(cluster: Cluster) -> None:
    """They reach the processes of the cluster, and are in nothing that travels."""
    place, client = cluster.place, cluster.client
    session: Any = session_of(client)  # this process may be in others
    reference = session.put(large(9.0))
    assert reference is not None
    sent = [pickle.dumps(reference), repr(reference), repr(session)]
    sent += [repr(session.info), pickle.dumps(session.store.connector)]
    # another process, which has joined over Dask's connections, opens it with that
    assert client.submit(get, reference).result(TIMEOUT) == 9.0
    session.store.evict(reference.key)  # type: ignore[union-attr]
    for secret in place.secrets:
        for each in sent:
            assert secret not in (each if isinstance(each, str) else repr(each))
        # neither the environment nor the command line told the others
        for process in [cluster.scheduler, *cluster.workers]:
            for name in ("environ", "cmdline"):
                told = Path(f"/proc/{process.pid}/{name}").read_bytes()
                assert secret.encode() not in told


def get(reference: Any) -> float:
    return float(resolve_reference(reference)[0])


class TestAStoreThatDies:
    def test_inband_the_job_finishes(self, breakable: Place) -> None:
        with cluster_on(breakable, on_failure="inband") as cluster:
            client, (first, second) = cluster.client, cluster.addresses
            size = large().size
            held = client.scatter(large(1.0))
            assert client.submit(total, held).result(TIMEOUT) == size
            made = client.submit(make, 2.0, workers=[first])
            same = client.submit(identity, held, workers=[first])
            wait([made, same], TIMEOUT)
            breakable.break_it()  # type: ignore[misc]
            assert client.submit(total, large(3.0)).result(TIMEOUT) == 3 * size
            futures = client.map(total, [large(4.0), large(5.0)])
            assert client.gather(futures) == [4 * size, 5 * size]
            # what was computed already, also where it came from the store
            for future, fill in ((made, 2.0), (same, 1.0)):
                moved = client.submit(total, future, workers=[second])
                assert moved.result(TIMEOUT) == fill * size
                assert future.result(TIMEOUT)[0] == fill
            scattered = client.scatter(large(6.0))
            assert client.submit(total, scattered).result(TIMEOUT) == 6 * size
            actor = client.submit(Accumulator, actor=True).result(TIMEOUT)
            assert actor.add(large(7.0)).result(TIMEOUT)[0] == 7.0
            del actor
            # what was in the store alone
            with pytest.raises((ResolveError, ConnectorError)) as caught:
                client.submit(total, held, pure=False).result(TIMEOUT)
            assert "cannot be reached" in str(caught.value)
            for secret in breakable.secrets:
                assert secret not in str(caught.value)

            # and once it is back
            assert breakable.repair is not None
            breakable.repair()
            puts = client.run_on_scheduler(puts_so_far)

            def again() -> bool:
                x = large(np.random.default_rng().random())
                client.submit(total, x, pure=False).result(TIMEOUT)
                return bool(client.run_on_scheduler(puts_so_far) > puts)

            wait_until(again, "values go by reference again", TIMEOUT)

    def test_raise_says_what_failed(self, breakable: Place) -> None:
        with cluster_on(breakable, on_failure="raise") as cluster:
            client = cluster.client
            assert client.submit(total, large(1.0)).result(TIMEOUT) == large().size
            breakable.break_it()  # type: ignore[misc]
            with pytest.raises(ConnectorError, match="cannot be reached"):
                client.submit(total, large(2.0)).result(TIMEOUT)
            made = client.submit(make, 3.0)
            with pytest.raises(ConnectorError, match="cannot be reached"):
                made.result(TIMEOUT)


def puts_so_far(dask_scheduler: Any) -> int:
    return int(dask_scheduler.plugins["daskref"]._reports.puts)
