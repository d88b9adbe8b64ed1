"""Signatures of stored objects: no object is unpickled that no holder of the key wrote.

::

    envelope  magic, version, length of the head, signature     64 bytes
    content   the object as it is stored without signatures

The head is the content's first part, its header and its pickle: all that can run code
when an object is loaded. The buffers beside the pickle follow it: they are data, are
not signed, and cost nothing, however large they are. The header has their number and
lengths. The output of a user's serializer is all head.

A signature is the HMAC-SHA256 of the fields before it and of the head. Its first bytes
are the object's *seal*: a reference carries it, so that no other signed object passes
for the one that the reference means. Neither references nor stored objects contain a
key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from daskref.connectors.base import Buffer, Key
from daskref.connectors.credentials import forget, mask, recall, remember
from daskref.exceptions import SignatureError
from daskref.objects.codec import Encoded

MAGIC = b"\x89daskr-s"
VERSION = 1
#: Bytes before the content: a multiple of the content's alignment.
ENVELOPE_NBYTES = 64
#: Bytes of a signature that a reference carries.
SEAL_NBYTES = 16
#: A key has at least so many bytes.
SMALLEST_KEY = 16

_FIELDS = struct.Struct("<8sHHIQQ")
_SIGNATURE = slice(_FIELDS.size, ENVELOPE_NBYTES)
assert _FIELDS.size + hashlib.sha256().digest_size == ENVELOPE_NBYTES


class Opened(NamedTuple):
    """A signed object that was checked."""

    #: The object as it is stored without signatures. Not copied: connectors map only
    #: files of this user alone, and read files that others can write to into memory.
    content: memoryview
    #: Number of its first bytes that are signed.
    head_nbytes: int


class Signer:
    """Sign the objects that one store puts, and check those that it gets.

    Raises ValueError if the key is too short, or not bytes.

    Parameters
    ----------
    key
        At least 16 bytes that only writers know. ``None``: the key that this process
        knows, or can find out, when it signs or checks an object.
    """

    _store: str
    _key: bytes | None

    def __init__(self, store: str, key: bytes | None) -> None:
        if key is not None and (type(key) is not bytes or len(key) < SMALLEST_KEY):
            raise ValueError(
                f"a signing key is of type bytes, and of {SMALLEST_KEY} or more of "
                "them, as secrets.token_bytes(32) makes them"
            )
        self._store = store
        self._key = key

    def __repr__(self) -> str:
        return f"<Signer of {self._store!r}>"

    def sign(self, encoded: Encoded) -> bytes:
        """Return the envelope to store in front of an object.

        Raises SignatureError if this process does not have the key.
        """
        head, left = [], encoded.head_nbytes
        for frame in encoded.frames:
            if not left:
                break
            head.append(frame)
            left -= memoryview(frame).nbytes
        fields = _FIELDS.pack(MAGIC, VERSION, 0, 0, encoded.head_nbytes, 0)
        signature = self._signature([fields, *head])
        if signature is None:
            raise SignatureError(
                "an object to be put", self._store, "it must be signed, " + _NO_KEY
            )
        return fields + signature

    def open(self, data: Buffer, key: Key, seal: bytes | None = None) -> Opened:
        """Check a stored object and return its content.

        Raises SignatureError if no holder of the key wrote the object, or it was
        changed, or it is another object.

        Parameters
        ----------
        data
            The connector's bytes.
        seal
            Of the object that is meant; ``None`` accepts any signed object.
        """
        view = memoryview(data).cast("B")
        if not is_signed(view):
            raise self._wrong(key, "it is not signed: nobody with the key wrote it")
        _, version, _, _, nbytes, _ = _FIELDS.unpack_from(view)
        content = view[ENVELOPE_NBYTES:]
        if version != VERSION or nbytes > content.nbytes:
            raise self._wrong(key, "its signature is damaged")
        right = self._signature([view[: _FIELDS.size], content[:nbytes]])
        if right is None:
            raise self._wrong(key, "it cannot be checked, " + _NO_KEY)
        if not hmac.compare_digest(view[_SIGNATURE], right):
            raise self._wrong(
                key,
                "its signature is wrong: it was changed, or signed with another key",
            )
        if seal is not None and not hmac.compare_digest(seal, right[:SEAL_NBYTES]):
            raise self._wrong(key, "another object has been put in its place")
        return Opened(content, nbytes)

    def _signature(self, pieces: list[Buffer]) -> bytes | None:
        if self._key is None:
            self._key = known_key(self._store) or _ask(self._store)
        if self._key is None:
            return None
        made = hmac.new(self._key, digestmod="sha256")
        for piece in pieces:
            made.update(piece)
        return made.digest()

    def _wrong(self, key: Key, reason: str) -> SignatureError:
        return SignatureError(mask(repr(key)), self._store, reason)


_NO_KEY = (
    "and this process does not have the store's signing key: make a Store of that name "
    "and signing_key here, or call daskref.objects.signing.remember_key"
)


def seal_of(envelope: bytes) -> bytes:
    """Return the seal in an envelope, made by :meth:`Signer.sign`."""
    return envelope[_SIGNATURE][:SEAL_NBYTES]


def is_signed(data: memoryview) -> bool:
    """Tell whether stored bytes begin as a signed object does."""
    return data.nbytes >= ENVELOPE_NBYTES and data[: len(MAGIC)] == MAGIC


# Keys, by store: kept with the credentials of connectors, and handed on like them.

#: Keys that this process's user gave. A client hands them to its cluster.
told_here: dict[str, bytes] = {}
#: ``(store) -> key or None``: asked for unknown keys, in order. May block.
_askers: list[Callable[[str], bytes | None]] = []


def add_asker(asker: Callable[[str], bytes | None]) -> Callable[[], None]:
    """Call ``asker(store)`` for unknown keys; return a function that ends that."""
    _askers.append(asker)
    return lambda: _askers.remove(asker)


def _ask(store: str) -> bytes | None:
    for asker in list(_askers):
        if (key := asker(store)) is not None:
            return key
    return None


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(32)


def remember_key(store: str, key: bytes) -> None:
    """Let this process open a store whose objects are signed, by proxies that arrive.

    Parameters
    ----------
    store
        Name of the store.
    key
        Its ``signing_key``. Bring it here over a channel that you trust.
    """
    Signer(store, key)  # checks it
    told_here[store] = key
    for place, secret in secret_of(store, key).items():
        remember(place, secret)


def forget_key(store: str) -> None:
    """Forget the key of a store. Silent if it is not known."""
    told_here.pop(store, None)
    forget(_place(store))


def secret_of(store: str, key: bytes) -> dict[str, dict[str, str]]:
    """Return a store's key in the form of the connectors' credentials."""
    return {_place(store): {"signing-key": key.hex()}}


def known_key(
    store: str, known: Mapping[str, Mapping[str, str]] | None = None
) -> bytes | None:
    """Return the key of a store, if this process knows it.

    *known*: credentials to search, as from :func:`secret_of`; default: this process's.
    """
    place = _place(store)
    found = recall(place) if known is None else known.get(place, {})
    return bytes.fromhex(found["signing-key"]) if "signing-key" in found else None


def _place(store: str) -> str:
    return f"store:{store}"
