"""Connectors of other libraries, with all methods of daskref's.

A class with ProxyStore's connector methods works as it is. Its adapter joins frames,
translates errors, restores the class of keys after a message of Dask's, and lets a
member process close without deleting objects that others use.

Known limits: such a connector has no leases, so the objects of a process that died are
not swept. Two processes that take one object at the same moment may both get it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, get_type_hints

from daskref.annotations import override
from daskref.background import make_lock
from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key
from daskref.connectors.buffers import raw
from daskref.connectors.credentials import mask
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorError,
    DaskrefError,
    WireError,
)

#: Errors of a connector about an object that was deleted during the call, and attempts:
#: an object of ProxyStore's may consist of two files.
_GONE = (FileNotFoundError, LookupError)
_ATTEMPTS = 3
#: Class of another library -> its adapter class.
_adapted: dict[type[Any], type[AdaptedConnector]] = {}


def adapt(connector: Any) -> Connector:
    """Return a connector with daskref's methods; a :class:`Connector` as it is."""
    if isinstance(connector, Connector):
        return connector
    return adapted_class(type(connector))(connector)


def adapted_class(cls: type[Any]) -> type[AdaptedConnector]:
    """Return the adapter class for instances of *cls*."""
    if (found := _adapted.get(cls)) is not None:
        return found
    deferrable = hasattr(cls, "new_key") and hasattr(cls, "set")
    base = DeferrableAdaptedConnector if deferrable else AdaptedConnector
    more = _parameters(getattr(cls, "put", None)) - {"self", "obj"}
    namespace = {"__module__": __name__, "adapts": cls, "takes_hints": len(more) > 0}
    return _adapted.setdefault(cls, type(cls.__name__, (base,), namespace))


def class_of(connector: object) -> type[Any]:
    """Return the class of a connector, or of the one that it adapts."""
    cls = connector if isinstance(connector, type) else type(connector)
    adapts: type[Any] | None = getattr(cls, "adapts", None)
    return cls if adapts is None else adapts


class AdaptedConnector(Connector):
    """A connector of another library; see :func:`adapt`.

    Other attributes are those of the adapted *connector*. *member*: whether other
    processes use the store as well; then closing deletes nothing.
    """

    #: The class of the other library.
    adapts: ClassVar[type]

    def __init__(self, connector: Any, *, member: bool = False) -> None:
        self._inner = connector
        self._member = member
        self._closed = False
        self._kind = _key_class(type(connector))
        self._taking = make_lock()

    @classmethod
    @override
    def from_config(cls, config: dict[str, Any]) -> Connector:
        make = getattr(cls.adapts, "from_config", None)
        return cls(
            make(dict(config)) if make is not None else cls.adapts(**config),
            member=True,
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also while it is being made
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __repr__(self) -> str:
        return mask(repr(self._inner))

    # Keys

    def _restored(self, key: Any) -> Any:
        """Return a key in the class that the connector expects.

        Raises WireError if it is not a key of this connector.
        """
        kind = self._kind
        if kind is None or isinstance(key, kind):
            restored = key
        elif type(key) is tuple and len(key) == len(kind._fields):
            restored = kind(*key)
        else:
            raise WireError(f"{key!r} is not a {kind.__name__}")
        # A key within a key, of ProxyStore's MultiConnector.
        name = getattr(restored, "connector_name", None)
        children = getattr(self._inner, "connectors", None)
        if isinstance(children, dict) and name in children:
            child = adapt(children[name][0])
            if isinstance(child, AdaptedConnector):
                inner = child._restored(restored.connector_key)
                restored = restored._replace(connector_key=inner)
        return restored

    def _learn(self, key: Any) -> None:
        if self._kind is None and isinstance(key, tuple) and hasattr(key, "_fields"):
            self._kind = type(key)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self._closed:
            raise ConnectorClosedError(repr(self))
        try:
            return getattr(self._inner, method)(*args, **kwargs)
        except (DaskrefError, MemoryError, NotImplementedError):
            raise
        except Exception as exc:
            raise ConnectorError(
                repr(self), f"a {method} failed ({mask(repr(exc))})"
            ) from exc

    def _known(self, hints: dict[str, Any]) -> dict[str, Any]:
        """Return the hints that the connector's ``put`` takes."""
        if "type_name" in _parameters(self._inner.put):
            return hints
        return {name: value for name, value in hints.items() if name != "type_name"}

    def _about(self, method: str, key: Key) -> Any:
        restored = self._restored(key)
        for left in reversed(range(_ATTEMPTS)):
            try:
                result = self._call(method, restored)
                break
            except ConnectorError as exc:
                # 1. The adapted connector finds the object. 2. Another process deletes
                # the object. 3. The adapted connector deletes or reads it.
                if not left or not isinstance(exc.__cause__, _GONE):
                    raise
        if result is not None and result is not False:
            self._learn(restored)
        return result

    # Objects

    def put_frames(self, frames: Sequence[Buffer], **hints: Any) -> Key:
        """Join the frames, which copies them once more, and store them.

        *hints*: for the connector's ``put``.
        """
        data = b"".join(map(raw, frames))
        key: Key = self._call("put", data, **self._known(hints))
        if not isinstance(key, tuple):
            raise ConnectorError(
                repr(self), f"its put returned {key!r}: a key should be a tuple"
            )
        self._learn(key)
        return key

    @override
    def put(self, obj: Buffer, **hints: Any) -> Key:
        return self.put_frames([obj], **hints)

    @override
    def put_batch(self, objs: Iterable[Buffer], **hints: Any) -> list[Key]:
        data = [b"".join([raw(obj)]) for obj in objs]
        keys: list[Key] = (
            list(self._call("put_batch", data, **self._known(hints))) if data else []
        )
        for key in keys:
            self._learn(key)
        return keys

    @override
    def get(self, key: Key) -> memoryview | None:
        return _view(self._about("get", key))

    @override
    def get_batch(self, keys: Iterable[Key]) -> list[memoryview | None]:
        restored = [self._restored(key) for key in keys]
        if not restored:
            return []
        return [_view(found) for found in self._call("get_batch", restored)]

    @override
    def exists(self, key: Key) -> bool:
        return bool(self._about("exists", key))

    @override
    def evict(self, key: Key) -> None:
        self._about("evict", key)

    def take(self, key: Key) -> memoryview | None:
        """Return the object and delete it; one of this process's threads gets it."""
        with self._taking:
            return super().take(key)

    # The connector itself

    @override
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self._inner.config()
        return config

    @override
    def secrets(self) -> dict[str, dict[str, str]]:
        tell: Callable[[], Any] = getattr(self._inner, "secrets", dict)
        return dict(tell())

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the connector as its class does.

        The arguments are those of its ``close``. A member passes ``clear=False``, if
        the connector takes that.
        """
        if self._closed:
            return
        self._closed = True
        if self._member and not args and "clear" in _parameters(self._inner.close):
            kwargs.setdefault("clear", False)
        self._inner.close(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.adapts, self.config())


class DeferrableAdaptedConnector(AdaptedConnector, DeferrableConnector):
    """An adapted connector whose objects can come after their keys."""

    @override
    def new_key(self, obj: Buffer | None = None) -> Key:
        key: Key = self._call("new_key", obj)
        self._learn(key)
        return key

    @override
    def set(self, key: Key, obj: Buffer) -> None:
        self._call("set", self._restored(key), b"".join([raw(obj)]))


def _reopened(cls: type[Any], config: dict[str, Any]) -> Connector:
    return adapted_class(cls).from_config(config)


def _view(data: Any) -> memoryview | None:
    # Read-only: it may be the connector's own.
    return None if data is None else raw(data).toreadonly()


def _parameters(function: Any) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return frozenset()


def _key_class(cls: type[Any]) -> type[Any] | None:
    """Return the class of a connector's keys, if its ``put`` is annotated with it."""
    try:
        kind = get_type_hints(cls.put)["return"]
    except Exception:  # not annotated, or with names that are not there at run time
        return None
    named = isinstance(kind, type) and issubclass(kind, tuple)
    return kind if named and hasattr(kind, "_fields") else None
