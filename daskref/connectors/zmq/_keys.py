"""The secrets of a session, and what two processes do before they speak.

Encrypted, both ends show the session's one certificate, and that they have its private
key: TLS 1.3, in which nothing but that certificate is trusted. In the clear, each end
proves to the other that it has the session's token, over random numbers of both; the
token itself is not sent.
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
from typing import Protocol, runtime_checkable

from daskref.connectors.zmq._wire import VERSION, Channel, EndedError, receive

#: Bytes of the session's token, and of a random number.
_TOKEN, _NONCE = 32, 32
#: What who connects says first, in the clear; and a server, to whom it lets in.
_HELLO = b"daskref" + bytes([VERSION])
_WELCOME = b"DR" + bytes([VERSION])
_DIGEST = "sha256"
_DIGEST_NBYTES = 32
#: Days for which a certificate is valid, before and after it is made: hosts' clocks
#: differ, and the session's end is the end of its key.
_BEFORE, _AFTER = 365, 3650


class RefusedError(Exception):
    """The other end has not proved that it is of the session."""


@dataclass(frozen=True)
class Keys:
    """The secrets of a session. None of them is in the ``repr``."""

    token: str = field(repr=False)
    #: PEM; empty if the session's connections are in the clear.
    certificate: str = field(repr=False, default="")
    private_key: str = field(repr=False, default="")

    @classmethod
    def make(cls, encrypted: bool) -> Keys:
        """Return new ones; with a certificate only if connections are encrypted."""
        token = secrets.token_hex(_TOKEN)
        return cls(token, *_make_certificate()) if encrypted else cls(token)

    @classmethod
    def load(cls, found: Mapping[str, str]) -> Keys | None:
        """Return what :meth:`dump` made; ``None`` if it is not that."""
        try:
            return cls(**{each.name: found[each.name] for each in fields(cls)})
        except KeyError:
            return None

    def dump(self) -> dict[str, str]:
        """Return them as plain values."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _make_certificate() -> tuple[str, str]:
    # Only here: it takes longer to import than all the rest.
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


@runtime_checkable
class Encrypted(Channel, Protocol):
    """A channel whose ends agree on keys first."""

    def do_handshake(self) -> None:
        """Agree, and check who the other end is."""


class Handshake:
    """What both ends of a new connection do first; see the module.

    Notes
    -----
    Thread-safe. :meth:`accept` and :meth:`connect` return once *both* ends have proved
    that they have the keys. In the clear, somebody between them can pass the proofs on,
    and then read and change what follows.
    """

    #: With which a client encrypts; ``None``: in the clear.
    client_context: ssl.SSLContext | None

    def __init__(self, keys: Keys, encrypted: bool) -> None:
        self._token = bytes.fromhex(keys.token)
        self.client_context = _context(keys, False) if encrypted else None
        self._server_context = _context(keys, True) if encrypted else None

    def wrap_server(self, raw: socket.socket) -> socket.socket:
        """Return the socket to use in a server in place of one; nothing is sent yet."""
        if self._server_context is None:
            return raw
        return self._server_context.wrap_socket(
            raw, server_side=True, do_handshake_on_connect=False
        )

    def accept(self, there: Channel) -> None:
        """Let a client in that proves to be of the session.

        Raises RefusedError if it does not; OSError, EndedError if the connection
        breaks.

        Parameters
        ----------
        there
            From :meth:`wrap_server`.
        """
        if isinstance(there, Encrypted):
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
        """Be let in by a server that proves to be of the session.

        Raises as :meth:`accept` does.
        """
        if isinstance(there, Encrypted):
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
        except ssl.SSLError as exc:  # only now does it say that it refuses us
            raise RefusedError from exc

    def _proof(self, role: bytes, nonces: bytes) -> bytes:
        # With the role: what one end says cannot be sent back to it as an answer.
        return hmac.digest(self._token, role + _HELLO + nonces, _DIGEST)


def _shake(there: Encrypted) -> None:
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
    context.check_hostname = False  # who has the key is of the session, wherever it is
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=keys.certificate)
    # Python reads it of a file only: this one is in memory, and nobody else's.
    fd = os.memfd_create("daskref")
    try:
        os.write(fd, (keys.certificate + keys.private_key).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    if server:
        context.num_tickets = 0  # nothing is resumed
    return context
