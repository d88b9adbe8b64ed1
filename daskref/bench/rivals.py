"""How plain sockets, and ProxyStore's ZeroMQ connector, move bytes from host to host.

What is here is called by agents on hosts, one for each; what they keep is in *state*.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

from daskref.bench.bytes import Turn, random_bytes
from daskref.testing.agents import Agent
from daskref.testing.host import Host

#: What the sockets read and write.
_FILE = "/dev/shm/bench-sockets"
#: Of ProxyStore's servers: every host has its own.
_PORT = 5588


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
        with mmap.mmap(descriptor, nbytes) as mapping, memoryview(mapping) as view:
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

    def turn(self, nbytes: int) -> Turn:
        """Send the file once."""
        yield 0.0
        yield self._receiver.call(receive_file, self._address, self._port, nbytes)


# ProxyStore's ZeroMQ connector


def open_proxystore(state: dict[str, Any], address: str) -> None:
    """Open a store of ProxyStore's; it starts a server on this host."""
    from proxystore.store import Store
    from proxystore_ex.connectors.dim.zmq import ZeroMQConnector

    connector = ZeroMQConnector(_PORT, address=address, timeout=3)
    state["proxystore"] = Store(f"bench-{address}", connector, cache_size=0)


def make_array(state: dict[str, Any], nbytes: int) -> None:
    """Make the array to put."""
    import numpy as np

    state["array"] = np.random.default_rng().random(nbytes // 8)


def put_array(state: dict[str, Any]) -> tuple[Any, float]:
    """Put the array there; return its key, and the seconds."""
    x = state.pop("array")
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

    Raises ModuleNotFoundError if it is not installed.

    Parameters
    ----------
    hosts
        Both of them.
    """

    def __init__(self, hosts: list[Host]) -> None:
        import proxystore_ex.connectors.dim.zmq  # noqa: F401

        self._hosts = hosts[:2]

    def __enter__(self) -> ProxyStore:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def turn(self, nbytes: int) -> Turn:
        """Put on one host, get on the other.

        With new processes each time: old ones do not give all memory back.
        """
        with ExitStack() as stack:
            here, there = (stack.enter_context(Agent(host)) for host in self._hosts)
            for agent, host in ((here, self._hosts[0]), (there, self._hosts[1])):
                agent.call(open_proxystore, host.address)
                stack.callback(agent.call, close_proxystore)
            here.call(make_array, nbytes)
            yield 0.0
            key, put = here.call(put_array)
            yield put + there.call(get_array, key)
            here.call(evict_array, key)
