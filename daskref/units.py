"""Sizes and limits as users write them."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import NamedTuple

from daskref.exceptions import ConfigError

_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{p}b": 1000**n for n, p in enumerate("kmgtp", 1)},
    **{f"{p}ib": 1024**n for n, p in enumerate("kmgtp", 1)},
}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e\+?[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_SECONDS: dict[str, float] = {
    "": 1.0,
    "ms": 0.001,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
}
_DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)
#: Smaller numbers with a point are fractions.
_LEAST = 2**20
_BYTES = 'a size such as "64 MiB", "1e9" or 67108864'


def parse_size(value: object, setting: str, expected: str = _BYTES) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    value
        ``"64 MiB"``, ``"1e9"``, ``67108864``.
    setting
        Name of the setting, for the error.
    expected
        What would be valid, for the error.

    Raises
    ------
    ConfigError
        If *value* is not a size.

    Examples
    --------
    >>> parse_size("64 MiB", "daskref.threshold")
    67108864
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match and match[2].lower() in _UNITS:
            number = float(match[1]) * _UNITS[match[2].lower()]
            if math.isfinite(number):
                return math.ceil(number)
    elif (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    ):
        return math.ceil(value)
    raise ConfigError(setting, value, expected)


def parse_limit(value: object, setting: str) -> int | float:
    """Return a limit: a ``float`` is a fraction, an ``int`` is bytes.

    Parameters
    ----------
    value
        A fraction (``0.8``, ``"0.8"``, ``"80%"``, ``1.0``), a size as
        :func:`parse_size` takes it, or ``False`` or ``None`` for nothing.
    setting
        Name of the setting, for the error.

    Raises
    ------
    ConfigError
        If *value* is neither.

    Examples
    --------
    >>> parse_limit("80%", "daskref.shm.budget")
    0.8
    """
    expected = f"a fraction from 0 to 1, {_BYTES}, or 0 for nothing"
    if value is None or value is False:
        return 0
    if isinstance(value, str):
        text = value.strip()
        percent = text.endswith("%")
        try:
            number = float(text.removesuffix("%")) / (100 if percent else 1)
        except ValueError:
            return parse_size(value, setting, expected)
        if percent or ("." in text and number < _LEAST):
            value = number
            if percent and not 0 <= number <= 1:
                raise ConfigError(setting, f"{text}", expected)
    if isinstance(value, float) and value < _LEAST:
        if not 0 <= value <= 1:  # 1.5 is not meant to be one byte
            raise ConfigError(setting, value, expected)
        return value
    return parse_size(value, setting, expected)


def parse_duration(value: object, setting: str) -> float:
    """Return a duration in seconds.

    Parameters
    ----------
    value
        ``2``, ``0.5``, ``"0.5"``, ``"500ms"``, ``"2s"``, ``"1 min"``; 0 for none.
    setting
        Name of the setting, for the error.

    Raises
    ------
    ConfigError
        If *value* is not a duration.

    Examples
    --------
    >>> parse_duration("500ms", "daskref.connector: option patience")
    0.5
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match and match[2].lower() in _SECONDS:
            return float(match[1]) * _SECONDS[match[2].lower()]
    elif (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    ):
        return float(value)
    raise ConfigError(setting, value, 'seconds, as in 2, "2s" or "500ms"')


_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_BRACKETS = re.compile(r"\[([^]]*)\](?::(\d+))?")


class Advertised(NamedTuple):
    """What others are told to connect to."""

    #: A name, or an address without brackets.
    address: str
    #: ``None``: the one on which the process listens.
    port: int | None


def parse_ports(value: object, setting: str = "zmq: port") -> range:
    """Return the ports that ``5000``, ``"5000"`` or ``"5000:5100"`` means, in order.

    Parameters
    ----------
    value
        What the user wrote.
    setting
        Name to complain about.

    Raises
    ------
    ConfigError
        If it is neither. ``0`` is any free port.

    Examples
    --------
    >>> parse_ports("5000:5100")
    range(5000, 5101)
    """
    first, colon, last = str(value).partition(":")
    try:
        ports = range(int(first), int(last if colon else first) + 1)
    except ValueError:
        ports = range(0)
    if not ports or not 0 <= ports[0] <= ports[-1] < 2**16 or (colon and not ports[0]):
        raise ConfigError(
            setting, value, 'a port, a range such as "5000:5100", or 0 for any'
        )
    return ports


def parse_advertised(value: object, setting: str = "zmq: advertise") -> Advertised:
    """Return address and port of ``"10.0.0.1"``, ``"node:5000"``, ``"[fd00::1]:5000"``.

    Parameters
    ----------
    value
        What the user wrote.
    setting
        Name to complain about.

    Raises
    ------
    ConfigError
        If it is neither ``address`` nor ``address:port``.

    Examples
    --------
    >>> parse_advertised("[fd00::1]:5000")
    Advertised(address='fd00::1', port=5000)
    """
    if isinstance(value, str) and (found := _split(value)):
        address, port = found
        number = None if port is None else int(port)
        if number is None or 0 < number < 2**16:
            return Advertised(address, number)
    raise ConfigError(
        setting,
        value,
        '"address" or "address:port", IPv6 in brackets if there is a port: '
        '"[fd00::1]:5000"',
    )


def _split(text: str) -> tuple[str, str | None] | None:
    if match := _BRACKETS.fullmatch(text):
        return (match[1], match[2]) if _is_ip6(match[1]) else None
    if _is_ip6(text):
        return text, None
    host, colon, port = text.partition(":")
    if not _HOST_NAME.fullmatch(host) or (colon and not re.fullmatch("[0-9]+", port)):
        return None
    return host, port if colon else None


def _is_ip6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
