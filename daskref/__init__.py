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
    from daskref.nodes import lazy as lazy
    from daskref.preload import dask_setup as dask_setup
    from daskref.proxy import Proxy as Proxy
    from daskref.proxy import extract as extract
    from daskref.proxy import is_resolved as is_resolved
    from daskref.proxy import resolve as resolve
    from daskref.store import Store as Store

_HOMES = {
    "Client": "daskref.client",
    "Proxy": "daskref.proxy",
    "Store": "daskref.store",
    "__version__": "daskref._version",
    "connectors": "daskref.connectors",
    "dask_setup": "daskref.preload",
    "disable": "daskref.enabling",
    "enable": "daskref.enabling",
    "extract": "daskref.proxy",
    "is_resolved": "daskref.proxy",
    "lazy": "daskref.nodes",
    "resolve": "daskref.proxy",
    "stats": "daskref.client",
}

__all__ = [
    "Client",
    "Proxy",
    "Store",
    "__version__",
    "connectors",
    "dask_setup",
    "disable",
    "enable",
    "extract",
    "is_resolved",
    "lazy",
    "resolve",
    "stats",
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
