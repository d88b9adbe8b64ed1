"""A worker's part in a session with several hosts.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=================================================  =================================
name                                               what for
=================================================  =================================
``Worker.stream_handlers``                         what the scheduler says
``Worker.batched_send``                            messages to the scheduler
``Worker.listener``, ``.contact_address``          where Dask's own server is
``Worker.state.executing``, ``.nthreads``          whether a task will have to wait
=================================================  =================================
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.comm import get_address_host, parse_address

from daskref.background import Errands
from daskref.cluster.locating import Locator, ask, evict, sweep
from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.connectors.zmq.connector import ZmqConnector
from daskref.exceptions import DaskrefError
from daskref.graph.nodes import references_in
from daskref.proxy.proxy import get_factory
from daskref.store.factory import StoreFactory, is_transparent
from daskref.worker._data import peek
from daskref.worker._prefetch import Ahead

if TYPE_CHECKING:
    from distributed.worker import Worker

logger = logging.getLogger(__name__)

#: States of a task that is going to begin.
_WAITS = {"waiting", "ready", "constrained"}


def place_of(worker: Worker, settings: Settings) -> dict[str, Any]:
    """Return the options of :meth:`ZmqConnector.serve` for a worker.

    A setting of this process overrides the cluster's *settings*; the default address is
    that of the worker's own server.
    """
    own = Settings.read()
    place: dict[str, Any] = {
        option: getattr(own, f"zmq_{option}") or getattr(settings, f"zmq_{option}")
        for option in ("interface", "port", "advertise")
    }
    assert worker.listener is not None
    scheme, _ = parse_address(worker.listener.listen_address)
    if scheme not in ("tcp", "tls"):
        return place
    listening = get_address_host(worker.listener.listen_address)
    contact = get_address_host(worker.contact_address or worker.address)
    if not place["interface"]:
        place["interface"] = listening
        if not place["advertise"] and contact != listening:
            place["advertise"] = contact
    return place


@dataclass(eq=False, repr=False)
class Serving:
    """Serve the objects of a worker's host, and obey the scheduler there."""

    _worker: Worker
    _session: ClusterStore
    _connector: ZmqConnector
    _undo: list[Callable[[], Any]] = field(default_factory=list)
    _errands: Errands = field(default_factory=Errands)
    #: Whether :meth:`transition` prefetches: there are other hosts.
    looks_ahead: bool = False
    _ahead: Ahead | None = field(init=False)

    def __post_init__(self) -> None:
        settings = self._session.info.settings
        self._ahead = (
            Ahead(self._connector, settings.prefetch) if settings.prefetch else None
        )

    async def start(self) -> None:
        """Begin, and tell the scheduler; raises ConnectorUnavailableError."""
        worker, connector, session = self._worker, self._connector, self._session
        # While all processes are on one host, no worker opens a port.
        lazily = session.info.settings.connector == "auto"
        endpoint = None if lazily else await self._serve()
        names = await session.run(connector.here)
        locator = Locator(
            repr(connector), worker.address, self._ask, self._tell, connector.host
        )
        self._undo.append(connector.attend(locator))
        worker.stream_handlers.update(
            {
                "daskref-evict": partial(self._handle, evict),
                "daskref-sweep": partial(self._handle, sweep),
                "daskref-serve": self._handle_serve,
            }
        )
        self._announce(endpoint, names)

    async def _serve(self) -> str:
        self.looks_ahead = self._ahead is not None
        place = place_of(self._worker, self._session.info.settings)
        return await self._session.run(partial(self._connector.serve, **place))

    def _handle_serve(self) -> None:
        self._errands.run(self._begin_to_serve())

    async def _begin_to_serve(self) -> None:
        endpoint = None
        try:
            endpoint = await self._serve()
        except DaskrefError as exc:
            self._session.inband.lose_sight(exc)
        finally:  # readers wait for the answer
            self._announce(endpoint, [])

    def _announce(self, endpoint: str | None, names: list[str]) -> None:
        self._worker.batched_send(
            {
                "op": "daskref-host",
                "host": self._connector.host,
                "hostname": socket.gethostname(),
                "endpoint": endpoint,
                "names": names,
            }
        )

    def stop(self) -> None:
        """Ignore the scheduler from now on; the connector serves until closed.

        The handlers stay, without effect: a late message must not end the worker's
        stream.
        """
        self._errands.stop()
        self.looks_ahead = False
        while self._undo:
            self._undo.pop()()
        if self._ahead is not None:
            self._ahead.close()

    def _ask(self, op: str, message: dict[str, Any]) -> Any:
        return ask(self._worker.loop, getattr(self._worker.scheduler, op), message)

    def _tell(self, message: dict[str, Any]) -> None:
        self._worker.loop.add_callback(self._worker.batched_send, message)

    def _handle(self, do: Callable[..., Any], **message: Any) -> None:
        self._errands.run(self._do(do, **message))

    async def _do(self, do: Callable[..., Any], **message: Any) -> None:
        try:
            await self._session.run(partial(do, self._connector, **message))
        except Exception:
            logger.exception("Objects may be left on this host")

    # Tasks

    def transition(self, key: Any, start: str, finish: str) -> None:
        """Prefetch the inputs of a task that has to wait for a thread."""
        if not self.looks_ahead or self._ahead is None:
            return
        if start == "released" and finish in _WAITS:
            spec = self._worker.state.tasks[key].run_spec
            if self._is_busy() and (references := references_in(spec)):
                self._ahead.add(key, [tuple(each.key) for each in references])
        elif start == "flight" and finish == "memory":
            value = peek(self._worker.data, key)
            if is_transparent(value) and self._is_busy():
                factory = get_factory(value)
                if isinstance(factory, StoreFactory):
                    for ts in self._worker.state.tasks[key].dependents:
                        if ts.state == "waiting":
                            self._ahead.add(ts.key, [tuple(factory.key)])
        elif finish not in _WAITS:
            self._ahead.begun(key)

    def _is_busy(self) -> bool:
        state = self._worker.state
        return bool(len(state.executing) >= state.nthreads)
