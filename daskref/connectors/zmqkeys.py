"""Who may speak: the keys of a session, and the check of who connects.

With CURVE, the client proves that it has the session's client key, and the server that
it has the server's; everything is encrypted. In the clear, the client says the
session's token as it connects.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hmac import compare_digest
from typing import Any

import zmq
from zmq.utils import z85

from daskref.connectors.zmqwire import TOKEN

#: Where libzmq asks whether a peer may connect, within a context.
_ZAP = "inproc://zeromq.zap.01"
_DOMAIN = b"daskref"
_USER = b"daskref"


@dataclass(frozen=True)
class Keys:
    """The secrets of a session. None of them is in the ``repr``."""

    token: str = field(repr=False)
    server_public: str = field(repr=False)
    server_secret: str = field(repr=False)
    client_public: str = field(repr=False)
    client_secret: str = field(repr=False)

    @classmethod
    def make(cls) -> Keys:
        """Return new ones."""
        pairs = [key.decode() for _ in range(2) for key in zmq.curve_keypair()]
        return cls(secrets.token_hex(TOKEN), *pairs)

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

    @property
    def token_bytes(self) -> bytes:
        """What each request carries."""
        return bytes.fromhex(self.token)

    def protect_server(self, socket: zmq.Socket[bytes], curve: bool) -> None:
        """Let only holders of the keys connect; a :class:`Gate` must be there."""
        socket.zap_domain = _DOMAIN
        # Without an answer of the gate nobody may connect.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if curve:
            socket.curve_server = True
            socket.curve_secretkey = self.server_secret.encode()
            socket.curve_publickey = self.server_public.encode()
        else:
            socket.plain_server = True

    def protect_client(self, socket: zmq.Socket[bytes], curve: bool) -> None:
        """Prove to the server that we have the keys."""
        if curve:
            socket.curve_serverkey = self.server_public.encode()
            socket.curve_publickey = self.client_public.encode()
            socket.curve_secretkey = self.client_secret.encode()
        else:
            socket.plain_username = _USER
            socket.plain_password = self.token.encode()


class Gate:
    """Answers libzmq's question whether a peer may connect (ZAP, RFC 27).

    It has no thread: whoever polls the sockets of the context polls this one too, and
    calls :meth:`answer`. So it lives exactly as long as the server.

    Parameters
    ----------
    context
        The server's own: the gate is for all sockets of it.
    keys
        Of the session.
    curve
        Whether peers come with a key; otherwise with the token.
    """

    socket: zmq.Socket[bytes]
    #: Peers that were turned away.
    refused: int

    def __init__(self, context: zmq.Context[Any], keys: Keys, curve: bool) -> None:
        self.refused = 0
        self._curve = curve
        self._key = z85.decode(keys.client_public)
        self._token = keys.token.encode()
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(_ZAP)

    def answer(self) -> None:
        """Answer one question that is there."""
        frames = self.socket.recv_multipart(zmq.NOBLOCK)
        empty = frames.index(b"") + 1
        route, (version, number, *rest) = frames[:empty], frames[empty:]
        permitted = self._permits(*rest)
        self.refused += not permitted
        verdict = [b"200", b"OK"] if permitted else [b"400", b"No"]
        self.socket.send_multipart(
            [*route, version, number, *verdict, _USER if permitted else b"", b""],
            zmq.NOBLOCK,
        )

    def _permits(
        self,
        domain: bytes,
        address: bytes,
        identity: bytes,
        mechanism: bytes,
        *credentials: bytes,
    ) -> bool:
        if domain != _DOMAIN:
            return False
        if self._curve:
            return mechanism == b"CURVE" and compare_digest(credentials[0], self._key)
        return mechanism == b"PLAIN" and compare_digest(credentials[1], self._token)
