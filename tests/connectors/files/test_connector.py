"""What connectors do alike whose objects are files of directories."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daskref.connectors import FileConnector, SharedMemoryConnector
from daskref.connectors.files import leases
from daskref.connectors.files.connector import DirectoryConnector
from daskref.exceptions import ConnectorError

MAKE: list[Callable[[Path], DirectoryConnector]] = [
    FileConnector,
    lambda path: SharedMemoryConnector(root=path, spill_directory=path),
]


@pytest.fixture(params=MAKE, ids=["file", "shm"])
def connector(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[DirectoryConnector]:
    with request.param(tmp_path) as made:
        yield made


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_link_or_lease_that_fails_is_an_error_of_the_connectors(
    connector: DirectoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = connector.put(b"bytes")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(ConnectorError, match=r"a link could not be.*is full"):
            connector.link(key)
        patch.setattr(leases, "write_whole", full)
        with pytest.raises(ConnectorError, match=r"a lease could not be.*is full"):
            connector.renew(key, 10)
    assert connector.renew(key, 10)
    assert connector.get(key) == b"bytes"


def test_a_sweep_that_fails_is_said_once(
    connector: DirectoryConnector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = connector.put(b"bytes")
    assert connector.renew(key, -1)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(leases, "sweep", full)
        assert connector.sweep() == connector.sweep() == []
        assert len(caplog.records) == 1
    assert connector.sweep() == [key]
