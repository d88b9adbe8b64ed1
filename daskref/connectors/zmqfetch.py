"""Fetches an object, chunk by chunk, from whoever has it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import zmq

from daskref.connectors.arrivals import Arrival
from daskref.connectors.zmqlimits import Limits
from daskref.connectors.zmqlines import ClosedError, Line, Lines
from daskref.connectors.zmqsources import Candidates, Source
from daskref.connectors.zmqwire import Op, Reply, Request, Status, checksum
from daskref.exceptions import WireError

#: Seconds between looks at whether the connector was closed, and between two questions
#: where the object is.
_LOOK, _ASK_AGAIN = 0.2, 1.0


class UnansweredError(Exception):
    """Nobody gave the object; the text says who was asked and what each answered."""


@dataclass
class _Lane:
    """A connection, and the chunks asked for on it."""

    line: Line
    progressed: float
    #: Number of a request -> index of its chunk.
    asked: dict[int, int] = field(default_factory=dict)


class Transfer:
    """The chunks of one object, asked for over several connections at once.

    Parameters
    ----------
    lines
        Makes the connections.
    arrival
        Takes the chunks; it is neither published nor given up here.
    sources
        The hosts that have the object.
    locate
        () -> the hosts that have the object by now; may block.
    failed
        Hears of each endpoint that did not answer.
    limits
        Sizes and waits.

    Notes
    -----
    A connection has up to *window* requests in flight. If it ends, or stalls, or gives
    damaged bytes, its chunks are asked for elsewhere, or there again after a pause,
    until *timeout* seconds pass without a chunk.
    """

    def __init__(
        self,
        lines: Lines,
        arrival: Arrival,
        sources: Sequence[Source],
        locate: Callable[[], Sequence[Source]],
        failed: Callable[[str], None],
        limits: Limits,
    ) -> None:
        self._lines = lines
        self._arrival = arrival
        self._locate = locate
        self._failed = failed
        self._limits = limits
        self._todo = deque(arrival.missing)
        self._lanes: list[_Lane] = []
        self._damaged: Counter[int] = Counter()
        self._candidates = Candidates(sources)
        self._located = time.monotonic()
        self._deadline = 0.0

    def run(self, patience: float) -> bool:
        """Fetch what is missing.

        Parameters
        ----------
        patience
            Seconds until the first chunk must be there.

        Returns
        -------
        bool
            False if all who were asked lack the object.

        Raises
        ------
        UnansweredError
            If it could not be had.
        WireError
            If a chunk came damaged twice.
        ClosedError
            If the connections were closed.
        OSError
            If a chunk could not be written.
        """
        self._deadline = time.monotonic() + patience
        try:
            while self._todo or any(lane.asked for lane in self._lanes):
                if self._lines.closed:
                    raise ClosedError
                now = time.monotonic()
                self._open_lanes(now)
                if not self._lanes and not self._can_wait(now):
                    answers = self._candidates.answers
                    if answers and self._candidates.lacking >= answers.keys():
                        return False
                    raise UnansweredError(str(self._candidates))
                if self._step(min(_LOOK, self._limits.stall)):
                    self._deadline = time.monotonic() + self._limits.timeout
                elif time.monotonic() > self._deadline:
                    self._note_waiting()
                    raise UnansweredError(str(self._candidates))
            return True
        finally:
            for lane in self._lanes:
                self._end(lane)

    def _note_waiting(self) -> None:
        for lane in self._lanes:
            self._candidates.answers.setdefault(lane.line.endpoint, "did not answer")

    def _end(self, lane: _Lane) -> None:
        if lane.asked:
            self._lines.drop(lane.line)
        else:
            self._lines.give_back(lane.line)

    # Opening, asking.

    def _open_lanes(self, now: float) -> None:
        waiting = len(self._todo) + sum(len(lane.asked) for lane in self._lanes)
        wanted = min(self._limits.lanes, -(-waiting // self._limits.window))
        while self._todo and len(self._lanes) < wanted:
            busy = [lane.line.endpoint for lane in self._lanes]
            endpoint = self._candidates.pick(now, busy)
            if endpoint is None:
                break
            self._lanes.append(_Lane(self._lines.take(endpoint), now))
        for lane in self._lanes:
            self._ask(lane, now)

    def _ask(self, lane: _Lane, now: float) -> None:
        if not lane.asked:
            lane.progressed = now
        name, nbytes = self._arrival.key
        while self._todo and len(lane.asked) < self._limits.window:
            index = self._todo[0]
            offset, length = self._arrival.span(index)
            number = lane.line.number()
            if not lane.line.send(
                Request(Op.GET, number, name, nbytes, offset, length)
            ):
                return
            self._todo.popleft()
            lane.asked[number] = index

    def _can_wait(self, now: float) -> bool:
        """Without any connection: tell whether somebody may be asked, now or later."""
        if now > self._located + _ASK_AGAIN or self._candidates.next_time() is None:
            self._candidates.update(self._locate())
            self._located = time.monotonic()
            # To be told whom to ask may take long: it is not their time.
            self._deadline += self._located - now
        return self._candidates.next_time() is not None

    # Hearing.

    def _step(self, longest: float) -> bool:
        """Wait for something to happen; tell whether a chunk has arrived."""
        if not self._lanes:
            due = self._candidates.next_time() or 0.0
            time.sleep(max(0.0, min(longest, due - time.monotonic())))
            return False
        poller = zmq.Poller()
        for lane in self._lanes:
            poller.register(lane.line.socket, zmq.POLLIN)
            poller.register(lane.line.monitor, zmq.POLLIN)
        ready = dict(poller.poll(max(1, int(longest * 1000))))
        arrived = False
        for lane in list(self._lanes):
            if lane.line.socket in ready:
                arrived |= self._hear(lane)
            if lane in self._lanes and lane.line.monitor in ready:
                self._look_after(lane)
            stalled = time.monotonic() > lane.progressed + self._limits.stall
            if lane in self._lanes and lane.asked and stalled:
                self._leave(lane, f"did not answer for {self._limits.stall:g} s")
        return arrived

    def _look_after(self, lane: _Lane) -> None:
        why = lane.line.broken()
        if why is not None:
            # What it sent before is still there to be read.
            self._hear(lane)
            if lane in self._lanes:
                self._leave(lane, why, final=lane.line.final)

    def _hear(self, lane: _Lane) -> bool:
        arrived = False
        while lane in self._lanes:
            try:
                received = lane.line.receive()
            except WireError as exc:
                self._leave(lane, f"answered nonsense ({exc})", final=True)
                return arrived
            if received is None:
                return arrived
            arrived |= self._take(lane, *received)
            if lane in self._lanes:
                self._ask(lane, lane.progressed)
        return arrived

    def _take(self, lane: _Lane, reply: Reply, data: memoryview) -> bool:
        index = lane.asked.pop(reply.number, None)
        if index is None:
            return False
        arrived = self._judge(lane, index, reply, data)
        if arrived:
            lane.progressed = time.monotonic()
        else:
            self._todo.appendleft(index)
        return arrived

    def _judge(self, lane: _Lane, index: int, reply: Reply, data: memoryview) -> bool:
        endpoint = lane.line.endpoint
        if reply.status is Status.MISSING:
            same_host = self._candidates.lacks(endpoint)
            for each in list(self._lanes):
                if each.line.endpoint in same_host:
                    self._remove(each)
            for each_endpoint in same_host:
                self._failed(each_endpoint)
            return False
        if reply.status is not Status.OK:
            self._leave(lane, f"answered {reply.status.name}", final=True)
            return False
        offset, length = self._arrival.span(index)
        if (reply.offset, data.nbytes) != (offset, length) or (
            checksum(data) != reply.checksum
        ):
            self._damaged[index] += 1
            if self._damaged[index] > 1:
                raise WireError(
                    f"{self._arrival.key.name}: bytes {offset} to {offset + length} "
                    f"came damaged twice, last from {endpoint}"
                )
            self._leave(lane, "sent damaged bytes")
            return False
        self._arrival.write(index, data)
        return True

    def _leave(self, lane: _Lane, why: str, final: bool = False) -> None:
        endpoint = lane.line.endpoint
        if final:
            self._candidates.drop(endpoint, why)
        else:
            self._candidates.put_off(endpoint, why, time.monotonic())
        self._remove(lane)
        self._failed(endpoint)

    def _remove(self, lane: _Lane) -> None:
        self._lanes.remove(lane)
        self._todo.extendleft(sorted(lane.asked.values(), reverse=True))
        self._end(lane)
