"""Stores: put, get, proxy; their registry, factories, futures and metrics."""

from daskref.store._future import Future as Future
from daskref.store._metrics import Metrics as Metrics
from daskref.store._metrics import StoreMetrics as StoreMetrics
from daskref.store._metrics import TimeStats as TimeStats
from daskref.store._objects import ObjectStore as ObjectStore
from daskref.store.registry import get_key as get_key
from daskref.store.registry import get_or_create_store as get_or_create_store
from daskref.store.registry import get_store as get_store
from daskref.store.registry import register_store as register_store
from daskref.store.registry import store_registration as store_registration
from daskref.store.registry import unregister_store as unregister_store
from daskref.store.store import Store as Store

__all__ = [
    "Future",
    "Metrics",
    "ObjectStore",
    "Store",
    "StoreMetrics",
    "TimeStats",
    "get_key",
    "get_or_create_store",
    "get_store",
    "register_store",
    "store_registration",
    "unregister_store",
]
