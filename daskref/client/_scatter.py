"""``scatter``: values taken apart as Dask does it, put, and submitted as tasks.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================================  ============================================
name                                        what for
==========================================  ============================================
``Client._replicate``                       scattered values on many workers
``Client._timeout``                         how long a scatter waits for workers
``Scheduler.get_ncores_running``            whether there are workers
==========================================  ============================================
"""

from __future__ import annotations

import asyncio
import pickle
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from dask.typing import no_default
from dask.utils import parse_timedelta
from distributed import Future
from distributed.spans import SpanMetadata

from daskref.client._holdings import Holdings, Submission
from daskref.exceptions import NotProxiableError
from daskref.graph.expressions import GraphExpr
from daskref.graph.nodes import EncodedNode, ReferenceNode, StoredNode
from daskref.objects.codec import Encoded, encode
from daskref.objects.reference import Reference
from daskref.proxy.proxy import is_proxy

#: Values of a list that is scattered, each below the threshold but together above it,
#: go by reference from this size on, in bytes, so that no scheduler collects them.
SHARE_OF_MANY = 16 * 1024

#: States of a future whose key the scheduler knows, or is just told of.
_UNDER_WAY = ("pending", "finished")

_COLLECTIONS = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class Scattered:
    """Scattered values by key, in the user's form."""

    #: As the user gave it.
    data: Any
    #: A key for each value, in order; equal values share one.
    keys: list[Any]
    #: Key -> value.
    values: dict[Any, Any]
    #: Key -> serialized form, of values that serialize.
    encoded: dict[Any, Encoded]

    def rebuild(self, futures: dict[Any, Any]) -> Any:
        """Return futures, given by key, in the form of the data."""
        found = [futures[key] for key in self.keys]
        cls = type(self.data)
        if cls is dict:
            return dict(zip(self.keys, found, strict=True))
        if _is_namedtuple(self.data):
            return cls(*found)
        return cls(found) if cls in _COLLECTIONS else found[0]


def take_apart(data: Any, hash: bool) -> Scattered:
    """Give each scattered value a key. Blocks: it serializes and hashes.

    *hash*: whether equal values get equal keys.
    """
    if isinstance(data, range | Iterator):
        data = list(data)
    if type(data) is dict:
        return Scattered(data, list(data), data, _encoded(data))
    collection = type(data) in _COLLECTIONS or _is_namedtuple(data)
    values = list(data) if collection else [data]
    encoded = _encoded(dict(enumerate(values)))
    keys = [
        f"{type(value).__name__}-"
        + (encoded[i].token if hash and i in encoded else uuid.uuid4().hex)
        for i, value in enumerate(values)
    ]
    return Scattered(
        data,
        keys,
        dict(zip(keys, values, strict=True)),
        {keys[i]: each for i, each in encoded.items()},
    )


def _encoded(values: dict[Any, Any]) -> dict[Any, Encoded]:
    found = {}
    for key, value in values.items():
        with suppress(NotProxiableError):
            found[key] = encode(value)
    return found


def _is_namedtuple(data: Any) -> bool:
    return isinstance(data, tuple) and hasattr(data, "_fields")


def put_scattered(
    scattered: Scattered, threshold: int, holdings: Holdings, submission: Submission
) -> dict[Any, Reference | None]:
    """Put the large values. Blocks.

    Returns key -> reference, of these only; ``None`` where the store failed.
    """
    sizes = {key: encoded.nbytes for key, encoded in scattered.encoded.items()}
    small = sum(size for size in sizes.values() if size <= threshold)
    limit = threshold if small <= threshold else min(threshold, SHARE_OF_MANY)
    return {
        key: holdings.put(scattered.values[key], encoded, submission)
        for key, encoded in scattered.encoded.items()
        if sizes[key] > limit and not is_proxy(scattered.values[key])
    }


def divide(
    scattered: Scattered, references: dict[Any, Reference | None], as_they_are: bool
) -> tuple[Scattered, dict[Any, StoredNode], dict[Any, Any]]:
    """Split values into those submitted as tasks and those for one worker. Blocks.

    Returns the values with their final keys; key -> node; key -> value, of values that
    the store did not take, or that do not serialize.

    Parameters
    ----------
    references
        Of the large values, from :func:`put_scattered`.
    as_they_are
        Whether Dask scatters small values.
    """
    nodes: dict[Any, StoredNode] = {}
    others = {}
    for key, value in scattered.values.items():
        if (reference := references.get(key)) is not None:
            nodes[key] = ReferenceNode(key, reference)
        elif key in references or key not in scattered.encoded or as_they_are:
            others[key] = value
        else:
            nodes[key] = EncodedNode(key, b"".join(scattered.encoded[key].frames))
    if not others or type(scattered.data) is dict:  # where the keys are the user's
        return scattered, nodes, others
    # One key is never both: Dask may not be given the value of a key that is a task.
    renamed = {key: f"{key}-placed" for key in others}
    keys = [renamed.get(key, key) for key in scattered.keys]
    values = {renamed.get(key, key): v for key, v in scattered.values.items()}
    return (
        replace(scattered, keys=keys, values=values),
        nodes,
        {renamed[key]: value for key, value in others.items()},
    )


async def submit_nodes(
    client: Any,
    send: Callable[..., dict[Any, Any]],
    nodes: dict[Any, StoredNode],
    named: bool,
    workers: Any,
    broadcast: Any,
    local_worker: Any,
    timeout: Any,
    **ignored: Any,
) -> dict[Any, Any]:
    """Submit scattered values as tasks, and wait until workers have them.

    Dask's own placement is independent of its other messages, and breaks for a key that
    is being released or computed. As tasks, values come and go in order. Workers with
    daskref finish such a task as soon as they hear of it.

    Parameters
    ----------
    send
        Dask's ``_graph_to_futures``.
    nodes
        Key -> node.
    named
        Whether the keys are the user's.
    workers, broadcast, local_worker, timeout
        Of ``Client.scatter``.
    """
    state = client._daskref
    if local_worker:
        workers = [local_worker.address]
    elif workers:
        asked = [workers] if isinstance(workers, str | int | float) else workers
        workers = await client.scheduler.daskref_workers(workers=list(asked))
    # A key that this client has already would be done before the scheduler hears of
    # it again. Released then, it would be released before, and never afterwards.
    futures: dict[Any, Any] = {
        key: Future(key, client)
        for key in nodes
        if key in client.futures and client.futures[key].status in _UNDER_WAY
    }
    known = set(futures)
    if named and (there := await client.scheduler.daskref_has(keys=list(nodes))):
        changed = pickle.dumps({key: nodes[key] for key in there})
        known &= set(await client.scheduler.daskref_values(nodes=changed))
        for key in futures:
            state.holdings.release_key(key)
    new = {key: node for key, node in nodes.items() if key not in known}
    annotations: dict[str, Any] = {}
    if workers:
        annotations["workers"] = {key: list(workers) for key in new}
        annotations["allow_other_workers"] = dict.fromkeys(new, True)
    for key in new:
        # The known state is that of a task that the scheduler has forgotten.
        if (before := client.futures.get(key)) and before.status == "finished":
            before.retry()
    if new:
        futures |= send(
            GraphExpr(new, annotations, _determ_token=uuid.uuid4().hex),
            list(new),
            SpanMetadata(collections=[{"type": "Future"}]),
            internal_priority=dict.fromkeys(new, 0),
        )
    # Dask waits for the first worker; daskref does if the user gives a timeout
    patient = timeout is not no_default and timeout is not client._timeout
    placed = await state.placing.wait(
        {key: client.futures[key] for key in futures},
        parse_timedelta(client._timeout if timeout is no_default else timeout),
        patient,
    )
    if patient and not placed and not await client.scheduler.ncores_running():
        for future in futures.values():
            future.release()
        raise TimeoutError("No valid workers found")
    if placed and broadcast:
        n = None if broadcast is True else broadcast
        await client._replicate(list(futures.values()), workers=workers, n=n)
    elif placed and workers and known:
        there = [futures[key] for key in known]
        await client._replicate(there, workers=workers)
    return futures


@dataclass(eq=False, repr=False)
class Placing:
    """The scatters of one client that are under way. For the event loop."""

    #: Held while values get a user's keys: each is placed before the next one.
    naming: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Waits that end where there is no worker: task -> states.
    _waiting: dict[asyncio.Task[None], Mapping[Any, Any]] = field(default_factory=dict)

    async def wait(
        self, states: Mapping[Any, Any], timeout: float | None, patient: bool
    ) -> bool:
        """Wait until workers have values, or until no worker can be expected to.

        Returns whether workers have them all; the rest follows by itself.

        Parameters
        ----------
        states
            Key -> Dask's state of its futures.
        timeout
            Seconds. A worker that the scheduler still trusts may not answer; another
            one gets the values later.
        patient
            Whether to wait for a first worker.
        """
        task = asyncio.create_task(self._wait(states))
        if not patient:
            self._waiting[task] = states
        try:
            await asyncio.wait([task], timeout=timeout)
        finally:
            self._waiting.pop(task, None)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return all(state.status == "finished" for state in states.values())

    @staticmethod
    async def _wait(states: Mapping[Any, Any]) -> None:
        for state in states.values():
            await state.wait()

    def give_up(self, key: Any) -> None:
        """End waits for a key that no worker can take yet."""
        for task, states in self._waiting.items():
            if key in states:
                task.cancel()
