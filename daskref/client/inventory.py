"""What a cluster has stored: how much, and which objects."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Coroutine
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from daskref.client._checks import check_enabled
from daskref.client.tables import Table
from daskref.cluster.session import ClusterStore
from daskref.cluster.stats import STORED, Stats, footprints, reads, summarize
from daskref.connectors.space import Footprint

if TYPE_CHECKING:
    from daskref.client.client import AsyncClient

#: Objects in one answer of the scheduler: it does other things between two.
PAGE = 5000
#: Objects that the scheduler lists by default.
_MOST = 10_000


class ObjectRecord(NamedTuple):
    """One stored object."""

    #: Name of the object in the store.
    key: str
    #: The full name of arguments and scattered values, Dask's name of results; empty
    #: for objects that only a client holds.
    type: str
    #: Of arguments and scattered values that have one.
    shape: tuple[int, ...] | None
    #: Size in bytes.
    nbytes: int
    #: Bytes that it takes up in the memory of all these hosts, and on their disks, in
    #: whole pages. Keys that share one stored object share these, too: all together
    #: are what :func:`daskref.stats` tells. ``None`` if a host does not answer, or
    #: the store cannot tell.
    memory: int | None
    disk: int | None
    #: Names of the hosts that have a copy.
    hosts: tuple[str, ...]
    #: Prefixes of the Dask keys that hold it.
    prefixes: tuple[str, ...]
    #: Dask keys that hold it: tasks that need it, and the one whose result it is.
    keys: tuple[str, ...]
    #: Clients that hold it.
    clients: tuple[str, ...]
    #: Processes on other hosts that fetch it, or wait to do so.
    readers: int
    #: Processes that have it mapped now; ``None`` if that cannot be told, as of what is
    #: on disk.
    mapped: int | None
    #: How often it was read, at least: by workers, the scheduler and this client, as
    #: far as they answer. Each remembers the last 4,096 objects that it has read.
    #: ``None`` for all but the largest of very many, if there are many workers.
    hits: int | None
    #: Seconds since the scheduler heard of it.
    age: float


@overload
def list_objects(
    client: AsyncClient, *, most: int = _MOST
) -> Coroutine[Any, Any, Table[ObjectRecord]]: ...
@overload
def list_objects(client: Any, *, most: int = _MOST) -> Table[ObjectRecord]: ...
def list_objects(client: Any, *, most: int = _MOST) -> Any:
    """List the objects that the cluster has stored, and their holders.

    Parameters
    ----------
    client
        A client of :class:`~daskref.Client` or :func:`~daskref.enable`.
    most
        How many objects to list, the largest first.

    Returns
    -------
    Table of ObjectRecord
        It prints as a table, also in notebooks; ``where`` and ``by`` filter and order
        it, ``to_pandas`` makes a DataFrame. For an asynchronous client, a coroutine.
        Objects that live by a lease alone are missing: the scheduler does not know
        them. The call waits up to three seconds, for each 5,000 objects, for workers to
        measure them and to count reads; see
        :class:`~daskref.client.inventory.ObjectRecord`.

    Raises
    ------
    TypeError
        If the client passes nothing by reference.
    """
    check_enabled(client, "list_objects")

    async def _objects() -> Table[ObjectRecord]:
        if client._daskref is None:  # there is no store yet
            return Table(ObjectRecord._fields)
        return await ask_objects(client.scheduler, most, client._daskref.session)

    return client.sync(_objects)


async def ask_objects(
    scheduler: Any,
    most: int = _MOST,
    session: ClusterStore | None = None,
    holders: int | None = None,
) -> Table[ObjectRecord]:
    """Return the table of :func:`list_objects`, by an ``rpc`` to the scheduler.

    Parameters
    ----------
    session
        This process's, if any: then its reads and its host's objects are included.
    holders
        How many holders of each object to list, at most; default: all.
    """
    objects: list[dict[str, Any]] = []
    while (wanted := min(PAGE, most - len(objects))) > 0:
        told = await scheduler.daskref_objects(
            most=wanted, holders=holders, after=_position(objects)
        )
        page = told["objects"]
        if session is not None:
            await session.run(_add_own, session, page, told["processes"])
        objects += page
        if len(page) < wanted:
            break
    # How many keys share one file, and how many of these have been told of.
    keys = Counter(file for each in objects for file in _files(each["places"]))
    before: Counter[tuple[str, str]] = Counter()
    records = []
    for each in objects:
        taken = [0, 0]
        for file, footprint in _files(each["places"]).items():
            for n, nbytes in enumerate((footprint.memory, footprint.disk)):
                share, rest = divmod(nbytes, keys[file])
                taken[n] += share + (before[file] < rest)
            before[file] += 1
        places = each.pop("places").values()
        known = None not in places
        mapped = [Footprint(*place).mapped for place in places if place is not None]
        counts = [number for number in mapped if number is not None]
        del each["object"]
        # lists are tuples, or not, after a message of Dask's
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in each.items()
        }
        records.append(
            ObjectRecord(
                **values,
                memory=taken[0] if known else None,
                disk=taken[1] if known else None,
                mapped=sum(counts) if counts else None,
            )
        )
    return Table(ObjectRecord._fields, records)


def _position(objects: list[dict[str, Any]]) -> tuple[int, int] | None:
    """Return where a listing goes on: the last size, and how often it was there."""
    if not objects:
        return None
    nbytes = objects[-1]["nbytes"]
    same = takewhile(lambda each: each["nbytes"] == nbytes, reversed(objects))
    return nbytes, sum(1 for _ in same)


def _files(places: dict[str, Any]) -> dict[tuple[str, str], Footprint]:
    """Return what an object takes up on hosts that have told, by host and file."""
    told = ((host, Footprint(*each)) for host, each in places.items() if each)
    return {(host, each.file): each for host, each in told if each.file}


def _add_own(
    session: ClusterStore, objects: list[dict[str, Any]], processes: list[str]
) -> None:
    """Add what this process knows itself. Blocks."""
    own = reads(session, None)
    if own["process"] not in processes:
        for each in objects:
            if each["hits"] is not None:
                each["hits"] += own["reads"].get(each["key"], 0)
    if (connector := session.across_hosts) is not None:
        here = connector.host
        untold = [each for each in objects if each["places"].get(here, 0) is None]
        for each, told in zip(
            untold,
            footprints(session, [each["object"] for each in untold]),
            strict=True,
        ):
            each["places"][here] = told


@overload
def stats(client: AsyncClient) -> Coroutine[Any, Any, Stats]: ...
@overload
def stats(client: Any) -> Stats: ...
def stats(client: Any) -> Any:
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
        ``"memory"`` and ``"disk"``: of objects, in the hosts' memory and in their spill
        directories; ``"pool"``: memory of deleted objects, kept for new ones;
        ``"pinned"``: memory of deleted objects that a process still maps, so that it
        cannot be freed; ``"budget"``: memory that puts may fill. ``"hosts"``: host name
        -> all of these. ``"inband"``: reason -> how many values above the threshold
        went in-band; see :data:`daskref.store.metrics.INBAND`. For an asynchronous
        client, a coroutine.

    Raises
    ------
    TypeError
        If the client passes nothing by reference.

    Notes
    -----
    ``memory``, ``pool`` and ``pinned`` add up to the session's part of a host's tmpfs,
    but for a few small files, and ``disk`` to its spill directory: one process of each
    host counts them on request. They are 0 where the store is not in the hosts' memory
    (``file://``, ``redis://``, …). Hosts with other clients only are not asked.
    """
    check_enabled(client, "stats")

    async def _stats() -> Stats:
        if client._daskref is None:  # there is no store yet
            nothing = dict.fromkeys(STORED, 0)
            here = {**nothing, "place": "", "host": socket.gethostname()}
            return summarize(0, [here], [])
        return await ask_stats(client.scheduler, client._daskref.session)

    return client.sync(_stats)


async def ask_stats(
    scheduler: Any, session: ClusterStore | None = None, share: float | None = None
) -> Stats:
    """Return the result of :func:`stats`, by an ``rpc`` to the scheduler.

    Parameters
    ----------
    session
        This process's, if any: then its counts are included.
    share
        For repeated calls: part of a core that a host may spend on reading its file
        systems. Until then, the last sizes are returned. Default: each call reads them.
    """
    told = await scheduler.daskref_stats(share=share)
    processes, stores = told["processes"], told["stores"]
    if session is not None:
        processes = [*processes, session.report()]
        connector, places = session.across_hosts, {each["place"] for each in stores}
        if connector is not None and connector.host not in places:
            stores = [*stores, await session.run(session.stored)]
    return summarize(told["puts"], stores, processes)
