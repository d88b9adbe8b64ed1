"""Dask's scheduler, workers and clients on hosts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from daskref.testing.certificates import make_certificate
from daskref.testing.host import Host, HostProcess
from daskref.testing.processes import environment, start_scheduler, start_worker

#: Peers that are silently gone are noticed as soon as Dask can.
_ENVIRONMENT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s"}


class HostCluster:
    """A scheduler on one host, and workers on any.

    Parameters
    ----------
    host
        Of the scheduler.
    certificates
        Directory to make certificates in, if Dask is to use TLS; all hosts must see it.
    ipv6
        Whether processes listen on their host's address of IPv6.
    env
        Of all processes.

    Notes
    -----
    Whatever runs ends with its host.
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
        """Start a worker, without a nanny unless *args* say otherwise.

        Parameters
        ----------
        host
            To run on.
        *args
            Of ``dask worker``.
        name
            By default the host's.
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
        """Call ``func(address, *args)`` in a new process; return what it returns."""
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
