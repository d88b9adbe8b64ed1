"""What users are told of settings that do nothing: misspelt, or the session's hold.

All of it goes to the log of :mod:`daskref`, once per process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import dask.config
from dask.utils import format_bytes

from daskref.config import Settings, is_size, sections, setting_name
from daskref.connectors.credentials import mask, mask_options

logger = logging.getLogger("daskref")

#: Read by each process for itself, so that none is another one's to override.
_OF_EACH_PROCESS = frozenset({"zmq_interface", "zmq_port", "zmq_advertise"})

_told: set[str] = set()
#: How many names there were under ``daskref`` when they were looked at last.
_looked_at = 0


def look() -> None:
    """Tell unknown names if some were set since. For every call of a user's."""
    ours = dask.config.config.get("daskref")
    if type(ours) is dict and len(ours) != _looked_at:
        tell_unknown()


def tell_unknown() -> None:
    """Tell each name in Dask's configuration that looks like ours and is none."""
    global _looked_at
    ours = dask.config.config.get("daskref")
    _looked_at = len(ours) if isinstance(ours, Mapping) else 0
    for name in _unknown():
        if name not in _told:
            _told.add(name)
            near = _nearest(name)
            hint = f"Did you mean {near}?" if near else "`daskref info` lists all."
            logger.warning(
                "There is no setting %s: what is set there changes nothing. %s",
                name,
                hint,
            )


def tell_overridden(asked: Mapping[str, Any], session: Settings) -> None:
    """Tell which settings of a session hold, of those that a client has set otherwise.

    Parameters
    ----------
    asked
        The client's, by the fields of :class:`~daskref.config.Settings`.
    session
        Those of the session that it has joined.
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
    """Return what a session is, for logs.

    Parameters
    ----------
    settings
        Those of the session.
    budget
        Bytes of a host's memory that it may fill; 0 if it keeps values elsewhere.
    """
    described = {
        field: setting_text(field, vars(settings)[field])
        for field in ("connector", "threshold")
    }
    return {**described, "budget": format_bytes(budget) if budget else "none"}


def tell_switched_on(opened: Mapping[str, Any]) -> None:
    """Tell that a client passes values by reference, and in which session."""
    logger.info(
        "Large values go by reference: connector %s, threshold %s, budget %s, hosts %s",
        opened["connector"],
        opened["threshold"],
        opened["budget"],
        ", ".join(opened["hosts"]) or "none yet",
    )


def tell_plain(reason: Exception) -> None:
    """Tell why a client that was to be switched on goes on as a plain client."""
    if (text := str(reason)) not in _told:
        _told.add(text)
        logger.warning(
            "daskref is in distributed.client.preload, but a client goes on as plain "
            "Dask: %s",
            text,
        )


def setting_text(field: str, value: object) -> str:
    """Return a checked value as it can be set again; passwords are masked."""
    if is_size(field) and isinstance(value, int):
        for exponent, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
            if value and not value % 2**exponent:
                return f"{value >> exponent} {unit}"
    if isinstance(value, Mapping):
        return mask(repr(mask_options(value)))
    return "null" if value is None else mask(str(value))


def _unknown() -> Iterator[str]:
    for name in dask.config.config:
        if str(name).lower().startswith("daskref") and name != "daskref":
            yield name  # DASK_DASKREF_THRESHOLD in place of DASK_DASKREF__THRESHOLD
    known = sections()
    for section, names in known.items():
        plain = {_plain(name) for name in names}
        given = dask.config.get(section, None)
        if isinstance(given, Mapping):
            for name in given:
                if _plain(name) not in plain:
                    yield f"{section}.{name}"


def _nearest(name: str) -> str | None:
    full = [f"{section}.{name}" for section, names in sections().items()
            for name in names if f"{section}.{name}" not in sections()]  # fmt: skip
    # people leave out the section, or write a hyphen in the place of its dot
    by_ending = {_plain(each.rpartition(".")[2]): each for each in full}
    by_name = {_plain(each).removeprefix("daskref-"): each for each in full}
    candidates = by_ending | by_name
    wanted = _plain(name).lower().removeprefix("daskref-")
    for asked in (wanted, wanted.rpartition("-")[2]):
        if near := get_close_matches(asked, candidates, 1, 0.7):
            return candidates[near[0]]
    return None


def _plain(name: object) -> str:
    """Return a name as it compares: Dask takes hyphens for underscores."""
    return str(name).replace("_", "-").replace(".", "-")
