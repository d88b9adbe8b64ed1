"""Errors of fsspec and its drivers, in eight categories."""

from __future__ import annotations

import os
from collections.abc import Callable

from daskref.connectors.failures import FULL, Category, Finding
from daskref.exceptions import DaskrefError

#: Errors of a server that did not answer: of botocore, aiohttp, requests, urllib3 and
#: Azure. By name, so that no driver is imported for its errors.
UNREACHABLE = frozenset([
    "ClientConnectionError", "ClientPayloadError", "HTTPClientError",
    "ConnectionError", "EndpointResolutionError", "ServiceRequestError",
    "ServiceResponseError", "TransportError", "UnknownEndpointError", "Timeout",
    "ProtocolError",
])  # fmt: skip
#: Errors of a driver that found no credentials.
UNIDENTIFIED = frozenset([
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
    "TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError",
    "NoAuthTokenError", "LoginError", "InvalidConfigError", "ProfileNotFound",
    "RefreshError", "DefaultCredentialsError", "ClientAuthenticationError",
])  # fmt: skip
#: Codes of S3 behind errors of other classes.
NO_BUCKET, _FULL = "NoSuchBucket", "XMinioStorageFull"
_REFUSED = frozenset({"InvalidToken", "TokenRefreshRequired", "MissingSecurityHeader"})


def code(exc: BaseException) -> str:
    """Return the code in the server's answer that caused an error, or ``""``."""
    for each in (exc, exc.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def translate(
    exc: Exception,
    connector: str,
    what: str,
    hidden: Callable[[str], str],
    timeout: float,
    unavailable: bool = False,
) -> Exception:
    """Return daskref's error for one of a driver; errors of daskref as they are.

    Parameters
    ----------
    what
        What failed, as the beginning of a sentence.
    hidden
        Removes secrets from a text.
    timeout
        Of one request, in seconds.
    unavailable
        Whether the store cannot be used without the operation that failed.

    Returns
    -------
    Exception
        :class:`ConnectorUnavailableError` if this process cannot use the store at all,
        else :class:`ConnectorError`.
    """
    if isinstance(exc, DaskrefError):
        return exc
    found = _find(exc, timeout)
    return found.error(connector, hidden(_said(exc)), what, unavailable)


def _find(exc: Exception, timeout: float) -> Finding:
    names = {cls.__name__ for cls in type(exc).__mro__}
    if isinstance(exc, TimeoutError):
        return Finding(
            Category.TIMED_OUT,
            f"There was no answer within {timeout:g} s. Is the server up, and slower "
            "than the option timeout allows?",
        )
    if names & UNREACHABLE or isinstance(exc, ConnectionError):
        return Finding(Category.UNREACHABLE, "Check its address")
    if names & UNIDENTIFIED:
        return Finding(
            Category.CREDENTIALS,
            "Give them as options, or in the environment of every process",
        )
    if code(exc) == NO_BUCKET:
        return Finding(Category.MISSING, "daskref makes none", "the bucket")
    if isinstance(exc, PermissionError) or code(exc) in _REFUSED:
        return Finding(
            Category.FORBIDDEN,
            "Check the credentials, and that they allow to list, read, write and "
            "delete below the prefix",
            "the store",
        )
    if code(exc) == _FULL or (isinstance(exc, OSError) and exc.errno in FULL):
        return Finding(Category.FULL, "Make room, or use another", "the store")
    return Finding(Category.OTHER, subject="the store")


def _said(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno and not exc.__cause__:
        return exc.strerror or os.strerror(exc.errno)
    text = " ".join(str(exc).split()) or repr(exc)
    return text if isinstance(exc, OSError) else f"{type(exc).__name__}: {text}"
