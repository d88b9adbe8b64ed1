"""Questions to processes that may lack daskref, or have another one.

Such a process may run any Python, so nothing travels as byte code. What is installed
there is asked by name, through a few lines of source text that it compiles itself and
that need nothing but Dask. They say what is wrong where a name would be an error of
Dask's about a module that nobody has heard of.
"""

from __future__ import annotations

import pickle
from typing import Any

#: Calls a function of :mod:`daskref.cluster.joining`. Where there is no such thing, the
#: answer is a text: why not.
_SOURCE = '''
import logging
from importlib import import_module

from distributed.diagnostics.plugin import NannyPlugin, WorkerPlugin


def ask(name, *args):
    try:
        return getattr(import_module("daskref.cluster.joining"), name)(*args)
    except (ImportError, AttributeError) as exc:
        return str(exc)


def identify():
    return ask("identify")


def give_pad():
    return ask("give_pad")


async def join(peer, client, settings, dask_scheduler=None):
    answer = ask("join", dask_scheduler, peer, client, settings)
    return answer if isinstance(answer, str) else await answer


async def check(step, *args, dask_worker=None, dask_scheduler=None):
    answer = ask("check", dask_worker or dask_scheduler, step, *args)
    return answer if isinstance(answer, str) else await answer


class Refusal(WorkerPlugin):
    """Closes a worker: it could not run a task that has a reference in it."""

    name = "daskref"

    def __init__(self, peer, reason):
        self.peer = peer
        self.reason = reason

    def setup(self, worker):
        text = (
            f"Worker {worker.address} cannot take part in a cluster that passes large "
            f"values by reference, so it closes: {self.reason}. Run `pip install "
            f"daskref=={self.peer['version']}` in its environment and restart it."
        )
        logging.getLogger("distributed.worker").error(text)
        worker.loop.add_callback(worker.close, nanny=True, reason=text)


def worker_plugin(peer, info):
    plugin = ask("worker_plugin", peer, info)
    return Refusal(peer, plugin) if isinstance(plugin, str) else plugin


def nanny_plugin(session):
    plugin = ask("nanny_plugin", session)
    return NannyPlugin() if isinstance(plugin, str) else plugin
'''

#: An expression, as ``eval`` is what compiles text and returns what came of it.
_EVALUATED = (
    'exec(compile(source, "<daskref>", "exec"), space) or '
    "(space[name] if args is None else space[name](*args))"
)


class _Question:
    """Pickles as source text; what is unpickled is a function of it, or its answer."""

    def __init__(self, name: str, args: tuple[Any, ...] | None = None) -> None:
        self._name = name
        self._args = args

    def __reduce__(self) -> tuple[Any, ...]:
        # one dictionary: of two, `eval` lets comprehensions see but the first
        scope: dict[str, Any] = {"source": _SOURCE, "space": {}}
        return eval, (_EVALUATED, {**scope, "name": self._name, "args": self._args})


#: ``() -> answer``, to run on a worker: see :func:`daskref.cluster.joining.identify`.
identify = _Question("identify")

#: ``() -> answer``, to be run on the scheduler: see
#: :func:`daskref.cluster.sealing.give_pad`.
give_pad = _Question("give_pad")

#: ``async (peer, client, settings) -> answer``, to be run on the scheduler: see
#: :func:`daskref.cluster.joining.join`.
join = _Question("join")

#: ``async (step, *args) -> answer``, to be run on the scheduler and on workers: see
#: :func:`daskref.cluster.joining.check`.
check = _Question("check")


def worker_plugin_bytes(peer: dict[str, Any], info: bytes) -> bytes:
    """Return the worker plugin pickled, as the scheduler hands it to workers.

    A worker that cannot take part says why, and closes.

    Parameters
    ----------
    peer
        What the scheduler is; see :func:`daskref.cluster.joining.identify`.
    info
        The session to join, pickled: to be unpickled only by who has the same protocol.
    """
    return pickle.dumps(_Question("worker_plugin", (peer, info)))


def nanny_plugin_bytes(session: dict[str, Any]) -> bytes:
    """Return the nanny plugin pickled; one that does nothing without daskref."""
    return pickle.dumps(_Question("nanny_plugin", (session,)))
