"""Stores: objects in and out of one connector, as keys, references and proxies.

Read ``store`` (proxies, futures), then ``_objects`` (``put``, ``get``, references),
``_writing`` and ``_reading`` (serialize, sign, call the connector, count). A reader
begins at ``factory``: what a proxy resolves with. ``registry`` and ``_registry`` find a
process's stores by name; ``_provenance`` and ``mapped`` know which objects came out of
a store; ``_future`` and ``metrics`` are the rest of the vocabulary.
"""

from pkgutil import extend_path

from daskref.objects.reference import StoreConfig as StoreConfig
from daskref.store._future import Future as Future
from daskref.store._objects import ObjectStore as ObjectStore
from daskref.store.factory import StoreFactory as StoreFactory
from daskref.store.metrics import Metrics as Metrics
from daskref.store.metrics import StoreMetrics as StoreMetrics
from daskref.store.metrics import TimeStats as TimeStats
from daskref.store.registry import get_key as get_key
from daskref.store.registry import get_or_create_store as get_or_create_store
from daskref.store.registry import get_store as get_store
from daskref.store.registry import register_store as register_store
from daskref.store.registry import store_registration as store_registration
from daskref.store.registry import unregister_store as unregister_store
from daskref.store.store import Store as Store

# fmt: off
__all__ = [
    "Future", "Metrics", "ObjectStore", "Store", "StoreConfig", "StoreFactory",
    "StoreMetrics", "TimeStats", "get_key", "get_or_create_store", "get_store",
    "register_store", "store_registration", "unregister_store",
]
# fmt: on
__path__ = extend_path(__path__, __name__)  # daskref.store.ref and the like
