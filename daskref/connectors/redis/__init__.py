"""Objects in a Redis server.

Read ``_connector`` first, then ``_objects`` (one object: chunks, and the hash that
names them) and ``_wire`` (large values without copies). ``_session`` and ``_scripts``
keep a session and its leases in the server. ``_server`` has the connections,
``_errors`` their errors, ``_options`` reads URLs, passwords and timeouts.
"""

from daskref.connectors.redis._connector import RedisConnector as RedisConnector
from daskref.connectors.redis._objects import RedisKey as RedisKey

__all__ = ["RedisConnector", "RedisKey"]
