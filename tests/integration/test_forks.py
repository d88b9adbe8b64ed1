"""Forked children of a process that uses daskref: they work, and take nothing away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.forked_children import CASES
from tests.support.namespaces import ENVIRONMENT
from tests.support.redis_servers import RedisServer


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What each case said, run one after another in one parent."""
    path = tmp_path_factory.mktemp("forks")
    server = RedisServer()
    specs: dict[str, Any] = {
        "shm": "shm://",
        "file": f"file://{path}/shared",
        "zmq": "zmq://?serve=1",
        "redis": server.url,
        "fsspec": f"fsspec+file://{path}/tree",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.forked_children", json.dumps(specs)],
            capture_output=True,
            text=True,
            env={**os.environ, **ENVIRONMENT},
            timeout=110,
        )
        lines = done.stdout.splitlines()
        found = dict(json.loads(line[5:]) for line in lines if line[:5] == "case ")
        assert not done.returncode, done.stderr
        assert not server.names()
        yield found
    finally:
        server.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_fork(outcomes: dict[str, str], case: str) -> None:
    assert outcomes[case] == "fine"
