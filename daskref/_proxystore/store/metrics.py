"""What a store did."""

from daskref.store import Metrics as Metrics
from daskref.store import StoreMetrics as StoreMetrics
from daskref.store import TimeStats as TimeStats

__all__ = ["Metrics", "StoreMetrics", "TimeStats"]
