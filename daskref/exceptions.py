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
    │       └── SignatureError              no holder of the store's key wrote them
    └── StoreExistsError (ValueError)       another store has the name

Every class survives pickling: its fields are its arguments, and the text is built in
``__str__``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


class DaskrefError(Exception):
    """Base of every error that daskref raises on purpose."""

    def __post_init__(self) -> None:
        names = [each.name for each in fields(self)]  # type: ignore[arg-type]
        super().__init__(*(getattr(self, name) for name in names))


@dataclass(eq=False, repr=False)
class ConfigError(DaskrefError, ValueError):
    """A setting or a connector spec is malformed."""

    #: Name of the setting, as in ``daskref.threshold``.
    setting: str
    #: The value.
    value: object
    #: Valid values, as the end of the sentence "expected …".
    expected: str

    def __str__(self) -> str:
        return f"{self.setting}={self.value!r} is not valid: expected {self.expected}"


@dataclass(eq=False, repr=False)
class ConnectorError(DaskrefError):
    """The store failed."""

    #: ``repr`` of the connector, secrets masked.
    connector: str
    #: What failed and what to do, a sentence.
    message: str

    def __str__(self) -> str:
        return f"{self.connector}: {self.message}"


@dataclass(eq=False, repr=False)
class ConnectorClosedError(ConnectorError):
    """The connector was closed by its owner; make a new one."""

    message: str = "it was closed"


class ConnectorUnavailableError(ConnectorError):
    """The store cannot be reached from this process."""


@dataclass(eq=False, repr=False)
class ObjectLostError(ConnectorUnavailableError):
    """The hosts that had an object are gone, or do not serve it."""

    #: Whether Dask computes it again: ask for the task's result once more.
    recomputed: bool = False


@dataclass(eq=False, repr=False)
class NotDeferrableError(ConnectorError, NotImplementedError):
    """The connector cannot make a key for an object that comes later."""

    message: str = (
        "it has no futures: it cannot make a key before there is an object (methods "
        "new_key and set). Use a connector that can, such as a FileConnector"
    )


@dataclass(eq=False, repr=False)
class MissingKeyError(DaskrefError, LookupError):
    """The object is not in the store (any more)."""

    #: The key.
    key: Any
    #: ``repr`` of the connector.
    connector: str

    def __str__(self) -> str:
        return (
            f"no object under {self.key!r} in {self.connector}: it was evicted, or "
            "its session has ended"
        )


@dataclass(eq=False, repr=False)
class LifetimeError(DaskrefError, RuntimeError):
    """A lifetime has ended."""

    #: Its name.
    lifetime: str
    #: The call that it refuses, a sentence.
    reason: str

    def __str__(self) -> str:
        return f"the lifetime {self.lifetime} has ended: {self.reason}"


@dataclass(eq=False, repr=False)
class NamespaceError(DaskrefError, RuntimeError):
    """The machine does not permit namespaces for test hosts."""

    #: The system's message.
    message: str


@dataclass(eq=False, repr=False)
class NotStoredError(DaskrefError, TypeError):
    """A proxy that no store made, in place of a store's."""

    #: The taker of the proxy, as the beginning of a sentence.
    needed: str
    #: Type of the proxy's factory.
    factory: str

    def __str__(self) -> str:
        return (
            f"{self.needed} takes a proxy that a store made (a factory of type "
            f"StoreFactory), not one with a {self.factory}"
        )


@dataclass(eq=False, repr=False)
class OwnershipError(DaskrefError, RuntimeError):
    """A rule of owners and borrowers would be broken; nothing has changed."""

    #: ``repr`` of the owner or the borrow.
    proxy: str
    #: What cannot be done, and what to do, a sentence.
    reason: str
    #: The rule that it would break, one of :data:`daskref.ownership.RULES`.
    rule: str

    def __str__(self) -> str:
        return f"{self.proxy}: {self.reason}. The rule: {self.rule}"


class MutableBorrowError(OwnershipError):
    """There would be a mutable borrow, or a change, beside other borrows."""


class ReferenceInvalidError(OwnershipError):
    """A borrow was used after its end, or would be left without its object."""


class ReferenceNotOwnedError(OwnershipError):
    """An operation for owners was called with a borrow or a plain proxy."""


@dataclass(eq=False, repr=False)
class ResolveError(DaskrefError, RuntimeError):
    """A proxy or a reference could not be resolved; the cause is chained."""

    #: ``repr`` of the proxy or the reference.
    reference: str
    #: Why, as a sentence.
    reason: str

    @property
    def cause(self) -> BaseException | None:
        """The error that was raised in place of the target: ``__cause__``."""
        return self.__cause__

    def __str__(self) -> str:
        return f"could not resolve {self.reference}: {self.reason}"


class ResolveTimeoutError(ResolveError, TimeoutError):
    """A future was not set in time."""


@dataclass(eq=False, repr=False)
class NotInstalledError(DaskrefError, ImportError):
    """Processes of the cluster lack daskref."""

    #: The processes, as in ``["the scheduler", "worker tcp://…"]``.
    where: list[str]

    def __str__(self) -> str:
        return (
            f"daskref is not installed on {', '.join(self.where)}. Run `pip install "
            "daskref` in that environment and restart it, or use a plain "
            "distributed.Client"
        )


@dataclass(eq=False, repr=False)
class IncompatibleError(DaskrefError, ImportError):
    """Processes of the cluster have incompatible versions of daskref."""

    #: One side, as in ``"the scheduler tcp://…"``.
    where: str
    #: Its ``protocol`` and ``version``.
    peer: dict[str, Any]
    #: The same of the processes with another protocol, by their names.
    others: dict[str, dict[str, Any]]

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
    """Return a peer's version and protocol as text."""
    return f"daskref {peer['version']} (protocol {peer['protocol']})"


class SerializationError(DaskrefError):
    """An object that cannot be written as bytes, or bytes that cannot be read."""


@dataclass(eq=False, repr=False)
class NotProxiableError(SerializationError, TypeError):
    """The object cannot go by reference."""

    #: Type of the object.
    type_name: str
    #: Why, as a sentence.
    reason: str

    def __str__(self) -> str:
        return f"an object of type {self.type_name} cannot be stored: {self.reason}"


@dataclass(eq=False, repr=False)
class StoreExistsError(DaskrefError, ValueError):
    """Another store is registered under the name."""

    #: The name.
    name: str

    def __str__(self) -> str:
        return (
            f"a store named {self.name!r} is registered already: get_store(name) "
            "returns it, and register_store(store, exist_ok=True) replaces it"
        )


@dataclass(eq=False, repr=False)
class WireError(SerializationError, ValueError):
    """Bytes that daskref did not write, that are cut short, or of a newer version."""

    #: What is wrong with them, a sentence.
    message: str


class SignatureError(WireError):
    """An object that no holder of the store's signing key wrote; it was not unpickled.

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
