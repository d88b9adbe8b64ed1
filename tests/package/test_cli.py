"""The command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dask
import pytest

from daskref import __version__, cli
from daskref.cli import main
from daskref.connectors import SharedMemoryConnector


def test_info(capsys: Any) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"daskref {__version__}" in out
    assert "daskref.threshold              1 MiB" in out
    assert "would use <ZmqConnector " in out
    assert "works: a value of 1 MiB came back as it was" in out


def test_info_shows_what_is_configured(capsys: Any, tmp_path: Path) -> None:
    options = {
        "daskref.threshold": "5 MiB",
        "daskref.connector": f"file://{tmp_path}/store",
    }
    with dask.config.set(options):
        assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "daskref.threshold              5 MiB" in out
    assert f"would use <FileConnector {tmp_path}/store>" in out
    assert not list(tmp_path.iterdir())  # and takes it away again


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("daskref.threshold", "many", "daskref.threshold='many' is not valid"),
        ("daskref.connector", "shmm://", "did you mean shm://?"),
        ("daskref.connector", "file:///proc/no", "cannot be made"),
        ("daskref.shm.root", "/no/such/place", "/no/such/place"),
        ("daskref.shm.budget", "a lot", "daskref.shm.budget"),
    ],
)
def test_bad_settings_are_one_line(
    capsys: Any, setting: str, value: str, told: str
) -> None:
    with dask.config.set({setting: value}):
        assert main(["info"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1


def unusable(kind: str, tmp_path: Path) -> str:
    """Return a directory that objects cannot go to."""
    if kind == "missing":
        return str(tmp_path / "missing")
    if kind == "a file":
        (tmp_path / "file").touch()
        return str(tmp_path / "file")
    return "/proc"  # on which not even root makes anything


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file or directory"),
        ("a file", "Not a directory"),
        ("read-only", "No such file or directory"),
    ],
)
@pytest.mark.parametrize("connector", ["auto", "shm://", "zmq://", "option", "multi"])
def test_info_tells_a_spill_directory_that_cannot_be_used(
    capsys: Any, tmp_path: Path, kind: str, reason: str, connector: Any
) -> None:
    path, advice = unusable(kind, tmp_path), "Set daskref.spill-directory to"
    options: dict[str, Any] = {"daskref.spill-directory": path}
    if connector in ("option", "multi"):
        advice = "Set the option spill_directory of daskref.connector"
        connector, options = f"shm://?spill_directory={path}", {}
        if connector == "multi":
            children = {"a": [connector, None]}
            connector = {
                "class": "daskref.connectors:MultiConnector",
                "connectors": children,
            }
    with dask.config.set({**options, "daskref.connector": connector}):
        assert main(["info"]) == 1
    out = capsys.readouterr().out
    assert "works: a value of 1 MiB came back as it was" in out
    assert "does not work: what shared memory has no room for cannot go to disk" in out
    assert f"{path} cannot be used ({reason})" in out
    assert advice in out
    assert len(list(tmp_path.iterdir())) == (kind == "a file")


def test_info_tells_where_an_unusable_directory_for_temporary_files_is_from(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    assert main(["info"]) == 1
    told = "Set daskref.spill-directory, which is null, or TMPDIR to"
    assert told in capsys.readouterr().out


def test_info_asks_no_spill_directory_of_a_store_without(
    capsys: Any, tmp_path: Path
) -> None:
    options = {
        "daskref.spill-directory": "/no/such",
        "daskref.connector": f"file://{tmp_path}/store",
    }
    with dask.config.set(options):
        assert main(["info"]) == 0
    assert "does not work" not in capsys.readouterr().out


@pytest.mark.slow
def test_sweep_removes_what_the_dead_left(capsys: Any, tmp_path: Path) -> None:
    code = (
        "import os; from daskref.connectors import SharedMemoryConnector\n"
        f"c = SharedMemoryConnector(root={str(tmp_path)!r})\n"
        "c.put(b'x' * 100); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    (dead,) = tmp_path.iterdir()
    with (
        SharedMemoryConnector(tmp_path) as alive,
        dask.config.set({"daskref.shm.root": str(tmp_path)}),
    ):
        # making one has swept already
        assert not dead.exists()
        subprocess.run([sys.executable, "-c", code.split("\n", 1)[0]], check=True)
        key = alive.put(b"y")
        assert main(["sweep"]) == 0
        assert alive.exists(key)
    assert "0 dead sessions removed" in capsys.readouterr().out
    subprocess.run([sys.executable, "-c", code], check=True)
    (dead,) = tmp_path.iterdir()
    with dask.config.set({"daskref.shm.root": str(tmp_path)}):
        assert main(["sweep"]) == 0
    out = capsys.readouterr().out
    assert f"removed {dead}" in out
    assert "1 dead sessions removed" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "status", "told"),
    [
        (["--version"], 0, __version__),
        (["--help"], 0, "sweep"),
        ([], 2, "required"),
        (["dance"], 2, "invalid choice"),
        (["info", "--dance"], 2, "unrecognized arguments: --dance"),
        (["run"], 2, "which program?"),
        (["run", "--help"], 0, "-m MODULE"),
    ],
)
def test_usage(capsys: Any, argv: list[str], status: int, told: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == status
    assert told in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("preload", "options", "want"),
    [
        ([], [], (["daskref"], [])),
        ("other", [], (["other", "daskref"], [])),
        (["daskref", "other"], [], (["daskref", "other"], [])),
        (["other"], ["--all"], (["other", "daskref"], ["--all"])),
        (["other"], [["--one"]], (["other", "daskref"], [["--one"], []])),
    ],
)
def test_run_adds_to_the_preloads_of_clients(
    monkeypatch: pytest.MonkeyPatch, preload: Any, options: Any, want: Any
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "execv", lambda *args: called.append(args))
    names = ["distributed.client.preload", "distributed.client.preload-argv"]
    with dask.config.set(dict(zip(names, (preload, options), strict=True))):
        cli._run(["script.py", "--help"])
    assert called == [(sys.executable, [sys.executable, "script.py", "--help"])]
    found = dask.config.collect_env(os.environ)
    assert tuple(dask.config.get(name, config=found) for name in names) == want


def test_bench_lists_its_rows(capsys: Any) -> None:
    assert main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        ["-c", "import sys; from daskref.cli import main; sys.exit(main())"],
        ["-m", "daskref.cli"],
    ],
)
def test_as_a_program(start: list[str]) -> None:
    command = [sys.executable, *start, "info"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "works" in done.stdout
    assert not done.stderr
