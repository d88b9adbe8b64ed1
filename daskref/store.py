"""Stores: objects in, references and proxies out; the registry of stores by name."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any

from zict import LRU

from daskref.codec import decode, encode
from daskref.connectors.adapted import adapt
from daskref.connectors.base import Connector, Key
from daskref.connectors.registry import connector_path, load_connector
from daskref.exceptions import (
    ConnectorError,
    ConnectorUnavailableError,
    DaskrefError,
    MissingKeyError,
    NotProxiableError,
    ResolveError,
)
from daskref.metrics import Counters, metered
from daskref.origins import Origins
from daskref.proxy import Proxy, populate
from daskref.reference import Metadata, Reference, StoreConfig, describe

logger = logging.getLogger(__name__)

_registry: dict[str, Store] = {}
_registry_lock = threading.RLock()


class Store:
    """Put objects into a connector, get them back, make proxies of them.

    Parameters
    ----------
    name
        Name in the registry of stores.
    connector
        Where the bytes go.
    serializer, deserializer
        ``(obj) -> buffer`` and ``(buffer) -> obj`` in place of Dask's serialization.
    cache_size
        How many resolved objects :meth:`get` keeps; 0 for none.
    metrics
        Count and time operations with Dask's metrics as well.
    populate_target
        A proxy from :meth:`proxy` is resolved already, to the object it was made of.
        It still pickles as a reference.
    register
        Register the store under its name at once.
    counters
        What to count in; its own by default.

    Notes
    -----
    Thread-safe. Every method may block on the connector. :meth:`get` returns one
    shared object per key while it is cached, as ProxyStore's does;
    :meth:`get_reference` returns a new private one each time.
    """

    name: str
    connector: Connector
    counters: Counters
    _cache: LRU[Key, Any]
    _lock: threading.Lock
    _origins: Origins

    def __init__(
        self,
        name: str,
        connector: Connector,
        *,
        serializer: Callable[[Any], Any] | None = None,
        deserializer: Callable[[Any], Any] | None = None,
        cache_size: int = 16,
        metrics: bool = False,
        populate_target: bool = True,
        register: bool = False,
        counters: Counters | None = None,
    ) -> None:
        if cache_size < 0:
            raise ValueError(
                f"cache_size={cache_size} is not valid: expected 0 or more"
            )
        if (serializer is None) != (deserializer is None):
            raise ValueError("give serializer and deserializer, or neither")
        self.name = name
        self.connector = connector = adapt(connector)
        self.counters = counters if counters is not None else Counters()
        self._serializer = serializer
        self._deserializer = deserializer
        self._cache_size = cache_size
        self._metrics = metrics
        self._populate_target = populate_target
        self._cache = LRU(max(cache_size, 1), {})
        self._lock = threading.Lock()
        self._origins = Origins(connector)
        self._config = StoreConfig(
            name, connector_path(connector), tuple(connector.config().items())
        )
        if register:
            register_store(self)

    def __repr__(self) -> str:
        return f"<Store {self.name!r} on {self.connector!r}>"

    # Objects under keys

    def put(self, obj: Any) -> Key:
        """Write an object and return its key.

        Parameters
        ----------
        obj
            The object; not changed, not kept.

        Returns
        -------
        Key
            A key that no other object has or had.

        Raises
        ------
        NotProxiableError
            If the object does not serialize.
        ConnectorError
            If the store failed; nothing remains of the object then.
        """
        return self._write(obj)[0]

    def get(self, key: Key, default: Any = None) -> Any:
        """Return the object, or *default* if there is none.

        Parameters
        ----------
        key
            From :meth:`put`, in any process.
        default
            Returned if there is no such object.

        Returns
        -------
        object
            The same one at every call while it is cached: who changes it changes what
            others get.

        Raises
        ------
        WireError
            If *key* is none of the connector's, or daskref did not write the object.
        ConnectorError
            If the store failed.
        """
        with self._lock:
            if key in self._cache:
                return self._cache[key]
        try:
            obj = self._read(key)
        except MissingKeyError:
            return default
        if self._cache_size:
            with self._lock:
                self._cache[key] = obj
        return obj

    def exists(self, key: Key) -> bool:
        """Tell whether the object is in the store.

        Parameters
        ----------
        key
            From :meth:`put`, in any process.

        Returns
        -------
        bool
            What the connector says; the cache is not asked.
        """
        return self.connector.exists(key)

    def is_cached(self, key: Key) -> bool:
        """Tell whether :meth:`get` would answer without the connector.

        Parameters
        ----------
        key
            From :meth:`put`, in any process.

        Returns
        -------
        bool
            Does no I/O.
        """
        with self._lock:
            return key in self._cache

    def evict(self, key: Key) -> None:
        """Delete the object. Silent if it is not there.

        Parameters
        ----------
        key
            From :meth:`put`, in any process. What was read of the object stays valid.
        """
        with self._lock:
            self._cache.pop(key, None)
        self.connector.evict(key)
        self.counters.add("evictions")

    # References

    def put_reference(self, obj: Any, token: str | None = None) -> Reference:
        """Write an object and return a reference to it.

        Parameters
        ----------
        obj
            The object.
        token
            Its content hash, kept in the metadata.

        Returns
        -------
        Reference
            Of a new object, whatever is stored already.

        Raises
        ------
        NotProxiableError
            If the object, or its class, does not serialize.
        ConnectorError
            If the store failed; nothing remains of the object then.
        """
        key, nbytes = self._write(obj)
        try:
            metadata = describe(obj, nbytes, token)
        except Exception as exc:
            self.connector.evict(key)
            cls = type(obj)
            raise NotProxiableError(
                f"{cls.__module__}.{cls.__qualname__}",
                f"its class does not pickle ({exc!r})",
            ) from exc
        return self.refer(key, metadata)

    def refer(self, key: Key, metadata: Metadata) -> Reference:
        """Return a reference to a key of this store.

        Parameters
        ----------
        key
            From :meth:`put`; not looked up.
        metadata
            What is known of the object.

        Returns
        -------
        Reference
            Does no I/O.
        """
        return Reference(key, self._config, metadata)

    def get_reference(self, reference: Reference) -> Any:
        """Return a new private copy-on-write object for a reference.

        Raises
        ------
        MissingKeyError
            If it is not in the store.
        """
        obj = self._read(reference.key)
        self._origins.remember(obj, reference)
        return obj

    def relink(self, obj: Any, token: str | None = None) -> Reference | None:
        """Return a new reference to what came out of this store unchanged.

        See :meth:`daskref.origins.Origins.relink`.
        """
        return self._origins.relink(obj, token)

    def keep(self, obj: Any, release: Callable[[Key], None]) -> None:
        """Keep in the store what an object came from, for as long as the object lives.

        See :meth:`daskref.origins.Origins.keep`.
        """
        self._origins.keep(obj, release)

    # Proxies

    def proxy(self, obj: Any) -> Any:
        """Write an object and return a proxy of it.

        Parameters
        ----------
        obj
            The object. Kept in the proxy if the store was made with
            ``populate_target``.

        Returns
        -------
        Proxy
            Resolved already if the store was made with ``populate_target``; it pickles
            as a reference either way. The object stays until :meth:`evict`.
        """
        proxy = Proxy(StoreFactory(self.put_reference(obj)))
        if self._populate_target:
            populate(proxy, obj)
        return proxy

    # The store itself

    @property
    def config(self) -> StoreConfig:
        """How another process finds or makes this store."""
        return self._config

    @classmethod
    def from_config(
        cls, config: StoreConfig, counters: Counters | None = None
    ) -> Store:
        """Open the store that *config* describes; not registered.

        Parameters
        ----------
        config
            From another store's :attr:`config`, in any process.
        counters
            What to count in; its own by default.

        Returns
        -------
        Store
            A new one; the caller closes it.

        Raises
        ------
        ConnectorUnavailableError
            If this process cannot reach the place.
        ConfigError
            If there is no such connector here.
        """
        connector = load_connector(config.connector, dict(config.options))
        return cls(config.name, connector, counters=counters)

    def close(self) -> None:
        """Unregister the store and close its connector. A second call is silent."""
        with _registry_lock:
            if _registry.get(self.name) is self:
                del _registry[self.name]
        with self._lock:
            self._cache.clear()
        self._origins.close()
        self.connector.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, obj: Any, **hints: Any) -> tuple[Key, int]:
        if self._serializer is not None:
            frames, nbytes = [data := self._serializer(obj)], memoryview(data).nbytes
        else:
            frames, nbytes = encode(obj)
        put_frames = getattr(self.connector, "put_frames", None)
        if getattr(self.connector, "takes_hints", False):
            cls = type(obj)
            hints = {"type_name": f"{cls.__module__}.{cls.__qualname__}", **hints}
        try:
            with metered("daskref-put"):
                if put_frames is not None:
                    key = put_frames(frames, **hints)
                else:  # one of ProxyStore's
                    key = self.connector.put(b"".join(frames), **hints)
        except (DaskrefError, MemoryError) as exc:
            _forget_locals(exc)
            raise
        except Exception as exc:
            _forget_locals(exc)
            raise ConnectorError(
                repr(self.connector), f"a put of {nbytes} bytes failed ({exc!r})"
            ) from exc
        finally:
            del frames
        self.counters.add("puts")
        logger.debug("PUT %s %d bytes", key, nbytes)
        return key, nbytes

    def _read(self, key: Key) -> Any:
        with metered("daskref-get"):
            try:
                data = self.connector.get(key)
            except (DaskrefError, MemoryError):
                raise
            except Exception as exc:
                raise ConnectorError(
                    repr(self.connector), f"a get of {key!r} failed ({exc!r})"
                ) from exc
            if data is None:
                raise MissingKeyError(key, repr(self.connector))
            load = self._deserializer or decode
            obj = load(data)
        self.counters.add("gets")
        logger.debug("GET %s", key)
        return obj


def _forget_locals(exc: BaseException) -> None:
    """Let an error not keep alive, through its traceback, what could not be put."""
    while exc.__cause__ is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__cause__
    traceback.clear_frames(exc.__traceback__)


def get_store(name: str) -> Store | None:
    """Return the registered store of that name, or ``None``."""
    with _registry_lock:
        return _registry.get(name)


def register_store(store: Store, exist_ok: bool = False) -> None:
    """Register a store under its name.

    Raises
    ------
    ValueError
        If another store has the name and *exist_ok* is false.
    """
    with _registry_lock:
        if not exist_ok and _registry.get(store.name, store) is not store:
            raise ValueError(f"a store named {store.name!r} is registered already")
        _registry[store.name] = store


def unregister_store(name: str) -> None:
    """Forget a registered store, without closing it. Silent if there is none."""
    with _registry_lock:
        _registry.pop(name, None)


def get_or_create_store(config: StoreConfig) -> Store:
    """Return the registered store that *config* names, made of it if need be.

    However many threads ask, one store is made.
    """
    with _registry_lock:
        store = _registry.get(config.name)
        if store is None:
            store = _registry[config.name] = Store.from_config(config)
        return store


class StoreFactory:
    """What a proxy resolves with: a reference, in whichever process.

    Parameters
    ----------
    reference
        What to get.
    transparent
        Made by daskref inside Dask: resolved at the next task boundary, and before a
        result is handed out. The user never sees such a proxy.
    once
        There is one reader: resolving evicts. The bytes live on in what it returned.
    """

    __slots__ = ("once", "reference", "transparent")

    def __init__(
        self, reference: Reference, transparent: bool = False, once: bool = False
    ) -> None:
        self.reference = reference
        self.transparent = transparent
        self.once = once

    @property
    def metadata(self) -> Metadata:
        """What is known of the object."""
        return self.reference.metadata

    def __call__(self) -> Any:
        """Return a new private object for the reference."""
        obj = resolve_reference(self.reference)
        if self.once:
            get_or_create_store(self.reference.store).evict(self.reference.key)
        return obj

    def __repr__(self) -> str:
        return f"<StoreFactory of {self.reference!r}>"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self.reference.__dask_tokenize__()

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreFactory, (self.reference, self.transparent, self.once)


def resolve_reference(reference: Reference) -> Any:
    """Return a new private object for a reference. Blocks; never on an event loop.

    Raises
    ------
    ResolveError
        If the store cannot be reached, or the object is not there.
    """
    try:
        return get_or_create_store(reference.store).get_reference(reference)
    except ConnectorUnavailableError as exc:
        raise ResolveError(
            repr(reference),
            f"this process cannot reach its store ({exc}). References of one host's "
            "shared memory do not leave that host",
        ) from exc
    except (MissingKeyError, ConnectorError) as exc:
        raise ResolveError(repr(reference), str(exc)) from exc
