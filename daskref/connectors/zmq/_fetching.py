"""Fetch an object, chunk by chunk, from the hosts that have it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from threading import Condition, Thread, current_thread

from daskref.background import start_thread
from daskref.connectors.zmq._arrivals import Arrival
from daskref.connectors.zmq._connections import BrokenError, ClosedError, Line, Lines
from daskref.connectors.zmq._wire import Limits, Op, Request, Status, UnansweredError
from daskref.connectors.zmq.sources import Candidates, Source

#: Seconds between two checks whether the connector was closed, and between two calls
#: of *locate*.
_LOOK, _ASK_AGAIN = 0.2, 1.0


@dataclass(eq=False, repr=False)
class Transfer:
    """The chunks of one object, requested over several connections at once.

    Notes
    -----
    Each connection has a thread, the first one that of the caller, and up to *window*
    requests in flight. The chunks of a connection that ends or stalls are requested
    from another endpoint, or from the same one after a pause, until *timeout* seconds
    pass without a chunk.
    """

    _lines: Lines
    #: Takes the chunks; it is neither published nor given up here.
    _arrival: Arrival
    #: The hosts that have the object.
    sources: InitVar[Sequence[Source]]
    #: () -> the hosts that have the object by now; may block.
    _locate: Callable[[], Sequence[Source]]
    #: Called with each endpoint that did not answer.
    _failed: Callable[[str], None]
    _limits: Limits

    def __post_init__(self, sources: Sequence[Source]) -> None:
        self._todo = deque(self._arrival.missing)
        self._candidates = Candidates(sources)
        self._located = time.monotonic()
        self._deadline = 0.0
        #: The connections in use, the endpoints picked for them, and the threads beside
        #: the caller's.
        self._used: list[Line] = []
        self._busy: list[str] = []
        self._helpers: list[Thread] = []
        self._error: BaseException | None = None
        self._ended = False
        #: Guards the above; notified when chunks return to `_todo` or a helper ends.
        self._changed = Condition()

    def run(self, patience: float) -> bool:
        """Fetch the missing chunks; return False if all hosts lack the object.

        Raises UnansweredError if *patience* seconds pass before the first chunk, or
        *timeout* after it; ClosedError if the connections were closed; OSError if a
        chunk could not be written.
        """
        self._deadline = time.monotonic() + patience
        wanted = min(self._limits.lanes, -(-len(self._todo) // self._limits.window))
        helpers: list[Thread] = []
        try:
            for _ in range(wanted - 1):
                with self._changed:  # the helper cannot end before it is listed
                    helper = start_thread(self._help, "daskref-zmq-lane")
                    if helper is not None:
                        self._helpers.append(helper)
                        helpers.append(helper)
            return self._fetch()
        finally:
            self._end()
            for helper in helpers:
                helper.join()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            for line in self._used:
                line.shut()

    def _fetch(self) -> bool:
        while True:
            now = time.monotonic()
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self._lines.closed:
                    raise ClosedError
                if not self._todo:
                    if not self._helpers:
                        return True
                    self._changed.wait(_LOOK)
                    continue
                if now > self._deadline:
                    raise UnansweredError(str(self._candidates))
                endpoint = self._pick(now)
                if endpoint is None and self._helpers:
                    self._changed.wait(_LOOK)
                    continue
            if endpoint is not None:
                self._use(endpoint)
            elif not self._can_wait(now):
                answers = self._candidates.answers
                if answers and self._candidates.lacking >= answers.keys():
                    return False
                raise UnansweredError(str(self._candidates))
            else:
                due = self._candidates.next_time() or 0.0
                time.sleep(max(0.0, min(_LOOK, due - time.monotonic())))

    def _help(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._todo or self._ended:
                        return
                    endpoint = self._pick(time.monotonic())
                if endpoint is None:
                    return
                self._use(endpoint)
        except BaseException as exc:  # the caller's thread raises it
            self._error = exc
        finally:
            with self._changed:
                self._helpers.remove(current_thread())
                self._changed.notify_all()

    def _pick(self, now: float) -> str | None:
        endpoint = self._candidates.pick(now, self._busy)
        if endpoint is not None:
            self._busy.append(endpoint)
        return endpoint

    def _can_wait(self, now: float) -> bool:
        """Without a connection: tell whether an endpoint may be asked now or later."""
        if now > self._located + _ASK_AGAIN or self._candidates.next_time() is None:
            self._candidates.update(self._locate())
            self._located = time.monotonic()
            # `locate` may block: its time does not count as the servers'.
            self._deadline += self._located - now
        return self._candidates.next_time() is not None

    # One connection.

    def _use(self, endpoint: str) -> None:
        """Request chunks from an endpoint until none is left, or the endpoint fails."""
        asked: deque[int] = deque()
        line = None
        try:
            line = self._lines.take(endpoint)
            with self._changed:
                self._used.append(line)
            while self._ask(line, asked):
                if not self._hear(line, asked[0]):
                    break
                asked.popleft()
        except BrokenError as exc:
            if not self._ended:
                self._leave(endpoint, str(exc), exc.final)
        finally:
            with self._changed:
                if line is not None and line in self._used:
                    self._used.remove(line)
                self._busy.remove(endpoint)
                self._todo.extendleft(reversed(asked))
                self._changed.notify_all()
            if line is not None:
                self._lines.drop(line) if asked else self._lines.give_back(line)

    def _ask(self, line: Line, asked: deque[int]) -> bool:
        """Fill the window with requests; False if there is nothing to request."""
        new = []
        with self._changed:
            if self._ended:
                return False
            while self._todo and len(asked) < self._limits.window:
                index = self._todo.popleft()
                asked.append(index)
                new.append(index)
        if new:
            name, nbytes = self._arrival.key
            line.send(
                [
                    Request(Op.GET, name, nbytes, *self._arrival.span(index))
                    for index in new
                ]
            )
        return bool(asked)

    def _hear(self, line: Line, index: int) -> bool:
        """Receive a chunk; return False if the server did not send it."""
        _, length = self._arrival.span(index)
        reply = line.reply(length)
        if reply.status is Status.MISSING:
            with self._changed:
                same_host = self._candidates.lacks(line.endpoint)
            for endpoint in same_host:
                self._failed(endpoint)
            return False
        if reply.status is not Status.OK:
            self._leave(line.endpoint, f"answered {reply.status.name}", final=True)
            return False
        place = self._arrival.place(index)
        view = line.scratch(length) if place is None else place
        line.data(view)
        self._arrival.write(index, view if place is None else None)
        with self._changed:
            self._deadline = time.monotonic() + self._limits.timeout
        return True

    def _leave(self, endpoint: str, why: str, final: bool = False) -> None:
        with self._changed:
            if final:
                self._candidates.drop(endpoint, why)
            else:
                self._candidates.put_off(endpoint, why, time.monotonic())
        self._failed(endpoint)
