"""What proxies of stored objects resolve with, in whichever process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from daskref.connectors.base import Key
from daskref.exceptions import (
    ConnectorError,
    ConnectorUnavailableError,
    DaskrefError,
    MissingKeyError,
    ObjectLostError,
    ResolveError,
)
from daskref.objects.codec import outcome
from daskref.objects.functions import PickledFunction, pickled_function
from daskref.objects.reference import Metadata, Reference, StoreConfig
from daskref.proxy.proxy import get_factory, is_proxy
from daskref.store._objects import ObjectStore
from daskref.store._registry import get_or_make


class StoreFactory:
    """What a proxy resolves with: a reference.

    Parameters
    ----------
    transparent
        Made by daskref inside Dask: resolved at the next task boundary, and before a
        result is handed out. The user never sees such a proxy.
    once
        There is one reader: resolving deletes the object. The bytes live on in what it
        returned.
    shared
        Resolve through the cache of the store: proxies of one object then share it, as
        ProxyStore's do. Otherwise each call returns a private object.
    deserializer
        ``(bytes) -> object`` in place of the store's.

    Notes
    -----
    Unpickling one imports nothing for the sake of the object or the deserializer.
    """

    __slots__ = ("deserializer", "once", "reference", "shared", "transparent")

    def __init__(
        self,
        reference: Reference,
        transparent: bool = False,
        once: bool = False,
        shared: bool = False,
        deserializer: Callable[[Any], Any] | None = None,
    ) -> None:
        self.reference = reference
        self.transparent = transparent
        self.once = once
        self.shared = shared
        self.deserializer: PickledFunction | None = (
            None if deserializer is None else pickled_function(deserializer)
        )

    @property
    def metadata(self) -> Metadata | None:
        """What is known of the object; ``None`` if nothing is."""
        metadata = self.reference.metadata
        return metadata if metadata.known else None

    @property
    def is_leased(self) -> bool:
        """Whether the object lives by a lease, for as long as its proxies do."""
        return not (self.transparent or self.shared)

    @property
    def key(self) -> Key:
        """The object's key."""
        return self.reference.key

    @property
    def store_config(self) -> StoreConfig:
        """How to reach the store."""
        return self.reference.store

    def get_store(self) -> ObjectStore:
        """Return the store; made of its configuration if this process has none."""
        store: ObjectStore = get_or_make(self.reference.store)
        return store

    def __call__(self) -> Any:
        """Return the object. Blocks; never on an event loop.

        Raises ResolveError if the store cannot be reached, or the object is not there
        (any more).
        """
        return outcome(resolving(self.reference, self._read))

    def _read(self, store: ObjectStore) -> Any:
        try:
            return self._look(store)
        except MissingKeyError as exc:
            if self.once:
                raise self._used_up() from exc
            raise

    def _look(self, store: ObjectStore) -> Any:
        """Return the object, or a failure in its place; or raise MissingKeyError."""
        return store.read(
            self.reference, self.deserializer, once=self.once, shared=self.shared
        )

    def _used_up(self) -> ResolveError:
        return ResolveError(
            repr(self.reference),
            "its object was single-use (the proxy was made with evict=True), and "
            "another copy of the proxy has resolved and so deleted it, or it was "
            "evicted. Make the proxy without evict=True if several tasks, or a task "
            "that may run again, need it",
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.reference!r}>"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        token = self.reference.__dask_tokenize__()
        return token if self.deserializer is None else (*token, self.deserializer.data)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.reference,
            self.transparent,
            self.once,
            self.shared,
            self.deserializer,
        )


def factory_of(
    reference: Reference, like: StoreFactory, *, alike: bool = True
) -> StoreFactory:
    """Return the factory of one generation of an owned object.

    Parameters
    ----------
    reference
        To the object.
    like
        Of another generation, or of a proxy of the user's.
    alike
        The object is serialized as that of *like* is. If not, as the store does.
    """
    made = copy.copy(like)
    made.reference = reference
    # each use has an object of its own, which it may change, and nobody uses it up
    changed = ("once", "shared") if alike else ("once", "shared", "deserializer")
    for name in changed:
        if hasattr(made, name):
            setattr(made, name, None if name == "deserializer" else False)
    return made


def resolve_reference(reference: Reference) -> Any:
    """Return a new private object for a reference. Blocks; never on an event loop.

    Raises ResolveError if the store cannot be reached, or the object is not there.
    """
    return resolving(reference, lambda store: store.get_reference(reference))


def resolving(reference: Reference, read: Callable[[ObjectStore], Any]) -> Any:
    """Return what *read* returns of a reference's store.

    Raises ResolveError if the store cannot be reached, or the object is not there.
    """
    try:
        store = get_or_make(reference.store)
        try:
            return read(store)
        except MissingKeyError as exc:
            if store.config()[:3] == reference.store[:3]:
                raise
            raise ResolveError(
                repr(reference),
                f"{exc}. The store that this process has registered as {store.name!r} "
                "is another one than the one that made the reference: give one of "
                "them another name",
            ) from exc
    except ObjectLostError as exc:
        raise ResolveError(repr(reference), exc.message) from exc
    except ConnectorUnavailableError as exc:
        raise ResolveError(
            repr(reference), f"this process cannot reach its store ({exc})"
        ) from exc
    except (MissingKeyError, ConnectorError) as exc:
        raise ResolveError(repr(reference), str(exc)) from exc


def is_recomputed(exc: BaseException) -> bool:
    """Tell whether what could not be resolved is a result that Dask computes again."""
    cause = exc.__cause__
    return isinstance(cause, ObjectLostError) and cause.recomputed


class FailedFactory:
    """Stands for a value that could not be stored, where that is an error.

    *error*: raised by whoever wants the value.
    """

    __slots__ = ("error",)

    transparent = True

    def __init__(self, error: DaskrefError) -> None:
        self.error = error

    def __call__(self) -> Any:
        """Raise the error."""
        raise self.error

    def __reduce__(self) -> tuple[Any, ...]:
        return FailedFactory, (self.error,)


class Unreadable:
    """Stands, in a message to a plain client, for a value that nobody can read.

    Unpickling it raises: a request that fails would be made again and again.

    Parameters
    ----------
    error
        What is raised.
    """

    __slots__ = ("error",)

    def __init__(self, error: DaskrefError) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise, (self.error,)


def _raise(error: DaskrefError) -> None:
    raise error


def is_transparent(obj: Any) -> bool:
    """Tell whether an object is a proxy that daskref made, for daskref to resolve."""
    return is_proxy(obj) and getattr(get_factory(obj), "transparent", False) is True


def reveal(obj: Any) -> Any:
    """Return a new private object for a transparent proxy; anything else as it is.

    Blocks; never on an event loop.
    """
    return get_factory(obj)() if is_transparent(obj) else obj
