"""Clients that pass large values by reference.

:class:`Client` is Dask's client and :class:`ByReference`; :func:`enable` puts the same
mixin on an existing client.

The way of a value, as three tours of a few files each. *How it works* draws them.

A value leaves, by ``submit`` or ``scatter``:

1. ``client/by_reference.py``: ``_graph_to_futures``, through which every graph leaves,
   and ``_scatter``
2. ``graph/packing.py``: serializes large values of a task and has them put; a node with
   references stands for the task
3. ``client/_holdings.py``: ``put``, once per content; the scheduler is told of it
4. ``cluster/session.py``: ``put``, unless the store is out of reach, full or failing
5. ``store/_writing.py``: signs, counts, and calls ``put_frames`` of the connector

A task runs:

1. ``worker/plugin.py``: ``transition`` puts a boundary around the task
2. ``worker/_boundary.py``: calls the task in its thread, with values
3. ``graph/nodes.py``: ``PackedNode.load`` unpickles the task, its large values inside
4. ``store/factory.py``: resolves a reference: ``get_reference`` of the session's store
5. ``worker/plugin.py`` and ``worker/_results.py``: ``get_data`` and ``refer`` put the
   result, once another process asks for it

A value dies:

1. ``client/_holdings.py``: ``_release_unused``: the original is gone, and all futures
2. ``scheduler/_plugin.py``: ``on_release``, and ``transition`` of Dask's tasks
3. ``scheduler/_state.py``: ``_delete``: where the objects are that nothing holds now
4. ``scheduler/_dispatcher.py``: has them deleted: by ``scheduler/_evictions.py``, in a
   thread, and on other hosts that have copies
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import distributed

from daskref import config
from daskref.client.by_reference import ByReference
from daskref.cluster.notices import setting_text
from daskref.connectors.credentials import Hidden
from daskref.connectors.registry import describe_connector
from daskref.exceptions import DaskrefError

if TYPE_CHECKING:
    from typing import Self


def _with_dasks_parameters(init: Any) -> inspect.Signature:
    """Return the signature of a client's ``__init__`` with Dask's parameters named."""
    dasks = inspect.signature(distributed.Client.__init__)
    ours = inspect.signature(init).parameters.values()
    *named, others = dasks.parameters.values()
    added = [
        parameter for parameter in ours if parameter.kind is parameter.KEYWORD_ONLY
    ]
    return dasks.replace(parameters=[*named, *added, others])


class Client(ByReference):
    """Dask's client, with large values passed by reference.

    Takes the arguments of :class:`distributed.Client`, and:

    Parameters
    ----------
    *args
        For :class:`distributed.Client`.
    threshold : int or str, optional
        Bytes; larger values go by reference. It applies to all values that this client
        sends, whatever ``daskref.threshold`` is set to later. To results, the threshold
        of the cluster's first client applies. Default: ``daskref.threshold``, read at
        each call.
    connector : str or mapping or Connector, optional
        The store, if this is the cluster's first client with daskref: a spec, or a
        connector, ProxyStore's included, which the caller closes. A later client is
        told if the cluster has another one. Default: ``daskref.connector``.
    **kwargs
        For :class:`distributed.Client`.

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

    if TYPE_CHECKING:
        # Checkers go by these: an `__init__` in the same class would take precedence.
        @overload
        def __new__(
            cls,
            *args: Any,
            asynchronous: Literal[False] = False,
            threshold: int | str | None = None,
            connector: Any = None,
            **kwargs: Any,
        ) -> Self: ...
        @overload
        def __new__(
            cls,
            *args: Any,
            asynchronous: Literal[True],
            threshold: int | str | None = None,
            connector: Any = None,
            **kwargs: Any,
        ) -> AsyncClient: ...
        @overload
        def __new__(
            cls,
            *args: Any,
            asynchronous: bool,
            threshold: int | str | None = None,
            connector: Any = None,
            **kwargs: Any,
        ) -> Self: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...  # noqa: D102

        def __enter__(self) -> Self: ...
        async def __aenter__(self) -> Self: ...
        def __await__(self) -> Generator[Any, Any, Self]: ...

    else:

        def __init__(
            self,
            *args: Any,
            threshold: int | str | None = None,
            connector: Any = None,
            **kwargs: Any,
        ) -> None:
            try:
                self._daskref_options = options_of(threshold, connector)
                super().__init__(*args, **kwargs)
            # its text says what to do; the traceback is noise
            except DaskrefError as exc:
                raise exc.with_traceback(None) from None

        __init__.__signature__ = _with_dasks_parameters(__init__)


if TYPE_CHECKING:

    class AsyncClient(Client):
        """The type of ``Client(asynchronous=True)``, for type checkers only."""


def options_of(threshold: Any, connector: Any) -> dict[str, Any]:
    """Check a client's own settings; raises ConfigError if they are malformed.

    The connector may name a password, so it is hidden from ``vars(client)``.
    """
    if not (connector is None or isinstance(connector, str | Mapping)):
        connector = describe_connector(connector)
    config.Settings.read(threshold=threshold, connector=connector)
    if connector is not None:
        connector = Hidden(connector, setting_text("connector", connector))
    return {"threshold": threshold, "connector": connector}
