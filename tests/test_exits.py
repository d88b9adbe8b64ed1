"""Programs that do not close what they opened end as quietly as with plain Dask."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.exits import FREQUENT, PROGRAMS
from tests.spaces import ENVIRONMENT

_HEAD = """
import asyncio, atexit, os, signal, sys, threading
import distributed
import numpy as np
from {module} import Client

if __name__ == "__main__":
"""


def run(module: str, program: str, directory: Path) -> tuple[int, str]:
    """Return the exit status of a program, and what it wrote to stderr."""
    path = directory / f"program_{module}.py"
    body = textwrap.indent(textwrap.dedent(program), "    ")
    path.write_text(_HEAD.format(module=module) + body)
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        # SIGTERM leaves a session behind, for the next one to sweep
        env={**os.environ, **ENVIRONMENT, "DASK_DASKREF__SHM__ROOT": str(directory)},
        timeout=60,
    )
    return done.returncode, done.stderr


#: What Dask itself says of work that is lost at the end, depending on who is faster.
_LOST = re.compile(r"distributed\.scheduler - \w+ - (Removing worker|cannot schedule)")


def lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not _LOST.search(line)]


def check(name: str, directory: Path) -> None:
    status, said = run("daskref", PROGRAMS[name], directory)
    assert "daskref" not in said.replace("program_daskref", ""), said
    if not said and not status:
        return  # nothing can be quieter
    expected, plain = run("distributed", PROGRAMS[name], directory)
    assert status == expected
    assert len(lines(said)) <= len(lines(plain)), said


@pytest.mark.slow
@pytest.mark.parametrize("name", FREQUENT)
def test_as_quiet_as_plain_dask(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.stress
@pytest.mark.parametrize("name", sorted(PROGRAMS.keys() - set(FREQUENT)))
def test_other_ends(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)
