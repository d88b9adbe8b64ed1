"""Peers that do not belong, and bytes that make no sense, over real sockets."""

from __future__ import annotations

import os
import pickle
import random
import select
import socket
import struct
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import zmq

from daskref.connectors import zmqdoor, zmqserver
from daskref.connectors.zmq import ZmqConnector
from daskref.connectors.zmqkeys import Keys
from daskref.connectors.zmqlisten import listen, pause, resume
from daskref.connectors.zmqwire import (
    LARGEST_CHUNK,
    NAMES,
    PUSH_CHUNK,
    Op,
    Reply,
    Request,
    Status,
    checksum,
    pack_reply,
    pack_request,
    unpack_reply,
    unpack_request,
)
from daskref.exceptions import ConnectorUnavailableError, WireError
from tests.connectors.zmqhosts import parts_left, pattern, peers, relay, server_of
from tests.utils import wait_until

MIB = 2**20
#: Milliseconds in which a stranger hears nothing.
SILENCE = 300
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


@contextmanager
def dealer(endpoint, protect=lambda socket: None):
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.ipv6 = True
        protect(client)
        client.connect(endpoint)
        yield client


@contextmanager
def peer(connector: ZmqConnector, curve: bool):
    """A peer with the right keys, that may send anything."""
    keys = keys_of(connector)
    with dealer(
        connector.endpoints[0], lambda s: keys.protect_client(s, curve)
    ) as client:
        yield client, keys.token_bytes


def answer(client, *frames, wait=10_000):
    client.send_multipart(frames)
    if not client.poll(wait):
        return None
    header, *data = client.recv_multipart()
    return unpack_reply(header), b"".join(data)


def still_serves(connector: ZmqConnector, reader: ZmqConnector) -> None:
    key = connector.put(SECRET)
    assert reader.get(key) == SECRET
    reader.evict(key)


# Who does not belong.


def other(keys: Keys, **changed: str) -> Keys:
    return Keys(**{**keys.dump(), **changed})


def strangers(keys: Keys, curve: bool):
    fresh = Keys.make()
    yield "no mechanism", lambda s: None
    yield "all keys of another session", lambda s: fresh.protect_client(s, curve)
    yield "the other mechanism", lambda s: keys.protect_client(s, not curve)
    if curve:
        pair = {n: getattr(fresh, n) for n in ("client_public", "client_secret")}
        own = other(keys, **pair)
        yield "its own client key", lambda s: own.protect_client(s, True)
        half = other(keys, client_secret=fresh.client_secret)
        yield "only the public half", lambda s: half.protect_client(s, True)
        server = other(keys, server_public=fresh.server_public)
        yield "not the server's key", lambda s: server.protect_client(s, True)


@pytest.mark.slow
def test_a_stranger_gets_nothing(served, security):
    a, b = served
    key = a.put(SECRET)
    keys = keys_of(a)
    for who, protect in strangers(keys, security == "curve"):
        for op in (Op.GET, Op.EXISTS, Op.EVICT):
            request = Request(op, 1, key.name, key.nbytes, 0, 10)
            with dealer(a.endpoints[0], protect) as client:
                # Even if it knew the token.
                found = answer(
                    client,
                    pack_request(request, keys.token_bytes),
                    key.name.encode(),
                    wait=SILENCE // 3,
                )
                assert found is None, f"{who} got {found}"
    assert a.exists(key)
    assert a.served.requests == 0
    assert b.get(key) == SECRET


def test_a_peer_that_is_refused_is_counted(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    public, secret = (key.decode() for key in zmq.curve_keypair())
    keys = other(keys_of(a), client_public=public, client_secret=secret)
    with dealer(a.endpoints[0], lambda s: keys.protect_client(s, True)):
        wait_until(lambda: a.served.refused)
    assert a.served.requests == 0


def test_a_request_without_the_token_is_not_answered(served, security):
    a, b = served
    key = a.put(SECRET)
    with peer(a, security == "curve") as (client, token):
        for wrong in (bytes(16), bytes([token[0] ^ 1]) + token[1:]):
            for op in Op:
                request = Request(op, 1, key.name, key.nbytes, 0, 10)
                client.send_multipart([pack_request(request, wrong), b""])
        request = Request(Op.EXISTS, 7, key.name, key.nbytes)
        reply, _ = answer(client, pack_request(request, token))
        assert reply.number == 7  # the first that was answered
    assert a.served.malformed == 2 * len(Op)
    assert b.get(key) == SECRET


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
    assert len(set(dumped.values())) == 5
    seen = [
        repr(a), str(a), repr(a.config()), repr(key), repr(keys_of(a)), caplog.text,
        repr(vars(a)), repr(vars(a._session)), repr(b._session._lines),
        repr(vars(server_of(a))),
        repr(dict(os.environ)), Path("/proc/self/cmdline").read_text(),
        pickle.dumps(a).decode("latin-1"), pickle.dumps(key).decode("latin-1"),
    ]  # fmt: skip
    for path in Path(a._local.directory).rglob("*"):
        if path.is_file():
            seen.append(path.read_bytes().decode("latin-1"))
    for text in seen:
        assert not any(secret in text for secret in dumped.values())


def test_what_an_eavesdropper_sees(served, security):
    a, b = served
    key = a.put(SECRET)
    with relay(a.endpoints[0]) as between:
        c = ZmqConnector(**{**b.config(), "peers": {a.host: [between.endpoint]}})
        with c:
            b_view = c.get(key)
        assert b_view == SECRET
        there, back = bytes(between.sent), bytes(between.received)
        token = keys_of(a).token_bytes
        in_the_clear = [key.name.encode() in there, token in there, SECRET in back]
        assert in_the_clear == [security == "clear"] * 3
        # Replayed on a connection of its own, an encrypted exchange opens nothing.
        if security == "curve":
            before = a.served
            with socket.create_connection(("127.0.0.1", server_of(a).port)) as replay:
                replay.settimeout(5)
                with suppress(OSError):
                    replay.sendall(there)
                    while replay.recv(65536):
                        pass
            assert a.served.requests == before.requests


# What makes no sense.


def test_malformed_requests_are_not_answered_and_harm_nobody(served, security):
    a, b = served
    key = a.put(SECRET)
    good = Request(Op.GET, 3, key.name, key.nbytes, 0, 10)
    with peer(a, security == "curve") as (client, token):
        packed = pack_request(good, token)
        wrong = [
            [b""],
            [packed[:-1]],
            [packed + b"x"],
            [b"XX" + packed[2:]],
            [packed[:2] + bytes([99]) + packed[3:]],
            [packed[:3] + bytes([77]) + packed[4:]],
            [pack_request(good._replace(name="../../../etc/passwd"), token)],
            [pack_request(good._replace(name="l-" + key.name[2:]), token)],
            [packed, b"a", b"b"],
            [b"", packed],
            [packed, b"x", b"y", b"z", *[b""] * 50],
        ]
        for frames in wrong:
            client.send_multipart(frames)
        found = answer(client, packed)
        assert found == (Reply(Status.OK, 3, 0, checksum(SECRET[:10])), SECRET[:10])
        assert a.served.malformed == len(wrong)
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
        (Op.PUT, "0" * 8 + "-" + "1" * 24, huge, 0, 5),
        (Op.PUT, "0" * 8 + "-" + "1" * 24, 10, 5, 5),
        (Op.PUT, "0" * 8 + "-" + "1" * 24, 10, 0, huge),
        (Op.PUT, "0" * 8 + "-" + "1" * 24, 10, 2**40, 0),
    ]
    with peer(a, security == "curve") as (client, token):
        for each in requests:
            packed = pack_request(Request(each[0], 1, *each[1:]), token)
            (reply, data) = answer(client, packed, b"x" * 5)
            assert reply.status is Status.REFUSED, each
            assert not data
        names = "\n".join([name] * (NAMES + 1)).encode()
        for evil in (names, b"../../x", name.encode() + b"\n/etc/passwd", b"\xff"):
            reply, _ = answer(client, pack_request(Request(Op.EVICT, 1), token), evil)
            assert reply.status is Status.REFUSED
    assert a.exists(key)
    assert not parts_left(a)
    still_serves(a, b)


def test_a_push_of_more_than_there_is_room_for_is_refused(served, security):
    a, b = served
    nbytes = 2**50
    name = "0" * 8 + "-" + "1" * 24
    data = bytes(PUSH_CHUNK)
    request = Request(Op.PUT, 1, name, nbytes, 0, PUSH_CHUNK, checksum(data))
    with peer(a, security == "curve") as (client, token):
        reply, _ = answer(client, pack_request(request, token), data)
        assert reply.status is Status.FULL
    assert not parts_left(a)
    still_serves(a, b)


def test_replayed_requests_change_nothing(served, security):
    a, b = served
    name = "0" * 8 + "-" + "1" * 24
    key = (name, len(SECRET), a.host)
    put = Request(Op.PUT, 1, name, len(SECRET), 0, len(SECRET), checksum(SECRET))
    get = Request(Op.GET, 2, name, len(SECRET), 0, 5)
    with peer(a, security == "curve") as (client, token):
        for _ in range(3):
            reply, _ = answer(client, pack_request(put, token), SECRET)
            assert reply.status is Status.WHOLE
        # Not even with other bytes: what is published does not change.
        changed = put._replace(checksum=checksum(SECRET[::-1]))
        answer(client, pack_request(changed, token), SECRET[::-1])
        for _ in range(3):
            assert answer(client, pack_request(get, token))[1] == SECRET[:5]
    assert b.get(key) == SECRET
    assert a.usage().objects == 1


def test_a_message_larger_than_allowed_ends_the_connection(served, security):
    a, b = served
    with peer(a, security == "curve") as (client, token):
        monitor = client.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        request = Request(Op.PUT, 1, "0" * 8 + "-" + "1" * 24, 10, 0, 10)
        client.send_multipart([pack_request(request, token), bytes(LARGEST_CHUNK + 1)])
        assert monitor.poll(10_000)
        client.disable_monitor()
        monitor.close(0)
    still_serves(a, b)


def test_a_reply_that_is_none_is_an_error_for_the_reader_only(hosts):
    assert unpack_reply(pack_reply(Reply(Status.OK, 5, 6, 7))) == (1, 5, 6, 7)
    packed = pack_reply(Reply(Status.OK, 5))
    for wrong in (b"", packed[:-1], packed + b"x", b"XX" + packed[2:]):
        with pytest.raises(WireError):
            unpack_reply(wrong)
    with pytest.raises(WireError, match="version 9"):
        unpack_reply(packed[:2] + b"\x09" + packed[3:])
    with pytest.raises(WireError, match="status 200"):
        unpack_reply(packed[:3] + b"\xc8" + packed[4:])


def test_a_request_survives_the_wire():
    token = os.urandom(16)
    request = Request(Op.PUT, 2**63, "0" * 8 + "-" + "1" * 24, 1, 2, 3, 4)
    packed = pack_request(request, token)
    assert unpack_request(packed, token) == request
    assert unpack_request(packed, os.urandom(16)) is None


@pytest.mark.parametrize("nonsense", [b"", b"nonsense", bytes(1000)])
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


#: What a ZMTP peer says first, for these two mechanisms.
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00"


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
                    each.send(GREETING[sent : sent + 1] or b"\0")
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


def test_the_number_of_connections_is_bounded(hosts, security, monkeypatch):
    monkeypatch.setattr(zmqdoor, "_FIRST_REQUEST", 120)  # nobody has to go
    made = hosts(security=security)
    a = made.open("a", serve=True, handshake=120, connections=4)
    b = made.open("b", peers=peers(a), lanes=1)
    still_serves(a, b)  # has a connection of its own from now on
    port, door = server_of(a).port, server_of(a)._door
    with ExitStack() as stack:
        crowd(stack, port, 10)
        wait_until(lambda: door.shut)
        crowd(stack, port, 390)
        still_serves(a, b)  # has its connection
        # Those that came before it was said to wait.
        assert 4 <= a.served.connections <= 11
    wait_until(lambda: not door.shut)
    still_serves(a, made.open("c", peers=peers(a)))


@pytest.mark.slow
def test_strangers_have_to_go_when_the_server_is_full(hosts, security):
    made = hosts(security=security)
    a = made.open("a", serve=True, handshake=120, connections=4)
    b = made.open("b", peers=peers(a), lanes=1)
    still_serves(a, b)
    (line,) = b._session._lines._idle
    port, door = server_of(a).port, server_of(a)._door
    with ExitStack() as stack:
        strangers = crowd(stack, port, 3)
        wait_until(lambda: door.shut)
        # Whoever has the keys gets in, and waits for less than for the handshakes.
        still_serves(a, made.open("c", peers=peers(a), lanes=1, stall=10, timeout=60))
        assert any(map(closed, strangers))
        still_serves(a, b)
    # Not even that one was ended which had nothing to ask meanwhile.
    assert b._session._lines._idle == [line]


def test_while_there_is_room_nobody_has_to_send_anything(hosts, monkeypatch):
    monkeypatch.setattr(zmqdoor, "_FIRST_REQUEST", 0)
    made = hosts()
    a = made.open("a", serve=True, connections=3)
    b = made.open("b", peers=peers(a), lanes=1)
    port, door = server_of(a).port, server_of(a)._door
    with connect(port) as idle:
        still_serves(a, b)
        wait_until(lambda: door.connections == 2)
        assert not closed(idle)
        with connect(port) as another:
            wait_until(lambda: closed(idle) and closed(another))
    wait_until(lambda: not door.shut)
    still_serves(a, b)


def test_whoever_is_connecting_when_the_server_fills_up_is_heard():
    # A connection inherits the filter of the socket that listens.
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listener.getsockname()))
        far = stack.enter_context(listener.accept()[0])
        pause(far)
        near.sendall(b"hello")
        far.settimeout(10)
        assert far.recv(5) == b"hello"
        near.close()
        assert far.recv(5) == b""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_nobody_gets_in_while_the_server_is_full(address):
    with listen(address, range(0, 1)) as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        pause(listener)
        waiting = stack.enter_context(socket.socket(listener.family))
        waiting.setblocking(False)
        waiting.connect_ex((address, port))
        # On loopback, whoever can connect has done so by now.
        assert not select.select([], [waiting], [], 0)[1]
        resume(listener)
        stack.enter_context(socket.create_connection((address, port), 10))


def test_a_peer_that_does_not_read_does_not_hold_up_others(served, security):
    a, b = served
    key = a.put(pattern(8 * MIB))
    with peer(a, security == "curve") as (client, token):
        client.rcvhwm = 1
        for number in range(500):
            request = Request(Op.GET, number, key.name, key.nbytes, 0, 8 * MIB)
            client.send(pack_request(request, token))
        wait_until(lambda: a.served.requests >= 100)
        still_serves(a, b)


# Random bytes.


def mutate(rng: random.Random, packed: bytes, token: bytes) -> list[bytes]:
    """Return a request with something wrong, mostly with a token that is right."""
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
    data = [
        rng.randbytes(rng.choice([0, 1, 50, 5000])) for _ in range(rng.randrange(3))
    ]
    return [bytes(header), *data]


def fuzz(a: ZmqConnector, b: ZmqConnector, curve: bool, seed: int, count: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    # What goes wrong may still be a request that deletes the object which it names.
    key, named = a.put(SECRET), a.put(SECRET)
    with peer(a, curve) as (client, token):
        for number in range(count):
            op = rng.choice([Op.GET, Op.PUT, Op.EXISTS, Op.RENEW])
            request = Request(op, number, named.name, named.nbytes, 0, 10)
            client.send_multipart(mutate(rng, pack_request(request, token), token))
            while client.poll(0):
                unpack_reply(client.recv_multipart()[0])
        end = Request(Op.EXISTS, 2**62, key.name, key.nbytes)
        client.send(pack_request(end, token))
        deadline = time.monotonic() + 60
        while True:
            assert client.poll(max(0, int((deadline - time.monotonic()) * 1000)))
            if unpack_reply(client.recv_multipart()[0]).number == 2**62:
                break
    for _ in range(count // 20):
        with suppress(OSError), connect(server_of(a).port) as raw:
            start = GREETING if rng.random() < 0.5 else b""
            raw.sendall(start + rng.randbytes(rng.randrange(2000)))
    assert server_of(a).running
    # The object and all that is around it are as before.
    assert a.get(key) == SECRET
    assert b.get(key) == SECRET
    still_serves(a, b)
    a.evict(named)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_random_messages_neither_crash_nor_block_the_server(served, security, seed):
    fuzz(*served, security == "curve", seed, 2000)


@pytest.mark.stress
def test_many_random_messages_neither_crash_nor_block_the_server(served, security):
    fuzz(*served, security == "curve", random.SystemRandom().randrange(2**32), 200_000)
