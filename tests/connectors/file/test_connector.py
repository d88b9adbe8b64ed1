from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daskref.connectors import FileConnector, FileKey
from daskref.connectors.filesystems import is_local
from daskref.connectors.processes import this_process
from daskref.exceptions import (
    ConfigError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)
from daskref.testing import RULES, check_connector
from tests.support.namespaces import require_namespaces, run_case


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


@pytest.mark.parametrize("made_to_clear", [True, False])
def test_closing_may_decide_anew_whether_objects_are_kept(tmp_path, made_to_clear):
    first = FileConnector(tmp_path, clear=made_to_clear)
    second = pickle.loads(pickle.dumps(first))
    key = first.put(b"bytes")
    first.close(clear=not made_to_clear)
    assert second.get(key) == b"bytes"
    second.close()
    first.close(clear=made_to_clear)  # too late
    with FileConnector(tmp_path) as connector:  # which sweeps what is to go
        assert connector.exists(key) is made_to_clear


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
    monkeypatch.setattr("daskref.connectors.files.presence.host", lambda: there)
    elsewhere = FileConnector(tmp_path)
    key = elsewhere.put(b"bytes")
    # As if its lock could not be seen here.
    elsewhere._session.forget()
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
    monkeypatch.setattr(
        "daskref.connectors.file.connector.is_local", lambda path: False
    )
    monkeypatch.setattr("daskref.connectors.files.directory.private_view", None)
    with FileConnector(tmp_path) as connector:
        view = connector.get(connector.put(b"bytes"))
        assert view == b"bytes"
        assert not view.readonly


def test_a_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConnectorUnavailableError, match="not a directory"):
        FileConnector(tmp_path / "file")
    with pytest.raises(ConnectorUnavailableError, match="not a directory"):
        FileConnector(tmp_path / "file" / "below")
    with pytest.raises(ConnectorUnavailableError, match="no session's name"):
        FileConnector(tmp_path, session="../etc", nonce="0")


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    def full(fd, views):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("daskref.connectors.files.parts.write_file", full)
    with FileConnector(tmp_path) as connector:
        with pytest.raises(ConnectorError, match="is full"):
            connector.put(b"bytes")
        assert connector.usage() == (0, 0)
        assert not list(tmp_path.glob("*/.w-*"))


@pytest.fixture
def network(monkeypatch):
    """Let all file systems be network file systems."""
    for module in ("file.connector", "files.presence"):
        monkeypatch.setattr(f"daskref.connectors.{module}.is_local", lambda _: False)


NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.mark.parametrize("code", NO_LOCKS, ids=errno.errorcode.get)
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=pytest.mark.slow)
        if rule in {"processes", "round-trips", "views-outlive", "threads"}
        else rule
        for rule in RULES
    ],
)
def test_keeps_the_contract_without_locks(
    rule, local, code, tmp_path, monkeypatch, request
):
    def flock(fd, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    if not local:
        request.getfixturevalue("network")
    check_connector(
        lambda: FileConnector(tmp_path / "shared", patience=0),
        relax=RULES.keys() - {rule},
    )
    assert not list(tmp_path.iterdir())


WITHOUT_LOCKS = """
import errno, fcntl, os
def flock(fd, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
from daskref.connectors.file import FileConnector
connector = FileConnector(**config)
say(tuple(connector.put(b"bytes")))
sys.stdin.readline()
connector.close()
say("left")
"""


def test_who_died_is_told_without_locks(tmp_path, child, network, monkeypatch):
    def flock(fd, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    config = {"store_dir": str(tmp_path)}
    lost, live, dead = (child(WITHOUT_LOCKS, config=config) for _ in range(3))
    keys = [FileKey(*eval(process.line())) for process in (lost, live, dead)]
    with FileConnector(tmp_path, patience=0) as connector:
        assert [connector.exists(key) for key in keys] == [True, True, True]
        lost.kill()
        dead.kill()
        with FileConnector(tmp_path):
            assert [connector.exists(key) for key in keys] == [False, True, False]
        member = child(WITHOUT_LOCKS, config=connector.config())
        orphan = FileKey(*eval(member.line()))
        assert connector.sweep([], 0.0) == []
        member.kill()
        assert connector.sweep([], 0.0) == [orphan]
        live.say()
        assert live.line() == "'left'"
    live.wait()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ids", [("another", "this"), ("", "")])
def test_a_host_of_the_same_name_is_another(tmp_path, monkeypatch, ids):
    real, (there, here) = this_process(), ids
    monkeypatch.setattr(
        "daskref.connectors.files.presence.this_process",
        lambda: {**real, "machine": there},
    )
    monkeypatch.setattr("daskref.connectors.files.presence.machine", lambda: here)
    monkeypatch.setattr(
        "daskref.connectors.files.presence.host",
        lambda: {"host": "localhost", "boot": "another"},
    )
    elsewhere = FileConnector(tmp_path)
    monkeypatch.setattr(
        "daskref.connectors.files.presence.host",
        lambda: {"host": "localhost", "boot": "this"},
    )
    with FileConnector(tmp_path):
        assert elsewhere.get(elsewhere.put(b"bytes")) == b"bytes"
    elsewhere.close()


class TestPublishing:
    """What reaches the disk, or the server, when."""

    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []

        def record(name):
            real = getattr(os, name)

            def call(*args):
                calls.append(name)
                return real(*args)

            monkeypatch.setattr(os, name, call)

        for name in ("pwritev", "fdatasync", "close", "rename", "fsync"):
            record(name)
        return calls

    @pytest.mark.parametrize(
        ("fsync", "expected"),
        [
            ("never", "pwritev close rename"),
            ("data", "pwritev fdatasync close rename"),
            ("full", "pwritev fdatasync close rename fsync close"),
        ],
    )
    def test_a_file_is_closed_before_it_gets_its_name(
        self, fsync, expected, tmp_path, calls
    ):
        with FileConnector(tmp_path, fsync=fsync) as connector:
            del calls[:]
            connector.put(b"bytes")
            assert calls == expected.split()

    def test_a_new_session_is_on_the_disk(self, tmp_path, calls):
        FileConnector(tmp_path).close()
        assert "fsync" not in calls
        FileConnector(tmp_path, fsync="full").close()
        assert "fsync" in calls

    @pytest.mark.parametrize("fails", ["fdatasync", "close", "rename", "fsync"])
    def test_nothing_remains_after_a_failure(self, fails, tmp_path, monkeypatch):
        real = getattr(os, fails)

        def fail(*args):
            if fails == "close":
                real(*args)
            monkeypatch.undo()
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        with FileConnector(tmp_path, fsync="full") as connector:
            before = sorted(tmp_path.rglob("*"))
            monkeypatch.setattr(os, fails, fail)
            with pytest.raises(ConnectorError, match="5 B could not be written"):
                connector.put(b"bytes")
            assert sorted(tmp_path.rglob("*")) == before

    def test_a_rename_that_was_done_and_repeated(self, tmp_path, monkeypatch):
        real = os.rename

        def rename(*args):
            real(*args)
            real(*args)

        with FileConnector(tmp_path) as connector:
            monkeypatch.setattr(os, "rename", rename)
            assert connector.get(connector.put(b"bytes")) == b"bytes"

    def test_options_are_checked_and_travel(self, tmp_path):
        with pytest.raises(ConfigError, match="'never' or 'data' or 'full'"):
            FileConnector(tmp_path, fsync="always")
        with pytest.raises(ConfigError, match="patience"):
            FileConnector(tmp_path, patience="soon")
        with FileConnector(tmp_path, fsync="data", patience="500ms") as connector:
            other = pickle.loads(pickle.dumps(connector))
            assert other.config() == connector.config()
            assert other.config()["fsync"] == "data"
            assert other.config()["patience"] == 0.5
            other.close()


class TestLate:
    """What a network file system shows late, or no more."""

    @pytest.fixture
    def connector(self, tmp_path, network):
        with FileConnector(tmp_path, patience=30) as connector:
            yield connector

    def test_an_object_that_appears_late_is_waited_for(
        self, connector, tmp_path, monkeypatch
    ):
        key = connector.put(b"bytes")
        (path,) = tmp_path.glob(f"*/{key.name}")
        hidden = path.rename(tmp_path / "hidden")
        assert not connector.exists(key)  # does not wait
        looked = []

        def refresh():
            looked.append(1)
            if len(looked) == 3:
                hidden.rename(path)

        monkeypatch.setattr(connector, "_refresh", refresh)
        assert connector.get(key) == b"bytes"
        assert len(looked) == 3

    def test_a_file_that_is_not_whole_yet(self, connector, tmp_path, monkeypatch):
        key = connector.put(b"bytes")
        (path,) = tmp_path.glob(f"*/{key.name}")
        path.write_bytes(b"by")
        monkeypatch.setattr(connector, "_refresh", lambda: path.write_bytes(b"bytes"))
        assert connector.get(key) == b"bytes"

    @pytest.mark.parametrize("at", ["open_within", "_read_whole"])
    def test_a_stale_handle_is_opened_again(self, at, connector, monkeypatch):
        real = getattr(sys.modules["daskref.connectors.files.directory"], at)
        stale = []

        def fail(*args):
            if len(stale) < 3:
                stale.append(1)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return real(*args)

        key = connector.put(b"bytes")
        monkeypatch.setattr(f"daskref.connectors.files.directory.{at}", fail)
        assert connector.get(key) == b"bytes"
        assert len(stale) == 3

    def test_a_handle_that_stays_stale_is_an_error(self, tmp_path, monkeypatch):
        def fail(*args):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        with FileConnector(tmp_path, patience="20ms") as connector:
            key = connector.put(b"bytes")
            monkeypatch.setattr("daskref.connectors.files.directory.open_within", fail)
            with pytest.raises(ConnectorError, match="Stale file handle"):
                connector.get(key)

    def test_what_does_not_come_is_missing(self, tmp_path, network):
        with FileConnector(tmp_path, patience="20ms") as connector:
            key = connector.put(b"bytes")
            connector.evict(key)
            assert connector.get(key) is None

    def test_what_is_to_come_is_not_waited_for(self, connector, monkeypatch):
        monkeypatch.setattr("time.sleep", None)
        key = connector.new_key()
        assert connector.get(key) is None
        connector.set(key, b"bytes")
        assert connector.get(key) == b"bytes"

    def test_a_local_file_system_is_asked_at_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr("time.sleep", None)
        with FileConnector(tmp_path, patience=30) as connector:
            key = connector.put(b"bytes")
            connector.evict(key)
            assert connector.get(key) is None

    def test_an_object_that_appears_late_is_deleted(
        self, connector, tmp_path, monkeypatch
    ):
        key = connector.put(b"bytes")
        (path,) = tmp_path.glob(f"*/{key.name}")
        hidden = path.rename(tmp_path / "hidden")
        monkeypatch.setattr(connector, "_refresh", lambda: hidden.rename(path))
        connector.evict(key)
        assert not path.exists()


# What runs in a process with a file system of its own.


def _mount(*command):
    subprocess.run(command, check=True)


def read_only():
    """A directory that becomes read-only, and one that is."""
    said = {}
    connector = FileConnector("/dev/shm/shared")
    key = connector.put(b"bytes")
    linked = connector.link(key)
    with connector:
        _mount("mount", "--bind", "-o", "ro", "/dev/shm", "/dev/shm")
        attempts = {
            "put": lambda: connector.put(b"more"),
            "link": lambda: connector.link(key),
            "renew": lambda: connector.renew(key, 1),
            "evict": lambda: connector.evict(linked),
            "join": lambda: FileConnector(**connector.config()),
            "new": lambda: FileConnector("/dev/shm/shared"),
            "make": lambda: FileConnector("/dev/shm/other"),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except ConnectorError as exc:
                said[name] = f"{type(exc).__name__}: {exc}"
        assert bytes(connector.get(key)) == b"bytes"
        _mount("umount", "/dev/shm")
    assert not os.listdir("/dev/shm")
    return said


def full():
    """A file system of a mebibyte, with something in it."""
    said = {}
    with FileConnector("/dev/shm/shared") as connector:
        keys = [connector.put(bytes(300_000)) for _ in range(2)]
        for name, size in (("large", 10_000_000), ("last", 600_000)):
            before = sorted(Path("/dev/shm").rglob("*"))
            try:
                connector.put(bytes(size))
            except ConnectorError as exc:
                said[name] = str(exc)
            assert sorted(Path("/dev/shm").rglob("*")) == before
        assert [len(connector.get(key)) for key in keys] == [300_000] * 2
        Path("/dev/shm/rest").write_bytes(b"")
        try:
            with open("/dev/shm/rest", "ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError:
            pass
        before = sorted(Path("/dev/shm").rglob("*"))
        for name, attempt in {
            "renew": lambda: connector.renew(keys[0], 1),
            "new": lambda: FileConnector("/dev/shm/shared"),
            "join": lambda: FileConnector(**connector.config()),
        }.items():
            try:
                attempt()
            except ConnectorError as exc:
                said[name] = str(exc)
        assert sorted(Path("/dev/shm").rglob("*")) == before
        connector.evict(keys[0])
        assert connector.exists(connector.put(bytes(300_000)))
    assert os.listdir("/dev/shm") == ["rest"]
    return said


@pytest.mark.slow
def test_a_read_only_directory_is_a_clear_error():
    require_namespaces()
    said = run_case("tests.connectors.file.test_connector", "read_only")
    assert sorted(said) == "evict join link make new put renew".split()
    for text in said.values():
        assert "Read-only file system" in text
        assert "FileConnector /dev/shm/" in text or "DirectorySession /dev/shm/" in text
    for name in ("join", "new", "make"):
        assert said[name].startswith("ConnectorUnavailableError")
    for name in ("join", "new"):
        assert "/dev/shm/shared cannot be written to" in said[name]
        assert "Name another directory" in said[name]


@pytest.mark.slow
def test_a_full_directory_is_a_clear_error():
    require_namespaces()
    said = run_case("tests.connectors.file.test_connector", "full", size="1m")
    assert sorted(said) == "join large last new renew".split()
    for text in said.values():
        assert "the directory is full" in text
        assert "No space left on device" in text
        assert "daskref.connector" in text


@pytest.mark.slow
def test_threads_write_to_a_network_file_system(tmp_path, network):
    with FileConnector(tmp_path, patience=0) as connector:
        failed = []

        def work(number):
            for turn in range(50):
                value = bytes([number]) * (1000 + turn)
                key = connector.put(value)
                if connector.get(key) != value:
                    failed.append(key)
                connector.evict(key)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert connector.usage() == (0, 0)
