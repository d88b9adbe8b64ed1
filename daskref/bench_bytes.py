"""How bytes go from host to host without Dask: sockets, our connector, ProxyStore's.

What is here is called by agents on hosts, one for each; what they keep is in *state*.
"""

from __future__ import annotations

import mmap
import os
import random
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

from daskref.connectors import ZmqConnector
from daskref.connectors.base import Key
from daskref.connectors.credentials import remember
from daskref.connectors.zmqsources import Source
from daskref.testing.agents import Agent
from daskref.testing.host import Host

_MIB = 1 << 20
#: Of tmpfs files that the sockets read and write.
_FILE = "/dev/shm/bench-sockets"
_PORT = 5588


def random_bytes(nbytes: int) -> bytes:
    """Return bytes that nothing compresses: one random MiB, repeated."""
    block = random.randbytes(min(nbytes, _MIB))
    return (block * (nbytes // max(len(block), 1) + 1))[:nbytes]


class Joining(NamedTuple):
    """What a connector of the session on another host needs."""

    session: str
    security: str
    secrets: dict[str, dict[str, str]]


def open_connector(
    state: dict[str, Any], security: str, joining: Joining | None = None
) -> tuple[Joining, Source]:
    """Open this host's connector, which serves; return how to join, and where it is."""
    for place, secrets in (joining.secrets if joining else {}).items():
        remember(place, secrets)
    state["sources"] = []
    connector = ZmqConnector(
        joining.session if joining else None,
        security=security,
        serve=True,
        locate=lambda key: state["sources"],
    )
    state["connector"] = connector
    session = connector.config()["session"]
    return (
        Joining(session, security, connector.secrets()),
        Source(connector.host, connector.endpoints),
    )


def put_bytes(state: dict[str, Any], nbytes: int) -> Key:
    """Put new bytes on this host."""
    key: Key = state["connector"].put(random_bytes(nbytes))
    return key


def fetch(state: dict[str, Any], key: Key, source: Source) -> float:
    """Fetch an object from a host; return the seconds."""
    state["sources"] = [source]
    begin = time.perf_counter()
    view = state["connector"].get(key)
    seconds = time.perf_counter() - begin
    if view is None:
        raise LookupError(f"{source.host} has not got {key[0]}")
    return seconds


def forget(state: dict[str, Any], key: Key) -> None:
    """Delete an object from this host."""
    state["sources"] = []
    state["connector"].evict(key)


def close_connector(state: dict[str, Any]) -> None:
    """Close what :func:`open_connector` opened."""
    state.pop("connector").close()


class Stores:
    """Connectors of one session, one on each host.

    Parameters
    ----------
    hosts
        On which.
    security
        ``"clear"`` or ``"curve"``.
    """

    #: The agents in the order of the hosts, and where each host serves.
    agents: list[Agent]
    sources: dict[Agent, Source]

    def __init__(self, hosts: list[Host], security: str) -> None:
        self._stack = ExitStack()
        self.agents, self.sources = [], {}
        try:
            joining: Joining | None = None
            for host in hosts:
                agent = self._stack.enter_context(Agent(host))
                joining, source = agent.call(open_connector, security, joining)
                # before the agent ends
                self._stack.callback(agent.call, close_connector)
                self.agents.append(agent)
                self.sources[agent] = source
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def transfer(self, nbytes: int) -> float:
        """Return the seconds in which the second host fetches from the first."""
        return self.transfers(nbytes, [(0, 1)])

    def transfers(self, nbytes: int, pairs: list[tuple[int, int]]) -> float:
        """Return the seconds of fetches at once, until the last one is done.

        Parameters
        ----------
        nbytes
            Of the object.
        pairs
            Positions of the source's host, and of the reader's; a reader reads once.
        """
        keys: dict[int, Key] = {}
        for source, _ in pairs:
            if source not in keys:
                keys[source] = self.agents[source].call(put_bytes, nbytes)
        for source, reader in pairs:
            where = self.sources[self.agents[source]]
            self.agents[reader].begin(fetch, keys[source], where)
        seconds: list[float] = [self.agents[reader].end() for _, reader in pairs]
        for source, reader in pairs:
            self.agents[reader].call(forget, keys[source])
        for source, key in keys.items():
            self.agents[source].call(forget, key)
        return max(seconds)


# A plain socket, from a file on one host's tmpfs to a mapped one on another's


def serve_file(state: dict[str, Any], address: str, nbytes: int) -> int:
    """Send a file of random bytes to whoever connects, one by one; return the port."""
    with open(_FILE, "wb") as file:
        file.write(random_bytes(nbytes))
    server = socket.create_server((address, 0))
    threading.Thread(target=_send_file, args=(server,), daemon=True).start()
    state["server"] = server
    port: int = server.getsockname()[1]
    return port


def _send_file(server: socket.socket) -> None:
    with open(_FILE, "rb") as file:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed
                return
            with connection:
                offset, nbytes = 0, os.fstat(file.fileno()).st_size
                while offset < nbytes:
                    offset += os.sendfile(
                        connection.fileno(), file.fileno(), offset, nbytes - offset
                    )


def receive_file(state: dict[str, Any], address: str, port: int, nbytes: int) -> float:
    """Receive a file into a mapping of one; return the seconds."""
    flags = os.O_RDWR | os.O_CREAT
    descriptor = os.open(_FILE, flags, 0o600)
    try:
        # pages that exist, after the first round, as those of our pool do
        os.posix_fallocate(descriptor, 0, nbytes)
        with (
            mmap.mmap(descriptor, nbytes) as mapping,
            memoryview(mapping) as view,
        ):
            begin = time.perf_counter()
            with socket.create_connection((address, port), 20) as connection:
                offset = 0
                while offset < nbytes:
                    count = connection.recv_into(view[offset:], nbytes - offset)
                    if not count:
                        raise ConnectionError(f"it ended after {offset} bytes")
                    offset += count
            return time.perf_counter() - begin
    finally:
        os.close(descriptor)


def stop_serving(state: dict[str, Any]) -> None:
    """Close the server's socket and delete the file."""
    server: socket.socket = state.pop("server")
    server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
    server.close()
    os.unlink(_FILE)


def delete_received(state: dict[str, Any]) -> None:
    """Delete the file that was received."""
    os.unlink(_FILE)


class Sockets:
    """A socket from the first of two hosts to the second.

    Parameters
    ----------
    hosts
        Both of them.
    nbytes
        To move each time.
    """

    def __init__(self, hosts: list[Host], nbytes: int) -> None:
        self._address = hosts[0].address
        self._stack = ExitStack()
        try:
            sender, self._receiver = (
                self._stack.enter_context(Agent(host)) for host in hosts[:2]
            )
            self._port = sender.call(serve_file, self._address, nbytes)
            self._stack.callback(sender.call, stop_serving)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.callback(self._receiver.call, delete_received)
        self._stack.close()

    def transfer(self, nbytes: int) -> float:
        """Return the seconds of one."""
        seconds: float = self._receiver.call(
            receive_file, self._address, self._port, nbytes
        )
        return seconds


# ProxyStore's ZeroMQ connector


def open_proxystore(state: dict[str, Any], address: str) -> None:
    """Open a store of ProxyStore's; it starts a server on this host."""
    from proxystore.store import Store
    from proxystore_ex.connectors.dim.zmq import ZeroMQConnector

    connector = ZeroMQConnector(_PORT, address=address, timeout=3)
    state["proxystore"] = Store(f"bench-{address}", connector, cache_size=0)


def put_array(state: dict[str, Any], nbytes: int) -> tuple[Any, float]:
    """Put an array there; return its key, and the seconds."""
    import numpy as np

    x = np.random.default_rng().random(nbytes // 8)
    begin = time.perf_counter()
    key = state["proxystore"].put(x)
    return key, time.perf_counter() - begin


def get_array(state: dict[str, Any], key: Any) -> float:
    """Get an array; return the seconds."""
    begin = time.perf_counter()
    x = state["proxystore"].get(key)
    seconds = time.perf_counter() - begin
    if x is None:
        raise LookupError(f"{key} is not there")
    return seconds


def evict_array(state: dict[str, Any], key: Any) -> None:
    """Delete an array."""
    state["proxystore"].evict(key)


def close_proxystore(state: dict[str, Any]) -> None:
    """Close the store, and the server with it."""
    state.pop("proxystore").close()


class ProxyStore:
    """ProxyStore's ZeroMQ connector on two hosts.

    Parameters
    ----------
    hosts
        Both of them.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """

    def __init__(self, hosts: list[Host]) -> None:
        import proxystore_ex.connectors.dim.zmq  # noqa: F401

        self._stack = ExitStack()
        self._agents = []
        try:
            for host in hosts[:2]:
                agent = self._stack.enter_context(Agent(host))
                agent.call(open_proxystore, host.address)
                self._stack.callback(agent.call, close_proxystore)
                self._agents.append(agent)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> ProxyStore:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def transfer(self, nbytes: int) -> float:
        """Return the seconds of a put on one host and a get on the other."""
        here, there = self._agents
        key, put = here.call(put_array, nbytes)
        seconds: float = put + there.call(get_array, key)
        here.call(evict_array, key)
        return seconds
