"""Where objects came from: what came out of a store is never put again."""

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

    Parameters
    ----------
    connector
        That of the store. One that cannot link gives every object away as new.
    load
        ``(bytes, key, deserializer, seal) -> object``, as the store does it.

    Notes
    -----
    Thread-safe. Objects without weak references (lists, bytes, text) are not known: a
    later put makes a new object of them.
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
        """Take note of an object that was just got."""
        number, origins = id(obj), self.origins
        with suppress(TypeError):  # no weak references to it
            ref = weakref.ref(obj, lambda _: origins.pop(number, None))
            origins[number] = (ref, reference)

    def relink(self, obj: Any, token: str | None = None) -> Reference | None:
        """Return a new reference to an object that came out of the store unchanged.

        Nothing is copied: the stored object gets a second key, with a life of its own.
        Returns ``None`` if the object is another, has been changed, or is not in the
        store any more.
        """
        origin = self._find(obj)
        if origin is None:
            return None
        token = token or encode(obj).token
        if token != origin.metadata.token:
            # Nothing may have changed all the same: what was put had another form, such
            # as columns in chunks. What comes out has the same form every time.
            data = self._connector.get(origin.key)
            if data is None:
                return None
            again = self._load(data, origin.key, None, origin.metadata.seal)
            if encode(again).token != token:
                return None
        key = self._connector.link(origin.key)
        return None if key is None else self._moved(origin, key)

    def keep(self, obj: Any, release: Callable[[Key], None]) -> None:
        """Keep in the store what an object came from, for as long as the object lives.

        Others may evict the key that it was got by; :meth:`relink` still works then.
        That costs no memory: the object has the stored pages mapped.

        Parameters
        ----------
        obj
            Any object; silent if it is not from the store, or is not there any more.
        release
            ``(key) -> None``: to evict that key, soon. Called by the garbage collector,
            in any thread: it may do no I/O and wait for no locks.
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
        """Evict what was kept. A second call is silent."""
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
