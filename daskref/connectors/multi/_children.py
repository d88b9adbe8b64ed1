"""The connectors behind a ``MultiConnector``, opened when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from daskref.connectors.adapter import adapt
from daskref.connectors.base import Connector
from daskref.connectors.multi._policy import Policy
from daskref.connectors.registry import connector_path, load_connector, open_connector
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
)

_SETTING = "daskref.connector: option connectors"


@dataclass
class Child:
    """One of the connectors; opened when it is first needed."""

    name: str
    policy: Policy
    #: Of its class, and what that is made with.
    path: str
    options: dict[str, Any]
    connector: Connector | None = None
    lock: Lock = field(default_factory=Lock)

    def open(self) -> Connector:
        """Return the connector, opened if need be."""
        with self.lock:
            if self.connector is None:
                self.connector = load_connector(self.path, self.options)
            return self.connector

    def __repr__(self) -> str:
        what = self.path.rpartition(":")[2]
        return f"{self.name}={self.connector if self.connector is not None else what}"


class Children:
    """The connectors of one ``MultiConnector``, by name.

    Notes
    -----
    Thread-safe. Among the policies that take an object, the highest priority decides;
    of equal ones, the first.
    """

    by_name: dict[str, Child]
    _by_priority: list[Child]
    _closed: bool

    def __init__(self, children: Iterable[Child]) -> None:
        self.by_name = {child.name: child for child in children}
        self._by_priority = sorted(
            self.by_name.values(), key=lambda child: -child.policy.priority
        )
        self._closed = False

    @classmethod
    def read(cls, connectors: Mapping[str, Any]) -> Children:
        """Open the connectors that a user wrote.

        Parameters and errors are those of :class:`~daskref.connectors.MultiConnector`.
        On an error, the connectors that this call opened are closed again.
        """
        if not isinstance(connectors, Mapping) or not connectors:
            raise ConfigError(_SETTING, connectors, "a mapping of names to connectors")
        children: list[Child] = []
        opened: list[Connector] = []
        try:
            for name, given in connectors.items():
                spec, policy = _pair(name, given)
                read = Policy.read(policy)
                if isinstance(spec, str | Mapping):
                    connector = open_connector(spec)
                    opened.append(connector)
                else:
                    connector = adapt(spec)
                path = connector_path(connector)
                children.append(Child(name, read, path, connector.config(), connector))
        except BaseException:
            for connector in opened:
                connector.close()
            raise
        return cls(children)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Children:
        """Return the connectors that another process's :meth:`config` describes."""
        return cls(
            Child(name, Policy.read(child["policy"]), child["class"], child["config"])
            for name, child in config.items()
        )

    def config(self) -> dict[str, Any]:
        """Return name -> class, configuration and policy, as plain values."""
        return {
            name: {
                "class": child.path,
                "config": child.options,
                "policy": child.policy.as_dict(),
            }
            for name, child in self.by_name.items()
        }

    @property
    def where(self) -> str:
        """Name of the ``MultiConnector`` in errors."""
        return f"<MultiConnector {', '.join(map(repr, self.by_name.values()))}>"

    def check_open(self) -> None:
        """Raise ``ConnectorClosedError`` after :meth:`close`."""
        if self._closed:
            raise ConnectorClosedError(self.where)

    def open(self, child: Child) -> Connector:
        """Return a child's connector.

        Raises ConnectorUnavailableError if this process cannot reach it.
        """
        try:
            return child.open()
        except ConnectorUnavailableError as exc:
            raise ConnectorUnavailableError(
                self.where,
                f"this process cannot reach the connector {child.name!r} ({exc})",
            ) from exc

    def reached(self) -> Iterator[tuple[str, Connector]]:
        """Yield names and connectors of the children that this process reaches."""
        for name, child in self.by_name.items():
            with suppress(ConnectorUnavailableError):
                yield name, child.open()

    def route(
        self,
        nbytes: int | None,
        subset_tags: Iterable[str],
        superset_tags: Iterable[str],
        type_name: str,
        fits: Callable[[Connector], bool] = lambda connector: True,
    ) -> tuple[str, Connector]:
        """Return name and connector of the child that takes an object.

        Raises ConnectorError if no policy takes it; ConnectorUnavailableError if this
        process cannot reach the connector of the one that does.

        Parameters
        ----------
        nbytes
            Size of the stored object; ``None`` if it is not known.
        fits
            connector -> whether it supports the operation.
        """
        self.check_open()
        subset, superset = _tags(subset_tags), _tags(superset_tags)
        unreached = None
        for child in self._by_priority:
            if not child.policy.is_valid(
                size_bytes=nbytes,
                subset_tags=subset,
                superset_tags=superset,
                type_name=type_name,
            ):
                continue
            try:
                connector = self.open(child)
            except ConnectorUnavailableError as exc:
                unreached = unreached or exc
                continue
            if fits(connector):
                return child.name, connector
        if unreached is not None:
            raise unreached
        policies = "; ".join(
            f"{child.name}: {_differing(child.policy)}" for child in self._by_priority
        )
        size = "of a size not known yet" if nbytes is None else f"of {nbytes} B"
        raise ConnectorError(
            self.where,
            f"no policy takes an object {size}, type {type_name or 'not given'}, "
            f"subset_tags={subset}, superset_tags={superset}. The policies: "
            f"{policies}. Add one without limits and with a low priority for the rest",
        )

    def close(self) -> None:
        """Close all connectors, even if some fail. Idempotent."""
        if self._closed:
            return
        self._closed = True
        failed: BaseException | None = None
        for child in self.by_name.values():
            with child.lock:
                connector = child.connector
            try:
                if connector is not None:
                    connector.close()
            except Exception as exc:
                failed = failed or exc
        if failed is not None:
            raise failed


def _pair(name: object, given: Any) -> tuple[Any, Any]:
    expected = "a connector and a policy: a pair, or a mapping with these names"
    if not isinstance(name, str) or not name:
        raise ConfigError(_SETTING, name, "a name")
    if isinstance(given, Mapping) and "connector" in given:
        if unknown := sorted(map(str, given.keys() - {"connector", "policy"})):
            raise ConfigError(
                f"{_SETTING}: {name}", ", ".join(unknown), "connector and policy only"
            )
        spec, policy = given["connector"], given.get("policy")
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        spec, policy = given
    else:
        raise ConfigError(f"{_SETTING}: {name}", given, expected)
    fits = isinstance(spec, str | Mapping) or callable(getattr(spec, "get", None))
    if not fits or isinstance(spec, type):
        raise ConfigError(f"{_SETTING}: {name}", spec, "a connector, or its spec")
    return spec, policy


def _tags(tags: Iterable[str]) -> list[str]:
    if isinstance(tags, str):
        raise TypeError(f"tags are a list of texts, not the text {tags!r}")
    return sorted(tags)


def _differing(policy: Policy) -> str:
    plain = Policy().as_dict()
    given = policy.as_dict().items()
    said = [f"{name}={value!r}" for name, value in given if value != plain[name]]
    return ", ".join(said) or "everything"
