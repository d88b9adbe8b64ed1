"""Errors of stores, by ProxyStore's names."""

from daskref.exceptions import DaskrefError as StoreError
from daskref.exceptions import MissingKeyError as ProxyResolveMissingKeyError
from daskref.exceptions import NotProxiableError as NonProxiableTypeError
from daskref.exceptions import NotStoredError as ProxyStoreFactoryError
from daskref.exceptions import StoreExistsError as StoreExistsError

__all__ = [
    "NonProxiableTypeError",
    "ProxyResolveMissingKeyError",
    "ProxyStoreFactoryError",
    "StoreError",
    "StoreExistsError",
]
