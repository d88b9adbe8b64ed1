"""Plain sockets, and ProxyStore's ZeroMQ connector, move bytes between hosts.

Agents, one on each host, call the functions here with their *state*.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from daskref.bench.bytes import Turn, random_bytes
from daskref.bench.measuring import array, timed
from daskref.testing.agents import Agent
from daskref.testing.host import Host

#: The file that the sockets read and write.
_FILE = "/dev/shm/bench-sockets"
#: Port of ProxyStore's servers, one on every host.
_PORT = 5588


def serve_file(state: dict[str, Any], address: str, nbytes: int) -> int:
    """Send a file of random bytes to each client in turn; return the port."""
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
    descriptor = os.open(_FILE, os.O_RDWR | os.O_CREAT, 0o600)
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


@contextmanager
def sockets(hosts: list[Host], nbytes: int) -> Iterator[Callable[[], Turn]]:
    """Serve a file on the first of two hosts; a turn sends it to the second."""
    address = hosts[0].address
    with Agent(hosts[0]) as sender, Agent(hosts[1]) as receiver, ExitStack() as stack:
        port = sender.call(serve_file, address, nbytes)
        stack.callback(sender.call, stop_serving)
        stack.callback(receiver.call, delete_received)

        def turn() -> Turn:
            yield 0.0
            yield receiver.call(receive_file, address, port, nbytes)

        yield turn


# ProxyStore's ZeroMQ connector


def open_proxystore(state: dict[str, Any], address: str) -> None:
    """Open a store of ProxyStore's; it starts a server on this host."""
    from proxystore.store import Store
    from proxystore_ex.connectors.dim.zmq import ZeroMQConnector

    connector = ZeroMQConnector(_PORT, address=address, timeout=3)
    state["proxystore"] = Store(f"bench-{address}", connector, cache_size=0)


def make_array(state: dict[str, Any], nbytes: int) -> None:
    """Make the array to put."""
    state["array"] = array(nbytes)


def put_array(state: dict[str, Any]) -> tuple[Any, float]:
    """Put the array; return its key, and the seconds."""
    seconds, key = timed(state["proxystore"].put, state.pop("array"))
    return key, seconds


def get_array(state: dict[str, Any], key: Any) -> float:
    """Get an array; return the seconds."""
    seconds, x = timed(state["proxystore"].get, key)
    if x is None:
        raise LookupError(f"{key} is not there")
    return seconds


def evict_array(state: dict[str, Any], key: Any) -> None:
    """Delete an array."""
    state["proxystore"].evict(key)


def close_proxystore(state: dict[str, Any]) -> None:
    """Close the store, and the server with it."""
    state.pop("proxystore").close()


@contextmanager
def proxystore(hosts: list[Host], nbytes: int) -> Iterator[Callable[[], Turn]]:
    """Measure a put on the first of two hosts and a get on the second, per turn.

    Raises ModuleNotFoundError if ProxyStore's ZeroMQ connector is not installed. Each
    turn has new processes: old ones do not give all memory back.
    """
    import proxystore_ex.connectors.dim.zmq  # noqa: F401

    def turn() -> Turn:
        with ExitStack() as stack:
            here, there = agents = [stack.enter_context(Agent(h)) for h in hosts[:2]]
            for agent, host in zip(agents, hosts, strict=False):
                agent.call(open_proxystore, host.address)
                stack.callback(agent.call, close_proxystore)
            here.call(make_array, nbytes)
            yield 0.0
            key, put = here.call(put_array)
            yield put + there.call(get_array, key)
            here.call(evict_array, key)

    yield turn
