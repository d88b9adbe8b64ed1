"""What a cluster has stored: how much, and which objects."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

from daskref.client._checks import check_enabled
from daskref.client.tables import Table
from daskref.cluster.session import ClusterStore
from daskref.cluster.stats import STORED, Stats, summarize

#: Objects that the scheduler lists by default.
_MOST = 10_000


class ObjectRecord(NamedTuple):
    """One stored object."""

    #: Name of the object in the store.
    key: str
    #: As far as the scheduler knows it: of arguments and scattered values the full
    #: name, of results as Dask has it; empty for what only a client holds.
    type: str
    #: Of arguments and scattered values that have one.
    shape: tuple[int, ...] | None
    #: Size in bytes.
    nbytes: int
    #: Names of the hosts that have a copy.
    hosts: tuple[str, ...]
    #: Prefixes of the Dask keys that hold it.
    prefixes: tuple[str, ...]
    #: Dask keys that hold it: tasks that need it, and the one whose result it is.
    keys: tuple[str, ...]
    #: Clients that hold it.
    clients: tuple[str, ...]
    #: Processes that fetch it now, or wait to do so, on other hosts.
    readers: int
    #: Seconds since the scheduler heard of it.
    age: float


def list_objects(client: Any, *, most: int = _MOST) -> Any:
    """List the objects that the cluster has stored, with what holds each.

    Parameters
    ----------
    client
        A client of :class:`~daskref.Client` or :func:`~daskref.enable`.
    most
        How many to list, the largest first: the answer of a scheduler with very many
        stays small.

    Returns
    -------
    Table of ObjectRecord
        It prints as a table, also in notebooks; ``where`` and ``by`` filter and order
        it, ``to_pandas`` makes a DataFrame. For an asynchronous client, a coroutine.
        What lives by a lease alone is not listed: the scheduler does not know of it.

    Raises
    ------
    TypeError
        If the client passes nothing by reference.
    """
    check_enabled(client, "list_objects")

    async def _objects() -> Table[ObjectRecord]:
        if client._daskref is None:  # there is no store yet
            return Table(ObjectRecord._fields)
        return await ask_objects(client.scheduler, most)

    return client.sync(_objects)


async def ask_objects(scheduler: Any, most: int = _MOST) -> Table[ObjectRecord]:
    """Return what :func:`list_objects` does, for who has no session.

    Parameters
    ----------
    scheduler
        Dask's connection to one on which daskref is on.
    most
        See there.
    """
    records = []
    for each in await scheduler.daskref_objects(most=most):
        # lists are tuples, or not, after a message of Dask's
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in each.items()
        }
        records.append(ObjectRecord(**values))
    return Table(ObjectRecord._fields, records)


def stats(client: Any) -> Stats:
    """Return what the whole cluster has put, got, and holds.

    Parameters
    ----------
    client
        A client of :class:`~daskref.Client` or :func:`~daskref.enable`.

    Returns
    -------
    dict
        ``"objects"`` and ``"bytes"``: alive in the store now, copies on several hosts
        included; ``"puts"``, ``"gets"``, ``"evictions"``, ``"fallbacks"``: how often,
        since the start; ``"bytes_kept"``: off the scheduler. In bytes of whole pages:
        ``"memory"`` and ``"disk"``: what objects take up in the hosts' memory and in
        their spill directories; ``"pool"``: memory of deleted objects that waits to be
        written again; ``"pinned"``: memory of deleted objects of which a process still
        has a view, or a mapping with their pages, so that it cannot be given back;
        ``"budget"``: memory that puts may fill. ``"hosts"``: all of these by host name,
        each host for itself. ``"inband"``: how many values above the threshold went
        in-band, by reason; see :data:`daskref.store.metrics.INBAND`. For an
        asynchronous client, a coroutine.

    Raises
    ------
    TypeError
        If the client passes nothing by reference.

    Notes
    -----
    ``memory``, ``pool`` and ``pinned`` add up to what the session takes of a host's
    tmpfs, but for a few small files, and ``disk`` to what its spill directory has: they
    are counted there, on request, by one process of each host. They are 0 where the
    store is not in the hosts' memory (``file://``, ``redis://``, …). Hosts on which
    there are only other clients are not asked.
    """
    check_enabled(client, "stats")

    async def _stats() -> Stats:
        if client._daskref is None:  # there is no store yet
            nothing = dict.fromkeys(STORED, 0)
            here = {**nothing, "place": "", "host": socket.gethostname()}
            return summarize(0, [here], [])
        return await ask_stats(client.scheduler, client._daskref.session)

    answer: Stats = client.sync(_stats)
    return answer


async def ask_stats(scheduler: Any, session: ClusterStore | None = None) -> Stats:
    """Return what :func:`stats` does.

    Parameters
    ----------
    scheduler
        Dask's connection to one on which daskref is on.
    session
        Of this process, if it has one: then what it counts is in it.
    """
    told = await scheduler.daskref_stats()
    processes, stores = told["processes"], told["stores"]
    if session is not None:
        processes = [*processes, session.report()]
        connector, places = session.across_hosts, {each["place"] for each in stores}
        if connector is not None and connector.host not in places:
            stores = [*stores, await session.run(session.stored)]
    return summarize(told["puts"], stores, processes)
