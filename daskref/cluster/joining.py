"""Joining a session: functions that peers of any version call by name.

Names, parameters and returned fields of :func:`identify`, :func:`give_pad`,
:func:`join`, :func:`check`, :func:`worker_plugin` and :func:`nanny_plugin` never
change, except for added fields: a caller of another protocol must be able to learn so.
"""

from __future__ import annotations

import pickle
from importlib import import_module
from typing import TYPE_CHECKING, Any

from daskref._version import PROTOCOL, __version__
from daskref.cluster.sealing import give_pad as give_pad
from daskref.cluster.sealing import unseal
from daskref.exceptions import ConnectorError, DaskrefError, describe_peer

if TYPE_CHECKING:
    from distributed.diagnostics.plugin import NannyPlugin, WorkerPlugin
    from distributed.scheduler import Scheduler

#: Code of the roles, above this package: loaded by name, as an entry point is.
START = "daskref.scheduler.install:start"
WORKER_PLUGIN = "daskref.worker.plugin:ReferenceWorkerPlugin"
NANNY_PLUGIN = "daskref.worker.nanny:ReferenceNannyPlugin"


def _load(entry_point: str) -> Any:
    module, _, name = entry_point.partition(":")
    return getattr(import_module(module), name)


def identify() -> dict[str, Any]:
    """Return this process's ``protocol`` and ``version``."""
    return {"protocol": PROTOCOL, "version": __version__}


def lacking(where: str, reason: str) -> str:
    """Return how NotInstalledError names a process; *reason*: its import error."""
    return where if reason == "No module named 'daskref'" else f"{where} ({reason})"


async def join(
    scheduler: Scheduler, peer: dict[str, Any], client: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Admit a client; set up scheduler and workers if the client is the first.

    Parameters
    ----------
    peer
        The client, as :func:`identify` returns it.
    settings
        The client's own fields of :class:`~daskref.config.Settings`; may be sealed.

    Returns
    -------
    dict
        The fields of :func:`identify`. For a client of the same protocol also
        ``"answer"``: the pickled ``SessionInfo`` or error (Dask would log a raised
        error with the client's settings); ``"opened"``: the session's log entry;
        ``"in-band"``, if present: the store cannot be opened, and the client is to
        continue without.
    """
    told = identify()
    if peer["protocol"] == PROTOCOL:
        from daskref.config import Settings

        asked: dict[str, Any] = {}
        try:
            asked = unseal(settings)
            plugin = await _load(START)(scheduler, asked)
            told["answer"] = pickle.dumps(plugin.join(client))
            told["opened"] = plugin.opened()
        except ConnectorError as exc:
            told["answer"] = _pickled(exc)
            told["in-band"] = Settings.read(**asked).on_failure == "inband"
        except Exception as exc:
            told["answer"] = _pickled(exc)
    return told


def _pickled(exc: Exception) -> bytes:
    try:
        data = pickle.dumps(exc)
        pickle.loads(data)
        return data
    except Exception:  # a connector's own error, which does not pickle
        return pickle.dumps(DaskrefError(f"the session could not start: {exc!r}"))


async def check(server: Any, step: str, *args: Any) -> dict[str, Any]:
    """Run one step of a diagnosis; see :func:`daskref.cluster.health.check`.

    Returns the fields of :func:`identify` and those of the step.
    """
    from daskref.cluster import health

    return {**identify(), **await health.check(server, step, *args)}


def worker_plugin(peer: dict[str, Any], info: bytes) -> WorkerPlugin | str:
    """Return a worker's plugin, or why there is none; *peer*: the scheduler."""
    if peer["protocol"] != PROTOCOL:
        ours = describe_peer(identify())
        return f"it has {ours}, the scheduler has {describe_peer(peer)}"
    plugin: WorkerPlugin = _load(WORKER_PLUGIN)(info)
    return plugin


def nanny_plugin(session: dict[str, Any]) -> NannyPlugin:
    """Return a nanny's plugin; ``session["root"]``: the folder of its shared memory."""
    plugin: NannyPlugin = _load(NANNY_PLUGIN)(session["root"])
    return plugin
