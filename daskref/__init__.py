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
    from daskref.nodes import lazy as lazy
    from daskref.ownership import OwnedProxy as OwnedProxy
    from daskref.ownership import borrow as borrow
    from daskref.ownership import clone as clone
    from daskref.ownership import drop as drop
    from daskref.ownership import into_owned as into_owned
    from daskref.ownership import mut_borrow as mut_borrow
    from daskref.ownership import update as update
    from daskref.preload import dask_setup as dask_setup
    from daskref.proxy import Proxy as Proxy
    from daskref.proxy import extract as extract
    from daskref.proxy import is_resolved as is_resolved
    from daskref.proxy import resolve as resolve
    from daskref.store import Store as Store

_HOMES = {
    "Client": "daskref.client",
    "ContextLifetime": "daskref.lifetimes",
    "LeaseLifetime": "daskref.lifetimes",
    "OwnedProxy": "daskref.ownership",
    "Proxy": "daskref.proxy",
    "StaticLifetime": "daskref.lifetimes",
    "Store": "daskref.store",
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
    "into_owned": "daskref.ownership",
    "is_resolved": "daskref.proxy",
    "lazy": "daskref.nodes",
    "mut_borrow": "daskref.ownership",
    "resolve": "daskref.proxy",
    "stats": "daskref.client",
    "update": "daskref.ownership",
}

__all__ = [
    "Client",
    "ContextLifetime",
    "LeaseLifetime",
    "OwnedProxy",
    "Proxy",
    "StaticLifetime",
    "Store",
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
    "into_owned",
    "is_resolved",
    "lazy",
    "mut_borrow",
    "resolve",
    "stats",
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
