"""The contract of connectors: bytes in, bytes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable
from urllib.parse import SplitResult

from daskref.connectors.buffers import raw
from daskref.connectors.space import Footprint, Space
from daskref.exceptions import ConfigError, NotDeferrableError

#: Anything that supports the buffer protocol.
Buffer: TypeAlias = Any

#: A connector's key: a NamedTuple of plain values, hashable and picklable. A message
#: makes a plain tuple of it, which connectors take as well.
Key: TypeAlias = tuple[Any, ...]


class Usage(NamedTuple):
    """Number and size of a connector's objects."""

    objects: int
    nbytes: int


class Connector(ABC):
    """Store byte strings under keys that the connector makes.

    The contract is documented here once; backends document only differences. An object
    of another class with ProxyStore's connector methods (``put get exists evict
    put_batch get_batch config from_config close``) is wrapped once, where a
    :class:`daskref.Store` or :func:`open_connector` receives it, and then has every
    method.

    Notes
    -----
    Every method may be called from several threads at once. Any method may block, and
    must not be called on an event loop. A connector pickles as its :meth:`config`,
    without locks, descriptors and mappings.

    Once :meth:`put` has returned, every process that opened a connector with the same
    configuration sees the whole object; none ever sees a part of it. An object does not
    change after the put.

    Methods that take a key accept what :meth:`put` returned, in any process, and a
    plain tuple of the same values. They raise :class:`~daskref.exceptions.WireError` if
    it is not a key of this kind of connector (wrong type, a name with path separators,
    …).

    After :meth:`close` every method but :meth:`close`, :meth:`config` and ``repr``
    raises :class:`~daskref.exceptions.ConnectorClosedError`.
    """

    #: URL scheme under which the registry knows the class (``"shm"`` for ``shm://``).
    scheme: ClassVar[str]

    #: Further schemes of the class.
    aliases: ClassVar[tuple[str, ...]] = ()

    #: Whether :meth:`put_frames` takes keyword arguments about the object:
    #: ``type_name`` (``"numpy.ndarray"``), and those that the user gave to
    #: ``Store.put``. For a batch, ``type_name`` is a list with one name per object.
    takes_hints: ClassVar[bool] = False

    #: Whether only this user's processes can write the objects, so that they need no
    #: signature: they are in memory or in directories of this user alone, checked when
    #: they are opened, and travel over connections as safe as Dask's.
    private: bool = False

    #: Number of this process's objects that went to a slower store for lack of room.
    overflows: int = 0

    @abstractmethod
    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        """Store buffers, one after another, as one object.

        Parameters
        ----------
        frames
            C-contiguous buffers, read-only or writable, of any item size, empty ones
            included. They are read and not kept: the caller may change them afterwards.

        Returns
        -------
        Key
            A key that no other object has or had.

        Raises
        ------
        ConnectorError
            When the store failed or is full. Nothing remains of the object.
        """

    @abstractmethod
    def get(self, key: Key) -> memoryview | None:
        """Return the object as one contiguous buffer, read-only or writable.

        Returns
        -------
        memoryview or None
            One-dimensional, format ``"B"``. A mapping where the connector can map:
            private (writes stay with the caller), and valid for as long as any view of
            it exists, even if the object is evicted. ``None`` if there is no such
            object.
        """

    @abstractmethod
    def exists(self, key: Key) -> bool:
        """Tell whether the object exists; another process may evict it at any time."""

    @abstractmethod
    def evict(self, key: Key) -> None:
        """Delete the object. Silent if it does not exist; existing views stay valid."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return keyword arguments that :meth:`from_config` takes in any process.

        Plain picklable values only; no secrets that a reference should not carry.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the resources of this process. A second call is silent.

        Objects stay for other processes. The last process to close removes what the
        connector made, and never anything else.
        """

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Connector:
        """Open the store that another process's :meth:`config` describes.

        The caller closes the new connector. *config* is not changed.

        Raises
        ------
        ConnectorUnavailableError
            If this process cannot reach that very store.
        """
        return cls(**config)

    # Optional from here on.

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """Return the arguments in a URL of :attr:`scheme`, without those after ``?``.

        By default there are none: the URL consists of the scheme.

        Raises
        ------
        ConfigError
            If the URL is malformed.
        """
        if url.netloc or url.path.strip("/") or url.fragment:
            raise ConfigError(
                "daskref.connector",
                f"{url.scheme}://{url.netloc}{url.path}",
                f"{url.scheme}:// and nothing after it but ?…",
            )
        return {}

    def put(self, obj: Buffer) -> Key:
        """Store one buffer; see :meth:`put_frames`."""
        return self.put_frames([obj])

    def put_everywhere(self, obj: Buffer) -> list[Key]:
        """Store one buffer in each store of the connector, and return the keys.

        A session calls it to find out which processes see all stores.
        """
        return [self.put(obj)]

    def put_batch(self, objs: Iterable[Buffer]) -> list[Key]:
        """Store several buffers as several objects; return the keys in the same order.

        After an error, the objects before it are stored.
        """
        return [self.put(obj) for obj in objs]

    def get_batch(self, keys: Iterable[Key]) -> list[memoryview | None]:
        """Return several objects in the same order, ``None`` for each missing one."""
        return [self.get(key) for key in keys]

    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        """Store buffers, one after another, as the object of a key from ``new_key``.

        See :meth:`DeferrableConnector.set`. This default joins the buffers, which
        copies them once more.

        Raises
        ------
        NotDeferrableError
            If the connector is no :class:`DeferrableConnector`.
        """
        if not isinstance(self, DeferrableConnector):
            raise NotDeferrableError(repr(self))
        self.set(key, b"".join(map(raw, frames)))

    def evict_batch(self, keys: Iterable[Key]) -> None:
        """Delete several objects; see :meth:`evict`."""
        for key in keys:
            self.evict(key)

    def take(self, key: Key) -> memoryview | None:
        """Return the object and delete it, for one caller only.

        Of several takers of one object, in any threads and processes, exactly one gets
        it and the others ``None``. A simultaneous :meth:`get` or :meth:`evict` does not
        count as a taker: it may find the object or not.

        This default is a :meth:`get` and an :meth:`evict`: two simultaneous takers may
        both get the object. A backend that can tell which caller deleted an object
        overrides it.
        """
        data = self.get(key)
        if data is not None:
            self.evict(key)
        return data

    def link(self, key: Key) -> Key | None:
        """Give the object a second key without copying it.

        The bytes exist until both keys are evicted. Returns ``None`` if there is no
        such object, or the store cannot do this, as by default.
        """
        return None

    def renew(self, key: Key, seconds: float) -> bool:
        """Set the object's lease: it may be swept once *seconds* have passed from now.

        The new lease may be shorter or longer than the rest of the old one. Returns
        False if there is no such object, or the store has no leases, as by default.
        """
        return False

    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        """Delete objects that no process will: expired leases, and orphans.

        Parameters
        ----------
        known
            Keys with an owner. An object is an orphan if it is not among them, has no
            lease, is older than *grace* seconds, and the process that put it is gone.
            ``None``: only leases are checked.
        grace
            Seconds.

        Returns
        -------
        list of Key
            The deleted objects, of this connector's session.
        """
        return []

    def usage(self) -> Usage:
        """Return number and size of the session's objects, linked ones counted once.

        Raises
        ------
        NotImplementedError
            If the store cannot tell.
        """
        raise NotImplementedError

    def outlive(self) -> None:
        """Have the objects deleted even if all processes of the store are killed.

        Does nothing by default: not every store can do this.
        """
        return

    def space(self) -> Space:
        """Return what the store takes of this host's memory and disk.

        Objects of all processes count. All zero if the store is elsewhere.
        """
        return Space()

    def footprints(self, keys: Iterable[Key]) -> list[Footprint | None]:
        """Return what objects take of this host's memory and disk, in the same order.

        ``None`` for each object of which the store cannot tell, as by default.
        """
        return [None for _ in keys]

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return the credentials that other processes need, by place.

        :func:`daskref.connectors.credentials.remember` takes them. A session sends them
        to its processes over Dask's own connections; they are in no reference, log or
        ``repr``.
        """
        return {}

    def __enter__(self) -> Connector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_config, (self.config(),)


@runtime_checkable
class DeferrableConnector(Protocol):
    """The further methods of a connector whose objects can come after their keys.

    Names and signatures are those of ProxyStore's protocol, so its deferrable
    connectors can be used.
    """

    def new_key(self, obj: Buffer | None = None) -> Key:
        """Return a key for an object that does not exist yet.

        Until :meth:`set`, ``get`` returns ``None`` and ``exists`` False. The key is
        valid in every process that opened the connector with the same configuration.

        Parameters
        ----------
        obj
            The object, where a backend's keys depend on it; daskref's keys do not.

        Returns
        -------
        Key
            A key that no other object has or had.

        Raises
        ------
        NotImplementedError
            If this connector has no such keys, although its class does.
        """

    def set(self, key: Key, obj: Buffer) -> None:
        """Store the object of a key, once.

        After a second call readers may see either object, each as a whole.

        Parameters
        ----------
        key
            From :meth:`new_key`, in any process.
        obj
            One buffer, as ``put`` takes it.

        Raises
        ------
        WireError
            If *key* is not a key of this kind of connector.
        ConnectorError
            When the store failed or is full. Nothing remains of the object.
        """
