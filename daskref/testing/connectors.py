"""Check that a connector keeps the contract. Needs no test framework.

Known limits: what is checked in threads is checked by trying, so a race may go
unnoticed; that another host sees the objects is not checked at all.
"""

from __future__ import annotations

import array
import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Timer
from typing import Any, NamedTuple

from daskref.connectors.base import Connector, DeferrableConnector, Key, Usage
from daskref.connectors.registry import connector_path, load_connector
from daskref.exceptions import ConnectorClosedError, WireError

_LARGE = 32 * 2**20
_TIMEOUT = 120


class _Stranger(NamedTuple):
    name: str
    nbytes: int


def check_connector(
    make: Callable[[], Connector], *, relax: Collection[str] = frozenset()
) -> None:
    """Check a connector against the contract of :class:`~daskref.connectors.Connector`.

    Parameters
    ----------
    make
        () -> a new connector, with a store that no other test uses. It is called once
        per rule; what it returns is closed afterwards.
    relax
        Names of rules, from :data:`RULES`, not to check.

    Raises
    ------
    AssertionError
        If the connector breaks a rule; the message begins with the rule's name.
    ValueError
        If *relax* names a rule that does not exist.

    Examples
    --------
    >>> from daskref.connectors import LocalConnector
    >>> check_connector(LocalConnector, relax={"processes"})
    """
    if unknown := sorted(set(relax) - RULES.keys()):
        raise ValueError(f"no such rules: {unknown}; there are {sorted(RULES)}")
    for name, rule in RULES.items():
        if name in relax:
            continue
        connector = make()
        try:
            rule(connector)
        except AssertionError as exc:
            raise AssertionError(f"{name}: {exc}") from exc
        finally:
            connector.close()


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _expect_raises(
    kind: type[BaseException], what: str, call: Callable[[], Any]
) -> None:
    try:
        result = call()
    except kind:
        return
    except Exception as exc:
        raise AssertionError(
            f"{what} raises {exc!r} instead of {kind.__name__}"
        ) from exc
    raise AssertionError(f"{what} returns {result!r:.100} and does not raise {kind}")


def _pattern(nbytes: int, seed: int = 0) -> bytes:
    block = bytes((seed * 37 + i * 7 + i // 251) % 256 for i in range(4099))
    return (block * (nbytes // len(block) + 1))[:nbytes]


def _expect_bytes(
    connector: Connector, key: Key, value: bytes, what: str
) -> memoryview:
    found = connector.get(key)
    if found is None:
        raise AssertionError(f"get returns None for {what}")
    view = memoryview(found)
    _expect(view.ndim == 1 and view.format == "B", f"{what}: not a buffer of bytes")
    _expect(view.nbytes == len(value), f"{what}: {view.nbytes} bytes, not {len(value)}")
    _expect(view == value, f"{what}: other bytes than were put")
    return view


def _round_trips(connector: Connector) -> None:
    for nbytes in (0, 1, 7, 4095, 4096, 4097, 1_000_003, _LARGE, _LARGE + 13):
        value = _pattern(nbytes, nbytes % 251)
        kinds = {"bytes": value, "bytearray": bytearray(value)}
        kinds["a read-only view"] = memoryview(value)
        for kind, obj in kinds.items() if nbytes < _LARGE else [("bytes", value)]:
            key = connector.put(obj)
            what = f"{nbytes} bytes put as {kind}"
            _expect(isinstance(key, tuple), f"{what}: the key is not a tuple")
            _expect(pickle.loads(pickle.dumps(key)) == key, "keys do not pickle")
            _expect(connector.exists(key), f"{what}: exists returns False")
            _expect_bytes(connector, key, value, what)
            connector.evict(key)


def _frames(connector: Connector) -> None:
    if not hasattr(connector, "put_frames"):
        return
    doubles: Any = array.array("d", range(1000))
    matrix = memoryview(bytes(range(24))).cast("B", (4, 6))
    empty = memoryview(array.array("I"))
    frames = [
        b"head",
        doubles,
        b"",
        bytearray(3),
        matrix,
        empty,
        memoryview(b"tail")[1:],
    ]
    value = b"".join(bytes(memoryview(frame)) for frame in frames)
    key = connector.put_frames(frames)
    _expect_bytes(connector, key, value, "frames of several formats")
    _expect_bytes(connector, connector.put_frames([]), b"", "no frames")
    many = [bytes([i % 256]) * (i % 5) for i in range(3000)]
    _expect_bytes(connector, connector.put_frames(many), b"".join(many), "3000 frames")
    large: list[Any] = [
        _pattern(_LARGE // 2 + 1, 1),
        doubles,
        _pattern(_LARGE // 2 + 5, 2),
    ]
    value = b"".join(bytes(memoryview(frame)) for frame in large)
    _expect_bytes(connector, connector.put_frames(large), value, "large frames")


def _keeps_no_frame(connector: Connector) -> None:
    for nbytes in (100, _LARGE):
        source = bytearray(_pattern(nbytes))
        key = connector.put(source)
        source[:] = bytes(nbytes)
        _expect_bytes(connector, key, _pattern(nbytes), "a source changed after put")
        source.append(0)  # fails while someone holds the buffer


def _keys(connector: Connector) -> None:
    keys = {connector.put(b"same") for _ in range(20)}
    _expect(len(keys) == 20, "two objects have one key")


def _missing(connector: Connector) -> None:
    key = connector.put(b"gone")
    for _ in range(2):
        connector.evict(key)
        _expect(connector.get(key) is None, "get of an evicted object is not None")
        _expect(not connector.exists(key), "an evicted object exists")


def _plain_keys(connector: Connector) -> None:
    key = connector.put(b"bytes")
    plain = tuple(key)
    _expect(connector.exists(plain), "exists of the key as a plain tuple is False")
    _expect_bytes(connector, plain, b"bytes", "the key as a plain tuple")
    connector.evict(plain)
    _expect(not connector.exists(key), "evict of the key as a plain tuple does nothing")


def _foreign_keys(connector: Connector) -> None:
    key = connector.put(b"ours")
    strange: list[Any] = [_Stranger("0" * 32, 4), ("a", 1), "text", None, 5, ()]
    if key and isinstance(key[0], str):
        outside = ["", None, "..", "a/b", "a\0b", "ä", "/etc/passwd", "../passwd"]
        strange += [type(key)._make((name, *key[1:])) for name in outside]  # type: ignore[attr-defined]
    for foreign in strange:
        for name in ("get", "exists", "evict"):
            call = partial(getattr(connector, name), foreign)
            _expect_raises(WireError, f"{name}({foreign!r})", call)
    _expect_bytes(connector, key, b"ours", "an object beside foreign keys")


def _views_outlive(connector: Connector) -> None:
    for nbytes in (5000, _LARGE):
        value = _pattern(nbytes, 1)
        key = connector.put(value)
        view = _expect_bytes(connector, key, value, "an object")
        connector.evict(key)
        _expect(view == value, "evicting changes what a reader holds")
        others = [connector.put(_pattern(nbytes, seed)) for seed in range(2, 5)]
        _expect(view == value, "a later put changes what a reader of an evicted holds")
        part = view[100:200]
        del view
        for other in others:
            connector.evict(other)
        connector.put(_pattern(nbytes, 6))
        _expect(part == value[100:200], "a slice of an evicted object changes")


def _private(connector: Connector) -> None:
    for nbytes in (100, _LARGE):
        value = _pattern(nbytes)
        key = connector.put(value)
        mine = _expect_bytes(connector, key, value, "an object")
        if not mine.readonly:
            mine[:50] = b"x" * 50
            mine[-1] = mine[-1] ^ 1
        _expect_bytes(connector, key, value, "an object that another reader wrote to")


def _closing(connector: Connector) -> None:
    key = connector.put(b"bytes")
    view = _expect_bytes(connector, key, b"bytes", "an object")
    config = connector.config()
    connector.close()
    connector.close()
    _expect(bytes(view) == b"bytes", "closing changes what a reader holds")
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: connector.put(b"x"),
        "get": lambda: connector.get(key),
        "exists": lambda: connector.exists(key),
        "evict": lambda: connector.evict(key),
    }
    for name, call in calls.items():
        _expect_raises(ConnectorClosedError, f"{name} after close", call)
    _expect(connector.config() == config, "config changes by closing")
    _expect(isinstance(repr(connector), str), "repr fails after close")


def _configuration(connector: Connector) -> None:
    key = connector.put(b"shared")
    for other in (
        type(connector).from_config(connector.config()),
        load_connector(connector_path(connector), connector.config()),
        pickle.loads(pickle.dumps(connector)),
    ):
        with other:
            _expect_bytes(other, key, b"shared", "an object, from a second connector")
            theirs = other.put(b"theirs")
            if (deferred := _new_key(connector)) is not None:
                _expect(other.get(deferred) is None, "a key that is not set")
                setter: Any = other
                setter.set(deferred, b"theirs")
                _expect_bytes(connector, deferred, b"theirs", "what a second one set")
        _expect_bytes(connector, theirs, b"theirs", "an object whose putter has closed")
        _expect_bytes(connector, key, b"shared", "an object, after another has closed")


def _processes(connector: Connector) -> None:
    values = [b"", b"small", _pattern(_LARGE, 3)]
    keys = [connector.put(value) for value in values]
    evicted = connector.put(b"evicted by the other process")
    task = (connector_path(connector), connector.config(), keys, evicted)
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import daskref.testing.connectors as t; t._second_process()",
        ],
        input=pickle.dumps(sys.path) + pickle.dumps(task),
        capture_output=True,
        timeout=_TIMEOUT,
        check=False,
    )
    error = child.stderr.decode(errors="replace")
    _expect(not child.returncode, f"a second process fails: {error}")
    seen, theirs = pickle.loads(child.stdout)
    _expect(seen == [_digest(value) for value in values], "it reads other bytes")
    _expect_bytes(connector, theirs, _pattern(_LARGE, 4), "what an ended process put")
    _expect(not connector.exists(evicted), "what it evicted exists")
    for key, value in zip(keys, values, strict=True):
        _expect_bytes(connector, key, value, "what it wrote to in its own memory")
    _takers(connector)


def _python(function: str) -> list[str]:
    code = f"import daskref.testing.connectors as t; t.{function}()"
    return [sys.executable, "-c", code]


def _digest(value: Any) -> str:
    return hashlib.sha256(value).hexdigest()


def _second_process() -> None:
    stream = sys.stdin.buffer
    sys.path[:] = pickle.load(stream)
    path, config, keys, evicted = pickle.load(stream)
    connector = load_connector(path, config)
    seen = []
    for key in keys:
        view = memoryview(connector.get(key) or b"")
        seen.append(_digest(view))
        if view.nbytes and not view.readonly:
            view[0] ^= 1
    theirs = connector.put(_pattern(_LARGE, 4))
    connector.evict(evicted)
    connector.close()
    sys.stdout.buffer.write(pickle.dumps((seen, theirs)))


def _threads(connector: Connector) -> None:
    value = _pattern(200_000)
    shared = connector.put(value)

    def work(number: int) -> None:
        for turn in range(10):
            mine = _pattern(70_000 + number, turn)
            key = connector.put(mine)
            view = _expect_bytes(connector, key, mine, "an object, in threads")
            connector.evict(key)
            _expect_bytes(connector, shared, value, "one object, in threads")
            _expect(view == mine, "an object changes, in threads")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    keys = [connector.put(b"x") for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(connector.evict, keys * 4))
    _expect(not any(map(connector.exists, keys)), "evicted in threads, yet there")


def _batches(connector: Connector) -> None:
    values = [_pattern(n, n) for n in (0, 10, 70_000)]
    keys = connector.put_batch(values)
    _expect(len(set(keys)) == 3, "put_batch does not return one key per object")
    found = connector.get_batch(keys)
    _expect(
        [None if v is None else bytes(v) for v in found] == values,
        "get_batch returns other objects than put_batch put",
    )
    connector.evict(keys[1])
    missing = connector.get_batch(keys)
    _expect([v is None for v in missing] == [False, True, False], "get_batch of a gap")
    if hasattr(connector, "evict_batch"):
        connector.evict_batch([*keys, keys[0]])
        _expect(not any(map(connector.exists, keys)), "evict_batch leaves objects")


def _links(connector: Connector) -> None:
    if not hasattr(connector, "link"):
        return
    value = _pattern(100_000)
    key = connector.put(value)
    second = connector.link(key)
    if second is None:
        return
    _expect(second != key, "link returns the same key")
    connector.evict(key)
    _expect(not connector.exists(key), "an evicted key exists because of a link")
    connector.put(_pattern(100_000, 9))
    _expect_bytes(connector, second, value, "a link whose first key was evicted")
    _expect(connector.link(key) is None, "link of an evicted object")
    connector.evict(second)
    _expect(connector.get(second) is None, "an evicted link is there")


def _leases(connector: Connector) -> None:
    if not hasattr(connector, "renew"):
        return
    ended, running, without = (connector.put(b"leased") for _ in range(3))
    if not connector.renew(ended, 0.0):
        return
    _expect(connector.renew(running, 1000.0), "renew returns False")
    swept = connector.sweep()
    _expect(swept == [ended], f"sweep returns {swept}, not the one expired")
    _expect(not connector.exists(ended), "sweep leaves an expired lease")
    _expect(connector.exists(running), "sweep deletes a running lease")
    _expect(connector.exists(without), "sweep deletes an object without a lease")
    _expect(not connector.renew(ended, 1000.0), "renew of a deleted object")
    _expect(connector.renew(running, 0.0), "renew returns False")
    _expect(connector.sweep() == [running], "a lease was not shortened")
    _expect(connector.sweep([], 0.0) == [], "sweep deletes what a live process put")


def _takes(connector: Connector) -> None:
    take = getattr(connector, "take", None)
    if take is None:
        return
    for value in (b"", b"small", _pattern(2_000_003, 5)):
        key = connector.put(value)
        view = memoryview(take(tuple(key)))
        _expect(view == value, "take returns other bytes than were put")
        _expect(not connector.exists(key), "what was taken exists")
        _expect(take(key) is None, "a second take is not None")
        connector.put(_pattern(len(value), 6))
        _expect(view == value, "a later put changes what was taken")
    if getattr(type(connector), "take", None) is Connector.take:
        return  # the default: it does not say that two takers are told apart
    keys = [connector.put(b"for one only") for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, keys * 4))
    winners = [view for view in taken if view is not None]
    _expect(len(winners) == 20, f"{len(winners)} takers in threads got 20 objects")
    _expect(all(view == b"for one only" for view in winners), "takers get other bytes")


def _takers(connector: Connector) -> None:
    if getattr(type(connector), "take", Connector.take) is Connector.take:
        return
    keys = [connector.put(b"for one only") for _ in range(200)]
    task = (connector_path(connector), connector.config(), keys)
    children = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import daskref.testing.connectors as t; t._taking_process()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    taken = []
    watchdogs = [Timer(_TIMEOUT, child.kill) for child in children]
    for watchdog in watchdogs:
        watchdog.start()
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write(pickle.dumps(sys.path) + pickle.dumps(task))
            child.stdin.flush()
        for child in children:
            assert child.stdout is not None
            _expect(child.stdout.read(5) == b"ready", "a taking process fails")
        for child in children:
            out, _ = child.communicate(b"go", timeout=_TIMEOUT)
            _expect(not child.returncode, "a taking process fails")
            taken += pickle.loads(out)
    finally:
        for watchdog in watchdogs:
            watchdog.cancel()
        for child in children:
            child.kill()
            child.communicate()
    _expect(len(set(taken)) == len(taken), "two processes take one object")
    _expect(set(taken) == set(keys), "objects that no process got")
    _expect(not any(map(connector.exists, keys)), "what was taken exists")


def _taking_process() -> None:
    stream = sys.stdin.buffer
    sys.path[:] = pickle.load(stream)
    path, config, keys = pickle.load(stream)
    with load_connector(path, config) as connector:
        sys.stdout.buffer.write(b"ready")
        sys.stdout.buffer.flush()
        stream.read(2)
        taken = [key for key in keys if connector.take(key) is not None]
    sys.stdout.buffer.write(pickle.dumps(taken))


def _new_key(connector: Connector) -> Key | None:
    """Return the key of an object to come; ``None`` if the store cannot defer."""
    try:
        return (
            connector.new_key() if isinstance(connector, DeferrableConnector) else None
        )
    except NotImplementedError:
        return None


def _defers(connector: Connector) -> None:
    if _new_key(connector) is None or not isinstance(connector, DeferrableConnector):
        return
    keys = [connector.new_key() for _ in range(3)]
    _expect(len(set(keys)) == 3, "new_key returns a key twice")
    for key in keys:
        _expect(connector.get(key) is None, "get of a key that is not set is not None")
        _expect(not connector.exists(key), "a key that is not set exists")
        connector.evict(key)
    for key, value in zip(keys, [b"", b"small", _pattern(2_000_003, 7)], strict=True):
        source = bytearray(value)
        connector.set(tuple(key), source)
        source[:5] = b"other"[: len(source)]
        _expect(connector.exists(key), "what was set does not exist")
        _expect_bytes(connector, key, value, "what was set")
        connector.evict(key)
        _expect(connector.get(key) is None, "what was set and evicted is there")
    if hasattr(connector, "set_frames"):
        key = connector.new_key()
        connector.set_frames(key, [b"a", b"", _pattern(70_000)])
        _expect_bytes(connector, key, b"a" + _pattern(70_000), "frames that were set")
        linked = connector.link(key) if hasattr(connector, "link") else None
        if linked is not None:
            _expect_bytes(connector, linked, b"a" + _pattern(70_000), "a link of it")
    strange: list[Any] = [_Stranger("0" * 32, 4), ("a", 1), "text", None, ()]
    for foreign in strange:
        _expect_raises(
            WireError, f"set({foreign!r})", partial(connector.set, foreign, b"x")
        )
    closed = connector.new_key()
    connector.close()
    _expect_raises(ConnectorClosedError, "new_key after close", connector.new_key)
    _expect_raises(
        ConnectorClosedError, "set after close", partial(connector.set, closed, b"x")
    )


def _counts(connector: Connector) -> None:
    try:
        before = connector.usage()
    except (AttributeError, NotImplementedError):
        return
    keys = [connector.put(bytes(100)), connector.put(bytes(70_000))]
    now = Usage(before.objects + 2, before.nbytes + 70_100)
    _expect(connector.usage() == now, f"usage is {connector.usage()}, not {now}")
    if hasattr(connector, "link") and (linked := connector.link(keys[0])):
        _expect(connector.usage() == now, "usage counts a link")
        keys.append(linked)
    for key in keys:
        connector.evict(key)
    _expect(connector.usage() == before, "usage counts what was evicted")


#: The rules by name: what :func:`check_connector` checks, in this order.
RULES: dict[str, Callable[[Connector], None]] = {
    "round-trips": _round_trips,
    "frames": _frames,
    "keeps-no-frame": _keeps_no_frame,
    "keys": _keys,
    "missing": _missing,
    "plain-keys": _plain_keys,
    "foreign-keys": _foreign_keys,
    "views-outlive": _views_outlive,
    "private": _private,
    "closing": _closing,
    "configuration": _configuration,
    "processes": _processes,
    "threads": _threads,
    "batches": _batches,
    "takes": _takes,
    "deferred": _defers,
    "links": _links,
    "leases": _leases,
    "usage": _counts,
}
