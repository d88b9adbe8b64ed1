"""What the driver and the server say when something fails, as sentences of our own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple

from redis import exceptions as driver

from daskref.connectors.credentials import mask
from daskref.exceptions import ConnectorError, ConnectorUnavailableError


class Advice(NamedTuple):
    """What an error means."""

    #: Whether this process cannot use the store at all.
    unavailable: bool
    #: A sentence; ``{}`` stands for what the driver said.
    text: str


_CLUSTER = Advice(
    True,
    "the server is a node of a Redis Cluster ({}), and daskref keeps a session on one "
    "server. Name one that does not run in cluster mode",
)
_UNREACHED = Advice(
    True,
    "the server cannot be reached ({}). Start `redis-server` there, or correct the "
    "connector's URL: host, port, and rediss:// in place of redis:// for TLS",
)
_SLOW = Advice(
    True,
    "the server did not answer in time ({}). It is stopped or overloaded, or something "
    "on the way drops the packets, or it has no TLS and was asked for it; if it is "
    "just slow, raise the options `timeout` and `connect_timeout`",
)
_REFUSED = Advice(False, "the server refused a command ({})")
_AUTHENTICATION = Advice(
    True,
    "the server did not accept user and password ({}). Give them in the connector's "
    "URL, or in DASKREF_REDIS_USERNAME and DASKREF_REDIS_PASSWORD",
)
_PERMISSION = Advice(
    True,
    "the user lacks a permission ({}). It needs the keys of the connector's prefix and "
    "the commands that the documentation lists: `ACL SETUSER name ~daskref:* +@read "
    "+@write +@scripting +@connection +time`",
)
_STRANGE = Advice(
    True,
    "what answers there does not speak Redis's protocol ({}). Correct host and port; "
    "a server with TLS needs rediss:// in place of redis://",
)
_TLS = Advice(
    True,
    "there is no TLS connection to the server ({}). If it has no TLS, write redis:// "
    "in place of rediss://; if its certificate is of a private authority, name that "
    "in the option `ssl_ca_certs`",
)
_INTERNAL = Advice(False, "the driver failed ({}), which is an error of daskref")

#: Every exception of the driver, by name (older ones lack some) -> what it means.
_NAMED = {
    "RedisError": _REFUSED,
    "ConnectionError": _UNREACHED,
    "MaxConnectionsError": _UNREACHED,
    "TimeoutError": _SLOW,
    "AuthenticationError": _AUTHENTICATION,
    "AuthenticationWrongNumberOfArgsError": _AUTHENTICATION,
    "AuthorizationError": _AUTHENTICATION,
    "ExternalAuthProviderError": _AUTHENTICATION,
    "NoPermissionError": _PERMISSION,
    "InvalidResponse": _STRANGE,
    "ResponseError": _REFUSED,
    "BusyLoadingError": Advice(
        True, "the server is still loading its data ({}). Try again later"
    ),
    "OutOfMemoryError": Advice(
        False,
        "the server is full ({}). Raise its `maxmemory`, or name a server with more "
        "room in daskref.connector",
    ),
    "ReadOnlyError": Advice(
        True, "the server is a replica that only reads ({}). Name the primary"
    ),
    "ClusterError": _CLUSTER,
    "ClusterDownError": _CLUSTER,
    "ClusterCrossSlotError": _CLUSTER,
    "RedisClusterException": _CLUSTER,
    "SlotNotCoveredError": _CLUSTER,
    "CrossSlotTransactionError": _CLUSTER,
    "AskError": _CLUSTER,
    "MovedError": _CLUSTER,
    "TryAgainError": _CLUSTER,
    "MasterDownError": Advice(
        True, "the server is a replica and has lost its primary ({}). Name the primary"
    ),
    "ModuleError": _REFUSED,
    "DataError": _INTERNAL,
    "PubSubError": _INTERNAL,
    "WatchError": _INTERNAL,
    "NoScriptError": _INTERNAL,
    "ExecAbortError": _INTERNAL,
    "LockError": _INTERNAL,
    "LockNotOwnedError": _INTERNAL,
    "ChildDeadlockedError": _INTERNAL,
    "InvalidPipelineStack": _INTERNAL,
    "NoSuchFieldsetError": _REFUSED,
    "IncorrectPolicyType": _INTERNAL,
}

#: Class of an error -> what it means.
ADVICE: dict[type[BaseException], Advice] = {
    **{
        getattr(driver, name): advice
        for name, advice in _NAMED.items()
        if hasattr(driver, name)
    },
    # not the driver's: of the sockets that we read ourselves
    ssl.SSLError: _TLS,
    TimeoutError: _SLOW,
    OSError: _UNREACHED,
}

#: First word of an error that the server replies -> the driver's class for it.
CODES: dict[str, type[driver.RedisError]] = {
    "ASK": driver.MovedError,
    "CLUSTERDOWN": driver.ClusterDownError,
    "CROSSSLOT": driver.ClusterCrossSlotError,
    "LOADING": driver.BusyLoadingError,
    "MASTERDOWN": driver.MasterDownError,
    "MOVED": driver.MovedError,
    "NOAUTH": driver.AuthenticationError,
    "NOPERM": driver.NoPermissionError,
    "NOREPLICAS": driver.ReadOnlyError,
    "OOM": driver.OutOfMemoryError,
    "READONLY": driver.ReadOnlyError,
    "TRYAGAIN": driver.TryAgainError,
    "WRONGPASS": driver.AuthenticationError,
}

#: What else a reply's text tells.
_TEXTS = {
    "unknown command": "It needs to be Redis 5, Valkey, or newer",
    "DB index is out of range": "Name a database that it has, as in redis://host/0",
    "MISCONF": "It cannot write its snapshots to disk: see its log, or switch them off",
    "maxmemory": ADVICE[driver.OutOfMemoryError].text.partition(". ")[2],
}


def _kind(exc: driver.ResponseError) -> type[BaseException]:
    """Return the driver's class for an error that the server replied."""
    if type(exc) is not driver.ResponseError:
        return type(exc)
    # a script's error begins with ERR in some versions, and names the code later
    text = str(exc)
    if "user executing the script can't" in text:
        return driver.NoPermissionError
    for word in text.replace(":", " ").replace("-", " ").split()[:12]:
        if word in CODES:
            return CODES[word]
    return driver.ResponseError


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = exc
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def advice(exc: BaseException) -> Advice:
    """Return what an error of the driver, of a socket or of the server means."""
    if isinstance(exc, driver.ResponseError):
        found = ADVICE[_kind(exc)]
        for words, hint in _TEXTS.items():
            if found is _REFUSED and words in str(exc):
                return Advice(words.startswith("DB"), f"{found.text}. {hint}")
        return found
    # the driver wraps what the TLS library says in its own class
    tls = next((e for e in _causes(exc) if isinstance(e, ssl.SSLError)), None)
    if tls is not None:
        return ADVICE[ssl.SSLError]
    for words, hint in _TEXTS.items():
        if words in str(exc):
            return Advice(True, f"{_REFUSED.text}. {hint}")
    return next(ADVICE[cls] for cls in type(exc).__mro__ if cls in ADVICE)


def is_passing(exc: BaseException) -> bool:
    """Tell whether to try again: timeouts have cost enough, and no to users stays."""
    return advice(exc) in (_UNREACHED, ADVICE[driver.BusyLoadingError])


def translated(exc: BaseException, name: str) -> ConnectorError:
    """Return our error for one of the driver, of a socket or of the server.

    Parameters
    ----------
    exc
        What was caught.
    name
        ``repr`` of the connector.
    """
    unavailable, text = advice(exc)
    kind = ConnectorUnavailableError if unavailable else ConnectorError
    return kind(name, text.format(mask(str(exc).strip(".") or type(exc).__name__)))
