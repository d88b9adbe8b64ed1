"""Clients that pass large values by reference.

:class:`Client` is Dask's client and :class:`ByReference`; :func:`enable` puts the same
mixin on a client that somebody else made.

Private Dask names used here, checked by ``tests/test_private_names.py``:

=====================================  =============================================
name                                   what for
=====================================  =============================================
``Client._graph_to_futures``           every graph leaves through it
``Client._scatter``                    scattered values become graph nodes
``Client._gather``                     results of a task's own worker
``Client._gather_remote``              results come back through it
``Client._ensure_connected``           connecting, and connecting again
``Client._close``                      leaving
``Client._release_key``                the last future of a key is gone
``Client._run``                        results of functions run on workers
``Client._run_on_scheduler``           installing the scheduler plugin; its results
``Client._send_to_scheduler``          messages in order with the graphs
``Client._stream_handlers``            the scheduler's message that it restarted
``Worker._initialized_clients``        telling a task's own client from others
``_expr.LLGExpr``                      the graph of scattered values
``_task_spec.DataNode``                small scattered values, in that graph
``_task_spec.GraphNode``               annotations
``_task_spec.parse_input``             futures among the arguments of ``lazy``
=====================================  =============================================
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeVar

import distributed
from dask._expr import LLGExpr
from dask._task_spec import DataNode, GraphNode, parse_input
from dask.sizeof import sizeof
from dask.typing import no_default
from distributed.client import Future
from distributed.spans import SpanMetadata

from daskref import config
from daskref.exceptions import NotInstalledError
from daskref.family import register_family
from daskref.graph import pack_argument, pack_expr
from daskref.holdings import Holdings, Submission
from daskref.metrics import summarize
from daskref.nodes import Lazy, ReferenceNode
from daskref.plugins.bootstrap import install_on_scheduler
from daskref.proxy import Proxy, is_proxy
from daskref.reference import Reference
from daskref.rpc import Connections
from daskref.session import Session, SessionInfo
from daskref.store import StoreFactory, reveal
from daskref.tokens import content_token

C = TypeVar("C", bound=distributed.Client)

#: Values of a list that is scattered, each below the threshold but together above it,
#: go by reference from this size on, in bytes.
_SHARE_OF_MANY = 16 * 1024


class _Attached:
    """What a client has while it passes values by reference."""

    def __init__(
        self, client: Any, session: Session, threshold: int | str | None
    ) -> None:
        self.session = session
        self.holdings = Holdings(session, self._send, self._call_soon)
        self._client = client
        self._threshold = (
            None
            if threshold is None
            else config.parse_size("daskref.threshold", threshold)
        )
        self._configured = config.threshold()
        # Dask drops all futures at a restart, without telling one by one
        self._handlers = client._stream_handlers
        self._restart = self._handlers["restart"]
        self._handlers["restart"] = self._handle_restart
        self._connections = None
        if session.reachable:
            self._connections = Connections(client.rpc, client.scheduler, session)

    def threshold(self) -> int:
        """Bytes: this client's, unless ``dask.config`` was changed since."""
        configured = config.threshold()
        if self._threshold is None or configured != self._configured:
            return configured
        return self._threshold

    def say_goodbye(self) -> None:
        """Leave this process's counts with the scheduler."""
        self._send({"op": "daskref-counters", "report": self.session.report()})

    def _handle_restart(self) -> None:
        self._restart()
        self.holdings.release_keys()

    def detach(self) -> None:
        """Give the client's connections back."""
        self._handlers["restart"] = self._restart
        if self._connections is not None:
            self._connections.restore()
        self.holdings.clear()

    def _send(self, message: dict[str, Any]) -> None:
        client = self._client
        if client._daskref is self:
            with suppress(distributed.client.ClosedClientError, RuntimeError):
                client._send_to_scheduler(message)

    def _call_soon(self, callback: Any) -> None:
        with suppress(RuntimeError, AttributeError):  # the loop has ended
            self._client.loop.add_callback(callback)


class ByReference(distributed.Client):  # type: ignore[misc]
    """Mixin for Dask's client: what is large goes by reference."""

    _daskref: _Attached | None = None
    _daskref_options: dict[str, Any]

    # Life

    async def _ensure_connected(self, timeout: Any = None) -> None:
        before = self.scheduler_comm
        await super()._ensure_connected(timeout=timeout)
        if self.scheduler_comm is not before and self.status == "running":
            await attach(self)

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        if self._daskref is not None:
            self._daskref.say_goodbye()
        try:
            await super()._close(*args, **kwargs)
        finally:
            await detach(self)

    # Values out

    def submit(self, func: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See Dask's. Large arguments are put before the call returns."""
        state = self._daskref
        if state is None or not state.session.reachable:
            return super().submit(func, *args, **kwargs)
        # Here and not only where the graph leaves: Dask would hash each argument for
        # the task's key, and we once more for the store.
        with state.holdings.submission():
            args, kwargs = _packed(state, args, kwargs)
            return super().submit(func, *args, **kwargs)

    def map(self, func: Any, /, *iterables: Any, **kwargs: Any) -> Any:
        """See Dask's. Large arguments are put before the call returns."""
        state = self._daskref
        if state is None or not state.session.reachable:
            return super().map(func, *iterables, **kwargs)
        with state.holdings.submission():
            _, kwargs = _packed(state, (), kwargs)
            columns = [
                _packed(state, tuple(column), {})[0]
                if isinstance(column, list | tuple)
                else column
                for column in iterables
            ]
            return super().map(func, *columns, **kwargs)

    def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        state = self._daskref
        if state is None or not state.session.reachable:
            return super()._graph_to_futures(expr, keys, *args, **kwargs)
        with state.holdings.submission() as submission:
            packed = pack_expr(expr, state.threshold(), state.holdings.put)
            futures = super()._graph_to_futures(packed, keys, *args, **kwargs)
            submission.keys.update(futures)
        return futures

    def _release_key(self, key: Any) -> None:
        super()._release_key(key)
        if self._daskref is not None:
            self._daskref.holdings.release_key(key)

    async def _scatter(
        self,
        data: Any,
        workers: Any = None,
        broadcast: Any = False,
        direct: Any = None,
        local_worker: Any = None,
        timeout: Any = no_default,
        hash: bool = True,
    ) -> Any:
        state = self._daskref
        options = {
            "broadcast": broadcast,
            "direct": direct,
            "local_worker": local_worker,
            "timeout": timeout,
            "hash": hash,
        }
        if state is None or not state.session.reachable:
            return await super()._scatter(data, workers=workers, **options)
        values, rebuild = await state.session.run(_named_values, data, hash)
        submission = state.holdings.open()
        try:
            references = await state.session.run(
                _put_values, state, values, hash, submission
            )
            if isinstance(workers, str | int | float):
                workers = [workers]
            nodes: dict[Any, GraphNode] = {}
            placed = {}
            for key, value in values.items():
                if key not in references:
                    nodes[key], placed[key] = DataNode(key, value), value
                elif (reference := references[key]) is not None:
                    nodes[key] = ReferenceNode(key, reference, "inside")
                    placed[key] = Proxy(StoreFactory(reference, transparent=True))
                else:  # the store failed: to a worker, as plain Dask does
                    placed[key] = value
            # At once on workers, as users expect, even if all threads are busy …
            futures = {}
            if (
                local_worker
                or len(nodes) < len(placed)
                or await self.scheduler.ncores_running(workers=workers)
            ):
                futures = await super()._scatter(placed, workers=workers, **options)
                for key, value in values.items():
                    self.futures[key].type = type(value)
            # … and as tasks, so that any worker can have it when those are gone.
            made = super()._graph_to_futures(
                LLGExpr(nodes, _determ_token=uuid.uuid4().hex),
                list(nodes),
                SpanMetadata(collections=[{"type": "Future"}]),
                workers=workers,
                allow_other_workers=bool(workers) or None,
                internal_priority=dict.fromkeys(nodes, 0),
            )
            submission.keys.update(nodes)
        finally:
            state.holdings.close(submission)
        return rebuild(futures or made)

    # Values in

    async def _gather(
        self,
        futures: Any,
        errors: str = "raise",
        direct: Any = None,
        local_worker: Any = None,
    ) -> Any:
        if local_worker is not None and self._daskref is not None:
            local_worker = await self._local_values(futures, local_worker)
        return await super()._gather(
            futures, errors=errors, direct=direct, local_worker=local_worker
        )

    async def _local_values(self, futures: Any, worker: Any) -> _LocalValues:
        assert self._daskref is not None
        wanted = {future.key for future in distributed.client.futures_of(futures)}
        data = {key: worker.data[key] for key in wanted if key in worker.data}
        return _LocalValues(await self._revealed(data))

    async def _gather_remote(self, direct: bool, local_worker: bool) -> Any:
        response = await super()._gather_remote(direct, local_worker)
        if self._daskref is not None and response["status"] == "OK":
            response["data"] = await self._revealed(response["data"])
        return response

    async def _run(self, *args: Any, **kwargs: Any) -> Any:
        results = await super()._run(*args, **kwargs)
        if self._daskref is not None and isinstance(results, dict):
            results = await self._revealed(results)
        return results

    async def _run_on_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        result = await super()._run_on_scheduler(*args, **kwargs)
        if self._daskref is not None and is_proxy(result):
            result = (await self._revealed({"": result}))[""]
        return result

    async def _revealed(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Resolve transparent proxies, off the event loop."""
        if self._daskref is None or not any(map(is_proxy, values.values())):
            return values
        return await self._daskref.session.run(_reveal_values, values)


class Client(ByReference):
    """Dask's client, with large values passed by reference.

    Takes what :class:`distributed.Client` takes, and:

    Parameters
    ----------
    *args, **kwargs
        For :class:`distributed.Client`.
    threshold : int or str, optional
        Bytes; values larger than this go by reference. Default:
        ``daskref.threshold``.
    connector : str or mapping, optional
        Where they are kept, if this is the first client of the cluster with daskref.
        Default: ``daskref.connector``.

    Raises
    ------
    NotInstalledError
        If the scheduler or a worker lacks daskref; it says what to install where.
    ConfigError
        If the threshold or the connector's spec is malformed.

    Examples
    --------
    >>> from daskref import Client
    >>> client = Client(processes=False, dashboard_address=":0")
    >>> client.submit(sum, [1, 2, 3]).result()
    6
    >>> client.close()
    """

    def __init__(
        self,
        *args: Any,
        threshold: int | str | None = None,
        connector: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._daskref_options = _options(threshold, connector)
        super().__init__(*args, **kwargs)


class _LocalValues:
    """Stands for a worker whose data were resolved: all that a gather looks at."""

    def __init__(self, data: dict[Any, Any]) -> None:
        self.data = data


def _packed(
    state: _Attached, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    threshold, put = state.threshold(), state.holdings.put
    return (
        tuple(pack_argument(arg, threshold, put) for arg in args),
        {name: pack_argument(arg, threshold, put) for name, arg in kwargs.items()},
    )


def _named_values(data: Any, hash: bool) -> tuple[dict[Any, Any], Any]:
    """Take apart what a user scatters, as Dask does.

    Returns
    -------
    dict
        Values by key.
    callable
        ``(futures by key) -> what scatter returns``.
    """
    if isinstance(data, range | Iterator):
        data = list(data)
    cls = type(data)
    if cls is dict:
        return data, lambda futures: {key: futures[key] for key in data}
    named = isinstance(data, tuple) and hasattr(data, "_fields")
    plain = cls in (list, tuple, set, frozenset)
    items = list(data) if named or plain else [data]
    names = [
        f"{type(item).__name__}-{content_token(item) if hash else uuid.uuid4().hex}"
        for item in items
    ]

    def rebuild(futures: dict[Any, Future]) -> Any:
        found = [futures[name] for name in names]
        if named:
            return cls(*found)
        return cls(found) if plain else found[0]

    return dict(zip(names, items, strict=True)), rebuild


def _put_values(
    state: _Attached, values: dict[Any, Any], hash: bool, submission: Submission
) -> dict[Any, Reference | None]:
    """Put what goes by reference; ``None`` where the store failed."""
    threshold = state.threshold()
    sizes = {key: sizeof(value) for key, value in values.items()}
    small = sum(size for size in sizes.values() if size <= threshold)
    limit = threshold if small <= threshold else min(threshold, _SHARE_OF_MANY)
    references = {}
    for key, value in values.items():
        if sizes[key] <= limit or is_proxy(value):
            continue
        token = content_token(value) if hash else uuid.uuid4().hex
        references[key] = state.holdings.put(value, token, submission)
    return references


def _reveal_values(values: dict[Any, Any]) -> dict[Any, Any]:
    return {key: reveal(value) for key, value in values.items()}


def _options(threshold: Any, connector: Any) -> dict[str, Any]:
    config.Settings.read(threshold=threshold, connector=connector)  # is it well-formed?
    return {"threshold": threshold, "connector": connector}


async def attach(client: Any) -> None:
    """Let a connected client pass values by reference: set up what is not yet."""
    register_family()
    await detach(client)
    options = client._daskref_options
    try:
        settings = {name: value for name, value in options.items() if value is not None}
        joined = await distributed.Client._run_on_scheduler(
            client, install_on_scheduler, client.id, settings
        )
        if joined is None:
            raise NotInstalledError([f"the scheduler {client.scheduler.address}"])
        info, missing, _ = joined
        if missing:
            raise NotInstalledError([f"worker {address}" for address in missing])
    except NotInstalledError:
        raise
    session = await asyncio.get_running_loop().run_in_executor(None, Session.join, info)
    client._daskref = _Attached(client, session, options.get("threshold"))


async def detach(client: Any) -> None:
    """Undo :func:`attach` in this process."""
    state = client._daskref
    if state is not None:
        client._daskref = None
        state.detach()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, state.session.leave)


def adopt(client: Any, info: SessionInfo) -> Any:
    """Let a client that a task made pass values by reference; returns it.

    The task's worker is in the session already, so there is nothing to wait for. A
    client that is not the task's own (all in one process) stays as it is.
    """
    made_by_worker = client in distributed.Worker._initialized_clients
    if made_by_worker and not isinstance(client, ByReference):
        _mix_in(client, {})
        client._daskref = _Attached(client, Session.join(info), None)
    return client


def _mix_in(client: Any, options: dict[str, Any]) -> None:
    cls = type(client)
    client._daskref_options = options
    client._daskref_class = cls
    client.__class__ = type(cls.__name__, (ByReference, cls), {"__module__": __name__})


def enable(
    client: C,
    *,
    threshold: int | str | None = None,
    connector: str | dict[str, Any] | None = None,
) -> Any:
    """Let a client that somebody else made pass large values by reference.

    Parameters
    ----------
    client
        A connected client. Other clients of the process are not touched.
    threshold, connector
        See :class:`Client`.

    Returns
    -------
    distributed.Client
        The same object; for an asynchronous client, a coroutine that returns it.

    Raises
    ------
    NotInstalledError
        If the scheduler or a worker lacks daskref. The client stays as it was.
    ConfigError
        If the threshold or the connector's spec is malformed.

    See Also
    --------
    disable : the way back
    """
    options = _options(threshold, connector)

    async def _enable() -> C:
        if not isinstance(client, ByReference):
            _mix_in(client, options)
        client._daskref_options = options
        try:
            await attach(client)
        except BaseException:
            _mix_out(client)
            raise
        return client

    return client.sync(_enable)


def disable(client: Any) -> Any:
    """Let a client go back to plain Dask, with nothing left behind.

    The last client to go takes the plugins of scheduler and workers with it, once
    nothing is stored any more.

    Parameters
    ----------
    client
        A client of :class:`Client` or :func:`enable`; silent for any other.

    Returns
    -------
    None
        For an asynchronous client, a coroutine.
    """

    async def _disable() -> None:
        if not isinstance(client, ByReference):
            return
        if client._daskref is not None:
            client._daskref.holdings.release_all()
            # after the release: that went through the stream, this is a request
            await client.scheduler.daskref_leave(client=client.id)
        await detach(client)
        _mix_out(client)

    return client.sync(_disable)


def _mix_out(client: Any) -> None:
    if isinstance(client, ByReference):
        before = client.__dict__.pop("_daskref_class", distributed.Client)
        client.__dict__.pop("_daskref_options", None)
        client.__dict__.pop("_daskref", None)
        client.__class__ = before


def lazy(x: Any) -> Any:
    """Let an argument arrive as a :class:`~daskref.Proxy`.

    Parameters
    ----------
    x
        An argument of ``submit``, ``map`` or a delayed function: a value of any size,
        or a future.

    Returns
    -------
    object
        To be passed as the argument.

    Examples
    --------
    >>> future = client.submit(f, daskref.lazy(frame))  # doctest: +SKIP
    """
    return Lazy(parse_input(x))


def stats(client: Any) -> Any:
    """Return what the whole cluster has put, got, and holds.

    Parameters
    ----------
    client
        A client of :class:`Client` or :func:`enable`.

    Returns
    -------
    dict
        ``"objects"`` and ``"bytes"``: alive in the store now; ``"puts"``, ``"gets"``,
        ``"evictions"``, ``"fallbacks"``: how often, since the start; ``"bytes_kept"``:
        off the scheduler; ``"hosts"``: the same counts by host name. For an
        asynchronous client, a coroutine.

    Raises
    ------
    TypeError
        If the client passes nothing by reference.
    """
    if getattr(client, "_daskref", None) is None:
        raise TypeError(
            f"{client!r} is a plain Dask client: use daskref.Client, or daskref.enable"
        )

    async def _stats() -> dict[str, Any]:
        session = client._daskref.session
        told = await client.scheduler.daskref_stats()
        processes = [*told.pop("processes"), session.report()]
        return summarize(**told, processes=processes)

    return client.sync(_stats)
