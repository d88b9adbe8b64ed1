"""References: a key, how to reach the store, and metadata of the object.

A reference is inert. Creating, sending, printing, comparing or sizing one does no I/O
and does not import the object's type, which travels pickled.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import cloudpickle
from dask.utils import format_bytes

from daskref.connectors.base import Key
from daskref.exceptions import ConfigError
from daskref.objects.attributes import Answers, learn, recall
from daskref.objects.cards import card
from daskref.objects.functions import PickledFunction
from daskref.objects.written import ConnectorConfig, read_toml, write_toml


class StoreConfig(NamedTuple):
    """How any process finds or makes the store."""

    #: Name in the registry of stores.
    name: str
    #: ``"module:Class"`` of the connector, or a configuration that a user wrote.
    connector: str | ConnectorConfig
    #: Arguments of the connector's ``from_config``.
    options: tuple[tuple[str, Any], ...] = ()
    #: A user's own, if any.
    serializer: PickledFunction | None = None
    deserializer: PickledFunction | None = None
    #: Options of the store.
    cache_size: int = 16
    metrics: bool = False
    populate_target: bool = True
    #: Whether its objects are signed; the key is not here.
    signed: bool = False
    #: Whether ``Store.from_config`` registers the store; false in a store's own.
    auto_register: bool = False

    def written(self) -> ConnectorConfig:
        """Return the connector, as a user writes it."""
        if isinstance(self.connector, ConnectorConfig):
            return self.connector
        return ConnectorConfig(self.connector, dict(self.options))

    @classmethod
    def from_toml(cls, filepath: str | os.PathLike[str]) -> StoreConfig:
        """Read a configuration from a TOML file, of ProxyStore's form.

        Raises
        ------
        ConfigError
            If something in it is malformed or unknown.
        OSError
            If the file cannot be read.
        """
        fields = read_toml(filepath, _WRITTEN)
        made = fields["connector"]
        if ":" in made.kind:  # a store's own configuration
            fields["connector"] = made.kind
            fields["options"] = tuple(made.options.items())
        return cls(**fields)

    def write_toml(self, filepath: str | os.PathLike[str]) -> None:
        """Write the configuration to a TOML file, which :meth:`from_toml` reads.

        Makes the directory of the file if need be. TOML has no null: options that are
        ``None`` are left out, as ProxyStore leaves them out, and have their defaults
        when the file is read. Write 0, not ``None``, for a budget of nothing.

        Raises
        ------
        ConfigError
            If the configuration has a serializer, which is code, or a password that a
            user wrote. A store's own configuration has no password, nor the signing
            key.
        """
        if self.serializer is not None or self.deserializer is not None:
            raise ConfigError(
                "serializer", "…", "none: a TOML file has no functions in it"
            )
        fields = {name: getattr(self, name) for name in _WRITTEN}
        write_toml(filepath, fields, self.written())


#: Fields of a TOML file beside the connector.
_WRITTEN: dict[str, type] = {
    "name": str,
    "cache_size": int,
    "metrics": bool,
    "populate_target": bool,
    "signed": bool,
    "auto_register": bool,
}


@cache
def hash_salt() -> int:
    """Return a number that is equal in processes that salt string hashes alike."""
    return hash("daskref")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of an object without fetching it."""

    #: Fully qualified name, as in ``"numpy.ndarray"``.
    type_name: str
    #: The pickled type.
    type_pickle: bytes
    #: Size in bytes of the stored object.
    nbytes: int
    #: Content hash; equal for equal content. ``None`` if it was not computed.
    token: str | None = None
    #: ``hash(obj)``, if it has one, and the salt that it was made with.
    hash: int | None = None
    hash_salt: int | None = None
    #: Whether the object can be hashed.
    hashable: bool = False
    #: ``len(obj)``, ``obj.shape`` and ``str(obj.dtype)``, where it has them.
    length: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    #: Whether its other attributes follow from these two.
    plain_array: bool = False
    #: Other attributes; see :mod:`daskref.objects.attributes`.
    answers: Answers = ()
    #: Of the stored object, if it is signed; see :mod:`daskref.objects.signing`.
    seal: bytes | None = None

    @property
    def known(self) -> bool:
        """Whether more than the size is known; see :func:`unknown`."""
        return bool(self.type_pickle)

    def type(self) -> type:
        """Unpickle the type. Imports its module."""
        return _load_type(self.type_pickle)

    def cached_hash(self) -> int | None:
        """Return ``hash(obj)`` if it is known and valid in this process."""
        if self.hash is not None and self.hash_salt == hash_salt():
            return self.hash
        return None

    def answer(self, name: str) -> Any:
        """Return an attribute of the object, equal to its own and of the same type.

        Raises LookupError if only the object has it. May import the attribute's type.
        """
        if name == "shape" and self.shape is not None:
            return self.shape
        if self.plain_array and self.shape is not None and self.dtype is not None:
            return _derive(self.shape, self.dtype, name)
        return recall(self.answers, name)


def unknown(
    nbytes: int = 0, token: str | None = None, seal: bytes | None = None
) -> Metadata:
    """Return the metadata of an object that no process has inspected.

    *seal*: of the stored object, if it is signed.
    """
    return Metadata("object", b"", nbytes, token, seal=seal)


def _is_plain_array(obj: Any) -> bool:
    """Tell whether shape and data type determine an array's other attributes.

    True only of NumPy's own arrays, of types without fields and annotations.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or type(obj) is not numpy.ndarray:
        return False
    dtype = obj.dtype
    with suppress(TypeError):
        plain = dtype.metadata is None and dtype.fields is None
        return bool(plain and numpy.dtype(str(dtype)) == dtype)
    return False


def _derive(shape: tuple[int, ...], dtype: str, name: str) -> Any:
    """Return an attribute of a plain array; LookupError if it does not follow."""
    if name == "ndim":
        return len(shape)
    if name == "size":
        return math.prod(shape)
    if name in ("dtype", "itemsize", "nbytes"):
        import numpy as np

        made = np.dtype(dtype)
        each = made.itemsize
        return {"dtype": made, "itemsize": each, "nbytes": each * math.prod(shape)}[
            name
        ]
    raise LookupError(name)


_load_type: Callable[[bytes], type] = lru_cache(maxsize=256)(pickle.loads)
_pickled_type: Callable[[type], bytes] = lru_cache(maxsize=1024)(cloudpickle.dumps)


def describe(
    obj: Any, nbytes: int, token: str | None = None, seal: bytes | None = None
) -> Metadata:
    """Return the metadata of an object at hand, of *nbytes* as stored.

    Whatever the object's own methods raise is ignored. Only the size is known if the
    type does not pickle. *seal*: of the stored object, if it is signed.
    """
    cls = type(obj)
    try:
        type_pickle = _pickled_type(cls)
    except Exception:  # its objects pickle in a way of their own
        return unknown(nbytes, token, seal)
    # below: whatever the user's own properties and methods raise
    shape = dtype = length = hashed = None
    with suppress(Exception):
        found = obj.shape
        if type(found) is tuple and all(type(n) is int for n in found):
            shape = found
            dtype = str(obj.dtype)
    with suppress(Exception):
        length = len(obj)
    # None where the class says that it cannot be hashed
    method: Any = cls.__hash__
    hashable = method is not None
    if hashable:
        try:
            hashed = hash(obj)
        except Exception:
            hashable = False
    if method is object.__hash__:
        hashed = None  # by identity: means nothing in another process
    plain_array = _is_plain_array(obj)
    return Metadata(
        type_name=f"{cls.__module__}.{cls.__qualname__}",
        type_pickle=type_pickle,
        nbytes=nbytes,
        token=token,
        hash=hashed,
        hash_salt=hash_salt() if hashed is not None else None,
        hashable=hashable,
        length=length,
        shape=shape,
        dtype=dtype,
        plain_array=plain_array,
        answers=() if plain_array else learn(obj),
        seal=seal,
    )


def imported_type(type_name: str) -> type:
    """Return a type by its name, if its module is imported.

    Raises LookupError otherwise, or if the type has another name there.
    """
    parts = type_name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:i]))
        if module is None:
            continue
        found: Any = module
        for part in parts[i:]:
            found = vars(found)[part]  # getattr() might import
        if f"{found.__module__}.{found.__qualname__}" == type_name:
            cls: type = found
            return cls
        break
    raise LookupError(type_name)


class Reference:
    """A key, how to reach the store, and metadata.

    Parameters
    ----------
    key
        The connector's key.
    store
        How to reach the store.
    metadata
        What is known of the object.

    Notes
    -----
    Two references are equal if they name the same key. Immutable; safe to share.
    """

    __slots__ = ("key", "metadata", "store")

    key: Key
    store: StoreConfig
    metadata: Metadata

    def __init__(self, key: Key, store: StoreConfig, metadata: Metadata) -> None:
        self.key = key
        self.store = store
        self.metadata = metadata

    @property
    def nbytes(self) -> int:
        """Size in bytes of the stored object."""
        return self.metadata.nbytes

    def __repr__(self) -> str:
        meta = self.metadata
        if not meta.known:
            return f"<Reference at {self.key!r}>"
        shape = f" {meta.shape}" if meta.shape is not None else ""
        return f"<Reference {meta.type_name}{shape} {meta.nbytes} B at {self.key!r}>"

    def _repr_html_(self) -> str:
        meta = self.metadata
        rows = {
            "Type": meta.type_name if meta.known else None,
            "Shape": meta.shape,
            "dtype": meta.dtype,
            "Length": meta.length if meta.shape is None else None,
            "Size": format_bytes(meta.nbytes),
            "Store": self.store.name,
        }
        return card("Reference", repr(self.key), rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __sizeof__(self) -> int:
        # with its metadata; never that of the object
        pickled = [value for _, value in self.metadata.answers if type(value) is bytes]
        return 512 + sum(map(len, pickled))

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("daskref.Reference", self.metadata.token or tuple(self.key))

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference, (self.key, self.store, self.metadata)
