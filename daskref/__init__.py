"""Pass-by-reference for Dask.

The package, from the bottom up; each folder's ``__init__`` says what is in it::

    connectors/            bytes in, bytes out: shared memory, files, Redis, S3, ...
    objects/  proxy/       objects to bytes and back; transparent lazy proxies
    store/                 put, get, proxy: objects in and out of one connector
    lifetimes/  ownership/ what deletes the objects of a user's own store, and when
    graph/  cluster/       nodes of task graphs; what all processes of a cluster share
    client/  scheduler/  worker/    Dask, by the process in which the code runs
    entry, preload, cli/   doors that Dask and the shell open
    testing/  bench/  demo/    tools
    _proxystore/           ProxyStore's names for modules that are elsewhere here

Begin with :mod:`daskref.client.client`: it has the way of a value through these.

The public names are imported on first use: Dask loads :mod:`daskref.entry` in the
middle of its own import, when most of this package cannot be imported yet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; a test compares it with _HOMES
    from daskref import connectors as connectors
    from daskref._version import __version__ as __version__
    from daskref.client import Client as Client
    from daskref.client import disable as disable
    from daskref.client import enable as enable
    from daskref.client import explain as explain
    from daskref.client import list_objects as list_objects
    from daskref.client import stats as stats
    from daskref.graph.lazy import lazy as lazy
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
    from daskref.preload import dask_teardown as dask_teardown
    from daskref.proxy import Proxy as Proxy
    from daskref.proxy import ProxyLocker as ProxyLocker
    from daskref.proxy import extract as extract
    from daskref.proxy import get_factory as get_factory
    from daskref.proxy import is_resolved as is_resolved
    from daskref.proxy import resolve as resolve
    from daskref.proxy import resolve_async as resolve_async
    from daskref.store import Store as Store
    from daskref.store import get_key as get_key
    from daskref.store import get_or_create_store as get_or_create_store
    from daskref.store import get_store as get_store
    from daskref.store import register_store as register_store
    from daskref.store import store_registration as store_registration
    from daskref.store import unregister_store as unregister_store

__path__.append(f"{__path__[0]}/_proxystore")  # daskref.factory, daskref.serialize

_NAMES = {
    "daskref": "connectors",
    "daskref._version": "__version__",
    "daskref.client": "Client disable enable explain list_objects stats",
    "daskref.graph.lazy": "lazy",
    "daskref.lifetimes": "ContextLifetime LeaseLifetime StaticLifetime TaskLifetime",
    "daskref.objects.reference": "StoreConfig",
    "daskref.ownership": "OwnedProxy borrow clone drop into_owned mut_borrow update",
    "daskref.preload": "dask_setup dask_teardown",
    "daskref.proxy": "Proxy ProxyLocker extract get_factory is_resolved resolve "
    "resolve_async",
    "daskref.store": "Store get_key get_or_create_store get_store register_store "
    "store_registration unregister_store",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    if home == __name__:
        return import_module(f"{home}.{name}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
