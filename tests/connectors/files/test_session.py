from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from daskref.connectors.files import presence
from daskref.connectors.files.locks import EXCLUSIVE, exclusively, open_plain, try_lock
from daskref.connectors.files.presence import ManyHosts, OneHost
from daskref.connectors.files.session import DirectorySession
from daskref.exceptions import ConnectorUnavailableError

ONE_HOST = OneHost()

LIVE = """
from daskref.connectors.files.presence import OneHost
from daskref.connectors.files.session import DirectorySession
session = DirectorySession.create(root, OneHost()) if path is None else (
    DirectorySession.join(path, nonce, OneHost()))
say(session.path, session.nonce, session.writer)
sys.stdin.readline()
session.leave()
say("left")
"""


def start(child, root=None, session=None):
    process = child(
        LIVE,
        root=root and str(root),
        path=session and session.path,
        nonce=session and session.nonce,
    )
    path, nonce, writer = map(eval, process.line().split())
    return process, path, nonce, writer


def test_is_private_and_whole_at_once(tmp_path):
    session = DirectorySession.create(str(tmp_path), ONE_HOST)
    try:
        assert session.path.startswith(str(tmp_path / f"daskref-{os.geteuid()}-"))
        assert os.stat(session.path).st_mode & 0o777 == 0o700
        assert sorted(os.listdir(session.path)) == [
            "identity",
            "lock",
            f"p-{session.writer}",
        ]
        assert os.listdir(tmp_path) == [os.path.basename(session.path)]
    finally:
        session.leave()


def test_the_last_one_out_removes_it(tmp_path, child):
    first = DirectorySession.create(str(tmp_path), ONE_HOST)
    second = DirectorySession.join(first.path, first.nonce, ONE_HOST)
    third, *_ = start(child, session=first)
    first.leave()
    second.leave()
    second.leave()
    assert os.path.isdir(first.path)
    third.say()
    assert third.line() == "'left'"
    third.wait()
    assert not os.listdir(tmp_path)


def test_a_killed_session_is_swept_and_a_live_one_is_not(tmp_path, child):
    dead, dead_path, *_ = start(child, tmp_path)
    live, live_path, *_ = start(child, tmp_path)
    Path(dead_path, "free").mkdir()
    Path(dead_path, "free", "1-2-3").touch()
    assert DirectorySession.sweep(str(tmp_path), ONE_HOST) == []
    dead.kill()
    assert DirectorySession.sweep(str(tmp_path), ONE_HOST) == [dead_path]
    assert os.listdir(tmp_path) == [os.path.basename(live_path)]
    live.say()
    live.wait()
    assert not os.listdir(tmp_path)


def test_a_killed_participant_is_gone_and_the_others_stay(tmp_path, child):
    session = DirectorySession.create(str(tmp_path), ONE_HOST)
    process, _, _, writer = start(child, session=session)
    assert not session.gone(writer)
    assert not session.gone(session.writer)
    process.kill()
    assert session.gone(writer)
    assert session.gone("0" * 8)
    assert DirectorySession.sweep(str(tmp_path), ONE_HOST) == []
    session.leave()
    assert not os.listdir(tmp_path)


def test_half_made_directories_are_swept(tmp_path):
    uid = os.geteuid()
    young, old, free, held, empty = (tmp_path / f".daskref-{uid}-{n}" for n in "abcde")
    for path in (young, old, free, held, empty):
        path.mkdir()
    for path in (young, old):
        (path / "identity").touch()
    os.utime(old, (0, 0))
    (free / "lock").touch()
    (held / "lock").touch()
    fd = open_plain(str(held / "lock"), os.O_RDWR)
    try:
        assert try_lock(fd, EXCLUSIVE)
        DirectorySession.sweep(str(tmp_path), ONE_HOST)
        assert sorted(tmp_path.iterdir()) == [young, held]
    finally:
        os.close(fd)


def test_sweeping_touches_nothing_else(tmp_path):
    uid = os.geteuid()
    others = [
        tmp_path / f"daskref-{uid + 1}-abc",
        tmp_path / "data",
        tmp_path / f"daskref-{uid}-no-lock",
    ]
    for path in others:
        path.mkdir()
        os.utime(path, (0, 0))
    (others[0] / "lock").touch()
    (tmp_path / f"daskref-{uid}-file").touch()
    target = tmp_path / "target"
    target.mkdir()
    (target / "lock").touch()
    (tmp_path / f"daskref-{uid}-link").symlink_to(target)
    before = sorted(tmp_path.rglob("*"))
    assert DirectorySession.sweep(str(tmp_path), ONE_HOST) == []
    assert sorted(tmp_path.rglob("*")) == before
    assert DirectorySession.sweep(str(tmp_path / "missing"), ONE_HOST) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_directory_is_refused_and_not_swept(tmp_path):
    session = DirectorySession.create(str(tmp_path), ONE_HOST)
    try:
        os.chown(session.path, 12345, -1)
        with pytest.raises(ConnectorUnavailableError, match="belongs to another user"):
            DirectorySession.join(session.path, session.nonce, ONE_HOST)
        assert DirectorySession.sweep(str(tmp_path), ONE_HOST) == []
    finally:
        os.chown(session.path, 0, -1)
        session.leave()


def test_unsafe_or_other_directories_are_refused(tmp_path):
    session = DirectorySession.create(str(tmp_path), ONE_HOST)
    path, nonce = session.path, session.nonce
    try:
        (tmp_path / "link").symlink_to(path)
        with pytest.raises(ConnectorUnavailableError, match="not a directory"):
            DirectorySession.join(str(tmp_path / "link"), nonce, ONE_HOST)
        with pytest.raises(ConnectorUnavailableError, match="another session"):
            DirectorySession.join(path, "0" * 32, ONE_HOST)
        os.chmod(path, 0o755)
        with pytest.raises(ConnectorUnavailableError, match="open to other users"):
            DirectorySession.join(path, nonce, ONE_HOST)
        os.chmod(path, 0o700)
        (tmp_path / "empty").mkdir(mode=0o700)
        with pytest.raises(ConnectorUnavailableError, match="not a session"):
            DirectorySession.join(str(tmp_path / "empty"), nonce, ONE_HOST)
    finally:
        session.leave()
    with pytest.raises(ConnectorUnavailableError, match="another host"):
        DirectorySession.join(path, nonce, ONE_HOST)


def test_a_session_that_is_being_removed_is_refused(tmp_path):
    session = DirectorySession.create(str(tmp_path), ONE_HOST)
    session.leave()
    shutil.rmtree(session.path, ignore_errors=True)
    os.mkdir(session.path, 0o700)
    Path(session.path, "lock").touch(0o600)
    with (
        exclusively(os.path.join(session.path, "lock")),
        pytest.raises(ConnectorUnavailableError, match="has ended"),
    ):
        DirectorySession.join(session.path, session.nonce, ONE_HOST)


def test_who_joins_while_the_last_one_leaves_keeps_the_session(tmp_path, monkeypatch):
    many = ManyHosts()
    first = DirectorySession.create(str(tmp_path), many)
    joined = []

    def hide(path):
        monkeypatch.undo()
        joined.append(DirectorySession.join(path, first.nonce, many))
        return presence.hide(path)

    monkeypatch.setattr(presence, "hide", hide)
    first.leave()
    assert [session.path for session in joined] == [first.path]
    assert os.listdir(tmp_path) == [os.path.basename(first.path)]
    assert not joined[0].gone(joined[0].writer)
    joined[0].leave()
    assert not os.listdir(tmp_path)


def test_one_kind_of_session_is_not_swept_as_the_other(tmp_path):
    kinds = [OneHost(), ManyHosts()]
    for mine, other in (kinds, reversed(kinds)):
        session = DirectorySession.create(str(tmp_path), mine)
        session.forget()
        assert DirectorySession.sweep(str(tmp_path), other) == []
        assert DirectorySession.sweep(str(tmp_path), mine) == [session.path]


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(ConnectorUnavailableError, match="No such file"):
        DirectorySession.create(str(tmp_path / "missing"), ONE_HOST)


def test_a_creator_whose_half_made_directory_is_swept_starts_again(
    tmp_path, monkeypatch
):
    real, swept = DirectorySession._enter, []

    def enter(self, path):
        # The worst moment: a sweeper removed it just before it was locked.
        if not swept:
            swept.append(path)
            shutil.rmtree(path)
        real(self, path)

    monkeypatch.setattr(DirectorySession, "_enter", enter)
    session = DirectorySession.create(str(tmp_path), ONE_HOST)
    assert swept
    assert os.listdir(tmp_path) == [os.path.basename(session.path)]
    session.leave()


FORK = """
import os
from daskref.connectors.files.presence import OneHost
from daskref.connectors.files.session import DirectorySession
session = DirectorySession.create(root, OneHost())
first = session.writer
ready, go = os.pipe(), os.pipe()
pid = os.fork()
if not pid:
    if joins:
        session.ensure()
    session.leave() if leaves else None
    say(session.writer == first, os.path.isdir(session.path), session.gone(first))
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os._exit(0)
os.read(ready[0], 1)
session.leave()
say(os.path.isdir(session.path))
os.write(go[1], b"x")
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_a_forked_child_takes_part_only_if_it_joins(tmp_path, child, joins, leaves):
    process = child(FORK, root=str(tmp_path), joins=joins, leaves=leaves)
    # Either way the parent's part is as it was.
    assert process.line() == f"{not joins} True False"
    # A child that joined keeps the session; one that did not does not.
    assert process.line() == str(joins and not leaves)
    process.wait()
    DirectorySession.sweep(str(tmp_path), ONE_HOST)
    assert not os.listdir(tmp_path)


@pytest.mark.stress
def test_sweepers_and_creators_race(tmp_path, child):
    code = """
from daskref.connectors.files.presence import OneHost
from daskref.connectors.files.session import DirectorySession
for _ in range(200):
    session = DirectorySession.create(root, OneHost())
    DirectorySession.sweep(root, OneHost())
    assert session.gone("0" * 8) and not session.gone(session.writer)
    DirectorySession.join(session.path, session.nonce, OneHost()).leave()
    session.leave()
"""
    processes = [child(code, root=str(tmp_path)) for _ in range(4)]
    killed = child(code.replace("200", "10**9"), root=str(tmp_path))
    for process in processes:
        process.wait()
    killed.popen.send_signal(signal.SIGKILL)
    killed.popen.wait()
    DirectorySession.sweep(str(tmp_path), ONE_HOST)
    left = os.listdir(tmp_path)
    # At most what had no lock file yet when its maker was killed.
    assert all(name.startswith(".") for name in left)
    assert len(left) <= 1


def test_the_first_makes_it_and_the_others_join(tmp_path):
    path = str(tmp_path / f"daskref-{os.geteuid()}-abc")
    first = DirectorySession.join_or_create(path, "nonce", ONE_HOST)
    second = DirectorySession.join_or_create(path, "nonce", ONE_HOST)
    assert first.host == second.host
    host = first.host
    assert len(host) == 32
    assert first.writer != second.writer
    with pytest.raises(ConnectorUnavailableError, match="another session"):
        DirectorySession.join_or_create(path, "other", ONE_HOST)
    first.leave()
    second.leave()
    assert os.listdir(tmp_path) == []
    again = DirectorySession.join_or_create(path, "nonce", ONE_HOST)
    assert again.host != host  # what was there is gone
    again.leave()


def test_what_killed_processes_left_can_be_joined(tmp_path, child):
    process, path, nonce, _ = start(child, root=tmp_path)
    process.kill()
    session = DirectorySession.join_or_create(path, nonce, ONE_HOST)
    session.leave()
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_place_that_cannot_be_used_is_an_error(tmp_path):
    file = tmp_path / f"daskref-{os.geteuid()}-abc"
    file.write_text("no directory")
    with pytest.raises(ConnectorUnavailableError, match="not a directory"):
        DirectorySession.join_or_create(str(file), "nonce", ONE_HOST)
    with pytest.raises(ConnectorUnavailableError, match="cannot be written to"):
        DirectorySession.join_or_create(
            str(tmp_path / "missing" / "x"), "nonce", ONE_HOST
        )
