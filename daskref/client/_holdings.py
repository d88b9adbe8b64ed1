"""The objects that one client holds, as long as it may send them again.

A client holds a stored object while an original with that content lives in the client
(weak references), and while a future lives whose graph used it. Equality is by content:
the same value in forty submits is put once, a changed one again.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from daskref.background import make_rlock
from daskref.cluster.session import ClusterStore
from daskref.connectors.base import Key
from daskref.objects.codec import Encoded, encode
from daskref.objects.reference import Reference


@dataclass(eq=False, slots=True)
class _Held:
    """A stored object, and its holders in this client."""

    token: str
    reference: Reference
    #: id of an original -> weak reference to it
    originals: dict[int, weakref.ref[Any]] = field(default_factory=dict)
    #: Dask keys of living futures
    keys: set[Any] = field(default_factory=set)
    #: submissions under way
    uses: int = 0


@dataclass(eq=False)
class Submission:
    """The objects that one call to the client uses, until its futures hold them."""

    held: set[_Held] = field(default_factory=set)
    #: key of a future -> references that its computation needs
    keys: dict[Any, set[Reference]] = field(default_factory=dict)
    #: content that the store did not take: not tried again in the same call
    failed: set[str] = field(default_factory=set)
    #: results of the call's looks at objects, by ``id``
    looked: dict[int, Any] = field(default_factory=dict)

    @property
    def references(self) -> set[Reference]:
        """References of the objects."""
        return {held.reference for held in self.held}


@dataclass(eq=False, repr=False)
class Holdings:
    """The stored objects that one client holds.

    Thread-safe. The lock guards bookkeeping only, never a put.
    """

    _session: ClusterStore
    #: ``(message) -> None``: to the scheduler, in order with the client's graphs.
    #: Thread-safe.
    _send: Callable[[dict[str, Any]], None]
    #: ``(callable) -> None``: run on the event loop. Thread-safe, takes no locks.
    _call_soon: Callable[[Callable[[], None]], None]
    _lock: Any = field(default_factory=make_rlock)
    _by_token: dict[str, _Held] = field(default_factory=dict)
    _by_original: dict[int, _Held] = field(default_factory=dict)
    _by_key: dict[Any, set[_Held]] = field(default_factory=dict)
    _dead: deque[tuple[int, weakref.ref[Any]]] = field(default_factory=deque)
    _local: threading.local = field(default_factory=threading.local)

    def put(
        self,
        obj: Any,
        encoded: Encoded | None = None,
        submission: Submission | None = None,
    ) -> Reference | None:
        """Return a reference to an object's content, put at most once. Blocks.

        Returns ``None`` if the value is to go in-band; raises as
        :meth:`ClusterStore.put`.

        Parameters
        ----------
        encoded
            The object's serialized form; default: serialized here.
        submission
            Holds the object until futures do; default: this thread's.
        """
        if encoded is None:
            encoded = encode(obj)
        token = encoded.token
        if submission is None:
            submission = self.current
        if token in submission.failed:
            return None
        held = self._use(token, submission)
        if held is None:
            relinked = self._session.relink(obj, token)
            reference = relinked or self._session.put(obj, encoded, token)
            if reference is None:
                submission.failed.add(token)
                return None
            held = self._add(token, reference, submission, put=relinked is None)
        self._watch(obj, held)
        self._session.counters.add("bytes_kept", held.reference.nbytes)
        return held.reference

    @property
    def current(self) -> Submission:
        """The current thread's submission."""
        submission: Submission = self._local.submission
        return submission

    @contextmanager
    def submission(self) -> Iterator[Submission]:
        """Hold the objects that this thread puts inside the block until futures do.

        Nested blocks of one thread are one. Add the futures' keys, and the references
        that they need, to the :class:`Submission` before the outermost block ends.
        """
        outer: Submission | None = getattr(self._local, "submission", None)
        if outer is not None:
            yield outer
            return
        submission = self._local.submission = self.open()
        try:
            yield submission
        finally:
            self._local.submission = None
            self.close(submission)

    def open(self) -> Submission:
        """Begin a submission that does not belong to a thread."""
        return Submission()

    def close(self, submission: Submission) -> None:
        """Let a submission's futures hold its objects."""
        by_reference = {held.reference: held for held in submission.held}
        with self._lock:
            for key, references in submission.keys.items():
                for reference in references & by_reference.keys():
                    held = by_reference[reference]
                    held.keys.add(key)
                    self._by_key.setdefault(key, set()).add(held)
            for held in submission.held:
                held.uses -= 1
                self._release_unused(held)

    def release_key(self, key: Any) -> None:
        """Record that the client's last future of a key is gone."""
        if key not in self._by_key:
            return
        with self._lock:
            for held in self._by_key.pop(key, ()):
                held.keys.discard(key)
                self._release_unused(held)

    def release_keys(self) -> None:
        """Record that all the client's futures are gone."""
        for key in list(self._by_key):
            self.release_key(key)

    def clear(self) -> None:
        """Forget all objects without a message: the scheduler knows, or is gone."""
        with self._lock:
            self._by_token.clear()
            self._by_original.clear()
            self._by_key.clear()

    def release_all(self) -> None:
        """Release all objects: the client returns to plain Dask."""
        with self._lock:
            keys = [held.reference.key for held in self._by_token.values()]
            self.clear()
        if keys:
            self._send({"op": "daskref-release", "objects": keys})

    def originals(self, key: Key) -> tuple[str, list[Any]]:
        """Return the content hash of a held object, and its living originals."""
        with self._lock:
            for held in self._by_token.values():
                if held.reference.key == key:
                    alive = [ref() for ref in held.originals.values()]
                    return held.token, [obj for obj in alive if obj is not None]
        return "", []

    def has(self, token: str) -> bool:
        """Tell whether an object with this content hash is held."""
        return token in self._by_token

    def __len__(self) -> int:
        return len(self._by_token)

    def _use(self, token: str, submission: Submission) -> _Held | None:
        with self._lock:
            held = self._by_token.get(token)
            if held is not None and held not in submission.held:
                submission.held.add(held)
                held.uses += 1
            return held

    def _add(
        self, token: str, reference: Reference, submission: Submission, put: bool
    ) -> _Held:
        with self._lock:
            if (held := self._use(token, submission)) is None:
                held = self._by_token[token] = _Held(token, reference)
                self._use(token, submission)
                self._send(
                    {
                        "op": "daskref-put",
                        "object": (reference.key, reference.nbytes),
                        "put": put,
                    }
                )
                return held
        # Another thread put the same content meanwhile. No process knows ours.
        assert self._session.store is not None
        self._session.store.evict(reference.key)
        return held

    def _watch(self, obj: Any, held: _Held) -> None:
        number = id(obj)
        with self._lock:
            before = self._by_original.get(number)
            if before is held and held.originals[number]() is obj:
                return
            if before is not None:  # its content has changed since, or the id is new
                before.originals.pop(number, None)
                self._release_unused(before)
            try:
                ref = weakref.ref(obj, lambda ref: self._died(number, ref))
            except TypeError:  # list, bytes, str, …: held by futures alone
                self._by_original.pop(number, None)
                return
            held.originals[number] = ref
            self._by_original[number] = held

    def _died(self, number: int, ref: weakref.ref[Any]) -> None:
        # Called by the garbage collector, in any thread, perhaps in the middle of one
        # of our own methods: note it, look at it later.
        self._dead.append((number, ref))
        self._call_soon(self._reap)

    def _reap(self) -> None:
        with self._lock:
            while self._dead:
                number, ref = self._dead.popleft()
                held = self._by_original.get(number)
                if held is None or held.originals.get(number) is not ref:
                    continue  # the id belongs to a new object already
                del self._by_original[number], held.originals[number]
                self._release_unused(held)

    def _release_unused(self, held: _Held) -> None:
        if held.uses or held.originals or held.keys:
            return
        if self._by_token.get(held.token) is held:
            del self._by_token[held.token]
            self._send({"op": "daskref-release", "objects": [held.reference.key]})
