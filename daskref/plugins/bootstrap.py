"""Code that travels by value, for processes that may lack daskref.

A function or class of daskref pickles as its name, and a process without daskref
cannot even unpickle it: its error would not say what to do. What is here pickles as
code instead and needs nothing but Dask.
"""

from __future__ import annotations

import builtins
import functools
from types import FunctionType
from typing import TYPE_CHECKING, Any

import cloudpickle
from distributed.diagnostics.plugin import NannyPlugin, WorkerPlugin

if TYPE_CHECKING:
    from daskref.session import SessionInfo


def by_value(func: Any) -> Any:
    """Return a copy of a function that pickles as code.

    The function may use nothing from its module: it imports what it needs itself.
    """
    # cloudpickle pickles functions of __main__ by value, their globals included
    copied = FunctionType(
        func.__code__,
        {"__builtins__": builtins, "__name__": "__main__"},
        func.__name__,
        func.__defaults__,
    )
    copied.__module__ = "__main__"
    copied.__qualname__ = func.__name__
    copied.__kwdefaults__ = func.__kwdefaults__
    return copied


async def _install(client, settings, dask_scheduler=None):  # type: ignore[no-untyped-def]
    try:
        from daskref.plugins.installing import install
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "daskref":
            raise
        return None
    return await install(dask_scheduler, client, settings)


#: ``async (client, settings) -> (info, missing) | None``, to be run on the scheduler;
#: ``None``: there is no daskref there.
install_on_scheduler = by_value(_install)


async def _setup(self, worker):  # type: ignore[no-untyped-def]
    import logging

    try:
        from daskref.plugins.worker import ReferenceWorkerPlugin
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "daskref":
            raise
        message = (
            f"daskref is not installed on worker {worker.address}, but the cluster "
            "passes large values by reference. Run `pip install daskref` in the "
            "worker's environment and restart it."
        )
        if self.strict:
            # It could not run a single task that has a reference in it.
            logging.getLogger("distributed.worker").error(message)
            worker.loop.add_callback(worker.close, nanny=True, reason=message)
        raise RuntimeError(message) from None
    self.plugin = ReferenceWorkerPlugin(self.info)
    await self.plugin.setup(worker)
    # without a detour: it is called for every step of every task
    self.transition = self.plugin.transition


async def _teardown(self, worker):  # type: ignore[no-untyped-def]
    if self.plugin is not None:
        await self.plugin.teardown(worker)


@functools.cache
def _bootstrap_class() -> type:
    return type(
        "ReferenceBootstrap",
        (WorkerPlugin,),
        {
            "__module__": "__main__",
            "name": "daskref",
            "setup": by_value(_setup),
            "teardown": by_value(_teardown),
        },
    )


def worker_plugin_bytes(info: SessionInfo, *, strict: bool) -> bytes:
    """Return the worker plugin pickled, as the scheduler hands it to workers.

    Parameters
    ----------
    info
        The session to join.
    strict
        Close a worker without daskref: for workers that come later, which nobody can
        refuse at once.
    """
    plugin = _bootstrap_class()()
    plugin.plugin = None
    plugin.strict = strict
    # unpickled only once daskref is known to be there
    plugin.info = cloudpickle.dumps(info)
    data: bytes = cloudpickle.dumps(plugin)
    return data


def _setup_nanny(self, nanny):  # type: ignore[no-untyped-def]
    try:
        from daskref.plugins.nanny import MemoryNannyPlugin
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "daskref":
            raise
        return  # its worker says what is missing
    self.plugin = MemoryNannyPlugin()
    self.plugin.setup(nanny)


def _teardown_nanny(self, nanny):  # type: ignore[no-untyped-def]
    if self.plugin is not None:
        self.plugin.teardown(nanny)


def nanny_plugin_bytes() -> bytes:
    """Return the nanny plugin pickled, as the scheduler hands it to nannies."""
    cls = type(
        "ReferenceNannyBootstrap",
        (NannyPlugin,),
        {
            "__module__": "__main__",
            "name": "daskref",
            "plugin": None,
            "setup": by_value(_setup_nanny),
            "teardown": by_value(_teardown_nanny),
        },
    )
    data: bytes = cloudpickle.dumps(cls())
    return data
