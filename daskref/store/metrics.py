"""Metrics: of one store, by key and in all; counts of all stores of a process.

Operations have the names of the store's methods, as in ``store.put``, and their parts
follow: ``store.put.serialize``, ``store.put.connector``, ``store.get.deserialize``.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from distributed.metrics import context_meter
from zict import LRU

from daskref.background import make_lock
from daskref.connectors.base import Key
from daskref.connectors.credentials import mask
from daskref.proxy.proxy import is_proxy, reference_of

#: The store's logger, which readers of the log know.
logger = logging.getLogger("daskref.store")

#: Number of keys that are remembered one by one, the most recently used.
KEYS = 1024

#: Of how many objects a process knows how often it has read them, those read last.
READ = 4096

#: Counter -> its meaning.
COUNTERS = {
    "puts": "objects written into the store",
    "gets": "objects read from the store",
    "evictions": "objects deleted from the store",
    "fallbacks": "values that went to disk or in-band, for lack of room or of a store",
    "bytes_kept": "bytes that a reference replaced on the scheduler and the wire",
}

#: Why values above the threshold went in-band, and what changes that.
INBAND = {
    "unreachable": "this process cannot see the cluster's store; daskref.connector "
    "names one that all hosts reach",
    "no-host": "no host of workers takes what this process puts; daskref.connector "
    "names a store that needs none",
    "gpu": "it is in a GPU's memory, which Dask moves by itself",
    "unpicklable": "it does not serialize to be stored, so Dask sends it its own way",
    "failed": "the store failed; daskref.on-failure: raise makes that an error",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TimeStats:
    """Times of one operation, in milliseconds."""

    #: Number of times.
    count: int = 0
    avg_time_ms: float = 0.0
    min_time_ms: float = math.inf
    max_time_ms: float = 0.0
    last_time_ms: float = 0.0
    #: Of the last time: seconds since 1970.
    last_timestamp: float = 0.0

    @property
    def total_time_ms(self) -> float:
        """The sum of all times."""
        return self.avg_time_ms * self.count

    def add_time(self, time_ms: float) -> TimeStats:
        """Return these statistics with one more time."""
        return TimeStats(
            self.count + 1,
            self.avg_time_ms + (time_ms - self.avg_time_ms) / (self.count + 1),
            min(self.min_time_ms, time_ms),
            max(self.max_time_ms, time_ms),
            time_ms,
            time.time(),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Metrics:
    """What happened to one object, or to all."""

    #: Sizes in bytes, by operation: ``store.put.object_size``. For one object the last
    #: size; for all the sum.
    attributes: Mapping[str, int]
    #: Counts: ``store.get.cache_hits``, ``store.get.cache_misses``.
    counters: Mapping[str, int]
    #: Times by operation and part.
    times: Mapping[str, TimeStats]

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, as JSON takes them."""
        return {
            "attributes": dict(self.attributes),
            "counters": dict(self.counters),
            "times": {n: dataclasses.asdict(t) for n, t in self.times.items()},
        }


class _Record:
    """The metrics of one object, or of all, as they grow."""

    def __init__(self) -> None:
        self.attributes: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.times: dict[str, TimeStats] = {}

    def report(self) -> Metrics:
        parts: Any = (self.attributes, self.counters, self.times)
        return Metrics(*(MappingProxyType(dict(part)) for part in parts))


class StoreMetrics:
    """The metrics of one store; from :attr:`daskref.Store.metrics`.

    Parameters
    ----------
    keys
        Number of keys to remember one by one, the most recently used. Totals forget
        nothing.

    Notes
    -----
    Thread-safe. The work on a batch of objects is kept under the tuple of their keys.
    """

    _by_key: LRU[Any, _Record]
    _all: _Record
    _lock: threading.Lock

    def __init__(self, keys: int = KEYS) -> None:
        self._by_key = LRU(keys, {})
        self._all = _Record()
        self._lock = make_lock()

    def add_attribute(self, name: str, key: Any, value: int) -> None:
        """Record a size of the object under a key."""
        with self._lock:
            self._of(key).attributes[name] = value
            self._all.attributes[name] = self._all.attributes.get(name, 0) + value

    def add_counter(self, name: str, key: Any, value: int) -> None:
        """Add to a count of the object under a key."""
        with self._lock:
            for counters in (self._of(key).counters, self._all.counters):
                counters[name] = counters.get(name, 0) + value

    def add_time(self, name: str, key: Any, time_ms: float) -> None:
        """Record how long an operation on the object under a key took."""
        with self._lock:
            for times in (self._of(key).times, self._all.times):
                times[name] = times.get(name, TimeStats()).add_time(time_ms)

    def _of(self, key: Any) -> _Record:
        key = tuple(key)
        if key not in self._by_key:
            self._by_key[key] = _Record()
        return self._by_key[key]

    def get_metrics(self, key_or_proxy: Any) -> Metrics | None:
        """Return what happened to one object, or to a batch, until now.

        Parameters
        ----------
        key_or_proxy
            A key, a proxy, or a sequence of those that were put together.

        Returns
        -------
        Metrics or None
            ``None`` if nothing did, or it is too long ago.
        """
        if is_proxy(key_or_proxy):
            key: Key = tuple(reference_of(key_or_proxy).key)
        else:
            key = tuple(reference_of(k).key if is_proxy(k) else k for k in key_or_proxy)
        with self._lock:
            record = self._by_key.get(key)
            return None if record is None else record.report()

    def aggregate_times(self) -> Mapping[str, TimeStats]:
        """Return the times of all objects, by operation."""
        return self.total().times

    def total(self) -> Metrics:
        """Return what happened to all objects, those forgotten included."""
        with self._lock:
            return self._all.report()


class Operation:
    """One call of a store: timed, then recorded in the log and the metrics, if any."""

    __slots__ = ("_begin", "_metrics", "_store", "elapsed_ms", "parts")

    #: Name of a part -> milliseconds.
    parts: dict[str, float]
    #: Milliseconds in all, once it is done.
    elapsed_ms: float

    def __init__(self, store: str, metrics: StoreMetrics | None) -> None:
        self._store = store
        self._metrics = metrics
        self._begin = time.perf_counter()
        self.parts = {}
        self.elapsed_ms = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part; times of parts of one name add up."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            elapsed = 1000 * (time.perf_counter() - begin)
            self.parts[name] = self.parts.get(name, 0.0) + elapsed

    def done(
        self, name: str, key: Key, nbytes: int | None = None, cached: bool | None = None
    ) -> None:
        """Record the method *name*; *cached*: whether a get found it in the cache."""
        self.elapsed_ms = 1000 * (time.perf_counter() - self._begin)
        self._log(name, key, nbytes, cached)
        if self._metrics is None:
            return
        label = f"store.{name}"
        if cached is not None:
            found = "hits" if cached else "misses"
            self._metrics.add_counter(f"{label}.cache_{found}", key, 1)
        if nbytes is not None:
            self._metrics.add_attribute(f"{label}.object_size", key, nbytes)
        self._add_times(self._metrics, label, key)

    def done_put(self, keys: Sequence[Key], sizes: Sequence[int]) -> None:
        """Record a put of objects of these sizes in one batch."""
        self.done_batch("put_batch", keys, sizes)
        for key, nbytes in zip(keys, sizes, strict=True):
            self._log("put", key, nbytes)
            if self._metrics is not None:
                self._metrics.add_attribute("store.put.object_size", key, nbytes)

    def done_batch(
        self, name: str, keys: Sequence[Key], sizes: Sequence[int] | None = None
    ) -> None:
        """Record a method that was applied to a batch of objects."""
        self.elapsed_ms = 1000 * (time.perf_counter() - self._begin)
        if self._metrics is None or not keys:
            return
        label = f"store.{name}"
        if sizes is not None:
            self._metrics.add_attribute(f"{label}.object_sizes", keys, sum(sizes))
        self._add_times(self._metrics, label, keys)

    def add_parts(self, other: Operation) -> None:
        """Count the parts of another operation as this one's as well."""
        for part, elapsed_ms in other.parts.items():
            self.parts[part] = self.parts.get(part, 0.0) + elapsed_ms

    def _add_times(self, metrics: StoreMetrics, label: str, key: Any) -> None:
        for part, elapsed_ms in self.parts.items():
            metrics.add_time(f"{label}.{part}", key, elapsed_ms)
        metrics.add_time(label, key, self.elapsed_ms)

    def _log(
        self, name: str, key: Key, nbytes: int | None, cached: bool | None = None
    ) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "Store %r: %s %s in %.3f ms%s%s",
                self._store,
                name.upper(),
                mask(repr(key)),
                self.elapsed_ms,
                "" if nbytes is None else f", {nbytes} bytes",
                "" if cached is None else f" (cached={cached})",
            )


def object_name(key: Any) -> str:
    """Return what tells an object from others: the first thing in its own key."""
    if not isinstance(key, tuple | list) or not key:
        return str(key)
    inner = key[-1]  # of a connector that is made of several: the key in one of them
    return object_name(inner) if isinstance(inner, tuple | list) else str(key[0])


class Counters:
    """Counts, by name. Thread-safe."""

    _counts: dict[str, int]
    _inband: dict[str, int]
    #: Name of an object -> how often it was read; of the last :data:`READ`.
    _reads: OrderedDict[str, int]
    _lock: threading.Lock

    def __init__(self) -> None:
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._inband = dict.fromkeys(INBAND, 0)
        self._reads = OrderedDict()
        self._lock = make_lock()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to the count *name*, one of :data:`COUNTERS`."""
        with self._lock:
            self._counts[name] += amount

    def add_get(self, key: Key) -> None:
        """Count that an object was read."""
        name = object_name(key)
        with self._lock:
            self._counts["gets"] += 1
            self._reads[name] = self._reads.pop(name, 0) + 1
            if len(self._reads) > READ:
                self._reads.popitem(last=False)

    def reads(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Return how often objects were read, by name; by default of all known."""
        with self._lock:
            if names is None:
                return dict(self._reads)
            return {name: self._reads[name] for name in names if name in self._reads}

    def add_inband(self, reason: str) -> bool:
        """Count a large value that goes in-band; return whether it is the first.

        The first for *reason*, one of :data:`INBAND`.
        """
        with self._lock:
            self._inband[reason] += 1
            return self._inband[reason] == 1

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counts but those of values that went in-band."""
        with self._lock:
            return dict(self._counts)

    def inband(self) -> dict[str, int]:
        """Return how many large values went in-band, by reason."""
        with self._lock:
            return dict(self._inband)


class metered:
    """Report the time of a block to Dask's fine performance metrics, under a label.

    Nothing within a block may report to Dask as well: that time would count twice.
    """

    __slots__ = ("_begin", "_label")

    def __init__(self, label: str) -> None:
        self._label = label

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        context_meter.digest_metric(
            self._label, time.perf_counter() - self._begin, "seconds"
        )


_spent = threading.local()


def seconds_in_connectors() -> float:
    """Return the seconds that this thread has spent on reading stored bytes."""
    spent: float = getattr(_spent, "seconds", 0.0)
    return spent


def add_seconds_in_connectors(seconds: float) -> None:
    """Count seconds that this thread has spent on reading stored bytes."""
    _spent.seconds = seconds_in_connectors() + seconds
