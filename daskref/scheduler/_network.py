"""What the scheduler does for a session whose hosts are apart.

It knows which hosts have which object, says whom to fetch it from, and has it deleted
wherever it is. :mod:`daskref.scheduler._losses` sees to what a host takes with it.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=============================================  =====================================
name                                           what for
=============================================  =====================================
``Scheduler.worker_send``                      messages to one worker, in order
=============================================  =====================================
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from daskref.cluster.locating import Locator, ask, evict
from daskref.connectors.base import Key
from daskref.connectors.zmq.connector import ZmqConnector
from daskref.scheduler._holders import Holders
from daskref.scheduler._locations import Locations
from daskref.scheduler._losses import Losses

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: What tells the scheduler's own process apart.
SCHEDULER = "scheduler"
#: Seconds after which who waits for its turn asks again.
POLL = 1.0
#: Seconds for workers to begin to serve, before a client goes on without them.
_START = 5.0


class Network:
    """The hosts of a session.

    Parameters
    ----------
    scheduler
        Dask's.
    connector
        The scheduler's own.
    holders
        Who holds what.
    tell
        ``(client, message) -> None``.
    evict_here
        ``(keys) -> None``: delete from the scheduler's host, soon.
    fan_out
        Readers that one copy serves at a time.
    lazily
        Whether workers serve only once processes are on more than one host.

    Notes
    -----
    Not thread-safe: it belongs to the scheduler's event loop.
    """

    locations: Locations
    losses: Losses
    _strays: set[Key]
    _starting: set[str]

    def __init__(
        self,
        scheduler: Scheduler,
        connector: ZmqConnector,
        holders: Holders,
        tell: Callable[[str, dict[str, Any]], None],
        evict_here: Callable[[list[Key]], None],
        fan_out: int,
        lazily: bool,
    ) -> None:
        self._scheduler = scheduler
        self._connector = connector
        self._holders = holders
        self._tell = tell
        self._evict_here = evict_here
        self._lazily = lazily
        #: Workers that were asked to serve and have not said that they do.
        self._starting = set()
        self.locations = Locations(fan_out)
        self.losses = Losses(scheduler, self.locations, holders, tell, self.evict)
        self._strays = set()
        self.locations.join(SCHEDULER, connector.host, "the scheduler's", None)

    @property
    def stream_handlers(self) -> dict[str, Callable[..., None]]:
        """Return what workers and clients tell."""
        return {
            "daskref-host": self.on_host,
            "daskref-fetched": self.on_fetched,
            "daskref-supplied": self.losses.on_supplied,
        }

    @property
    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return what workers and clients ask."""
        return {
            "daskref_source": self.source,
            "daskref_copies": self.copies,
            "daskref_visit": self.visit,
        }

    def locator(self, loop: Any) -> Locator:
        """Return what the scheduler's own connector goes by.

        Parameters
        ----------
        loop
            The scheduler's, Tornado's.
        """

        def ask_here(op: str, message: dict[str, Any]) -> Any:
            async def answer(**message: Any) -> Any:
                found = self.handlers[op](**message)
                return await found if inspect.isawaitable(found) else found

            return ask(loop, answer, message)

        def tell(message: dict[str, Any]) -> None:
            rest = {name: each for name, each in message.items() if name != "op"}
            loop.add_callback(self.stream_handlers[message["op"]], **rest)

        return Locator(repr(self._connector), SCHEDULER, ask_here, tell)

    # Hosts

    def on_host(
        self,
        worker: str,
        host: str,
        hostname: str,
        endpoint: str | None,
        names: list[str],
    ) -> None:
        """Take note of a worker's host.

        Parameters
        ----------
        worker
            Its address.
        host, hostname
            Identity of its host, and what people call that.
        endpoint
            Where it serves; ``None``: it does not, unless it is asked to.
        names
            Of what its host has already: it was cut off, or its worker was restarted.
        """
        if worker not in self._scheduler.workers:
            return  # it has left meanwhile
        first = endpoint is not None and not self.locations.endpoints(host)
        asked = worker in self._starting
        self._starting.discard(worker)
        self._join(worker, host, hostname, endpoint)
        there = set(names)
        for key in [key for key in self._holders if key[0] in there] if there else ():
            self.losses.found(key)
            self.locations.add(key, host)
        self._tell_clients(host)
        if endpoint is None and not asked:
            self._begin_serving()
        if first:
            self.losses.seek_all()

    def _join(
        self, process: str, host: str, hostname: str, endpoint: str | None
    ) -> None:
        if self.locations.host_of(process) not in (None, host):
            self.leave(process)  # it has made its session directory anew
        if not self.locations.processes(host):
            self._log_event("add-host", host=hostname)
        self.locations.join(process, host, hostname, endpoint)

    def _begin_serving(self) -> None:
        """Have workers serve, if there is more than one host to serve."""
        hosts = self.locations.hosts()
        used = [h for h in hosts if self.locations.processes(h) != [SCHEDULER]]
        if not self._lazily or len(used) < 2:
            return
        for process in [p for host in hosts for p in self.locations.processes(host)]:
            if process in self._scheduler.workers and not self.locations.serves(
                process
            ):
                self._starting.add(process)
                self._scheduler.worker_send(process, {"op": "daskref-serve"})

    async def visit(self, process: str, host: str, hostname: str) -> dict[str, Any]:
        """Let a client in.

        Parameters
        ----------
        process, host, hostname
            As :meth:`on_host` has them.

        Returns
        -------
        dict
            ``hosts``: where each one serves that does; ``home``: the scheduler's;
            ``beside``: whether there are workers on the client's.
        """
        if process in self._scheduler.clients:
            self._join(process, host, hostname, None)
            self._begin_serving()
        deadline = time.monotonic() + _START
        while self._starting and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        serving = {
            each: endpoints
            for each in self.locations.hosts()
            if (endpoints := self.locations.endpoints(each))
        }
        return {
            "hosts": serving,
            "home": self._connector.host,
            "beside": self._has_workers(host),
        }

    def leave(self, process: str) -> None:
        """See to what a worker or client leaves behind, and what its host takes."""
        self._starting.discard(process)
        host = self.locations.host_of(process)
        hostname, lost = self.locations.leave(process)
        if host is not None and process not in self._scheduler.clients:
            self._tell_clients(host)
        self.losses.left(process)
        self.losses.lose(hostname, lost)
        if hostname:  # that was its last process
            self._log_event("remove-host", host=hostname, lost=len(lost))

    def _log_event(self, action: str, **details: Any) -> None:
        self._scheduler.log_event("daskref", {"action": action, **details})

    def _has_workers(self, host: str) -> bool:
        return any(p in self._scheduler.workers for p in self.locations.processes(host))

    def _tell_clients(self, host: str) -> None:
        message = {
            "op": "daskref-hosts",
            "host": host,
            "endpoints": self.locations.endpoints(host),
            "workers": self._has_workers(host),
        }
        for client in self._scheduler.clients:
            if self.locations.host_of(client) is not None:
                self._tell(client, message)

    # Copies

    def add(self, key: Key) -> None:
        """Take note of an object where it was put."""
        host = key[2]
        self.locations.add(key, host)
        if not self.locations.processes(host):  # that was its last message
            self.locations.discard_copies(host, [key])
            if key not in self.locations:
                self.losses.lose(host[:8], [key])

    def evict(self, keys: Iterable[Key]) -> None:
        """Have objects deleted wherever they are."""
        gone = list(keys)
        for key in gone:
            if key not in self.locations:  # nobody has told of it
                self.locations.add(key, key[2])
        for host, found in self.locations.discard(gone).items():
            if host == self._connector.host:
                self._evict_here(found)
            else:
                self._send(host, {"op": "daskref-evict", "objects": found})

    def evict_now(self, keys: Iterable[Key]) -> None:
        """Delete objects from the scheduler's host. Blocks."""
        evict(self._connector, keys)

    def reconcile(self, grace: float) -> None:
        """Have other hosts delete what nobody knows there and is older, in seconds."""
        for host in self.locations.hosts():
            if host == self._connector.host:
                continue
            known = [key[0] for key in self.locations.keys(host)]
            message = {"op": "daskref-sweep", "known": known, "grace": grace}
            self._send(host, message)
        # These live by leases, if at all, where they were put.
        unheld = {key for key in self.locations if key not in self._holders}
        for key in unheld & self._strays:
            for host in self.locations.copies(key):
                self.locations.discard_copies(host, [key])
        self._strays = unheld
        self.losses.tidy()

    def workers_elsewhere(self) -> list[list[str]]:
        """Return the workers of each host but the scheduler's."""
        return [
            [p for p in self.locations.processes(host) if p in self._scheduler.workers]
            for host in self.locations.hosts()
            if host != self._connector.host
        ]

    def _send(self, host: str, message: dict[str, Any]) -> None:
        for process in self.locations.processes(host):
            if process in self._scheduler.workers:
                self._scheduler.worker_send(process, message)
            elif process in self._scheduler.clients:
                self._tell(process, message)
            else:
                continue
            return

    # Transfers

    async def source(
        self, process: str, object: Key, failed: list[str], last: bool = False
    ) -> dict[str, Any]:
        """Say whom a process is to fetch an object from.

        Parameters
        ----------
        process
            Who asks.
        object
            What it wants.
        failed
            Endpoints that did not answer it.
        last
            It gives up: only ask what became of the object.

        Returns
        -------
        dict
            ``status``: ``found``, with ``host`` and ``endpoints``; ``queued``: ask
            again; ``none``: none but those that failed; ``lost``, with ``reason`` and
            ``recomputed``; ``left``: who asks has no part in this any more.
        """
        key = tuple(object)
        if self.locations.host_of(process) is None:
            return {"status": "left"}
        if key not in self.locations and key not in self.losses:
            # Its writer's word is still under way, or it lives by a lease.
            self.locations.add(key, key[2])
        out = set(failed)
        avoid = [
            host
            for host in self.locations.copies(key)
            if out.issuperset(self.locations.endpoints(host))
        ]
        if last:
            return self.losses.what_became(key)
        if not self.locations.is_served(key, avoid):
            sought = self.losses.seek(key)
            if not sought and not self._will_be_served(key):
                if key in self.losses:
                    return self.losses.what_became(key)
                await self.locations.source(key, process, avoid, POLL)
                return {"status": "none"}
        source = await self.locations.source(key, process, avoid, POLL)
        if source is None:
            return {"status": "queued"}
        endpoints = self.locations.endpoints(source)
        return {"status": "found", "host": source, "endpoints": endpoints}

    def _will_be_served(self, key: Key) -> bool:
        hosts = self.locations.copies(key)
        return any(
            p in self._starting for h in hosts for p in self.locations.processes(h)
        )

    def copies(self, process: str, object: Key) -> list[tuple[str, list[str]]]:
        """Return the hosts that have an object, where it was put first.

        Returns
        -------
        list
            ``(host, endpoints)`` of each.
        """
        key = tuple(object)
        hosts = dict.fromkeys([key[2], *self.locations.copies(key)])
        return [(host, self.locations.endpoints(host)) for host in hosts]

    def on_fetched(
        self,
        object: Key,
        copied: bool,
        worker: str | None = None,
        client: str | None = None,
    ) -> None:
        """Take note that a process's fetch has ended.

        Parameters
        ----------
        object
            What it fetched.
        copied
            Whether its host has a copy now.
        worker, client
            Who it was; by default the scheduler.
        """
        key, process = tuple(object), worker or client or SCHEDULER
        if copied:
            self.losses.found(key)
        self.locations.finished(key, process, copied)
