"""Keys and objects that daskref's and ProxyStore's connectors have in common.

ProxyStore's keys are taken by ours as they are, where both use one directory or one
Redis database. For the other way, :func:`to_proxystore` makes a key of theirs. Only
objects that are bytes to both make sense there: what a daskref ``Store`` wrote, a
ProxyStore ``Store`` does not read.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from daskref.connectors.adapter import class_of
from daskref.connectors.base import Connector, Key
from daskref.connectors.file.connector import FileConnector
from daskref.connectors.local import LocalConnector
from daskref.connectors.registry import load_class
from daskref.exceptions import ConfigError, ConnectorError, MissingKeyError

#: Bytes that our Redis connector puts into one string unless it is told otherwise.
_CHUNK = 4 * 2**20


def to_proxystore(connector: Connector, key: Key) -> Any:
    """Return a key with which ProxyStore's connector reads an object of ours.

    Parameters
    ----------
    connector
        A ``FileConnector``, ``RedisConnector`` or ``LocalConnector``.
    key
        Of an object that is there.

    Returns
    -------
    FileKey, RedisKey or LocalKey
        Of ProxyStore's class. For theirs on the same directory or database, or, for
        ``LocalConnector``, on a :class:`LocalObjects` of this connector. The object is
        one and the same: whoever evicts it, evicts it for all.

    Raises
    ------
    ConfigError
        If ProxyStore is not installed.
    ConnectorError
        If ProxyStore has no such connector, or cannot read an object of that size.
    MissingKeyError
        If there is no such object.
    WireError
        If *key* is none of the connector's.

    Examples
    --------
    >>> import proxystore.connectors.file as theirs  # doctest: +SKIP
    >>> with FileConnector("/shared") as ours:  # doctest: +SKIP
    ...     key = to_proxystore(ours, ours.put(b"some bytes"))
    ...     theirs.FileConnector("/shared", clear=False).get(key)
    b'some bytes'
    """
    if isinstance(connector, FileConnector):
        return _theirs("file", "FileKey")(connector.share(key))
    if not connector.exists(key):
        raise MissingKeyError(key, repr(connector))
    if isinstance(connector, LocalConnector):
        return _theirs("local", "LocalKey")(_as_uuid(key[0]))
    if class_of(connector).__name__ == "RedisConnector":
        return _theirs("redis", "RedisKey")(_one_string(connector, key))
    raise ConnectorError(repr(connector), "ProxyStore has no such connector")


class LocalObjects(MutableMapping[Any, Any]):
    """The objects of a ``LocalConnector``, as ProxyStore's has its own.

    Parameters
    ----------
    connector
        Ours, of this process.

    Notes
    -----
    What theirs puts is found in ours by theirs' key, and the other way around by
    :func:`to_proxystore`. All of it stays in this process: the configuration of theirs
    has no objects in it, so a proxy of theirs does not resolve elsewhere.

    Examples
    --------
    >>> from proxystore.connectors.local import (  # doctest: +SKIP
    ...     LocalConnector as Theirs)
    >>> theirs = Theirs(LocalObjects(connector))  # doctest: +SKIP
    """

    def __init__(self, connector: LocalConnector) -> None:
        self._connector = connector
        self._key = _theirs("local", "LocalKey")

    def __getitem__(self, key: Any) -> bytes:
        view = self._connector.get(key)
        if view is None:
            raise KeyError(key)
        return bytes(view)

    def __setitem__(self, key: Any, obj: Any) -> None:
        self._connector.set(key, obj)

    def __delitem__(self, key: Any) -> None:
        if self._connector.take(key) is None:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        with suppress(ValueError):  # no such key could be made
            return self._connector.exists(key)  # type: ignore[arg-type]
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter([self._key(_as_uuid(key[0])) for key in self._connector.all_keys()])

    def __len__(self) -> int:
        return len(self._connector.all_keys())


def _theirs(module: str, name: str) -> Any:
    try:
        return load_class(f"proxystore.connectors.{module}:{name}")
    except ConfigError as exc:
        raise ConfigError(
            "proxystore",
            module,
            f"ProxyStore to be installed: `pip install proxystore` ({exc.__cause__})",
        ) from exc


def _as_uuid(name: str) -> str:
    return str(UUID(hex=name))


def _one_string(connector: Any, key: Key) -> str:
    """Return what Redis calls an object, if it is one string there."""
    nbytes = key[1] if len(key) > 1 else -1
    if nbytes < 0:
        found = connector.get(key)
        nbytes = 0 if found is None else found.nbytes
    chunk = int(connector.config().get("chunk", _CHUNK))
    if nbytes > chunk:
        raise ConnectorError(
            repr(connector),
            f"the object of {nbytes} B is in several strings of {chunk} B, which "
            "ProxyStore cannot put together: open the connector with a larger `chunk`",
        )
    name: str = key[0]
    return name
