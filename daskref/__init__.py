"""Pass-by-reference for Dask.

The public names are imported on first use: Dask loads :mod:`daskref.entry` in the
middle of its own import, when most of this package cannot be imported yet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskref import connectors as connectors
    from daskref._version import __version__ as __version__
    from daskref.client import Client as Client
    from daskref.client import stats as stats
    from daskref.enabling import disable as disable
    from daskref.enabling import enable as enable
    from daskref.lifetimes import ContextLifetime as ContextLifetime
    from daskref.lifetimes import LeaseLifetime as LeaseLifetime
    from daskref.lifetimes import StaticLifetime as StaticLifetime
    from daskref.lifetimes import TaskLifetime as TaskLifetime
    from daskref.locker import ProxyLocker as ProxyLocker
    from daskref.nodes import lazy as lazy
    from daskref.ownership import OwnedProxy as OwnedProxy
    from daskref.ownership import borrow as borrow
    from daskref.ownership import clone as clone
    from daskref.ownership import drop as drop
    from daskref.ownership import into_owned as into_owned
    from daskref.ownership import mut_borrow as mut_borrow
    from daskref.ownership import update as update
    from daskref.prefetch import resolve_async as resolve_async
    from daskref.preload import dask_setup as dask_setup
    from daskref.proxy import Proxy as Proxy
    from daskref.proxy import extract as extract
    from daskref.proxy import get_factory as get_factory
    from daskref.proxy import is_resolved as is_resolved
    from daskref.proxy import resolve as resolve
    from daskref.reference import StoreConfig as StoreConfig
    from daskref.store import Store as Store
    from daskref.stores import get_key as get_key
    from daskref.stores import get_or_create_store as get_or_create_store
    from daskref.stores import get_store as get_store
    from daskref.stores import register_store as register_store
    from daskref.stores import store_registration as store_registration
    from daskref.stores import unregister_store as unregister_store

_HOMES = {
    "Client": "daskref.client",
    "ContextLifetime": "daskref.lifetimes",
    "LeaseLifetime": "daskref.lifetimes",
    "OwnedProxy": "daskref.ownership",
    "Proxy": "daskref.proxy",
    "ProxyLocker": "daskref.locker",
    "StaticLifetime": "daskref.lifetimes",
    "Store": "daskref.store",
    "StoreConfig": "daskref.reference",
    "TaskLifetime": "daskref.lifetimes",
    "__version__": "daskref._version",
    "borrow": "daskref.ownership",
    "clone": "daskref.ownership",
    "connectors": "daskref.connectors",
    "dask_setup": "daskref.preload",
    "disable": "daskref.enabling",
    "drop": "daskref.ownership",
    "enable": "daskref.enabling",
    "extract": "daskref.proxy",
    "get_factory": "daskref.proxy",
    "get_key": "daskref.stores",
    "get_or_create_store": "daskref.stores",
    "get_store": "daskref.stores",
    "into_owned": "daskref.ownership",
    "is_resolved": "daskref.proxy",
    "lazy": "daskref.nodes",
    "mut_borrow": "daskref.ownership",
    "register_store": "daskref.stores",
    "resolve": "daskref.proxy",
    "resolve_async": "daskref.prefetch",
    "stats": "daskref.client",
    "store_registration": "daskref.stores",
    "unregister_store": "daskref.stores",
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
