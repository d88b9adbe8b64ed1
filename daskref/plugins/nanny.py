"""Memory limits: shared pages are not the worker's own.

Dask judges a worker by its resident set, which includes every shared-memory page that
it has mapped. A worker that only reads shared data would be paused, or killed.

Private Dask names used here, checked by ``tests/test_private_names.py``:

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

if TYPE_CHECKING:
    from distributed.nanny import Nanny


def shared_nbytes(pid: int | str = "self") -> int:
    """Return how much shared memory a process has resident, in bytes.

    From ``RssShmem`` in ``/proc/<pid>/status``; 0 where there is no such thing.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("RssShmem:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def private_memory(resident: Callable[[], int]) -> Callable[[], int]:
    """Wrap a function that returns this process's resident memory in bytes."""

    @functools.wraps(resident)
    def private() -> int:
        return max(0, resident() - shared_nbytes())

    return private


class MemoryNannyPlugin(NannyPlugin):  # type: ignore[misc]
    """Let a nanny judge its worker by the memory that is the worker's own."""

    name = "daskref"
    _check: Callable[[], Any] | None = None

    def setup(self, nanny: Nanny) -> None:
        """Put our check before the nanny's."""
        callback = nanny.periodic_callbacks.get("memory_monitor")
        if callback is None:
            return
        check = self._check = callback.callback

        def checked() -> None:
            if self._exceeds(nanny):
                check()

        callback.callback = checked

    def teardown(self, nanny: Nanny) -> None:
        """Give the nanny its own check back."""
        if self._check is not None:
            nanny.periodic_callbacks["memory_monitor"].callback = self._check

    @staticmethod
    def _exceeds(nanny: Nanny) -> bool:
        manager = nanny.memory_manager
        process = nanny.process and nanny.process.process
        if process is None or process.pid is None:
            return False
        try:
            resident = psutil.Process(process.pid).memory_info().rss
        except psutil.Error:
            return False
        own = resident - shared_nbytes(process.pid)
        return bool(own > manager.memory_limit * manager.memory_terminate_fraction)
