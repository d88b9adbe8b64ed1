"""The shared memory of several hosts as one store, with one fetch per host and object.

Read ``connector`` (this host) first, then the way of an object: ``_remote`` (other
hosts), ``sources`` (which hosts have a copy), ``_arrivals`` (one transfer per host),
``_fetching`` (its chunks, over ``_connections``), and on the other side ``_server`` and
``_answers``. ``_session`` has the keys and the server of a process, ``_keys`` the
handshake, ``_wire`` the messages, ``_listening`` the port, ``_requests`` and
``_pushes`` small requests and puts.
"""

from daskref.connectors.zmq.connector import ZmqConnector as ZmqConnector
from daskref.connectors.zmq.sources import Source as Source
from daskref.connectors.zmq.sources import Sources as Sources
from daskref.connectors.zmq.sources import ZmqKey as ZmqKey

__all__ = ["Source", "Sources", "ZmqConnector", "ZmqKey"]
