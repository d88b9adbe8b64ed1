"""Futures: proxies of objects that do not exist yet.

The store makes a key first; a holder of the future writes the object under it later.
Readers look for the object again and again, at growing intervals, for a bounded time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from daskref.exceptions import MissingKeyError, ResolveError, ResolveTimeoutError
from daskref.objects.codec import dump_failure, outcome
from daskref.objects.functions import PickledFunction, pickled_function
from daskref.objects.reference import Reference
from daskref.proxy.proxy import Proxy
from daskref.store._objects import ObjectStore
from daskref.store.factory import StoreFactory, resolving

T = TypeVar("T")


@dataclass(frozen=True)
class Polling:
    """When to look for an object, and for how long; ``None`` for no limit.

    Raises ValueError for a number out of range.
    """

    #: Seconds from the first look to the second.
    interval: float
    #: Length of a wait, relative to the one before.
    backoff_factor: float
    #: Longest wait in seconds.
    interval_limit: float | None
    #: Seconds in all.
    timeout: float | None

    def __post_init__(self) -> None:
        limit = self.interval_limit
        if not (self.interval > 0 and (limit is None or limit > 0)):
            raise ValueError(
                f"polling_interval={self.interval}, polling_interval_limit={limit} is "
                "not valid: expected more than 0 seconds"
            )
        if not self.backoff_factor >= 1:
            raise ValueError(
                f"polling_backoff_factor={self.backoff_factor} is not valid: expected "
                "1 or more"
            )
        if self.timeout is not None and not self.timeout >= 0:
            raise ValueError(
                f"polling_timeout={self.timeout} is not valid: expected 0 or more "
                "seconds"
            )

    def looks(self) -> Iterator[None]:
        """Yield at each time to look: once at least, the last time at the timeout."""
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        interval = self.interval
        while True:
            late = deadline is not None and time.monotonic() >= deadline
            yield
            if late:
                return
            wait = interval
            if deadline is not None:
                wait = min(wait, max(deadline - time.monotonic(), 0))
            time.sleep(wait)
            interval *= self.backoff_factor
            if self.interval_limit is not None:
                interval = min(interval, self.interval_limit)


class FutureFactory(StoreFactory):
    """The factory of a future's proxies: waits for the object."""

    __slots__ = ("polling",)

    def __init__(
        self,
        reference: Reference,
        polling: Polling,
        once: bool = False,
        deserializer: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(reference, once=once, shared=True, deserializer=deserializer)
        self.polling = polling

    def wait(self, polling: Polling) -> Any:
        """Return the object as soon as it is there.

        Raises ResolveTimeoutError if it is not there in time, and the exception that
        :meth:`Future.set_exception` was given.
        """
        begin = time.monotonic()

        def read(store: ObjectStore) -> Any:
            for _ in polling.looks():
                try:
                    return self._look(store)
                except MissingKeyError as exc:
                    missing = exc
            advice = (
                "Look whether the process that should call set_result has failed, or "
                "give it more time (polling_timeout)"
            )
            if self.once:
                advice += (
                    "; or another copy of the proxy, whose object was single-use "
                    "(evict=True), has resolved"
                )
            raise ResolveTimeoutError(
                repr(self.reference),
                f"the future was not set within {time.monotonic() - begin:.3g} s. "
                f"{advice}",
            ) from missing

        return outcome(resolving(self.reference, read))

    def __call__(self) -> Any:
        """Return the object as soon as it is there. Blocks; never on an event loop."""
        return self.wait(self.polling)

    def __reduce__(self) -> tuple[Any, ...]:
        return FutureFactory, (
            self.reference,
            self.polling,
            self.once,
            self.deserializer,
        )


class Future(Generic[T]):
    """An object that will be made later; from :meth:`daskref.Store.future`.

    Parameters
    ----------
    factory
        The factory of its proxies.
    serializer
        ``(obj) -> bytes`` for :meth:`set_result`, in place of the store's.

    Notes
    -----
    Pickles; every copy, in any process, is the same future. It may be set once: the
    first to set it wins, unless two do so at the same moment.

    Examples
    --------
    >>> from daskref import Store
    >>> from daskref.connectors import LocalConnector
    >>> with Store("futures", LocalConnector(), register=True) as store:
    ...     future = store.future()
    ...     proxy = future.proxy()
    ...     future.set_result([1, 2, 3])
    ...     sum(proxy)
    6
    """

    def __init__(
        self, factory: FutureFactory, *, serializer: Callable[[Any], Any] | None = None
    ) -> None:
        self._factory = factory
        self._serializer: PickledFunction | None = pickled_function(serializer)

    def __repr__(self) -> str:
        return f"<Future of {self._factory.reference!r}>"

    def done(self) -> bool:
        """Tell whether the result, or an exception, is there.

        False again once the object was deleted: a single-use one by its reader.

        Raises
        ------
        ConnectorError
            If the store failed.
        """
        return self._factory.get_store().exists(self._factory.key)

    def proxy(self) -> Proxy[T]:
        """Return a proxy that resolves to the result.

        Its first use waits for the result, for as long as the future was made to. An
        exception that was set is the cause of the ``ResolveError`` that the use raises.
        """
        return Proxy(self._factory)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result and return it.

        Parameters
        ----------
        timeout
            Seconds; default: that of the future.

        Raises
        ------
        ResolveTimeoutError
            If the future was not set in time. It is a ``TimeoutError``.
        Exception
            The exception that :meth:`set_exception` was given.
        """
        polling = self._factory.polling
        if timeout is not None:
            polling = replace(polling, timeout=timeout)
        result: T = self._factory.wait(polling)
        return result

    def set_result(self, obj: T) -> None:
        """Set the result, for all that wait for it.

        Raises
        ------
        ResolveError
            If the future is set already.
        NotProxiableError
            If the object does not serialize.
        ConnectorError
            If the store failed. The future can be set again then.
        """
        self._settable().set(self._factory.key, obj, serializer=self._serializer)

    def set_exception(self, exception: BaseException) -> None:
        """Set an exception, for all that wait for the result.

        Parameters
        ----------
        exception
            If it does not pickle, its text travels. Its traceback travels as a note, as
            text.

        Raises
        ------
        TypeError
            If it is no exception.
        ResolveError
            If the future is set already.
        ConnectorError
            If the store failed. The future can be set again then.
        """
        if not isinstance(exception, BaseException):
            raise TypeError(
                f"set_exception() takes an exception, not a {type(exception).__name__}"
            )
        data = dump_failure(exception)
        self._settable().set(self._factory.key, data, serializer=lambda data: data)

    def _settable(self) -> ObjectStore:
        store = self._factory.get_store()
        if store.exists(self._factory.key):
            raise ResolveError(repr(self), "it is set already, and is set only once")
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_future, (self._factory, self._serializer)


def _make_future(
    factory: FutureFactory, serializer: PickledFunction | None
) -> Future[Any]:
    return Future(factory, serializer=serializer)
