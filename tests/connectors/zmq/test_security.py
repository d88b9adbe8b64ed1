"""Peers that do not belong, and bytes that make no sense, over real sockets."""

from __future__ import annotations

import os
import pickle
import random
import resource
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from daskref.connectors.zmq import ZmqConnector
from daskref.connectors.zmq import _server as zmqserver
from daskref.connectors.zmq._connections import open_channel
from daskref.connectors.zmq._keys import Handshake, Keys, RefusedError
from daskref.connectors.zmq._wire import (
    LARGEST_CHUNK,
    NAMES,
    PUSH_CHUNK,
    REPLY_NBYTES,
    VERSION,
    Channel,
    EndedError,
    Op,
    Reply,
    Request,
    Status,
    pack_reply,
    pack_request,
    receive,
    unpack_reply,
    unpack_request,
)
from daskref.exceptions import ConnectorUnavailableError, WireError
from tests.support.common import wait_until
from tests.support.zmq_hosts import parts_left, pattern, peers, relay, server_of

MIB = 2**20
#: The name of an object that is not there.
NEW = "0" * 8 + "-" + "1" * 24
SECRET = b"what nobody else may read, " * 200


@pytest.fixture
def served(hosts, security):
    """A host that serves, and another one."""
    made = hosts(security=security)
    a = made.open("a", serve=True)
    return a, made.open("b", peers=peers(a))


def keys_of(connector: ZmqConnector) -> Keys:
    (found,) = connector.secrets().values()
    keys = Keys.load(found)
    assert keys is not None
    return keys


class Peer:
    """A peer that may send anything."""

    def __init__(self, raw: socket.socket, there: Channel) -> None:
        self.socket = raw
        self.there = there

    def send(self, *data: bytes) -> None:
        self.there.sendall(b"".join(data))

    def answer(self, *data: bytes) -> tuple[Reply, bytes] | None:
        """Send, and return the reply; ``None`` if the connection was ended."""
        try:
            self.send(*data)
            reply = unpack_reply(receive(self.there, REPLY_NBYTES))
            return reply, receive(self.there, reply.length)
        except (EndedError, ConnectionError, ssl.SSLError):
            return None


@contextmanager
def peer(connector: ZmqConnector, security: str, keys: Keys | None = None):
    """A peer with the right keys, or others."""
    handshake = Handshake(keys or keys_of(connector), security == "tls")
    with connect(server_of(connector).port) as raw:
        raw.settimeout(10)
        there = open_channel(raw, handshake)
        handshake.connect(there)
        yield Peer(raw, there)


def still_serves(connector: ZmqConnector, reader: ZmqConnector) -> None:
    key = connector.put(SECRET)
    assert reader.get(key) == SECRET
    reader.evict(key)


# Who does not belong.


def keep_out(a: ZmqConnector, security: str, keys: Keys) -> None:
    before = a.served
    with (
        pytest.raises((RefusedError, EndedError, OSError)),
        peer(a, security, keys) as stranger,
    ):
        stranger.answer(pack_request(Request(Op.EXISTS)))
    if security == "tls":  # in the clear, it has seen that the server is another's
        wait_until(lambda: a.served.refused > before.refused, "it is counted")


def test_a_stranger_gets_nothing(served, security):
    a, b = served
    key = a.put(SECRET)
    keys, fresh = keys_of(a), Keys.make(encrypted=True)
    keep_out(a, security, fresh)
    # Not even if it knew the other secret.
    half = {"tls": {"token": keys.token}, "clear": {"certificate": keys.certificate}}
    keep_out(a, security, replace(fresh, **half[security]))
    assert a.served.requests == a.served.nbytes == 0
    assert b.get(key) == SECRET


def test_the_certificate_alone_opens_nothing(hosts):
    a = hosts(security="tls").open("a", serve=True)
    key = a.put(SECRET)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=keys_of(a).certificate)
    with connect(server_of(a).port) as raw, context.wrap_socket(raw) as there:
        there.settimeout(10)
        request = Request(Op.GET, key.name, key.nbytes, 0, 10)
        assert Peer(there, there).answer(pack_request(request)) is None
    wait_until(lambda: a.served.refused == 1)
    assert not a.served.requests


def test_a_request_before_the_proof_is_not_answered(served, security):
    a, b = served
    key = a.put(SECRET)
    request = pack_request(Request(Op.GET, key.name, key.nbytes, 0, 10))
    hello = b"daskref" + bytes([VERSION]) + bytes(32)
    for said in (request * 10, hello + request, hello + bytes(32), hello + hello):
        with connect(server_of(a).port) as raw:
            raw.settimeout(10)
            heard = b""
            with suppress(OSError):
                raw.sendall(said)
                raw.shutdown(socket.SHUT_WR)
                while data := raw.recv(4096):
                    heard += data
            assert SECRET[:10] not in heard
    assert not a.served.requests
    still_serves(a, b)


def impostor(stack: ExitStack, serve) -> str:
    """Return the endpoint of one who is no server of the session."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def run() -> None:
        with suppress(OSError, RefusedError, EndedError):
            while True:
                raw, _ = listener.accept()
                raw.settimeout(10)
                with raw, suppress(OSError, RefusedError, EndedError):
                    serve(raw)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    stack.callback(thread.join, 10)
    stack.callback(socket.socket.shutdown, listener, socket.SHUT_RDWR)
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def other_session(raw: socket.socket, security: str) -> None:
    handshake = Handshake(Keys.make(encrypted=True), security == "tls")
    with handshake.wrap_server(raw) as there:
        handshake.accept(there)


def say_it_back(raw: socket.socket, security: str) -> None:
    while data := raw.recv(4096):
        raw.sendall(data)


def say_it_back_as_an_answer(raw: socket.socket, security: str) -> None:
    hello = receive(raw, 40)
    raw.sendall(hello[8:] + bytes(32))


@pytest.mark.parametrize("kind", [other_session, say_it_back, say_it_back_as_an_answer])
def test_a_stranger_cannot_serve(hosts, security, kind):
    made = hosts(security=security, stall=0.5, timeout=1)
    a = made.open("a", serve=True)
    key = a.put(SECRET)
    heard = bytearray()

    def serve(raw: socket.socket) -> None:
        kind(raw, security)

    with ExitStack() as stack:
        place = impostor(stack, serve)
        with relay(place) as between:
            b = made.open("b", peers={a.host: [between.endpoint]})
            with pytest.raises(ConnectorUnavailableError, match=r"handshake|answer"):
                b.get(key)
            with pytest.raises(ConnectorUnavailableError, match=r"handshake|answer"):
                made.open("c", peers={a.host: [between.endpoint]}).put(SECRET)
            heard += between.sent
    # Neither what is wanted nor what is put, nor the token, was said to it.
    for said in (key.name.encode(), SECRET, bytes.fromhex(keys_of(a).token)):
        assert said not in heard


def test_a_proof_is_good_for_one_connection(hosts):
    made = hosts(security="clear")
    a = made.open("a", serve=True)
    b = made.open("b", peers=peers(a))
    said = recorded(a, b)
    before = a.served
    with connect(server_of(a).port) as replay:
        replay.settimeout(10)
        replay.sendall(said)
        with suppress(ConnectionError):
            while replay.recv(65536):
                pass
    wait_until(lambda: a.served.refused > before.refused)
    assert a.served.requests == before.requests


def test_no_secret_is_where_it_could_leak(hosts, security, caplog):
    made = hosts(security=security)
    with caplog.at_level("DEBUG"):
        a = made.open("a", serve=True)
        b = made.open("b", peers=peers(a))
        key = a.put(SECRET)
        b.get(key)
        with suppress(WireError):
            a.get("nonsense")
    dumped = keys_of(a).dump()
    dumped = {name: value for name, value in dumped.items() if value}
    assert len(dumped) == (3 if security == "tls" else 1)
    seen = [
        repr(a), str(a), repr(a.config()), repr(key), repr(keys_of(a)), caplog.text,
        repr(vars(a)), repr(vars(a._session)), repr(b._remote._lines),
        repr(vars(server_of(a))),
        repr(dict(os.environ)), Path("/proc/self/cmdline").read_text(),
        pickle.dumps(a).decode("latin-1"), pickle.dumps(key).decode("latin-1"),
    ]  # fmt: skip
    for path in Path(a.local.directory).rglob("*"):
        if path.is_file():
            seen.append(path.read_bytes().decode("latin-1"))
    for text in seen:
        assert not any(secret in text for secret in dumped.values())


def recorded(a: ZmqConnector, b: ZmqConnector) -> bytes:
    """Return what a reader says that is let in and gets an object."""
    key = a.put(SECRET)
    with relay(a.endpoints[0]) as between:
        config = {**b.config(), "peers": {a.host: [between.endpoint]}}
        with ZmqConnector(**config) as c:
            assert c.get(key) == SECRET
        b.evict(key)
        return bytes(between.sent)


def test_what_an_eavesdropper_sees(served, security):
    a, b = served
    key = a.put(SECRET)
    with relay(a.endpoints[0]) as between:
        c = ZmqConnector(**{**b.config(), "peers": {a.host: [between.endpoint]}})
        with c:
            b_view = c.get(key)
        assert b_view == SECRET
        there, back = bytes(between.sent), bytes(between.received)
    in_the_clear = [key.name.encode() in there, SECRET in back]
    assert in_the_clear == [security == "clear"] * 2
    assert bytes.fromhex(keys_of(a).token) not in there + back


# What makes no sense.


def test_malformed_requests_end_their_connection_and_harm_nobody(served, security):
    a, b = served
    key = a.put(SECRET)
    good = Request(Op.GET, key.name, key.nbytes, 0, 10)
    packed = pack_request(good)
    wrong = [
        b"XX" + packed[2:],
        packed[:2] + bytes([99]) + packed[3:],
        packed[:3] + bytes([77]) + packed[4:],
        pack_request(good._replace(name="../../../etc/passwd")),
        pack_request(good._replace(name="l-" + key.name[2:])),
        bytes(len(packed)),
        b"GET / HTTP/1.1\r\nHost: somewhere\r\n".ljust(len(packed), b" "),
    ]
    for number, said in enumerate(wrong):
        with peer(a, security) as client:
            right = (Reply(Status.OK, 10), SECRET[:10])
            assert client.answer(packed) == right
            assert client.answer(said, packed) is None
            assert a.served.malformed == number + 1
    for length in (0, 1, len(packed) - 1):
        with peer(a, security) as client:
            client.send(packed[:length])
    still_serves(a, b)


def test_requests_that_reach_outside_an_object_are_refused(served, security):
    a, b = served
    key = a.put(pattern(3 * MIB))
    huge = 2**64 - 1
    name, nbytes = key[:2]
    requests = [
        (Op.GET, name, nbytes, nbytes - 1, 2),
        (Op.GET, name, nbytes, huge, huge),
        (Op.GET, name, nbytes, 0, LARGEST_CHUNK + 1),
        (Op.GET, name, huge, 0, 10),
        (Op.GET, name, huge, huge - 5, 5),
        (Op.PUT, NEW, huge, 0, 5),
        (Op.PUT, NEW, 10, 5, 5),
        (Op.PUT, NEW, 10, 2**40, 0),
    ]
    with peer(a, security) as client:
        for op, *rest in requests:
            request = Request(op, *rest)
            sent = b"x" * request.data_nbytes
            reply, data = client.answer(pack_request(request), sent)
            assert reply.status is Status.REFUSED, request
            assert not data
        names = "\n".join([name] * (NAMES + 1)).encode()
        for evil in (names, b"../../x", name.encode() + b"\n/etc/passwd", b"\xff"):
            evict = pack_request(Request(Op.EVICT, length=len(evil)))
            reply, _ = client.answer(evict, evil)
            assert reply.status is Status.REFUSED
    assert a.exists(key)
    assert not parts_left(a)
    still_serves(a, b)


def test_a_push_of_more_than_there_is_room_for_is_refused(served, security):
    a, b = served
    data = bytes(PUSH_CHUNK)
    request = Request(Op.PUT, NEW, 2**50, 0, PUSH_CHUNK)
    with peer(a, security) as client:
        reply, _ = client.answer(pack_request(request), data)
        assert reply.status is Status.FULL
    assert not parts_left(a)
    still_serves(a, b)


def test_replayed_requests_change_nothing(served, security):
    a, b = served
    key = (NEW, len(SECRET), a.host)
    put = Request(Op.PUT, NEW, len(SECRET), 0, len(SECRET))
    get = Request(Op.GET, NEW, len(SECRET), 0, 5)
    with peer(a, security) as client:
        for _ in range(3):
            reply, _ = client.answer(pack_request(put), SECRET)
            assert reply.status is Status.WHOLE
        # Not even with other bytes: what is published does not change.
        client.answer(pack_request(put), SECRET[::-1])
        for _ in range(3):
            assert client.answer(pack_request(get))[1] == SECRET[:5]
    assert b.get(key) == SECRET
    assert a.usage().objects == 1


@pytest.mark.parametrize("op", [Op.PUT, Op.EVICT])
@pytest.mark.parametrize("nbytes", [2 * PUSH_CHUNK, 2**40, 2**64 - 1])
def test_more_data_than_is_allowed_ends_the_connection(served, security, op, nbytes):
    a, b = served
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with peer(a, security) as client:
        request = Request(op, NEW, nbytes, 0, nbytes)
        assert client.answer(pack_request(request), bytes(1000)) is None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**14  # KiB
    still_serves(a, b)


def test_a_reply_that_is_none_is_an_error():
    assert unpack_reply(pack_reply(Reply(Status.OK, 6))) == (1, 6)
    packed = pack_reply(Reply(Status.OK))
    for wrong in (b"", packed[:-1], packed + b"x", b"XX" + packed[2:]):
        with pytest.raises(WireError):
            unpack_reply(wrong)
    with pytest.raises(WireError, match="version 9"):
        unpack_reply(packed[:2] + b"\x09" + packed[3:])
    with pytest.raises(WireError, match="status 200"):
        unpack_reply(packed[:3] + b"\xc8" + packed[4:])


def test_bytes_that_are_changed_on_their_way_are_not_taken_if_encrypted(hosts):
    made = hosts(security="tls", timeout=30)
    a = made.open("a", serve=True)
    key = a.put(pattern(3 * MIB))
    with relay(a.endpoints[0]) as between:
        between.changes_at = 2 * MIB
        b = made.open("b", peers={a.host: [between.endpoint]})
        assert b.get(key) == pattern(3 * MIB)
        assert between.changes_at is None


def test_a_request_survives_the_wire():
    request = Request(Op.PUT, NEW, 1, 2, 3)
    assert unpack_request(pack_request(request)) == request


@pytest.mark.parametrize(
    "nonsense", [b"nonsense" * 3, bytes(1000), b"DR\3\1" + b"\xff" * 8]
)
def test_a_server_that_answers_nonsense_is_not_asked_again(
    served, nonsense, monkeypatch
):
    a, b = served
    key = a.put(SECRET)
    monkeypatch.setattr(zmqserver, "pack_reply", lambda reply: nonsense)
    for call in (b.get, b.exists, b.evict):
        with pytest.raises(ConnectorUnavailableError, match="answered nonsense"):
            call(key)
    monkeypatch.undo()
    still_serves(a, b)


# Peers that take up the server.


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5)


#: What a peer says first: in the clear, and with TLS.
HELLO = {
    "clear": b"daskref\x02" + bytes(32),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
}


def closed(raw: socket.socket) -> bool:
    raw.settimeout(0.01)
    try:
        while True:
            if not raw.recv(4096):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.slow
def test_slow_and_silent_peers_lose_their_connection(hosts, security):
    made = hosts(security=security)
    a = made.open("a", serve=True, handshake=0.5)
    b = made.open("b", peers=peers(a))
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(server_of(a).port)) for _ in range(20)]
        slow = [stack.enter_context(connect(server_of(a).port)) for _ in range(5)]
        sent = 0
        deadline = time.monotonic() + 15
        while not all(map(closed, silent + slow)):
            assert time.monotonic() < deadline
            for each in slow:
                with suppress(OSError):  # a byte now and then
                    each.send(HELLO[security][sent : sent + 1] or b"\0")
            sent += 1
            still_serves(a, b)
    wait_until(lambda: a.served.connections <= 1)


def crowd(stack: ExitStack, port: int, count: int) -> list[socket.socket]:
    """Return sockets that are connecting; some or all get through."""
    raw = [stack.enter_context(socket.socket()) for _ in range(count)]
    for each in raw:
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", port))
    return raw


def test_the_number_of_connections_is_bounded(hosts, security):
    made = hosts(security=security)
    a = made.open("a", serve=True, handshake=120, connections=4)
    b = made.open("b", peers=peers(a), lanes=1)
    still_serves(a, b)  # has a connection of its own from now on
    server = server_of(a)
    with ExitStack() as stack:
        crowd(stack, server.port, 10)
        wait_until(lambda: a.served.connections == 4)
        crowd(stack, server.port, 390)
        still_serves(a, b)  # has its connection
        assert a.served.connections == 4
        assert len(threads_of(server)) == 5
    wait_until(lambda: a.served.connections == 1)
    still_serves(a, made.open("c", peers=peers(a)))


def threads_of(server) -> list[threading.Thread]:
    name = f"daskref-zmq-{server.port}"
    return [each for each in threading.enumerate() if each.name.startswith(name)]


@pytest.mark.slow
def test_silent_strangers_do_not_keep_a_full_server(hosts, security):
    made = hosts(security=security)
    a = made.open("a", serve=True, handshake=0.5, connections=4)
    b = made.open("b", peers=peers(a), lanes=1)
    still_serves(a, b)
    (line,) = b._remote._lines._idle
    with ExitStack() as stack:
        strangers = crowd(stack, server_of(a).port, 6)
        wait_until(lambda: a.served.connections == 4)
        # Whoever has the keys waits for a place, and gets it.
        still_serves(a, made.open("c", peers=peers(a), lanes=1, stall=10, timeout=60))
        assert any(map(closed, strangers))
        still_serves(a, b)
    # Not even that one was ended which had nothing to ask meanwhile.
    assert b._remote._lines._idle == [line]


def test_a_peer_that_does_not_read_does_not_hold_up_others(served, security):
    a, b = served
    key = a.put(pattern(8 * MIB))
    request = pack_request(Request(Op.GET, key.name, key.nbytes, 0, 8 * MIB))
    with peer(a, security) as client:
        client.send(request * 500)
        wait_until(lambda: a.served.requests >= 1)
        still_serves(a, b)


def test_a_peer_that_does_not_read_loses_its_connection(hosts, security):
    made = hosts(security=security)
    a = made.open("a", serve=True, timeout=0.3)
    key = a.put(pattern(8 * MIB))
    request = pack_request(Request(Op.GET, key.name, key.nbytes, 0, 8 * MIB))
    with peer(a, security) as client:
        client.send(request * 50)
        wait_until(lambda: a.served.requests and not a.served.connections)


# Random bytes.


def mutate(rng: random.Random, packed: bytes) -> bytes:
    """Return a request with something wrong."""
    header = bytearray(packed)
    kind = rng.randrange(6)
    if kind == 0:
        header = bytearray(rng.randbytes(rng.randrange(200)))
    elif kind == 1:
        del header[rng.randrange(len(header)) :]
    elif kind == 2:
        header[rng.randrange(len(header))] ^= 1 << rng.randrange(8)
    elif kind == 3:  # sizes and offsets of all kinds
        numbers = [rng.choice([0, 1, 2**20, 2**40, 2**63, 2**64 - 1]) for _ in "1234"]
        header[-32:] = struct.pack("<4Q", *numbers)
    elif kind == 4:
        header[3] = rng.randrange(256)
    else:
        header += rng.randbytes(rng.randrange(1, 50))
    return bytes(header) + rng.randbytes(rng.choice([0, 1, 50, 5000]))


def fuzz(
    a: ZmqConnector, b: ZmqConnector, security: str, seed: int, count: int
) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    # What goes wrong may still be a request that deletes the object which it names.
    key, named = a.put(SECRET), a.put(SECRET)
    for _ in range(count):
        op = rng.choice([Op.GET, Op.PUT, Op.EXISTS, Op.RENEW])
        request = Request(op, named.name, named.nbytes, 0, 10)
        with peer(a, security) as client, suppress(OSError):
            client.send(mutate(rng, pack_request(request)))
            client.socket.settimeout(0.001)
            with suppress(TimeoutError):
                while client.socket.recv(65536):
                    pass
    for _ in range(count // 5):
        with suppress(OSError), connect(server_of(a).port) as raw:
            start = HELLO[security] if rng.random() < 0.5 else b""
            raw.sendall(start + rng.randbytes(rng.randrange(2000)))
    assert server_of(a).running
    # The object and all that is around it are as before.
    assert a.get(key) == SECRET
    assert b.get(key) == SECRET
    still_serves(a, b)
    wait_until(lambda: a.served.connections <= 1)
    a.evict(named)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_random_messages_neither_crash_nor_block_the_server(served, security, seed):
    fuzz(*served, security, seed, 300)


@pytest.mark.stress
def test_many_random_messages_neither_crash_nor_block_the_server(served, security):
    fuzz(*served, security, random.SystemRandom().randrange(2**32), 5_000)
