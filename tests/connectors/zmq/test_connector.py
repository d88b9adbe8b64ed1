"""Hosts that fetch from each other, over real sockets on loopback."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from daskref.connectors.files.pieces import Pieces
from daskref.connectors.shm import SharedMemoryKey
from daskref.connectors.zmq import ZmqConnector, ZmqKey
from daskref.connectors.zmq import _server as zmqserver
from daskref.connectors.zmq._arrivals import Arrival
from daskref.connectors.zmq._wire import Op, Status
from daskref.connectors.zmq.sources import Source
from daskref.exceptions import ConnectorError
from tests.support.common import wait_until
from tests.support.zmq_hosts import Told, parts_left, pattern, peers

MIB = 2**20


# One fetch per host.


@pytest.mark.parametrize(
    "nbytes", [0, 1, 4097, MIB - 1, MIB, MIB + 1, 5 * MIB + 13, 40 * MIB]
)
def test_another_host_fetches_an_object_of_any_size(hosts, security, nbytes):
    made = hosts(security=security)
    a = made.open("a", serve=True)
    b = made.open("b", peers=peers(a))
    value = pattern(nbytes)
    key = a.put(value)
    view = b.get(key)
    assert view == value
    assert view.format == "B"
    assert a.served.nbytes == nbytes
    assert not parts_left(b)


def test_a_host_fetches_once_and_its_neighbours_map_the_copy(pair, hosts):
    a, b = pair
    key = a.put(pattern(3 * MIB))
    first = b.get(key)
    neighbour = ZmqConnector(**b.config())
    with neighbour:
        second = neighbour.get(key)
        assert second == first == pattern(3 * MIB)
        assert neighbour.host == b.host != a.host
    assert a.served.nbytes == 3 * MIB
    first[0] ^= 1  # private
    assert b.get(key) == pattern(3 * MIB)


@pytest.mark.slow
def test_readers_of_one_host_wait_for_one_transfer(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    nbytes = 24 * MIB
    key = a.put(pattern(nbytes))
    read = """
say("ready")
sys.stdin.readline()
import hashlib
views = [connector.get(key)]
from concurrent.futures import ThreadPoolExecutor
views += ThreadPoolExecutor(4).map(connector.get, [key] * 4)
say(*{hashlib.sha256(view).hexdigest() for view in views})
"""
    known = peers(a)
    children = [made.child("b", read, {"key": tuple(key)}, peers=known) for _ in "123"]
    b = made.open("b", peers=known)
    for child in children:
        assert child.line() == "'ready'"
    for child in children:
        child.say()
    with ThreadPoolExecutor(4) as pool:
        for view in pool.map(b.get, [key] * 4):
            assert view == pattern(nbytes)
    digests = {child.line() for child in children}
    assert len(digests) == 1
    assert a.served.nbytes == nbytes
    assert not parts_left(b)


def test_what_was_fetched_is_served_to_a_third_host(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    b = made.open("b", serve=True, peers=peers(a))
    key = a.put(pattern(2 * MIB))
    b.get(key)
    c = made.open("c", sources=Told(Source(b.host, b.endpoints)))
    assert c.get(key) == pattern(2 * MIB)
    assert b.served.nbytes == a.served.nbytes == 2 * MIB


def test_a_large_object_comes_from_several_servers_of_its_host(
    hosts, security, monkeypatch
):
    made = hosts(security=security, lanes=2, window=1)
    first, second = made.open("a", serve=True), made.open("a", serve=True)
    real = Arrival.write

    def write(self, *args):
        wait_until(lambda: first.served.requests and second.served.requests)
        real(self, *args)

    monkeypatch.setattr(Arrival, "write", write)
    key = first.put(pattern(20 * MIB))
    b = made.open("b", peers=peers(second))
    assert b.get(key) == pattern(20 * MIB)
    assert first.served.nbytes + second.served.nbytes == 20 * MIB
    assert min(first.served.nbytes, second.served.nbytes) >= MIB


def test_pages_of_an_evicted_copy_are_written_again(pair):
    a, b = pair
    for seed in range(3):
        key = a.put(pattern(2 * MIB, seed))
        assert b.get(key) == pattern(2 * MIB, seed)
        pooled = b.local.tiers.pool.segments()
        b.evict(key)
        assert len(b.local.tiers.pool.segments()) == 1
    assert not pooled


def test_what_was_served_is_held_no_longer_than_the_next_request_may_take(
    pair, monkeypatch
):
    monkeypatch.setattr(zmqserver, "_KEPT_SECONDS", 0.05)
    a, b = pair
    for nbytes in (3 * MIB + 1, 1000):
        key = a.put(pattern(nbytes))
        b.get(key)
        a.evict(key)
        wait_until(lambda: not a.space().pinned, "nobody holds what was sent")
    assert a.space().memory == 0


def test_a_copy_goes_to_disk_where_there_is_no_room(hosts, security):
    made = hosts(security=security)
    a = made.open("a", serve=True)
    b = made.open("b", peers=peers(a), budget=0)
    key = a.put(pattern(3 * MIB + 5))
    assert b.get(key) == pattern(3 * MIB + 5)
    assert b.exists(key)
    assert b.get(key) == pattern(3 * MIB + 5)
    assert a.served.nbytes == 3 * MIB + 5


def test_a_spilled_object_is_served(hosts):
    made = hosts()
    a = made.open("a", serve=True, budget=0)
    key = a.put(pattern(3 * MIB))
    assert made.open("b", peers=peers(a)).get(key) == pattern(3 * MIB)


def no_room(self, offset, view):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_copy_for_which_there_is_no_room_at_all_is_an_error(pair, monkeypatch):
    a, b = pair
    key = a.put(pattern(3 * MIB))
    monkeypatch.setattr(Pieces, "write", no_room)
    with pytest.raises(ConnectorError, match=r"stored here: .*No space"):
        b.get(key)
    assert not parts_left(b)


def test_fetching_needs_no_populate(pair, monkeypatch):
    monkeypatch.setattr("daskref.connectors.files.parts.can_populate", lambda: False)
    a, b = pair
    key = a.put(pattern(3 * MIB + 1))
    assert b.get(key) == pattern(3 * MIB + 1)


@pytest.mark.slow
def test_fetching_takes_no_memory_beside_the_object(hosts):
    made = hosts(lanes=1)
    a = made.open("a", serve=True)
    key = a.put(pattern(160 * MIB))
    code = """
from daskref.connectors.zmq._arrivals import Arrival
real, seen = Arrival.write, []
def anonymous():
    with open("/proc/self/status") as file:
        return int(next(l for l in file if l.startswith("RssAnon")).split()[1])
def write(self, *args):
    real(self, *args)
    seen.append(anonymous())
Arrival.write = write
before = anonymous()
view = connector.get(key)
print(max(seen) - before, flush=True)
"""
    reader = made.child("b", code, {"key": tuple(key)}, peers=peers(a))
    assert int(reader.line()) < 40 * 1024  # KiB: what is in flight


# Which host is which.


def test_two_directories_are_two_hosts_whatever_they_are_called(hosts):
    made = hosts()
    a, b, again = made.open("a"), made.open("b"), made.open("a")
    assert a.host != b.host
    assert a.host == again.host
    assert ZmqConnector(root=made.root("a"), **{}).host != a.host  # another session


@pytest.mark.slow
def test_the_first_of_many_processes_makes_the_directory(hosts):
    made = hosts()
    code = "say(connector.host)\nsys.stdin.readline()"
    children = [made.child("new", code) for _ in range(6)]
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: made.open("new"), range(8)))
    told = {child.line() for child in children}
    assert told == {repr(each.host) for each in opened}


def test_many_may_come_and_go(hosts):
    made = hosts()

    def stay(_):
        for _ in range(10):
            with ZmqConnector(**made.config("new")) as connector:
                key = connector.put(b"here")
                assert connector.get(key) == b"here"

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(stay, range(6)))
    assert os.listdir(made.root("new")) == []


def test_processes_of_a_host_know_who_serves_there(hosts):
    made = hosts()
    a = made.open("a")
    assert a.endpoints == []
    server, place = made.server("a")
    assert a.endpoints == [place]
    with ZmqConnector(**made.config("a")) as late:
        assert late.config()["peers"] == {a.host: [place]}
    server.kill()
    assert a.endpoints == []


# The pieces.


def test_pieces_are_written_in_any_order(shm):
    name = "0" * 8 + "-" + "a" * 24
    for nbytes in (0, 10, 2 * MIB + 3):
        value = pattern(nbytes)
        pieces = shm.tiers.start(name, nbytes, ".f-")
        middle = nbytes // 2
        pieces.write(middle, memoryview(value)[middle:])
        assert not shm.exists((name, nbytes))
        pieces.write(0, memoryview(value)[:middle])
        with pytest.raises(ValueError, match="of an object of"):
            pieces.write(nbytes, memoryview(b"x"))
        pieces.publish()
        assert shm.get((name, nbytes)) == value
        shm.evict((name, nbytes))


def test_discarded_pieces_leave_nothing(shm):
    name = "0" * 8 + "-" + "a" * 24
    before = os.listdir(shm.directory)
    pieces = shm.tiers.start(name, 2 * MIB, ".f-")
    pieces.write(0, memoryview(b"x"))
    assert shm.tiers.resume(name, 2 * MIB, ".f-") is None  # somebody writes it
    pieces.discard()
    assert os.listdir(shm.directory) == before


def test_statuses_and_keys_have_fixed_numbers():
    # Of the wire: a change of one is a new version.
    assert [int(status) for status in Status] == list(range(1, 8))
    assert [int(op) for op in Op] == list(range(1, 7))
    assert ZmqKey._fields == ("name", "nbytes", "host")
    assert SharedMemoryKey._fields == ("name", "nbytes")


def test_who_has_no_room_does_not_say_that_others_lack_it(hosts, monkeypatch):
    made = hosts()
    a = made.open("a", serve=True)
    told = Told(Source(a.host, a.endpoints))
    b = made.open("b", sources=told)
    key = a.put(pattern(3 * MIB))
    monkeypatch.setattr(Pieces, "write", no_room)
    with pytest.raises(ConnectorError, match=r"stored here: .*No space"):
        b.get(key)
    # else Dask would compute a result again that is there, and again
    assert ("given up", key) not in told.log
    assert told.log[-1] == ("ended", key, False)
