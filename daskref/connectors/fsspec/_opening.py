"""Open file systems of fsspec, with limits on time and number of requests."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import Any

from daskref.connectors.fsspec._blobs import Blobs
from daskref.connectors.fsspec._bucket import Bucket
from daskref.connectors.fsspec._options import S3, check_names, for_driver
from daskref.connectors.fsspec._s3 import LEAST_PART, S3Bucket
from daskref.connectors.fsspec._tree import Tree
from daskref.exceptions import ConfigError
from daskref.units import Reader, parse_count, parse_seconds, parse_size, read_options

_SETTING = "daskref.connector"
#: Protocol -> the package with its driver.
_PACKAGES = {
    **dict.fromkeys(S3, "'daskref[s3]'"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "adlfs"),
}


def read_limits(protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes, numbers and seconds from the options that users write.

    *given*: ``part_size``, ``concurrency``, ``connect_timeout``, ``timeout``,
    ``retries`` and ``lease``. Raises ConfigError if one is malformed or too small.
    """
    least = LEAST_PART if protocol in S3 else 1
    readers: dict[str, Reader] = {
        "part_size": partial(parse_size, least=least),
        "concurrency": parse_count,
        "retries": partial(parse_count, least=0),
        **dict.fromkeys(("connect_timeout", "timeout", "lease"), parse_seconds),
    }
    return read_options(readers, given)


def open_blobs(
    protocol: str, url: str, options: Mapping[str, Any], limits: Mapping[str, Any]
) -> Blobs:
    """Open a store, without a request to it.

    Raises ConfigError if fsspec does not know the protocol, its driver is not
    installed, or an option looks misspelt.

    Parameters
    ----------
    protocol
        Of fsspec.
    options
        For fsspec's class.
    limits
        From :func:`read_limits`.
    """
    cls = _driver(protocol, url)
    check_names(options, signature(cls.__init__).parameters)
    options = {**cls._get_kwargs_from_urls(url), **options}
    arguments = for_driver(protocol, options, limits)

    def open_filesystem() -> Any:
        filesystem = cls(**arguments)
        if protocol in S3:
            filesystem.retries = limits["retries"] + 1
        return filesystem

    kind: type[Blobs] = Tree
    if cls.async_impl:
        kind = S3Bucket if protocol in S3 else Bucket
    return kind(open_filesystem, url, limits)


def _driver(protocol: str, url: str) -> Any:
    """Return fsspec's class for a protocol."""
    from fsspec import available_protocols, get_filesystem_class

    try:
        return get_filesystem_class(protocol)
    except ValueError as exc:
        near = get_close_matches(protocol, available_protocols(), 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(_SETTING, url, f"a protocol that fsspec knows{hint}") from exc
    except ImportError as exc:
        install = _PACKAGES.get(protocol)
        advice = f"`pip install {install}`" if install else str(exc)
        raise ConfigError(
            _SETTING, url, f"its driver to be installed: {advice} ({exc.__cause__})"
        ) from exc
