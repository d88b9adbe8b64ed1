"""What breaks while hosts fetch from each other."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from daskref.connectors.zmq import _arrivals as arrivals
from daskref.connectors.zmq import _server as zmqserver
from daskref.connectors.zmq._arrivals import Arrival
from daskref.connectors.zmq._fetching import Transfer
from daskref.connectors.zmq.sources import Source
from daskref.exceptions import (
    ConnectorClosedError,
    ConnectorUnavailableError,
)
from tests.support.common import wait_until
from tests.support.zmq_hosts import (
    LONG,
    Told,
    in_thread,
    parts_left,
    pattern,
    peers,
    server_of,
)

MIB = 2**20


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


@pytest.mark.slow
def test_the_next_process_resumes_what_a_killed_one_began(hosts, monkeypatch):
    made = hosts(window=2)
    a = made.open("a", serve=True)
    nbytes, chunks = 12 * MIB + 5, 13
    key = a.put(pattern(nbytes))
    code = """
from daskref.connectors.zmq._arrivals import Arrival
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
        pieces = b.local.tiers.start(key.name, key.nbytes, ".f-")
        record = arrivals._HEAD.pack(chunk, inode or pieces.inode) + b"\1\1\1"
        with open(os.path.join(b.local.directory, f"f-{key.name}"), "wb") as file:
            file.write(record)
        pieces.let_be()
        assert b.get(key) == pattern(3 * MIB)
        b.local.evict(key[:2])


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
    b = made.open("b", sources=told)
    real, struck = Arrival.write, []

    def write(self, *args):
        real(self, *args)
        if not struck:
            (line,) = transfers[-1]._used
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
    b = made.open("b", sources=told)
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
from daskref.connectors.zmq._arrivals import Arrival
Arrival.write = lambda self, *args: (say("first"), sys.stdin.read())
connector.get(key)
"""
    first = made.child("b", code, {"key": tuple(key)}, peers=peers(a))
    assert first.line() == "'first'"
    first.popen.send_signal(signal.SIGSTOP)
    b = made.open("b", peers=peers(a))
    with pytest.raises(ConnectorUnavailableError, match="no progress for 1 s"):
        b.get(key)


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
    wait_until(lambda: b._remote._lines and b._remote._lines._used, "a connection")
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
    assert len(threads) == 2  # and that of the connection
    a.close()
    b.local.evict(key[:2])
    with pytest.raises(ConnectorUnavailableError, match="Connection refused"):
        b.get(key)
    assert not [t for t in threading.enumerate() if t.name in threads]


def test_a_server_that_failed_is_refused_at_once(hosts, monkeypatch, caplog):
    made = hosts(stall=LONG, timeout=LONG)
    a = made.open("a", serve=True)
    key = a.put(b"bytes")
    b = made.open("b", peers=peers(a))
    monkeypatch.setattr(zmqserver.Server, "_accept", None)
    with pytest.raises(ConnectorUnavailableError, match=r"refused|broke off"):
        b.get(key)
    wait_until(lambda: not server_of(a).running)
    assert "The server of" in caplog.text


def test_a_server_that_was_started_again_is_found_through_its_sources(hosts):
    made = hosts()
    keeper = made.open("a")
    first = made.open("a", serve=True)
    key = keeper.put(pattern(2 * MIB))
    told = Told(Source(keeper.host, keeper.endpoints))
    b = made.open("b", sources=told)
    assert b.get(key) == pattern(2 * MIB)
    first.close()
    made.open("a", serve=True)
    told.found = [Source(keeper.host, keeper.endpoints)]
    b.local.evict(key[:2])
    assert b.get(key) == pattern(2 * MIB)
