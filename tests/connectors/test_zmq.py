"""Hosts that fetch from each other, over real sockets on loopback."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daskref.connectors import arrivals, credentials, zmqpushes, zmqserver
from daskref.connectors.arrivals import Arrival
from daskref.connectors.pieces import Pieces
from daskref.connectors.registry import open_connector
from daskref.connectors.shm import SharedMemoryKey
from daskref.connectors.zmq import ZmqConnector
from daskref.connectors.zmqfetch import Transfer
from daskref.connectors.zmqkey import ZmqKey
from daskref.connectors.zmqpushes import _Push
from daskref.connectors.zmqserver import Served
from daskref.connectors.zmqsources import Source, Sources
from daskref.connectors.zmqwire import Op, Status
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)
from tests.connectors.zmqhosts import know, parts_left, pattern, peers, server_of
from tests.parts import require
from tests.utils import wait_until

MIB = 2**20
#: Seconds that a thread of a test may take.
LONG = 30.0


@pytest.fixture(params=["curve", "clear"])
def security(request):
    return request.param


@pytest.fixture
def pair(hosts):
    """Two hosts; the first one serves."""
    made = hosts()
    a = made.open("a", serve=True)
    return a, made.open("b", peers=peers(a))


def in_thread(function, *args):
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *args)
    pool.shutdown(wait=False)
    return future


def pause_after(monkeypatch, chunks: int, owner=Arrival):
    """Let fetches stop after some chunks: ``(reached, go_on)``, two events."""
    reached, go_on = threading.Event(), threading.Event()
    real = owner.write
    seen = []

    def write(self, *args):
        real(self, *args)
        seen.append(args[0])
        if len(seen) == chunks:
            reached.set()
            assert go_on.wait(LONG)

    monkeypatch.setattr(owner, "write", write)
    return reached, go_on


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
    c = made.open("c", locate=lambda key: [(b.host, b.endpoints)])
    assert c.get(key) == pattern(2 * MIB)
    assert b.served.nbytes == a.served.nbytes == 2 * MIB


def test_a_large_object_comes_from_several_servers_of_its_host(hosts, security):
    made = hosts(security=security, lanes=2, window=1)
    first, second = made.open("a", serve=True), made.open("a", serve=True)
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
        pooled = b._local._pool.segments()
        b.evict(key)
        assert len(b._local._pool.segments()) == 1
    assert not pooled


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
    with pytest.raises(ConnectorError, match="could not be stored here: No space"):
        b.get(key)
    assert not parts_left(b)


def test_fetching_needs_no_populate(pair, monkeypatch):
    monkeypatch.setattr("daskref.connectors.parts.can_populate", lambda: False)
    a, b = pair
    key = a.put(pattern(3 * MIB + 1))
    assert b.get(key) == pattern(3 * MIB + 1)


@pytest.mark.slow
def test_fetching_takes_no_memory_beside_the_object(hosts):
    made = hosts(lanes=1)
    a = made.open("a", serve=True)
    key = a.put(pattern(160 * MIB))
    code = """
from daskref.connectors.arrivals import Arrival
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


# Whom to ask.


class Told(Sources):
    def __init__(self, *found: Source) -> None:
        self.found = list(found)
        self.log: list[Any] = []

    def others(self):
        return True

    def sources(self, key, waiting):
        self.log.append("sources")
        return self.found

    def ended(self, key, copied):
        self.log.append(("ended", key, copied))

    def given_up(self, key):
        self.log.append(("given up", key))

    def failed(self, key, endpoint):
        self.log.append(("failed", endpoint))

    def copies(self, key):
        return self.found

    def targets(self, nbytes):
        return self.found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_who_locates_hears_of_the_fetch(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    told = Told(Source(a.host, a.endpoints))
    b = made.open("b", locate=told)
    key = a.put(pattern(MIB))
    b.get(key)
    assert told.log[-1] == ("ended", key, True)
    assert "sources" in told.log
    b.get(key)
    assert told.log.count(("ended", key, True)) == 1


def test_who_was_asked_hears_the_end_whoever_is_asked_meanwhile(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    b = made.open("b")
    later = Told(Source(a.host, a.endpoints))

    class Replaced(Told):
        def sources(self, key, waiting):
            b.attend(later)
            return super().sources(key, waiting)

    told = Replaced(Source(a.host, a.endpoints))
    b.attend(told)
    key = a.put(pattern(MIB))
    assert b.get(key) == pattern(MIB)
    assert told.log == ["sources", ("ended", key, True)]
    assert not later.log


def test_who_was_asked_hears_of_what_cannot_be_published(hosts, monkeypatch):
    made = hosts()
    a = made.open("a", serve=True)
    told = Told(Source(a.host, a.endpoints))
    b = made.open("b", locate=told)
    key = a.put(pattern(MIB))

    def fail(self):
        raise PermissionError(errno.EACCES, "no leave to write")

    monkeypatch.setattr("daskref.connectors.pieces.Pieces.publish", fail)
    with pytest.raises(ConnectorError, match="stored here: no leave to write"):
        b.get(key)
    assert told.log == ["sources", ("ended", key, False)]
    assert not parts_left(b)


def test_a_host_that_lacks_the_object_is_passed_over(hosts):
    made = hosts()
    a, c = made.open("a", serve=True), made.open("c", serve=True)
    told = Told(Source(c.host, c.endpoints), Source(a.host, a.endpoints))
    b = made.open("b", locate=told)
    key = a.put(pattern(3 * MIB))
    assert b.get(key) == pattern(3 * MIB)
    assert c.served.nbytes == 0
    a.evict(key)
    b._local.evict(key[:2])
    assert b.get(key) is None
    assert not b.exists(key)
    assert not parts_left(b)


def test_an_endpoint_that_is_gone_is_passed_over_at_once(hosts):
    made = hosts(stall=LONG, timeout=LONG)
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    told = Told(Source("0" * 32, [gone]), Source(a.host, a.endpoints))
    b = made.open("b", locate=told)
    key = a.put(pattern(3 * MIB))
    assert b.get(key) == pattern(3 * MIB)
    assert ("failed", gone) in told.log


def test_the_error_says_who_was_asked_and_what_each_answered(hosts):
    made = hosts(stall=LONG, timeout=LONG)
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    key = made.open("b", locate=lambda key: []).put(b"x")._replace(host="f" * 32)
    c = made.open("c", locate=lambda key: [("0" * 32, [gone]), (a.host, a.endpoints)])
    with pytest.raises(ConnectorUnavailableError) as caught:
        c.get(key)
    text = str(caught.value)
    assert f"{gone} could not be reached (Connection refused)" in text
    assert f"{a.endpoints[0]} does not have it" in text
    with pytest.raises(ConnectorUnavailableError, match="Connection refused"):
        c.exists(key)


def test_without_the_sessions_keys_the_own_host_works(hosts, monkeypatch):
    made = hosts()
    a = made.open("a", serve=True)
    key = a.put(b"bytes")
    known = peers(a)
    monkeypatch.setattr(credentials, "_known", {})
    with ZmqConnector(**made.config("a")) as neighbour:
        assert neighbour.get(key) == b"bytes"
        assert neighbour.secrets() == {}
    with (
        ZmqConnector(**made.config("b", peers=known)) as stranger,
        pytest.raises(ConnectorUnavailableError, match="keys of the session"),
    ):
        stranger.get(key)
    with pytest.raises(ConnectorUnavailableError, match="keys of the session"):
        ZmqConnector(**made.config("b", serve=True))


def test_a_process_that_was_told_the_secrets_can_fetch(hosts, monkeypatch):
    made = hosts()
    a = made.open("a", serve=True)
    key = a.put(b"bytes")
    secrets, known = a.secrets(), peers(a)
    monkeypatch.setattr(credentials, "_known", {})
    know(secrets)
    with ZmqConnector(**made.config("b", peers=known)) as b:
        assert b.get(key) == b"bytes"
        assert pickle.loads(pickle.dumps(b)).config() == b.config()


# What breaks.


@pytest.mark.slow
def test_the_next_process_resumes_what_a_killed_one_began(hosts, monkeypatch):
    made = hosts(window=2)
    a = made.open("a", serve=True)
    nbytes, chunks = 12 * MIB + 5, 13
    key = a.put(pattern(nbytes))
    code = """
from daskref.connectors.arrivals import Arrival
real, seen = Arrival.write, []
def write(self, *args):
    real(self, *args)
    seen.append(args[0])
    if len(seen) == 8:
        say("half")
        sys.stdin.read()
Arrival.write = write
connector.get(key)
"""
    first = made.child("b", code, {"key": tuple(key)}, peers=peers(a))
    assert first.line() == "'half'"
    b = made.open("b", peers=peers(a))
    second = in_thread(b.get, key)
    written = []
    real = Arrival.write
    monkeypatch.setattr(
        Arrival, "write", lambda self, i, v: (written.append(i), real(self, i, v))
    )
    assert not second.done()
    first.kill()
    assert second.result(LONG) == pattern(nbytes)
    assert len(written) == chunks - 8
    assert not parts_left(b)


def test_what_another_session_of_fetching_left_is_not_taken_for_chunks(pair):
    a, b = pair
    key = a.put(pattern(3 * MIB))
    # The chunk size differs, or the hidden file is not the one that was written to.
    for chunk, inode in ((MIB, 12345), (2 * MIB, None)):
        pieces = b._local.start(key.name, key.nbytes, ".f-")
        record = arrivals._HEAD.pack(chunk, inode or pieces.inode) + b"\1\1\1"
        with open(os.path.join(b._local.directory, f"f-{key.name}"), "wb") as file:
            file.write(record)
        pieces.let_be()
        assert b.get(key) == pattern(3 * MIB)
        b._local.evict(key[:2])


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_dies_or_stops_is_replaced_by_its_neighbour(
    hosts, monkeypatch, kill
):
    made = hosts(window=2, lanes=1, stall=0.5)
    servers = {}
    for _ in range(2):
        server, place = made.server("a")
        servers[place] = server
    a = made.open("a")
    nbytes = 10 * MIB
    key = a.put(pattern(nbytes))
    told = Told(Source(a.host, sorted(servers)))
    b = made.open("b", locate=told)
    real, struck = Arrival.write, []

    def write(self, *args):
        real(self, *args)
        if not struck:
            line = next(
                each.line for each in transfers[-1]._lanes if each.line is not None
            )
            struck.append(line.endpoint)
            servers[line.endpoint].popen.send_signal(kill)

    transfers = []
    begin = Transfer.run
    monkeypatch.setattr(
        Transfer, "run", lambda self, p: (transfers.append(self), begin(self, p))[1]
    )
    monkeypatch.setattr(Arrival, "write", write)
    assert b.get(key) == pattern(nbytes)
    assert ("failed", struck[0]) in told.log


@pytest.mark.slow
def test_a_source_that_stalls_and_comes_back_is_asked_again(hosts):
    made = hosts(stall=0.3, timeout=LONG)
    server, place = made.server("a")
    a = made.open("a")
    key = a.put(pattern(3 * MIB))
    told = Told(Source(a.host, [place]))
    b = made.open("b", locate=told)
    server.popen.send_signal(signal.SIGSTOP)
    future = in_thread(b.get, key)
    wait_until(lambda: told.log.count(("failed", place)) >= 2, "two stalls")
    server.popen.send_signal(signal.SIGCONT)
    assert future.result(LONG) == pattern(3 * MIB)


@pytest.mark.slow
def test_a_source_that_stays_away_is_an_error_within_the_timeout(hosts):
    made = hosts(stall=0.2, timeout=1.0)
    server, place = made.server("a")
    a = made.open("a")
    key = a.put(pattern(MIB))
    b = made.open("b", peers={a.host: [place]})
    server.popen.send_signal(signal.SIGSTOP)
    with pytest.raises(ConnectorUnavailableError, match=r"did not answer for 0\.2 s"):
        b.get(key)
    with pytest.raises(ConnectorUnavailableError, match=f"{place} did not answer"):
        b.exists(key)
    assert not parts_left(b)
    server.popen.send_signal(signal.SIGCONT)
    assert b.get(key) == pattern(MIB)


@pytest.mark.slow
def test_a_reader_does_not_wait_for_ever_for_a_stopped_neighbour(hosts):
    made = hosts(timeout=1.0)
    a = made.open("a", serve=True)
    key = a.put(pattern(3 * MIB))
    code = """
from daskref.connectors.arrivals import Arrival
Arrival.write = lambda self, *args: (say("first"), sys.stdin.read())
connector.get(key)
"""
    first = made.child("b", code, {"key": tuple(key)}, peers=peers(a))
    assert first.line() == "'first'"
    first.popen.send_signal(signal.SIGSTOP)
    b = made.open("b", peers=peers(a))
    with pytest.raises(ConnectorUnavailableError, match="no progress for 1 s"):
        b.get(key)


def test_damaged_bytes_are_asked_for_again(pair, monkeypatch):
    a, b = pair
    key = a.put(pattern(3 * MIB))
    real, wrong = zmqserver.checksum, [True]
    monkeypatch.setattr(
        zmqserver, "checksum", lambda data: real(data) ^ (bool(wrong) and wrong.pop())
    )
    assert b.get(key) == pattern(3 * MIB)
    assert not wrong


def test_bytes_that_stay_damaged_are_an_error(pair, monkeypatch):
    a, b = pair
    key = a.put(pattern(3 * MIB))
    real = zmqserver.checksum
    monkeypatch.setattr(zmqserver, "checksum", lambda data: real(data) ^ 1)
    with pytest.raises(WireError, match="damaged twice"):
        b.get(key)
    assert not parts_left(b)
    monkeypatch.setattr(zmqserver, "checksum", real)
    assert b.get(key) == pattern(3 * MIB)


def test_an_object_that_is_evicted_while_it_is_served_arrives_whole(pair, monkeypatch):
    a, b = pair
    key = a.put(pattern(20 * MIB))
    reached, go_on = pause_after(monkeypatch, 2)
    future = in_thread(b.get, key)
    assert reached.wait(LONG)
    a.evict(key)
    # These would be written into its pages, if nobody held them.
    later = [a.put(pattern(20 * MIB, seed)) for seed in (7, 8)]
    go_on.set()
    assert future.result(LONG) == pattern(20 * MIB)
    assert not a.exists(key)
    for each in later:
        a.evict(each)


def test_an_object_whose_size_is_not_what_the_key_says_is_refused(pair):
    a, b = pair
    key = a.put(pattern(100))
    with pytest.raises(ConnectorUnavailableError, match="answered REFUSED"):
        b.get(key._replace(nbytes=101))


def test_closing_ends_a_transfer_that_runs(hosts):
    made = hosts(stall=LONG, timeout=LONG)
    server, place = made.server("a")
    a = made.open("a")
    key = a.put(pattern(3 * MIB))
    b = made.open("b", peers={a.host: [place]})
    server.popen.send_signal(signal.SIGSTOP)
    future = in_thread(b.get, key)
    wait_until(lambda: parts_left(b), "the transfer has begun")
    b.close()
    with pytest.raises(ConnectorClosedError):
        future.result(LONG)


def test_a_closed_server_is_gone(hosts):
    made = hosts(stall=LONG, timeout=LONG)
    a = made.open("a", serve=True)
    key = a.put(b"bytes")
    b = made.open("b", peers=peers(a))
    assert b.get(key) == b"bytes"
    threads = {t.name for t in threading.enumerate() if t.name.startswith("daskref-z")}
    assert len(threads) == 1
    a.close()
    b._local.evict(key[:2])
    with pytest.raises(ConnectorUnavailableError, match="Connection refused"):
        b.get(key)
    assert not [t for t in threading.enumerate() if t.name in threads]


def test_a_server_that_failed_is_refused_at_once(hosts, monkeypatch, caplog):
    made = hosts(stall=LONG, timeout=LONG)
    a = made.open("a", serve=True)
    key = a.put(b"bytes")
    b = made.open("b", peers=peers(a))
    monkeypatch.setattr(zmqserver.Server, "_take_turn", None)
    with pytest.raises(ConnectorUnavailableError, match=r"refused|broke off"):
        b.get(key)
    wait_until(lambda: not server_of(a).running)
    assert "The server of" in caplog.text


def test_a_server_that_was_started_again_is_found_through_the_locator(hosts):
    made = hosts()
    keeper = made.open("a")
    first = made.open("a", serve=True)
    key = keeper.put(pattern(2 * MIB))
    b = made.open("b", locate=lambda key: [(keeper.host, keeper.endpoints)])
    assert b.get(key) == pattern(2 * MIB)
    first.close()
    made.open("a", serve=True)
    b._local.evict(key[:2])
    assert b.get(key) == pattern(2 * MIB)


# Putting to another host.


def test_a_host_where_nobody_serves_sends_what_it_puts(hosts, security):
    made = hosts(security=security)
    a = made.open("a", serve=True)
    outside = made.open("outside", peers=peers(a))
    for nbytes in (0, 1, MIB, MIB + 1, 5 * MIB, 9 * MIB + 7):
        value = pattern(nbytes)
        key = outside.put_frames([value[: nbytes // 3], value[nbytes // 3 :]])
        assert key.host == a.host
        assert a._local.get(key[:2]) == value
        assert not outside._local.exists(key[:2])
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
        assert not a._local.exists(key[:2])


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
    outside = made.open("outside", locate=told)
    assert outside.put(pattern(MIB)).host == a.host
    assert outside.put(pattern(MIB + 1)).host == c.host
    told.found.pop()
    with pytest.raises(ConnectorUnavailableError) as caught:
        outside.put(pattern(MIB + 1))
    assert "FULL" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert not parts_left(a)


def test_damaged_pushes_are_sent_again(hosts, monkeypatch):
    made = hosts()
    a = made.open("a", serve=True)
    outside = made.open("outside", peers=peers(a))
    real, wrong = zmqpushes.checksum, [True]
    monkeypatch.setattr(
        zmqpushes, "checksum", lambda data: real(data) ^ (bool(wrong) and wrong.pop())
    )
    key = outside.put(pattern(5 * MIB))
    assert a.get(key) == pattern(5 * MIB)
    monkeypatch.setattr(zmqpushes, "checksum", lambda data: 0)
    with pytest.raises(ConnectorUnavailableError, match="DAMAGED"):
        outside.put(pattern(5 * MIB))


def test_abandoned_pushes_are_removed_and_their_number_is_bounded(hosts):
    made = hosts(pushes=1, timeout=LONG)
    a = made.open("a", serve=True, push_age=1000)
    outside = made.open("outside", peers=peers(a), window=1)
    begun = made.child(
        "x",
        """
from daskref.connectors import zmqask
real = zmqask._await
def wait(*args):
    reply = real(*args)
    say("begun")
    sys.stdin.read()
zmqask._await = wait
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
    return _Push(connector._local.start(name, 10, ".u-"), {0}, time.monotonic() + 1e6)


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
    assert not b._local.exists(keys[1][:2])
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
    assert not b._local.exists(key[:2])


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
            assert not each._local.exists(key[:2])
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
    assert not any(each._local.exists(key[:2]) for each in takers for key in keys)


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
    assert b._local.exists(known[:2])
    assert a.sweep([known], 0.0) == []  # its putter lives


def test_what_killed_processes_left_is_swept(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    key = a.put(pattern(3 * MIB))
    code = """
from daskref.connectors.arrivals import Arrival
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
    assert os.listdir(os.path.join(b._local.directory, "servers")) == []


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
from daskref.connectors.arrivals import Arrival
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
        b._local.evict((name, nbytes))
        with pytest.raises(ConnectorUnavailableError, match="refused"):
            b.get((name, nbytes, host))
    finally:
        os.kill(child, signal.SIGKILL)


# Where to listen.


def test_hosts_reach_each_other_over_ipv6(hosts, security):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        require(False, "IPv6 on loopback")
    made = hosts(security=security)
    a = made.open("a", serve=True, interface="[::1]")
    assert a.endpoints[0].startswith("tcp://[::1]:")
    key = a.put(pattern(3 * MIB))
    assert made.open("b", peers=peers(a)).get(key) == pattern(3 * MIB)


def test_the_port_is_the_first_free_one_of_the_range(hosts):
    made = hosts()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        a = made.open("a", serve=True, port=f"{port}:{port + 20}")
        assert port < int(a.endpoints[0].rpartition(":")[2]) <= port + 20
        with pytest.raises(ConnectorUnavailableError, match="cannot be served on"):
            made.open("b", serve=True, port=port)


def test_an_interface_can_be_named(hosts):
    a = hosts().open("a", serve=True, interface="lo")
    assert a.endpoints[0].startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize(
    ("advertise", "told"),
    [
        ("10.1.2.3", "tcp://10.1.2.3:{port}"),
        ("10.1.2.3:77", "tcp://10.1.2.3:77"),
        ("fd00::5", "tcp://[fd00::5]:{port}"),
        ("[fd00::5]:77", "tcp://[fd00::5]:77"),
        ("node-7.example", "tcp://node-7.example:{port}"),
    ],
)
def test_what_is_advertised_is_what_others_are_told(hosts, advertise, told):
    a = hosts().open("a", serve=True, advertise=advertise)
    assert a.endpoints == [told.format(port=server_of(a).port)]


@pytest.mark.parametrize("advertise", ["a:x", "a:0", "", "fd00::1::5", "[a]:5"])
def test_what_cannot_be_advertised_is_refused_at_once(hosts, advertise):
    with pytest.raises(ConfigError, match="zmq: advertise"):
        ZmqConnector(advertise=advertise)
    a = hosts().open("a")
    with pytest.raises(ConfigError, match="zmq: advertise"):
        a.serve(advertise=advertise)
    assert not a.endpoints


def test_a_server_on_all_addresses_says_one_that_others_can_use(hosts):
    a = hosts().open("a", serve=True, interface="0.0.0.0")
    assert "0.0.0.0" not in a.endpoints[0]


def test_options_can_be_in_a_url(tmp_path):
    url = f"zmq://?security=clear&port=5000:5100&stall=2.5&chunk=64KiB&root={tmp_path}"
    with open_connector(url) as connector:
        config = connector.config()
        assert config["security"] == "clear"
        assert connector._session._limits.stall == 2.5
        assert connector._session._limits.chunk == 65536
        assert connector.endpoints == []
    with pytest.raises(ConfigError, match="nothing after it"):
        open_connector("zmq://host:5000")


@pytest.mark.parametrize(
    "options",
    [
        {"security": "none"},
        {"session": "../x"},
        {"port": "http"},
        {"port": "5000:4000"},
        {"port": 70000},
        {"interface": "nothing0", "serve": True},
        {"chunk": "1 GiB"},
        {"chunk": 0},
        {"timeout": "soon"},
        {"stall": -1},
        {"window": 0},
        {"window": 100},
        {"peers": {"0" * 32: ["here"]}},
    ],
)
def test_malformed_options_are_refused(options, tmp_path):
    with pytest.raises(ConfigError, match="zmq: "):
        ZmqConnector(root=tmp_path, spill_directory=tmp_path, **options)
    assert not os.listdir(tmp_path)


def test_a_connector_that_does_not_serve_has_served_nothing(tmp_path):
    with ZmqConnector(root=tmp_path) as connector:
        assert connector.served == Served()
        assert connector.endpoints == []


# The pieces.


def test_pieces_are_written_in_any_order(shm):
    name = "0" * 8 + "-" + "a" * 24
    for nbytes in (0, 10, 2 * MIB + 3):
        value = pattern(nbytes)
        pieces = shm.start(name, nbytes, ".f-")
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
    pieces = shm.start(name, 2 * MIB, ".f-")
    pieces.write(0, memoryview(b"x"))
    assert shm.resume(name, 2 * MIB, ".f-") is None  # somebody writes it
    pieces.discard()
    assert os.listdir(shm.directory) == before


def test_statuses_and_keys_have_fixed_numbers():
    # Of the wire: a change of one is a new version.
    assert [int(status) for status in Status] == list(range(1, 9))
    assert [int(op) for op in Op] == list(range(1, 7))
    assert ZmqKey._fields == ("name", "nbytes", "host")
    assert SharedMemoryKey._fields == ("name", "nbytes")


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


def test_who_did_not_answer_is_sent_to_last(hosts):
    made = hosts(stall=0.2)
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    told = Told(Source("0" * 32, [gone]), Source(a.host, a.endpoints))
    outside = made.open("outside", locate=told)
    for _ in range(3):
        assert outside.put(b"x").host == a.host
    assert list(outside._remote._silent) == ["0" * 32]
    tried = sorted(told.targets(0), key=outside._remote._last_silent)
    assert [source.host for source in tried] == [a.host, "0" * 32]


def test_who_has_no_room_does_not_say_that_others_lack_it(hosts, monkeypatch):
    made = hosts()
    a = made.open("a", serve=True)
    told = Told(Source(a.host, a.endpoints))
    b = made.open("b", locate=told)
    key = a.put(pattern(3 * MIB))
    monkeypatch.setattr(Pieces, "write", no_room)
    with pytest.raises(ConnectorError, match="could not be stored here: No space"):
        b.get(key)
    # else Dask would compute a result again that is there, and again
    assert ("given up", key) not in told.log
    assert told.log[-1] == ("ended", key, False)
