"""The address of a Redis server, and its credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

import redis
from redis.credentials import UsernamePasswordCredentialProvider

from daskref.connectors.credentials import Hidden, mask, recall, remember
from daskref.exceptions import ConfigError
from daskref.units import Reader, parse_count, parse_flag, parse_seconds, parse_size

_SETTING = "daskref.connector"
_PREFIX = re.compile("[A-Za-z0-9][A-Za-z0-9:._-]{0,99}")
_SESSION = re.compile("[0-9a-f]{32}")

#: Connections: no limit but the number of threads that need one at a time.
_MOST = 2**31
#: Options of the driver's TLS connections, as it names them.
TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
#: Options that are in a connector's configuration only if they differ from these.
DEFAULTS: dict[str, Any] = {
    "prefix": "daskref",
    "chunk": 4 * 2**20,
    "lease": 30.0,
    "ttl": 600.0,
    "timeout": 30.0,
    "connect_timeout": 5.0,
    "retries": 4,
    **dict.fromkeys(TLS_OPTIONS),
}


def _prefix(value: object, setting: str) -> str:
    if isinstance(value, str) and _PREFIX.fullmatch(value):
        return value
    raise ConfigError(setting, value, "letters, digits and any of :._-")


#: Readers of options that are not just text.
READERS: dict[str, Reader] = {
    "clear": parse_flag,
    "prefix": _prefix,
    # Redis's own limit for a string is 512 MB
    "chunk": partial(parse_size, least=1, most=512 * 10**6),
    "retries": partial(parse_count, least=0, most=100),
    **dict.fromkeys(("lease", "ttl", "timeout", "connect_timeout"), parse_seconds),
}


def url_of(url: str, port: int | str | None) -> str:
    """Return *url*, or the URL of ProxyStore's host name and port.

    Raises ConfigError if *port* is given beside a URL, or the URL has options.
    """
    if "://" not in url:
        host = f"[{url}]" if ":" in url else url
        return f"redis://{host}" if port is None else f"redis://{host}:{port}"
    if port is not None:
        raise ConfigError(f"{_SETTING}: option port", port, "none beside a URL")
    if "?" in url:
        raise ConfigError(
            "daskref.connector", mask(url), "a URL; give options by name beside it"
        )
    return url


def session_of(value: str | None) -> str | None:
    """Return a session's name. Raises ConfigError if it is malformed."""
    if value is None or (isinstance(value, str) and _SESSION.fullmatch(value)):
        return value
    raise ConfigError(f"{_SETTING}: option session", value, "32 hexadecimal digits")


_EXPECTED = "redis://[user:password@]host[:port][/database], rediss:// for TLS"
#: Environment variable of what neither the URL nor the session's opener gave.
_VARIABLE = "DASKREF_REDIS_{}"


def _from_environment(name: str) -> str | None:
    return os.environ.get(_VARIABLE.format(name)) or None


class Place:
    """A database of a server, and the credentials for it.

    Raises ConfigError if the URL is malformed.

    Parameters
    ----------
    url
        ``redis://``, ``rediss://`` or ``unix://``, with or without user and password.
        Without a host: ``DASKREF_REDIS_URL``, else this machine.
    username, password
        Take precedence over those of the URL.
    tls
        The options of TLS connections; ``None`` is not given.
    """

    #: Without credentials; the same for the same database.
    url: str

    def __init__(
        self,
        url: str,
        username: str | None,
        password: str | None,
        tls: Mapping[str, str | None],
    ) -> None:
        if url in ("", "redis://", "redis:///"):
            url = _from_environment("URL") or "redis://localhost"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ConfigError(_SETTING, mask(url), _EXPECTED) from None
        named = unquote(parts.username or ""), unquote(parts.password or "")
        self._arguments: dict[str, Any] = {}
        if parts.scheme == "unix" and parts.path:
            self._arguments["path"] = unquote(parts.path)
            self._database = _database("", url)
            self.url = f"unix://{parts.path}"
            self._class: Any = redis.UnixDomainSocketConnection
        elif parts.scheme in ("redis", "rediss"):
            host = parts.hostname or "localhost"
            self._arguments.update(host=host, port=port or 6379)
            self._database = _database(parts.path.strip("/"), url)
            shown = f"[{host}]" if ":" in host else quote(host)
            self.url = f"{parts.scheme}://{shown}:{port or 6379}/{self._database}"
            self._class = redis.Connection
        else:
            raise ConfigError(_SETTING, mask(url), _EXPECTED)
        if parts.scheme == "rediss":
            self._class = redis.SSLConnection
            self._arguments.update(_tls(tls))
        self._log_in(username or named[0], password or named[1])

    def _log_in(self, username: str, password: str) -> None:
        given = {"username": username, "password": password}
        self._told = Hidden({name: value for name, value in given.items() if value})
        known: Mapping[str, str | None] = self._told.value or recall(self.url)
        if not known:
            known = {name: _from_environment(name.upper()) for name in given}
        found = {name: known.get(name) for name in given}
        self._login = Hidden({n: v for n, v in found.items() if v is not None})

    def remember(self) -> None:
        """Keep user and password, which the server accepted, for this process."""
        remember(self.url, self._told.value)

    def secrets(self) -> dict[str, dict[str, str]]:
        """Return user and password by place; see :meth:`Connector.secrets`."""
        known = self._login.value
        return {self.url: dict(known)} if known else {}

    def pool(self, timeout: float, connect_timeout: float) -> redis.ConnectionPool:
        """Return a pool of the driver's connections, which connect when needed.

        Parameters
        ----------
        timeout, connect_timeout
            Seconds without progress after which an operation, or connecting and logging
            in, fails.
        """
        # not as arguments: the driver's repr of a pool shows those
        login = UsernamePasswordCredentialProvider(**self._login.value)
        return redis.ConnectionPool(
            connection_class=self._class,
            max_connections=_MOST,
            **self._arguments,
            db=self._database,
            credential_provider=login if self._login.value else None,
            socket_timeout=connect_timeout,
            socket_connect_timeout=connect_timeout,
            redis_connect_func=partial(_log_in, timeout),
            protocol=2,
        )

    def __repr__(self) -> str:
        return f"<Place {self.url}>"


def _log_in(timeout: float, connection: Any) -> None:
    """Log in within the time for connecting; later operations have *timeout*."""
    connect_timeout = connection.socket_timeout
    connection.socket_timeout = timeout  # what its parser goes back to after a look
    try:
        connection.on_connect()
    finally:
        connection.socket_timeout = connect_timeout  # if it has to connect again
    connection._sock.settimeout(timeout)


def _database(path: str, url: str) -> int:
    text = path or _from_environment("DB") or "0"
    if not text.isdecimal():
        raise ConfigError(_SETTING, mask(url), f"{_EXPECTED}; a database is a number")
    return int(text)


def _tls(options: Mapping[str, str | None]) -> dict[str, str]:
    found = {}
    for name in TLS_OPTIONS:
        variable = name.removeprefix("ssl_").upper()
        value = options.get(name) or _from_environment(variable)
        if value is None:
            continue
        if name == "ssl_cert_reqs":
            if value not in ("required", "optional", "none"):
                raise ConfigError(
                    f"{_SETTING}: option {name}", value, "required, optional or none"
                )
        elif not os.path.exists(value):
            raise ConfigError(
                f"{_SETTING}: option {name}", value, "the path of a file on this host"
            )
        found[name] = value
    return found


def without_query(url: SplitResult) -> str:
    """Return a URL without its options, which the registry has read."""
    return f"{url.scheme}://{url.netloc}{url.path}"
