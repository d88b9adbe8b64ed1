"""Errors of the driver and of the server, in eight categories."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

from redis import exceptions as driver

from daskref.connectors.failures import Category, Finding
from daskref.exceptions import ConnectorError

_STRANGE = Finding(
    Category.UNSUITABLE,
    "What answers there does not speak Redis's protocol. Correct host and port; a "
    "server with TLS needs rediss:// in place of redis://",
)
_TLS = Finding(
    Category.UNSUITABLE,
    "There is no TLS connection to it. If it has no TLS, write redis:// in place of "
    "rediss://; if its certificate is of a private authority, name that in the option "
    "`ssl_ca_certs`",
)
_SLOW = Finding(
    Category.TIMED_OUT,
    "It is stopped or overloaded, or something on the way drops the packets, or it has "
    "no TLS and was asked for it; if it is just slow, raise the options `timeout` and "
    "`connect_timeout`",
)
_UNREACHED = Finding(
    Category.UNREACHABLE,
    "Start `redis-server` there, or correct the connector's URL: host, port, and "
    "rediss:// in place of redis:// for TLS",
)
_REFUSED = Finding(Category.OTHER, subject="a command")
_INTERNAL = Finding(Category.OTHER, "This is an error of daskref", "the driver")

#: Start of a class name of the driver or of a server's reply -> its meaning. The first
#: match counts. In some versions, a script's error begins with ERR and has the code
#: later.
_WORDS = [
    (
        "NoPermission|NOPERM|user executing the script can't",
        Finding(
            Category.FORBIDDEN,
            "The user lacks a permission. It needs the keys of the connector's prefix "
            "and the commands that the documentation lists: `ACL SETUSER name "
            "~daskref:* +@read +@write +@scripting +@connection +time`",
        ),
    ),
    (
        "Authentication|Authorization|ExternalAuth|NOAUTH|WRONGPASS",
        Finding(
            Category.CREDENTIALS,
            "Give user and password in the connector's URL, or in "
            "DASKREF_REDIS_USERNAME and DASKREF_REDIS_PASSWORD",
        ),
    ),
    (
        "OutOfMemory|OOM|maxmemory",
        Finding(
            Category.FULL,
            "Raise its `maxmemory`, or name a server with more room in "
            "daskref.connector",
        ),
    ),
    (
        "BusyLoading|LOADING",
        Finding(Category.UNREACHABLE, "It is still loading its data. Try again later"),
    ),
    (
        "ReadOnly|READONLY|NOREPLICAS|MasterDown|MASTERDOWN",
        Finding(
            Category.UNSUITABLE,
            "It is a replica that only reads, or has lost its primary. Name the "
            "primary",
        ),
    ),
    (
        "(Redis)?Cluster|Slot|Cross|Ask|Moved|TryAgain|"
        "CLUSTER|CROSSSLOT|MOVED|ASK|TRYAGAIN",
        Finding(
            Category.UNSUITABLE,
            "It is a node of a Redis Cluster, and daskref keeps a session on one "
            "server. Name one that does not run in cluster mode",
        ),
    ),
    (
        "DB index",
        Finding(
            Category.MISSING,
            "Name a database that it has, as in redis://host/0",
            "the database",
        ),
    ),
    (
        "unknown command",
        Finding(Category.UNSUITABLE, "It needs to be Redis 5, Valkey, or newer"),
    ),
    (
        "MISCONF",
        _REFUSED._replace(
            advice="It cannot write its snapshots to disk: see its log, or switch them "
            "off"
        ),
    ),
    ("InvalidResponse", _STRANGE),
    ("NoScript|ExecAbort", _INTERNAL),
]
_MEANINGS = [(re.compile(rf"\b({words})"), found) for words, found in _WORDS]
#: Characters of a reply that are searched: later ones may quote the user's command.
_FIRST = 200


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = exc
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def find(exc: BaseException) -> Finding:
    """Return the meaning of an error of the driver, of a socket or of the server."""
    # the driver wraps errors of the TLS library
    if any(isinstance(each, ssl.SSLError) for each in _causes(exc)):
        return _TLS
    names = [cls.__name__ for cls in type(exc).__mro__]
    replied = str(exc)[:_FIRST] if isinstance(exc, driver.ResponseError) else ""
    for words, found in _MEANINGS:
        if any(words.match(name) for name in names) or words.search(replied):
            return found
    if isinstance(exc, (driver.TimeoutError, TimeoutError)):
        return _SLOW
    if isinstance(exc, (driver.ConnectionError, OSError)):
        return _UNREACHED
    return _REFUSED if type(exc) is driver.ResponseError else _INTERNAL


def is_passing(exc: BaseException) -> bool:
    """Tell whether to try again: not after timeouts, which took long, or refusals."""
    return find(exc).category is Category.UNREACHABLE


def translated(exc: BaseException, name: str) -> ConnectorError:
    """Return daskref's error for one of the driver, of a socket or of the server."""
    return find(exc).error(name, str(exc).strip(".") or type(exc).__name__)
