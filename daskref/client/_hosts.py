"""A client's part in a session with several hosts."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from daskref.background import Errands, Executor
from daskref.client._holdings import Holdings
from daskref.cluster.locating import Locator, ask, evict, sweep
from daskref.cluster.session import ClusterStore
from daskref.connectors.base import Key
from daskref.connectors.zmq.connector import ZmqConnector
from daskref.connectors.zmq.sources import Source
from daskref.exceptions import ConnectorUnavailableError, DaskrefError
from daskref.objects.codec import encode

logger = logging.getLogger(__name__)

#: Hosts that a client tries before it reports that it reaches none.
_TRIED = 3


@dataclass(eq=False, repr=False)
class Visit:
    """Put the client's values on workers' hosts, and get results from there."""

    _client: Any
    _session: ClusterStore
    _connector: ZmqConnector
    _holdings: Holdings
    #: ``(message)``: to the scheduler. Thread-safe.
    _send: Callable[[dict[str, Any]], None]
    #: ``() -> None``, in any thread: called if no host accepts this client.
    _retreat: Callable[[], None]
    _checked: bool = False
    _home: str = ""
    _beside: bool = False
    _undo: list[Callable[[], None]] = field(default_factory=list)
    _errands: Errands = field(default_factory=Errands)
    _locator: Locator = field(init=False)

    def __post_init__(self) -> None:
        # Hosts may be told of before the scheduler has answered the first question.
        self._locator = Locator(
            repr(self._connector),
            self._client.id,
            self._ask,
            self._send,
            self._connector.host,
        )

    @property
    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Handlers of the scheduler's messages."""
        return {
            "daskref-hosts": self._handle_hosts,
            "daskref-wanted": self._handle_wanted,
            "daskref-evict": partial(self._handle, evict),
            "daskref-sweep": partial(self._handle, sweep),
        }

    async def begin(self) -> None:
        """Report this host, learn of the others, and check that one answers.

        If none of them does, the session is unreachable afterwards.
        """
        answer = await self._client.scheduler.daskref_visit(
            process=self._client.id,
            host=self._connector.host,
            hostname=socket.gethostname(),
        )
        self._home = answer["home"]
        self._beside |= answer["beside"]
        for host, endpoints in answer["hosts"].items():
            if host not in self._locator.hosts:
                self._locator.update(host, endpoints)
        self._undo.append(self._connector.attend(self._locator))
        self._undo.append(partial(self._session.inband.set_place, self, True))
        self._set_place()
        await self._session.run(self._check)

    def end(self) -> None:
        """Undo :meth:`begin`; also if that failed, or was not called."""
        self._errands.stop()
        while self._undo:
            self._undo.pop()()

    def _ask(self, op: str, message: dict[str, Any]) -> Any:
        scheduler = self._client.scheduler
        if scheduler is None:
            raise OSError("the client is closed")
        return ask(self._client.loop, getattr(scheduler, op), message)

    def _set_place(self) -> None:
        """Tell the session whether there is a host for this client's values.

        Without a serving host, values stay on this one if it has workers or the
        scheduler: each process that reaches the scheduler reaches it.
        """
        at_home = self._beside or self._home == self._connector.host
        self._session.inband.set_place(self, at_home or bool(self._locator.hosts))

    def _check(self) -> None:
        """Check that a host answers, once there are any. Blocks."""
        hosts = self._locator.targets(0)
        if self._checked or not hosts:
            return
        self._checked = True
        if any(source.host == self._connector.host for source in hosts):
            return
        tried = [Source(host, each[:1]) for host, each in hosts[:_TRIED]]
        executor = Executor(_TRIED, "daskref-visit")
        asked = [executor.submit(self._reaches, source) for source in tried]
        reached = any(future.result() for future in asked)
        executor.close()
        if not reached:
            places = ", ".join(place for source in tried for place in source.endpoints)
            self._session.inband.lose_sight(
                ConnectorUnavailableError(
                    repr(self._connector),
                    f"no host of workers lets this client in; it tried {places}",
                )
            )
            self._retreat()

    def _reaches(self, source: Source) -> bool:
        try:
            return self._connector.reaches(source)
        except DaskrefError:
            return False

    # Messages of the scheduler

    def _handle_hosts(self, host: str, endpoints: list[str], workers: bool) -> None:
        self._locator.update(host, endpoints)
        if host == self._connector.host:
            self._beside = workers
        if self._undo:  # it takes part
            self._set_place()
        if not self._checked:
            self._errands.run(self._run(self._check))

    def _handle_wanted(self, object: Key) -> None:
        self._errands.run(self._supply_wanted(tuple(object)))

    async def _supply_wanted(self, key: Key) -> None:
        host = await self._run(self._supply, key)
        self._send({"op": "daskref-supplied", "object": key, "host": host})

    def _handle(self, do: Callable[..., Any], **message: Any) -> None:
        self._errands.run(self._run(partial(do, self._connector, **message)))

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await self._session.run(function, *args)
        except DaskrefError as exc:
            logger.warning("This client could not do as the scheduler said: %s", exc)
        except Exception:
            logger.exception("This client could not do as the scheduler said")
        return None

    def _supply(self, key: Key) -> str | None:
        """Send an object again; return None without it. Blocks."""
        token, originals = self._holdings.originals(key)
        for obj in originals:
            encoded = encode(obj)
            if encoded.token == token:  # or it was changed since
                return self._connector.supply(key, encoded.frames)
        return self._connector.supply(key)
