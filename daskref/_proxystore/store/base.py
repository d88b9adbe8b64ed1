"""The store."""

from daskref.store import Store as Store

__all__ = ["Store"]
