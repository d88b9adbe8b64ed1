"""What a connector is."""

from daskref.connectors.base import Connector as Connector
from daskref.connectors.base import DeferrableConnector as DeferrableConnector

__all__ = ["Connector", "DeferrableConnector"]
