"""The serialization family ``daskref``, and proxies in Dask's own families.

An entry point of ``dask.sizeof`` registers it wherever daskref is installed. It works
by name, without plugins::

    distributed.Client(serializers=["daskref", "dask", "pickle"],
                       deserializers=["daskref", "dask", "pickle", "error"])

It puts a value above the threshold and sends a header only; it declines a smaller
value, which the next family carries. No Dask key holds such an object: it lives by a
lease, and by its session.
"""

from __future__ import annotations

import atexit
import copyreg
import logging
import pickle
from typing import Any

import cloudpickle
from dask.sizeof import sizeof
from distributed.protocol.serialize import (
    dask_deserialize,
    dask_serialize,
    families,
    register_serialization_family,
)

from daskref.background import is_on_event_loop, make_lock, run_in_child
from daskref.cluster._leases import keep_alive
from daskref.cluster.session import ClusterStore, sessions
from daskref.config import Settings, threshold
from daskref.exceptions import DaskrefError, WireError
from daskref.graph.literals import is_small
from daskref.objects.reference import Reference
from daskref.proxy.proxy import Proxy, extract, get_factory, is_proxy, is_resolved
from daskref.proxy.states import base_of
from daskref.store.factory import StoreFactory

logger = logging.getLogger(__name__)

#: Name of the family.
NAME = "daskref"
#: Version of the header. A reader refuses newer ones.
VERSION = 1

_own_session: ClusterStore | None = None
_lock = make_lock()


def dumps(x: Any, context: dict[str, Any] | None = None) -> tuple[dict[str, Any], list]:  # type: ignore[type-arg]
    """Turn a large value, or a proxy, into a header without frames.

    *context*, what Dask knows of the message, is not used.

    Raises
    ------
    NotImplementedError
        The next family is to try: the value is small, the store failed, or this thread
        runs an event loop, where a put would block.
    """
    if is_proxy(x):
        if isinstance(factory := get_factory(x), StoreFactory):
            return _sent(factory)
        raise NotImplementedError  # a user's own factory: pickle carries it
    limit = threshold()
    if is_small(x, limit) or is_on_event_loop():
        raise NotImplementedError
    session = _session()
    shared = session is not _own_session
    try:
        reference, _ = session.refer(x, limit)
    except DaskrefError as exc:
        if session.info.settings.on_failure == "raise":
            raise
        raise NotImplementedError(str(exc)) from exc
    if not isinstance(reference, Reference):
        raise NotImplementedError
    session.lease(reference)
    # In a cluster's session this is one message, for one reader that wants the value.
    return _sent(StoreFactory(reference, transparent=shared, once=shared))


def loads(header: dict[str, Any], frames: list[Any]) -> Any:
    """Return a proxy, without access to a store.

    Raises WireError if the header is damaged, or of a newer daskref.
    """
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise WireError(
            f"the header has version {version!r}, this daskref reads up to {VERSION}: "
            "use the same daskref on all processes"
        )
    try:
        factory = pickle.loads(header["factory"], buffers=frames)
        proxy = (
            pickle.loads(header["class"])(factory)
            if "class" in header
            else Proxy(factory)
        )
    except Exception as exc:
        raise WireError(f"the header's reference is damaged ({exc!r})") from exc
    # An object of Store.proxy has the lifetime that the user chose.
    if isinstance(factory, StoreFactory) and factory.is_leased:
        keep_alive(proxy, factory.reference)
    return proxy


def _sent(factory: StoreFactory) -> tuple[dict[str, Any], list[Any]]:
    """Return header and frames; the frames are a view's own memory."""
    metadata = factory.metadata or factory.reference.metadata
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(factory, protocol=5, buffer_callback=buffers.append)
    header = {
        "version": VERSION,
        "key": list(factory.reference.key),
        "type": metadata.type_name,
        "nbytes": metadata.nbytes,
        "hash": metadata.hash,
        "factory": data,
    }
    return header, [buffer.raw() for buffer in buffers]


def _serialize_proxy(x: Any) -> tuple[dict[str, Any], list[Any]]:
    factory = get_factory(x)
    if isinstance(factory, StoreFactory):
        return _sent(factory)
    header = {"version": VERSION, "factory": cloudpickle.dumps(factory)}
    if (cls := base_of(type(x))) is not Proxy:
        header["class"] = cloudpickle.dumps(cls)
    return header, []


def _session() -> ClusterStore:
    """Return the cluster's session, or one of this process's own.

    Raises NotImplementedError for several clusters, or one whose store is unreachable.
    """
    global _own_session
    joined = [session for session in sessions() if session is not _own_session]
    if len(joined) == 1 and joined[0].reachable:
        return joined[0]
    if joined:
        raise NotImplementedError
    with _lock:
        if _own_session is None:
            _own_session = ClusterStore.create(Settings.read())
            atexit.register(_leave)
        return _own_session


def _leave() -> None:
    global _own_session
    if _own_session is not None:
        _own_session.leave()
    _own_session = None


@run_in_child
def _forget() -> None:
    global _own_session
    _own_session = None


def register_family() -> None:
    """Register the family, and proxies in Dask's own; a second call is silent."""
    if families.get(NAME, (None,))[0] is not dumps:
        register_serialization_family(NAME, dumps, loads)
        dask_serialize.register(Proxy, _serialize_proxy)
        dask_deserialize.register(Proxy, loads)
        # Dask's own family sends the type as well
        copyreg.pickle(type(Proxy), _reduce_class)


def _reduce_class(cls: type) -> Any:
    """Pickle a class made for one kind of target as its base."""
    base = base_of(cls)
    return cls.__qualname__ if base is cls else (base_of, (base,))


def register_sizeof(dispatch: Any) -> None:
    """Register the size of proxies: small until the target is resolved."""
    dispatch.register(Proxy, _sizeof_proxy)


def _sizeof_proxy(proxy: Any) -> int:
    return sizeof(extract(proxy)) if is_resolved(proxy) else Proxy.__sizeof__(proxy)
