"""Types in signatures."""

from typing import TypeVar

from daskref.connectors.base import Connector
from daskref.connectors.base import Key as ConnectorKeyT
from daskref.objects.functions import Dump as SerializerT
from daskref.objects.functions import Load as DeserializerT

ConnectorT = TypeVar("ConnectorT", bound=Connector)

__all__ = ["ConnectorKeyT", "ConnectorT", "DeserializerT", "SerializerT"]
