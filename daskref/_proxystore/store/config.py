"""Configurations of stores."""

from daskref.objects.reference import StoreConfig as StoreConfig
from daskref.objects.written import ConnectorConfig as ConnectorConfig

__all__ = ["ConnectorConfig", "StoreConfig"]
