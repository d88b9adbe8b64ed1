"""Several connectors as one: a policy chooses by size, type, tags or host.

Read ``_connector`` first, then ``_policy`` (what a connector takes) and ``_children``
(the connectors behind it, opened when they are first needed).
"""

from daskref.connectors.multi._connector import MultiConnector as MultiConnector
from daskref.connectors.multi._connector import MultiKey as MultiKey
from daskref.connectors.multi._policy import Policy as Policy
from daskref.exceptions import ConnectorError as MultiConnectorError

__all__ = ["MultiConnector", "MultiConnectorError", "MultiKey", "Policy"]
