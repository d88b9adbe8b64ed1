"""Requests and transfers between this process and other hosts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from daskref.background import make_lock
from daskref.connectors.failures import of_system
from daskref.connectors.shm.connector import SharedMemoryConnector
from daskref.connectors.zmq._arrivals import Arrival, begin
from daskref.connectors.zmq._connections import ClosedError, Lines
from daskref.connectors.zmq._fetching import Transfer
from daskref.connectors.zmq._requests import ask, push
from daskref.connectors.zmq._session import ZmqSession
from daskref.connectors.zmq._wire import (
    NAMES,
    Limits,
    Op,
    Request,
    Status,
    UnansweredError,
)
from daskref.connectors.zmq.sources import Source, Sources, ZmqKey
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
)

#: Seconds between two attempts to send to hosts that are busy.
_BUSY = 0.1
#: Seconds for which a host that did not answer is tried last.
_SILENT = 60.0
#: Least seconds that a process tries, after it has waited for another one's transfer.
_LEAST = 1.0


class _HereError(Exception):
    """Another process has brought the object to this host meanwhile."""


@dataclass(eq=False, repr=False)
class Remote:
    """The other hosts of a session, as one process sees them."""

    _owner: str
    #: This host's store, for fetched objects.
    _local: SharedMemoryConnector
    sources: Sources
    _limits: Limits
    #: Opens the connections when they are needed.
    _session: ZmqSession
    _lines: Lines | None = None
    #: Hosts that did not answer, and when.
    _silent: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=make_lock)

    def __post_init__(self) -> None:
        self._host = self._local.session.host

    def _elsewhere(self, sources: Iterable[Source]) -> list[Source]:
        return [Source(*each) for each in sources if each[0] != self._host and each[1]]

    def copies(self, key: ZmqKey) -> list[Source]:
        """Return the other hosts that may have the object."""
        return self._elsewhere(self.sources.copies(key))

    def _unavailable(self, message: str) -> ConnectorUnavailableError:
        return ConnectorUnavailableError(self._owner, message)

    @contextmanager
    def _connections(self) -> Iterator[Lines]:
        try:
            with self._lock:
                if self._lines is None:
                    self._lines = self._session.open_lines()
            yield self._lines
        except ClosedError:
            raise ConnectorClosedError(self._owner) from None

    def _ask(self, source: Source, request: Request, data: bytes = b"") -> Status:
        with self._connections() as lines:
            return ask(lines, source, request, data)

    def fetch(self, key: ZmqKey) -> memoryview | None:
        """Fetch an object to this host and return it.

        Returns ``None`` if all hosts that were asked lack it, or no host is known.
        Raises ConnectorError if it could not be fetched, or not be stored here;
        WireError if its bytes arrived damaged twice.
        """
        asked = self.sources  # another thread may replace it
        if not asked.others:
            return None
        limits = self._limits
        began = time.monotonic()
        try:
            arrival = begin(self._local, key.local, limits.chunk, limits.timeout)
        except TimeoutError:
            raise self._unavailable(
                f"{key.name} is being fetched by another process of this host, "
                f"which has made no progress for {limits.timeout:g} s"
            ) from None
        if not isinstance(arrival, Arrival):
            return arrival
        patience = limits.timeout - (time.monotonic() - began)
        view = None
        try:
            try:
                whole = self._transfer(asked, arrival, key, max(patience, _LEAST))
            except _HereError:
                arrival.give_up()
                return (view := self._local.get(key.local))
            except BaseException:
                arrival.give_up()
                raise
            if not whole:
                arrival.give_up()
                return None
            try:
                view = arrival.publish()
            except OSError as exc:
                raise self._not_stored(key.name, exc) from exc
            return view
        finally:
            asked.ended(key, view is not None)

    def _transfer(
        self, asked: Sources, arrival: Arrival, key: ZmqKey, patience: float
    ) -> bool:
        def waiting() -> None:
            arrival.touch()
            if self._local.exists(arrival.key):
                raise _HereError

        def locate() -> list[Source]:
            return self._elsewhere(asked.sources(key, waiting))

        sources = locate()
        if not sources:
            asked.given_up(key)
            return False
        try:
            with self._connections() as lines:
                transfer = Transfer(
                    lines,
                    arrival,
                    sources,
                    locate,
                    lambda place: asked.failed(key, place),
                    self._limits,
                )
                whole = transfer.run(patience)
        except UnansweredError as exc:
            asked.given_up(key)
            raise self._unavailable(f"{key.name} could not be fetched: {exc}") from None
        except OSError as exc:  # of this host's file system
            raise self._not_stored(key.name, exc) from exc
        if not whole:
            asked.given_up(key)
        return whole

    def _not_stored(self, name: str, exc: OSError) -> ConnectorError:
        return of_system(exc, self._owner, f"{name} could not be stored here")

    def push(self, views: Sequence[memoryview], name: str) -> str:
        """Send an object to a host that takes it; return the host's identity.

        Raises ConnectorUnavailableError if no host takes it, with the answer of each.
        """
        nbytes = sum(view.nbytes for view in views)
        deadline = time.monotonic() + self._limits.timeout
        while True:
            answers: dict[str, str] = {}
            targets = self._elsewhere(self.sources.targets(nbytes))
            for source in sorted(targets, key=self._last_silent):
                if self._push_to(source, name, views, answers):
                    return source.host
            busy = any(text.endswith(Status.BUSY.name) for text in answers.values())
            if not busy or time.monotonic() > deadline:
                told = "; ".join(f"{who} {text}" for who, text in answers.items())
                raise self._unavailable(f"no host took an object of {nbytes} B: {told}")
            time.sleep(_BUSY)

    def _last_silent(self, source: Source) -> float:
        """Return when a host last did not answer; 0 if long ago, or never."""
        when = self._silent.get(source.host, 0.0)
        return when if time.monotonic() < when + _SILENT else 0.0

    def _push_to(
        self,
        source: Source,
        name: str,
        views: Sequence[memoryview],
        answers: dict[str, str],
    ) -> bool:
        for place in source.endpoints:
            try:
                with self._connections() as lines:
                    status = push(lines, place, name, views, self._limits)
            except UnansweredError as exc:
                answers[place] = str(exc)
                self._silent[source.host] = time.monotonic()
                continue
            if status is Status.WHOLE:
                return True
            answers[place] = f"answered {status.name}"
            if status is Status.FULL:
                return False
        return False

    def reaches(self, source: Source) -> bool:
        """Tell whether a server of a host accepts this process."""
        try:
            self._ask(source, Request(Op.EXISTS))
        except UnansweredError:
            return False
        return True

    def any_has(self, key: ZmqKey, op: Op, length: int = 0) -> bool:
        """Tell whether another host answers yes to *op*.

        Raises ConnectorUnavailableError if none says yes and not all have answered.
        """
        answers = []
        request = Request(op, key.name, key.nbytes, 0, length)
        for source in self.copies(key):
            try:
                if self._ask(source, request) is Status.OK:
                    return True
            except UnansweredError as exc:
                answers.append(str(exc))
        if answers:
            told = "; ".join(answers)
            raise self._unavailable(f"{key.name} may be elsewhere: {told}")
        return False

    def take(self, key: ZmqKey) -> bool:
        """Delete an object on its home host; return whether this call deleted it.

        Raises ConnectorUnavailableError if the host did not say.
        """
        known = self.copies(key)
        places = next((each.endpoints for each in known if each.host == key.host), ())
        answers = []
        request = Request(Op.TAKE, key.name, key.nbytes)
        for place in places:
            try:
                status = self._ask(Source(key.host, [place]), request)
            except UnansweredError as exc:
                answers.append(str(exc))
                continue
            if status is Status.OK:
                return True
            # A server that did not answer may have deleted the object, for this call.
            if status is Status.MISSING and not answers:
                return False
            answers.append(f"{place} answered {status.name}")
        told = "; ".join(answers) or "nobody is known to serve there"
        raise self._unavailable(
            f"{key.name} cannot be taken from host {key.host[:8]}, where it was put: "
            f"{told}"
        )

    def evict(self, keys: Iterable[ZmqKey]) -> None:
        """Delete objects and their copies from other hosts.

        Raises ConnectorUnavailableError if a host did not answer; the others have
        deleted the objects.
        """
        by_host: dict[str, tuple[Source, list[str]]] = {}
        for key in keys:
            for source in self.copies(key):
                by_host.setdefault(source.host, (source, []))[1].append(key.name)
        answers = []
        for source, names in by_host.values():
            for start in range(0, len(names), NAMES):
                data = "\n".join(names[start : start + NAMES]).encode()
                try:
                    self._ask(source, Request(Op.EVICT, length=len(data)), data)
                except UnansweredError as exc:
                    answers.append(f"host {source.host[:8]}: {exc}")
                    break
        if answers:
            raise self._unavailable(
                f"objects may be left on other hosts: {'; '.join(answers)}"
            )
