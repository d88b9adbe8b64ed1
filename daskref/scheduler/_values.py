"""Keys that stand for stored values, such as scattered ones, on the scheduler.

They are tasks, but nothing is computed: a worker finishes one as soon as it hears of
it.

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
#: States of a key that no worker has or will have soon; "queued" of many similar tasks.
_UNPLACED = ("no-worker", "queued")


@dataclass(eq=False, repr=False)
class Values:
    """The keys of a scheduler that stand for values. For the scheduler's event loop."""

    _scheduler: Scheduler
    #: ``(client, message) -> None``.
    _tell: Callable[[str, dict[str, Any]], None]
    #: Each transition of each task is looked up here.
    keys: set[Any] = field(default_factory=set)
    #: Key that a worker is about to answer for -> waiting callers.
    _awaited: dict[Any, list[asyncio.Future[None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._turns = itertools.count()
        # an attribute of the instance hides the method of its class
        self._scheduler._add_to_processing = self._add_to_processing
        self._finish = self._scheduler.stream_handlers["task-finished"]
        self._scheduler.stream_handlers["task-finished"] = self._finished

    def close(self) -> None:
        """Restore the scheduler's own methods; a second call is silent.

        A method that another plugin has replaced since stays.
        """
        own, handlers = vars(self._scheduler), self._scheduler.stream_handlers
        if own.get("_add_to_processing") == self._add_to_processing:
            del own["_add_to_processing"]
        if handlers["task-finished"] == self._finished:
            handlers["task-finished"] = self._finish

    def add(self, ts: Any) -> None:
        """Record a submitted task; silent if it does not stand for a value."""
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
        """Replace the values of keys that are scattered again.

        A key that a worker is about to answer for stays, as does one that stands for no
        value. Running tasks continue with the values that they have. Returns changed
        key -> whether a task may still read the earlier value; and worker address ->
        nodes for :meth:`tell_workers`.
        """
        changed = {}
        places: dict[str, dict[Any, StoredNode]] = {}
        for key in self.known(nodes):
            ts = self._scheduler.tasks[key]
            spec, node = ts.run_spec, nodes[key]
            if ts.dependencies or ts.state == "processing":
                continue
            if type(spec) is type(node) and tokenize(spec) == tokenize(node):
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
        """Let workers replace the values that they have in memory."""
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
        """Return the keys that workers have in memory, or that stand for values."""
        states = ((key, self._state_of(key)) for key in keys)
        return [k for k, s in states if s == "memory" or (s and k in self.keys)]

    async def answered(self, keys: Iterable[Any]) -> None:
        """Wait until workers have answered for keys that they were given. Bounded.

        A worker answers at once; the scheduler takes keys away from a lost worker.
        """
        deadline = time.monotonic() + _ANSWER
        for key in keys:
            while key in self.keys and self._state_of(key) == "processing":
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                answer = asyncio.get_running_loop().create_future()
                self._awaited.setdefault(key, []).append(answer)
                await asyncio.wait([answer], timeout=left)

    def _state_of(self, key: Any) -> str:
        ts = self._scheduler.tasks.get(key)
        return "" if ts is None else str(ts.state)

    def in_memory(self, keys: Iterable[Any]) -> list[Any]:
        """Return the keys that workers have in memory."""
        return [key for key in keys if self._state_of(key) == "memory"]

    def transition(self, key: Any, finish: str) -> None:
        """Handle a transition of a key that stands for a value."""
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
        """Tell clients that no worker can take a key yet."""
        for client in ts.who_wants or ():
            self._tell(client.client_key, {"op": "daskref-no-worker", "key": ts.key})

    def _finished(self, key: Any, worker: str, **rest: Any) -> None:
        """Handle a worker's answer, unless it is for an earlier run of a key.

        Dask repeats a task whose worker answers for an earlier run. Workers answer at
        once for keys that stand for values, so that each of two runs would be answered
        after the next one has begun, without end. For these keys the latest run counts.
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
        """Spread values over workers in turn, as Dask's scatter does.

        Of many similar tasks, Dask would let some wait for a free thread.
        """
        running = self._scheduler.running
        if running and not ts.worker_restrictions:
            addresses = sorted(ws.address for ws in running)
            ts.worker_restrictions = {addresses[next(self._turns) % len(addresses)]}
            ts.loose_restrictions = True

    @staticmethod
    def _measure(ts: Any) -> None:
        """Give the scheduler the size and type of a value instead of its proxy's."""
        if isinstance(ts.run_spec, ReferenceNode):
            metadata = ts.run_spec.reference.metadata
            ts.set_nbytes(metadata.nbytes)
            ts.type = metadata.type_name

    def _add_to_processing(self, ts: Any, ws: Any, **kwargs: Any) -> Any:
        """Accept a task whose input exceeds its worker's memory limit.

        The worker maps stored input, and Dask does not charge it for that.
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
