"""Results of one worker: put once, when another process asks for them.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=================================================  =================================
name                                               what for
=================================================  =================================
``Worker.state.nbytes``                            what is not the worker's own
``Worker.batched_send``                            messages to the scheduler
``Scheduler.stream_handlers``                      what it is told of replicas
=================================================  =================================
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask.sizeof import sizeof

from daskref.cluster.session import ClusterStore
from daskref.cluster.views import ViewFactory, references_of
from daskref.exceptions import ConnectorError, WireError
from daskref.graph.literals import is_small
from daskref.objects.codec import Encoded
from daskref.objects.reference import Reference
from daskref.proxy.proxy import Proxy, get_factory, is_proxy
from daskref.store.factory import (
    FailedFactory,
    StoreFactory,
    Unreadable,
    is_transparent,
    reveal,
)
from daskref.store.mapped import Mapped
from daskref.worker._data import peek

if TYPE_CHECKING:
    from distributed.worker import Worker


@dataclass(slots=True)
class _Lent:
    """A result in stored memory, and the proxy that takes its place."""

    result: Any
    proxy: Any
    taken: bool = False


@dataclass(eq=False, repr=False)
class Results:
    """The results of one worker, as references and as values.

    Not thread-safe, except for :meth:`keep` and :meth:`exchange`.
    """

    _worker: Worker
    #: Set before any task runs.
    session: ClusterStore = field(init=False)
    #: Task -> its result in stored memory, until the proxy has taken its place.
    lent: dict[Any, _Lent] = field(default_factory=dict)
    _converting: dict[Any, asyncio.Task[Any]] = field(default_factory=dict)

    @property
    def _threshold(self) -> int:
        return self.session.info.settings.threshold

    # The worker's data

    def arrived(self, key: Any) -> None:
        """Handle a proxy that arrived in the place of another worker's value."""
        value = peek(self._worker.data, key)
        if not is_transparent(value):
            return
        self._count_own(key, value)
        raises = self.session.info.settings.on_failure == "raise"
        if raises and type(get_factory(value)) is FailedFactory:
            # after Dask's own message that this worker has it
            self._worker.loop.add_callback(self._disown, key)

    def _disown(self, key: Any) -> None:
        """Tell the scheduler that a value which did not arrive is no replica.

        Dask might delete the real one otherwise.
        """
        self._worker.batched_send(
            {
                "op": "release-worker-data",
                "key": key,
                "stimulus_id": f"daskref-failed-{time.time()}",
            }
        )

    def done(self, key: Any) -> None:
        """Put a task's result at once, if it is large."""
        value = peek(self._worker.data, key)
        if value is None:  # on disk already
            large = (self._worker.state.tasks[key].nbytes or 0) > self._threshold
        else:
            large = self.is_large(key, value)
        if large:
            self._worker.loop.add_callback(self._complete, key)

    async def _complete(self, key: Any) -> None:
        value = self._worker.data.get(key)
        if value is not None:
            await self.refer(key, value)

    def keep(self, key: Any, result: Any, mapped: list[Mapped]) -> None:
        """Handle a task's result before the task has ended."""
        proxy = self.session.lend(result, mapped)
        if proxy is None:
            self.session.keep(result, self._worker.loop.add_callback)
        else:
            self.lent[key] = _Lent(result, proxy)

    def exchange(self, key: Any, obj: Any) -> Any:
        """Return what the worker's data keeps in the place of an object.

        Dask has asked the object itself for its type and size by then.
        """
        if (lent := self.lent.get(key)) is None or lent.result is not obj:
            return obj
        lent.taken = True
        return lent.proxy

    def settle(self, key: Any, state: str) -> None:
        """Let the scheduler own the objects of a result whose proxy took its place."""
        lent = self.lent.pop(key)
        references = references_of(lent.proxy)
        if state != "memory" or not lent.taken:
            self.session.give_up(references)
            return
        self._count_own(key, lent.proxy)
        for reference in references:  # after Dask's own message that it is done
            self._worker.loop.add_callback(self._send_result, key, reference, False)

    # Values out

    def is_proxy(self, key: Any, value: Any) -> bool:
        """Tell whether a result is a proxy."""
        return is_proxy(value)

    async def plain(self, key: Any, value: Any) -> Any:
        """Return a result as a value, or one that raises if it is unreadable."""
        try:
            return await self.session.run(reveal, value)
        except WireError as exc:
            return Unreadable(exc)

    def is_large(self, key: Any, value: Any) -> bool:
        """Tell whether a result may go by reference."""
        if is_proxy(value):
            return True
        return self.session.reachable and not is_small(value, self._threshold)

    async def refer(self, key: Any, value: Any, pickles: bool = False) -> Any:
        """Return a proxy in the place of a large result, put once.

        *pickles*: whether a small result may be returned as its pickle.
        """
        if not self.session.reachable:
            return await self.plain(key, value)
        if is_transparent(value) and not self._goes_apart(get_factory(value)):
            self._count_kept(value)
            return value
        if is_transparent(value):
            value = await self.session.run(reveal, value)
        if is_proxy(value):  # the user's own
            return value
        converting = self._converting.get(key)
        if converting is None:
            converting = asyncio.create_task(self._put(key, value))
            self._converting[key] = converting
            converting.add_done_callback(lambda _: self._converting.pop(key))
        # several may ask at once, and each may go away
        converted = await asyncio.shield(converting)
        if type(converted) is Encoded:
            return (pickles and converted.serialized()) or value
        return converted

    def _goes_apart(self, factory: Any) -> bool:
        """Tell whether to put a result instead of sending references to its parts."""
        if not isinstance(factory, ViewFactory):
            return False
        if factory.private_nbytes > self._threshold:
            return True
        stored = sum(reference.nbytes for reference in factory.references)
        part = factory.recipe.stored_nbytes
        return self.session.across_hosts is not None and part < stored / 2

    async def _put(self, key: Any, value: Any) -> Any:
        session = self.session
        try:
            reference, put = await session.run(session.refer, value, self._threshold)
        except ConnectorError as exc:
            # Raised where the value is wanted: Dask would ask a failing handler again
            # and again.
            return Proxy(FailedFactory(exc))
        if reference is None:
            return value
        if isinstance(reference, Encoded):
            return reference
        self._send_result(key, reference, put)
        proxy = Proxy(StoreFactory(reference, transparent=True))
        self._count_kept(proxy)
        if key in self._worker.data:
            self._worker.data[key] = proxy
            self._count_own(key, proxy)
        return proxy

    def _count_own(self, key: Any, proxy: Any) -> None:
        """Count the worker's own bytes of a stored value in its memory.

        The scheduler was told the value's size.
        """
        ts, nbytes = self._worker.state.tasks[key], sizeof(proxy)
        self._worker.state.nbytes += nbytes - ts.nbytes
        ts.nbytes = nbytes

    def _send_result(self, key: Any, reference: Reference, put: bool) -> None:
        self._worker.batched_send(
            {
                "op": "daskref-result",
                "task": key,
                "object": (reference.key, reference.nbytes),
                "put": put,
            }
        )

    def _count_kept(self, proxy: Any) -> None:
        factory = get_factory(proxy)
        if isinstance(factory, StoreFactory):
            self.session.counters.add("bytes_kept", factory.reference.nbytes)
