"""Where objects came from: an object that came out of a store is not put again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from daskref.connectors.base import Connector, Key
from daskref.exceptions import DaskrefError
from daskref.objects.codec import encode
from daskref.objects.reference import Reference


class Provenance:
    """The living objects that one process got out of one store, and their references.

    Thread-safe. Objects without weak references (lists, bytes, text) are not known: a
    later put makes a new object of them.

    Parameters
    ----------
    connector
        That of the store. One that cannot link stores every object anew.
    load
        ``(bytes, key, deserializer, seal) -> object``, as the store does it.
    """

    #: id of an object -> itself, weakly, and where it came from; to look, not to write
    origins: dict[int, tuple[weakref.ref[Any], Reference]]
    #: id of an object -> a key of its own, for as long as it lives
    _kept: dict[int, Key]

    def __init__(self, connector: Connector, load: Callable[..., Any]) -> None:
        self._connector = connector
        self._load = load
        self.origins = {}
        self._kept = {}

    def __len__(self) -> int:
        return len(self.origins)

    def remember(self, obj: Any, reference: Reference) -> None:
        """Record an object that was just got."""
        number, origins = id(obj), self.origins
        with suppress(TypeError):  # no weak references to it
            ref = weakref.ref(obj, lambda _: origins.pop(number, None))
            origins[number] = (ref, reference)

    def relink(self, obj: Any, token: str | None = None) -> Reference | None:
        """Return a new reference to an object that came out of the store unchanged.

        Nothing is copied: the stored object gets a second key, with a life of its own.
        Returns ``None`` for an object from elsewhere, for a changed one, and for one
        that is not in the store any more.
        """
        origin = self._find(obj)
        if origin is None:
            return None
        token = token or encode(obj).token
        if token != origin.metadata.token:
            # The object may be unchanged all the same, if it had another form when it
            # was put, as with columns in chunks. Later, its form stays the same.
            data = self._connector.get(origin.key)
            if data is None:
                return None
            again = self._load(data, origin.key, None, origin.metadata.seal)
            if encode(again).token != token:
                return None
        key = self._connector.link(origin.key)
        return None if key is None else self._moved(origin, key)

    def keep(self, obj: Any, release: Callable[[Key], None]) -> None:
        """Keep the stored object of *obj* for as long as *obj* lives.

        The key that *obj* was got by may be evicted; :meth:`relink` still works then.
        That costs no memory: *obj* has the stored pages mapped. Silent if *obj* is not
        from the store, or its stored object is gone.

        *release*: ``(key) -> None``, evicts the key of that object soon. The garbage
        collector calls it, in any thread: it may do no I/O and wait for no locks.
        """
        number, origins, kept = id(obj), self.origins, self._kept
        origin = self._find(obj)
        if origin is None or number in kept:
            return
        key = self._connector.link(origin.key)
        if key is None:
            return

        def released(_: object) -> None:
            origins.pop(number, None)
            if kept.pop(number, None) is not None:
                release(key)

        kept[number] = key
        origins[number] = (weakref.ref(obj, released), self._moved(origin, key))

    def close(self) -> None:
        """Evict the kept objects. A second call is silent."""
        kept, self._kept = self._kept, {}
        for key in list(kept.values()):
            with suppress(DaskrefError):
                self._connector.evict(key)

    def _find(self, obj: Any) -> Reference | None:
        ref, origin = self.origins.get(id(obj), (None, None))
        return origin if ref is not None and ref() is obj else None

    @staticmethod
    def _moved(origin: Reference, key: Key) -> Reference:
        return Reference(key, origin.store, origin.metadata)
