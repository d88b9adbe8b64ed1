"""The kernel's counts of what went over TCP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from daskref.demo import traffic as wire
from tests.support.common import wait_until


def _pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return one, other


def _carry(one, other, nbytes):
    one.sendall(bytes(nbytes))
    while nbytes:
        nbytes -= len(other.recv(nbytes))


def counts_both_directions_of_this_process():
    meter = wire.Meter()
    one, other = _pair()
    with one, other:
        _carry(one, other, 100_000)
        _carry(other, one, 50_000)
        # acknowledged a moment after it was read; the SYN counts as a byte
        wait_until(lambda: 150_000 <= meter.update().sent <= 150_010)
        assert 150_000 <= meter.update().received <= 150_010


def keeps_what_closed_connections_carried():
    one, other = _pair()
    with one, other:
        _carry(one, other, 1000)
        meter = wire.Meter()
        _carry(one, other, 30_000)
        wait_until(lambda: meter.update().sent >= 30_000)
        assert meter.update().received == 30_000
    closed = meter.update()
    assert 30_000 <= closed.received <= 30_010
    assert closed == meter.update()


@pytest.mark.parametrize(
    "case",
    [counts_both_directions_of_this_process, keeps_what_closed_connections_carried],
)
def test_in_a_process_without_other_connections(case):
    """Clusters that other tests share have connections in this one."""
    code = f"from tests.demo import test_traffic; test_traffic.{case.__name__}()"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


def test_other_descriptors_are_passed_over(tmp_path):
    here, there = socket.socketpair()
    with here, there, open(os.devnull), socket.socket(type=socket.SOCK_DGRAM):
        before = wire.connections()
        here.sendall(b"x" * 1000)
        assert wire.connections() == before
