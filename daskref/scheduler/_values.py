"""Keys that only stand for values, as the scheduler sees them: scattered data.

They are tasks like others, but nothing is computed for them: a worker has one done as
soon as it hears of it.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==================================  ================================================
name                                what for
==================================  ================================================
``Scheduler._add_to_processing``    its check that a task's input fits into a worker
``Scheduler.stream_handlers``       what workers have done
``TaskState.run_id``                which run of a task its state is of
==================================  ================================================
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask.tokenize import tokenize

from daskref.graph.nodes import VALUES, ReferenceNode, StoredNode

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Seconds within which a worker should have a value that it was told of.
_ANSWER = 30.0
#: States of what no worker has or will have soon; of many tasks that look alike, the
#: latter.
_UNPLACED = ("no-worker", "queued")


@dataclass(eq=False, repr=False)
class Values:
    """The keys of a scheduler that stand for values.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop.
    """

    _scheduler: Scheduler
    #: ``(client, message) -> None``.
    _tell: Callable[[str, dict[str, Any]], None]
    #: The keys. Every transition of every task looks here.
    keys: set[Any] = field(default_factory=set)
    #: Those of which a worker is about to answer -> who waits for that.
    _awaited: dict[Any, list[asyncio.Future[None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._turns = itertools.count()
        # an attribute of the instance hides the method of its class
        self._scheduler._add_to_processing = self._add_to_processing
        self._finish = self._scheduler.stream_handlers["task-finished"]
        self._scheduler.stream_handlers["task-finished"] = self._finished

    def close(self) -> None:
        """Give the scheduler its own methods back, unless another has taken them since.

        A second call is silent.
        """
        own, handlers = vars(self._scheduler), self._scheduler.stream_handlers
        if own.get("_add_to_processing") == self._add_to_processing:
            del own["_add_to_processing"]
        if handlers["task-finished"] == self._finished:
            handlers["task-finished"] = self._finish

    def add(self, ts: Any) -> None:
        """Take note of a task that was submitted; silent if it is none of ours."""
        if isinstance(ts.run_spec, VALUES):
            self.keys.add(ts.key)
            if ts.state == "memory":  # known already, as another client's plain data
                self._measure(ts)
            elif ts.state == "released":
                self._place(ts)
            elif ts.state in _UNPLACED:
                self._tell_unplaced(ts)

    def replace(
        self, nodes: Mapping[Any, StoredNode]
    ) -> tuple[dict[Any, bool], dict[str, dict[Any, StoredNode]]]:
        """Let keys stand for other values: they are scattered again.

        Those that workers have, or that wait for a worker; of others a worker is about
        to answer, or they are none of ours. Tasks that run go on with what they have
        been given.

        Parameters
        ----------
        nodes
            Key -> what it shall stand for.

        Returns
        -------
        tuple
            Key whose value has changed -> whether a task may still read what it was;
            address of a worker -> what it has to be told, by :meth:`tell_workers`.
        """
        changed = {}
        places: dict[str, dict[Any, StoredNode]] = {}
        for key in self.known(nodes):
            ts = self._scheduler.tasks[key]
            if ts.dependencies or _same(ts.run_spec, node := nodes[key]):
                continue
            if ts.state == "processing":
                continue
            changed[key] = any(each.state == "processing" for each in ts.waiters or ())
            ts.run_spec = node
            if ts.priority is None:  # it was placed by Dask, and was no task
                ts.priority = (0, self._scheduler.generation, 0)
            self.keys.add(key)
            self._measure(ts)
            for ws in ts.who_has or ():
                places.setdefault(ws.address, {})[key] = node
        return changed, places

    async def tell_workers(
        self, places: Mapping[str, Mapping[Any, StoredNode]]
    ) -> None:
        """Have workers replace what they have of some keys."""
        told = (
            self._scheduler.broadcast(
                msg={"op": "daskref_values", "nodes": pickle.dumps(nodes)},
                workers=[address],
                on_error="ignore",  # it is leaving: another one will have it
            )
            for address, nodes in places.items()
        )
        await asyncio.gather(*told)

    def known(self, keys: Iterable[Any]) -> list[Any]:
        """Return those of some keys that workers have, or that are ours."""
        tasks = self._scheduler.tasks
        return [
            key
            for key in keys
            if key in tasks and (tasks[key].state == "memory" or key in self.keys)
        ]

    async def answered(self, keys: Iterable[Any]) -> None:
        """Wait until workers have answered that were told to have some of our keys.

        A worker does at once; if it is lost, the key is no longer its. Bounded.
        """
        deadline = time.monotonic() + _ANSWER
        for key in keys:
            while key in self.keys and self._is_processing(key):
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                answer = asyncio.get_running_loop().create_future()
                self._awaited.setdefault(key, []).append(answer)
                await asyncio.wait([answer], timeout=left)

    def _is_processing(self, key: Any) -> bool:
        ts = self._scheduler.tasks.get(key)
        return ts is not None and ts.state == "processing"

    def in_memory(self, keys: Iterable[Any]) -> list[Any]:
        """Return those of some keys that workers have."""
        tasks = self._scheduler.tasks
        return [key for key in keys if key in tasks and tasks[key].state == "memory"]

    def transition(self, key: Any, finish: str) -> None:
        """Take note of what becomes of one of our keys."""
        for answer in self._awaited.pop(key, ()):
            if not answer.done():
                answer.set_result(None)
        if finish == "memory":
            self._measure(self._scheduler.tasks[key])
        elif finish in _UNPLACED:
            ts = self._scheduler.tasks[key]
            if ts.loose_restrictions:
                # Dask would wait for the worker that had it; another one will do.
                ts.worker_restrictions = set()
            self._tell_unplaced(ts)
        elif finish == "forgotten":
            self.keys.discard(key)

    def _tell_unplaced(self, ts: Any) -> None:
        """Tell clients that there is no worker for a key yet."""
        for client in ts.who_wants or ():
            self._tell(client.client_key, {"op": "daskref-no-worker", "key": ts.key})

    def clear(self) -> None:
        """Take note that there are no keys any more."""
        self.keys.clear()

    def _finished(self, key: Any, worker: str, **rest: Any) -> None:
        """Take note of what a worker has done, if it is still asked for.

        Dask has a task done again if its worker answers for an earlier run. Where a
        worker answers at once, each of two runs would be answered after the next one
        has begun, without end. Of our keys, each run is answered: the last one counts.
        """
        if key in self.keys:
            ts = self._scheduler.tasks.get(key)
            if (
                ts is not None
                and ts.processing_on is not None
                and ts.processing_on.address == worker
                and ts.run_id != rest["run_id"]
            ):
                return
        self._finish(key=key, worker=worker, **rest)

    def _place(self, ts: Any) -> None:
        """Let workers have values in turn, as Dask's scatter does.

        Of many tasks that look alike, Dask would let some wait for a free thread.
        """
        running = self._scheduler.running
        if running and not ts.worker_restrictions:
            addresses = sorted(ws.address for ws in running)
            ts.worker_restrictions = {addresses[next(self._turns) % len(addresses)]}
            ts.loose_restrictions = True

    @staticmethod
    def _measure(ts: Any) -> None:
        """Let the scheduler know a value's size and type, not those of its proxy."""
        if isinstance(ts.run_spec, ReferenceNode):
            metadata = ts.run_spec.reference.metadata
            ts.set_nbytes(metadata.nbytes)
            ts.type = metadata.type_name

    def _add_to_processing(self, ts: Any, ws: Any, **kwargs: Any) -> Any:
        """Let a task have input that is larger than its worker's memory limit.

        Where that is what is stored, the worker maps it, and it is not charged for it.
        """
        add = type(self._scheduler)._add_to_processing
        if not self.keys or not ts.dependencies or not ws.memory_limit:
            return add(self._scheduler, ts, ws, **kwargs)
        own = all_of_it = 0
        for dependency in ts.dependencies:
            all_of_it += dependency.nbytes
            if type(dependency.run_spec) is not ReferenceNode:
                own += dependency.nbytes
        limit = ws.memory_limit
        if own > limit or all_of_it <= limit:
            return add(self._scheduler, ts, ws, **kwargs)
        ws.memory_limit = 0
        try:
            return add(self._scheduler, ts, ws, **kwargs)
        finally:
            ws.memory_limit = limit


def _same(spec: Any, node: Any) -> bool:
    return type(spec) is type(node) and tokenize(spec) == tokenize(node)
