"""The workers of a cluster: whether they can take part, and their set-up.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=============================================  =====================================
name                                           what for
=============================================  =====================================
``Scheduler.worker_plugins``                   the plugin for workers that come later
``Scheduler._ongoing_background_tasks``        tasks that end with the scheduler
=============================================  =====================================
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.protocol.serialize import Serialized, deserialize

from daskref.cluster import by_value
from daskref.cluster.by_value import nanny_plugin_bytes, worker_plugin_bytes
from daskref.cluster.joining import identify, lacking
from daskref.cluster.opening import SessionInfo
from daskref.exceptions import DaskrefError, IncompatibleError, NotInstalledError
from daskref.scheduler.asking.requests import tell_workers

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Name of all daskref plugins.
NAME = "daskref"


@dataclass(eq=False, repr=False)
class Workers:
    """The workers of a scheduler."""

    _scheduler: Scheduler
    #: ``(action, **details)``: into Dask's log.
    _log_event: Callable[..., None]
    #: Worker that cannot reach the store -> reason.
    _unreachable: dict[str, str] = field(default_factory=dict)
    #: Client -> the signing keys of its own stores.
    _keys: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)

    async def check(self) -> list[str]:
        """Raise unless all workers can take part; return those that have answered.

        The others, and later workers, check themselves.
        """
        ours = identify()
        lacks: list[str] = []
        others: dict[str, dict[str, Any]] = {}
        ask = {"op": "run", "function": pickle.dumps(by_value.identify)}
        responses = await tell_workers(self._scheduler, ask)
        for address, response in sorted(responses.items()):
            # It is just leaving, or busy, or the administrator has blocked functions of
            # others: the plugin says it there, as it does to workers that come later.
            if not isinstance(response, dict) or response["status"] != "OK":
                continue
            told = _value(response["result"])
            if isinstance(told, str):
                lacks.append(lacking(f"worker {address}", told))
            elif told["protocol"] != ours["protocol"]:
                others[f"worker {address}"] = told
        if lacks:
            raise NotInstalledError(lacks)
        if others:
            where = f"the scheduler {self._scheduler.address}"
            raise IncompatibleError(where, ours, others)
        return list(responses)

    async def set_up(self, info: SessionInfo, waited: list[str]) -> None:
        """Let all workers join a session, later ones as well; wait for some of them.

        Raises DaskrefError if one of them cannot be set up.
        """
        scheduler = self._scheduler
        # Dask's debug log shows what is broadcast, but no answers.
        plugin = worker_plugin_bytes(identify(), pickle.dumps(info.public()))
        scheduler.worker_plugins[NAME] = plugin
        add = {"op": "plugin-add", "plugin": plugin, "name": NAME}
        late = scheduler.workers.keys() - waited
        await tell_workers(scheduler, add, late, patience=0)
        responses = await tell_workers(scheduler, add, waited)
        for address, response in responses.items():
            if isinstance(response, dict) and response["status"] != "OK":
                reason = response["exception_text"]
                raise DaskrefError(f"worker {address} could not be set up: {reason}")
        # Nannies that are just starting would delay this set-up.
        start = partial(self._start_nannies, {"root": info.settings.shm_root})
        scheduler._ongoing_background_tasks.call_soon(start)

    async def withdraw(self) -> None:
        """Undo :meth:`set_up`."""
        self._scheduler.nanny_plugins.pop(NAME, None)
        if self._scheduler.worker_plugins.pop(NAME, None) is not None:
            await tell_workers(self._scheduler, {"op": "plugin-remove", "name": NAME})

    async def _start_nannies(self, session: dict[str, Any]) -> None:
        plugin = nanny_plugin_bytes(session)
        try:
            await self._scheduler.register_nanny_plugin(
                None, plugin=plugin, name=NAME, idempotent=True
            )
        except Exception:
            text = "A nanny counts shared pages as its worker's memory"
            logger.warning(text, exc_info=True)

    def on_unreachable(self, worker: str, reason: str) -> None:
        """Record a worker that cannot reach the store."""
        self._unreachable[worker] = reason
        logger.warning("Worker %s is out of reach of the store: %s", worker, reason)

    def on_reachable(self, worker: str) -> None:
        """Record a worker that can reach the store now."""
        self._unreachable.pop(worker, None)
        self._log_event("reachable", worker=worker)

    def reachable(self) -> list[str]:
        """Return the workers that can reach the store."""
        return [
            address
            for address in self._scheduler.workers
            if address not in self._unreachable
        ]

    def addresses(self, workers: list[Any]) -> list[str]:
        """Return workers' addresses, as Dask's scatter does.

        Raises KeyError for an unknown worker.
        """
        addresses = [self._scheduler.coerce_address(each) for each in workers]
        return [self._scheduler.workers[each].address for each in addresses]

    def on_keys(self, client: str, keys: dict[str, dict[str, str]]) -> None:
        """Record the signing keys of a client's own stores, for workers."""
        if client in self._scheduler.clients:  # else it has left meanwhile
            self._keys.setdefault(client, {}).update(keys)

    def forget_keys(self, client: str) -> None:
        """Forget a client's signing keys."""
        self._keys.pop(client, None)

    def keys(self) -> dict[str, dict[str, str]]:
        """Return the signing keys of all clients' own stores."""
        found: dict[str, dict[str, str]] = {}
        for keys in self._keys.values():
            found |= keys
        return found

    def forget(self, worker: str) -> None:
        """Forget a worker."""
        self._unreachable.pop(worker, None)


def _value(result: Any) -> Any:
    """Return the result of a function that ran on a worker."""
    if type(result) is Serialized:
        return deserialize(result.header, result.frames)
    return result.data  # of a worker in this process
