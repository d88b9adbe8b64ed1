"""Several connectors behind one: a policy selects one for each object.

Known limits: a session's scheduler opens every child. A process of the cluster that
cannot reach one of them counts as one that cannot reach the store: its values travel
in-band, also those of children that it could reach.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from daskref.annotations import override
from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key, Usage
from daskref.connectors.multi._children import Child, Children

# ProxyStore's name for it is in this module.
from daskref.connectors.multi._policy import Policy as Policy
from daskref.connectors.space import Footprint, Space
from daskref.exceptions import ConnectorError, WireError

logger = logging.getLogger(__name__)


class MultiKey(NamedTuple):
    """Key of an object in one of several connectors."""

    #: Name of the connector.
    connector_name: str
    #: Its key.
    connector_key: Any


class MultiConnector(Connector, DeferrableConnector):
    """Put each object into the one of several connectors whose policy takes it.

    Parameters
    ----------
    connectors
        Name -> connector and policy: a pair of them, or a mapping with ``connector``
        and ``policy``. The connector may be ProxyStore's, or a spec for
        :func:`open_connector`; the policy may be a mapping of :class:`Policy`'s fields,
        or ``None`` to take everything.

    Raises
    ------
    ConfigError
        If it is malformed.
    ConnectorUnavailableError
        If the connector of a spec cannot be opened.

    Notes
    -----
    Among the policies that take an object, the highest priority decides; the size is
    that of the stored bytes. The key names the connector, so that any process finds the
    object by its key, on any host and with any policies.

    A process that opens this connector from its :meth:`config` opens a child when it
    first needs it. Puts skip a child that the process cannot reach; operations on its
    objects raise a :class:`~daskref.exceptions.ConnectorUnavailableError` that names
    it.

    A child may lack operations, as any connector may. A batch is one batch per child.
    Closing closes the children.

    Examples
    --------
    >>> from daskref.connectors import LocalConnector
    >>> with MultiConnector({
    ...     "small": (LocalConnector(), Policy(max_size_bytes="1 kB")),
    ...     "large": (LocalConnector(), Policy(min_size_bytes=1001)),
    ... }) as connector:
    ...     connector.put(bytes(5000)).connector_name
    'large'
    """

    takes_hints: ClassVar[bool] = True

    _children: Children

    def __init__(self, connectors: Mapping[str, Any]) -> None:
        self._children = Children.read(connectors)

    @classmethod
    @override
    def from_config(cls, config: dict[str, Any]) -> MultiConnector:
        self = cls.__new__(cls)
        self._children = Children.from_config(config["connectors"])
        return self

    def __repr__(self) -> str:
        return self._children.where

    @property
    def names(self) -> list[str]:
        """Names of the connectors."""
        return list(self._children.by_name)

    def child(self, name: str) -> Connector:
        """Return the connector of a name, opened if need be.

        Raises
        ------
        ConnectorUnavailableError
            If this process cannot reach it.
        """
        self._children.check_open()
        return self._children.open(self._children.by_name[name])

    # Keys

    def _find(self, key: Any) -> tuple[Connector, Any]:
        """Return a key's connector, and the key for it."""
        child, inner = self._child(key)
        return self._children.open(child), inner

    def _child(self, key: Any) -> tuple[Child, Any]:
        self._children.check_open()
        children = self._children.by_name
        if isinstance(key, tuple) and type(key) in (tuple, MultiKey) and len(key) == 2:
            name, inner = key
            if isinstance(name, str) and name in children:
                return children[name], inner
            if isinstance(name, str) and isinstance(key, MultiKey):
                raise WireError(
                    f"{key!r} is of a connector {name!r}, and there are only "
                    f"{', '.join(map(repr, children))}"
                )
        raise WireError(f"{key!r} is not a MultiKey")

    def _by_child(
        self, keys: Iterable[Key]
    ) -> Iterator[tuple[Child, list[int], list[Any]]]:
        """Yield children, the positions of their keys, and the keys for them."""
        found: dict[str, tuple[Child, list[int], list[Any]]] = {}
        for number, key in enumerate(keys):
            child, inner = self._child(key)
            _, numbers, its = found.setdefault(child.name, (child, [], []))
            numbers.append(number)
            its.append(inner)
        yield from found.values()

    # Objects

    def put_frames(
        self,
        frames: Sequence[Buffer],
        *,
        subset_tags: Iterable[str] = (),
        superset_tags: Iterable[str] = (),
        type_name: str = "",
    ) -> Key:
        """Store an object in the connector whose policy takes it.

        Parameters
        ----------
        subset_tags, superset_tags
            The policy must have all of the first; the second contain all of its own.
        type_name
            Type of the object, as in ``"numpy.ndarray"``. Without it, no policy with
            ``type_names`` takes the object.

        Raises
        ------
        ConnectorError
            If no policy takes the object, or its store failed.
        ConnectorUnavailableError
            If this process cannot reach the connector that would take it.
        """
        nbytes = sum(memoryview(frame).nbytes for frame in frames)
        name, connector = self._children.route(
            nbytes, subset_tags, superset_tags, type_name
        )
        hints = _hints(connector, subset_tags, superset_tags, type_name)
        return MultiKey(name, connector.put_frames(frames, **hints))

    @override
    def put(self, obj: Buffer, **hints: Any) -> Key:
        return self.put_frames([obj], **hints)

    def put_everywhere(self, obj: Buffer) -> list[Key]:
        """Store one buffer in each connector, whatever the policies say."""
        self._children.check_open()
        return [
            MultiKey(child.name, key)
            for child in self._children.by_name.values()
            for key in self._children.open(child).put_everywhere(obj)
        ]

    def put_batch(
        self,
        objs: Iterable[Buffer],
        *,
        subset_tags: Iterable[str] = (),
        superset_tags: Iterable[str] = (),
        type_name: str | Sequence[str] = "",
    ) -> list[Key]:
        """Store several buffers, one batch per connector; see :meth:`put_frames`.

        If no policy takes one of them, none is stored. *type_name* is the type of all
        objects, or a list with one name per object.
        """
        objs = list(objs)
        types = [type_name] * len(objs) if isinstance(type_name, str) else type_name
        groups: dict[str, tuple[Connector, list[int]]] = {}
        for number, (obj, each) in enumerate(zip(objs, types, strict=True)):
            nbytes = memoryview(obj).nbytes
            name, connector = self._children.route(
                nbytes, subset_tags, superset_tags, each
            )
            groups.setdefault(name, (connector, []))[1].append(number)
        keys: dict[int, Key] = {}
        for name, (connector, numbers) in groups.items():
            batch, named = [objs[n] for n in numbers], [types[n] for n in numbers]
            hints = _hints(connector, subset_tags, superset_tags, named)
            made = connector.put_batch(batch, **hints)
            keys |= zip(numbers, (MultiKey(name, key) for key in made), strict=True)
        return [keys[number] for number in range(len(objs))]

    @override
    def get(self, key: Key) -> memoryview | None:
        connector, inner = self._find(key)
        return connector.get(inner)

    @override
    def get_batch(self, keys: Iterable[Key]) -> list[memoryview | None]:
        found: dict[int, memoryview | None] = {}
        for child, numbers, inner in self._by_child(keys):
            views = self._children.open(child).get_batch(inner)
            found |= zip(numbers, views, strict=True)
        return [found[number] for number in sorted(found)]

    @override
    def exists(self, key: Key) -> bool:
        connector, inner = self._find(key)
        return connector.exists(inner)

    @override
    def evict(self, key: Key) -> None:
        connector, inner = self._find(key)
        connector.evict(inner)

    @override
    def evict_batch(self, keys: Iterable[Key]) -> None:
        found = self._by_child(keys)
        opened = [(self._children.open(child), inner) for child, _, inner in found]
        for connector, inner in opened:
            connector.evict_batch(inner)

    @override
    def take(self, key: Key) -> memoryview | None:
        connector, inner = self._find(key)
        return connector.take(inner)

    def new_key(self, obj: Buffer | None = None) -> Key:
        """Return a key for an object that does not exist yet.

        Parameters
        ----------
        obj
            Its size selects the connector. Without it, that is the first one that can
            make such keys and whose policy requires neither tags nor types.

        Raises
        ------
        NotImplementedError
            If there is no such connector.
        """
        self._children.check_open()
        nbytes = None if obj is None else memoryview(obj).nbytes
        try:
            name, connector = self._children.route(
                nbytes,
                (),
                (),
                "",
                lambda connector: isinstance(connector, DeferrableConnector),
            )
        except ConnectorError as exc:
            raise NotImplementedError(str(exc)) from exc
        deferrable: Any = connector
        return MultiKey(name, deferrable.new_key(obj))

    @override
    def set(self, key: Key, obj: Buffer) -> None:
        self.set_frames(key, [obj])

    @override
    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        connector, inner = self._find(key)
        if not isinstance(connector, DeferrableConnector):
            raise WireError(f"{key!r} is of a connector without keys before objects")
        connector.set_frames(inner, frames)

    @override
    def link(self, key: Key) -> Key | None:
        connector, inner = self._find(key)
        linked = connector.link(inner)
        return None if linked is None else MultiKey(key[0], linked)

    @override
    def renew(self, key: Key, seconds: float) -> bool:
        connector, inner = self._find(key)
        return connector.renew(inner, seconds)

    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        """Sweep each connector that this process reaches."""
        self._children.check_open()
        names: dict[str, list[Key]] = {name: [] for name in self._children.by_name}
        for key in known or ():
            if len(key) == 2 and key[0] in names:
                names[key[0]].append(key[1])
        swept: list[Key] = []
        failures: list[ConnectorError] = []
        for name, connector in self._children.reached():
            try:
                found = connector.sweep(None if known is None else names[name], grace)
            except ConnectorError as exc:
                failures.append(exc)  # the others are swept all the same
            else:
                swept += [MultiKey(name, key) for key in found]
        for failure in failures:
            logger.warning("%r could not be swept as a whole: %s", self, failure)
        return swept

    @override
    def usage(self) -> Usage:
        self._children.check_open()
        children = self._children.by_name.values()
        usages = [self._children.open(child).usage() for child in children]
        return Usage(sum(u.objects for u in usages), sum(u.nbytes for u in usages))

    @override
    def outlive(self) -> None:
        for _, connector in self._children.reached():
            connector.outlive()

    def space(self) -> Space:
        """Return the sum of all connectors that this process reaches."""
        self._children.check_open()
        spaces = [connector.space() for _, connector in self._children.reached()]
        return Space(*map(sum, zip(*spaces, strict=True)))

    @override
    def footprints(self, keys: Iterable[Key]) -> list[Footprint | None]:
        found: dict[int, Footprint | None] = {}
        for child, numbers, inner in self._by_child(keys):
            told: list[Footprint | None] = [None] * len(inner)
            if child.connector is not None:  # another may need a login, or a network
                told = child.connector.footprints(inner)
            found |= zip(numbers, told, strict=True)
        return [found[number] for number in sorted(found)]

    # The connector itself

    @property
    def private(self) -> bool:  # type: ignore[override]
        """Whether all connectors are private; one that is not open here is not."""
        opened = [child.connector for child in self._children.by_name.values()]
        return all(each is not None and each.private for each in opened)

    @property
    def overflows(self) -> int:  # type: ignore[override]
        """Number of this process's objects that went to a slower store."""
        opened = [child.connector for child in self._children.by_name.values()]
        return sum(each.overflows for each in opened if each is not None)

    @override
    def config(self) -> dict[str, Any]:
        return {"connectors": self._children.config()}

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return the secrets of all connectors that this process has open."""
        merged: dict[str, dict[str, str]] = {}
        for child in self._children.by_name.values():
            if child.connector is not None:
                merged |= child.connector.secrets()
        return merged

    def close(self) -> None:
        """Close all connectors, even if some fail."""
        self._children.close()


def _hints(
    connector: Connector,
    subset_tags: Iterable[str],
    superset_tags: Iterable[str],
    type_name: str | Sequence[str],
) -> dict[str, Any]:
    if not connector.takes_hints:
        return {}
    hints = {
        "subset_tags": subset_tags,
        "superset_tags": superset_tags,
        "type_name": type_name,
    }
    return {name: value for name, value in hints.items() if value}
