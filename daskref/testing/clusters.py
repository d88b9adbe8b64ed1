"""Dask's scheduler, workers and clients on hosts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from daskref.testing.certificates import make_certificate
from daskref.testing.host import Host, HostProcess
from daskref.testing.processes import environment, start_scheduler, start_worker

#: The shortest timeout with which Dask notices peers that vanish.
_ENVIRONMENT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s"}


class HostCluster:
    """A scheduler on one host, and workers on any. Each process ends with its host.

    Parameters
    ----------
    host
        Of the scheduler.
    certificates
        Directory to make certificates in, if Dask is to use TLS; all hosts must see it.
    ipv6
        Whether processes listen on their host's address of IPv6.
    env
        Environment of all processes, on top of this one's.
    """

    env: dict[str, str]
    scheduler: HostProcess
    workers: dict[str, HostProcess]

    def __init__(
        self,
        host: Host,
        *,
        certificates: Path | None = None,
        ipv6: bool = False,
        env: dict[str, str] | None = None,
    ) -> None:
        self.env = {**_ENVIRONMENT, **(env or {})}
        if certificates is not None:
            self.env |= make_certificate(certificates)
        self._ipv6 = ipv6
        protocol = "tcp" if certificates is None else "tls"
        self.workers = {}
        self.scheduler = host.adopt(
            start_scheduler(
                "--protocol", protocol, prefix=host.prefix, host=self._listen(host),
                env={**environment(), **self.env},
            )
        )  # fmt: skip

    def _listen(self, host: Host) -> str:
        return f"[{host.address6}]" if self._ipv6 else host.address

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return self.scheduler.address

    def add_worker(self, host: Host, *args: str, name: str = "") -> HostProcess:
        """Start a worker, named like the host by default.

        *args*: of ``dask worker``; by default, the worker has no nanny.
        """
        name = name or host.name
        worker = host.adopt(
            start_worker(
                self.address, *(args or ("--no-nanny",)), "--name", name,
                prefix=host.prefix, host=self._listen(host),
                env={**environment(), **self.env},
            )
        )  # fmt: skip
        self.workers[name] = worker
        return worker

    def call(
        self, host: Host, func: Callable[..., Any], *args: Any, timeout: float = 60
    ) -> Any:
        """Return the result of ``func(address, *args)`` in a new process on a host."""
        return host.call(func, self.address, *args, env=self.env, timeout=timeout)

    def start(
        self, host: Host, func: Callable[..., Any], *args: Any, pattern: str
    ) -> HostProcess:
        """Call ``func(address, *args)`` as :meth:`Host.start_call` does."""
        return host.start_call(func, self.address, *args, env=self.env, pattern=pattern)

    def stop(self) -> None:
        """End the workers, then the scheduler, as a user would."""
        for process in [*self.workers.values(), self.scheduler]:
            process.stop()
