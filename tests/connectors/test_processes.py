from __future__ import annotations

import os

import pytest

from daskref.connectors.processes import has_ended, this_process


def test_processes_are_told_apart(child):
    here = this_process()
    assert here["pid"] == str(os.getpid())
    assert not has_ended(here)
    assert has_ended({**here, "started": "1"})  # its number is another's now
    process = child(
        "from daskref.connectors.processes import this_process\n"
        "say(this_process())\nsys.stdin.readline()"
    )
    theirs = eval(process.line())
    assert not has_ended(theirs)
    os.kill(process.popen.pid, 9)
    # ended, but not waited for: a zombie
    os.waitid(os.P_PID, process.popen.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(theirs)
    process.kill()
    assert has_ended(theirs)


@pytest.mark.parametrize("name", ["host", "boot", "machine", "namespace"])
def test_nothing_is_known_of_what_runs_elsewhere(name):
    assert not has_ended({**this_process(), "started": "1", name: "other"})


@pytest.mark.parametrize(
    "change", [{"pid": "../1"}, {"pid": 1}, {"started": ""}, {"started": None}]
)
def test_what_it_does_not_understand(change):
    assert not has_ended({**this_process(), "started": "1", **change})
    assert not has_ended(change)
