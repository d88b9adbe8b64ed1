"""Stores: objects in, references and proxies out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from daskref.connectors.base import Key
from daskref.exceptions import NotProxiableError
from daskref.objects.codec import decode
from daskref.objects.functions import Dump, Load
from daskref.objects.reference import Reference, StoreConfig, describe, unknown
from daskref.proxy import ProxyLocker
from daskref.proxy.proxy import Proxy, reference_of
from daskref.proxy.states import is_proxy, populate
from daskref.store import _registry
from daskref.store._future import Future, FutureFactory, Polling
from daskref.store._objects import Lifetime, ObjectStore
from daskref.store.factory import StoreFactory as StoreFactory
from daskref.store.metrics import Operation

if TYPE_CHECKING:
    from daskref.ownership import OwnedProxy

T = TypeVar("T")
P = TypeVar("P", bound=Proxy[Any])

#: Seconds for which proxies of a future wait for it, by default.
FUTURE_TIMEOUT = 3600.0
#: Of these a proxy would lie to `is` and `if`, and they are smaller than a proxy.
_NOT_PROXIABLE = (bool, NoneType)


class Store(ObjectStore):
    """Put objects into a connector, get them back, make proxies of them.

    Parameters
    ----------
    name
        Name in the registry of stores.
    connector
        Where the bytes go: one of daskref's, or of ProxyStore's, or a spec of one,
        such as ``"file:///directory"``.
    serializer, deserializer
        ``(obj) -> buffer`` and ``(bytes) -> obj`` in place of Dask's serialization;
        both or neither. They go along with every proxy, pickled.
    cache_size
        How many objects :meth:`get`, and proxies, keep for the next who asks; 0 for
        none.
    metrics
        Keep :attr:`metrics`.
    populate_target
        A proxy from :meth:`proxy` is resolved already, to the object it was made of.
        It still pickles as a reference.
    register
        Register the store under its name at once.
    counters
        What to count in; its own by default.
    signing_key
        At least 16 bytes, as ``secrets.token_bytes(32)`` makes them. What is put is
        signed, and nothing is unpickled that nobody with the key has put: see the page
        *Security* of the documentation. Proxies say that the store is signed, and not
        with which key: other processes have to know it, see
        :func:`daskref.objects.signing.remember_key`.

    Raises
    ------
    ValueError
        If an argument makes no sense.
    ConfigError
        If *connector* is none.
    StoreExistsError
        If another store has the name and *register* is true.

    Notes
    -----
    Thread-safe. Every method may block on the connector. While an object is cached,
    :meth:`get` and the proxies of its key in one process share it, as in ProxyStore: a
    caller who changes it changes what others get. :meth:`get_reference` returns a new
    private object each time.

    Each put, get, proxy and eviction is logged at level DEBUG, to ``daskref.store``.

    Examples
    --------
    >>> from daskref.connectors import LocalConnector
    >>> with Store("example", LocalConnector(), register=True) as store:
    ...     proxy = store.proxy([1, 2, 3])
    ...     sum(proxy)
    6
    """

    def proxy(
        self,
        obj: T,
        evict: bool = False,
        *,
        lifetime: Lifetime | None = None,
        populate_target: bool | None = None,
        serializer: Dump | None = None,
        deserializer: Load | None = None,
        skip_nonproxiable: bool = False,
        **hints: Any,
    ) -> Proxy[T]:
        """Write an object and return a proxy of it.

        Parameters
        ----------
        obj
            The object.
        evict
            Whether the object is single-use: the first copy of the proxy that resolves
            deletes it, and every other raises a ``ResolveError``. A populated proxy
            has its target already.
        lifetime
            What evicts the object when it ends; not together with *evict*.
        populate_target
            Whether the proxy is resolved already, to *obj*; with a serializer or
            deserializer of the user's, to what a reader will see. ``None``: as the
            store was made.
        serializer, deserializer
            ``(obj) -> buffer`` and ``(bytes) -> obj`` in place of the store's. The
            deserializer travels with the proxy.
        skip_nonproxiable
            Whether ``None``, ``True`` and ``False`` are returned as they are.
        **hints
            Keywords for the connector, if it takes any.

        Returns
        -------
        Proxy
            It pickles as a reference. Type, hash, length and shape are known in every
            process without a fetch, unless a user's serializer or deserializer made an
            object that no populated proxy has seen. The object stays until
            :meth:`evict`, or *lifetime*.

        Raises
        ------
        NotProxiableError
            If the object does not serialize; if it is ``None``, ``True`` or ``False``,
            which a proxy cannot stand for (``proxy is None`` is never true), and
            *skip_nonproxiable* is false.
        ValueError
            If *evict* and *lifetime* are both given.
        ConnectorError
            If the store failed; nothing remains of the object then.
        """
        return self._make(
            Proxy,
            [obj],
            evict,
            lifetime=lifetime,
            populate_target=populate_target,
            serializer=serializer,
            deserializer=deserializer,
            skip_nonproxiable=skip_nonproxiable,
            **hints,
        )[0]

    def proxy_batch(
        self, objs: Sequence[T], evict: bool = False, **options: Any
    ) -> list[Proxy[T]]:
        """Write several objects, in one go where the connector can.

        Parameters
        ----------
        objs
            The objects.
        evict, **options
            See :meth:`proxy`.

        Returns
        -------
        list of Proxy
            In the same order. After an error, which is one of those of :meth:`proxy`,
            there is a proxy of none of them.
        """
        operation = Operation(self.name, self.metrics)
        made = self._make(Proxy, objs, evict, **options)
        keys = [reference_of(proxy).key for proxy in made if is_proxy(proxy)]
        operation.done_batch("proxy_batch", keys)
        return made

    def proxy_from_key(
        self,
        key: Key,
        evict: bool = False,
        *,
        lifetime: Lifetime | None = None,
        deserializer: Load | None = None,
    ) -> Proxy[Any]:
        """Return an unresolved proxy of an object that is in the store already.

        Parameters
        ----------
        key
            From :meth:`put`; not looked up.
        evict, lifetime, deserializer
            See :meth:`proxy`; the first two exclude each other.
        """
        _check_exclusive(evict, lifetime)
        operation = Operation(self.name, self.metrics)
        if lifetime is not None:
            lifetime.add_key(key, store=self)
        reference = Reference(key, self._config, unknown())
        proxy: Proxy[Any] = Proxy(
            StoreFactory(reference, once=evict, shared=True, deserializer=deserializer)
        )
        operation.done("proxy_from_key", key)
        return proxy

    def locked_proxy(
        self,
        obj: T,
        evict: bool = False,
        *,
        skip_nonproxiable: bool = True,
        **options: Any,
    ) -> ProxyLocker[Proxy[T]]:
        """Write an object and return a proxy of it that nobody can use by mistake.

        Parameters
        ----------
        obj, evict, skip_nonproxiable, **options
            See :meth:`proxy`, which also tells the errors.

        Returns
        -------
        ProxyLocker
            Its ``unlock()`` returns the proxy.
        """
        proxy = self.proxy(obj, evict, skip_nonproxiable=skip_nonproxiable, **options)
        return ProxyLocker(proxy) if is_proxy(proxy) else proxy

    def owned_proxy(
        self,
        obj: T,
        *,
        populate_target: bool | None = None,
        serializer: Dump | None = None,
        deserializer: Load | None = None,
        skip_nonproxiable: bool = True,
        **hints: Any,
    ) -> OwnedProxy[T]:
        """Write an object and return the proxy that owns it.

        Parameters
        ----------
        obj, populate_target, serializer, deserializer, skip_nonproxiable, **hints
            See :meth:`proxy`, which also tells the errors.

        Returns
        -------
        OwnedProxy
            The object is evicted when it is dropped; see :mod:`daskref.ownership`.
        """
        from daskref.ownership import OwnedProxy

        return self._make(
            OwnedProxy,
            [obj],
            False,
            lifetime=None,
            populate_target=populate_target,
            serializer=serializer,
            deserializer=deserializer,
            skip_nonproxiable=skip_nonproxiable,
            **hints,
        )[0]

    def _make(
        self,
        kind: Callable[[StoreFactory], P],
        objs: Sequence[Any],
        evict: bool,
        *,
        lifetime: Lifetime | None = None,
        populate_target: bool | None = None,
        serializer: Dump | None = None,
        deserializer: Load | None = None,
        skip_nonproxiable: bool = False,
        **hints: Any,
    ) -> list[P]:
        """Write objects and return proxies of them."""
        _check_exclusive(evict, lifetime)
        operation = Operation(self.name, self.metrics)
        given = list(objs)
        proxiable = [obj for obj in given if type(obj) not in _NOT_PROXIABLE]
        if len(proxiable) < len(given) and not skip_nonproxiable:
            raise NotProxiableError(
                "bool or NoneType",
                "a proxy of it would be neither None, True nor False. Pass the value "
                "itself, or skip_nonproxiable=True",
            )
        if populate_target is None:
            populate_target = self._config.populate_target
        # What the user's own functions make of an object is known by trying only.
        own = serializer, deserializer, self._config.serializer
        plain = own == (None, None, None)
        view = None
        if populate_target and not plain:
            view = deserializer or self._config.deserializer or decode
        written = self._writer.put_batch(proxiable, serializer, hints, view)
        made = []
        try:
            for each, obj in zip(written, proxiable, strict=True):
                target = obj if plain else each.view
                metadata = unknown(each.nbytes, seal=each.seal)
                if (plain or populate_target) and not is_proxy(target):
                    metadata = describe(target, each.nbytes, seal=each.seal)
                reference = Reference(each.key, self._config, metadata)
                factory = StoreFactory(
                    reference, once=evict, shared=True, deserializer=deserializer
                )
                proxy = kind(factory)
                if populate_target:
                    populate(proxy, target)
                made.append(proxy)
                operation.done("proxy", each.key)
        except BaseException:
            for each in written:
                self.connector.evict(each.key)
            raise
        if written and lifetime is not None:
            self._attach(lifetime, [each.key for each in written])
        rest = iter(made)
        return [obj if type(obj) in _NOT_PROXIABLE else next(rest) for obj in given]

    def future(
        self,
        *,
        evict: bool = False,
        serializer: Dump | None = None,
        deserializer: Load | None = None,
        polling_interval: float = 0.01,
        polling_backoff_factor: float = 1.5,
        polling_interval_limit: float | None = 1.0,
        polling_timeout: float | None = FUTURE_TIMEOUT,
    ) -> Future[Any]:
        """Return a future: a key, and proxies, of an object that is not there yet.

        Parameters
        ----------
        evict
            Whether the result is single-use; see :meth:`proxy`.
        serializer, deserializer
            ``(obj) -> buffer`` and ``(bytes) -> obj`` in place of the store's. Both
            travel with the future.
        polling_interval, polling_backoff_factor, polling_interval_limit
            A reader looks again after so many seconds; each wait is the factor times
            the one before, and at most the limit (``None``: no limit).
        polling_timeout
            Seconds until a reader raises
            :class:`~daskref.exceptions.ResolveTimeoutError`; ``None``: never.

        Returns
        -------
        Future
            It pickles: whoever has a copy may set the result, or wait for it.

        Raises
        ------
        NotDeferrableError
            If the connector makes no keys for objects to come.
        ValueError
            If a number makes no sense.
        """
        polling = Polling(
            polling_interval,
            polling_backoff_factor,
            polling_interval_limit,
            polling_timeout,
        )
        operation = Operation(self.name, self.metrics)
        with operation.part("connector"):
            key = self._writer.new_key()
        reference = Reference(key, self._config, unknown())
        factory = FutureFactory(reference, polling, evict, deserializer)
        operation.done("future", key)
        return Future(factory, serializer=serializer)


def _check_exclusive(evict: bool, lifetime: object) -> None:
    if evict and lifetime is not None:
        raise ValueError(
            "evict=True and a lifetime exclude each other: either the first reader "
            "deletes the object, or the end of the lifetime does"
        )


def _make(config: StoreConfig) -> Store:
    # whoever asked for it registers it
    return Store.from_config(config._replace(auto_register=False))


_registry.make = _make
