"""Connectors whose drivers are optional, imported on first access."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Name -> its module, and the extra with its driver.
_HOMES = {
    "RedisConnector": ("daskref.connectors.redis", "redis"),
    "RedisKey": ("daskref.connectors.redis", "redis"),
}


def load(name: str) -> Any:
    """Return a name of :mod:`daskref.connectors`, as its ``__getattr__``."""
    if name not in _HOMES:
        raise AttributeError(f"module 'daskref.connectors' has no attribute {name!r}")
    module, extra = _HOMES[name]
    try:
        return getattr(import_module(module), name)
    except ImportError as exc:
        raise ImportError(
            f"{name} needs its driver: `pip install 'daskref[{extra}]'` ({exc})"
        ) from exc
