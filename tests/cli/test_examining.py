"""``doctor``: this machine, and clusters."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

import daskref
from daskref.cli import main
from daskref.cli._cluster import Target
from daskref.cli.examining import _of_hosts
from tests.cli.test_looking import address
from tests.support.common import processes, wait_until


def examined(capsys: Any, *argv: str) -> dict[str, list[dict[str, str]]]:
    """Return what ``doctor`` found, by check; its status is that of the findings."""
    status = main(["doctor", *argv, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == any(each["status"] == "failed" for each in found)
    by_check: dict[str, list[dict[str, str]]] = {}
    for each in found:
        assert bool(each["mend"]) == (each["status"] == "failed")
        by_check.setdefault(each["check"], []).append(each)
    return by_check


def statuses(found: dict[str, list[dict[str, str]]], *checks: str) -> set[str]:
    return {each["status"] for check in checks for each in found[check]}


def test_of_this_machine(capsys: Any) -> None:
    found = examined(capsys)
    assert set(found) >= {"daskref", "limits", "memory", "shared memory", "budget"}
    assert statuses(found, "daskref", "store", "round trip", "disk", "port") == {"ok"}
    assert "tcp://" in found["port"][0]["told"]


def test_that_tells_how_to_mend_what_fails(capsys: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = {
            "daskref.spill-directory": "/no/such",
            "daskref.shm.root": str(tmp_path),
            "daskref.zmq.interface": "127.0.0.1",
            "daskref.zmq.port": port,
        }
        with dask.config.set(options):
            found = examined(capsys)
            assert main(["doctor"]) == 1
    (disk,), (port_taken,) = found["disk"], found["port"]
    assert disk["status"] == port_taken["status"] == "failed"
    assert "No such file or directory" in disk["told"]
    assert disk["mend"].startswith("Set daskref.spill-directory to")
    assert str(port) in port_taken["told"]
    assert "daskref.zmq.port" in port_taken["mend"]
    out = capsys.readouterr().out
    assert "→ Set daskref.spill-directory to" in out
    assert "checks failed" in out
    assert not list(tmp_path.iterdir())


def test_of_a_store_that_cannot_be_opened(capsys: Any) -> None:
    with dask.config.set({"daskref.connector": "file:///proc/no"}):
        (store,) = examined(capsys)["store"]
    assert store["status"] == "failed"
    assert "cannot be made" in store["told"]
    assert "daskref.connector" in store["mend"]


def test_of_several_stores_in_one(capsys: Any, tmp_path: Path) -> None:
    children = {name: [f"file://{tmp_path}/{name}", None] for name in ("a", "b")}
    spec = {"class": "daskref.connectors:MultiConnector", "connectors": children}
    with dask.config.set({"daskref.connector": spec}):
        (trips,) = examined(capsys)["round trip"]
    assert trips["told"].startswith("a: a value of 1 MiB came back; b: ")


# Clusters


def objects(cluster: Any) -> list[str]:
    """Return the names of the objects in the memory of a cluster's only host."""
    return cluster.scheduler.plugins["daskref"].session.store.connector.here()  # type: ignore


def test_of_a_cluster(capsys: Any, cluster: Any, client: Any, puts: Any) -> None:
    before = objects(cluster)
    clients = set(cluster.scheduler.clients)
    found = examined(capsys, address(client))
    fine = ("daskref", "versions", "clocks", "permissions", "store", "round trip")
    fine += ("client",)
    assert statuses(found, *fine) == {"ok"}
    assert found["daskref"][0]["where"] == "3 processes"
    assert found["versions"][0]["where"] == "4 processes"
    assert "all workers are on one host" in found["hosts"][0]["told"]
    assert objects(cluster) == before
    wait_until(lambda: set(cluster.scheduler.clients) == clients, "its client has left")
    assert not puts()


def test_of_pairs_of_hosts(cluster: Any, client: Any) -> None:
    """As if each worker were a host: what one puts, another one takes."""
    before = objects(cluster)
    target = Target(address(client), {}, 30.0)
    (fine,) = target.run(lambda each: _of_hosts(each, each.workers))
    assert fine.status == "ok"
    assert fine.where == "2 pairs"
    missing = "tcp://127.0.0.1:1"
    target = target._replace(timeout=2.0)
    gone = target.run(lambda each: _of_hosts(each, [each.workers[0], missing]))
    assert [each.status for each in gone] == ["failed", "failed"]
    assert {each.where.partition(" ")[0] for each in gone} > {missing}
    assert objects(cluster) == before


@pytest.fixture(scope="module")
def plain() -> Iterator[Any]:
    """A scheduler and two workers, each started by its command."""
    with processes(workers=2) as started:
        yield started


@pytest.mark.slow
def test_of_a_cluster_without_daskref(capsys: Any, plain: Any) -> None:
    scheduler, _ = plain
    for _ in range(2):  # the first one has not switched it on
        with dask.config.set({"distributed.client.preload": ["daskref"]}):
            found = examined(capsys, scheduler.address)
        assert statuses(found, "daskref", "store", "round trip") == {"ok"}
        (hosts,) = found["hosts"]
        assert hosts["status"] == "skipped"
        assert "daskref is off" in hosts["told"]


@pytest.mark.slow
def test_of_a_worker_that_hangs(capsys: Any, plain: Any) -> None:
    scheduler, workers = plain
    with daskref.Client(scheduler.address, set_as_default=False):
        os.kill(workers[0].pid, signal.SIGSTOP)
        try:
            found = examined(capsys, scheduler.address, "--timeout", "2 s")
        finally:
            os.kill(workers[0].pid, signal.SIGCONT)
    (hangs,) = [each for each in found["daskref"] if each["status"] == "failed"]
    assert "did not answer within 2 s" in hangs["told"]
    assert statuses(found, "round trip") == {"ok"}
