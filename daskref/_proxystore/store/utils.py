"""Functions for proxies of stores."""

from daskref.proxy import resolve_async as resolve_async
from daskref.store import get_key as get_key

__all__ = ["get_key", "resolve_async"]
