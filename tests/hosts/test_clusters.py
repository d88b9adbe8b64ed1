"""Dask on hosts of their own: the scheduler's, two workers' and a client's.

Every scenario holds with every connector of :data:`CONNECTORS`; what differs between
them is said there.
"""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import distributed
import numpy as np
import pytest
from distributed import wait

import daskref
from daskref.testing.clusters import HostCluster
from daskref.testing.host import Host, HostProcess
from daskref.testing.hosts import Network
from tests.integration.test_store_unreachable import everything, make, total
from tests.support.common import large, wait_until
from tests.support.namespaces import require_hosts

TIMEOUT = 60
SUM = 262144.0  # of large()
UNSEEN = "cannot see the cluster's store"


@dataclass(frozen=True)
class Case:
    """A connector, and what it does for hosts that are apart."""

    #: Spec; ``{shared}`` is a directory that all hosts see.
    spec: str
    #: Whether hosts see one store: nobody warns, and bulk is put.
    reaches: bool
    #: Copies of a value that cross the links of a worker's host that reads it twice, in
    #: two processes; at most. ``None`` for any number.
    copies: float | None
    #: Whether scattered values outlive the host of the worker that got them; those of
    #: plain Dask do not.
    durable: bool
    #: Whether a client must reach a worker's host to see the store.
    peers: bool = False

    def __str__(self) -> str:
        return self.spec.partition(":")[0]


CONNECTORS = [
    # not for many hosts: what has to go from one to another goes in-band
    Case("shm://", reaches=False, copies=None, durable=False),
    Case("file://{shared}", reaches=True, copies=0.1, durable=True),
    # one copy, and what frames and acknowledgements add
    Case("auto", reaches=True, copies=1.1, durable=True, peers=True),
]


#: For what depends on the connector's own connections.
networked = pytest.mark.parametrize("case", [c for c in CONNECTORS if c.peers], ids=str)
#: For what becomes of what is stored.
stored = pytest.mark.parametrize("case", [c for c in CONNECTORS if c.reaches], ids=str)


@dataclass
class Site:
    """Hosts with Dask on them."""

    network: Network
    cluster: HostCluster
    case: Case
    connector: str

    def __getitem__(self, name: str) -> Host:
        return self.network[name]

    def warned(self) -> list[int]:
        """Count the warnings of each worker, of a store that it cannot see."""
        return [worker.output.count(UNSEEN) for worker in self.cluster.workers.values()]

    def expected_warnings(self) -> int:
        """What each process warns of it."""
        return 0 if self.case.reaches else 1


@pytest.fixture(params=CONNECTORS, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


def make_site(
    case: Case,
    directory: Path,
    *,
    workers: tuple[str, ...] = ("one", "two"),
    client: dict[str, Any] | None = None,
    hostnames: dict[str, str] | None = None,
    **options: Any,
) -> Iterator[Site]:
    """Run a site: a scheduler, a worker on a host each, a host for the client."""
    require_hosts()
    shared = directory / "shared"
    shared.mkdir()
    names = hostnames or {}
    with Network() as network:
        for name in ("scheduler", *workers):
            network.add(name, hostname=names.get(name), shared=(directory,))
        network.add("client", shared=(directory,), **(client or {}))
        cluster = HostCluster(network["scheduler"], **options)
        for name in workers:
            cluster.add_worker(network[name])
        yield Site(network, cluster, case, case.spec.format(shared=shared))
        cluster.stop()
        # what was stored, at hosts that live, was taken away
        hosts = [network[name] for name in ("scheduler", *workers, "client")]
        alive = [host for host in hosts if host.keeper.alive]
        for host in alive:
            wait_until(lambda host=host: not host.shm, f"{host} clean")
        if alive == hosts:  # else nobody can know that it is dead: its presence stays
            wait_until(lambda: not os.listdir(shared), "the shared directory clean")


@pytest.fixture
def site(request: pytest.FixtureRequest, case: Case, tmp_path: Path) -> Iterator[Site]:
    yield from make_site(case, tmp_path, **getattr(request, "param", {}))


# What runs on the client's host


class Heard(logging.Handler):
    """The warnings of daskref in this process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        logging.getLogger("daskref").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    @property
    def unseen(self) -> int:
        return sum(UNSEEN in message for message in self.messages)


def connect(address: str, connector: str) -> daskref.Client:
    # Dask's own, of large graphs: in-band they are
    warnings.simplefilter("ignore")
    return daskref.Client(address, connector=connector, timeout=TIMEOUT)


def is_freed(client: Any) -> bool:
    gc.collect()
    stats = daskref.stats(client)
    return not stats["objects"]


def all_paths(
    address: str, connector: str, directs: tuple[bool, ...] = (False, True)
) -> dict[str, Any]:
    """Send bulk every way; return what a test wants to know."""
    heard = Heard()
    with connect(address, connector) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        everything(client, directs)
        wait_until(lambda: is_freed(client), "everything freed")
        return {"unseen": heard.unseen, **daskref.stats(client)}


def answers(address: str, connector: str) -> list[Any]:
    """Return some results, by way of both workers; plain Dask's for no connector."""
    warnings.simplefilter("ignore")
    with (
        connect(address, connector) if connector else distributed.Client(address)
    ) as client:
        x = np.random.default_rng(7).random((1024, 1024))
        array = da.from_array(x, chunks=(512, 512))
        scattered = client.scatter(x, broadcast=True)
        trace = client.submit(np.trace, scattered, workers=["one"])
        product = client.submit(np.dot, scattered, x, workers=["two"])
        return [
            (array @ array.T).sum(axis=0).compute(),
            np.asarray(da.percentile(array.ravel(), [10, 50, 90]).compute()),
            trace.result(TIMEOUT),
            product.result(TIMEOUT),
            client.submit(np.linalg.norm, product, workers=["one"]).result(TIMEOUT),
        ]


def transfers(dask_scheduler: Any) -> list[dict[str, Any]]:
    """Return what the page of the dashboard shows of them; runs on the scheduler."""
    told = dask_scheduler.plugins["daskref"]._reports.transfers(20)["hosts"]
    return [each for each in told if each["sent"] or each["fetched"]]


def move(address: str, connector: str) -> list[dict[str, Any]]:
    """Have the result of one host read on the other; return what was moved."""
    with connect(address, connector) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        made = client.submit(make, 2.0, workers=["one"])
        read = client.submit(total, made, workers=["two"])
        assert read.result(TIMEOUT) == 2 * SUM
        return wait_until(  # type: ignore[no-any-return]
            lambda: client.run_on_scheduler(transfers), "word of the transfer"
        )


def outlive(address: str, connector: str, durable: bool) -> None:
    """Have data on a host that dies, when told; and need it afterwards."""
    with connect(address, connector) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        on_one: dict[str, Any] = {"workers": ["one"], "allow_other_workers": True}
        x = large(3)
        scattered = client.scatter(x, workers=["one"])
        wait(client.submit(total, scattered, **on_one), TIMEOUT)
        made = client.submit(make, 2.0, **on_one)
        moved = client.submit(total, made, workers=["two"])
        assert moved.result(TIMEOUT) == 2 * SUM
        unread = client.submit(make, 5.0, **on_one)
        wait(unread, TIMEOUT)
        print("ready", flush=True)
        input()
        wait_until(
            lambda: len(client.scheduler_info()["workers"]) == 1,
            "the scheduler knows",
            timeout=TIMEOUT,
        )
        sums = [client.submit(total, v, pure=False) for v in (x, made, unread)]
        assert client.gather(sums) == [3 * SUM, 2 * SUM, 5 * SUM]
        assert total(made.result(TIMEOUT)) == 2 * SUM
        assert total(client.submit(make, 6.0).result(TIMEOUT)) == 6 * SUM
        if durable:
            again = client.submit(total, scattered, pure=False)
            assert again.result(TIMEOUT) == 3 * SUM
            assert total(scattered.result(TIMEOUT)) == 3 * SUM
            del again
        else:
            with pytest.raises(distributed.CancelledError):
                client.submit(total, scattered, pure=False).result(TIMEOUT)
        print("survived", flush=True)
        del x, scattered, made, moved, unread, sums
        wait_until(lambda: is_freed(client), "everything freed")


def work_through(address: str, connector: str) -> None:
    """Send values to a host whose link is cut meanwhile, and get some from there."""
    with connect(address, connector) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        made = client.submit(make, 2.0, workers=["one"])
        wait(made, TIMEOUT)
        print("ready", flush=True)
        input()
        scattered = client.scatter(large(5), workers=["two"])
        futures = [
            client.submit(total, large(4), workers=["one"]),
            client.submit(total, made, workers=["two"]),
            client.submit(total, scattered, workers=["one"]),
        ]
        print("submitted", flush=True)
        assert client.gather(futures) == [4 * SUM, 2 * SUM, 5 * SUM]
        print("done", flush=True)


def scatter_to_the_cut_off(address: str, connector: str) -> None:
    """Scatter to all workers while one's link is cut and the scheduler trusts it."""
    with connect(address, connector) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        print("ready", flush=True)
        input()
        scattered = client.scatter([large(fill) for fill in range(4)])
        sums = client.map(total, scattered, workers=["two"])
        assert client.gather(sums) == [0, SUM, 2 * SUM, 3 * SUM]
        print("done", flush=True)


def read_twice(address: str, connector: str, nbytes: int) -> dict[str, Any]:
    """Read a value from two worker processes of one host."""
    with connect(address, connector) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        x = client.scatter(large(1, nbytes))
        for name in ("one", "neighbour"):
            future = client.submit(total, x, workers=[name], pure=False)
            assert future.result(TIMEOUT) == nbytes / 8
        return daskref.stats(client)  # type: ignore[no-any-return]


def read_beside(address: str, connector: str) -> None:
    """Send a value to workers on the client's host, and get one from there."""
    with connect(address, connector) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
        assert total(client.submit(make, 2.0).result(TIMEOUT)) == 2 * SUM
        sums = [client.submit(total, large(3), workers=[n]) for n in ("one", "two")]
        assert client.gather(sums) == [3 * SUM] * 2
        assert daskref.stats(client)["puts"] >= 2
        print("ready", flush=True)
        input()


def run_client(site: Site, *args: Any) -> dict[str, Any]:
    return site.cluster.call(  # type: ignore[no-any-return]
        site["client"], all_paths, site.connector, *args, timeout=100
    )


def check(site: Site, told: dict[str, Any]) -> None:
    """Assert that bulk went where it should, and who warned."""
    assert told["unseen"] == site.expected_warnings()
    assert site.warned() == [site.expected_warnings()] * len(site.cluster.workers)
    assert bool(told["puts"]) == site.case.reaches
    assert not told["fallbacks"]


class TestAllPaths:
    def test_plain(self, site: Site) -> None:
        check(site, run_client(site))

    @networked
    def test_ipv6_and_hosts_of_one_name(self, case: Case, tmp_path: Path) -> None:
        require_hosts("ipv6")
        hostnames = dict.fromkeys(("scheduler", "one", "two"), "localhost")
        for site in make_site(case, tmp_path, ipv6=True, hostnames=hostnames):
            assert site.cluster.address.startswith("tcp://[fd77::")
            check(site, run_client(site))

    @networked
    def test_tls_and_nannies(self, case: Case, tmp_path: Path) -> None:
        options = {"certificates": tmp_path, "workers": ()}
        for site in make_site(case, tmp_path, **options):
            for name in ("one", "two"):
                host = site.network.add(name, shared=(tmp_path,))
                worker = site.cluster.add_worker(host, "--nanny")
                assert worker.address.startswith("tls://")
            check(site, run_client(site))

    @networked
    def test_client_behind_a_router(self, case: Case, tmp_path: Path) -> None:
        require_hosts("nat")
        for site in make_site(case, tmp_path, client={"nat": True}):
            check(site, run_client(site))

    def test_client_that_reaches_only_the_scheduler(self, site: Site) -> None:
        site["client"].block(site["one"], site["two"])
        told = run_client(site, (False,))
        if site.case.peers:
            assert told["unseen"] == 1
            told["unseen"] = 0
        check(site, told)


@networked
@pytest.mark.parametrize(
    "site", [{"hostnames": {"one": "node-one", "two": "node-two"}}], indirect=True
)
def test_the_dashboard_is_told_what_hosts_fetched(site: Site) -> None:
    told = site.cluster.call(site["client"], move, site.connector)
    moved = {each.pop("host"): each for each in told}
    nbytes = moved["node-one"]["sent"]
    assert nbytes >= large().nbytes
    assert moved == {
        "node-one": {"sent": nbytes, "received": 0, "fetched": 0},
        "node-two": {"sent": 0, "received": nbytes, "fetched": 1},
    }


def test_results_are_those_of_plain_dask(site: Site) -> None:
    ours, plain = (
        site.cluster.call(site["client"], answers, connector)
        for connector in (site.connector, "")
    )
    assert len(ours) == len(plain) == 5
    for x, y in zip(ours, plain, strict=True):
        assert type(x) is type(y)
        np.testing.assert_allclose(x, y, rtol=1e-12)


@stored
class TestFailures:
    @pytest.mark.parametrize("how", ["power", "processes"])
    def test_a_workers_host_dies(self, site: Site, how: str) -> None:
        client = site.cluster.start(
            site["client"], outlive, site.connector, site.case.durable,
            pattern="(ready)",
        )  # fmt: skip
        if how == "power":
            site["one"].die()  # nobody is told
        else:
            site["one"].keeper.kill()
        go_on(client, "survived")

    def test_a_worker_leaves_hosts_of_one_name(
        self, case: Case, tmp_path: Path
    ) -> None:
        hostnames = dict.fromkeys(("scheduler", "one", "two"), "localhost")
        for site in make_site(case, tmp_path, hostnames=hostnames):
            client = site.cluster.start(
                site["client"], outlive, site.connector, case.durable,
                pattern="(ready)",
            )  # fmt: skip
            site.cluster.workers["one"].stop()
            go_on(client, "survived")

    # else Dask gives the worker up, while a client waits for its host
    @pytest.mark.parametrize(
        "site",
        [{"env": {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "60s"}}],
        indirect=True,
        ids=[""],
    )
    def test_a_link_is_cut_and_comes_back(self, site: Site) -> None:
        client = site.cluster.start(
            site["client"], work_through, site.connector, pattern="(ready)"
        )
        site["one"].cut()
        client.tell("go")
        client.expect("submitted")
        site["one"].mend()
        client.expect("done")
        assert client.popen.wait(TIMEOUT) == 0, client.output

    def test_what_is_stored_needs_no_worker_that_answers(self, site: Site) -> None:
        client = site.cluster.start(
            site["client"], scatter_to_the_cut_off, site.connector, pattern="(ready)"
        )
        site["one"].cut()
        go_on(client, "done")


def go_on(client: HostProcess, last: str) -> None:
    client.tell("go")
    client.expect(last, 2 * TIMEOUT)
    assert client.popen.wait(TIMEOUT) == 0, client.output


class TestContainers:
    def test_that_share_memory_are_one_host(self, tmp_path: Path) -> None:
        """Under ``auto``: addresses and names are apart, the store is not."""
        require_hosts()
        with Network() as network:
            first = network.add("first")
            for name in ("one", "two", "client"):
                network.add(name, beside=first)
            cluster = HostCluster(first)
            for name in ("one", "two"):
                cluster.add_worker(network[name])
            told = cluster.call(network["client"], all_paths, "auto")
            assert not told["unseen"]
            assert told["puts"]
            assert not any(UNSEEN in w.output for w in cluster.workers.values())
            cluster.stop()
            wait_until(lambda: not first.shm, "clean")

    def test_with_the_scheduler_elsewhere_are_one_host(self) -> None:
        """Under ``auto``: nobody serves, and the client puts all the same."""
        require_hosts()
        with Network() as network:
            first = network.add("first")
            for name in ("one", "two", "client"):
                network.add(name, beside=first)
            cluster = HostCluster(network.add("scheduler"))
            for name in ("one", "two"):
                cluster.add_worker(network[name])
            client = cluster.start(
                network["client"], read_beside, "auto", pattern="(ready)"
            )
            # there is one for each process that serves
            assert not first.run("find", "/dev/shm", "-path", "*/servers/*").split()
            client.tell("go")
            assert client.popen.wait(TIMEOUT) == 0, client.output
            assert not any(UNSEEN in w.output for w in cluster.workers.values())
            cluster.stop()
            wait_until(lambda: not first.shm, "clean")

    def test_bulk_crosses_the_link_as_often_as_it_must(self, site: Site) -> None:
        network, nbytes = site.network, 32 << 20
        site.cluster.workers.pop("two").stop()
        neighbour = network.add("neighbour", beside=network["one"])
        site.cluster.add_worker(neighbour)
        hosts = [network["one"], neighbour]
        before = sum(host.traffic.received for host in hosts)
        told = site.cluster.call(site["client"], read_twice, site.connector, nbytes)
        received = sum(host.traffic.received for host in hosts) - before
        assert bool(told["puts"]) == site.case.reaches
        if site.case.copies is not None:
            assert received < site.case.copies * nbytes
        else:
            # in-band: what is not counted here did not come
            assert received > nbytes
