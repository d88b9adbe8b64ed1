"""Programs that close nothing end as quietly as with plain Dask, and leave nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.exit_programs import FREQUENT, PROGRAMS
from tests.support.namespaces import ENVIRONMENT

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
        env={**os.environ, **ENVIRONMENT, "DASK_DASKREF__SHM__ROOT": str(directory)},
        timeout=60,
    )
    return done.returncode, done.stderr


#: What Dask itself says of work that is lost at the end, depending on who is faster.
_LOST = re.compile(r"distributed\.scheduler - \w+ - (Removing worker|cannot schedule)")


#: And of a message that was just to be sent, with the traceback: of 30 clusters, closed
#: in their process, 5 said so with plain Dask, and 1 with daskref.
_UNSENT = re.compile(
    r"^\S+ \S+ - distributed\.batched - INFO - Batched Comm Closed.*\n"
    r"(Traceback .*\n([ \t].*\n)*distributed\.comm\.core\.CommClosedError.*\n?)?",
    re.MULTILINE,
)


def lines(stderr: str) -> list[str]:
    told = _UNSENT.sub("", stderr).splitlines()
    return [line for line in told if not _LOST.search(line)]


def test_what_dask_says_of_unsent_messages_does_not_count() -> None:
    record = (
        "2026-11-29 14:09:26,714 - distributed.batched - INFO - Batched Comm Closed\n"
        "Traceback (most recent call last):\n"
        '  File "batched.py", line 115, in _background_send\n'
        "    nbytes = yield coro\n"
        "             ^^^^^^^^^^\n"
        "distributed.comm.core.CommClosedError\n"
    )
    assert lines(f"before\n{record}after\n") == ["before", "after"]


def sessions(directory: Path) -> list[str]:
    """Return what is left of sessions in a directory, half-removed ones too."""
    return [name for name in os.listdir(directory) if "daskref-" in name]


def check(name: str, directory: Path) -> None:
    status, said = run("daskref", PROGRAMS[name], directory)
    assert "daskref" not in said.replace("program_daskref", ""), said
    if name != "SIGTERM":  # which leaves a session behind, for the next one to sweep
        assert not sessions(directory), said
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


#: A connector, and how slowly it is removed; `begun` once that has begun.
_SLOWLY = """
import multiprocessing, os, sys, threading, time
from daskref.connectors import SharedMemoryConnector
from daskref.connectors.files import session as directory

remove_whole = directory.remove_whole
begun = threading.Event()

def slowly(*args):
    begun.set()
    time.sleep(0.5)
    remove_whole(*args)

def put(path):
    with open(os.path.join(path, "identity")):
        SharedMemoryConnector(path).put(b"x")

if __name__ == "__main__":
    directory.remove_whole = slowly
    connector = SharedMemoryConnector(root=os.environ["ROOT"])
    connector.put(b"x")
"""

_LAST = {
    "a thread that has begun to remove": """
        threading.Thread(target=connector.close, daemon=True).start()
        begun.wait(30)
    """,
    "a thread that has begun to sweep": """
        pid = os.fork()
        if not pid:
            left = SharedMemoryConnector(root=os.environ["ROOT"])
            os._exit(0)
        os.waitpid(pid, 0)
        sweep = SharedMemoryConnector.sweep_sessions
        threading.Thread(target=sweep, args=[os.environ["ROOT"]], daemon=True).start()
        begun.wait(30)
    """,
    "a forked child": """
        context = multiprocessing.get_context("fork")
        read, write = context.Pipe()

        def work():
            connector.put(b"x")
            write.send(None)
            read_end.recv()

        read_end, write_end = context.Pipe()
        child = context.Process(target=work, daemon=False)
        child.start()
        read.recv()
        connector.close()
        write_end.send(None)
    """,
    "a spawned child": """
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=put, args=[connector.directory])
        child.start()
        child.join()
        connector.close()
    """,
}


@pytest.mark.parametrize("last", _LAST)
def test_who_ends_last_removes(last: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    path = tmp_path / "program.py"
    path.write_text(_SLOWLY + textwrap.indent(textwrap.dedent(_LAST[last]), "    "))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT, "ROOT": str(root)},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not os.listdir(root)
