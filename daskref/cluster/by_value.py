"""Functions to run in processes that may lack daskref, or have another version.

The other process may run any Python, so functions travel as source text instead of byte
code. The text needs only Dask, compiles in the other process, and calls
:mod:`daskref.cluster.joining` by name. Without daskref there, it returns the reason as
a text, where an import error would end Dask's message.
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

#: An expression: ``eval`` compiles text and returns a result.
_EVALUATED = (
    'exec(compile(source, "<daskref>", "exec"), space) or '
    "(space[name] if args is None else space[name](*args))"
)


class _Question:
    """Pickle as source text; unpickle as a function of it, or as its result."""

    def __init__(self, name: str, args: tuple[Any, ...] | None = None) -> None:
        self._name = name
        self._args = args

    def __reduce__(self) -> tuple[Any, ...]:
        # one dictionary: of two, `eval` lets comprehensions see but the first
        scope: dict[str, Any] = {"source": _SOURCE, "space": {}}
        return eval, (_EVALUATED, {**scope, "name": self._name, "args": self._args})


# Functions of :mod:`daskref.cluster.joining`, to run on the scheduler or on workers.
identify = _Question("identify")
give_pad = _Question("give_pad")
join = _Question("join")
check = _Question("check")


def worker_plugin_bytes(peer: dict[str, Any], info: bytes) -> bytes:
    """Return the worker plugin, pickled.

    A worker that cannot take part logs why, and closes.

    Parameters
    ----------
    peer
        The scheduler; see :func:`daskref.cluster.joining.identify`.
    info
        The pickled session: only a worker of the same protocol unpickles it.
    """
    return pickle.dumps(_Question("worker_plugin", (peer, info)))


def nanny_plugin_bytes(session: dict[str, Any]) -> bytes:
    """Return the pickled nanny plugin; without daskref, that does nothing."""
    return pickle.dumps(_Question("nanny_plugin", (session,)))
