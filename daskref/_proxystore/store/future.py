"""Futures of stores."""

from daskref.store import Future as Future

__all__ = ["Future"]
