"""The nanny plugin: memory limits, and cleanup when all processes end at once.

Dask judges a worker by its resident set, which includes every page of an object that
it has mapped. A worker that only reads shared data would be paused, or killed.

A signal to a whole group of processes (Ctrl-C, the end of a batch job) ends scheduler
and workers at once. The scheduler leaves the session before the workers die, so that
only nannies, which end last, can remove it.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================================  =========================================
name                                        what for
==========================================  =========================================
``Nanny.periodic_callbacks``                the nanny's check of its worker's memory
``Nanny.memory_manager``                    its limit
``SystemMonitor.get_process_memory``        the worker's own check
==========================================  =========================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil
from distributed.diagnostics.plugin import NannyPlugin

from daskref.connectors import SharedMemoryConnector
from daskref.worker._memory import OwnMemory

if TYPE_CHECKING:
    from distributed.nanny import Nanny


def own_memory(resident: Callable[[], int]) -> Callable[[], int]:
    """Wrap a function that returns this process's resident memory in bytes."""
    memory = OwnMemory()

    @functools.wraps(resident)
    def own() -> int:
        return memory.of(resident())

    return own


class ReferenceNannyPlugin(NannyPlugin):  # type: ignore[misc]
    """Judge a worker by its own memory, and remove the session's memory at the end.

    *root*: the folder of the session's shared memory.
    """

    name = "daskref"
    _root: str | None
    _check: Callable[[], Any] | None = None
    #: Of the worker with this process id.
    _memory: tuple[int, OwnMemory] | None = None

    def __init__(self, root: str | None) -> None:
        self._root = root

    def setup(self, nanny: Nanny) -> None:
        """Put the check of own memory before the nanny's."""
        SharedMemoryConnector.sweep_at_end(self._root)
        callback = nanny.periodic_callbacks.get("memory_monitor")
        if callback is None:
            return
        check = self._check = callback.callback

        def checked() -> None:
            if self._exceeds(nanny):
                check()

        callback.callback = checked

    def teardown(self, nanny: Nanny) -> None:
        """Restore the nanny's check."""
        if self._check is not None:
            nanny.periodic_callbacks["memory_monitor"].callback = self._check

    def _exceeds(self, nanny: Nanny) -> bool:
        manager = nanny.memory_manager
        process = nanny.process and nanny.process.process
        if process is None or process.pid is None:
            return False
        limit = manager.memory_limit * manager.memory_terminate_fraction
        try:
            resident = psutil.Process(process.pid).memory_info().rss
        except psutil.Error:
            return False
        if resident <= limit:  # then its own memory is as well
            return False
        if self._memory is None or self._memory[0] != process.pid:
            self._memory = process.pid, OwnMemory(process.pid)
        return bool(self._memory[1].of(resident) > limit)
