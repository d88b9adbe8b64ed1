"""Diagnosis of one process and its store, for ``daskref doctor``.

It runs on the scheduler and on each worker, with daskref on or off. A round trip puts
an object that no Dask key holds and takes it again; if the caller dies in between, the
object's lease ends it.
"""

from __future__ import annotations

import getpass
import os
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from daskref.background import run_apart
from daskref.cluster.opening import open_session_connector
from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.connectors import MultiConnector, SharedMemoryConnector, ZmqConnector
from daskref.connectors.base import Connector, Key
from daskref.connectors.filesystems import kind_of
from daskref.connectors.machine import memory
from daskref.connectors.multi import MultiKey
from daskref.exceptions import DaskrefError

#: The object of a round trip.
_VALUE = bytes(range(256)) * 4096
#: Seconds for which it stays if no process takes it.
_LEASE = 60.0


async def check(server: Any, step: str, *args: Any) -> dict[str, Any]:
    """Run one step of a diagnosis on a scheduler or worker.

    Returns the step's result; ``"error"``: why it failed, as a text.

    Parameters
    ----------
    server
        Dask's server object.
    step
        ``"tell"``, which puts nothing; ``"examine"``, which also tries the store;
        ``"put"``, ``"take"`` or ``"evict"``.
    *args
        Of :func:`take` and :func:`evict`.
    """
    plugin: Any = server.plugins.get("daskref")
    session: ClusterStore | None = getattr(plugin, "session", None)
    told: dict[str, Any] = {}
    if step in ("tell", "examine"):
        told |= describe_process()
        told["on"] = session is not None
        told["opened"] = plugin.opened() if hasattr(plugin, "opened") else {}
    if step == "tell":
        return told
    try:
        if step == "examine":
            told |= await run_apart(_examine, session)
        elif session is None or session.store is None:
            told["error"] = "daskref is off"
        else:
            told |= await session.run(_STEPS[step], session.store.connector, *args)
    except DaskrefError as exc:
        told["error"] = str(exc)
    return told


def _examine(session: ClusterStore | None) -> dict[str, Any]:
    if session is None:
        with open_session_connector(Settings.read()) as connector:
            return describe_store(connector)
    if session.store is None or not session.reachable:
        return {"unseen": str(session.inband.unseen)}
    return describe_store(session.store.connector)


def describe_process() -> dict[str, Any]:
    """Return the process's host name, user, limits and clock."""
    total, left = memory()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # it has no name in this container
        user = str(os.geteuid())
    return {
        "host": socket.gethostname(),
        "user": user,
        "uid": os.geteuid(),
        "time": time.time(),
        "memory": total,
        "memory_left": left,
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def describe_store(connector: Connector) -> dict[str, Any]:
    """Return a connector's state on this host, and whether round trips work. Blocks.

    Returns
    -------
    dict
        ``"connector"``: its ``repr``; ``"place"``: the host's identity;
        ``"endpoints"``: where other hosts reach this one; ``"space"``: as
        :class:`~daskref.connectors.space.Space`; ``"folders"``: the objects'
        directories, each with ``"use"``, ``"path"``, ``"kind"``, ``"nbytes"``,
        ``"left"`` and, if unusable, ``"error"``; ``"trips"``: place -> what went wrong,
        or an empty text.

    Raises
    ------
    ConnectorError
        If the connector does not answer.
    """
    across = connector if isinstance(connector, ZmqConnector) else None
    return {
        "connector": repr(connector),
        "place": "" if across is None else across.host,
        "endpoints": [] if across is None else across.endpoints,
        "space": connector.space()._asdict(),
        "folders": list(_folders(connector)),
        "trips": {name: _trip(connector, name) for name in _places(connector)},
    }


def put(connector: Connector) -> dict[str, Any]:
    """Put an object into each place of the connector, for another process to take."""
    return {"keys": {name: _put(connector, name) for name in _places(connector)}}


def take(connector: Connector, key: Key) -> dict[str, Any]:
    """Take another process's object; ``"error"``: why its content differs."""
    data = connector.take(key)
    if data is None:
        return {"error": "what was put is not there"}
    return {} if data == _VALUE else {"error": "what came back is not what was put"}


def evict(connector: Connector, key: Key) -> dict[str, Any]:
    """Delete an object that no process could take."""
    connector.evict(key)
    return {}


#: Steps that need a session.
_STEPS: dict[str, Callable[..., Any]] = {"put": put, "take": take, "evict": evict}


def _places(connector: Connector) -> list[str]:
    if isinstance(connector, MultiConnector):
        return connector.names
    return [getattr(connector, "scheme", type(connector).__name__)]


def _put(connector: Connector, place: str) -> Key:
    if isinstance(connector, MultiConnector):
        child = connector.child(place)
        return MultiKey(place, _put(child, _places(child)[0]))
    key = connector.put(_VALUE)
    connector.renew(key, _LEASE)
    return key


def _trip(connector: Connector, place: str) -> str:
    """Return what goes wrong when an object is put and taken here."""
    try:
        key = _put(connector, place)
        try:
            return str(take(connector, key).get("error", ""))
        except DaskrefError:
            with suppress(DaskrefError):
                connector.evict(key)
            raise
    except DaskrefError as exc:
        return str(exc)


def _folders(connector: Connector) -> Iterator[dict[str, Any]]:
    if not isinstance(connector, SharedMemoryConnector | ZmqConnector | MultiConnector):
        return
    for config in _nested(connector.config()):
        if "spill_directory" not in config:
            continue
        here = config.get("directory")
        root = os.path.dirname(here) if here else config.get("root") or "/dev/shm"
        yield _folder("memory", root)
        yield _folder("disk", config["spill_directory"] or tempfile.gettempdir())


def _nested(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration and all mappings inside it."""
    if isinstance(config, Mapping):
        yield config
        config = list(config.values())
    if isinstance(config, list | tuple):
        for each in config:
            yield from _nested(each)


def _folder(use: str, path: str) -> dict[str, Any]:
    path = os.path.abspath(path)
    told = {"use": use, "path": path, "kind": kind_of(path), "nbytes": 0, "left": 0}
    try:  # permissions do not tell: root has them all
        os.rmdir(tempfile.mkdtemp(prefix=".daskref-check-", dir=path))
        there = os.statvfs(path)
    except OSError as exc:
        return {**told, "error": exc.strerror or repr(exc)}
    size, left = (n * there.f_frsize for n in (there.f_blocks, there.f_bavail))
    return {**told, "nbytes": size, "left": left}
