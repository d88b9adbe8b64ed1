"""Guards around every test: what it made, it takes away."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import dask.config
import pytest

SHM = Path("/dev/shm")
PREFIX = "daskref"
#: Where stores, sessions and owners of a process are known; not imported for that.
STORES, SESSIONS = "daskref.store._registry", "daskref.cluster.session"
OWNERS = "daskref.ownership.borrows"
#: Seconds for what a test has ended (processes, finalizers) to be gone.
PATIENCE = 5.0

# Before daskref reads it: tests start from the defaults, here and in what they spawn.
for _name in [name for name in os.environ if name.startswith("DASK_DASKREF__")]:
    del os.environ[_name]


@pytest.fixture(autouse=True)
def configuration_is_restored() -> Iterator[None]:
    """Undo what the test did to daskref's settings."""
    before = copy.deepcopy(dask.config.config.get("daskref"))
    yield
    if before is not None:
        dask.config.config["daskref"] = before


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_behind_at_the_end() -> Iterator[None]:
    """Fail at the end if anything is left open, or in shared memory, held or not."""
    # or the guards would see nothing, and say so of nothing
    assert all(map(find_spec, (STORES, SESSIONS, OWNERS)))
    before = _entries()
    yield
    if left := _wait(_stores, 2 * PATIENCE):
        pytest.fail(f"stores and sessions left open: {sorted(left)}")
    if left := _wait(lambda: _ours(_entries() - before, held=True), 2 * PATIENCE):
        pytest.fail(f"left in {SHM}: {sorted(left)}")


@pytest.fixture(autouse=True)
def nothing_stays_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves files in shared memory, stores or sessions behind.

    The session of a cluster that several tests share begins in the first of them: it
    is looked at when the run ends.
    """
    shared = "cluster" in request.fixturenames
    # Not at its own end: pytest keeps what was logged, errors included, until then.
    if left := _wait(_owners, PATIENCE):
        pytest.fail(f"owners that an earlier test left alive: {sorted(left)}")
    before, stores = _entries(), _stores()
    yield
    if not shared and (left := _wait(lambda: _stores() - stores, PATIENCE)):
        pytest.fail(f"stores and sessions left open: {sorted(left)}")
    if left := _wait(lambda: _ours(_entries() - before, held=False), PATIENCE):
        pytest.fail(f"left in {SHM}: {sorted(left)}")


def _owners() -> set[str]:
    """Return the owned objects of this process that somebody still owns."""
    borrows = sys.modules.get(OWNERS)
    if borrows is None or not borrows.owned:
        return set()
    gc.collect()  # an error that was caught may hold one, in its frames
    return set(map(repr, list(borrows.owned.values())))


def _wait(look: Callable[[], set[str]], seconds: float) -> set[str]:
    deadline = time.monotonic() + seconds
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _entries() -> set[str]:
    """Return the session directories, and whatever else of daskref is there."""
    return {str(path) for path in SHM.glob(f"{PREFIX}*")}


def _ours(entries: set[str], held: bool) -> set[str]:
    """Leave out what runs elsewhere on this machine have open.

    With *held* false, also what processes of this run have open.
    """
    if not entries:
        return entries
    family = _family()
    left = set(entries)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if held and int(pid) in family:
            continue
        for path in _open_files(pid):
            left -= {e for e in left if path == e or path.startswith(f"{e}/")}
    return left


def _family() -> set[int]:
    """Return this process and its descendants."""
    parents = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path("/proc", pid, "stat").read_text(errors="replace")
            parents[int(pid)] = int(stat.rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while more := {p for p, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _open_files(pid: str) -> Iterator[str]:
    # a process may end, or be another user's, at any point
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{fd}")


def _stores() -> set[str]:
    """Return the names of registered stores, and of sessions, of this process."""
    found: set[str] = set()
    # not imported for the guard's sake: most tests need neither
    if stores := sys.modules.get(STORES):
        found.update(stores._registry, stores._made)
    if session := sys.modules.get(SESSIONS):
        found.update(map(repr, session.sessions()))
    return found
