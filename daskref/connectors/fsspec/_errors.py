"""Errors of fsspec and its drivers, as daskref's."""

from __future__ import annotations

import os
from collections.abc import Callable

from daskref.connectors.files.directory import FULL
from daskref.exceptions import (
    ConnectorError,
    ConnectorUnavailableError,
    DaskrefError,
)

#: Errors that mean that the server did not answer: of botocore, aiohttp, requests,
#: urllib3 and Azure. By name, since no driver is imported for the sake of its errors.
UNREACHABLE = frozenset([
    "ClientConnectionError", "ClientPayloadError", "HTTPClientError",
    "ConnectionError", "EndpointResolutionError", "ServiceRequestError",
    "ServiceResponseError", "TransportError", "UnknownEndpointError", "Timeout",
    "ProtocolError",
])  # fmt: skip
#: Errors that mean that the driver found nothing to identify itself with.
UNIDENTIFIED = frozenset([
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
    "TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError",
    "NoAuthTokenError", "LoginError", "InvalidConfigError", "ProfileNotFound",
    "RefreshError", "DefaultCredentialsError", "ClientAuthenticationError",
])  # fmt: skip
#: Codes of S3 that stand behind errors of other kinds.
NO_BUCKET, _FULL = "NoSuchBucket", "XMinioStorageFull"
_REFUSED = frozenset({"InvalidToken", "TokenRefreshRequired", "MissingSecurityHeader"})


def code(exc: BaseException) -> str:
    """Return the code in the server's answer that led to an error, or ``""``."""
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
) -> Exception:
    """Return daskref's error for one of a driver.

    Parameters
    ----------
    exc
        Whatever was raised. Those of daskref come back as they are.
    connector
        ``repr`` of the connector.
    what
        What failed, as the begin of a sentence.
    hidden
        Takes secrets out of a text.
    timeout
        Of one request, in seconds.

    Returns
    -------
    Exception
        :class:`ConnectorUnavailableError` if the store cannot be used at all from this
        process, else :class:`ConnectorError`.
    """
    if isinstance(exc, DaskrefError):
        return exc
    names = {cls.__name__ for cls in type(exc).__mro__}
    said = hidden(_said(exc))
    if isinstance(exc, TimeoutError):
        text = (
            f"there was no answer within {timeout:g} s. Is the server up, and slower "
            "than the option timeout allows?"
        )
    elif names & UNREACHABLE or isinstance(exc, ConnectionError):
        text = f"the server cannot be reached ({said}). Check its address"
    elif names & UNIDENTIFIED:
        text = (
            f"there are no credentials that work ({said}). Give them as options, or "
            "in the environment of every process"
        )
    elif code(exc) == NO_BUCKET:
        text = f"the bucket does not exist ({said}). daskref makes none"
    elif isinstance(exc, PermissionError) or code(exc) in _REFUSED:
        text = (
            f"the store refused it ({said}). Check the credentials, and that they "
            "allow to list, read, write and delete below the prefix"
        )
    elif code(exc) == _FULL or (isinstance(exc, OSError) and exc.errno in FULL):
        return ConnectorError(
            connector, f"{what}: the store is full ({said}). Make room, or use another"
        )
    else:
        return ConnectorError(connector, f"{what}: {said}")
    return ConnectorUnavailableError(connector, f"{what}: {text}")


def _said(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno and not exc.__cause__:
        return exc.strerror or os.strerror(exc.errno)
    text = " ".join(str(exc).split()) or repr(exc)
    return text if isinstance(exc, OSError) else f"{type(exc).__name__}: {text}"
