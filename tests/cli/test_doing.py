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


PROGRAM = """
from distributed import Client
import numpy as np
if __name__ == "__main__":
    with Client(n_workers=1, dashboard_address=":0") as client:
        print(client.submit(lambda x: int(x.sum()), np.ones(1 << 18)).result())
    # one that nobody closes
    client = Client(processes=False, n_workers=1, dashboard_address=":0")
    client.submit(np.sum, np.ones(1 << 19)).result()
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--json"], []])
def test_run_prints_what_clients_have_seen(options: list[str], tmp_path: Path) -> None:
    (script := tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "daskref.cli", "run", *options, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == f"{1 << 18}\n"
    told = [line for line in done.stderr.splitlines() if line.startswith("{")]
    if not options:
        assert not told
        return
    first, second = map(json.loads, told)
    assert first["client"] != second["client"]
    for each in (first, second):
        assert each["stats"]["puts"] == 1
        assert each["stats"]["gets"] == 1
        assert each["stats"]["bytes_kept"] > 1 << 20


def test_run_needs_a_program(capsys: Any) -> None:
    assert main(["run", "--json"]) == 2
    assert "which program?" in capsys.readouterr().err
