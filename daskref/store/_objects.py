"""Objects under keys, and references to them: what a store is without proxies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Protocol

from daskref.connectors.base import Connector, Key
from daskref.connectors.registry import as_connector, connector_path
from daskref.exceptions import MissingKeyError, StoreExistsError
from daskref.objects.cards import card
from daskref.objects.codec import Encoded, outcome
from daskref.objects.functions import Dump, Load, pickled_function
from daskref.objects.reference import Metadata, Reference, StoreConfig, describe
from daskref.objects.signing import Signer, forget_key, known_key, remember_key
from daskref.store._provenance import Provenance
from daskref.store._reading import Reader
from daskref.store._registry import register_store, unregister_store
from daskref.store._writing import Writer
from daskref.store.mapped import note
from daskref.store.metrics import Counters, Operation, StoreMetrics

if TYPE_CHECKING:
    from typing import Self

#: The public name of what is in this module.
logger = logging.getLogger("daskref.store")


class Lifetime(Protocol):
    """What ends the life of the objects that were given to it."""

    def add_key(self, *keys: Key, store: Any = None) -> None:
        """Evict the objects when the lifetime ends."""


class ObjectStore:
    """Put objects into a connector, and get them back; see :class:`daskref.Store`."""

    name: str
    connector: Connector
    counters: Counters
    #: What the store did in this process; ``None`` unless made with ``metrics``.
    metrics: StoreMetrics | None
    #: Objects that came out of the store: what gives them new references.
    provenance: Provenance
    _writer: Writer
    _reader: Reader

    # `Store[FileConnector]`, as ProxyStore's programs have it in annotations
    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(
        self,
        name: str,
        connector: Any,
        *,
        serializer: Dump | None = None,
        deserializer: Load | None = None,
        cache_size: int = 16,
        metrics: bool = False,
        populate_target: bool = True,
        register: bool = False,
        counters: Counters | None = None,
        signing_key: bytes | None = None,
    ) -> None:
        if cache_size < 0:
            raise ValueError(f"{cache_size=} is not valid: expected 0 or more")
        if (serializer is None) != (deserializer is None):
            raise ValueError("give serializer and deserializer, or neither")
        signer = None if signing_key is None else Signer(name, signing_key)
        self.name = name
        given = connector
        self.connector = connector = as_connector(given)
        self.counters = counters if counters is not None else Counters()
        self.metrics = StoreMetrics() if metrics else None
        dump, load = pickled_function(serializer), pickled_function(deserializer)
        self._writer = Writer(
            name, connector, dump, self.counters, self.metrics, signer
        )
        self._reader = Reader(
            name, connector, load, self.counters, self.metrics, signer, cache_size
        )
        self.provenance = Provenance(connector, self._reader.load)
        self._config = StoreConfig(
            name,
            connector_path(connector),
            tuple(connector.config().items()),
            dump,
            load,
            cache_size,
            metrics,
            populate_target,
            signer is not None,
        )
        self._told_key = signing_key is not None
        if signing_key is not None:
            remember_key(name, signing_key)
        if register:
            try:
                register_store(self)
            except StoreExistsError:
                if isinstance(given, str | Mapping):  # nobody else could close it
                    connector.close()
                raise
        logger.info("Initialized %r", self)

    def __repr__(self) -> str:
        return f"<Store {self.name!r} on {self._writer.where}>"

    def _repr_html_(self) -> str:
        return card("Store", self.name, {"Connector": self._writer.where})

    # Objects under keys

    def put(
        self,
        obj: Any,
        *,
        serializer: Dump | None = None,
        lifetime: Lifetime | None = None,
        **hints: Any,
    ) -> Key:
        """Write an object and return its key.

        Parameters
        ----------
        obj
            The object; not changed, not kept.
        serializer
            ``(obj) -> buffer`` in place of the store's.
        lifetime
            What evicts the object when it ends, by ``add_key(key, store=store)``.
        **hints
            Keywords for the connector, if it takes any.

        Returns
        -------
        Key
            No other object has or had it.

        Raises
        ------
        NotProxiableError
            If the object does not serialize.
        TypeError
            If a serializer returns no buffer, or the connector takes no hints.
        ConnectorError
            If the store failed; nothing remains of the object then.
        """
        key = self._writer.put(obj, serializer, hints).key
        self._attach(lifetime, [key])
        return key

    def put_batch(
        self,
        objs: Sequence[Any],
        *,
        serializer: Dump | None = None,
        lifetime: Lifetime | None = None,
        **hints: Any,
    ) -> list[Key]:
        """Write several objects, in one go where the connector can; see :meth:`put`.

        After an error nothing remains of any of them, unless the connector's own batch
        leaves something behind.
        """
        written = self._writer.put_batch(list(objs), serializer, hints)
        keys = [each.key for each in written]
        self._attach(lifetime, keys)
        return keys

    def get(
        self, key: Key, default: Any = None, *, deserializer: Load | None = None
    ) -> Any:
        """Return the object, or *default* if there is none.

        Parameters
        ----------
        key
            From :meth:`put`, in any process.
        default
            Returned if there is no such object.
        deserializer
            ``(bytes) -> obj`` in place of the store's; then the cache has no part.

        Returns
        -------
        object
            The same one at every call while it is cached: a change shows to all.

        Raises
        ------
        WireError
            If *key* is none of the connector's, daskref did not write the object, or a
            deserializer failed.
        ConnectorError
            If the store failed.
        """
        try:
            return outcome(self._reader.share(key, deserializer))
        except MissingKeyError:
            return default

    def exists(self, key: Key) -> bool:
        """Tell whether the object is in the store; the cache is not asked."""
        operation = Operation(self.name, self.metrics)
        with operation.part("connector"):
            found = self.connector.exists(key)
        operation.done("exists", key)
        return found

    def is_cached(self, key: Key) -> bool:
        """Tell whether :meth:`get` would answer without the connector. No I/O."""
        return self._reader.is_cached(key)

    def evict(self, key: Key) -> None:
        """Delete the object; what was read of it stays valid. Silent if it is gone."""
        self._reader.forget(key)
        self._writer.evict(key)

    def _attach(self, lifetime: Lifetime | None, keys: Sequence[Key]) -> None:
        if lifetime is None:
            return
        try:
            lifetime.add_key(*keys, store=self)
        except BaseException:
            for key in keys:
                self.connector.evict(key)
            raise

    def set(self, key: Key, obj: Any, *, serializer: Dump | None = None) -> None:
        """Write an object under the key of a future; see :meth:`Future.set_result`.

        Raises as :meth:`put` does, and NotDeferrableError if the connector makes no
        keys for objects to come.
        """
        self._writer.set(key, obj, serializer)

    # References

    def put_reference(
        self, obj: Any, token: str | None = None, encoded: Encoded | None = None
    ) -> Reference:
        """Write an object, equal ones or not, and return a reference; see :meth:`put`.

        Parameters
        ----------
        token
            Content hash of the object, kept in the metadata.
        encoded
            The object as :func:`~daskref.objects.codec.encode` returned it.
        """
        key, nbytes, _, seal = self._writer.put(obj, encoded=encoded)
        return self.refer(key, describe(obj, nbytes, token, seal))

    def refer(self, key: Key, metadata: Metadata) -> Reference:
        """Return a reference to a key of this store, which is not looked up. No I/O."""
        return Reference(key, self._config, metadata)

    def get_reference(
        self, reference: Reference, deserializer: Load | None = None
    ) -> Any:
        """Return a new private copy-on-write object for a reference.

        Parameters
        ----------
        reference
            From this store, in any process.
        deserializer
            ``(bytes) -> obj`` in place of the store's.

        Raises
        ------
        MissingKeyError
            If it is not in the store.
        SignatureError
            If it is not the object that was put.
        """
        return outcome(self.read(reference, deserializer))

    def get_memory(self, reference: Reference) -> memoryview:
        """Return the stored bytes, mapped if that can be; raises as get_reference."""
        view = self._reader.memory(reference.key, reference.metadata.seal)
        note(reference, view)
        return view

    def read(
        self,
        reference: Reference,
        deserializer: Load | None = None,
        *,
        once: bool = False,
        shared: bool = False,
    ) -> Any:
        """Return the object for a reference, or a failure in its place.

        Parameters
        ----------
        reference, deserializer
            See :meth:`get_reference`.
        once
            Whether the object is deleted: only one caller gets it.
        shared
            Whether it comes through the cache. By default it is a private one.

        Raises
        ------
        MissingKeyError, SignatureError
            See :meth:`get_reference`.
        """
        key, seal = reference.key, reference.metadata.seal
        if once:
            self._reader.forget(key)
            return self._reader.take(key, deserializer, seal)
        if shared:
            return self._reader.share(key, deserializer, seal)
        obj = self._reader.get(key, deserializer, seal, partial(note, reference))
        if deserializer is None:
            self.provenance.remember(obj, reference)
        return obj

    def link(self, reference: Reference) -> Reference | None:
        """Return a reference of its own life to the same object; no copy.

        ``None`` if the object is gone, or the connector cannot do this.
        """
        key = self.connector.link(reference.key)
        return None if key is None else Reference(key, self._config, reference.metadata)

    # The store itself

    def config(self) -> StoreConfig:
        """Return how another process finds or makes this store; without secrets."""
        return self._config

    @classmethod
    def from_config(cls, config: StoreConfig, counters: Counters | None = None) -> Self:
        """Open the store that *config* describes. The caller closes it.

        Parameters
        ----------
        config
            From another store's :meth:`config`, in any process; or written by a user,
            who may ask for the store to be registered.
        counters
            What to count in; its own by default.

        Raises
        ------
        ConnectorUnavailableError
            If this process cannot reach the place.
        ConfigError
            If there is no such connector here.
        StoreExistsError
            If it is to be registered, and another store has the name.
        """
        connector = config.written().get_connector()
        try:
            store = cls(
                config.name,
                connector,
                serializer=config.serializer,
                deserializer=config.deserializer,
                cache_size=config.cache_size,
                metrics=config.metrics,
                populate_target=config.populate_target,
                counters=counters,
            )
            if config.signed:  # without the key, evicting and the like still work
                signer = Signer(config.name, known_key(config.name))
                store._writer.signer = store._reader.signer = signer
                store._config = store._config._replace(signed=True)
            if config.auto_register:
                register_store(store)
        except BaseException:
            connector.close()
            raise
        return store

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Unregister the store and close its connector. A second call is silent.

        Arguments are for the connector's ``close``, if it takes any.
        """
        unregister_store(self)
        self._reader.clear()
        self.provenance.close()
        if self._told_key:
            forget_key(self.name)
        self.connector.close(*args, **kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
