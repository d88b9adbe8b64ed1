"""What ``daskref.stats`` tells of hosts, against what their file systems say."""

from __future__ import annotations

import glob
import os
import re
import socket
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest
from distributed import LocalCluster

import daskref
from daskref.cluster.stats import STORED
from daskref.testing.clusters import HostCluster
from daskref.testing.hosts import Network
from tests.support.common import wait_until
from tests.support.namespaces import require_hosts, require_namespaces, run_case

pytestmark = pytest.mark.slow

MIB = 2**20
KEPT: list[Any] = []
#: Files of objects, and of deleted ones.
OF_OBJECTS = re.compile("/[0-9a-f]{8}-[0-9a-f]{24}$|/free/")


def make(nbytes: int) -> Any:
    return np.ones(nbytes // 8)


def total(x: Any) -> float:
    return float(x.sum())


def keep(x: Any) -> None:
    """Have a view of what is deleted later."""
    KEPT.append(x)


def let_go() -> None:
    KEPT.clear()


def used() -> int:
    """Return how much of this host's tmpfs is taken, by files without a name too."""
    there = os.statvfs("/dev/shm")
    return (there.f_blocks - there.f_bfree) * there.f_frsize


def look(spill: str) -> tuple[str, int, int, int]:
    """Return this host's name, what it has used, how much of it in small files, disk.

    Parameters
    ----------
    spill
        Directory for the hosts' spill directories; each one finds its own there.
    """
    files = glob.glob("/dev/shm/daskref-*/**", recursive=True)
    files = [path for path in files if os.path.isfile(path)]
    others = [path for path in files if not OF_OBJECTS.search(path)]
    small = sum(os.lstat(path).st_blocks * 512 for path in others)
    disk = 0
    for path in glob.glob("/dev/shm/daskref-*/spill"):
        for entry in os.scandir(Path(path).read_text()):
            if entry.name != "identity":
                disk += entry.stat().st_blocks * 512
    return socket.gethostname(), used(), small, disk


class Watcher:
    """Compares what a client is told with what the hosts' file systems say.

    Parameters
    ----------
    address
        Of the scheduler; no client with daskref has come yet.
    """

    def __init__(self, address: str) -> None:
        with distributed.Client(address) as client:
            client.wait_for_workers(2, timeout=60)
            self.before = client.run(used)
        self.states: list[dict[str, Any]] = []

    def look(self, client: Any, spill: str, what: str, reached: Any) -> None:
        """Wait until a state is reached, and what it is adds up; remember it."""

        def adds_up() -> bool:
            stats = daskref.stats(client)
            looks = client.run(look, spill)
            hosts = stats["hosts"]
            self.states.append(stats)
            return bool(reached(hosts)) and all(
                hosts[host]["memory"] + hosts[host]["pool"] + hosts[host]["pinned"]
                == now - small - self.before[worker]
                and hosts[host]["disk"] == disk
                for worker, (host, now, small, disk) in looks.items()
            )

        wait_until(adds_up, f"{what}: {self.states[-1:]}")
        stats = self.states[-1]
        for name in STORED:
            assert stats[name] == sum(each[name] for each in stats["hosts"].values())


def scenario(address: str, spill: str) -> list[Any]:
    """Have bytes of each kind, made by one worker and read by another."""
    watcher = Watcher(address)
    settings = {
        "daskref.shm.budget": "12 MiB",
        "daskref.shm.recycle": "4 MiB",
        "daskref.shm.recycle-idle": 3600,
        "daskref.spill-directory": spill,
    }
    with (
        dask.config.set(settings),
        daskref.Client(address, timeout=60) as client,
    ):
        workers = client.scheduler_info()["workers"]
        one, two = sorted(workers, key=lambda each: str(workers[each]["name"]))

        def of(name: str) -> Any:
            return lambda hosts: sum(each[name] for each in hosts.values())

        watcher.look(client, spill, "nothing", lambda hosts: not of("memory")(hosts))
        first = client.submit(make, 3 * MIB, workers=[one])
        assert client.submit(total, first, workers=[two]).result(60)
        watcher.look(client, spill, "memory", of("memory"))
        kept = client.submit(make, 2 * MIB, workers=[one])
        client.submit(keep, kept, workers=[two]).result(60)
        del kept
        before = watcher.states[-1]["objects"]
        watcher.look(
            client,
            spill,
            "pinned",
            # on one host only: a server lets what it has sent go a little later
            lambda hosts: (
                of("objects")(hosts) == before and 0 < of("pinned")(hosts) < 3 * MIB
            ),
        )
        more = [client.submit(make, n * MIB, workers=[one]) for n in (4, 5, 6)]
        for each in more:
            assert client.submit(total, each, workers=[two]).result(60)
        watcher.look(client, spill, "disk", of("disk"))
        client.run(let_go)
        watcher.look(client, spill, "let go", lambda hosts: not of("pinned")(hosts))
        del first, each, more
        watcher.look(client, spill, "freed", lambda hosts: not of("bytes")(hosts))
        return watcher.states


def on_one_host(spill: str) -> list[Any]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        return scenario(cluster.scheduler_address, spill)


def test_one_host_adds_up(tmp_path: Path) -> None:
    require_namespaces()
    states = run_case(
        "tests.integration.test_stats", "on_one_host", str(tmp_path), size="64m"
    )
    for state in states:
        (host,) = state["hosts"].values()
        assert host["budget"] == 12 * MIB
    assert max(state["pool"] for state in states) >= 2 * MIB
    assert max(state["pinned"] for state in states) >= 2 * MIB


@pytest.mark.hosts
def test_each_host_tells_its_own(tmp_path: Path) -> None:
    require_hosts()
    with Network() as network:
        names = ("scheduler", "one", "two", "client")
        hosts = {name: network.add(name, shared=(tmp_path,)) for name in names}
        cluster = HostCluster(hosts["scheduler"])
        for name in ("one", "two"):
            cluster.add_worker(hosts[name])
        states = cluster.call(hosts["client"], scenario, str(tmp_path), timeout=100)
        hostnames = {name: host.hostname for name, host in hosts.items()}
        cluster.stop()
    for state in states:
        assert state["hosts"].keys() == set(hostnames.values())
        told = {name: state["hosts"][hostname] for name, hostname in hostnames.items()}
        assert told["scheduler"]["bytes"] == told["scheduler"]["memory"] == 0
        assert {each["budget"] for each in told.values()} == {12 * MIB}
    one, two = (hostnames[name] for name in ("one", "two"))
    pairs = [(state["hosts"][one], state["hosts"][two]) for state in states]
    # what one made and two has read is on both
    assert any(a["bytes"] == b["bytes"] >= 18 * MIB for a, b in pairs)
    # what two has a view of can be written again on one
    assert any(a["pool"] >= 2 * MIB and b["pinned"] >= 2 * MIB for a, b in pairs)
