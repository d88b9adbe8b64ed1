"""Existing clients: switched to pass values by reference, and back.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

=====================================  =============================================
name                                   what for
=====================================  =============================================
``Worker._initialized_clients``        telling a task's own client from others
``Worker._client``                     the client that a worker's tasks share
``Client._start_arg``                  the same, while such a client starts
=====================================  =============================================
"""

from __future__ import annotations

from typing import Any, TypeVar

import distributed
from distributed.client import ClosedClientError
from distributed.core import PooledRPCCall

from daskref.background import make_lock
from daskref.client._attachment import Attachment, attach, detach
from daskref.client._checks import check_client
from daskref.client.by_reference import ByReference
from daskref.client.client import options_of
from daskref.cluster.notices import tell_plain
from daskref.cluster.opening import SessionInfo
from daskref.cluster.session import ClusterStore
from daskref.exceptions import DaskrefError

C = TypeVar("C", bound=distributed.Client)

#: Several tasks may ask for the one client of their worker at once.
_adopting = make_lock()


def adopt(client: Any, info: SessionInfo) -> Any:
    """Let a client that a task made pass values by reference, and return it.

    The task's worker is in the session already, so nothing blocks. A client that is not
    the task's own (all in one process) stays as it is.
    """
    with _adopting:
        made_by_worker = client in distributed.Worker._initialized_clients
        if made_by_worker and not isinstance(client, ByReference):
            _mix_in(client, {})
            client._daskref = Attachment(client, ClusterStore.join(info), None)
    return client


async def let_go(worker: distributed.Worker) -> None:
    """Return the client of a worker's tasks to plain Dask; undoes :func:`adopt`."""
    client = worker._client
    if client in distributed.Worker._initialized_clients:
        await detach(client)
        _mix_out(client)


class _ByConfiguration(ByReference):
    """Mixin for a client that configuration alone has switched on.

    If it cannot attach, now or when it reconnects, it continues as a plain client.
    """

    async def _daskref_attach(self) -> None:
        try:
            await attach(self)
        except DaskrefError as exc:
            _mix_out(self)
            tell_plain(exc)


def _mix_in(client: Any, options: dict[str, Any], mixin: Any = ByReference) -> None:
    cls = type(client)
    client._daskref_options = options
    client._daskref_class = cls
    client.__class__ = type(cls.__name__, (mixin, cls), {"__module__": __name__})


def enable(
    client: C, *, threshold: int | str | None = None, connector: Any = None
) -> Any:
    """Let an existing client pass large values by reference.

    Parameters
    ----------
    client
        A connected client. Other clients of the process do not change.
    threshold, connector
        See :class:`Client`.

    Returns
    -------
    distributed.Client
        The same object; for an asynchronous client, a coroutine that returns it.

    Raises
    ------
    NotInstalledError
        If the scheduler or a worker lacks daskref. The client does not change.
    ConfigError
        If the threshold or the connector's spec is malformed.
    TypeError
        If *client* is not a client, but a cluster or an address.
    ClosedClientError
        If it was closed.

    See Also
    --------
    disable : the reverse
    """
    check_client(client, "enable")
    if client.status == "closed":
        raise ClosedClientError("the client is closed: make a new one, and enable it")

    try:
        return client.sync(_enable, client, options_of(threshold, connector))
    except DaskrefError as exc:
        raise exc.with_traceback(None) from None


async def _enable(client: C, options: dict[str, Any]) -> C:
    if not isinstance(client, ByReference):
        _mix_in(client, options)
    client._daskref_options = options
    try:
        await attach(client)
    except BaseException:
        _mix_out(client)
        raise
    return client


async def enable_starting(client: distributed.Client) -> None:
    """Enable a client that starts, as configured for all clients of the process.

    If that fails, it continues as a plain client, and the log says why. :func:`adopt`
    enables the client of a worker's tasks, according to its cluster.
    """
    if isinstance(client, ByReference) or isinstance(client._start_arg, PooledRPCCall):
        return
    _mix_in(client, dict.fromkeys(("threshold", "connector")), _ByConfiguration)
    try:
        await client._daskref_attach()
    except OSError:
        pass  # the connection has ended: Dask makes another one, which attaches
    except BaseException:
        _mix_out(client)
        raise


def disable(client: Any) -> Any:
    """Return a client to plain Dask and remove all of daskref's state.

    The last client removes the plugins of scheduler and workers as well, once nothing
    is stored any more.

    Parameters
    ----------
    client
        A client of :class:`Client` or :func:`enable`; silent for any other client.

    Returns
    -------
    None
        For an asynchronous client, a coroutine.

    Raises
    ------
    TypeError
        If *client* is not a client, but a cluster or an address.
    """
    check_client(client, "disable")

    async def _disable() -> None:
        if not isinstance(client, ByReference):
            return
        if client._daskref is not None:
            client._daskref.holdings.release_all()
            try:
                # after the release: that went through the stream, this is a request
                await client.scheduler.daskref_leave(client=client.id)
            except OSError:
                stream = client.scheduler_comm
                if stream is not None and not stream.closed():
                    raise  # else the scheduler is gone
        await detach(client)
        _mix_out(client)

    return client.sync(_disable)


def _mix_out(client: Any) -> None:
    if isinstance(client, ByReference):
        before = client.__dict__.pop("_daskref_class", distributed.Client)
        client.__dict__.pop("_daskref_options", None)
        client.__dict__.pop("_daskref", None)
        client.__dict__.pop("_daskref_trying", None)
        client.__class__ = before
