"""``zmq://`` on hosts that share nothing: what it does beyond the paths of Dask.

What every connector does on many hosts is in :mod:`tests.hosts.test_clusters`.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
from distributed import wait

import daskref
from daskref.connectors.files.names import NAME
from daskref.exceptions import ResolveError
from daskref.testing.clusters import HostCluster
from daskref.testing.host import Host, HostProcess
from daskref.testing.hosts import Network
from tests.hosts.test_clusters import connect, go_on, is_freed
from tests.integration.test_store_unreachable import total
from tests.support.common import large, wait_until
from tests.support.namespaces import require_hosts

TIMEOUT = 60
MIB = 1 << 20


class Site:
    """Hosts for a scheduler, a client, and workers as a test wants them."""

    def __init__(self, network: Network, **env: str) -> None:
        require_hosts()
        self.network = network
        for name in ("scheduler", "client"):
            network.add(name)
        self.cluster = HostCluster(network["scheduler"], env=env)

    def add(self, name: str, workers: int = 1, *args: str) -> Host:
        """Add a host with workers, which are called ``name-0`` and so on."""
        host = self.network.add(name)
        for number in range(workers):
            self.cluster.add_worker(host, *args, name=f"{name}-{number}")
        return host

    def call(self, func: Any, *args: Any, timeout: float = 100) -> Any:
        client = self.network["client"]
        return self.cluster.call(client, func, *args, timeout=timeout)

    def start(self, func: Any, *args: Any) -> HostProcess:
        client = self.network["client"]
        return self.cluster.start(client, func, *args, pattern="(ready)")


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    require_hosts()
    with Network() as network:
        site = Site(network, **getattr(request, "param", {}))
        yield site
        site.cluster.stop()


def objects_on(host: Host) -> list[str]:
    """Return the names of the objects that a host has."""
    found = host.run("find", "/dev/shm", "-type", "f").split()
    return [name for path in found if NAME.fullmatch(name := Path(path).name)]


def nbytes_of(x: Any) -> int:
    return int(x.nbytes)


# What runs on the client's host


def read_everywhere(address: str, nbytes: int, names: list[str]) -> None:
    with connect(address, "zmq://") as client:
        client.wait_for_workers(len(names), timeout=TIMEOUT)
        x = client.scatter(np.arange(nbytes // 8, dtype="f8"))
        expected = float(np.arange(nbytes // 8, dtype="f8").sum())
        sums = [client.submit(total, x, workers=[n], pure=False) for n in names]
        assert client.gather(sums) == [expected] * len(names)
        print("ready", flush=True)
        input()
        del x, sums
        wait_until(lambda: is_freed(client), "everything freed")
        print("freed", flush=True)
        input()


class TestCopies:
    def test_each_host_gets_one_and_sends_few(self, site: Site) -> None:
        """Eight processes on four hosts read 512 MiB; every link is watched."""
        nbytes = 512 * MIB
        hosts = [site.add(name, workers=2) for name in ("a", "b", "c", "d")]
        before = [host.traffic for host in hosts]
        names = list(site.cluster.workers)
        client = site.start(read_everywhere, nbytes, names)
        after = [host.traffic for host in hosts]
        for old, new in zip(before, after, strict=True):
            assert nbytes < new.received - old.received < 1.1 * nbytes
            assert new.sent - old.sent < 2.2 * nbytes
        # one from the client, three from each other
        assert sum(n.sent - o.sent for o, n in zip(before, after, strict=True)) > (
            3 * nbytes
        )
        assert all(objects_on(host) for host in hosts)
        client.tell("go")
        client.expect("freed", 2 * TIMEOUT)
        for host in hosts:
            wait_until(lambda host=host: not objects_on(host), "evicted everywhere")
        client.tell("go")
        assert client.popen.wait(TIMEOUT) == 0, client.output

    def test_a_worker_dies_and_its_neighbour_serves(self, site: Site) -> None:
        site.add("one", workers=2)
        client = site.start(hold_then_read)
        site.cluster.workers.pop("one-0").kill()
        site.add("two")
        sent = site.network["client"].traffic.sent
        go_on(client, "read")
        assert site.network["client"].traffic.sent - sent < 8 * MIB


def hold_then_read(address: str) -> None:
    with connect(address, "zmq://") as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        x = large(3, 32 * MIB)
        future = client.submit(nbytes_of, x, pure=False)
        assert future.result(TIMEOUT) == 32 * MIB
        print("ready", flush=True)
        input()
        wait_until(lambda: "two-0" in names(client), "the new worker", TIMEOUT)
        read = client.submit(total, x, workers=["two-0"])
        assert read.result(TIMEOUT) == 3 * 32 * MIB / 8
        print("read", flush=True)


def names(client: Any) -> set[str]:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {worker["name"] for worker in workers}


# Transfers that break off


def move(address: str, nbytes: int) -> None:
    """Make an array on ``one``, read it on ``two``."""
    with connect(address, "zmq://") as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        options = {"workers": ["one-0"], "allow_other_workers": True}
        made = client.submit(large, 2.0, nbytes, **options)
        wait(made, TIMEOUT)
        read = client.submit(total, made, workers=["two-0"])
        print("ready", flush=True)
        assert read.result(2 * TIMEOUT) == 2 * nbytes / 8
        print("moved", flush=True)


class TestTransfers:
    def test_a_host_dies_amidst(self, site: Site) -> None:
        require_hosts("rate")
        nbytes = 32 * MIB
        one, two = site.add("one"), site.add("two")
        one.shape(mbit=100)
        client = site.start(move, nbytes)
        begin = two.traffic.received
        wait_until(lambda: two.traffic.received - begin > nbytes / 4, "a quarter")
        one.die()
        client.expect("moved", 2 * TIMEOUT)
        assert client.popen.wait(TIMEOUT) == 0, client.output

    def test_a_link_is_cut_for_ten_seconds(self, site: Site) -> None:
        require_hosts("rate")
        nbytes = 32 * MIB
        one, two = site.add("one"), site.add("two")
        one.shape(mbit=100)
        begin = two.traffic.received
        client = site.start(move, nbytes)
        wait_until(lambda: two.traffic.received - begin > nbytes / 4, "a quarter")
        one.cut()
        time.sleep(10)  # that is what is tested: longer than a stall
        one.mend()
        client.expect("moved", 2 * TIMEOUT)
        assert client.popen.wait(TIMEOUT) == 0, client.output
        # it went on where it was
        assert two.traffic.received - begin < 1.5 * nbytes


# Hosts that come and go


def lose(address: str) -> str:
    """Scatter to the only host; return what is said when it is gone."""
    with connect(address, "zmq://") as client:
        client.wait_for_workers(1, timeout=TIMEOUT)
        x = client.scatter(large(3))
        gc.collect()
        print("ready", flush=True)
        input()
        wait_until(lambda: names(client) == {"two-0"}, "the one is gone", TIMEOUT)
        with pytest.raises((ResolveError, distributed.CancelledError)) as caught:
            client.submit(total, x, workers=["two-0"]).result(TIMEOUT)
        print(f"said <{caught.value!r}>", flush=True)
        # and all else goes on
        assert client.submit(total, large(2)).result(TIMEOUT) == 2 * 262144
        print("done", flush=True)


def put_before_there_are_workers(address: str) -> dict[str, Any]:
    with connect(address, "zmq://") as client:
        early = client.submit(total, large(3))
        print("ready", flush=True)
        input()
        assert early.result(TIMEOUT) == 3 * 262144
        late = client.submit(total, large(4))
        assert late.result(TIMEOUT) == 4 * 262144
        stats = daskref.stats(client)
        assert stats["puts"] == 1
        assert not stats["fallbacks"]
        print("done", flush=True)
        return stats  # type: ignore[no-any-return]


class TestHosts:
    def test_what_nobody_has_any_more_names_the_host(self, site: Site) -> None:
        one = site.add("one")
        client = site.start(lose)
        site.add("two")
        one.keeper.kill()
        go_on(client, "done")
        (said,) = re.findall("said <(.*)>", client.output)
        assert "was on host one, which is gone" in said

    def test_workers_come_later_than_values(self, site: Site) -> None:
        client = site.start(put_before_there_are_workers)
        site.add("one")
        go_on(client, "done")

    @pytest.mark.parametrize(
        "site",
        [
            {
                "DASK_DASKREF__RECONCILE_INTERVAL": "1s",
                "DASK_DASKREF__RECONCILE_GRACE": "1s",
            }
        ],
        indirect=True,
        ids=[""],
    )
    def test_a_host_that_was_cut_off_keeps_nothing(self, site: Site) -> None:
        site.add("one")
        two = site.add("two")
        client = site.start(share_with_a_host_that_goes)
        assert objects_on(two)
        two.cut()
        client.tell("go")
        client.expect("released", 2 * TIMEOUT)
        two.mend()
        wait_until(lambda: not objects_on(two), "swept", 2 * TIMEOUT)
        site.cluster.add_worker(two, name="two-1")
        go_on(client, "done")


def share_with_a_host_that_goes(address: str) -> None:
    with connect(address, "zmq://") as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        x = client.scatter(large(3))
        places = ("one-0", "two-0")
        sums = [client.submit(total, x, workers=[n], pure=False) for n in places]
        wait(sums, TIMEOUT)
        print("ready", flush=True)
        input()
        wait_until(lambda: names(client) == {"one-0"}, "it is gone", 2 * TIMEOUT)
        del x, sums
        wait_until(lambda: is_freed(client), "everything freed")
        print("released", flush=True)
        input()
        wait_until(lambda: "two-1" in names(client), "it is back", TIMEOUT)
        again = client.submit(total, large(4), workers=["two-1"])
        assert again.result(TIMEOUT) == 4 * 262144
        print("done", flush=True)


# Ahead of time


def keep_busy(name: str) -> None:
    assert distributed.Event(name).wait(TIMEOUT)


def read_late(address: str, how: str) -> None:
    """Let a task wait for a thread that needs something of another host."""
    with connect(address, "zmq://") as client:
        client.wait_for_workers(1, timeout=TIMEOUT)
        x = large(3)
        value = client.submit(large, 3.0, workers=["one-0"])
        # it is on host one only, as there is no other
        assert client.submit(total, x).result(TIMEOUT) == 3 * 262144
        wait(value, TIMEOUT)
        print("ready", flush=True)
        input()
        wait_until(lambda: "two-0" in names(client), "the new worker", TIMEOUT)
        event = distributed.Event("free")
        busy = client.submit(keep_busy, "free", workers=["two-0"])
        processing = client.processing
        wait_until(lambda: any(processing().values()), "it is busy", TIMEOUT)
        read = client.submit(total, x if how == "x" else value, workers=["two-0"])
        print("waits", flush=True)
        input()
        assert not read.done()
        event.set()
        assert read.result(TIMEOUT) == 3 * 262144
        client.gather(busy)
        print("done", flush=True)


@pytest.mark.parametrize("how", ["x", "value"])
def test_what_a_waiting_task_needs_is_fetched_ahead(site: Site, how: str) -> None:
    site.add("one")
    client = site.start(read_late, how)
    two = site.network.add("two")
    site.cluster.add_worker(two, "--no-nanny", "--nthreads", "1", name="two-0")
    client.tell("go")
    client.expect("waits", TIMEOUT)
    wait_until(lambda: objects_on(two), "it is there before the task runs", TIMEOUT)
    go_on(client, "done")
