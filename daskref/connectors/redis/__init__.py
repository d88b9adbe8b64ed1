"""Objects in a Redis server."""

from daskref.connectors.redis._connector import RedisConnector as RedisConnector
from daskref.connectors.redis._objects import RedisKey as RedisKey

__all__ = [
    "RedisConnector",
    "RedisKey",
]
