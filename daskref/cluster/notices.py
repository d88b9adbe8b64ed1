"""Log messages for users, on the logger ``daskref``: settings in effect, sessions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dask.utils import format_bytes

from daskref.config import Settings, is_size, setting_name
from daskref.connectors.credentials import mask, mask_options

logger = logging.getLogger("daskref")

#: Each process reads these for itself; a session overrides none of them.
_OF_EACH_PROCESS = frozenset({"zmq_interface", "zmq_port", "zmq_advertise"})

_told: set[str] = set()


def tell_overridden(asked: Mapping[str, Any], session: Settings) -> None:
    """Log the settings of a client that the session overrides.

    *asked*: the client's own settings, by field of :class:`~daskref.config.Settings`.
    """
    differing = {
        field: (setting_text(field, value), setting_text(field, vars(session)[field]))
        for field, value in asked.items()
        if field not in _OF_EACH_PROCESS and value != vars(session)[field]
    }
    threshold = differing.pop("threshold", None)
    if threshold is not None:
        mine, holds = threshold
        logger.warning(
            "%s is %s for what this client sends, and %s for results and whatever "
            "else the workers send: the cluster's session began with that.",
            setting_name("threshold"),
            mine,
            holds,
        )
    if differing:
        logger.warning(
            "The cluster's session began before this client, and its settings hold: "
            "%s. To change them, start the cluster anew, and let its first client ask.",
            ", ".join(
                f"{setting_name(field)} is {holds}, not {mine}"
                for field, (mine, holds) in differing.items()
            ),
        )


def describe_session(settings: Settings, budget: int) -> dict[str, Any]:
    """Return the log entry of a session; *budget*: bytes of a host's memory, or 0."""
    described = {
        field: setting_text(field, vars(settings)[field])
        for field in ("connector", "threshold")
    }
    return {**described, "budget": format_bytes(budget) if budget else "none"}


def tell_switched_on(opened: Mapping[str, Any]) -> None:
    """Log that a client passes values by reference, with the session's settings."""
    logger.info(
        "Large values go by reference: connector %s, threshold %s, budget %s, hosts %s",
        opened["connector"],
        opened["threshold"],
        opened["budget"],
        ", ".join(opened["hosts"]) or "none yet",
    )


def tell_plain(reason: Exception) -> None:
    """Log, once per reason, why a preloaded client continues as a plain Dask client."""
    if (text := str(reason)) not in _told:
        _told.add(text)
        logger.warning(
            "daskref is in distributed.client.preload, but a client goes on as plain "
            "Dask: %s",
            text,
        )


def setting_text(field: str, value: object) -> str:
    """Return a checked setting as users write it, with passwords masked."""
    if is_size(field) and isinstance(value, int):
        for exponent, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
            if value and not value % 2**exponent:
                return f"{value >> exponent} {unit}"
    if isinstance(value, Mapping):
        return mask(repr(mask_options(value)))
    return "null" if value is None else mask(str(value))
