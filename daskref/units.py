"""Numbers, sizes, durations and ports as users write them: settings, options, URLs.

Each reader is ``(value, setting) -> value``. Its :class:`ConfigError` names the
setting, the value, and what would be valid.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from numbers import Real
from threading import TIMEOUT_MAX
from typing import Any, NamedTuple, TypeAlias

from daskref.exceptions import ConfigError

#: ``(value, setting) -> value``; raises :class:`ConfigError`.
Reader: TypeAlias = Callable[[Any, str], Any]
#: A number of bytes (int), or a fraction from 0 to 1 (float).
Share: TypeAlias = int | float

_QUANTITY = re.compile(
    r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*([a-z]*|%)\s*", re.IGNORECASE
)
_BYTES = {
    f"{letter}{b}": base**power
    for base, i in ((1000, ""), (1024, "i"))
    for power, letter in enumerate(["", *(f"{each}{i}" for each in "kmgtp")])
    for b in ("", "b")
}
_SECONDS = {
    "": 1.0,
    **dict.fromkeys(["ns", "nanosecond", "nanoseconds"], 1e-9),
    **dict.fromkeys(["us", "microsecond", "microseconds"], 1e-6),
    **dict.fromkeys(["ms", "millisecond", "milliseconds"], 1e-3),
    **dict.fromkeys(["s", "sec", "second", "seconds"], 1.0),
    **dict.fromkeys(["m", "min", "minute", "minutes"], 60.0),
    **dict.fromkeys(["h", "hour", "hours"], 3600.0),
    **dict.fromkeys(["d", "day", "days"], 86400.0),
    **dict.fromkeys(["w", "week", "weeks"], 604800.0),
}
_FRACTION = {"": 1.0, "%": 0.01}
#: Numbers below it are no sizes: 1.5 is not meant to be one byte.
_LEAST_SHARE = 2**20


def read_options(
    readers: Mapping[str, Reader],
    given: Mapping[str, Any],
    setting: str = "daskref.connector: option {}",
) -> dict[str, Any]:
    """Return options with the types that their readers give them.

    Raises ConfigError if one is malformed.

    Parameters
    ----------
    readers
        Name -> reader of the option; options without one are returned as they are.
    given
        Name -> what the user wrote.
    setting
        The name for errors; ``{}`` stands for the option's name.

    Examples
    --------
    >>> read_options({"timeout": parse_seconds}, {"timeout": "500ms", "name": "x"})
    {'timeout': 0.5, 'name': 'x'}
    """
    return {
        name: readers[name](value, setting.format(name)) if name in readers else value
        for name, value in given.items()
    }


def parse_size(
    value: object, setting: str, *, least: int = 0, most: int | None = None
) -> int:
    """Return a size in bytes, from *least* to *most*, both valid.

    *value*: ``"64 MiB"``, ``"1e9"``, ``67108864``.

    Examples
    --------
    >>> parse_size("64 MiB", "daskref.threshold")
    67108864
    """
    number = _quantity(value, _BYTES)
    nbytes = None if number is None else math.ceil(number)
    has_unit = isinstance(value, str) and value.rstrip()[-1:].isalpha()
    if nbytes != number and not has_unit:
        nbytes = None  # 1.5 is not meant to be two bytes
    if nbytes is None or not least <= nbytes <= (nbytes if most is None else most):
        expected = 'a size such as "64 MiB", "1e9" or 67108864'
        raise ConfigError(setting, value, expected + _bounds(least, most, _as_size))
    return nbytes


def parse_share(value: object, setting: str) -> Share:
    """Return a fraction (float) or a number of bytes (int).

    *value*: a fraction (``0.8``, ``"0.8"``, ``"80%"``, ``1``), a size as in
    :func:`parse_size`, or 0 or ``False`` for nothing.

    Examples
    --------
    >>> parse_share("80%", "daskref.shm.budget")
    0.8
    """
    if value is False:
        return 0
    number = fraction = _quantity(value, _FRACTION)
    if fraction is None:
        number = _quantity(value, _BYTES)
    elif fraction <= 1:
        return float(fraction) if fraction else 0
    elif fraction < _LEAST_SHARE:
        number = None
    if number is None:
        raise ConfigError(
            setting,
            value,
            'a fraction from 0 to 1, or a size such as "8 GiB", of 1 MiB or more if it '
            "has no unit",
        )
    return math.ceil(number)


def parse_seconds(value: object, setting: str, *, zero: bool = False) -> float:
    """Return a duration in seconds, short enough for Python's functions to wait.

    *value*: ``2``, ``0.5``, ``"0.5"``, ``"500ms"``, ``"2s"``, ``"1 min"``, ``"10
    minutes"``. *zero*: whether 0 is valid.

    Examples
    --------
    >>> parse_seconds("500ms", "daskref.timeout")
    0.5
    """
    seconds = _quantity(value, _SECONDS)
    if seconds is None or seconds > TIMEOUT_MAX or not (seconds or zero):
        what = "a duration" if zero else "a positive duration"
        raise ConfigError(setting, value, f'{what} such as "30s", "500ms" or 30')
    return float(seconds)


def parse_count(
    value: object, setting: str, *, least: int = 1, most: int | None = None
) -> int:
    """Return a whole number, ``3`` or ``"3"``, from *least* to *most*, both valid."""
    number = _quantity(value, {"": 1})
    count = None if number is None or number % 1 else int(number)
    if count is None or count < least or (most is not None and count > most):
        expected = "a whole number" + _bounds(least, most, str)
        raise ConfigError(setting, value, expected)
    return count


def parse_flag(value: object, setting: str) -> bool:
    """Return a truth value: ``True``, ``"true"``, ``"1"``, in any case."""
    valid = {"true": True, "1": True, "false": False, "0": False}
    if (text := str(value).lower()) in valid:
        return valid[text]
    raise ConfigError(setting, value, "true or false")


def one_of(*choices: str) -> Reader:
    """Return a reader that accepts these texts and no others."""

    def parse(value: object, setting: str) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ConfigError(setting, value, " or ".join(map(repr, choices)))

    return parse


def _quantity(value: Any, units: Mapping[str, float]) -> int | float | None:
    """Return the value of a number, or of a text with a unit; ``None`` if negative."""
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        if match is None or (unit := match[3].lower()) not in units:
            return None
        value = float(match[1] + (match[2] or "")) * units[unit]
    # bool is an int, but `threshold: yes` is a mistake; NumPy's numbers are Real
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number: Any = value
    try:
        return number if math.isfinite(number) and number >= 0 else None
    except OverflowError:  # a whole number that nothing here can be
        return None


def _bounds(least: int, most: int | None, show: Callable[[int], str]) -> str:
    if most is None:
        return f", {show(least)} or more"
    return f", from {show(least)} to {show(most)}"


def _as_size(nbytes: int) -> str:
    for unit in ("MiB", "MB"):
        if nbytes and nbytes % _BYTES[unit.lower()] == 0:
            return f"{nbytes // _BYTES[unit.lower()]} {unit}"
    return f"{nbytes} B"


_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_BRACKETS = re.compile(r"\[([^]]*)\](?::(\d+))?")


class Advertised(NamedTuple):
    """The address that other processes connect to."""

    #: A name, or an address without brackets.
    address: str
    #: ``None``: the one on which the process listens.
    port: int | None


def parse_ports(value: object, setting: str = "zmq: port") -> range:
    """Return the ports that ``5000``, ``"5000"`` or ``"5000:5100"`` means, in order.

    ``0`` is any free port.

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
