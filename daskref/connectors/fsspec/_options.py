"""URLs and storage options of fsspec, split into public and secret ones.

Options that are known to be harmless may travel in references. All others are treated
as secrets, whatever their name: a list of names that look secret always has gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from daskref.connectors.credentials import mask
from daskref.exceptions import ConfigError
from daskref.units import parse_flag

_SETTING = "daskref.connector"

#: Options that references may carry, on top or in a mapping.
PUBLIC = frozenset([
    "access", "account_host", "account_name", "anon", "api_version",
    "auto_mkdir", "blocksize", "cache_regions", "connect_timeout",
    "consistency", "default_block_size", "default_cache_type",
    "default_fill_cache", "default_location", "endpoint_url",
    "fixed_upload_size", "global_store", "host", "local_expiry_check",
    "location_mode", "max_concurrency", "max_pool_connections", "port",
    "profile", "project", "read_timeout", "region", "region_name",
    "request_checksum_calculation", "requester_pays",
    "response_checksum_validation", "retries", "s3", "signature_version",
    "socket_timeout", "tcp_keepalive", "use_ssl", "verify", "version_aware",
    "ACL", "BucketKeyEnabled", "ServerSideEncryption", "SSEKMSKeyId",
    "StorageClass",
])  # fmt: skip
#: Options that are mappings, whose entries are checked one by one.
MAPPINGS = frozenset({"client_kwargs", "config_kwargs", "s3_additional_kwargs"})
_FLAGS = frozenset([
    "anon", "auto_mkdir", "cache_regions", "fixed_upload_size",
    "local_expiry_check", "requester_pays", "use_ssl", "version_aware",
])  # fmt: skip
#: Protocols with a container, not a user, before the ``@``.
_CONTAINERS = frozenset({"abfs", "abfss", "az"})
#: Protocols of s3fs.
S3 = frozenset({"s3", "s3a"})
#: Protocols whose URL needs a bucket.
BUCKETS = frozenset({*S3, "gs", "gcs", *_CONTAINERS})


class Location(NamedTuple):
    """The parts of a URL."""

    #: Of fsspec, as in ``"s3"``.
    protocol: str
    #: Without user, password and options.
    url: str
    #: Those.
    options: dict[str, Any]


def read_url(url: str) -> Location:
    """Return the parts of a URL.

    Raises ConfigError, with secrets masked, if it is malformed.

    Parameters
    ----------
    url
        ``"s3://bucket/prefix?endpoint_url=…"``, or ``"fsspec+<protocol>://…"``.
    """
    expected = "a URL such as s3://bucket/prefix or fsspec+sftp://host/directory"
    try:
        found = urlsplit(url)
        query = dict(
            parse_qsl(found.query, keep_blank_values=True, strict_parsing=True)
            if found.query
            else ()
        )
    except ValueError as exc:
        raise ConfigError(_SETTING, mask(url), expected) from exc
    generic, plus, rest = found.scheme.partition("+")
    protocol = rest if plus and generic == "fsspec" else found.scheme
    bucket = protocol in BUCKETS
    if "://" not in url or protocol in ("", "fsspec") or found.fragment:
        raise ConfigError(_SETTING, mask(url), expected)
    if bucket and not found.netloc:
        raise ConfigError(_SETTING, mask(url), f"{protocol}://bucket/prefix")
    options: dict[str, Any] = {}
    userinfo, at, place = found.netloc.rpartition("@")
    if at and protocol not in _CONTAINERS:
        user, _, password = userinfo.partition(":")
        options = {"username": unquote(user), "password": unquote(password)}
        options = {name: value for name, value in options.items() if value}
    else:
        place = found.netloc
    path = found.path.rstrip("/")
    clean = urlunsplit(SplitResult(protocol, place, path, "", ""))
    if not clean.startswith(f"{protocol}://"):  # the host may be empty
        clean = f"{protocol}://{path}"
    return Location(protocol, clean, {**options, **query})


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the types that drivers expect.

    Raises ConfigError, without the value, if one cannot be sent to another process.
    """
    result = {}
    for name, value in options.items():
        if name in MAPPINGS and isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise _malformed(name, "a mapping, written as JSON") from None
        if name in _FLAGS:
            try:
                value = parse_flag(value, name)
            except ConfigError as exc:
                raise _malformed(name, exc.expected) from None
        if name in MAPPINGS and not isinstance(value, Mapping):
            raise _malformed(name, "a mapping")
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise _malformed(
                name, "text, a number, true, false, or lists and mappings of them"
            ) from None
        result[name] = value
    return result


def _malformed(name: str, expected: str) -> ConfigError:
    return ConfigError(f"{_SETTING}: option {name}", "…", expected)


def check_names(options: Mapping[str, Any], valid: Iterable[str]) -> None:
    """Refuse an option that looks like a misspelt option of the driver.

    Raises ConfigError with the name that is probably meant.
    """
    names = sorted({*valid, *MAPPINGS})
    for name in options:
        near = get_close_matches(name, names, 1, cutoff=0.8)
        if near and name not in names and name not in PUBLIC:
            raise _malformed(name, f"another name (did you mean {near[0]}?)")


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the public and the secret part of options.

    Examples
    --------
    >>> split({"client_kwargs": {"region_name": "x", "api_key": "y"}})
    ({'client_kwargs': {'region_name': 'x'}}, {'client_kwargs': {'api_key': 'y'}})
    """
    public: dict[str, Any] = {}
    secret: dict[str, Any] = {}
    for name, value in options.items():
        if name in MAPPINGS:
            shown, hidden = split(value)
            if shown or not hidden:
                public[name] = shown
            if hidden:
                secret[name] = hidden
        elif name in PUBLIC and mask(text := json.dumps(value)) == text:
            public[name] = value
        else:
            secret[name] = value
    return public, secret


def merge(public: Mapping[str, Any], secret: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`split`."""
    merged = {**public, **secret}
    for name in MAPPINGS & public.keys() & secret.keys():
        merged[name] = {**public[name], **secret[name]}
    return merged


def hide(secret: Mapping[str, Any]) -> Callable[[str], str]:
    """Return a function that replaces the values of *secret* in texts."""
    values = sorted(set(_texts(secret)), key=len, reverse=True)

    def hidden(text: str) -> str:
        for value in values:
            text = text.replace(value, "***")
        return mask(text)

    return hidden


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    # Shorter texts are no secrets, and replacing them would garble words.
    elif isinstance(value, str) and len(value) > 3:
        yield value


def for_driver(
    protocol: str, options: Mapping[str, Any], limits: Mapping[str, Any]
) -> dict[str, Any]:
    """Return options for the driver's class, the user's ``config_kwargs`` first."""
    ours: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if protocol in S3:
        ours["config_kwargs"] = {
            "connect_timeout": limits["connect_timeout"],
            "read_timeout": limits["timeout"],
            "max_pool_connections": max(10, limits["concurrency"]),
            # s3fs retries by itself
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            **options.get("config_kwargs", {}),
        }
    return {**options, **ours}
