"""Several connectors as one, by size and by tags."""

from daskref.connectors.multi._connector import MultiConnector as MultiConnector
from daskref.connectors.multi._connector import MultiKey as MultiKey
from daskref.connectors.multi._policy import Policy as Policy

__all__ = [
    "MultiConnector",
    "MultiKey",
    "Policy",
]
