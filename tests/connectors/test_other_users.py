"""Other users of the machine: what they put in the way is refused, and ends nothing."""

from __future__ import annotations

import errno
import logging
import os
import random
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daskref.connectors import FileConnector, SharedMemoryConnector
from daskref.connectors.files import locks
from daskref.connectors.files.locks import open_plain, open_within
from daskref.connectors.files.presence import ManyHosts, OneHost
from daskref.connectors.files.session import DirectorySession
from daskref.connectors.shm import _spill as spill
from daskref.exceptions import ConnectorError, DaskrefError
from daskref.objects.codec import encode
from daskref.store import Store
from tests.support.requirements import require
from tests.support.shm_files import fill

#: Somebody who is nobody here.
OTHER = 65534
MIB = 2**20


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that everybody may write to, and rename in."""
    path = tmp_path / "shared"
    path.mkdir()
    for each in (path, *path.parents):
        if each == Path("/tmp"):
            break
        each.chmod(0o777)
    return path


def as_other(code: str, *arguments: object) -> None:
    """Run code as another user."""
    require(os.geteuid() == 0, "root, to act as another user")
    program = f"import os, shutil, sys\nos.setgid({OTHER}); os.setuid({OTHER})\n{code}"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


#: Puts a copy of a session's directory, with another object in it, in its place.
SWAP = """
path, name, data = sys.argv[1:]
os.rename(path, path + ".away")
os.mkdir(path, 0o700)
with open(os.path.join(path, name), "wb") as file:
    file.write(bytes.fromhex(data))
os.chmod(path, 0o755)
os.chmod(os.path.join(path, name), 0o644)
"""


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize(
    "connect",
    [
        lambda path: SharedMemoryConnector(root=path, spill_directory=path),
        lambda path: FileConnector(path, patience="20ms"),
    ],
    ids=["shm", "file"],
)
def test_a_directory_that_was_swapped_is_refused(shared, tmp_path, connect):
    marker = tmp_path / "marker"
    with Store("swapped", connect(shared)) as store:
        key = store.put(b"x" * 1000)
        (path,) = [each for each in shared.iterdir() if each.is_dir()]
        data = b"".join(encode(Evil(marker)).frames)
        as_other(SWAP, path, key.name, data.ljust(key.nbytes, b"\0").hex())
        with pytest.raises(ConnectorError, match=r"alone|read"):
            store.get(key)
        with pytest.raises(DaskrefError):  # who comes later
            Store.from_config(store.config())
        with pytest.raises(ConnectorError, match="not this user's alone"):
            store.put(b"y" * 1000)  # nor is anything written there
        assert os.listdir(path) == [key.name]
        assert not marker.exists()
        as_other("shutil.rmtree(sys.argv[1])", path)
        os.rename(f"{path}.away", path)
        assert store.get(key) == b"x" * 1000


def test_files_are_opened_only_if_they_are_ours(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    os.close(open_plain(str(path)))
    os.close(open_within(str(tmp_path), "file"))
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for name in ("link", "pipe", "."):
        with pytest.raises(OSError, match=r"\[Errno"):
            open_plain(str(tmp_path / name))
        with pytest.raises(OSError, match=r"\[Errno"):
            open_within(str(tmp_path), name)
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError):
        open_within(str(tmp_path), "file")
    tmp_path.chmod(0o700)
    (tmp_path.parent / "to").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"\[Errno"):
        open_within(str(tmp_path.parent / "to"), "file")


def test_files_of_others_are_refused(tmp_path):
    require(os.geteuid() == 0, "root, to make a file of another user's")
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    os.chown(path, OTHER, OTHER)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PermissionError):
        open_plain(str(path))
    with pytest.raises(PermissionError):
        open_within(str(tmp_path), "file")
    assert len(os.listdir("/proc/self/fd")) == before
    os.chown(path, 0, 0)
    os.chown(tmp_path, OTHER, OTHER)
    with pytest.raises(PermissionError):
        open_within(str(tmp_path), "file")
    os.chown(tmp_path, 0, 0)


# Spilling


def test_nobody_can_guess_where_a_session_spills_to(shared, tmp_path):
    with SharedMemoryConnector(
        root=tmp_path, spill_directory=shared, budget="1 MiB", recycle=0
    ) as connector:
        name = os.path.basename(connector.directory)
        # what others see, and names that follow from it
        for guess in (f"{name}.spill", f".{name}.spill", name):
            as_other("os.mkdir(sys.argv[1])", shared / guess)
        keys = [connector.put(fill(MIB, i)) for i in range(3)]
        assert connector.overflows
        with SharedMemoryConnector(**connector.config()) as other:
            assert [other.get(key) == fill(MIB, i) for i, key in enumerate(keys)]
    left = {each.name for each in shared.iterdir()}
    assert left == {f"{name}.spill", f".{name}.spill", name}
    assert not spill.sweep_spills(str(shared))


def test_a_place_that_was_taken_all_the_same_keeps_nothing_else(shared, tmp_path):
    with SharedMemoryConnector(
        root=tmp_path, spill_directory=shared, budget="1 MiB", recycle=0
    ) as connector:
        key = connector.put(fill(1000))
        orphan = f"{'0' * 8}-{secrets.token_hex(12)}"
        Path(connector.directory, orphan).write_bytes(b"of one who is gone")
        taken = shared / "taken.spill"
        as_other("os.mkdir(sys.argv[1])", taken)
        Path(connector.directory, "spill").write_text(str(taken))
        assert connector.get(key) == fill(1000)
        assert [each.name for each in connector.sweep([key], 0.0)] == [orphan]
        with pytest.raises(ConnectorError, match="another user"):
            connector.put(fill(2 * MIB))


# Sweeping


def dead_shm(root: Path) -> Path:
    """Leave a session whose processes are gone, with something on disk."""
    session = DirectorySession.create(str(root), OneHost())
    path = spill.Spill(session, str(root)).make().path
    session.forget()
    assert Path(path).is_dir()
    return Path(session.path)


def dead_file(root: Path) -> Path:
    session = DirectorySession.create(str(root), ManyHosts())
    session.forget()
    return Path(session.path)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_directory(path: Path) -> None:
    (path / "sub").mkdir(parents=True)


def no_json(path: Path) -> None:
    path.write_bytes(b"\xff{")


def another_json(path: Path) -> None:
    path.write_text('["nonce", 5]')


def odd_fields(path: Path) -> None:
    path.write_text('{"nonce": 5, "session": {}, "host": null, "file-session": []}')


ODD = [a_pipe, a_link_to_itself, a_directory, no_json, another_json, odd_fields]


def sweep(root: Path) -> None:
    SharedMemoryConnector.sweep_sessions(root, root)
    DirectorySession.sweep(str(root), ManyHosts())


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("what", ["lock", "identity", "spill", "p-01234567", "free"])
@pytest.mark.parametrize("dead", [dead_shm, dead_file])
def test_odd_things_in_one_session_keep_no_other(tmp_path, dead, what, odd):
    first, second = dead(tmp_path), dead(tmp_path)
    for each in (first, tmp_path / f"daskref-{os.geteuid()}-odd.spill"):
        each.mkdir(exist_ok=True)
        if (each / what).is_dir():
            (each / what).rmdir()
        (each / what).unlink(missing_ok=True)
        odd(each / what)
    odd(tmp_path / f"daskref-{os.geteuid()}-00")
    sweep(tmp_path)
    assert not second.exists()


CALLS = ["listdir", "lstat", "open", "rename", "rmdir", "scandir", "stat", "unlink"]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_fails_in_one_place_fails_there_alone(
    tmp_path, monkeypatch, caplog, seed
):
    chance = random.Random(seed)
    dead = [chance.choice([dead_shm, dead_file])(tmp_path) for _ in range(6)]
    cursed = {str(each) for each in chance.sample(dead, 3)}
    cursed |= {str(each) for each in tmp_path.iterdir() if ".spill" in each.name} & {
        str(each) for each in chance.sample(sorted(tmp_path.iterdir()), 5)
    }
    codes = [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTEMPTY]

    def fail(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if any(str(path).startswith(each) for each in cursed):
                code = chance.choice(codes)
                raise OSError(code, os.strerror(code))
            return real(path, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in chance.sample(CALLS, 3):
            patch.setattr(os, name, fail(getattr(os, name)))
        with caplog.at_level(logging.WARNING):
            sweep(tmp_path)
            sweep(tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said))  # once each
    assert not [each for each in dead if str(each) not in cursed and each.exists()]
    sweep(tmp_path)
    assert not [each for each in dead if each.exists()]
    # of which only the directory is left, goes when it is older
    assert not list(tmp_path.glob("*.spill/identity"))


@pytest.mark.parametrize("odd", [a_pipe, a_link_to_itself, a_directory, no_json])
def test_odd_things_in_a_session_keep_no_orphans(tmp_path, odd):
    with SharedMemoryConnector(root=tmp_path, spill_directory=tmp_path) as connector:
        directory = Path(connector.directory)
        orphans = [f"{'0' * 8}-{secrets.token_hex(12)}" for _ in range(3)]
        for orphan in orphans:
            (directory / orphan).write_bytes(b"of one who is gone")
        names = ["p-01234567", f"l-{orphans[0]}", f".w-{orphans[1]}", f"f-{orphans[2]}"]
        for name in [*names, f"{'1' * 8}-{secrets.token_hex(12)}", "p-11111111"]:
            odd(directory / name)
        swept = {each.name for each in connector.sweep([], 0.0)}
        assert swept >= set(orphans[1:])


def test_a_bad_lease_or_lock_is_no_reason_to_stop(tmp_path, monkeypatch):
    with SharedMemoryConnector(root=tmp_path, spill_directory=tmp_path) as connector:
        directory = Path(connector.directory)
        orphans = [f"{i}{'0' * 7}-{secrets.token_hex(12)}" for i in range(3)]
        for orphan in orphans:
            (directory / orphan).write_bytes(b"of one who is gone")
        real = locks.open_plain

        def fail(path: str, *args: Any, **kwargs: Any) -> int:
            if path.endswith("p-10000000"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(path, *args, **kwargs)

        monkeypatch.setattr("daskref.connectors.files.presence.open_plain", fail)
        swept = {each.name for each in connector.sweep([], 0.0)}
        assert swept == {orphans[0], orphans[2]}
