"""Ports, addresses and sizes as users write them."""

from __future__ import annotations

import pytest

from daskref.exceptions import ConfigError
from daskref.units import parse_advertised, parse_ports, parse_size


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        (0, range(0, 1)),
        ("5000", range(5000, 5001)),
        ("5000:5002", range(5000, 5003)),
        ("65535", range(65535, 65536)),
    ],
)
def test_ports(value, ports):
    assert parse_ports(value) == ports


@pytest.mark.parametrize("value", [-1, 2**16, "2:1", "0:1", "", "x", None, True, 1.5])
def test_ports_that_are_none(value):
    with pytest.raises(ConfigError, match=r"here=.*5000:5100") as caught:
        parse_ports(value, "here")
    assert caught.value.value is value


@pytest.mark.parametrize(
    ("value", "address", "port"),
    [
        ("10.0.0.1", "10.0.0.1", None),
        ("10.0.0.1:77", "10.0.0.1", 77),
        ("node-7.example", "node-7.example", None),
        ("node-7.example:77", "node-7.example", 77),
        ("fd00::5", "fd00::5", None),
        ("[fd00::5]", "fd00::5", None),
        ("[fd00::5]:77", "fd00::5", 77),
    ],
)
def test_advertised(value, address, port):
    assert parse_advertised(value) == (address, port)


@pytest.mark.parametrize(
    "value",
    [
        *["", " ", None, 5, ":77", "a:", "a:0", "a:65536", "a:x", "a:1:2", "a b", "-a"],
        *["[a]:5", "[10.0.0.1]:5", "[fd00::5", "[fd00::5]77", "tcp://a:5", "a:²"],
    ],
)
def test_advertised_that_are_none(value):
    with pytest.raises(ConfigError, match=r"here=.*address:port") as caught:
        parse_advertised(value, "here")
    assert caught.value.value is value


@pytest.mark.parametrize(
    ("value", "nbytes"),
    [(0, 0), (1e6, 10**6), ("1e6", 10**6), ("0.1 KiB", 103), ("1.5 MiB", 3 * 2**19)],
)
def test_sizes(value, nbytes):
    assert parse_size(value, "here") == nbytes


@pytest.mark.parametrize("value", [1.5, "1.5", "0.25 ", -1, "abc", True, None, "MB"])
def test_sizes_that_are_none(value):
    with pytest.raises(ConfigError, match=r'here=.*a size such as "64 MiB"'):
        parse_size(value, "here")
