"""Commands that do something: ``run``, ``sweep``, ``bench``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import pytest

from daskref.cli import main
from daskref.connectors import SharedMemoryConnector


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
        assert main(["sweep", "--dry-run"]) == 0
        assert main(["sweep"]) == 0
        assert alive.exists(key)
    assert "0 dead sessions removed" in capsys.readouterr().out
    subprocess.run([sys.executable, "-c", code], check=True)
    (dead,) = tmp_path.iterdir()
    with dask.config.set({"daskref.shm.root": str(tmp_path)}):
        assert main(["sweep", "--dry-run"]) == 0
        assert f"would remove {dead}\n1 dead sessions found" in capsys.readouterr().out
        assert main(["sweep", "--dry-run", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told == {"removed": False, "paths": [str(dead)]}
        assert dead.exists()
        assert main(["sweep"]) == 0
    out = capsys.readouterr().out
    assert f"removed {dead}" in out
    assert "1 dead sessions removed" in out
    assert not list(tmp_path.iterdir())


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
    program = ["script.py", "--help", "--", "-h"]
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "execv", lambda *args: called.append(args))
    names = ["distributed.client.preload", "distributed.client.preload-argv"]
    with dask.config.set(dict(zip(names, (preload, options), strict=True))):
        main(["run", *program])
    assert called == [(sys.executable, [sys.executable, *program])]
    found = dask.config.collect_env(os.environ)
    assert tuple(dask.config.get(name, config=found) for name in names) == want


def test_bench_lists_its_rows(capsys: Any) -> None:
    assert main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 5
