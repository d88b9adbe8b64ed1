"""Existence, leases, takes and ends of objects on many hosts; and forks."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from daskref.connectors.zmq import ZmqConnector
from daskref.exceptions import ConnectorUnavailableError, WireError
from tests.support.zmq_hosts import (
    LONG,
    free_port,
    parts_left,
    pattern,
    peers,
    server_of,
)

MIB = 2**20


# Lifetimes.


def test_existence_lease_and_eviction_reach_the_other_host(pair):
    a, b = pair
    keys = [a.put(pattern(10, n)) for n in range(3)]
    assert all(map(b.exists, keys))
    assert b.renew(keys[0], 0.0)
    assert [k[:2] for k in a.sweep()] == [keys[0][:2]]
    assert not b.exists(keys[0])
    assert not b.renew(keys[0], 1.0)
    copy = b.get(keys[1])
    b.evict_batch(keys)
    assert copy == pattern(10, 1)
    assert not any(map(a.exists, keys))
    assert keys[1][0] not in b.here()
    b.evict_batch(keys)


def test_eviction_at_home_reaches_the_copies(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    b = made.open("b", serve=True, peers=peers(a))
    c = made.open("c", peers=peers(a, b))
    key = a.put(b"bytes")
    assert b.get(key) == b"bytes"
    c.evict(key)
    assert not a.exists(key)
    assert key[0] not in b.here()


def test_eviction_says_which_host_could_not_be_reached(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    b = made.open("b", peers={"0" * 32: [gone], **peers(a)})
    key = a.put(b"bytes")
    with pytest.raises(ConnectorUnavailableError, match=r"host 00000000.*refused"):
        b.evict(key)
    assert not a.exists(key)


def test_an_object_is_taken_from_its_home_and_its_copies_go(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    b = made.open("b", serve=True, peers=peers(a))
    c = made.open("c", peers=peers(a, b))
    for taker in (a, c):
        key = a.put(pattern(2 * MIB))
        assert b.get(key) == pattern(2 * MIB)
        a_knows = made.open("a", peers=peers(a, b)) if taker is a else taker
        assert a_knows.take(tuple(key)) == pattern(2 * MIB)
        for each in (a, b, c):
            assert key[0] not in each.here()
            assert each.take(key) is None


def test_of_takers_on_several_hosts_one_gets_the_object(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    takers = [a, *(made.open(name, peers=peers(a)) for name in "bcd")]
    keys = [a.put(pattern(100, n)) for n in range(15)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(
            pool.map(
                lambda pair: pair[0].take(pair[1]),
                [(t, k) for k in keys for t in takers],
            )
        )
    assert [bytes(view) for view in taken if view is not None] == [
        pattern(100, n) for n in range(15)
    ]
    assert not any(key[0] in each.here() for each in takers for key in keys)


def test_a_copy_cannot_be_taken_without_its_home(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    b = made.open("b", serve=True, peers=peers(a))
    key = a.put(b"bytes")
    assert b.get(key) == b"bytes"
    stranger = made.open("b")
    with pytest.raises(ConnectorUnavailableError, match="nobody is known to serve"):
        stranger.take(key)
    a.close()
    with pytest.raises(ConnectorUnavailableError, match=r"cannot be taken.*refused"):
        b.take(key)
    assert b.get(key) == b"bytes"


def test_a_taker_does_not_lose_to_itself_at_a_server_that_did_not_answer(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    b = made.open("b", peers={a.host: [gone, *a.endpoints]})
    key = a.put(b"bytes")
    assert b.take(key) == b"bytes"
    again = a.put(b"again")
    assert b.get(again) == b"again"
    a.evict(again)
    with pytest.raises(ConnectorUnavailableError, match=r"refused.*MISSING"):
        b.take(again)


def test_what_was_taken_is_kept_though_a_host_with_a_copy_is_gone(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    b = made.open("b", peers={"0" * 32: [gone], **peers(a)})
    key = a.put(b"bytes")
    assert b.take(key) == b"bytes"
    assert not a.exists(key)


def test_a_key_without_a_size_is_refused(pair):
    _, b = pair
    name, _, host = b.put(b"bytes")
    with pytest.raises(WireError):
        b.get((name, -1, host))


def test_a_copy_can_be_linked_by_a_host_that_serves(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    b = made.open("b", serve=True, peers=peers(a))
    key = a.put(pattern(2 * MIB))
    assert b.link(key) is None
    b.get(key)
    second = b.link(key)
    assert second.host == b.host
    a.evict(key)
    assert made.open("c", peers=peers(b)).get(second) == pattern(2 * MIB)


def test_copies_that_no_one_knows_are_swept(pair):
    a, b = pair
    known, unknown = a.put(b"known"), a.put(b"unknown")
    for key in (known, unknown):
        b.get(key)
    assert [key[0] for key in b.sweep([known], 0.0)] == [unknown.name]
    assert known[0] in b.here()
    assert a.sweep([known], 0.0) == []  # its putter lives


def test_what_killed_processes_left_is_swept(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    key = a.put(pattern(3 * MIB))
    code = """
from daskref.connectors.zmq._arrivals import Arrival
Arrival.write = lambda self, *args: (say("first"), sys.stdin.read())
connector.get(key)
"""
    first = made.child("b", code, {"key": tuple(key)}, peers=peers(a), serve=True)
    assert first.line() == "'first'"
    b = made.open("b")
    b.sweep([], 0.0)
    assert {name.partition("-")[0] for name in parts_left(b)} == {"f", ".f"}
    first.kill()
    b.sweep([], 0.0)
    assert not parts_left(b)
    assert b.endpoints == []
    assert os.listdir(os.path.join(b.local.directory, "servers")) == []


# Forks.


@pytest.mark.slow
def test_a_forked_child_neither_serves_nor_stops_its_parent(hosts):
    made = hosts()
    other = made.open("other", serve=True)
    first, second = other.put(b"first"), other.put(pattern(2 * MIB))
    code = """
import os
assert connector.get(first) == b"first"
mine = connector.put(b"mine")
pid = os.fork()
if not pid:
    assert connector.served.requests == 0
    assert len(connector.get(second)) == 2 * 2**20
    assert connector.get(mine) == b"mine"
    connector.close()
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
print(json.dumps([mine, connector.endpoints]), flush=True)
sys.stdin.readline()
connector.close()
say("closed")
"""
    names = {"first": tuple(first), "second": tuple(second)}
    parent = made.child("a", code, names, peers=peers(other), serve=True)
    mine, places = json.loads(parent.line())
    b = made.open("b", peers={mine[2]: places})
    assert b.get(tuple(mine)) == b"mine"
    parent.say()
    assert parent.line() == "'closed'"
    parent.wait()


@pytest.mark.slow
def test_a_child_that_is_forked_during_a_fetch_does_not_keep_its_lock(hosts):
    made = hosts(timeout=LONG)
    a = made.open("a", serve=True)
    key = a.put(pattern(3 * MIB))
    code = """
import os
from daskref.connectors.zmq._arrivals import Arrival
def write(self, *args):
    child = os.fork()
    if child:
        say(child)
    sys.stdin.read()
Arrival.write = write
connector.get(key)
"""
    parent = made.child("b", code, {"key": tuple(key)}, peers=peers(a))
    child = int(parent.line())
    try:
        b = made.open("b", peers=peers(a))
        parent.kill()
        assert b.get(key) == pattern(3 * MIB)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_child_does_not_keep_the_port_of_its_dead_parent(hosts):
    made = hosts(stall=LONG, timeout=LONG)
    code = """
import os
mine = connector.put(b"mine")
print(json.dumps([mine, connector.endpoints]), flush=True)
sys.stdin.readline()
child = os.fork()
if child:
    say(child)
sys.stdin.read()
"""
    parent = made.child("a", code, serve=True)
    (name, nbytes, host), places = json.loads(parent.line())
    b = made.open("b", peers={host: places})
    assert b.get((name, nbytes, host)) == b"mine"
    parent.say()
    child = int(parent.line())
    try:
        parent.kill()
        b.local.evict((name, nbytes))
        with pytest.raises(ConnectorUnavailableError, match="refused"):
            b.get((name, nbytes, host))
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_fork_after_the_server_stopped_closes_nobody_elses_files(hosts):
    connector = hosts().open("a", serve=True)
    server = server_of(connector)
    wake = server._wake
    connector.close()
    # the same numbers, which the kernel gives again
    again = {os.dup(0) for _ in range(64)}
    try:
        assert again.issuperset(wake)
        command = [sys.executable, "-c", "import os; print(os.fstat(0).st_mode)"]
        told = subprocess.run(
            command, preexec_fn=lambda: [os.fstat(fd) for fd in again],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
    finally:
        for fd in again:
            os.close(fd)
    assert server.served.requests == 0


def test_one_that_is_dropped_serves_no_more_without_the_garbage_collector(tmp_path):
    gc.disable()
    try:
        connector = ZmqConnector(serve=True, interface="127.0.0.1", root=tmp_path)
        port = int(connector.endpoints[0].rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        del connector
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
    finally:
        gc.enable()
