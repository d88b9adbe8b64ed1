from __future__ import annotations

import os
import pickle

import pytest

from daskref.connectors import FileConnector, FileKey
from daskref.connectors.filesystems import is_local
from daskref.exceptions import (
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)


def test_closing_removes_what_it_made_and_nothing_else(tmp_path):
    (tmp_path / "theirs").write_bytes(b"data")
    connector = FileConnector(tmp_path)
    connector.put(b"bytes")
    connector.close()
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    made = tmp_path / "new" / "dir"
    FileConnector(str(made)).close()
    assert not made.exists()


def test_objects_stay_until_the_last_participant_leaves(tmp_path):
    first = FileConnector(tmp_path)
    second = pickle.loads(pickle.dumps(first))
    key = first.put(b"bytes")
    first.close()
    assert second.get(key) == b"bytes"
    second.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConnectorUnavailableError):
        FileConnector.from_config(first.config())


def test_objects_can_be_kept(tmp_path):
    with FileConnector(tmp_path, clear=False) as connector:
        key = connector.put(b"bytes")
    with FileConnector(tmp_path) as connector:
        assert connector.get(key) == b"bytes"
    with FileConnector(tmp_path, False) as connector:
        assert connector.exists(key)
        connector.evict(key)
        assert not connector.exists(key)


def test_connectors_on_one_directory_find_each_others_objects(tmp_path):
    with FileConnector(tmp_path) as one, FileConnector(tmp_path) as two:
        key = one.put(b"bytes")
        assert two.get(key) == b"bytes"
        linked = two.link(key)
        two.evict(key)
        assert one.get(key) is None
        assert one.get(linked) == b"bytes"


def test_a_dead_session_is_swept_by_the_next(tmp_path, child):
    code = """
from daskref.connectors.file import FileConnector
connector = FileConnector(store_dir)
say(tuple(connector.put(b"bytes")))
sys.stdin.readline()
"""
    dead, live = (child(code, store_dir=str(tmp_path)) for _ in range(2))
    lost, kept = (FileKey(*eval(process.line())) for process in (dead, live))
    dead.kill()
    with FileConnector(tmp_path) as connector:
        assert connector.get(lost) is None
        assert connector.get(kept) == b"bytes"
    live.say()
    live.wait()
    assert not list(tmp_path.iterdir())


def test_a_participant_on_another_host_counts_as_alive(tmp_path, monkeypatch):
    there = {"host": "elsewhere", "boot": "another"}
    monkeypatch.setattr("daskref.connectors.filesession.host", lambda: there)
    elsewhere = FileConnector(tmp_path)
    key = elsewhere.put(b"bytes")
    # As if its lock could not be seen here.
    os.close(elsewhere._session._presence_fd)
    elsewhere._session._presence_fd = -1
    monkeypatch.undo()
    with FileConnector(**elsewhere.config()) as connector:
        assert connector.sweep([], 0.0) == []
        assert connector.get(key) == b"bytes"
    with FileConnector(tmp_path) as connector:
        assert connector.get(key) == b"bytes"


def test_orphans_of_a_process_that_ended_are_swept(tmp_path, child):
    code = """
from daskref.connectors.file import FileConnector
connector = FileConnector(**config)
say(*map(tuple, (connector.put(b"a"), connector.put(b"b"))))
sys.stdin.readline()
"""
    with FileConnector(tmp_path) as connector:
        process = child(code, config=connector.config())
        known, orphan = (
            FileKey(*key) for key in eval(process.line().replace(") (", "), ("))
        )
        assert connector.sweep([known], 0.0) == []
        process.kill()
        assert connector.sweep([known], 1000.0) == []
        assert connector.sweep([known], 0.0) == [orphan]
        assert connector.get(known) == b"a"


def test_a_file_of_another_size_is_an_error(tmp_path):
    with FileConnector(tmp_path) as connector:
        key = connector.put(b"bytes")
        (path,) = tmp_path.glob(f"*/{key.name}")
        path.write_bytes(b"byt")
        with pytest.raises(WireError, match="3 bytes, its key says 5"):
            connector.get(key)


def test_network_file_systems_are_read_not_mapped(tmp_path, monkeypatch):
    assert is_local("/dev/shm")
    assert not is_local("/proc")
    monkeypatch.setattr("daskref.connectors.file.is_local", lambda path: False)
    monkeypatch.setattr("daskref.connectors.objects.private_view", None)
    with FileConnector(tmp_path) as connector:
        view = connector.get(connector.put(b"bytes"))
        assert view == b"bytes"
        assert not view.readonly


def test_a_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConnectorUnavailableError, match="cannot be made"):
        FileConnector(tmp_path / "file")
    with pytest.raises(ConnectorUnavailableError, match="no session's name"):
        FileConnector(tmp_path, session="../etc", nonce="0")


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    def full(fd, views):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("daskref.connectors.objects.write_file", full)
    with FileConnector(tmp_path) as connector:
        with pytest.raises(ConnectorError, match="it is full"):
            connector.put(b"bytes")
        assert connector.usage() == (0, 0)
        assert not list(tmp_path.glob("*/.w-*"))
