"""Findings of ``daskref doctor``: what works, what fails, and how to mend it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dask.utils import format_bytes

from daskref._version import PROTOCOL
from daskref.config import Settings, setting_name
from daskref.connectors.machine import is_low

#: Size of a container's `/dev/shm` by default: most values go to disk.
_TINY = 64 * 2**20
#: Share of the budget that a host should have left.
_LITTLE = 0.1
#: Open files that a process should be allowed.
_FILES = 1024
#: Seconds that clocks may differ: leases are as exact.
_APART = 2.0
_MEMORY = ("tmpfs", "ramfs")
_SAME = "Install the same version everywhere"
#: Checks of hosts; the others are of processes.
_OF_HOSTS = {"memory", "shared memory", "disk", "budget", "permissions", "port"}


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    #: ``"ok"``, ``"failed"`` or ``"skipped"``.
    status: str
    #: Which process or host; of several checks that are fine, how many.
    where: str
    told: str
    #: Advice, if it failed.
    mend: str = ""


def result(check: str, where: str, told: str, mend: str = "") -> Finding:
    """Return a finding; the check failed if there is an advice how to mend it."""
    return Finding(check, "failed" if mend else "ok", where, told, mend)


def of_process(where: str, told: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings on a process and its store.

    *told*: its answer to :func:`daskref.cluster.health.check` with ``"examine"``.
    """
    files = told["files"]
    mend = f"Raise the limit on open files: ulimit -n {_FILES} or more"
    text = f"it may open {files if files >= 0 else 'all'} files"
    yield result("limits", where, text, mend if 0 <= files < _FILES else "")
    if reason := told.get("error"):
        mend = f"Set {setting_name('connector')} to a store that this process reaches"
        yield result("store", where, reason, mend)
    elif (reason := told.get("unseen")) is not None:
        mend = (
            "Its values travel in Dask's messages. Let it share the other processes' "
            f"directory, or set {setting_name('connector')} to a store that all reach"
        )
        yield result("store", where, f"it cannot see the store: {reason}", mend)
    else:
        yield result("store", where, told["connector"])
        yield from of_trips(where, told["trips"])


def of_trips(where: str, trips: Mapping[str, str]) -> Iterator[Finding]:
    """Yield for each place whether an object that a process puts comes back."""
    for place, wrong in trips.items():
        text = f"{place}: {wrong or 'a value of 1 MiB came back'}"
        mend = "See to the store that the message names" if wrong else ""
        yield result("round trip", where, text, mend)


def of_host(where: str, told: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings on a host, from the answer of one of its processes."""
    total, left = told["memory"], told["memory_left"]
    text = f"{format_bytes(left)} left of {format_bytes(total)}"
    mend = "Values go to disk until there is more: end what takes the memory, or "
    mend += "give the container or job more"
    yield result("memory", where, text, mend if is_low(total, left) else "")
    yield from of_folders(where, told.get("folders", ()))
    yield from _of_budget(where, told.get("space", {}))


def of_folders(where: str, folders: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield for each directory of a host whether objects can go there."""
    yield from (_of_folder(where, folder) for folder in folders)


def _of_folder(where: str, folder: Mapping[str, Any]) -> Finding:
    path, kind, size = folder["path"], folder["kind"], format_bytes(folder["nbytes"])
    in_memory = folder["use"] == "memory"
    check = "shared memory" if in_memory else "disk"
    if (reason := folder.get("error")) is not None:
        advice = "to a directory that exists and that this user may write to"
        told = f"{path} cannot be used ({reason})"
        if not in_memory:
            told = f"what shared memory has no room for cannot go to disk, as {told}"
        return result(check, where, told, f"{_where_set(path, in_memory)} {advice}")
    if in_memory and kind not in _MEMORY:
        told = f"{path} is not in memory, but {kind or 'on an unknown file system'}"
        return result(check, where, told, f"{_where_set(path, True)} to a tmpfs")
    if in_memory and folder["nbytes"] <= _TINY:
        told = f"{path} has {size} only, so most values go to disk"
        mend = "Give the container more (docker run --shm-size=16g; in Kubernetes, an "
        mend += "emptyDir with medium: Memory on /dev/shm)"
        return result(check, where, told, mend)
    note = ", which takes memory, too" if kind in _MEMORY and not in_memory else ""
    left = format_bytes(folder["left"])
    return result(check, where, f"{path}: {left} left of {size} ({kind}){note}")


def _where_set(path: str, in_memory: bool) -> str:
    """Return how to name another directory, as the beginning of an advice."""
    settings = Settings.read()
    field = "shm_root" if in_memory else "spill_directory"
    ours = getattr(settings, field)
    if ours is not None and os.path.abspath(ours) == path:
        return f"Set {setting_name(field)}"
    if in_memory and path == "/dev/shm":
        return f"Set {setting_name(field)}, which is null,"
    if not in_memory and path == os.path.abspath(tempfile.gettempdir()):
        return f"Set {setting_name(field)}, which is null, or TMPDIR"
    option = "root" if in_memory else "spill_directory"
    return f"Set the option {option} of {setting_name('connector')}"


def _of_budget(where: str, space: Mapping[str, int]) -> Iterator[Finding]:
    budget, free = space.get("budget", 0), space.get("free", 0)
    if not budget:
        return
    text = f"puts may fill {format_bytes(budget)}; {format_bytes(free)} are free"
    mend = "Values go to disk. See what takes the memory (daskref stats), and "
    mend += "remove what dead sessions have left (daskref sweep)"
    yield result("budget", where, text, mend if free < budget * _LITTLE else "")


def of_versions(
    nodes: Mapping[str, dict[str, Any] | str], packages: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    """Yield differences between installations.

    Parameters
    ----------
    nodes
        Scheduler and workers -> answer, or why there is none.
    packages
        Process -> package -> version, as Dask collects them; this process first.
    """
    for where, told in nodes.items():
        if isinstance(told, str):
            mend = "Install daskref in its environment, and restart it"
            if "No module named 'daskref'" in told:
                told = "it is not installed"
            elif "has no attribute 'check'" in told:
                told, mend = "it is of another version", _SAME
            else:
                mend = "See whether the process is alive, and what its log says"
            yield result("daskref", where, told, mend)
        elif told["protocol"] != PROTOCOL:
            text = f"{told['version']} has protocol {told['protocol']}, not {PROTOCOL}"
            yield result("daskref", where, text, _SAME)
        else:
            yield result("daskref", where, str(told["version"]))
    names = sorted({name for found in packages.values() for name in found})
    wrong = False
    for name in names:
        by_version: dict[str, list[str]] = {}
        for where, found in packages.items():
            version = str(found.get(name) or "not installed")
            by_version.setdefault(version, []).append(where)
        if len(by_version) > 1:
            wrong = True
            text = ", ".join(f"{v} on {_some(w)}" for v, w in by_version.items())
            mend = f"Install the same version of {name} everywhere"
            yield result("versions", name, text, mend)
    if names and not wrong:
        yield result("versions", f"{len(packages)} processes", "the same packages")


def of_clocks(
    nodes: Mapping[str, Mapping[str, Any]], before: float, after: float
) -> Iterator[Finding]:
    """Yield clocks that differ from this machine's.

    *before*, *after*: when the processes were asked, and when all had answered.
    """
    for where, told in nodes.items():
        apart = max(before - told["time"], told["time"] - after, 0.0)
        if apart > _APART:
            text = f"its clock is {apart:.0f} s from this machine's"
            mend = "Set the clocks by NTP: leases and sweeps go by them"
            yield result("clocks", where, text, mend)
        else:
            yield result("clocks", where, "within two seconds")


def of_users(nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield hosts on which processes run as several users."""
    users: dict[str, dict[int, str]] = {}
    for told in nodes.values():
        users.setdefault(told["host"], {})[told["uid"]] = told["user"]
    for host, found in users.items():
        names = ", ".join(f"{name} ({uid})" for uid, name in sorted(found.items()))
        if len(found) > 1:
            mend = "Run all processes of a host as one user: sessions are private"
            yield result("permissions", host, f"processes run as {names}", mend)
        else:
            yield result("permissions", host, f"all run as {names}")


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, with all successes of a check as one."""
    kept: list[Finding] = []
    fine: dict[str, list[Finding]] = {}
    for each in findings:
        if each.status != "ok":
            kept.append(each)
            continue
        if each.check not in fine:
            kept.append(each)
        fine.setdefault(each.check, []).append(each)
    return [_together(each, fine.get(each.check, [])) for each in kept]


def _together(one: Finding, fine: list[Finding]) -> Finding:
    if one.status != "ok" or len(fine) == 1:
        return one
    texts = list(dict.fromkeys(each.told for each in fine))
    more = f"; {len(texts) - 3} more" if len(texts) > 3 else ""
    noun = "hosts" if one.check in _OF_HOSTS else "processes"
    where = _some([each.where for each in fine], noun)
    return one._replace(where=where, told="; ".join(texts[:3]) + more)


def _some(places: Iterable[str], noun: str = "processes") -> str:
    """Return the names of a few places, or how many there are."""
    names = list(dict.fromkeys(places))
    return ", ".join(names) if len(names) <= 2 else f"{len(names)} {noun}"
