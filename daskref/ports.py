"""Ports and addresses as users write them; nothing is looked up or opened."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from daskref.exceptions import ConfigError

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
