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
    from daskref.locker import ProxyLocker as ProxyLocker
    from daskref.nodes import lazy as lazy
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
    "Proxy": "daskref.proxy",
    "ProxyLocker": "daskref.locker",
    "Store": "daskref.store",
    "StoreConfig": "daskref.reference",
    "__version__": "daskref._version",
    "connectors": "daskref.connectors",
    "dask_setup": "daskref.preload",
    "disable": "daskref.enabling",
    "enable": "daskref.enabling",
    "extract": "daskref.proxy",
    "get_factory": "daskref.proxy",
    "get_key": "daskref.stores",
    "get_or_create_store": "daskref.stores",
    "get_store": "daskref.stores",
    "is_resolved": "daskref.proxy",
    "lazy": "daskref.nodes",
    "register_store": "daskref.stores",
    "resolve": "daskref.proxy",
    "resolve_async": "daskref.prefetch",
    "stats": "daskref.client",
    "store_registration": "daskref.stores",
    "unregister_store": "daskref.stores",
}

__all__ = [
    "Client",
    "Proxy",
    "ProxyLocker",
    "Store",
    "StoreConfig",
    "__version__",
    "connectors",
    "dask_setup",
    "disable",
    "enable",
    "extract",
    "get_factory",
    "get_key",
    "get_or_create_store",
    "get_store",
    "is_resolved",
    "lazy",
    "register_store",
    "resolve",
    "resolve_async",
    "stats",
    "store_registration",
    "unregister_store",
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
