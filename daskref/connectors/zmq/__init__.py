"""The shared memory of several hosts as one store, fetched once per host.

Read ``connector`` (this host first), then as an object travels: ``_remote`` (other
hosts), ``sources`` (which hosts have a copy), ``_arrivals`` (one transfer per host),
``_fetching`` (its chunks, over ``_connections``), and on the other side ``_server`` and
``_answers``. ``_session`` has a process's keys and server, ``_keys`` the handshake,
``_wire`` the form of messages, ``_listening`` the port, ``_requests`` and ``_pushes``
small questions and puts.
"""

from daskref.connectors.zmq.connector import ZmqConnector as ZmqConnector
from daskref.connectors.zmq.sources import Source as Source
from daskref.connectors.zmq.sources import Sources as Sources
from daskref.connectors.zmq.sources import ZmqKey as ZmqKey

__all__ = ["Source", "Sources", "ZmqConnector", "ZmqKey"]
