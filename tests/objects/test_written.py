"""Configurations of stores, as users write them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from daskref import Store, StoreConfig, get_or_create_store, get_store, unregister_store
from daskref.connectors import (
    FileConnector,
    LocalConnector,
    MultiConnector,
    SharedMemoryConnector,
)
from daskref.exceptions import ConfigError
from daskref.objects.signing import forget_key, new_key, remember_key
from daskref.objects.written import ConnectorConfig

PROXYSTORES = """\
name = "test"
cache_size = 0
metrics = true
populate_target = false
auto_register = true

[connector]
kind = "file"
options = {{ store_dir = "{store_dir}", clear = false }}
"""


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("local", LocalConnector),
        ("LOCAL", LocalConnector),
        ("LocalConnector", LocalConnector),
        ("daskref.connectors.local.LocalConnector", LocalConnector),
        ("FileConnector", FileConnector),
        ("multi", MultiConnector),
        ("shm", SharedMemoryConnector),
        ("SharedMemoryConnector", SharedMemoryConnector),
    ],
)
def test_kinds(kind: str, cls: type) -> None:
    assert ConnectorConfig(kind).get_connector_type() is cls


def test_kinds_and_options_that_there_are_not() -> None:
    for config in (
        ConnectorConfig("fake"),
        ConnectorConfig("local", {"wrong_arg": True}),
    ):
        with pytest.raises(ConfigError, match=r"fake|wrong_arg"):
            config.get_connector()


def test_a_file_of_proxystores(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(PROXYSTORES.format(store_dir=tmp_path / "objects"))
    config = StoreConfig.from_toml(path)
    assert (config.name, config.cache_size, config.metrics) == ("test", 0, True)
    assert config.connector == ConnectorConfig(
        "file", {"store_dir": str(tmp_path / "objects"), "clear": False}
    )
    with Store.from_config(config) as store:
        assert get_store("test") is store
        assert store.get(store.put([1])) == [1]
        # what others make of the store's own is registered only if they ask for it
        assert not store.config().auto_register
    assert get_store("test") is None


@pytest.mark.parametrize("register", [True, False])
def test_a_store_is_made_once_of_what_a_user_wrote(register: bool) -> None:
    config = StoreConfig("once", ConnectorConfig("local"), auto_register=True)
    store = get_or_create_store(config, register=register)
    try:
        assert (get_store("once") is store) is register
        if register:
            assert get_or_create_store(config) is store
            assert get_or_create_store(store.config()) is store
    finally:
        unregister_store(store)
        store.close()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "text": 'quoted "text", \\, é, \x7f\n',
        "number": 3,
        "half": 0.5,
        "flag": True,
        "list": [1, "two", [3.0]],
        "table": {"a b": {"c": 1}, "empty": {}},
    }
    config = StoreConfig(
        "written", ConnectorConfig("file", options), cache_size=3, metrics=True
    )
    path = tmp_path / "new" / "config.toml"
    config.write_toml(path)
    assert StoreConfig.from_toml(path) == config
    assert tomllib.loads(path.read_text("utf-8"))["connector"]["options"] == options


def test_a_stores_own_configuration_names_its_objects(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with Store("one", FileConnector(tmp_path / "objects")) as store:
        key = store.put([1, 2])
        store.config().write_toml(path)
        assert StoreConfig.from_toml(path) == store.config()
        with Store.from_config(StoreConfig.from_toml(path)) as other:
            assert other.get(key) == [1, 2]


def test_connectors_of_connectors(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    local, file = LocalConnector(), FileConnector(tmp_path / "b")
    multi = MultiConnector({"a": (local, None), "b": (file, None)})
    with Store("many", multi) as store:
        key = store.put([1, 2])
        store.config().write_toml(path)
        with Store.from_config(StoreConfig.from_toml(path)) as other:
            assert other.get(key) == [1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"password": "hidden"},
        {"url": "redis://user:hidden@host"},
        {"connectors": {"a": {"connector": "redis://:hidden@host"}}},
        {"connectors": [{"token": "hidden"}]},
    ],
)
def test_passwords_are_not_written(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "config.toml"
    config = StoreConfig("secret", ConnectorConfig("redis", options))
    with pytest.raises(ConfigError, match="no password") as caught:
        config.write_toml(path)
    assert "hidden" not in str(caught.value)
    assert not path.exists()


def test_a_signing_key_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with Store("signed", LocalConnector(), signing_key=b"k" * 32) as store:
        store.config().write_toml(path)
    assert "kkkk" not in path.read_text()
    assert StoreConfig.from_toml(path).signed


def test_functions_are_not_written(tmp_path: Path) -> None:
    with (
        Store("f", LocalConnector(), serializer=bytes, deserializer=bytes) as store,
        pytest.raises(ConfigError, match="no functions"),
    ):
        store.config().write_toml(tmp_path / "config.toml")
    config = StoreConfig("objects", ConnectorConfig("local", {"id": object()}))
    with pytest.raises(ConfigError, match="what TOML can say"):
        config.write_toml(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name = ", "TOML"),
        ('name = "a"', "connector"),
        ('name = "a"\nconnector = "file"', "connector"),
        ('name = "a"\n[connector]\nkind = "local"\nother = 1', "connector"),
        ('name = "a"\n[connector]\nkind = "local"\noptions = 1', "connector"),
        ('[connector]\nkind = "local"', "name"),
        ('name = 1\n[connector]\nkind = "local"', "name"),
        ('name = "a"\nunknown = 1\n[connector]\nkind = "local"', "unknown"),
        ('name = "a"\ncache_size = true\n[connector]\nkind = "local"', "cache_size"),
        ('name = "a"\nserializer = "f"\n[connector]\nkind = "local"', "serializer"),
    ],
)
def test_what_is_malformed_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"config\.toml.*{named}"):
        StoreConfig.from_toml(path)


def test_a_signed_store_that_a_user_wrote_is_found_by_others(tmp_path: Path) -> None:
    remember_key("signed", key := new_key())
    written = ConnectorConfig("file", {"store_dir": str(tmp_path)})
    try:
        with Store.from_config(StoreConfig("signed", written, signed=True)) as store:
            config = store.config()
            assert config.signed
            assert isinstance(config.connector, str)
            with Store.from_config(config) as other:
                assert other.get(store.put([1, 2])) == [1, 2]
    finally:
        forget_key("signed")
    assert key


def test_what_is_written_shows_no_password() -> None:
    config = ConnectorConfig("redis", {"host": "here", "password": "secret"})
    assert "secret" not in repr(StoreConfig("a", config))
    assert "here" in repr(config)
