"""Several connectors as one: a policy selects by size, type, tags or host.

Read ``_connector`` first, then ``_policy`` (the objects that a connector takes) and
``_children`` (the connectors, opened when needed).
"""

from daskref.connectors.multi._connector import MultiConnector as MultiConnector
from daskref.connectors.multi._connector import MultiKey as MultiKey
from daskref.connectors.multi._policy import Policy as Policy
from daskref.exceptions import ConnectorError as MultiConnectorError

__all__ = ["MultiConnector", "MultiConnectorError", "MultiKey", "Policy"]
