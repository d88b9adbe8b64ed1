from __future__ import annotations

import sys

import pytest

from daskref.connectors import FileConnector, LocalConnector, SharedMemoryConnector
from daskref.connectors.registry import (
    connector_path,
    load_connector,
    open_connector,
    registered,
)
from daskref.exceptions import ConfigError, ConnectorUnavailableError
from daskref.units import parse_seconds, parse_share, parse_size


def test_every_class_is_registered_under_its_scheme():
    classes = set(registered().values())
    schemes = {s: cls for cls in classes for s in (cls.scheme, *cls.aliases)}
    assert schemes == registered()
    assert set(registered()) >= {"file", "local", "shm", "redis", "rediss", "s3"}


def test_specs_with_locations_and_options(tmp_path):
    spec = f"shm://{tmp_path}/?budget=0.5&recycle=1 MiB&spill-directory={tmp_path}"
    with open_connector(spec) as connector:
        assert isinstance(connector, SharedMemoryConnector)
        assert connector.directory.startswith(f"{tmp_path}/daskref-")
        assert connector.config()["budget"] == "0.5"
        assert connector.config()["recycle"] == "1 MiB"
    with open_connector(f"file://{tmp_path}/a%20b", clear=False) as connector:
        assert isinstance(connector, FileConnector)
        assert connector.store_dir == f"{tmp_path}/a b"
        assert connector.config()["clear"] is False
    with open_connector("local://") as connector:
        assert isinstance(connector, LocalConnector)


@pytest.mark.parametrize("separator", [":", "."])
def test_mappings_name_a_class(tmp_path, separator):
    spec = {
        "class": f"daskref.connectors.file{separator}FileConnector",
        "store-dir": str(tmp_path),
    }
    with open_connector(spec) as connector:
        assert isinstance(connector, FileConnector)
    assert "class" in spec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("shn://", "did you mean shm://"),
        ("sharedmem", "file://, fsspec://, gcs://"),
        ("shm", "did you mean shm://"),
        ("shm:/dev/shm", "did you mean shm://"),
        ("", "one of abfs://"),
        ("local:///dir", "nothing after it"),
        ("file://", "file:///an/absolute/path"),
        ("file://host/dir", "file:///an/absolute/path"),
        ("shm://?budgt=0.5", "budget, create, directory, nonce, recycle"),
        ("shm://?budget", "a URL"),
        ("local://?budget=1", "id"),
        (5, "a mapping with `class`"),
        (None, "a mapping with `class`"),
        ({}, "a mapping with `class`"),
        ({"class": "nonsense"}, "importable path"),
        ({"class": "daskref.connectors.file:Missing"}, "importable path"),
        ({"class": "daskref.missing:Missing"}, "importable path"),
        ({"class": "daskref.connectors.registry:SCHEMES"}, "importable path"),
        ({"class": "daskref.connectors.file:FileConnector"}, "needs it"),
        ({"class": "daskref.connectors.local:LocalConnector", "x": 1}, "options of"),
        ("shm://?budget=much", "a fraction from 0 to 1"),
        ("shm://?recycle=-1", "a fraction from 0 to 1"),
        ("file:///tmp?clear=perhaps", "true or false"),
    ],
)
def test_malformed_specs_say_what_is_valid(spec, expected):
    with pytest.raises(ConfigError) as caught:
        open_connector(spec)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("daskref.")


def test_a_connector_by_path_and_config():
    with LocalConnector() as connector:
        path = connector_path(connector)
        assert path == connector_path(LocalConnector)
        assert path == "daskref.connectors.local:LocalConnector"
        key = connector.put(b"bytes")
        with load_connector(path, connector.config()) as other:
            assert other.get(key) == b"bytes"
    with pytest.raises(ConnectorUnavailableError):
        load_connector(path, connector.config())


def test_a_class_without_from_config(monkeypatch):
    class Plain:
        def __init__(self, number):
            self.number = number

    monkeypatch.setattr(sys.modules[__name__], "Plain", Plain, raising=False)
    assert load_connector(f"{__name__}:Plain", {"number": 3}).number == 3


@pytest.mark.parametrize(
    ("value", "nbytes"),
    [
        (5, 5),
        (2.0, 2),
        ("64 MiB", 64 * 2**20),
        ("64mb", 64 * 10**6),
        ("1e9", 10**9),
        (".5 kB", 500),
        (" 7 ", 7),
        ("3B", 3),
        (0, 0),
    ],
)
def test_sizes(value, nbytes):
    assert parse_size(value, "x") == nbytes


@pytest.mark.parametrize(
    "value", ["", "MiB", "5 parsec", "-1", -1, True, None, float("nan"), [], "1e400"]
)
def test_malformed_sizes(value):
    with pytest.raises(ConfigError, match="expected a size"):
        parse_size(value, "daskref.x")


@pytest.mark.parametrize(
    ("value", "share"),
    [
        (0.8, 0.8),
        ("0.8", 0.8),
        ("80%", 0.8),
        (1.0, 1.0),
        (1, 1.0),
        ("1", 1.0),
        ("1 GiB", 2**30),
        ("400 kB", 400_000),
        (0, 0),
        ("0", 0),
        (False, 0),
        (1e9, 10**9),
        ("1.5 MiB", 1_572_864),
    ],
)
def test_shares(value, share):
    assert parse_share(value, "x") == share
    assert type(parse_share(value, "x")) is type(share)


@pytest.mark.parametrize(
    "value", ["120%", "-5%", "much", True, None, -0.5, (), 1.5, "1.5", 80.0, 80, "80"]
)
def test_malformed_shares(value):
    with pytest.raises(ConfigError, match="expected a fraction from 0 to 1"):
        parse_share(value, "daskref.x")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(2, 2.0), ("0.5", 0.5), ("500ms", 0.5), ("1 min", 60.0), ("2 Hours", 7200.0)],
)
def test_durations(value, seconds):
    assert parse_seconds(value, "x") == seconds
    assert parse_seconds(0, "x", zero=True) == 0.0


@pytest.mark.parametrize(
    "value", ["", "s", "soon", "1 parsec", 0, "0 s", -1, "-1s", True, 1e99]
)
def test_malformed_durations(value):
    with pytest.raises(ConfigError, match='expected a positive duration such as "30s"'):
        parse_seconds(value, "daskref.x")
