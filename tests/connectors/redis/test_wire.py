"""Redis's protocol over sockets of the test's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError

from daskref.connectors.redis._wire import Request, Wire, writable


class FakeConnection:
    """What the driver's connection is to a wire."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock


class Dripping:
    """A socket that hands out and takes a few bytes at a time."""

    def __init__(self, sock: socket.socket, step: int) -> None:
        self._sock = sock
        self._step = step

    def recv_into(self, view: memoryview) -> int:
        return self._sock.recv_into(view[: self._step])

    def send(self, view: memoryview) -> int:
        return self._sock.send(view[: self._step])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.fixture(params=[1, 2, 3, 7, 1 << 20])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    for each in ours, theirs:
        each.settimeout(10)
    wire = Wire(FakeConnection(Dripping(ours, request.param)))
    yield wire, theirs
    ours.close()
    theirs.close()


def received(sock: socket.socket, nbytes: int) -> bytes:
    found = b""
    while len(found) < nbytes:
        data = sock.recv(1 << 20)
        assert data
        found += data
    return found


REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b":-17\r\n", -17),
    (b"$-1\r\n", None),
    (b"$0\r\n\r\n", b""),
    (b"$6\r\na\r\nb\r\n\r\n", b"a\r\nb\r\n"),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n$1\r\na\r\n*1\r\n:2\r\n$-1\r\n", [b"a", [2], None]),
]


def test_replies_in_pieces(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    theirs.sendall(b"".join(sent for sent, _ in REPLIES) * 2)
    for _, expected in REPLIES * 2:
        assert wire.reply() == expected
    theirs.sendall(b"-OOM it is full\r\n+OK\r\n")
    refusal = wire.reply()
    assert isinstance(refusal, ResponseError)
    assert str(refusal) == "OOM it is full"
    assert wire.reply() == b"OK"


def test_into_memory_of_the_callers(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    memory = writable(10)
    theirs.sendall(b"$10\r\n0123456789\r\n$-1\r\n+OK\r\n")
    assert wire.reply(lambda nbytes: memory[:nbytes]) is not None
    assert memory == b"0123456789"
    assert wire.reply(writable) is None
    assert wire.reply() == b"OK"


def test_commands(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    large = bytes(range(256)) * 200
    views = [memoryview(b"ab"), memoryview(large), memoryview(b"")]
    expected = (
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$51202\r\nab%b\r\n" % large
        + b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n"
    )
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(wire.send, [[b"SET", b"key", views], [b"GET", b""]])
        assert received(theirs, len(expected)) == expected
        sending.result(10)


def test_many_requests_are_answered_in_order(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    requests = [Request([b"GET", b"%03d" % i], 3, writable) for i in range(600)]
    asked = b"".join(b"*2\r\n$3\r\nGET\r\n$3\r\n%03d\r\n" % i for i in range(600))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(received, theirs, len(asked))
        theirs.sendall(b"".join(b"$3\r\n%03d\r\n" % i for i in range(600)))
        assert wire.fetch(requests) == [b"%03d" % i for i in range(600)]
        assert reading.result(10) == asked


@pytest.mark.parametrize(
    "sent",
    [b"HTTP/1.1 400 Bad\r\n", b"\r\n", b"$x\r\n", b":\r\n", b"+OK\n", b"$1\r\nabc\r\n"],
)
def test_what_is_not_the_protocol(
    pair: tuple[Wire, socket.socket], sent: bytes
) -> None:
    wire, theirs = pair
    theirs.sendall(sent)
    with pytest.raises(InvalidResponse):
        wire.reply()


def test_an_endless_line(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    theirs.sendall(b"x" * 40_000)
    with pytest.raises(InvalidResponse, match="a line of more than"):
        wire.reply()


@pytest.mark.parametrize("sent", [b"", b"+O", b"$5\r\nab"])
def test_the_end_of_the_connection(
    pair: tuple[Wire, socket.socket], sent: bytes
) -> None:
    wire, theirs = pair
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="closed"):
        wire.reply()
