"""The import paths that users have stay, wherever the code goes."""

from __future__ import annotations

from importlib import import_module

import pytest

import daskref

#: Modules that are named in the documentation, and in programs.
MODULES = """
    daskref
    daskref.connectors daskref.connectors.base daskref.connectors.registry
    daskref.connectors.credentials daskref.connectors.local daskref.connectors.file
    daskref.connectors.shm daskref.connectors.zmq daskref.connectors.redis
    daskref.connectors.fsspec daskref.connectors.multi daskref.lifetimes
    daskref.ownership daskref.testing daskref.testing.hosts daskref.testing.host
    daskref.testing.agents daskref.testing.clusters daskref.testing.processes
    daskref.exceptions daskref.config daskref.store daskref.proxy daskref.cli
    daskref.entry
""".split()

#: Names that were published in them; ``__all__`` may have more.
NAMES = {
    "daskref": """
        Client ContextLifetime LeaseLifetime OwnedProxy Proxy ProxyLocker
        StaticLifetime Store StoreConfig TaskLifetime __version__ borrow clone
        connectors dask_setup disable drop enable extract get_factory get_key
        get_or_create_store get_store into_owned is_resolved lazy mut_borrow
        register_store resolve resolve_async stats store_registration unregister_store
        update
    """,
    "daskref.cli": "main",
    "daskref.config": "Settings",
    "daskref.connectors": """
        Connector DeferrableConnector FileConnector FileKey FsspecConnector FsspecKey
        LocalConnector LocalKey MultiConnector MultiKey Policy RedisConnector RedisKey
        SharedMemoryConnector SharedMemoryKey Space Usage ZmqConnector ZmqKey
        open_connector
    """,
    "daskref.connectors.base": "Connector DeferrableConnector Key Usage",
    "daskref.connectors.file": "FileConnector FileKey",
    "daskref.connectors.fsspec": "FsspecConnector FsspecKey",
    "daskref.connectors.local": "LocalConnector LocalKey",
    "daskref.connectors.multi": "MultiConnector MultiKey Policy",
    "daskref.connectors.redis": "RedisConnector RedisKey",
    "daskref.connectors.registry": "open_connector",
    "daskref.connectors.shm": "SharedMemoryConnector SharedMemoryKey",
    "daskref.connectors.zmq": "Source Sources ZmqConnector ZmqKey",
    "daskref.entry": "register_sizeof",
    "daskref.exceptions": "ConnectorError DaskrefError ResolveError",
    "daskref.lifetimes": "Lifetime register_lifetime_atexit",
    "daskref.ownership": "OwnedProxy RefMutProxy RefProxy",
    "daskref.proxy": "Proxy ProxyLocker extract is_resolved resolve",
    "daskref.store": "Future Metrics Store StoreMetrics TimeStats get_store",
    "daskref.testing": "check_connector",
}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_imported(module):
    found = import_module(module)
    for name in NAMES.get(module, "").split():
        assert hasattr(found, name)


@pytest.mark.parametrize("module", [name for name in MODULES if name in NAMES])
def test_what_a_module_lists_is_there(module):
    found = import_module(module)
    for name in getattr(found, "__all__", ()):
        assert hasattr(found, name)


def test_a_public_name_is_the_same_object_by_its_longer_path():
    for short, long in {
        "OwnedProxy": "daskref.ownership",
        "Proxy": "daskref.proxy",
        "StaticLifetime": "daskref.lifetimes",
        "Store": "daskref.store",
        "get_store": "daskref.store",
        "resolve": "daskref.proxy",
    }.items():
        assert getattr(daskref, short) is getattr(import_module(long), short)


def test_connectors_are_named_by_their_public_folder_in_the_registry():
    from daskref.connectors import FileConnector
    from daskref.connectors.registry import load_class

    assert load_class("daskref.connectors.file:FileConnector") is FileConnector
