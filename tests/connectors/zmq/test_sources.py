"""Whom to ask for an object, and what those hear of it."""

from __future__ import annotations

import errno
import pickle

import pytest

from daskref.connectors import credentials
from daskref.connectors.zmq import ZmqConnector
from daskref.connectors.zmq.sources import Source
from daskref.exceptions import ConnectorError, ConnectorUnavailableError
from tests.support.zmq_hosts import (
    LONG,
    Told,
    free_port,
    know,
    parts_left,
    pattern,
    peers,
)

MIB = 2**20


def test_who_locates_hears_of_the_fetch(hosts):
    made = hosts()
    a = made.open("a", serve=True)
    told = Told(Source(a.host, a.endpoints))
    b = made.open("b", sources=told)
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
    b = made.open("b", sources=told)
    key = a.put(pattern(MIB))

    def fail(self):
        raise PermissionError(errno.EACCES, "no leave to write")

    monkeypatch.setattr("daskref.connectors.files.pieces.Pieces.publish", fail)
    with pytest.raises(ConnectorError, match=r"stored here: .*no leave to write"):
        b.get(key)
    assert told.log == ["sources", ("ended", key, False)]
    assert not parts_left(b)


def test_what_others_bring_meanwhile_need_not_be_fetched(hosts):
    """As a client does that still has what a dead host took with it."""
    made = hosts()
    a, b = made.open("a", serve=True), made.open("b", serve=True)
    c = made.open("c", sources=Told(Source(b.host, b.endpoints)))
    key = a.put(pattern(MIB))

    class Brought(Told):
        def sources(self, key, waiting):
            super().sources(key, waiting)
            assert c.supply(key, [pattern(MIB)]) == b.host
            while True:  # nobody else has it, ask again
                waiting()

    told = Brought()
    b.attend(told)
    assert b.get(key) == pattern(MIB)
    assert told.log == ["sources", ("ended", key, True)]
    assert not parts_left(b)


def test_a_host_that_lacks_the_object_is_passed_over(hosts):
    made = hosts()
    a, c = made.open("a", serve=True), made.open("c", serve=True)
    told = Told(Source(c.host, c.endpoints), Source(a.host, a.endpoints))
    b = made.open("b", sources=told)
    key = a.put(pattern(3 * MIB))
    assert b.get(key) == pattern(3 * MIB)
    assert c.served.nbytes == 0
    a.evict(key)
    b.local.evict(key[:2])
    assert b.get(key) is None
    assert not b.exists(key)
    assert not parts_left(b)


def test_an_endpoint_that_is_gone_is_passed_over_at_once(hosts):
    made = hosts(stall=LONG, timeout=LONG)
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    told = Told(Source("0" * 32, [gone]), Source(a.host, a.endpoints))
    b = made.open("b", sources=told)
    key = a.put(pattern(3 * MIB))
    assert b.get(key) == pattern(3 * MIB)
    assert ("failed", gone) in told.log


def test_the_error_says_who_was_asked_and_what_each_answered(hosts):
    made = hosts(stall=LONG, timeout=LONG)
    a = made.open("a", serve=True)
    gone = f"tcp://127.0.0.1:{free_port()}"
    key = made.open("b", sources=Told()).put(b"x")._replace(host="f" * 32)
    c = made.open(
        "c", sources=Told(Source("0" * 32, [gone]), Source(a.host, a.endpoints))
    )
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
