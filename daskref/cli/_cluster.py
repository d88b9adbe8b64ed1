"""Requests of commands to a cluster's scheduler, without a client.

A client would be counted, and configuration may make it switch daskref on. Each request
has the time limit ``--timeout``.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import click
import dask.config
from distributed import Client
from distributed.comm.addressing import get_address_host_port
from distributed.core import clean_exception, rpc
from distributed.protocol.pickle import dumps, loads
from distributed.security import Security

from daskref.cli._printing import NO_ANSWER, OFF, CommandError, Progress, quantity
from daskref.cluster import by_value
from daskref.units import parse_seconds

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: Seconds that a connection may take to close.
_GOODBYE = 1.0
#: Share of the time limit in which Dask may connect: its error says why it could not.
_CONNECTING = 0.9
#: Concurrent requests to workers.
_AT_ONCE = 64


class Target(NamedTuple):
    """A cluster's address, and how to connect to it."""

    address: str
    #: Arguments of :class:`~distributed.security.Security`.
    tls: dict[str, str]
    #: Seconds for each answer.
    timeout: float

    def run(self, asking: Callable[[Cluster], Awaitable[T]]) -> T:
        """Connect, and return what *asking* returns.

        Raises CommandError if the cluster is unreachable, or does not answer.
        """

        async def _run() -> T:
            with Progress() as shown:
                async with _connected(self, shown) as cluster:
                    return await asking(cluster)

        return asyncio.run(_run())


@dataclass(eq=False, repr=False)
class Cluster:
    """A connection to a cluster's scheduler."""

    address: str
    _security: Security
    #: Dask's ``rpc``.
    scheduler: Any
    #: Seconds for each answer.
    _timeout: float
    _shown: Progress
    #: Addresses of the workers at the time of the connection.
    workers: list[str] = field(init=False)
    #: The scheduler's, at that time.
    identity: dict[str, Any] = field(init=False)

    async def wait(self, what: str, answer: Awaitable[T], requests: int = 1) -> T:
        """Return the scheduler's answer.

        *what*: the activity to show meanwhile, as in ``"asking the scheduler"``.
        *requests*: how many requests are behind the answer; each has its time. Raises
        CommandError if there is no answer in time, or the scheduler refuses.
        """
        seconds = requests * self._timeout
        self._shown.at(f"{what} at {self.address}")
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise self.unanswered(
                f"no answer within {seconds:g} s ({what}); --timeout gives it more"
            ) from None
        except OSError as exc:
            reason: BaseException = exc
            while reason.__cause__ is not None:  # of a timeout of Dask's
                reason = reason.__cause__
            if isinstance(reason, asyncio.CancelledError):  # its time was over
                reason = exc
            raise self.unanswered(str(reason) or repr(reason)) from None
        except ValueError as exc:  # it is among `blocked-handlers`
            raise CommandError(f"{self.address} refuses: {exc}") from None

    def idle(self) -> None:
        """Show no activity."""
        self._shown.at("")

    def unanswered(self, reason: str) -> CommandError:
        """Return the error of a cluster that does not answer."""
        return CommandError(f"{self.address} cannot be reached: {reason}", NO_ANSWER)

    async def connect(self) -> None:
        """Check that the address is a scheduler's; read its identity."""
        told = await self.wait("connecting to the scheduler", self.scheduler.identity())
        if not isinstance(told, dict) or "workers" not in told:
            raise CommandError(f"{self.address} is no scheduler of Dask's", NO_ANSWER)
        self.workers = list(told["workers"])
        self.identity = told

    async def check_scheduler(self, step: str) -> dict[str, Any] | str:
        """Return the result of :func:`daskref.cluster.joining.check` on the scheduler.

        A text says why daskref cannot be asked there.
        """
        response = await self.wait(
            "asking the scheduler",
            self.scheduler.run_function(**_call(step), wait=True),
        )
        return _returned(response)

    async def check_worker(
        self, worker: str, step: str, *args: Any
    ) -> dict[str, Any] | str:
        """Return the same of a worker; a text says why it did not answer."""
        message = {"op": "run", **_call(step, *args), "wait": True}
        response = await self._ask_worker(worker, message)
        return response if isinstance(response, str) else _returned(response)

    async def versions(self, worker: str) -> dict[str, Any] | None:
        """Return a worker's packages, as Dask lists them, if it answers."""
        told = await self._ask_worker(worker, {"op": "versions", "packages": []})
        return told if isinstance(told, dict) and "packages" in told else None

    async def _ask_worker(self, worker: str, message: dict[str, Any]) -> Any:
        ask = self.scheduler.broadcast(
            msg=message, workers=[worker], on_error="return_pickle"
        )
        try:
            async with asyncio.timeout(self._timeout):
                response = (await ask).get(worker)
        except TimeoutError:
            return f"it did not answer within {self._timeout:g} s"
        except (OSError, ValueError) as exc:
            return str(exc) or repr(exc)
        if isinstance(response, bytes):  # the scheduler could not ask
            return str(loads(response))
        return "it has left" if response is None else response

    async def gather(self, what: str, answers: Iterable[Awaitable[T]]) -> list[T]:
        """Return several answers of workers; each has its own time limit."""
        self._shown.at(f"{what} at {self.address}")
        room = asyncio.Semaphore(_AT_ONCE)

        async def _wait(answer: Awaitable[T]) -> T:
            async with room:
                return await answer

        return await asyncio.gather(*map(_wait, answers))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """Run a plain Dask client inside a block, however clients are configured."""
        with (
            dask.config.set({"distributed.client.preload": []}),
            warnings.catch_warnings(action="ignore"),  # versions are looked at here
        ):
            client = await Client(
                self.address,
                security=self._security,
                timeout=self._timeout,
                asynchronous=True,
                set_as_default=False,
            )
        try:
            yield client
        finally:
            await client.close()

    async def opened(self) -> dict[str, Any]:
        """Return the scheduler's description of its session.

        Raises CommandError if daskref is off there.
        """
        told = await self.check_scheduler("tell")
        if isinstance(told, str):
            raise CommandError(
                f"daskref cannot be asked on the scheduler {self.address}: {told}", OFF
            )
        if not told["on"]:
            raise CommandError(
                f"daskref is off on {self.address}: no client has switched it on, and "
                "this command does not",
                OFF,
            )
        return told


def _call(step: str, *args: Any) -> dict[str, bytes]:
    return {
        "function": dumps(by_value.check),
        "args": dumps((step, *args)),
        "kwargs": dumps({}),
    }


def _returned(response: dict[str, Any]) -> dict[str, Any] | str:
    if response["status"] != "OK":
        return str(clean_exception(**response)[1])
    result = response["result"]
    return result if isinstance(result, dict) else str(result)


@asynccontextmanager
async def _connected(target: Target, shown: Progress) -> AsyncIterator[Cluster]:
    security = Security(**target.tls)
    address = target.address
    if "://" not in address:
        encrypted = bool(target.tls) or security.require_encryption
        address = f"{'tls' if encrypted else 'tcp'}://{address}"
    try:
        arguments = security.get_connection_args("client")
    except OSError as exc:  # a file holds no certificate
        raise CommandError(f"TLS cannot be used: {exc}") from None
    patience = _CONNECTING * target.timeout
    scheduler = rpc(address, timeout=patience, connection_args=arguments)
    cluster = Cluster(address, security, scheduler, target.timeout, shown)
    try:
        try:
            await cluster.connect()
        except (RuntimeError, TypeError) as exc:  # the configuration of TLS
            raise cluster.unanswered(str(exc)) from None
        yield cluster
    finally:
        with suppress(OSError):
            await asyncio.wait_for(scheduler.close_rpc(), _GOODBYE)


def _read_address(ctx: Any, param: Any, value: str | None) -> str | None:
    try:
        if value is not None:
            get_address_host_port(value)
    except ValueError as exc:
        text = f"{exc}; an address is as in tcp://host:8786"
        raise click.BadParameter(text, ctx, param) from None
    return value


def cluster_options(*, required: bool = True) -> Callable[[F], F]:
    """Add a cluster's address and connection options: one `Target` for the command.

    *required*: whether an address is mandatory; otherwise the target may be ``None``.
    """
    pem = click.Path(exists=True, dir_okay=False, resolve_path=True)
    adding = [
        click.argument("address", callback=_read_address, required=required),
        *(
            click.option(f"--tls-{name}", type=pem, help=f"{said} (in PEM format).")
            for name, said in (
                ("ca-file", "CA certificates for TLS"),
                ("cert", "Certificate for TLS"),
                ("key", "Private key for TLS"),
            )
        ),
        click.option(
            "--timeout",
            callback=quantity(parse_seconds),
            default="10 s",
            show_default=True,
            help="The longest to wait for each answer.",
        ),
    ]

    def decorate(function: F) -> F:
        @wraps(function)
        def call(
            address: str | None,
            tls_ca_file: str | None,
            tls_cert: str | None,
            tls_key: str | None,
            timeout: float,
            **kwargs: Any,
        ) -> Any:
            given = {
                "tls_ca_file": tls_ca_file,
                "tls_client_cert": tls_cert,
                "tls_client_key": tls_key,
            }
            tls = {name: value for name, value in given.items() if value is not None}
            target = None if address is None else Target(address, tls, timeout)
            return function(target, **kwargs)

        decorated: Any = call
        for add in reversed(adding):
            decorated = add(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate
