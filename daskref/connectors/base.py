"""What a connector is: bytes in, bytes out."""

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

#: A connector's key: a NamedTuple of plain values, hashable and picklable. Connectors
#: take a plain tuple of the same values as well: that is what a message makes of it.
Key: TypeAlias = tuple[Any, ...]


class Usage(NamedTuple):
    """What a connector's objects take up."""

    #: Objects alive.
    objects: int
    #: Their size in bytes.
    nbytes: int


class Connector(ABC):
    """Store byte strings under keys that the connector makes.

    The contract is documented here once; backends document only differences. An object
    of another class that has ProxyStore's connector methods (``put get exists evict
    put_batch get_batch config from_config close``) is wrapped once, where a
    :class:`daskref.Store` or :func:`open_connector` receives it, and has every method
    from then on.

    Notes
    -----
    Every method may be called from several threads at once. All of them may be slow
    and must not be called on an event loop. A connector pickles as its
    :meth:`config`; locks, descriptors and mappings stay behind.

    Once :meth:`put` has returned, every process that opened a connector with the same
    configuration sees the whole object; none ever sees a part of it. An object does
    not change after it was put.

    After :meth:`close` every method but :meth:`close`, :meth:`config` and ``repr``
    raises :class:`~daskref.exceptions.ConnectorClosedError`.
    """

    #: URL scheme under which the registry knows the class (``"shm"`` for ``shm://``).
    scheme: ClassVar[str]

    #: Further schemes of the class.
    aliases: ClassVar[tuple[str, ...]] = ()

    #: Whether :meth:`put_frames` takes what is known of the object as keywords:
    #: ``type_name`` (``"numpy.ndarray"``), and what the user gave to ``Store.put``.
    #: For a batch, ``type_name`` is a list with one name per object.
    takes_hints: ClassVar[bool] = False

    #: Whether nobody but this user's own processes can write the objects, and what they
    #: hold need not be signed: they lie in memory or in directories of this user alone,
    #: checked when they are opened, and move over connections as safe as Dask's.
    private: bool = False

    #: How many of this process's objects went to a slower place for lack of room.
    overflows: int = 0

    @abstractmethod
    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        """Store buffers, one after another, as one object.

        Parameters
        ----------
        frames
            C-contiguous buffers, read-only or writable, of any item size, empty ones
            included. They are read, not kept: the caller may change them afterwards.

        Returns
        -------
        Key
            A key that no other object has or had.

        Raises
        ------
        ConnectorError
            When the store failed or is full. Nothing remains of the object then.
        """

    @abstractmethod
    def get(self, key: Key) -> memoryview | None:
        """Return the object as one writable-or-not contiguous buffer.

        Parameters
        ----------
        key
            What :meth:`put` returned, in any process; a plain tuple of the same values
            will do.

        Returns
        -------
        memoryview or None
            One-dimensional, format ``"B"``. A mapping where the connector can: then it
            is private (writes stay with the caller) and keeps the object's bytes
            readable for as long as any view of it lives, evicted or not. ``None`` if
            there is no such object.

        Raises
        ------
        WireError
            If *key* is not a key of this kind of connector (wrong type, a name with
            path separators, …).
        """

    @abstractmethod
    def exists(self, key: Key) -> bool:
        """Tell whether the object is there; raises as :meth:`get` does.

        Parameters
        ----------
        key
            See :meth:`get`.

        Returns
        -------
        bool
            By the time that the caller looks at it, another process may have evicted.
        """

    @abstractmethod
    def evict(self, key: Key) -> None:
        """Delete the object. Silent if it is not there; raises as :meth:`get` does.

        Parameters
        ----------
        key
            See :meth:`get`. What was read of the object stays readable.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return keyword arguments that :meth:`from_config` takes in any process.

        Plain picklable values only; no secrets that a reference should not carry.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what this process holds. A second call is silent.

        Objects live on for others; the last process to leave removes what the
        connector made, and never anything else.
        """

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Connector:
        """Open the store that another process's :meth:`config` describes.

        Parameters
        ----------
        config
            As it was returned there; not changed.

        Returns
        -------
        Connector
            A new one; the caller closes it.

        Raises
        ------
        ConnectorUnavailableError
            If this process cannot reach that very store.
        """
        return cls(**config)

    # Optional from here on: a default does without, or says that it cannot.

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """Return the arguments that a URL stands for, those after ``?`` excepted.

        Parameters
        ----------
        url
            A spec of :attr:`scheme`.

        Returns
        -------
        dict
            Arguments of the class. None by default: the scheme is all there is.

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
        """Store one buffer; raises as :meth:`put_frames` does.

        Parameters
        ----------
        obj
            One buffer, as :meth:`put_frames` takes several.

        Returns
        -------
        Key
            A key that no other object has or had.
        """
        return self.put_frames([obj])

    def put_everywhere(self, obj: Buffer) -> list[Key]:
        """Store one buffer in each place that this connector puts objects to.

        For a session, to find out who sees all of them.

        Parameters
        ----------
        obj
            One buffer.

        Returns
        -------
        list of Key
            One per place; a single one unless the connector has several stores.
        """
        return [self.put(obj)]

    def put_batch(self, objs: Iterable[Buffer]) -> list[Key]:
        """Store several buffers as several objects.

        Parameters
        ----------
        objs
            One buffer per object. After an error those before it are stored.

        Returns
        -------
        list of Key
            In the same order.
        """
        return [self.put(obj) for obj in objs]

    def get_batch(self, keys: Iterable[Key]) -> list[memoryview | None]:
        """Return several objects.

        Parameters
        ----------
        keys
            See :meth:`get`.

        Returns
        -------
        list of memoryview or None
            In the same order; ``None`` in the place of each that is missing.
        """
        return [self.get(key) for key in keys]

    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        """Store buffers, one after another, as the object of a key.

        Parameters
        ----------
        key
            See :meth:`DeferrableConnector.set`.
        frames
            See :meth:`put_frames`. The default joins them: one copy more.

        Raises
        ------
        NotDeferrableError
            If the connector is no :class:`DeferrableConnector`.
        """
        if not isinstance(self, DeferrableConnector):
            raise NotDeferrableError(repr(self))
        self.set(key, b"".join(map(raw, frames)))

    def evict_batch(self, keys: Iterable[Key]) -> None:
        """Delete several objects; see :meth:`evict`.

        Parameters
        ----------
        keys
            See :meth:`get`.
        """
        for key in keys:
            self.evict(key)

    def take(self, key: Key) -> memoryview | None:
        """Return the object and delete it, for one caller only.

        Of several takers of one object, in whatever threads and processes, exactly one
        gets it and the others ``None``. A :meth:`get` or :meth:`evict` at the same time
        is no taker: the object may be got, or be gone, as well.

        This default is a :meth:`get` and an :meth:`evict`, for stores that have nothing
        better: two takers at the same moment may both get the object. A backend that
        can tell who deleted it overrides this.

        Parameters
        ----------
        key
            See :meth:`get`.

        Returns
        -------
        memoryview or None
            As :meth:`get`; ``None`` if there is no such object any more.
        """
        data = self.get(key)
        if data is not None:
            self.evict(key)
        return data

    def link(self, key: Key) -> Key | None:
        """Give the object a second key without copying it.

        The bytes live until both keys are evicted.

        Parameters
        ----------
        key
            See :meth:`get`.

        Returns
        -------
        Key or None
            The new key; ``None`` if the object is gone, or the store cannot do this.
        """
        return None

    def renew(self, key: Key, seconds: float) -> bool:
        """Set the object's lease: it may be swept once *seconds* have passed.

        Parameters
        ----------
        key
            See :meth:`get`.
        seconds
            From now on; shorter or longer than what is left of the lease.

        Returns
        -------
        bool
            False if the object is gone, or the store knows no leases.
        """
        return False

    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        """Delete what nobody will: expired leases, and orphans.

        Parameters
        ----------
        known
            Keys with an owner. An object is an orphan if it is not among them, has no
            lease, is older than *grace* seconds, and the process that put it is gone.
            ``None``: look at leases only.
        grace
            Seconds.

        Returns
        -------
        list of Key
            What was deleted.
        """
        return []

    def usage(self) -> Usage:
        """Return what all objects of the store take up, linked ones counted once.

        Returns
        -------
        Usage
            Of all processes that share the store.

        Raises
        ------
        NotImplementedError
            If the store cannot tell.
        """
        raise NotImplementedError

    def outlive(self) -> None:
        """Have the objects deleted even if all processes of the store are killed.

        Where that is in anybody's power.
        """
        return

    def space(self) -> Space:
        """Return what the store takes of this host's memory and disk.

        Returns
        -------
        Space
            Of all processes that share the store; all zero if it is elsewhere.
        """
        return Space()

    def footprints(self, keys: Iterable[Key]) -> list[Footprint | None]:
        """Return what objects take up of this host's memory and disk.

        Parameters
        ----------
        keys
            See :meth:`get`.

        Returns
        -------
        list of Footprint or None
            In the same order; ``None`` for each if the store cannot tell.
        """
        return [None for _ in keys]

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return what other processes need besides :meth:`config`, by place.

        Returns
        -------
        dict
            As :func:`daskref.connectors.credentials.remember` takes it. A session
            hands it to its processes over Dask's own connections; it is in no
            reference, no log and no ``repr``.
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
    """What a connector has as well, if an object can come after its key.

    Names and signatures are those of ProxyStore's protocol, so its deferrable
    connectors are ours.
    """

    def new_key(self, obj: Buffer | None = None) -> Key:
        """Return a key for an object that is not there yet.

        Parameters
        ----------
        obj
            The object, where a backend's keys depend on it; those here need nothing.

        Returns
        -------
        Key
            One that no other object has or had. Until :meth:`set` there is no object:
            ``get`` returns ``None``, ``exists`` False. It means the same in every
            process that opened the connector with the same configuration.

        Raises
        ------
        NotImplementedError
            If this one cannot, although its class can.
        """

    def set(self, key: Key, obj: Buffer) -> None:
        """Store the object of a key; once.

        Parameters
        ----------
        key
            From :meth:`new_key`, in any process. After a second call readers may see
            either object, each whole.
        obj
            One buffer, as ``put`` takes it.

        Raises
        ------
        WireError
            If *key* is not a key of this kind of connector.
        ConnectorError
            When the store failed or is full. Nothing remains of the object then.
        """
