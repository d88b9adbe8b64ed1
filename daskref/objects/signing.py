"""Signatures of stored objects: nothing is unpickled that nobody with the key wrote.

::

    envelope  magic, version, length of the head, signature     64 bytes
    content   what is stored without signatures

The head is the content's first part: all that can run code when an object is loaded,
its header and its pickle. The buffers beside the pickle follow it: they are data, are
not signed, and cost nothing, however large they are. Their number and lengths are in
the header. What a serializer of the user's made is all head.

A signature is the HMAC-SHA256 of what stands before it and of the head. Its first bytes
are the object's *seal*: a reference carries it, so that no other signed object can be
put in the place of the one that it means. A key is in no reference, nor in anything
that is stored.
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
#: Bytes before the content: a multiple of what the content is aligned to.
ENVELOPE_NBYTES = 64
#: Bytes of a signature that a reference carries.
SEAL_NBYTES = 16
#: A key has at least so many bytes.
SMALLEST_KEY = 16

_FIELDS = struct.Struct("<8sHHIQQ")
_SIGNATURE = slice(_FIELDS.size, ENVELOPE_NBYTES)
assert _FIELDS.size + hashlib.sha256().digest_size == ENVELOPE_NBYTES


class Opened(NamedTuple):
    """What a signed object holds."""

    #: What is stored without signatures. Not copied: where connectors map files, these
    #: are this user's alone, and what others can write to is read into memory.
    content: memoryview
    #: How much of it is signed.
    head_nbytes: int


class Signer:
    """Sign what is put into one store, and check what comes out of it.

    Raises ValueError if the key is too short, or not bytes.

    Parameters
    ----------
    key
        At least 16 bytes that only those know who may write. ``None``: what this
        process knows, or can find out, when something is signed or checked.
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
        """Return what is stored in front of an object.

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
        """Return what a stored object holds, once it is known who wrote it.

        Raises SignatureError if nobody with the key wrote it, it was changed, or it is
        another object.

        Parameters
        ----------
        data
            What the connector returned.
        seal
            Of the object that is meant; ``None``: any that was signed will do.
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
    """Return the seal that is in what :meth:`Signer.sign` returned."""
    return envelope[_SIGNATURE][:SEAL_NBYTES]


def is_signed(data: memoryview) -> bool:
    """Tell whether stored bytes begin as a signed object does."""
    return data.nbytes >= ENVELOPE_NBYTES and data[: len(MAGIC)] == MAGIC


# Keys, by store: kept with the credentials of connectors, and handed on like them.

#: Of stores that this process was told by its user. A client hands them to its cluster.
told_here: dict[str, bytes] = {}
#: ``(store) -> key or None``: who can be asked for a key, in order. May block.
_askers: list[Callable[[str], bytes | None]] = []


def add_asker(asker: Callable[[str], bytes | None]) -> Callable[[], None]:
    """Ask somebody for keys that are not known here; return what ends that."""
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
    """Return a store's key as the connectors' credentials are told."""
    return {_place(store): {"signing-key": key.hex()}}


def known_key(
    store: str, known: Mapping[str, Mapping[str, str]] | None = None
) -> bytes | None:
    """Return the key of a store, if this process was told.

    *known*: where to look: what :func:`secret_of` returned, by default what this
    process was told to remember.
    """
    place = _place(store)
    found = recall(place) if known is None else known.get(place, {})
    return bytes.fromhex(found["signing-key"]) if "signing-key" in found else None


def _place(store: str) -> str:
    return f"store:{store}"
