"""Configurations of stores as users write them: in programs, and in TOML files.

A store's own configuration, :meth:`daskref.Store.config`, names the very session with
its objects. A user's names a kind of connector and its arguments.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daskref.connectors.base import Connector
from daskref.connectors.credentials import mask, mask_options
from daskref.connectors.registry import (
    SCHEMES,
    load_class,
    load_connector,
    load_scheme,
    open_connector,
)
from daskref.exceptions import ConfigError

#: Kinds beside the schemes.
_KINDS = {
    "multi": "daskref.connectors.multi:MultiConnector",
    "sharedmemory": "daskref.connectors.shm:SharedMemoryConnector",
}
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, repr=False)
class ConnectorConfig:
    """A kind of connector, and its arguments.

    Parameters
    ----------
    kind
        As in ``"file"`` or ``"FileConnector"``, or a path, ``"module.Class"``. After
        ``"module:Class"``, as stores write it, *options* are those of that connector's
        ``config()``.
    options
        Arguments of the class.

    Examples
    --------
    >>> ConnectorConfig("local").get_connector()
    <LocalConnector ...>
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return it without passwords."""
        options = mask(repr(mask_options(dict(self.options))))
        return f"ConnectorConfig({self.kind!r}, {options})"

    def get_connector_type(self) -> type[Any]:
        """Return the class; ConfigError, a ``ValueError``, if there is none."""
        name = self.kind.lower().removesuffix("connector")
        if name in SCHEMES:
            return load_scheme(name)
        return load_class(_KINDS.get(name, self.kind))

    def get_connector(self) -> Connector:
        """Return a new connector; the caller closes it.

        Raises
        ------
        ConfigError
            If there is no such class, or an option is unknown.
        ConnectorUnavailableError
            If the store cannot be reached.
        """
        if ":" in self.kind:
            return load_connector(self.kind, self.options)
        cls = self.get_connector_type()
        path = f"{cls.__module__}:{cls.__qualname__}"
        return open_connector({"class": path, **self.options})


def read_toml(
    path: str | os.PathLike[str], known: Mapping[str, type]
) -> dict[str, Any]:
    """Return the fields of a configuration in a TOML file.

    Raises ConfigError if the file is not TOML, or a field is missing, unknown or of
    another type. *known*: names of the fields beside ``connector``, and their types.
    """
    try:
        found = tomllib.loads(Path(path).read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(str(path), "…", f"TOML ({exc})") from exc
    connector = found.pop("connector", None)
    match connector:
        case {"kind": str(kind)} if len(connector) == 1:
            found["connector"] = ConnectorConfig(kind)
        case {"kind": str(kind), "options": dict(options)} if len(connector) == 2:
            found["connector"] = ConnectorConfig(kind, options)
        case _:
            raise ConfigError(
                f"{path}: connector", "…", "a table with `kind` and `options`"
            )
    for name, value in found.items():
        if name != "connector" and type(value) is not known.get(name):
            names = ", ".join(f"{n} ({cls.__name__})" for n, cls in known.items())
            raise ConfigError(f"{path}: {name}", mask(repr(value)), f"one of {names}")
    if "name" not in found:
        raise ConfigError(f"{path}: name", None, "the name of the store")
    return found


def write_toml(
    path: str | os.PathLike[str], fields: Mapping[str, Any], connector: ConnectorConfig
) -> None:
    """Write a file that :func:`read_toml` reads; make its directories.

    Raises ConfigError if a value is a password, or something that TOML cannot express.
    """
    text = "\n".join(
        [
            *_lines(fields),
            "\n[connector]",
            *_lines({"kind": connector.kind}),
            "\n[connector.options]",
            *_lines(connector.options),
            "",
        ]
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _secret(where: str) -> ConfigError:
    return ConfigError(
        f"connector.options: {where}",
        "***",
        "no password, which is not written to files: the page of the connector says "
        "where else it is looked for",
    )


def _lines(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if mask_options({name: ""})[name]:
            raise _secret(name)
        if value is not None:
            key = name if _BARE.fullmatch(name) else _value(name)
            yield f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str() if mask(value) != value:
            raise _secret("a URL")
        case str():
            # as in JSON, but for one character
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case os.PathLike():
            return _value(os.fspath(value))
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            return f"{{ {', '.join(_lines(value))} }}"
    raise ConfigError("connector.options", value, "what TOML can say")
