"""``list_objects``: what is stored, and what holds it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client as PlainClient
from distributed import Event, LocalCluster, wait

from daskref import Client, list_objects, stats
from tests.support.common import wait_until


def double(x: Any) -> Any:
    return 2 * x


def test_arguments_results_and_scattered_values() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster, threshold="10 kB") as client,
    ):
        assert list(list_objects(client)) == []
        x = np.ones((1000, 5))
        scattered = client.scatter(np.ones(20_000))
        result = client.submit(double, np.ones(300_000))
        result.result()
        future = client.submit(double, x)
        future.result()
        found = list_objects(client)
        sizes = [each.nbytes for each in found]
        assert sizes == sorted(sizes, reverse=True)
        told = stats(client)
        assert (len(found), sum(sizes)) == (told["objects"], told["bytes"])
        (argument,) = found.where(lambda each: each.shape == (1000, 5))
        assert argument.type == "numpy.ndarray"
        assert argument.nbytes >= x.nbytes
        assert argument.clients == (client.id,)
        placed_key, made_key = scattered.key, result.key
        (placed,) = found.where(lambda each: placed_key in each.keys)
        assert placed.shape == (20_000,)
        of_task = found.where(lambda each: made_key in each.keys)
        made = of_task.where(lambda each: each.shape is None)
        assert (len(of_task), len(made)) == (2, 1)  # with its argument
        assert made[0].prefixes == ("double",)
        assert "ndarray" in made[0].type
        assert all(each.hosts and not each.readers for each in found)
        assert placed.age > argument.age > 0
        assert len(list_objects(client, most=2)) == 2
        assert "double" in repr(found)
        assert list(found.to_pandas()["nbytes"]) == sizes
        del scattered, result, future, x
        wait_until(lambda: not list_objects(client), "everything released")


def total(x: Any) -> float:
    return float(x.sum())


def used(session: str) -> tuple[int, int]:
    """Return bytes of a session's objects in memory, and on its disk."""
    disk = Path(session, "spill")
    return tuple(
        sum(
            path.lstat().st_blocks * 512
            for path in Path(folder).glob(f"{'[0-9a-f]' * 8}-*")
        )
        for folder in (session, disk.read_text() if disk.exists() else "/no/such")
    )  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("connector", ["auto", "shm://"])
def test_what_objects_take_up_adds_up(connector: str, tmp_path: Path) -> None:
    settings = {
        "daskref.connector": connector,
        "daskref.shm.budget": "12 MiB",
        "daskref.spill-directory": str(tmp_path),
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster, threshold="10 kB") as client,
    ):
        kept = [client.scatter(np.full(n << 17, n)) for n in (4, 5, 6)]  # MiB
        for _ in range(2):
            assert client.submit(total, kept[0], pure=False).result() == 4 * (4 << 17)
        found = {each.nbytes >> 20: each for each in list_objects(client)}
        assert {n: each.hits for n, each in found.items()} == {4: 2, 5: 0, 6: 0}
        assert [n for n, each in found.items() if each.disk] == [6]
        for n, each in found.items():
            assert each.memory is not None
            assert each.disk is not None
            assert each.memory + each.disk >= n << 20
            assert (each.mapped is None) == (n == 6)
        told = stats(client)
        sums = [sum(getattr(e, f) for e in found.values()) for f in ("memory", "disk")]
        session = client._daskref.session
        sums[0] += mmap.PAGESIZE * len(session.info.probes)  # which are no objects
        assert sums == [told["memory"], told["disk"]]
        connector = session.store.connector
        directory = getattr(connector, "local", connector).directory
        assert tuple(sums) == used(directory)
        # this client reads, too
        (read,) = [each for each in found.values() if each.disk]
        client.gather(kept[2], direct=True)
        again = {each.key: each.hits for each in list_objects(client)}
        assert again[read.key] == 1
        del kept
        wait_until(lambda: not list_objects(client), "everything released")


def hold(x: Any, let_go: Event) -> None:
    assert x.sum()
    let_go.wait()


def test_processes_that_have_an_object_mapped(client: Any) -> None:
    x, events = client.scatter(np.ones(1 << 20)), []
    futures = []
    for worker in client.scheduler_info()["workers"]:
        events.append(Event(worker))
        futures.append(client.submit(hold, x, events[-1], workers=[worker]))

    def mapped() -> Any:
        (found,) = list_objects(client)
        return found.mapped

    wait_until(lambda: mapped() == 2, "both have it")
    for event in events:
        event.set()
    for future in futures:
        future.result()


def test_keys_of_one_object_share_what_it_takes_up(client: Any) -> None:
    x = client.scatter(np.ones(1 << 20))
    same = client.submit(lambda each: each, x)
    moved = client.submit(total, same)  # to where it is not, perhaps
    wait([same, moved])
    found = list_objects(client)
    told = stats(client)
    for name in ("memory", "disk"):
        assert sum(getattr(each, name) for each in found) == told[name]
    del x, same, moved


@pytest.mark.slow
def test_a_store_elsewhere_does_not_tell(redis_server: Any) -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, connector=redis_server.url) as client,
    ):
        x = client.scatter(np.ones(1 << 20))
        assert client.submit(total, x).result()
        (found,) = table = list_objects(client)
        assert (found.memory, found.disk, found.mapped) == (None, None, None)
        assert "unknown" in repr(table)
        assert "unknown" in table._repr_html_()
        assert list(table.by("memory")) == [found]
        assert table.to_pandas()["memory"].isna().all()
        del x


def test_plain_clients_are_told_what_to_do() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        PlainClient(cluster) as client,
        pytest.raises(TypeError, match=r"daskref\.enable"),
    ):
        list_objects(client)
