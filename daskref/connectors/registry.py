"""Connectors by URL scheme, class or configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from daskref.connectors.adapter import adapt, adapted_class, class_of
from daskref.connectors.base import Connector
from daskref.connectors.credentials import mask, remember
from daskref.exceptions import ConfigError

_SETTING = "daskref.connector"

#: Scheme -> ``"module:Class"``, imported when it is first asked for.
SCHEMES = {
    "file": "daskref.connectors.file:FileConnector",
    **dict.fromkeys(
        # and `fsspec+<protocol>` for any other of fsspec's
        ("abfs", "az", "fsspec", "gcs", "gs", "memory", "s3"),
        "daskref.connectors.fsspec:FsspecConnector",
    ),
    "local": "daskref.connectors.local:LocalConnector",
    "redis": "daskref.connectors.redis:RedisConnector",
    "rediss": "daskref.connectors.redis:RedisConnector",
    "shm": "daskref.connectors.shm:SharedMemoryConnector",
    "zmq": "daskref.connectors.zmq:ZmqConnector",
}

#: Scheme -> the extra with its driver.
EXTRAS: dict[str, str] = {"redis": "redis", "rediss": "redis"}


def registered() -> dict[str, type[Connector]]:
    """Return the connector classes by URL scheme."""
    return {scheme: load_scheme(scheme) for scheme in SCHEMES}


def open_connector(spec: str | Mapping[str, Any], **options: Any) -> Connector:
    """Make a connector from its description.

    Parameters
    ----------
    spec
        A URL such as ``"shm://"``, ``"shm://?budget=0.5"`` or ``"file:///shared/dir"``;
        a mapping with ``class`` (``"module:Class"`` or ``"module.Class"``) and its
        arguments; or the result of :func:`describe_connector`.
    **options
        Further arguments; they take precedence over those in *spec*.

    Returns
    -------
    Connector
        A new one; the caller closes it.

    Raises
    ------
    ConfigError
        If *spec* is malformed, or an option unknown.
    ConnectorUnavailableError
        If the store cannot be reached.

    Examples
    --------
    >>> open_connector("local://").put(b"some bytes")
    LocalKey(name='...')
    """
    if isinstance(spec, str):
        try:
            cls, found = _from_url(spec)
        except ConfigError as exc:  # the spec may name a password
            raise ConfigError(
                exc.setting, mask(str(exc.value)), mask(exc.expected)
            ) from None
    elif isinstance(spec, Mapping) and "from-config" in spec:
        for place, secrets in spec.get("secrets", {}).items():
            remember(place, secrets)
        return load_connector(spec["class"], spec["from-config"])
    elif isinstance(spec, Mapping) and isinstance(spec.get("class"), str):
        cls = load_class(spec["class"])
        found = {name: value for name, value in spec.items() if name != "class"}
    else:
        raise ConfigError(
            _SETTING, spec, f"{_schemes()}, or a mapping with `class` and arguments"
        )
    # YAML writes hyphens.
    arguments = {
        n.replace("-", "_"): value for n, value in {**found, **options}.items()
    }
    _check_options(cls, arguments)
    return adapt(cls(**arguments))


def as_connector(connector: Any) -> Connector:
    """Return a connector, opened if *connector* is a spec for :func:`open_connector`.

    Raises ConfigError if it is neither; ConnectorUnavailableError if the store of a
    spec cannot be reached.
    """
    if isinstance(connector, str | Mapping):
        return open_connector(connector)
    _check_connector(connector, "connector")
    return adapt(connector)


def _check_connector(connector: Any, setting: str) -> None:
    if isinstance(connector, type) or not callable(getattr(connector, "config", None)):
        hint = f" (did you mean file://{connector}?)" if _is_path(connector) else ""
        raise ConfigError(
            setting,
            connector,
            f'a connector, a spec such as "file:///directory", or a mapping with '
            f"`class`{hint}",
        )


def _is_path(value: Any) -> bool:
    return isinstance(value, str | PurePath) and str(value).startswith("/")


def describe_connector(connector: Any) -> dict[str, Any]:
    """Return a spec with which another process opens a connector's store.

    The spec is for :func:`open_connector` only, because it contains the store's
    secrets. The caller closes the connector after the last use of the store. Raises
    ConfigError if *connector* is none.
    """
    _check_connector(connector, _SETTING)
    ours = adapt(connector)
    return {
        "class": connector_path(ours),
        "from-config": ours.config(),
        "secrets": ours.secrets(),
    }


def _schemes() -> str:
    return "one of " + ", ".join(f"{scheme}://" for scheme in sorted(SCHEMES))


def _from_url(spec: str) -> tuple[type[Connector], dict[str, Any]]:
    try:
        url = urlsplit(spec)
        query = parse_qsl(
            url.query, keep_blank_values=True, strict_parsing=bool(url.query)
        )
    except ValueError as exc:
        raise ConfigError(_SETTING, spec, f"a URL, {_schemes()}") from exc
    scheme, colon, _ = spec.partition("://")
    name = "fsspec" if url.scheme.startswith("fsspec+") else url.scheme
    if name not in SCHEMES or not colon:
        # half of the letters: some schemes have two
        near = get_close_matches(scheme.partition(":")[0].lower(), SCHEMES, 1, 0.5)
        meant = f"file://{spec}" if _is_path(spec) else near and f"{near[0]}://"
        hint = f" (did you mean {meant}?)" if meant else ""
        raise ConfigError(_SETTING, spec, f"{_schemes()}{hint}")
    cls = load_scheme(name)
    return cls, {**cls.options_from_url(url), **dict(query)}


def _check_options(cls: type[Any], options: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(cls).parameters
    except ValueError:
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in options:
        if name not in parameters:
            valid = ", ".join(sorted(parameters)) or "none"
            raise ConfigError(
                f"{_SETTING}: option {name}",
                "***",  # it may be a misspelt password
                f"one of the options of {cls.__name__}: {valid}",
            )
    for name, parameter in parameters.items():
        variadic = parameter.kind is parameter.VAR_POSITIONAL
        required = parameter.default is parameter.empty and not variadic
        if required and name not in options:
            raise ConfigError(
                f"{_SETTING}: option {name}", None, f"a value: {cls.__name__} needs it"
            )


def connector_path(obj: object) -> str:
    """Return ``"module:Class"`` of a connector or a connector class."""
    cls = class_of(obj)
    return f"{cls.__module__}:{cls.__qualname__}"


def load_scheme(scheme: str) -> type[Any]:
    """Import the class of a scheme.

    Raises ConfigError, with the command to install it, if its driver is missing.
    """
    try:
        return load_class(SCHEMES[scheme])
    except ConfigError as exc:
        if scheme not in EXTRAS:
            raise
        command = f"pip install 'daskref[{EXTRAS[scheme]}]'"
        raise ConfigError(
            _SETTING,
            f"{scheme}://",
            f"its driver to be installed: `{command}` ({exc.__cause__})",
        ) from exc


def load_class(path: str) -> type[Any]:
    """Import the class at ``"module:Class"`` or ``"module.Class"``.

    Raises ConfigError if there is no such class.
    """
    expected = "the importable path of a class, as in package.module:Class"
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    if not module or not name:
        raise ConfigError(_SETTING, path, expected)
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(_SETTING, path, f"{expected} ({exc})") from exc
    if not isinstance(found, type):
        raise ConfigError(_SETTING, path, expected)
    return found


def load_connector(path: str, options: Mapping[str, Any]) -> Connector:
    """Open a connector with the path and configuration from another process.

    Raises ConfigError if there is no such class; ConnectorUnavailableError if this
    process cannot reach the store.
    """
    cls = load_class(path)
    if not issubclass(cls, Connector):
        cls = adapted_class(cls)
    return cls.from_config(dict(options))
