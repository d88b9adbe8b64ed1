"""A user's program passes what checks types, and does what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from daskref.cluster.stats import STORED, HostStats, Stats
from daskref.store.metrics import COUNTERS
from tests.support.requirements import require, require_module

# where others use the machine
pytestmark = pytest.mark.timeout(300)

PROGRAM = Path(__file__).with_name("user_program.py")
ROOT = PROGRAM.parents[2]


def run(*command: str, cwd: Path) -> str:
    """Run a module of Python; return what it said."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        # the daskref that is tested, wherever another one is installed
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_mypy_accepts_a_users_program(tmp_path: Path) -> None:
    said = run(
        *("-m", "mypy", "--strict", "--follow-imports=silent", str(PROGRAM)),
        cwd=tmp_path,  # where there is no configuration
    )
    assert "no issues found in 1 source file" in said


@pytest.mark.slow
def test_pyright_accepts_a_users_program(tmp_path: Path) -> None:
    require_module("pyright")
    require(shutil.which("node"), "pyright needs node")
    shutil.copy(PROGRAM, tmp_path)
    settings = {"include": [PROGRAM.name], "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    said = run("-m", "pyright", "--pythonpath", sys.executable, cwd=tmp_path)
    assert "0 errors, 0 warnings" in said


@pytest.mark.slow
def test_a_users_program_runs(tmp_path: Path) -> None:
    assert "MB" in run("-W", "error", str(PROGRAM), cwd=tmp_path)


def test_the_types_of_stats_have_all_that_is_counted() -> None:
    names = {*STORED, *COUNTERS}
    assert get_type_hints(HostStats) == dict.fromkeys(names, int)
    assert set(get_type_hints(Stats)) == {*names, "hosts", "inband"}
