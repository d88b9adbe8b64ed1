"""Encryption of values on the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dask.config

from daskref.connectors import ZmqConnector
from daskref.connectors.base import Connector
from daskref.connectors.registry import load_class
from daskref.exceptions import ConfigError

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

_REQUIRE = "distributed.comm.require-encryption"
#: Dask's protocols that encrypt.
_ENCRYPTED = {"tls", "wss"}


def is_encryption_required(security: Any = None) -> bool:
    """Tell whether Dask must encrypt its messages.

    *security*: the :class:`distributed.Security` of a scheduler, worker or client.
    Certificates in it require encryption unless it says otherwise.
    """
    configured = dask.config.get(_REQUIRE, None)
    return bool(configured or getattr(security, "require_encryption", False))


def choose_transport(transport: str, scheduler: Scheduler) -> str:
    """Return ``"tls"`` or ``"clear"``; ``"auto"`` follows the scheduler's listeners."""
    if transport != "auto":
        return transport
    addresses = [listener.contact_address for listener in scheduler.listeners]
    encrypted = any(
        address.partition("://")[0] in _ENCRYPTED for address in addresses
    ) or is_encryption_required(scheduler.security)
    # A scheduler that does not listen yet gets the safe choice.
    return "tls" if encrypted or not addresses else "clear"


def check_transport(connector: Connector, require_encryption: bool) -> None:
    """Raise ConfigError for a connector without encryption where Dask requires it."""
    if not require_encryption:
        return
    for cls, config in _parts(type(connector), connector.config()):
        if issubclass(cls, ZmqConnector) and config.get("security") == "clear":
            raise ConfigError(
                "daskref.security.transport",
                "clear",
                f'"tls" or "auto", since {_REQUIRE} is set (or the security of the '
                "cluster requires encryption): with `clear`, values would cross the "
                "network unencrypted",
            )


def _parts(
    cls: type[Any], config: Mapping[str, Any]
) -> Iterator[tuple[type[Any], Mapping[str, Any]]]:
    children = config.get("connectors")
    if isinstance(children, Mapping):  # a MultiConnector
        for child in children.values():
            yield from _parts(load_class(child["class"]), child["config"])
    else:
        yield cls, config
