"""Transparent lazy proxies: they act as their targets, and resolve on first use.

Read ``proxy`` (the class, and the functions for users), then ``states`` (how a proxy is
made, resolved and forgotten), ``_guards`` (what it answers before it is resolved) and
``_forwarding`` (a class per set of special methods).
``_inspectors`` knows the callers that must not resolve a proxy; ``_locking`` lets one
thread at a time resolve; ``_prefetch`` resolves in the background.
"""

from daskref.exceptions import ResolveError as ProxyResolveError
from daskref.proxy._prefetch import resolve_async as resolve_async
from daskref.proxy.proxy import Proxy as Proxy
from daskref.proxy.proxy import ProxyLocker as ProxyLocker
from daskref.proxy.proxy import ProxyOr as ProxyOr
from daskref.proxy.proxy import extract as extract
from daskref.proxy.proxy import get_factory as get_factory
from daskref.proxy.proxy import is_proxy as is_proxy
from daskref.proxy.proxy import is_resolved as is_resolved
from daskref.proxy.proxy import resolve as resolve

__all__ = [
    "Proxy",
    "ProxyLocker",
    "ProxyOr",
    "ProxyResolveError",
    "extract",
    "get_factory",
    "is_proxy",
    "is_resolved",
    "resolve",
    "resolve_async",
]
