"""Streams of bytes that begin like those of a peer, and go wrong, over real sockets."""

from __future__ import annotations

import random
import resource
import socket
import struct
from contextlib import suppress

import pytest

from daskref.connectors.zmq import ZmqConnector
from tests.connectors.test_zmq_security import GREETING, SECRET, closed, still_serves
from tests.connectors.zmqhosts import peers, relay, server_of
from tests.utils import wait_until

#: Streams that one run sends.
COUNT = 300
#: The rest of a greeting after :data:`GREETING`, by mechanism.
REST = {
    "curve": b"CURVE".ljust(20, b"\0") + bytes(32),
    "clear": b"PLAIN".ljust(20, b"\0") + bytes(32),
    "none": b"NULL".ljust(20, b"\0") + bytes(32),
}
#: Frames of ZMTP: a command, a message; their length takes 8 bytes.
COMMAND, MESSAGE = 6, 2


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


def recorded(a: ZmqConnector, b: ZmqConnector) -> bytes:
    """Return what a reader says that is let in and gets an object."""
    key = a.put(SECRET)
    with relay(a.endpoints[0]) as between:
        config = {**b.config(), "peers": {a.host: [between.endpoint]}}
        with ZmqConnector(**config) as c:
            assert c.get(key) == SECRET
        b.evict(key)
        return bytes(between.sent)


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
    if security == "curve":  # nobody got in but the reader, who read so often
        read = a.served.nbytes - before
        assert read == len(SECRET) * (COUNT // 50 + 1)


@pytest.mark.parametrize("kind", [COMMAND, MESSAGE])
@pytest.mark.parametrize("mechanism", sorted(REST))
@pytest.mark.parametrize("nbytes", [2**25, 2**40, 2**63 - 1, 2**64 - 1])
def test_a_frame_that_is_said_to_be_huge_ends_the_connection(
    served, kind, mechanism, nbytes
):
    a, b = served
    frame = struct.pack(">BQ", kind, nbytes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with send(
        server_of(a).port, GREETING + REST[mechanism] + frame + bytes(1000)
    ) as raw:
        wait_until(lambda: closed(raw))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**14  # KiB
    still_serves(a, b)


def test_whoever_breaks_off_in_a_greeting_is_forgotten(served):
    a, b = served
    greeting = GREETING + REST["curve"]
    for length in range(0, len(greeting), 3):
        send(server_of(a).port, greeting[:length]).close()
    still_serves(a, b)
    wait_until(lambda: a.served.connections <= 1)
