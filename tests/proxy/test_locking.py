"""One thread at a time, and none waits for nobody."""

from __future__ import annotations

import threading

import pytest

from daskref.proxy import _locking as turns
from daskref.proxy._locking import end_turn, take_turn, try_turn
from tests.support.common import wait_until

KEY = 1


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert not turns._owners
    assert not turns._waiting


def _start(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_a_turn_is_taken_once():
    assert take_turn(KEY)
    assert not take_turn(KEY)
    assert not try_turn(KEY)
    assert try_turn(KEY + 1)
    end_turn(KEY + 1)
    end_turn(KEY)
    assert try_turn(KEY)
    end_turn(KEY)


def test_others_wait_and_do_not_try():
    log = []

    def other():
        log.append(try_turn(KEY))
        assert take_turn(KEY)
        log.append("turn")
        end_turn(KEY)

    take_turn(KEY)
    thread = _start(other)
    wait_until(lambda: KEY in turns._waiting, "the other waits")
    assert log == [False]
    end_turn(KEY)
    thread.join(20)
    assert log == [False, "turn"]


def test_who_comes_too_late_to_be_woken_does_not_wait(monkeypatch):
    # 1. We find another's turn. 2. It ends. 3. We come to wait.
    end, ended = threading.Event(), threading.Event()

    def owner():
        take_turn(KEY)
        end.set()
        assert ended.wait(20)
        end_turn(KEY)
        end.set()

    thread = _start(owner)
    assert end.wait(20)
    real = turns._wait

    def late(key):
        end.clear()
        ended.set()
        assert end.wait(20)
        monkeypatch.setattr(turns, "_wait", real)
        real(key)

    monkeypatch.setattr(turns, "_wait", late)
    assert take_turn(KEY)
    end_turn(KEY)
    thread.join(20)
    assert not thread.is_alive()


def test_who_is_not_woken_looks_again(monkeypatch):
    monkeypatch.setattr(turns, "PATIENCE", 0.01)
    got = threading.Event()

    def other():
        take_turn(KEY)
        end_turn(KEY)
        got.set()

    take_turn(KEY)
    thread = _start(other)
    wait_until(lambda: KEY in turns._waiting, "the other waits")
    del turns._owners[KEY]  # as if interrupted right there
    assert got.wait(20)
    thread.join(20)


def test_threads_never_meet():
    inside = dict.fromkeys(range(3), 0)
    wrong = []

    def work(number):
        for i in range(200):
            key = (number + i) % 3
            take_turn(key)
            inside[key] += 1
            if i % 5 == 0:
                threading.Event().wait(0.0001)  # others get to run
            if inside[key] != 1:
                wrong.append((number, i))
            inside[key] -= 1
            end_turn(key)

    threads = [_start(lambda n=n: work(n)) for n in range(8)]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
