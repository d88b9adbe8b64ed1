"""Joining a session: what peers of any version call here, by name.

The names of :func:`identify`, :func:`give_pad`, :func:`join`, :func:`check`,
:func:`worker_plugin` and :func:`nanny_plugin`, what they take, and the fields of what
they return never change, but by more fields: whoever calls them may have another
protocol, and is to hear so.
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

#: What runs in each process, above this package: loaded by name, as an entry point is.
START = "daskref.scheduler.install:start"
WORKER_PLUGIN = "daskref.worker.plugin:ReferenceWorkerPlugin"
NANNY_PLUGIN = "daskref.worker.nanny:ReferenceNannyPlugin"


def _load(entry_point: str) -> Any:
    module, _, name = entry_point.partition(":")
    return getattr(import_module(module), name)


def identify() -> dict[str, Any]:
    """Return what this process speaks: its ``protocol`` and its ``version``."""
    return {"protocol": PROTOCOL, "version": __version__}


def lacking(where: str, reason: str) -> str:
    """Return how :class:`~daskref.exceptions.NotInstalledError` names a process.

    *reason*: what it said of the import.
    """
    return where if reason == "No module named 'daskref'" else f"{where} ({reason})"


async def join(
    scheduler: Scheduler, peer: dict[str, Any], client: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Let a client in, and set up what is not yet: scheduler and workers.

    Parameters
    ----------
    peer
        What the client is, as :func:`identify` says it.
    settings
        Fields of :class:`~daskref.config.Settings` that it has set; may be sealed.

    Returns
    -------
    dict
        What :func:`identify` returns and, for a client of the same protocol,
        ``"answer"``: the session's ``SessionInfo`` or the error,
        pickled. Raised here, Dask would log it with what the client has sent.
        ``"opened"``: what the log says of a session, in words.
        ``"in-band"``, if there: the store cannot be opened, and the client is to go on
        without.
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
    except Exception:  # a connector's own, whatever it is made of
        return pickle.dumps(DaskrefError(f"the session could not start: {exc!r}"))


async def check(server: Any, step: str, *args: Any) -> dict[str, Any]:
    """Do one step of a diagnosis here; see :func:`daskref.cluster.health.check`.

    Returns
    -------
    dict
        What :func:`identify` returns, and what the step does.
    """
    from daskref.cluster import health

    return {**identify(), **await health.check(server, step, *args)}


def worker_plugin(peer: dict[str, Any], info: bytes) -> WorkerPlugin | str:
    """Return the plugin of a worker, or why there is none.

    *peer*: what the scheduler is, as :func:`identify` says it.
    """
    if peer["protocol"] != PROTOCOL:
        ours = describe_peer(identify())
        return f"it has {ours}, the scheduler has {describe_peer(peer)}"
    plugin: WorkerPlugin = _load(WORKER_PLUGIN)(info)
    return plugin


def nanny_plugin(session: dict[str, Any]) -> NannyPlugin:
    """Return the plugin of a nanny, which talks to nobody.

    *session*: ``"root"``: where its shared memory is, as
    :class:`~daskref.connectors.SharedMemoryConnector` has it.
    """
    plugin: NannyPlugin = _load(NANNY_PLUGIN)(session["root"])
    return plugin
