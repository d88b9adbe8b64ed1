"""How a session's store is opened: by the scheduler first, then by each process.

The scheduler opens the store that the settings name. A process that joins opens the
store of :class:`SessionInfo`, and checks that it is the same one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from daskref.config import Settings
from daskref.connectors import open_connector
from daskref.connectors.base import Connector, Key
from daskref.exceptions import ConnectorUnavailableError
from daskref.objects.reference import StoreConfig
from daskref.objects.signing import new_key, secret_of
from daskref.store.metrics import Counters
from daskref.store.registry import register_store
from daskref.store.store import Store

#: The probe: an object that a process which joins looks for.
PROBE = b"daskref"
#: The longest time between two attempts to open a store, in times of the first one.
_LONGEST = 30


@dataclass(frozen=True)
class SessionInfo:
    """What a process needs to join a session. Pickles."""

    #: Unique to the cluster's run.
    id: str
    #: How to reach the store.
    store: StoreConfig
    #: The settings of the cluster.
    settings: Settings
    #: Keys of the probes, one in each place of objects: a process that finds them all
    #: shares the store.
    probes: tuple[Key, ...]
    #: Place -> credentials; in no reference, nor in this object's ``repr``.
    secrets: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def public(self) -> SessionInfo:
        """Return a copy without secrets, for Dask's log."""
        connector = self.settings.connector
        if isinstance(connector, str):
            kind: Any = connector.partition("://")[0]
        else:
            kind = {"class": str(connector.get("class"))}
        return replace(
            self, secrets={}, settings=replace(self.settings, connector=kind)
        )


def begin(
    settings: Settings, transport: str, counters: Counters
) -> tuple[SessionInfo, Store]:
    """Open the store of a new session, with a probe; see ClusterStore.create."""
    session_id = uuid.uuid4().hex
    name = f"daskref-{session_id}"
    connector = open_session_connector(settings, transport)
    sign = settings.security_sign
    is_signed = not connector.private if sign == "auto" else sign == "true"
    key = new_key() if is_signed else None
    store = Store(name, connector, counters=counters, signing_key=key)
    connector = store.connector
    connector.outlive()
    try:
        probes = tuple(connector.put_everywhere(PROBE))
    except Exception:
        store.close()
        raise
    secrets = connector.secrets()
    if key is not None:
        secrets = {**secrets, **secret_of(name, key)}
    info = SessionInfo(session_id, store.config(), settings, probes, secrets)
    register_store(store)
    return info, store


def open_session_connector(settings: Settings, transport: str = "tls") -> Connector:
    """Open the connector that the settings name; see :meth:`ClusterStore.create`."""
    spec = settings.connector
    memory = {
        "root": settings.shm_root,
        "budget": settings.shm_budget,
        "recycle": settings.shm_recycle,
        "recycle_idle": settings.shm_recycle_idle,
        "spill_directory": settings.spill_directory,
    }
    if spec == "shm://":
        return open_connector(spec, **memory)
    if spec == "auto":  # shared memory, for as long as there is one host
        spec = "zmq://"
    if not isinstance(spec, str) or not spec.startswith("zmq://"):
        return open_connector(spec)
    said = dict(parse_qsl(urlsplit(spec).query))
    options = {"security": transport, "timeout": settings.timeout, **memory}
    return open_connector(spec, **{k: v for k, v in options.items() if k not in said})


def reach(info: SessionInfo, counters: Counters) -> Store:
    """Open an existing session's store.

    Raises ConnectorError if it cannot be opened, or lacks the scheduler's probes.
    """
    store = Store.from_config(info.store, counters=counters)
    try:
        if all(map(store.connector.exists, info.probes)):
            register_store(store, exist_ok=True)
            store.connector.outlive()
            return store
        raise ConnectorUnavailableError(
            repr(store.connector), "it does not hold what the scheduler put there"
        )
    except BaseException:
        store.close()
        raise


def pauses(interval: float) -> Iterator[float]:
    """Yield the seconds to wait before each attempt to open a store."""
    longest = _LONGEST * interval
    while True:
        yield interval
        interval = min(2 * interval, longest)
