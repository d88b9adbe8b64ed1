"""The error tree.

::

    DaskrefError
    ├── ConfigError (ValueError)            a setting or a connector spec is malformed
    ├── ConnectorError                      the store failed
    │   ├── ConnectorClosedError            you closed it
    │   ├── ConnectorUnavailableError       it cannot be reached from this process
    │   │   └── ObjectLostError             its hosts are gone, or do not give it
    │   └── NotDeferrableError (NotImplementedError)    it has no futures
    ├── MissingKeyError (LookupError)       the object is not in the store
    ├── LifetimeError (RuntimeError)        a lifetime has ended
    ├── NamespaceError (RuntimeError)       the machine permits no hosts for tests
    ├── NotStoredError (TypeError)          a proxy that no store made
    ├── OwnershipError (RuntimeError)       a rule of owners and borrowers is broken
    │   ├── MutableBorrowError              a shared borrow beside a mutable one
    │   ├── ReferenceInvalidError           a borrow without its object
    │   └── ReferenceNotOwnedError          only the owner may do this
    ├── ResolveError (RuntimeError)         a proxy or reference could not be resolved
    │   └── ResolveTimeoutError (TimeoutError)    a future was not set in time
    ├── NotInstalledError (ImportError)     a peer lacks daskref
    ├── IncompatibleError (ImportError)     a peer has a daskref of another protocol
    ├── SerializationError                  an object, or bytes, cannot be read
    │   ├── NotProxiableError (TypeError)   the object cannot go by reference
    │   └── WireError (ValueError)          foreign bytes, or of a newer daskref
    │       └── SignatureError              nobody with the store's key wrote them
    └── StoreExistsError (ValueError)       another store has the name

Every class survives pickling: the constructor's arguments are its fields, and the
text is built in ``__str__``.
"""

from __future__ import annotations

from typing import Any


class DaskrefError(Exception):
    """Base of every error that daskref raises on purpose."""


class ConfigError(DaskrefError, ValueError):
    """A setting or a connector spec is malformed.

    Parameters
    ----------
    setting
        Name of the setting, as in ``daskref.threshold``.
    value
        What was given.
    expected
        What would be valid, as the end of the sentence "expected …".
    """

    def __init__(self, setting: str, value: object, expected: str) -> None:
        super().__init__(setting, value, expected)
        self.setting = setting
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.setting}={self.value!r} is not valid: expected {self.expected}"


class ConnectorError(DaskrefError):
    """The store failed.

    Parameters
    ----------
    connector
        ``repr`` of the connector, secrets masked.
    message
        What failed and what to do, a sentence.
    """

    def __init__(self, connector: str, message: str) -> None:
        super().__init__(connector, message)
        self.connector = connector
        self.message = message

    def __str__(self) -> str:
        return f"{self.connector}: {self.message}"


class ConnectorClosedError(ConnectorError):
    """The connector was closed by its owner; make a new one.

    Parameters
    ----------
    connector
        ``repr`` of the connector.
    message
        That it was closed.
    """

    def __init__(self, connector: str, message: str = "it was closed") -> None:
        super().__init__(connector, message)


class ConnectorUnavailableError(ConnectorError):
    """The store cannot be reached from this process.

    Parameters
    ----------
    connector
        ``repr`` of the connector.
    message
        Why not, a sentence.
    """


class ObjectLostError(ConnectorUnavailableError):
    """The hosts that had an object are gone, or do not give it.

    Parameters
    ----------
    connector
        ``repr`` of the connector.
    message
        What was lost, and where it was, a sentence.
    recomputed
        Whether Dask computes it again: ask for the task's result once more.
    """

    def __init__(self, connector: str, message: str, recomputed: bool = False) -> None:
        super().__init__(connector, message)
        self.recomputed = recomputed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.connector, self.message, self.recomputed)


class NotDeferrableError(ConnectorError, NotImplementedError):
    """The connector cannot make a key for an object that comes later.

    Parameters
    ----------
    connector
        ``repr`` of the connector.
    message
        What to do.
    """

    def __init__(
        self,
        connector: str,
        message: str = "it has no futures: it cannot make a key before there is an "
        "object (methods new_key and set). Use a connector that can, such as a "
        "FileConnector",
    ) -> None:
        super().__init__(connector, message)


class MissingKeyError(DaskrefError, LookupError):
    """The object is not in the store (any more).

    Parameters
    ----------
    key
        The key that was asked for.
    connector
        ``repr`` of the connector that was asked.
    """

    def __init__(self, key: Any, connector: str) -> None:
        super().__init__(key, connector)
        self.key = key
        self.connector = connector

    def __str__(self) -> str:
        return (
            f"no object under {self.key!r} in {self.connector}: it was evicted, or "
            "its session has ended"
        )


class LifetimeError(DaskrefError, RuntimeError):
    """A lifetime has ended.

    Parameters
    ----------
    lifetime
        Its name.
    reason
        What it cannot do any more, a sentence.
    """

    def __init__(self, lifetime: str, reason: str) -> None:
        super().__init__(lifetime, reason)
        self.lifetime = lifetime
        self.reason = reason

    def __str__(self) -> str:
        return f"the lifetime {self.lifetime} has ended: {self.reason}"


class NamespaceError(DaskrefError, RuntimeError):
    """The machine does not permit what hosts in namespaces need.

    Parameters
    ----------
    message
        What the system said.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class NotStoredError(DaskrefError, TypeError):
    """A proxy that no store made, where only one of a store's will do.

    Parameters
    ----------
    needed
        What needs a store's proxy, as the beginning of a sentence.
    factory
        Type of the proxy's factory.
    """

    def __init__(self, needed: str, factory: str) -> None:
        super().__init__(needed, factory)
        self.needed = needed
        self.factory = factory

    def __str__(self) -> str:
        return (
            f"{self.needed} takes a proxy that a store made (a factory of type "
            f"StoreFactory), not one with a {self.factory}"
        )


class OwnershipError(DaskrefError, RuntimeError):
    """A rule of owners and borrowers is broken; nothing has changed.

    Parameters
    ----------
    proxy
        ``repr`` of the owner or the borrow.
    reason
        What cannot be done, and what to do, as a sentence.
    rule
        The rule that it would break, one of :data:`daskref.ownership.RULES`.
    """

    def __init__(self, proxy: str, reason: str, rule: str) -> None:
        super().__init__(proxy, reason, rule)
        self.proxy = proxy
        self.reason = reason
        self.rule = rule

    def __str__(self) -> str:
        return f"{self.proxy}: {self.reason}. The rule: {self.rule}"


class MutableBorrowError(OwnershipError):
    """There would be a mutable borrow, or a change, beside other borrows."""


class ReferenceInvalidError(OwnershipError):
    """A borrow that has ended is used, or would be left without its object."""


class ReferenceNotOwnedError(OwnershipError):
    """Something was asked of a borrow, or of a plain proxy, that only an owner does."""


class ResolveError(DaskrefError, RuntimeError):
    """A proxy or a reference could not be resolved; the cause is chained.

    Parameters
    ----------
    reference
        ``repr`` of what should have been resolved.
    reason
        Why, as a sentence.
    """

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(reference, reason)
        self.reference = reference
        self.reason = reason

    @property
    def cause(self) -> BaseException | None:
        """What was raised instead of the target: the error's ``__cause__``."""
        return self.__cause__

    def __str__(self) -> str:
        return f"could not resolve {self.reference}: {self.reason}"


class ResolveTimeoutError(ResolveError, TimeoutError):
    """A future was not set in time.

    Parameters
    ----------
    reference
        ``repr`` of what should have been resolved.
    reason
        How long was waited, and what to look for, a sentence.
    """


class NotInstalledError(DaskrefError, ImportError):
    """Processes of the cluster lack daskref.

    Parameters
    ----------
    where
        The processes, as in ``["the scheduler", "worker tcp://…"]``.
    """

    def __init__(self, where: list[str]) -> None:
        super().__init__(where)
        self.where = where

    def __str__(self) -> str:
        return (
            f"daskref is not installed on {', '.join(self.where)}. Run `pip install "
            "daskref` in that environment and restart it, or use a plain "
            "distributed.Client"
        )


class IncompatibleError(DaskrefError, ImportError):
    """Processes of the cluster have versions of daskref that do not work together.

    Parameters
    ----------
    where
        One side, as in ``"the scheduler tcp://…"``.
    peer
        Its ``protocol`` and ``version``.
    others
        The same of those that have another protocol, by where they are.
    """

    def __init__(
        self, where: str, peer: dict[str, Any], others: dict[str, dict[str, Any]]
    ) -> None:
        super().__init__(where, peer, others)
        self.where = where
        self.peer = peer
        self.others = others

    def __str__(self) -> str:
        others = ", ".join(
            f"{where} has {describe_peer(other)}"
            for where, other in self.others.items()
        )
        versions = sorted({str(other["version"]) for other in self.others.values()})
        return (
            f"{self.where} has {describe_peer(self.peer)}, {others}: they do not work "
            f"together. Run `pip install daskref=={self.peer['version']}` in the "
            f"environment of {', '.join(self.others)} and restart it, or `pip install "
            f"daskref=={' or '.join(versions)}` in all others"
        )


def describe_peer(peer: dict[str, Any]) -> str:
    """Return a peer's version and protocol, for people."""
    return f"daskref {peer['version']} (protocol {peer['protocol']})"


class SerializationError(DaskrefError):
    """An object that cannot be written as bytes, or bytes that cannot be read."""


class NotProxiableError(SerializationError, TypeError):
    """The object cannot go by reference.

    Parameters
    ----------
    type_name
        Type of the object.
    reason
        Why, as a sentence.
    """

    def __init__(self, type_name: str, reason: str) -> None:
        super().__init__(type_name, reason)
        self.type_name = type_name
        self.reason = reason

    def __str__(self) -> str:
        return f"an object of type {self.type_name} cannot be stored: {self.reason}"


class StoreExistsError(DaskrefError, ValueError):
    """Another store is registered under the name.

    Parameters
    ----------
    name
        The name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"a store named {self.name!r} is registered already: get_store(name) "
            "returns it, and register_store(store, exist_ok=True) replaces it"
        )


class WireError(SerializationError, ValueError):
    """Bytes that daskref did not write, that are cut short, or of a newer version.

    Parameters
    ----------
    message
        What is wrong with them, a sentence.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SignatureError(WireError):
    """An object that nobody with the store's signing key wrote; it was not unpickled.

    Parameters
    ----------
    object
        Its key.
    store
        Name of the store.
    reason
        What is wrong with it, a sentence.
    """

    def __init__(self, object: str, store: str, reason: str) -> None:
        super().__init__(reason)
        self.args = (object, store, reason)
        self.object = object
        self.store = store

    def __str__(self) -> str:
        return f"{self.object} in the store {self.store!r} is refused: {self.message}"
