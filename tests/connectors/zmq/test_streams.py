"""Streams of bytes that begin like those of a peer, and go wrong, over real sockets."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

import pytest

from tests.connectors.zmq.test_security import SECRET, recorded, still_serves
from tests.support.common import wait_until
from tests.support.zmq_hosts import peers, server_of

#: Streams that one run sends.
COUNT = 300


@pytest.fixture
def served(hosts, security):
    """A host that serves whoever takes his time, and another one."""
    made = hosts(security=security)
    a = made.open("a", serve=True, handshake=120)
    return a, made.open("b", peers=peers(a))


def send(port: int, data: bytes) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", port), 10)
    with suppress(OSError):  # it has ended the connection already
        raw.sendall(data)
    return raw


def spoil(rng: random.Random, said: bytes) -> bytes:
    """Return what was said, with something wrong."""
    at = rng.randrange(len(said))
    match rng.randrange(5):
        case 0:
            return said[:at]
        case 1:
            return (
                said[:at] + bytes([said[at] ^ 1 << rng.randrange(8)]) + said[at + 1 :]
            )
        case 2:
            return said[:at] + rng.randbytes(rng.randrange(1, 300)) + said[at:]
        case 3:
            return said[:at] + said[rng.randrange(at, len(said)) :]
        case _:
            return said + said[at:]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_streams_that_go_wrong_neither_crash_nor_block_the_server(
    served, security, seed
):
    a, b = served
    print(f"seed {seed}")
    rng = random.Random(seed)
    said = recorded(a, b)
    before = a.served.nbytes
    for number in range(COUNT):
        send(server_of(a).port, spoil(rng, said)).close()
        if number % 50 == 0:
            still_serves(a, b)
    still_serves(a, b)
    wait_until(lambda: a.served.connections <= 2)
    assert server_of(a).running
    # Nobody got in but the reader, who read so often.
    read = a.served.nbytes - before
    assert read == len(SECRET) * (COUNT // 50 + 1)


def test_whoever_breaks_off_in_a_handshake_is_forgotten(served, security):
    a, b = served
    said = recorded(a, b)
    for length in range(0, min(len(said), 300), 7):
        send(server_of(a).port, said[:length]).close()
    still_serves(a, b)
    wait_until(lambda: a.served.connections <= 1)
