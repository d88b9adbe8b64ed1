"""Credentials of stores, which references do not carry.

A connector's ``config()`` travels in every reference, so it contains no secrets. The
credentials that a process got from its user, or over Dask's own connections when it
joined a session, are kept here by place: the store's URL without user and password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from daskref.background import make_lock

#: User and password in a URL, and secret options.
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_SECRET_OPTION = re.compile(
    r"([?&;](?:password|passwd|secret|token|key|access_key|secret_key)=)[^&#\s]*",
    re.IGNORECASE,
)

T = TypeVar("T")

_known: dict[str, dict[str, str]] = {}
_lock = make_lock()


def remember(place: str, secrets: Mapping[str, str]) -> None:
    """Keep the credentials of a place for later connectors of this process.

    Parameters
    ----------
    place
        A URL without credentials, as the connector class writes it.
    secrets
        Replace those kept before. Empty: nothing changes.
    """
    if secrets:
        with _lock:
            _known[place] = dict(secrets)


def recall(place: str) -> dict[str, str]:
    """Return a copy of the credentials of a place; empty if there are none."""
    with _lock:
        return dict(_known.get(place, {}))


class Hidden(Generic[T]):
    """A value that is or names a credential, with *shown* as its ``repr``."""

    __slots__ = ("_shown", "value")

    def __init__(self, value: T, shown: str = "***") -> None:
        self.value = value
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown


def mask_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a connector's options with the values of secret ones masked.

    Examples
    --------
    >>> mask_options({"host": "localhost", "password": "secret"})
    {'host': 'localhost', 'password': '***'}
    >>> mask_options({"connectors": {"far": [{"token": "secret"}, None]}})
    {'connectors': {'far': [{'token': '***'}, None]}}
    """
    return {
        name: "***"
        if _SECRET_OPTION.match(f"?{str(name).replace('-', '_')}=")
        else _masked(value)
        for name, value in options.items()
    }


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return mask_options(value)
    if isinstance(value, list | tuple):
        return [_masked(each) for each in value]
    return value


def forget(place: str) -> None:
    """Drop the credentials of a place, if there are any."""
    with _lock:
        _known.pop(place, None)


def mask(text: str) -> str:
    """Return text with the credentials of the URLs in it replaced by ``***``.

    Examples
    --------
    >>> mask("redis://user:secret@host:6379/0?password=other")
    'redis://***@host:6379/0?password=***'
    """
    return _SECRET_OPTION.sub(r"\1***", _USERINFO.sub("***@", text))
