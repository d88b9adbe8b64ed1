"""Methods of Dask's client that differ where large values go by reference.

Private Dask names used here, checked by ``tests/package/test_private_names.py``:

==========================================  ============================================
name                                        what for
==========================================  ============================================
``Client._graph_to_futures``                every graph leaves through it
``Client._scatter``                         scattered values become graph nodes
``Client._gather``                          results of a task's own worker
``Client._gather_remote``                   results come back through it
``Client._ensure_connected``                connecting, and connecting again
``Client._close``                           leaving
``Client._release_key``                     the last future of a key is gone
``Client._run``                             results of functions run on workers
``Client._run_on_scheduler``                results of functions run on the scheduler
``versions.scheduler_relevant_packages``    what a scheduler must have alike
==========================================  ============================================
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Any

import distributed
from dask.typing import no_default
from dask.utils import format_bytes, funcname
from distributed import versions

from daskref.client._attachment import Attachment, attach, detach
from daskref.client._loans import lend, refuse_scattered
from daskref.client._scatter import divide, put_scattered, submit_nodes, take_apart
from daskref.exceptions import ResolveError
from daskref.graph.expressions import (
    GraphExpr,
    graph_of,
    is_small_expr,
    pack_expr,
    references_by_key,
)
from daskref.graph.frames import hidden_like
from daskref.graph.literals import small_call
from daskref.graph.nodes import references_in
from daskref.graph.packing import Packer
from daskref.objects.cards import card
from daskref.ownership.factories import BorrowFactory, collecting
from daskref.proxy.proxy import is_proxy
from daskref.store.factory import is_recomputed, reveal

#: Parameters that are Dask's, not those of the function that is called.
_SUBMIT = frozenset(inspect.signature(distributed.Client.submit).parameters)
_MAP = frozenset(inspect.signature(distributed.Client.map).parameters)

_hidden = hidden_like(distributed.client)


def _described_like(dasks: Any) -> Callable[[Any], Any]:
    """Give a method Dask's signature and docstring, with its own docstring inside."""

    def describe(method: Any) -> Any:
        summary, _, rest = (inspect.getdoc(dasks) or "").partition("\n\n")
        method.__doc__ = f"{summary}\n\n{method.__doc__}\n\n{rest}"
        method.__signature__ = inspect.signature(dasks)
        return method

    return describe


class ByReference(distributed.Client):  # type: ignore[misc]
    """Mixin for Dask's client that passes large values by reference."""

    _daskref: Attachment | None = None
    #: Tries again to have a store.
    _daskref_trying: asyncio.Task[None] | None = None
    _daskref_options: dict[str, Any]

    # Life

    async def _ensure_connected(self, timeout: Any = None) -> None:
        before = self.scheduler_comm
        await super()._ensure_connected(timeout=timeout)
        if self.scheduler_comm is not before and self.status == "running":
            try:
                await self._daskref_attach()
            except (OSError, ImportError):
                raise  # Dask tries again, or closes the client
            except BaseException:
                await self._close()
                raise

    def _repr_html_(self) -> str:
        state, html = self._daskref, str(super()._repr_html_())
        if state is None:
            return html + card("daskref", "no store: all values travel in-band", {})
        session, held = state.session, state.holdings
        rows = {
            "Connector": session.store and session.store.connector,
            "Threshold": format_bytes(state.threshold()),
            "Objects that this client holds": len(held),
        }
        seen = "values above the threshold go by reference"
        unseen = "this process cannot see the store: its values travel in-band"
        return html + card("daskref", seen if session.reachable else unseen, rows)

    async def _daskref_attach(self) -> None:
        await attach(self)

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        if self._daskref is not None:
            self._daskref.tell_counts()
            await self._daskref.leave()
        try:
            await super()._close(*args, **kwargs)
        finally:
            await detach(self)

    @_described_like(distributed.Client.get_versions)
    def get_versions(self, check: bool = False, packages: Any = None) -> Any:
        """Daskref is listed, too."""
        versions.scheduler_relevant_packages.add("daskref")
        return super().get_versions(check, ["daskref", *(packages or [])])

    # Values out

    @_described_like(distributed.Client.submit)
    def submit(self, func: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Large arguments are put before the call returns."""
        state = self._daskref
        if state is None or not state.session.reachable:
            return super().submit(func, *args, **kwargs)
        if small_call(func, chain(args, kwargs.values()), state.threshold()):
            return super().submit(func, *args, **kwargs)
        with state.holdings.submission():
            if kwargs.get("key") is None and _is_pure(kwargs) and callable(func):
                token = state.packer().token(func, args, _arguments(kwargs, _SUBMIT))
                if token is not None:
                    kwargs["key"] = f"{funcname(func)}-{token}"
            return super().submit(func, *args, **kwargs)

    @_described_like(distributed.Client.map)
    def map(self, func: Any, /, *iterables: Any, **kwargs: Any) -> Any:
        """Large arguments are put before the call returns."""
        state = self._daskref
        if state is None or not state.session.reachable:
            return super().map(func, *iterables, **kwargs)
        with state.holdings.submission():
            key = kwargs.get("key")
            if (
                _is_pure(kwargs)
                and callable(func)
                and (key is None or isinstance(key, str))
                and all(isinstance(column, list | tuple) for column in iterables)
            ):
                named = _arguments(kwargs, _MAP)
                tokens = state.packer().tokens(func, iterables, named)
                if tokens is not None:
                    prefix = key or funcname(func)
                    kwargs["key"] = [f"{prefix}-{token}" for token in tokens]
            return super().map(func, *iterables, **kwargs)

    @_hidden
    def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        state = self._daskref
        if state is None or is_small_expr(expr, state.threshold()):
            return super()._graph_to_futures(expr, keys, *args, **kwargs)
        with state.holdings.submission() as submission:
            packed, lent = self._lend(expr, keys, state.packer())
            try:
                futures = self._send_packed(packed, keys, *args, **kwargs)
            except BaseException:
                state.watches.withdraw(*lent)
                raise
            if held := submission.references:
                # one object, or one future, leaves no choice
                graph = len(held) > 1 < len(futures) and graph_of(packed, expr)
                needed = references_by_key(graph, futures) if graph else {}
                submission.keys |= {key: needed.get(key, held) for key in futures}
        return futures

    @_hidden
    def _lend(self, expr: Any, keys: Any, packer: Packer) -> tuple[Any, list[int]]:
        """Pack a graph; lend the borrows in it, and say so before the graph is sent."""
        lent: list[int] = []
        state = self._daskref
        assert state is not None
        with collecting() if BorrowFactory.known else nullcontext(()) as found:
            packed = pack_expr(expr, packer)
        if found:  # in the user's graph: a packed one hides its borrows
            lent = lend(state.watches, found, partial(graph_of, expr, expr), keys)
        return packed, lent

    @_hidden
    def _send_packed(self, packed: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        state = self._daskref
        assert state is not None
        state.tell_keys()
        if isinstance(packed, GraphExpr) and kwargs.get("internal_priority"):
            # arguments that several tasks of a `map` share come first
            more = dict.fromkeys(packed.operand("dsk"), 0)
            kwargs["internal_priority"] = {**more, **kwargs["internal_priority"]}
        return super()._graph_to_futures(packed, keys, *args, **kwargs)

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
            "workers": workers,
            "broadcast": broadcast,
            "direct": direct,
            "local_worker": local_worker,
            "timeout": timeout,
            "hash": hash,
        }
        if state is not None:
            refuse_scattered(data)
        if state is None or not (state.session.reachable and state.takes_pickles):
            return await super()._scatter(data, **options)
        scattered = await state.session.run(take_apart, data, hash)
        submission = state.holdings.open()
        try:
            references = await state.session.run(
                put_scattered,
                scattered,
                state.threshold(),
                state.holdings,
                submission,
            )
            # inside one process
            as_they_are = str(self.scheduler.address).startswith("inproc://")
            scattered, nodes, others = await state.session.run(
                divide, scattered, references, as_they_are
            )
            futures: dict[Any, Any] = {}
            if others:
                # As plain Dask does, and as safe: no task can make them again.
                futures |= await super()._scatter(others, **options)
            if nodes:
                named = type(data) is dict  # the keys are the user's
                async with state.placing.naming if named else nullcontext():
                    send = super()._graph_to_futures
                    futures |= await submit_nodes(self, send, nodes, named, **options)
            submission.keys |= {key: references_in(nodes[key]) for key in nodes}
            for key, value in scattered.values.items():
                if (future := self.futures.get(key)) is not None:
                    future.type = type(value)
        finally:
            state.holdings.close(submission)
        return scattered.rebuild(futures)

    # Values in

    @_hidden
    def _gather(
        self,
        futures: Any,
        errors: str = "raise",
        direct: Any = None,
        local_worker: Any = None,
    ) -> Any:
        # Dask's own coroutine: one of ours would be a frame more in tracebacks.
        if local_worker is None or self._daskref is None:
            return super()._gather(futures, errors, direct, local_worker)
        return self._gather_local(futures, errors, direct, local_worker)

    async def _gather_local(
        self, futures: Any, errors: str, direct: Any, worker: Any
    ) -> Any:
        wanted = {future.key for future in distributed.client.futures_of(futures)}
        data = {key: worker.data[key] for key in wanted if key in worker.data}
        # all that a gather reads of a worker
        local = SimpleNamespace(data=await self._revealed(data))
        return await super()._gather(futures, errors, direct, local)

    @_hidden
    async def _gather_remote(self, direct: bool, local_worker: bool) -> Any:
        response = await super()._gather_remote(direct, local_worker)
        if self._daskref is not None and response["status"] == "OK":
            try:
                response["data"] = await self._revealed(response["data"])
            except ResolveError as exc:
                if not is_recomputed(exc):
                    raise
                # as Dask says it of keys whose workers are gone: it waits for them
                return {"status": "error", "keys": list(response["data"])}
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

    @_hidden
    async def _revealed(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Resolve transparent proxies, off the event loop."""
        state = self._daskref
        if state is None or not any(map(is_proxy, values.values())):
            return values
        return await state.session.run(_reveal_values, values, state.keep)


def _is_pure(options: Mapping[str, Any]) -> bool:
    """Tell whether Dask names a call's futures by a hash of its arguments."""
    return bool(options.get("pure", True)) and not (
        options.get("actor") or options.get("actors")
    )


def _arguments(kwargs: dict[str, Any], options: frozenset[str]) -> dict[str, Any]:
    """Return the function's own arguments, without Dask's options."""
    return {name: value for name, value in kwargs.items() if name not in options}


def _reveal_values(
    values: dict[Any, Any], keep: Callable[[Any], None]
) -> dict[Any, Any]:
    revealed = {key: reveal(value) for key, value in values.items()}
    for value in revealed.values():
        keep(value)
    return revealed
