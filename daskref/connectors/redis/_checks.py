"""Options of a Redis connector, checked."""

from __future__ import annotations

import math
import re
from typing import Any

from daskref.connectors.credentials import mask
from daskref.connectors.redis._options import TLS_OPTIONS
from daskref.exceptions import ConfigError
from daskref.units import parse_size

_SETTING = "daskref.connector: option {}"
_PREFIX = re.compile("[A-Za-z0-9][A-Za-z0-9:._-]{0,99}")
_SESSION = re.compile("[0-9a-f]{32}")
#: Bytes: Redis's own limit for a string is 512 MB.
_LARGEST_CHUNK = 512 * 10**6

#: What is not in a connector's configuration unless it differs.
DEFAULTS: dict[str, Any] = {
    "prefix": "daskref",
    "chunk": 4 * 2**20,
    "lease": 30.0,
    "ttl": 600.0,
    "timeout": 30.0,
    "connect_timeout": 5.0,
    "retries": 4,
    **dict.fromkeys(TLS_OPTIONS),
}


def checked_options(**options: Any) -> dict[str, Any]:
    """Return the options that :data:`DEFAULTS` names, as numbers where they are such.

    Raises
    ------
    ConfigError
        If one is malformed.
    """
    checks = {
        "prefix": _prefix,
        "chunk": _chunk,
        "retries": _count,
        **dict.fromkeys(("lease", "ttl", "timeout", "connect_timeout"), _seconds),
    }
    return {
        name: checks[name](name, value) if name in checks else value
        for name, value in options.items()
    }


def url_of(url: str, port: int | str | None) -> str:
    """Return a URL, made of ProxyStore's hostname and port if it is none.

    Raises
    ------
    ConfigError
        If it is both, or brings options.
    """
    if "://" not in url:
        host = f"[{url}]" if ":" in url else url
        return f"redis://{host}" if port is None else f"redis://{host}:{port}"
    if port is not None:
        raise ConfigError(_SETTING.format("port"), port, "none beside a URL")
    if "?" in url:
        raise ConfigError(
            "daskref.connector", mask(url), "a URL; give options by name beside it"
        )
    return url


def session_of(value: str | None) -> str | None:
    """Return a session's name.

    Raises
    ------
    ConfigError
        If it is none.
    """
    if value is None or (isinstance(value, str) and _SESSION.fullmatch(value)):
        return value
    raise ConfigError(_SETTING.format("session"), value, "32 hexadecimal digits")


def flag(name: str, value: bool | str) -> bool:
    """Return a truth value.

    Raises
    ------
    ConfigError
        If it is none.
    """
    valid = {"true": True, "1": True, "false": False, "0": False}
    if str(value).lower() in valid:
        return valid[str(value).lower()]
    raise ConfigError(_SETTING.format(name), value, "true or false")


def _prefix(name: str, value: object) -> str:
    if isinstance(value, str) and _PREFIX.fullmatch(value):
        return value
    raise ConfigError(_SETTING.format(name), value, "letters, digits and any of :._-")


def _seconds(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < 1e9:
        raise ConfigError(_SETTING.format(name), value, "a positive number of seconds")
    return number


def _count(name: str, value: object) -> int:
    if str(value).isdecimal() and int(str(value)) <= 100:
        return int(str(value))
    raise ConfigError(_SETTING.format(name), value, "a number from 0 to 100")


def _chunk(name: str, value: object) -> int:
    nbytes = parse_size(value, _SETTING.format(name))
    if 1 <= nbytes <= _LARGEST_CHUNK:
        return nbytes
    raise ConfigError(_SETTING.format(name), value, "a size of at most 512 MB")
