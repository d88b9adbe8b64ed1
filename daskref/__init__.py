"""Pass-by-reference for Dask.

The package, from the bottom up; each folder's ``__init__`` says what is in it::

    connectors/            bytes in, bytes out: shared memory, files, Redis, S3, ...
    objects/  proxy/       objects to bytes and back; transparent lazy proxies
    store/                 put, get, proxy: objects in and out of one connector
    lifetimes/  ownership/ what deletes the objects of a user's own store, and when
    graph/  cluster/       nodes of task graphs; what all processes of a cluster share
    client/  scheduler/  worker/    Dask, by the process in which the code runs
    entry, preload, cli    doors that Dask and the shell open
    testing/  bench/  demo/    tools

Begin with :mod:`daskref.client.client`: it has the way of a value through these.

The public names are imported on first use: Dask loads :mod:`daskref.entry` in the
middle of its own import, when most of this package cannot be imported yet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskref import connectors as connectors
    from daskref._version import __version__ as __version__
    from daskref.client.client import Client as Client
    from daskref.client.client import stats as stats
    from daskref.client.enabling import disable as disable
    from daskref.client.enabling import enable as enable
    from daskref.graph.nodes import lazy as lazy
    from daskref.lifetimes import ContextLifetime as ContextLifetime
    from daskref.lifetimes import LeaseLifetime as LeaseLifetime
    from daskref.lifetimes import StaticLifetime as StaticLifetime
    from daskref.lifetimes import TaskLifetime as TaskLifetime
    from daskref.objects.reference import StoreConfig as StoreConfig
    from daskref.ownership import OwnedProxy as OwnedProxy
    from daskref.ownership import borrow as borrow
    from daskref.ownership import clone as clone
    from daskref.ownership import drop as drop
    from daskref.ownership import into_owned as into_owned
    from daskref.ownership import mut_borrow as mut_borrow
    from daskref.ownership import update as update
    from daskref.preload import dask_setup as dask_setup
    from daskref.proxy import ProxyLocker as ProxyLocker
    from daskref.proxy import resolve_async as resolve_async
    from daskref.proxy.proxy import Proxy as Proxy
    from daskref.proxy.proxy import extract as extract
    from daskref.proxy.proxy import get_factory as get_factory
    from daskref.proxy.proxy import is_resolved as is_resolved
    from daskref.proxy.proxy import resolve as resolve
    from daskref.store.registry import get_key as get_key
    from daskref.store.registry import get_or_create_store as get_or_create_store
    from daskref.store.registry import get_store as get_store
    from daskref.store.registry import register_store as register_store
    from daskref.store.registry import store_registration as store_registration
    from daskref.store.registry import unregister_store as unregister_store
    from daskref.store.store import Store as Store

_HOMES = {
    "Client": "daskref.client",
    "ContextLifetime": "daskref.lifetimes",
    "LeaseLifetime": "daskref.lifetimes",
    "OwnedProxy": "daskref.ownership",
    "Proxy": "daskref.proxy",
    "ProxyLocker": "daskref.proxy",
    "StaticLifetime": "daskref.lifetimes",
    "Store": "daskref.store",
    "StoreConfig": "daskref.objects.reference",
    "TaskLifetime": "daskref.lifetimes",
    "__version__": "daskref._version",
    "borrow": "daskref.ownership",
    "clone": "daskref.ownership",
    "connectors": "daskref.connectors",
    "dask_setup": "daskref.preload",
    "disable": "daskref.client.enabling",
    "drop": "daskref.ownership",
    "enable": "daskref.client.enabling",
    "extract": "daskref.proxy",
    "get_factory": "daskref.proxy",
    "get_key": "daskref.store.registry",
    "get_or_create_store": "daskref.store.registry",
    "get_store": "daskref.store.registry",
    "into_owned": "daskref.ownership",
    "is_resolved": "daskref.proxy",
    "lazy": "daskref.graph.nodes",
    "mut_borrow": "daskref.ownership",
    "register_store": "daskref.store.registry",
    "resolve": "daskref.proxy",
    "resolve_async": "daskref.proxy",
    "stats": "daskref.client",
    "store_registration": "daskref.store.registry",
    "unregister_store": "daskref.store.registry",
    "update": "daskref.ownership",
}

__all__ = [
    "Client",
    "ContextLifetime",
    "LeaseLifetime",
    "OwnedProxy",
    "Proxy",
    "ProxyLocker",
    "StaticLifetime",
    "Store",
    "StoreConfig",
    "TaskLifetime",
    "__version__",
    "borrow",
    "clone",
    "connectors",
    "dask_setup",
    "disable",
    "drop",
    "enable",
    "extract",
    "get_factory",
    "get_key",
    "get_or_create_store",
    "get_store",
    "into_owned",
    "is_resolved",
    "lazy",
    "mut_borrow",
    "register_store",
    "resolve",
    "resolve_async",
    "stats",
    "store_registration",
    "unregister_store",
    "update",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    module = import_module(home)
    value = module if name == "connectors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
