"""How soon Dask's streams of messages send: sooner while values go by reference.

A stream sends its first message at once, and holds back what comes within an interval
after it, to send that together. Of a small round trip these intervals are most of the
time. They are also what lets batches grow under load, and that stays: a stream that is
busy for longer than its interval sends what has come meanwhile at once.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================  =========================================================
name                        what for
==========================  =========================================================
``BatchedSend.interval``    how long a stream holds messages back, in seconds
==========================  =========================================================
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary


class Streams:
    """Streams of one process that hold messages back for less time than Dask's do.

    Parameters
    ----------
    latency
        Seconds at most; ``"dask"``: as Dask has it.

    Notes
    -----
    For the thread of the event loop.
    """

    def __init__(self, latency: float | str) -> None:
        self._latency = latency
        #: Stream -> its own interval.
        self._before: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def shorten(self, stream: Any) -> None:
        """Shorten the interval of a stream; ``None``, or a second time, is silent."""
        if stream is None or stream in self._before or self._latency == "dask":
            return
        self._before[stream] = stream.interval
        stream.interval = min(stream.interval, self._latency)

    def restore(self, stream: Any) -> None:
        """Give a stream its own interval back; silent if it has it."""
        if stream in self._before:
            stream.interval = self._before.pop(stream)

    def restore_all(self) -> None:
        """Give all streams their own intervals back."""
        for stream in list(self._before):
            self.restore(stream)
