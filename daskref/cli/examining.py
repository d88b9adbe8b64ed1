"""The command that examines: ``doctor``."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import click
from distributed.versions import get_versions

from daskref._version import __version__
from daskref.cli import _findings as findings
from daskref.cli._cluster import Cluster, Target, cluster_options
from daskref.cli._findings import Finding
from daskref.cli._printing import (
    FAILED,
    CommandError,
    json_option,
    progress,
    say,
    say_json,
)
from daskref.client.enabling import enable
from daskref.cluster import health
from daskref.cluster.health import describe_process, describe_store
from daskref.cluster.opening import open_session_connector
from daskref.config import Settings, setting_name
from daskref.connectors import ZmqConnector
from daskref.connectors.base import Key
from daskref.exceptions import DaskrefError

#: Round trips between hosts: all pairs, up to so many. Then each host is paired with
#: as many others as that allows.
_PAIRS = 256


@click.command
@cluster_options(required=False)
@json_option
def doctor(target: Target | None, as_json: bool) -> int:
    """Examine this machine, or a cluster: what fails, and how to mend it.

    Without ADDRESS: limits, memory, directories, the port, and whether a value that is
    put into the configured store comes back. With ADDRESS, of a scheduler, the same of
    all its processes, their versions, clocks and users, and whether what one host puts
    comes to each other host. daskref is not switched on for it, and what is put is
    taken away again.
    """
    if target is None:
        with progress("trying the store"):
            found = findings.merged(_here())
    else:
        found = findings.merged(target.run(_cluster))
    wrong = [each for each in found if each.status == "failed"]
    if as_json:
        say_json([each._asdict() for each in found])
        return FAILED if wrong else 0
    width = max(len(each.check) for each in found)
    for each in found:
        say(f"{each.status:8} {each.check:{width}}  {each.where}: {each.told}")
        if each.mend:
            say(f"{'':8} {'':{width}}  → {each.mend}")
    say(f"{len(wrong)} of {len(found)} checks failed" if wrong else "all is well")
    return FAILED if wrong else 0


def _here() -> Iterator[Finding]:
    yield findings.result("daskref", "here", __version__)
    settings, told = Settings.read(), describe_process()
    try:
        with open_session_connector(settings) as connector:
            told |= describe_store(connector)
            if isinstance(connector, ZmqConnector):
                yield _of_port(connector, settings)
    except DaskrefError as exc:
        told["error"] = str(exc)
    yield from findings.of_process("here", told)
    yield from findings.of_host("here", told)


def _of_port(connector: ZmqConnector, settings: Settings) -> Finding:
    try:
        place = connector.serve(
            settings.zmq_interface, settings.zmq_port, settings.zmq_advertise
        )
    except DaskrefError as exc:
        mend = (
            f"Set {setting_name('zmq_port')} to a free port, or a range of them, and "
            f"{setting_name('zmq_interface')} to an interface of this machine"
        )
        return findings.result("port", "here", str(exc), mend)
    return findings.result("port", "here", f"other hosts would reach {place}")


async def _cluster(cluster: Cluster) -> list[Finding]:
    before = time.time()
    nodes = await _ask_all(cluster)
    after = time.time()
    found = list(findings.of_versions(nodes, await _packages(cluster)))
    told = {where: each for where, each in nodes.items() if isinstance(each, dict)}
    found += findings.of_clocks(told, before, after)
    found += findings.of_users(told)
    for where, each in told.items():
        found += findings.of_process(where, each)
    hosts_told = {(each["host"], each.get("place")): each for each in told.values()}
    for (host, _), each in hosts_told.items():
        found += findings.of_host(host, each)
    scheduler = nodes[cluster.address]
    if not isinstance(scheduler, dict) or not scheduler["on"]:
        text = "daskref is off: each process tried the store that it has configured"
        found.append(Finding("hosts", "skipped", cluster.address, text))
        return found
    hosts: dict[str, str] = {}
    for worker in cluster.workers:
        each = told.get(worker, {})
        if "trips" in each:
            hosts.setdefault(each["place"] or each["host"], worker)
    found += _of_endpoints([told[worker] for worker in hosts.values()])
    found += await _of_hosts(cluster, list(hosts.values()))
    found.append(await _of_client(cluster, next(iter(hosts.values()), None)))
    return found


async def _ask_all(cluster: Cluster) -> dict[str, dict[str, Any] | str]:
    """Return the answers of the scheduler and of all workers, by address."""
    scheduler = await cluster.check_scheduler("examine")
    text = f"examining {len(cluster.workers)} workers"
    answers = [cluster.check_worker(each, "examine") for each in cluster.workers]
    told = await cluster.gather(text, answers)
    return {
        cluster.address: scheduler,
        **dict(zip(cluster.workers, told, strict=True)),
    }


async def _packages(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return process -> package -> version, as Dask's clients collect them."""
    asked = cluster.scheduler.versions(packages=[])
    scheduler = await cluster.wait("asking for versions", asked)
    asked = [cluster.versions(each) for each in cluster.workers]
    workers = await cluster.gather("asking for versions", asked)
    found = {"here": get_versions(), cluster.address: scheduler}
    found |= zip(cluster.workers, workers, strict=True)
    return {where: told["packages"] for where, told in found.items() if told}


def _of_endpoints(hosts: list[dict[str, Any]]) -> Iterator[Finding]:
    """Yield hosts, of several, that do not serve the others."""
    across = [told for told in hosts if told["place"]]
    if len(across) < 2:
        return
    mend = (
        f"See the worker's log, and let {setting_name('zmq_port')} name a port that is "
        "free there"
    )
    for told in across:
        endpoints = ", ".join(told["endpoints"])
        text = endpoints or "no process serves other hosts"
        yield findings.result("port", told["host"], text, "" if endpoints else mend)


async def _of_hosts(cluster: Cluster, workers: list[str]) -> list[Finding]:
    """Put on each host, given as one of its workers, and take on others."""
    number = len(workers)
    if number < 2:
        text = "all workers are on one host" if workers else "there is no worker"
        return [Finding("hosts", "skipped", cluster.address, text)]
    turns = min(number - 1, max(1, _PAIRS // number))
    pairs = [
        (giver, workers[(place + turn) % number])
        for turn in range(1, turns + 1)
        for place, giver in enumerate(workers)
    ]
    text = f"trying {len(pairs)} pairs of hosts"
    answers = await cluster.gather(text, [_send(cluster, *pair) for pair in pairs])
    found = [
        findings.result(
            "hosts",
            f"{giver} to {taker}",
            wrong,
            "Let the hosts reach each other's ports: see the page Deploying",
        )
        for (giver, taker), wrong in zip(pairs, answers, strict=True)
        if wrong
    ]
    if not found:
        every = "every" if turns == number - 1 else f"{turns} others"
        text = f"what each of {number} hosts puts comes to {every} other"
        found.append(findings.result("hosts", f"{len(pairs)} pairs", text))
    return found


async def _send(cluster: Cluster, giver: str, taker: str) -> str:
    """Return what went wrong on the way from one host to another."""
    put = await cluster.check_worker(giver, "put")
    if isinstance(put, str) or "error" in put:
        return put if isinstance(put, str) else str(put["error"])
    return await _receive(
        cluster, taker, put["keys"], partial(cluster.check_worker, giver, "evict")
    )


async def _receive(
    cluster: Cluster,
    taker: str,
    keys: dict[str, Key],
    evict: Callable[[Key], Awaitable[Any]],
) -> str:
    """Take on a worker what was put elsewhere; delete there what it cannot take."""
    wrong = []
    for place, key in keys.items():
        took = await cluster.check_worker(taker, "take", key)
        if isinstance(took, str) or "error" in took:
            text = took if isinstance(took, str) else str(took["error"])
            wrong.append(f"{place}: {text}")
            await evict(key)
    return "; ".join(wrong)


async def _of_client(cluster: Cluster, worker: str | None) -> Finding:
    """Put as a client on this machine does, and take on a worker."""
    if worker is None:
        text = "there is no worker that could take"
        return Finding("client", "skipped", "here", text)
    mend = (
        "What clients on this machine send goes in Dask's messages. Let it reach the "
        f"workers' ports, or set {setting_name('connector')} to a store that all reach"
    )
    try:
        async with cluster.client() as client:
            await cluster.wait("joining as a client", enable(client))
            session = client._daskref and client._daskref.session
            if session is None or not session.reachable:
                reason = session and session.inband.unseen
                text = f"it cannot see the store: {reason or 'the log says why'}"
                return findings.result("client", "here", text, mend)
            put = await cluster.wait(
                "putting", session.run(health.put, session.store.connector)
            )
            wrong = await _receive(
                cluster,
                worker,
                put["keys"],
                partial(session.run, health.evict, session.store.connector),
            )
    except (CommandError, DaskrefError, OSError) as exc:
        wrong = str(exc)
    text = wrong or f"what it puts comes to {worker}"
    return findings.result("client", "here", text, mend if wrong else "")
