"""The secrets of a session, and the handshake that proves them.

Encrypted: both ends show the session's one certificate and prove its private key, with
TLS 1.3 and no other trusted certificate. In the clear: each end proves that it has the
session's token, over random numbers of both; the token itself is not sent.
"""

from __future__ import annotations

import datetime
import hmac
import os
import secrets
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from daskref.connectors.zmq._wire import VERSION, Channel, EndedError, receive

#: Bytes of the session's token, and of a random number.
_TOKEN, _NONCE = 32, 32
#: First message of a client in the clear; of a server, to a client that it accepts.
_HELLO = b"daskref" + bytes([VERSION])
_WELCOME = b"DR" + bytes([VERSION])
_DIGEST = "sha256"
_DIGEST_NBYTES = 32
#: Days before and after its creation for which a certificate is valid: the clocks of
#: hosts differ, and a key ends with its session.
_BEFORE, _AFTER = 365, 3650


class RefusedError(Exception):
    """The other end has not proved that it belongs to the session."""


@dataclass(frozen=True)
class Keys:
    """The secrets of a session. The ``repr`` shows none of them."""

    token: str = field(repr=False)
    #: PEM; empty if the session's connections are in the clear.
    certificate: str = field(repr=False, default="")
    private_key: str = field(repr=False, default="")

    @classmethod
    def make(cls, encrypted: bool) -> Keys:
        """Return new keys, with a certificate only if connections are encrypted."""
        token = secrets.token_hex(_TOKEN)
        return cls(token, *_make_certificate()) if encrypted else cls(token)

    @classmethod
    def load(cls, found: Mapping[str, str]) -> Keys | None:
        """Return the keys that :meth:`dump` returned; ``None`` for anything else."""
        try:
            return cls(**{each.name: found[each.name] for each in fields(cls)})
        except KeyError:
            return None

    def dump(self) -> dict[str, str]:
        """Return the keys as plain values."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _make_certificate() -> tuple[str, str]:
    # Here, because the import takes longer than all others together.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "daskref")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=_BEFORE))
        .not_valid_after(now + datetime.timedelta(days=_AFTER))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    return public.decode(), private.decode()


class Handshake:
    """The first messages of a new connection; see the module.

    Notes
    -----
    Thread-safe. :meth:`accept` and :meth:`connect` return once *both* ends have proved
    their keys. In the clear, an attacker between them can forward the proofs, and then
    read and change what follows.
    """

    #: For clients; ``None``: in the clear.
    client_context: ssl.SSLContext | None

    def __init__(self, keys: Keys, encrypted: bool) -> None:
        self._token = bytes.fromhex(keys.token)
        self.client_context = _context(keys, False) if encrypted else None
        self._server_context = _context(keys, True) if encrypted else None

    def wrap_server(self, raw: socket.socket) -> socket.socket:
        """Return the socket that a server uses in place of *raw*; sends nothing yet."""
        if self._server_context is None:
            return raw
        return self._server_context.wrap_socket(
            raw, server_side=True, do_handshake_on_connect=False
        )

    def accept(self, there: Channel) -> None:
        """Accept a client that proves that it belongs to the session.

        Raises RefusedError if it does not; OSError, EndedError if the connection
        breaks. *there* is from :meth:`wrap_server`.
        """
        if self._server_context is not None:
            _shake(there)
        else:
            hello = receive(there, len(_HELLO) + _NONCE)
            if hello[: len(_HELLO)] != _HELLO:
                raise RefusedError
            nonces = hello[len(_HELLO) :] + secrets.token_bytes(_NONCE)
            there.sendall(nonces[_NONCE:] + self._proof(b"server", nonces))
            proof = receive(there, _DIGEST_NBYTES)
            if not hmac.compare_digest(proof, self._proof(b"client", nonces)):
                raise RefusedError
        there.sendall(_WELCOME)

    def connect(self, there: Channel) -> None:
        """Get accepted by a server that proves that it belongs to the session.

        Raises as :meth:`accept` does.
        """
        if self.client_context is not None:
            _shake(there)
        else:
            mine = secrets.token_bytes(_NONCE)
            there.sendall(_HELLO + mine)
            answer = receive(there, _NONCE + _DIGEST_NBYTES)
            nonces = mine + answer[:_NONCE]
            proof = self._proof(b"server", nonces)
            if not hmac.compare_digest(answer[_NONCE:], proof):
                raise RefusedError
            there.sendall(self._proof(b"client", nonces))
        try:
            if receive(there, len(_WELCOME)) != _WELCOME:
                raise RefusedError
        except ssl.SSLError as exc:  # TLS 1.3 reports a refusal only now
            raise RefusedError from exc

    def _proof(self, role: bytes, nonces: bytes) -> bytes:
        # With the role, so that a proof cannot be sent back to its author.
        return hmac.digest(self._token, role + _HELLO + nonces, _DIGEST)


def _shake(there: Any) -> None:
    try:
        there.do_handshake()
    except ssl.SSLEOFError as exc:
        raise EndedError from exc
    except ssl.SSLError as exc:
        raise RefusedError from exc


def _context(keys: Keys, server: bool) -> ssl.SSLContext:
    kind = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(kind)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the key alone proves the session, on any host
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=keys.certificate)
    # Python loads a chain only from a file: this one is private and in memory.
    fd = os.memfd_create("daskref")
    try:
        os.write(fd, (keys.certificate + keys.private_key).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    if server:
        context.num_tickets = 0  # nothing is resumed
    return context
