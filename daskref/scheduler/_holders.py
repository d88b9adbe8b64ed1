"""Who holds which stored object: the table that decides when one is deleted."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from daskref.connectors.base import Key


class Holder(NamedTuple):
    """Something that keeps stored objects alive.

    ``key`` is a Dask task whose graph node refers to them, ``bound`` one that a user
    has bound them to, ``result`` a Dask task whose result they are, ``lost`` one whose
    result they were until its worker died, ``client`` a client that may send them
    again.
    """

    #: ``"key"``, ``"bound"``, ``"result"``, ``"lost"`` or ``"client"``.
    kind: str
    #: The Dask key, or the client's id.
    name: Hashable


class Holders:
    """A many-to-many table of holders and stored objects.

    Not thread-safe: it belongs to the scheduler's event loop.
    """

    _holders: dict[Key, set[Holder]]
    _held: dict[Holder, set[Key]]
    _nbytes: dict[Key, int]

    def __init__(self) -> None:
        self._holders = {}
        self._held = {}
        self._nbytes = {}

    def __len__(self) -> int:
        return len(self._holders)

    def __contains__(self, key: Key) -> bool:
        return key in self._holders

    def __iter__(self) -> Iterator[Key]:
        return iter(self._holders)

    @property
    def nbytes(self) -> int:
        """Size of all held objects in bytes."""
        return sum(self._nbytes.values())

    def holds(self, holder: Holder) -> bool:
        """Tell whether the holder holds anything."""
        return holder in self._held

    def size(self, key: Key) -> int | None:
        """Return the size of a held object in bytes; ``None`` if nobody holds it."""
        return self._nbytes.get(key)

    def who_hold(self, key: Key) -> set[Holder]:
        """Return who holds an object."""
        return set(self._holders.get(key, ()))

    def held(self, holder: Holder) -> dict[Key, int]:
        """Return what a holder holds, with sizes in bytes."""
        return {key: self._nbytes[key] for key in self._held.get(holder, ())}

    def hold(self, holder: Holder, key: Key, nbytes: int) -> None:
        """Let a holder hold an object; silent if it does already."""
        self._holders.setdefault(key, set()).add(holder)
        self._held.setdefault(holder, set()).add(key)
        self._nbytes[key] = nbytes

    def release(self, holder: Holder, keys: Iterable[Key] | None = None) -> list[Key]:
        """Let a holder go of objects.

        Parameters
        ----------
        holder
            Silent if it holds none of them.
        keys
            ``None``: all that it holds.

        Returns
        -------
        list of Key
            Objects that nobody holds now: delete them.
        """
        held = self._held.get(holder)
        if held is None:
            return []
        freed = []
        for key in list(held) if keys is None else keys:
            if key not in held:
                continue
            held.discard(key)
            holders = self._holders[key]
            holders.discard(holder)
            if not holders:
                del self._holders[key], self._nbytes[key]
                freed.append(key)
        if not held:
            del self._held[holder]
        return freed

    def release_kinds(self, *kinds: str) -> list[Key]:
        """Let all holders of some kinds go of everything; see :meth:`release`."""
        freed = []
        for holder in [holder for holder in self._held if holder.kind in kinds]:
            freed += self.release(holder)
        return freed
