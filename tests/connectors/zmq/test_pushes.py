"""Putting to another host, over real sockets."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from daskref.connectors.zmq import ZmqConnector
from daskref.connectors.zmq._pushes import _Push
from daskref.connectors.zmq.sources import KnownPeers, Source
from daskref.exceptions import ConnectorUnavailableError
from tests.support.common import wait_until
from tests.support.zmq_hosts import (
    LONG,
    Told,
    free_port,
    in_thread,
    parts_left,
    pattern,
    peers,
    server_of,
)

MIB = 2**20


def test_a_host_where_nobody_serves_sends_what_it_puts(hosts, security):
    made = hosts(security=security)
    a = made.open("a", serve=True)
    outside = made.open("outside", peers=peers(a))
    for nbytes in (0, 1, MIB, MIB + 1, 5 * MIB, 9 * MIB + 7):
        value = pattern(nbytes)
        key = outside.put_frames([value[: nbytes // 3], value[nbytes // 3 :]])
        assert key.host == a.host
        assert a.local.get(key[:2]) == value
        assert key[0] not in outside.here()
        assert outside.get(key) == value
        assert outside.link(key) is None  # nobody could read it
        outside.evict(key)
        assert not a.exists(key)
    assert not parts_left(a)


def test_a_host_with_a_server_keeps_what_it_puts(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    b = made.open("b", serve=True, peers=peers(a))
    neighbour = made.open("b", peers=peers(a))
    for each in (b, neighbour):
        key = each.put(b"bytes")
        assert key.host == b.host
        assert key[0] not in a.here()


def test_another_host_takes_what_the_first_does_not(hosts):
    made = hosts(stall=LONG)
    a = made.open("a", serve=True, push_nbytes=MIB)
    c = made.open("c", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    told = Told(
        Source("0" * 32, [gone]),
        Source(a.host, a.endpoints),
        Source(c.host, c.endpoints),
    )
    outside = made.open("outside", sources=told)
    assert outside.put(pattern(MIB)).host == a.host
    assert outside.put(pattern(MIB + 1)).host == c.host
    told.found.pop()
    with pytest.raises(ConnectorUnavailableError) as caught:
        outside.put(pattern(MIB + 1))
    assert "FULL" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert not parts_left(a)


def test_abandoned_pushes_are_removed_and_their_number_is_bounded(hosts):
    made = hosts(pushes=1, timeout=LONG)
    a = made.open("a", serve=True, push_age=1000)
    outside = made.open("outside", peers=peers(a), window=1)
    begun = made.child(
        "x",
        """
from daskref.connectors.zmq._connections import Line
real = Line.reply
def wait(*args):
    reply = real(*args)
    say("begun")
    sys.stdin.read()
Line.reply = wait
connector.put(bytes(20 * 2**20))
""",
        peers=peers(a),
    )
    assert begun.line() == "'begun'"
    assert [name[:3] for name in parts_left(a)] == [".u-"]
    begun.kill()
    put = in_thread(outside.put, pattern(2 * MIB))
    wait_until(lambda: a.served.requests >= 22, "it has been told to wait")
    assert not put.done()
    pushes = server_of(a)._pushes
    pushes._limits = dataclasses.replace(pushes._limits, push_age=1.0)
    key = put.result(LONG)
    assert a.get(key) == pattern(2 * MIB)
    assert not parts_left(a)


def test_too_many_pushes_are_an_error_in_the_end(hosts):
    made = hosts(pushes=1, timeout=0.3)
    a = made.open("a", serve=True)
    pushes = server_of(a)._pushes
    pushes._pushes["other"] = a_push = pushes_entry(a)
    outside = made.open("outside", peers=peers(a))
    with pytest.raises(ConnectorUnavailableError, match="BUSY"):
        outside.put(b"bytes")
    del pushes._pushes["other"]
    a_push.pieces.discard()


def pushes_entry(connector: ZmqConnector) -> Any:
    name = "0" * 8 + "-" + "1" * 24
    return _Push(
        connector.local.tiers.start(name, 10, ".u-"), {0}, time.monotonic() + 1e6
    )


def test_who_did_not_answer_is_sent_to_last(hosts):
    made = hosts(stall=0.2)
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    told = Told(Source("0" * 32, [gone]), Source(a.host, a.endpoints))
    outside = made.open("outside", sources=told)
    for _ in range(3):
        assert outside.put(b"x").host == a.host
    assert list(outside._remote._silent) == ["0" * 32]
    tried = sorted(told.targets(0), key=outside._remote._last_silent)
    assert [source.host for source in tried] == [a.host, "0" * 32]


def test_without_takers_what_is_put_stays_and_no_host_is_asked(hosts):
    made = hosts()
    a = made.open("a", serve=True)

    class Alone(Told):
        takers = False

        def targets(self, nbytes):
            raise AssertionError("it was asked")

    b = made.open("b", sources=Alone(Source(a.host, a.endpoints)))
    assert b.put(b"bytes").host == b.host


def test_of_known_peers_the_own_host_is_no_taker():
    here, there = "a" * 32, "b" * 32
    peers = KnownPeers(here, {here: ["tcp://10.0.0.1:5000"]})
    assert not peers.takers
    assert not peers.others
    peers.add(there, ["tcp://10.0.0.2:5000"])
    assert peers.takers
    assert peers.others
