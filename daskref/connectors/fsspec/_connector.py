"""Objects in an object store, or in any other store that fsspec supports.

Known limits: the clocks of the participants may differ by one lease. A server-side copy
(:meth:`FsspecConnector.link`) takes up room of its own. The drivers of fsspec's
synchronous file systems (SFTP, SMB and others) decide how long to wait for their
server.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, NamedTuple
from urllib.parse import SplitResult

from daskref.annotations import override
from daskref.background import is_on_event_loop, start_thread
from daskref.connectors.base import Buffer, Connector, DeferrableConnector, Key, Usage
from daskref.connectors.buffers import raw
from daskref.connectors.credentials import Hidden, recall, remember
from daskref.connectors.fsspec import _leases as bloblease
from daskref.connectors.fsspec import _opening as opening
from daskref.connectors.fsspec import _options as storageoptions
from daskref.connectors.fsspec._errors import translate
from daskref.connectors.fsspec._session import (
    CLAIM,
    LEASE,
    NAME,
    ObjectStoreSession,
    new_name,
)
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)

#: Size in a key that was made before its object.
_UNKNOWN = -1


class FsspecKey(NamedTuple):
    """Key of an object behind fsspec."""

    #: Of the object: its writer, its time, its own digits, those of the copy.
    name: str
    #: Size in bytes; -1 if the key was made before the object.
    nbytes: int


class FsspecConnector(Connector, DeferrableConnector):
    """Store objects in a bucket, or at any other URL that fsspec knows.

    Parameters
    ----------
    url
        ``"s3://bucket/prefix"``, ``"gs://…"``, ``"abfs://…"``, ``"memory://"``, or of
        any other protocol of fsspec's. Options may follow after ``?``. The bucket
        exists.
    part_size
        Objects above this size are written and read in parts of it, in parallel; bytes
        or text such as ``"16 MiB"``. At least 5 MiB for S3.
    concurrency
        Requests at the same time, of all threads together.
    connect_timeout
        Seconds to wait for a connection (S3).
    timeout
        Seconds for one request, retries included.
    retries
        How often a failed request is repeated (S3).
    lease
        Seconds for which a participant counts as alive; each renews three times in it.
    session, nonce
        From the :meth:`config` of another connector, to take part in its session; by
        default a new session.
    **storage_options
        Of fsspec's class, plain values: ``key``, ``secret``, ``endpoint_url``, …

    Raises
    ------
    ConfigError
        If the URL or an option is malformed, or the driver not installed.
    ConnectorUnavailableError
        If the store cannot be written to, or does not have that session.

    Notes
    -----
    Objects lie below ``<url>/daskref-<id>/``; other objects are never touched. The last
    participant to close removes the session's objects. A new session removes those of
    sessions at the same URL whose participants all died. :meth:`config` contains only
    options that are known to be harmless; the others are in :meth:`secrets`.

    :meth:`get` returns new, writable memory; :meth:`link` copies within the store.

    Examples
    --------
    >>> with FsspecConnector("memory://scratch") as connector:
    ...     key = connector.put(b"some bytes")
    ...     bytes(connector.get(key))
    b'some bytes'
    """

    scheme: ClassVar[str] = "fsspec"
    aliases: ClassVar[tuple[str, ...]] = ("abfs", "az", "gcs", "gs", "memory", "s3")

    def __init__(
        self,
        url: str,
        *,
        part_size: int | str = "16 MiB",
        concurrency: int | str = 8,
        connect_timeout: float | str = 5.0,
        timeout: float | str = 60.0,
        retries: int | str = 2,
        lease: float | str = 600.0,
        session: str | None = None,
        nonce: str | None = None,
        **storage_options: Any,
    ) -> None:
        location = storageoptions.read_url(url)
        self._protocol, self._url = location.protocol, location.url
        options = storageoptions.checked({**location.options, **storage_options})
        self._public, secret = storageoptions.split(options)
        endpoint = self._public.get("endpoint_url", "")
        self._place = f"{self._url}?endpoint_url={endpoint}" if endpoint else self._url
        given = {
            "part_size": part_size,
            "concurrency": concurrency,
            "connect_timeout": connect_timeout,
            "timeout": timeout,
            "retries": retries,
            "lease": lease,
        }
        self._limits = opening.read_limits(self._protocol, given)
        if secret:
            remember(self._place, {"options": json.dumps(secret)})
        else:
            secret = json.loads(recall(self._place).get("options", "{}"))
        self._secret = Hidden(secret)
        self._hidden = storageoptions.hide(secret)
        self._closed = False
        with self._edge("the store could not be opened", unavailable=True):
            options = storageoptions.merge(self._public, secret)
            self._blobs = opening.open_blobs(
                self._protocol, self._url, options, self._limits
            )
            try:
                self._session = ObjectStoreSession(
                    self._blobs,
                    session,
                    nonce,
                    self._limits["lease"],
                    shared=self._protocol != "memory",
                )
            except BaseException:
                self._blobs.close()
                raise
        self._finalizer = weakref.finalize(self, _abandon, self._session)
        if session is None:
            self._session.sweep()

    @classmethod
    @override
    def from_config(cls, config: dict[str, Any]) -> FsspecConnector:
        options = {**config, **json.loads(config.get("options", "{}"))}
        options.pop("options", None)
        try:
            return cls(**options)
        except ConfigError as exc:
            raise ConnectorUnavailableError(
                f"<{cls.__name__} {config.get('url')}>", str(exc)
            ) from exc

    @classmethod
    @override
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        text = url._replace(query="").geturl()
        if "://" not in text:  # nothing but a scheme
            text = f"{url.scheme}://{url.path}"
        storageoptions.read_url(text)
        return {"url": text}

    @contextmanager
    def _edge(self, what: str, unavailable: bool = False) -> Iterator[None]:
        """Translate the driver's errors."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as exc:
            timeout = self._limits["timeout"]
            error = translate(exc, repr(self), what, self._hidden, timeout, unavailable)
            if error is exc:
                raise
            shown = self._hidden(text := f"{exc} {exc!r}") == text
            raise error from (exc if shown else None)

    def _ready(self) -> ObjectStoreSession:
        if self._closed:
            raise ConnectorClosedError(repr(self))
        self._session.ensure()
        return self._session

    @override
    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        views = [raw(frame) for frame in frames]
        nbytes = sum(view.nbytes for view in views)
        with self._edge(f"an object of {nbytes} B could not be written"):
            session = self._ready()
            name = new_name(session.writer)
            self._blobs.put(session.at(name), views)
        return FsspecKey(name, nbytes)

    def put_batch(self, objs: Iterable[Buffer]) -> list[Key]:
        """Store several buffers in parallel; after an error none of them."""
        views = [raw(obj) for obj in objs]
        with self._edge(f"a batch of {len(views)} objects could not be written"):
            session = self._ready()
            names = [new_name(session.writer) for _ in views]
            paths = [session.at(name) for name in names]
            try:
                self._blobs.put_many(
                    [(path, [view]) for path, view in zip(paths, views, strict=True)]
                )
            except BaseException:
                with suppress(Exception):
                    self._blobs.delete(paths)
                raise
        return [FsspecKey(n, v.nbytes) for n, v in zip(names, views, strict=True)]

    @override
    def get(self, key: Key) -> memoryview | None:
        name, nbytes = _checked(key)
        with self._edge(f"{name} could not be read"):
            return self._blobs.get(self._ready().at(name), nbytes)

    def get_batch(self, keys: Iterable[Key]) -> list[memoryview | None]:
        """Return several objects, read in parallel."""
        found = [_checked(key) for key in keys]
        with self._edge(f"a batch of {len(found)} objects could not be read"):
            at = self._ready().at
            return self._blobs.get_many([(at(name), nbytes) for name, nbytes in found])

    @override
    def exists(self, key: Key) -> bool:
        name, _ = _checked(key)
        with self._edge(f"{name} could not be looked for"):
            return self._blobs.size(self._ready().at(name)) is not None

    @override
    def evict(self, key: Key) -> None:
        self.evict_batch([key])

    def evict_batch(self, keys: Iterable[Key]) -> None:
        """Delete several objects; S3 deletes up to 500 with one request."""
        names = [_checked(key)[0] for key in keys]
        with self._edge(f"{len(names)} objects could not be deleted"):
            self._delete(self._ready(), names)

    def _delete(self, session: ObjectStoreSession, names: Iterable[str]) -> None:
        paths = [session.at(n) for name in names for n in (name, LEASE + name)]
        self._blobs.delete(list(dict.fromkeys(paths)))

    def link(self, key: Key) -> Key | None:
        """Copy the object within the store."""
        name, nbytes = _checked(key)
        with self._edge(f"{name} could not be copied"):
            session = self._ready()
            new = new_name(session.writer, id=name.split("-")[2])
            if nbytes is None:
                nbytes = self._blobs.size(session.at(name))
            if nbytes is None:
                return None
            if self._blobs.copy(session.at(name), session.at(new), nbytes):
                return FsspecKey(new, nbytes)
        return None

    def take(self, key: Key) -> memoryview | None:
        """Return the object and delete it, for one caller only.

        If the store cannot create an object only where there is none, which a new
        session tests, two simultaneous takers may both get the object.
        """
        name, nbytes = _checked(key)
        with self._edge(f"{name} could not be taken"):
            session = self._ready()
            if not session.exclusive:
                found = self._blobs.get(session.at(name), nbytes)
                if found is not None:
                    self._delete(session, [name])
                return found
            claim = session.at(CLAIM + name)
            try:
                self._blobs.put(claim, [memoryview(b"claim")], exclusive=True)
            except FileExistsError:
                return None
            try:
                found = self._blobs.get(session.at(name), nbytes)
                # The claim is deleted last: a later claimant finds no object.
                if found is not None:
                    self._delete(session, [name])
            finally:
                self._blobs.delete([claim])
            return found

    @override
    def new_key(self, obj: Buffer | None = None) -> Key:
        with self._edge("a key could not be made"):
            return FsspecKey(new_name(self._ready().writer), _UNKNOWN)

    @override
    def set(self, key: Key, obj: Buffer) -> None:
        self.set_frames(key, [obj])

    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        """Store an object; raises ConnectorError if the key has an object already."""
        name, nbytes = _checked(key)
        if nbytes is not None:
            raise WireError(f"{key!r} has its object already: it is not from new_key")
        views = [raw(frame) for frame in frames]
        with self._edge(f"{name} could not be written"):
            session = self._ready()
            path = session.at(name)
            try:
                if not session.exclusive and self._blobs.size(path) is not None:
                    raise FileExistsError(path)
                self._blobs.put(path, views, exclusive=session.exclusive)
            except FileExistsError as exc:
                raise ConnectorError(
                    repr(self), f"{name} was set before, and objects do not change"
                ) from exc

    @override
    def renew(self, key: Key, seconds: float) -> bool:
        name, _ = _checked(key)
        with self._edge(f"the lease of {name} could not be renewed"):
            return bloblease.renew(self._blobs, self._ready(), name, seconds)

    @override
    def sweep(
        self, known: Iterable[Key] | None = None, grace: float = 30.0
    ) -> list[Key]:
        names = None if known is None else {key[0] for key in known if key}
        with self._edge("the session could not be swept"):
            swept = bloblease.sweep(self._blobs, self._ready(), names, grace)
        return [FsspecKey(*each) for each in swept]

    @override
    def usage(self) -> Usage:
        with self._edge("the objects could not be counted"):
            return bloblease.usage(self._blobs, self._ready())

    @override
    def config(self) -> dict[str, Any]:
        return {
            "url": self._url,
            **self._limits,
            # one text, so that what holds it can be hashed
            "options": json.dumps(self._public, sort_keys=True),
            "session": self._session.name,
            "nonce": self._session.nonce,
        }

    @override
    def secrets(self) -> dict[str, dict[str, str]]:
        if not self._secret.value:
            return {}
        return {self._place: {"options": json.dumps(self._secret.value)}}

    def close(self) -> None:
        """Close the connector; waits for a few requests at most."""
        self._closed = True
        self._finalizer.detach()
        self._session.leave()

    def __repr__(self) -> str:
        return f"<FsspecConnector {self._url}>"


def _abandon(session: ObjectStoreSession) -> None:
    """Leave the session of a connector that was collected without being closed."""
    # The garbage collector may run on the event loop that `leave` waits for.
    if is_on_event_loop():
        start_thread(session.leave, "daskref-leave")
    else:
        session.leave()


def _checked(key: Key) -> tuple[str, int | None]:
    """Return name and size, also from the plain tuple that a message makes of a key."""
    if type(key) in (tuple, FsspecKey) and len(key) == 2:
        name, nbytes = key
        right = isinstance(name, str) and NAME.fullmatch(name)
        if right and type(nbytes) is int and nbytes >= _UNKNOWN:
            return name, None if nbytes == _UNKNOWN else nbytes
    raise WireError(f"{key!r} is not a FsspecKey that daskref made")
