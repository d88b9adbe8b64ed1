"""What is wrong, from what processes tell."""

from __future__ import annotations

from typing import Any

import pytest

from daskref._version import PROTOCOL
from daskref.cli import _findings as findings
from daskref.cli._findings import Finding

GIB = 2**30
PROCESS = {
    "host": "one", "user": "ada", "uid": 7, "time": 100.0,
    "memory": 64 * GIB, "memory_left": 32 * GIB, "files": 4096,
}  # fmt: skip
MEMORY = {"use": "memory", "path": "/dev/shm", "kind": "tmpfs", "nbytes": 32 * GIB}
DISK = {"use": "disk", "path": "/scratch", "kind": "ext4", "nbytes": 900 * GIB}
FINE = {
    **PROCESS,
    "connector": "<ZmqConnector>",
    "trips": {"zmq": ""},
    "folders": [{**MEMORY, "left": 30 * GIB}, {**DISK, "left": 600 * GIB}],
    "space": {"budget": 20 * GIB, "free": 30 * GIB},
}


def failing(found: Any) -> list[Finding]:
    """Return what fails, of findings, or of what a process tells."""
    if isinstance(found, dict):
        found = [*findings.of_process("w", found), *findings.of_host("one", found)]
    found = list(found)
    assert {each.status for each in found} <= {"ok", "failed"}
    assert all(bool(each.mend) == (each.status == "failed") for each in found)
    return [each for each in found if each.status == "failed"]


def test_a_process_and_a_host_that_are_fine() -> None:
    assert not failing(FINE)


@pytest.mark.parametrize(
    ("changed", "check"),
    [({"files": 256}, "limits"), ({"memory_left": 3 * GIB}, "memory")],
)
def test_limits_of_a_process(changed: dict[str, int], check: str) -> None:
    (wrong,) = failing({**FINE, **changed})
    assert wrong.check == check


def test_any_number_of_files_is_enough() -> None:
    assert not failing({**FINE, "files": -1})


@pytest.mark.parametrize(
    ("changed", "check", "told", "mend"),
    [
        ({"error": "refused"}, "store", "refused", "daskref.connector"),
        ({"unseen": "no such"}, "store", "cannot see the store: no such", "share"),
        ({"trips": {"a": "", "b": "gone"}}, "round trip", "b: gone", "store"),
        (
            {"folders": [{**MEMORY, "nbytes": 64 << 20, "left": 0}]},
            "shared memory",
            "64.00 MiB only",
            "--shm-size",
        ),
        (
            {"folders": [{**MEMORY, "kind": "nfs", "left": GIB}]},
            "shared memory",
            "not in memory, but nfs",
            "Set daskref.shm.root, which is null, to a tmpfs",
        ),
        (
            {"folders": [{**DISK, "left": 0, "error": "Read-only file system"}]},
            "disk",
            "/scratch cannot be used (Read-only file system)",
            "Set the option spill_directory of daskref.connector",
        ),
        ({"space": {"budget": 20 * GIB, "free": GIB}}, "budget", "1.00 GiB", "sweep"),
    ],
)
def test_what_is_wrong_with_a_store(
    changed: dict[str, Any], check: str, told: str, mend: str
) -> None:
    (wrong,) = failing({**FINE, **changed})
    assert wrong.check == check
    assert told in wrong.told
    assert mend in wrong.mend


def test_a_store_without_memory_has_no_budget() -> None:
    space = {"budget": 0, "free": 0}
    assert not failing({**FINE, "space": space, "folders": []})


def test_installations() -> None:
    fine = {"protocol": PROTOCOL, "version": "1"}
    nodes: dict[str, Any] = {
        "a": fine,
        "b": {"protocol": PROTOCOL + 1, "version": "2"},
        "c": "No module named 'daskref'",
        "d": "module 'daskref.cluster.joining' has no attribute 'check'",
        "e": "it did not answer within 2 s",
    }
    packages = {
        "here": {"dask": "1", "numpy": "2"},
        "a": {"dask": "1", "numpy": "2"},
        "b": {"dask": "1", "numpy": None},
    }
    wrong = failing(findings.of_versions(nodes, packages))
    assert [each.where for each in wrong] == ["b", "c", "d", "e", "numpy"]
    assert wrong[-1].told == "2 on here, a, not installed on b"
    assert not failing(findings.of_versions({"a": fine}, {"a": packages["a"]}))


def test_clocks() -> None:
    def of(time: float) -> list[Finding]:
        return failing(findings.of_clocks({"w": {**PROCESS, "time": time}}, 99, 101))

    assert not of(100)
    assert not of(102.5)  # it may have been asked late
    assert [each.told[:16] for each in of(60)] == ["its clock is 39 "]
    assert of(200)


def test_users_of_a_host() -> None:
    other = {**PROCESS, "uid": 8, "user": "bob"}
    assert not failing(findings.of_users({"a": PROCESS, "b": {**other, "host": "two"}}))
    (wrong,) = failing(findings.of_users({"a": PROCESS, "b": other}))
    assert (wrong.where, wrong.told) == ("one", "processes run as ada (7), bob (8)")


def test_what_is_fine_is_told_together() -> None:
    found = [findings.result("store", f"w{n}", f"text {n % 4}") for n in range(8)]
    found.insert(3, findings.result("store", "w9", "gone", "mend it"))
    found.append(findings.result("disk", "w1", "text"))
    fine, wrong, disk = findings.merged(found)
    assert fine.where == "8 processes"
    assert fine.told == "text 0; text 1; text 2; 1 more"
    assert (wrong.where, disk.where) == ("w9", "w1")
