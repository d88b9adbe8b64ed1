"""Nothing is unpickled that nobody with the key wrote."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import distributed
import numpy as np
import pytest

import daskref
from daskref.cluster.session import ClusterStore
from daskref.config import Settings
from daskref.connectors import FileConnector, LocalConnector, credentials
from daskref.connectors.file import FileKey
from daskref.connectors.fsspec import FsspecConnector
from daskref.exceptions import ResolveError, SignatureError, WireError
from daskref.objects import signing
from daskref.objects.codec import dump_failure, encode
from daskref.objects.reference import Reference
from daskref.objects.signing import is_signed, known_key
from daskref.proxy.proxy import reference_of
from daskref.store import Store
from tests.support.common import large, session_of

KEY = bytes(range(32))


class Evil(Exception):
    """What an attacker stores: it makes a directory when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def evil(marker: Path, nbytes: int = 0) -> bytes:
    """Return an object as daskref would store it, as long as the one it replaces."""
    data = b"".join(encode(Evil(marker)).frames)
    return data + bytes(max(0, nbytes - len(data)))


def replace(store: Store, key: Any, data: bytes) -> None:
    """Put other bytes in the place of an object, as who can write to the store does."""
    connector: Any = store.connector
    if isinstance(connector, FsspecConnector):
        path = connector._session.at(key.name)
        connector._blobs.put(path, [memoryview(data)])
    else:
        connector.evict(key)
        connector.set(key, data)


def read(store: Store, key: Any) -> bytes:
    data = store.connector.get(key)
    assert data is not None
    return bytes(data)


# In a cluster


@pytest.fixture(
    params=["file", *(pytest.param(x, marks=pytest.mark.slow) for x in ("redis", "s3"))]
)
def attacked(request: Any, tmp_path: Path) -> Iterator[Any]:
    """A client whose values go through a store that others may write to."""
    spec = f"file://{tmp_path}/shared"
    if request.param == "redis":
        spec = request.getfixturevalue("redis_server").url
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        endpoint = quote(s3.endpoint, safe="")
        spec = f"s3://{s3.bucket()}/prefix?endpoint_url={endpoint}"
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        daskref.Client(cluster, connector=spec) as client,
    ):
        yield client


def make(fill: float) -> Any:
    return large(fill)


def total(array: Any) -> float:
    return float(array.sum())


def objects(client: Any) -> list[Any]:
    """Return the keys of what the scheduler knows."""

    def held(dask_scheduler: Any) -> list[Any]:
        return [tuple(key) for key in dask_scheduler.plugins["daskref"].state.known]

    kind = type(session_of(client).info.probes[0])
    return [kind(*key) for key in client.run_on_scheduler(held)]


def attack(client: Any, marker: Path, known: Any = ()) -> str:
    """Swap what the one new object of a cluster is; return the object's name."""
    (key,) = set(objects(client)) - set(known)
    replace(session_of(client).store, key, evil(marker, key[-1]))
    return str(key[0])


def test_an_attacker_who_can_write_to_the_store_runs_nothing(attacked, tmp_path):
    client = attacked
    marker = tmp_path / "marker"
    one, two = client.scheduler_info(n_workers=-1)["workers"]
    future = client.scatter(large())
    name = attack(client, marker)
    with pytest.raises(SignatureError, match="not signed") as error:
        client.submit(total, future, workers=one).result(30)
    assert name in str(error.value)
    assert repr(session_of(client).store.name) in str(error.value)
    with pytest.raises(SignatureError, match="not signed"):
        client.gather(future)
    # a result: on its way to another worker, to the client, and to a plain client
    known = objects(client)
    made = client.submit(make, 2.0, workers=one)
    assert client.submit(total, made, workers=two).result(30)
    attack(client, marker, known)
    with pytest.raises(SignatureError, match="not signed"):
        client.submit(np.max, made, workers=one).result(30)
    with pytest.raises(SignatureError, match="not signed"):
        made.result(30)
    with distributed.Client(client.scheduler.address, set_as_default=False) as plain:
        shared = distributed.Future(made.key, plain)
        message = {"op": "client-desires-keys", "keys": [made.key], "client": plain.id}
        plain._send_to_scheduler(message)
        with pytest.raises(SignatureError, match="not signed"):
            shared.result(30)
    assert not marker.exists()
    assert client.submit(total, large(3.0)).result(30)  # all else goes on


def test_the_key_of_a_session_is_in_no_reference_and_no_file(tmp_path):
    session = ClusterStore.create(Settings.read(connector=f"file://{tmp_path}"))
    key = known_key(session.info.store.name, session.info.secrets)
    assert len(key) == 32
    reference = session.store.put_reference(large())
    data = read(session.store, reference.key)
    for text in (pickle.dumps(reference), repr(reference), data, repr(vars(session))):
        data = text if isinstance(text, bytes) else text.encode()
        assert key not in data
        assert key.hex().encode() not in data
    session.leave()


@pytest.mark.parametrize(
    ("spec", "sign", "signed"),
    [
        ("shm://", "auto", False),
        ("auto", "auto", False),
        ("shm://", True, True),
        ("file://{}", "auto", True),
        ("file://{}", "false", False),
    ],
)
def test_on_for_what_others_may_write_to_and_off_by_choice(
    tmp_path, spec, sign, signed
):
    spec = spec.format(tmp_path)
    session = ClusterStore.create(Settings.read(connector=spec, security_sign=sign))
    try:
        assert (
            known_key(session.info.store.name, session.info.secrets) is not None
        ) is signed
        assert session.info.store.signed is signed
        reference = session.put(large())
        assert is_signed(memoryview(read(session.store, reference.key))) is signed
        # another process that joins by what it is told
        for place, secret in session.info.secrets.items():
            credentials.remember(place, secret)
        with Store.from_config(session.info.store) as other:
            np.testing.assert_array_equal(other.get_reference(reference), large())
    finally:
        session.leave()
    assert signing.known_key(session.info.store.name) is None


# A store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    connector = FileConnector(tmp_path / "shared")
    with Store("signed", connector, register=True, signing_key=KEY) as store:
        yield store


VALUES = [
    b"",
    b"x" * 300_000,
    "text",
    np.arange(1000.0),
    np.arange(500_000),
    [1, {"a": np.ones(10_000)}],
    np.array(["a", None], dtype=object),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_signed_objects_come_back(store, value):
    key = store.put(value)
    assert repr(store.get(key)) == repr(value)
    proxy = store.proxy(value, populate_target=False)
    assert repr(daskref.extract(pickle.loads(pickle.dumps(proxy)))) == repr(value)
    (again,) = store.put_batch([value])
    assert repr(store.get(again)) == repr(value)


def test_arrays_are_still_mapped_aligned_and_writable(store):
    key = store.put(np.arange(500_000))
    found = store.get(key)
    assert found.flags.writeable
    assert not found.flags.owndata
    assert not found.ctypes.data % 64


def test_each_bit_of_what_is_run_counts(store):
    value = [np.arange(100_000), "text"]
    key = store.put(value)
    data = read(store, key)
    head = 64 + encode(value).head_nbytes
    assert head < 1000
    for position in [*range(64), *range(64, head, 7), head - 1]:
        changed = bytearray(data)
        changed[position] ^= 1
        replace(store, key, changed)
        with pytest.raises(SignatureError):
            store.get(key)
    unsized = FileKey(key.name, -1)
    replace(store, unsized, data[:-1000])
    with pytest.raises(WireError, match="truncated"):
        store.get(unsized)
    replace(store, unsized, data[: head - 10])
    with pytest.raises(SignatureError, match="damaged"):
        store.get(unsized)


def test_buffers_are_data(store):
    key = store.put(np.zeros(100_000))
    data = bytearray(read(store, key))
    data[-1] ^= 1
    replace(store, key, data)
    assert np.count_nonzero(store.get(key)) == 1


@pytest.mark.parametrize(
    "data",
    [
        lambda marker: evil(marker),
        lambda marker: failure(Evil(marker)),
        lambda marker: pickle.dumps(Evil(marker)),
        lambda marker: signed_with(bytes(32), marker),
        lambda marker: b"",
    ],
    ids=["object", "failure", "pickle", "other key", "nothing"],
)
def test_nothing_else_is_unpickled(store, tmp_path, data):
    marker = tmp_path / "marker"
    key = store.connector.put(data(marker))
    with pytest.raises(SignatureError, match=key.name):
        store.get(key)
    with pytest.raises(ResolveError, match="refused") as error:
        daskref.resolve(store.proxy_from_key(key))
    assert isinstance(error.value.__cause__, SignatureError)
    assert not marker.exists()


def failure(exception: Exception) -> bytes:
    magic = dump_failure(KeyError()).partition(pickle.PROTO)[0]
    return magic + pickle.dumps((exception, ""))


def signed_with(key: bytes, marker: Path) -> bytes:
    encoded = encode(Evil(marker))
    envelope = signing.Signer("signed", key).sign(encoded)
    return b"".join([envelope, *encoded.frames])


def test_signed_objects_cannot_be_swapped(store):
    one, two = store.put_reference(np.zeros(1000)), store.put_reference(np.ones(1000))
    other = store.put_reference("text" * 1000)
    proxy = store.proxy("another" * 1000, populate_target=False)
    data = read(store, other.key)
    for reference in (one, reference_of(proxy)):
        key = reference.key
        key = FileKey(key.name, -1)
        replace(store, key, data)
        unsized = Reference(key, reference.store, reference.metadata)
        with pytest.raises(SignatureError, match="another object"):
            store.get_reference(unsized)
    # the same code, and other data
    replace(store, two.key, read(store, two.key))
    assert store.get_reference(two).sum() == 1000


def test_links_and_futures_and_users_serializers(store, tmp_path):
    value = np.arange(1000.0)
    found = store.get_reference(store.put_reference(value, "another token"))
    again = store.provenance.relink(found, None)
    assert again is None or store.get_reference(again).sum() == value.sum()
    future = store.future()
    proxy = future.proxy()
    future.set_result(value)
    np.testing.assert_array_equal(daskref.extract(proxy), value)
    failed = store.future()
    failed.set_exception(KeyError("expected"))
    with pytest.raises(KeyError, match="expected"):
        failed.result()
    key = store.put([1, 2], serializer=pickle.dumps)
    assert store.get(key, deserializer=pickle.loads) == [1, 2]
    marker = tmp_path / "marker"
    key = FileKey(key.name, -1)
    replace(store, key, pickle.dumps(Evil(marker)))
    with pytest.raises(SignatureError, match="not signed"):
        store.get(key, deserializer=pickle.loads)
    with pytest.raises(SignatureError, match="without a serializer"):
        store.get(store.put(value), deserializer=pickle.loads)
    assert not marker.exists()


def test_without_the_key_nothing_is_read_and_the_error_says_so(store):
    reference = store.put_reference([1, 2, 3])
    config = store.config()
    assert config.signed
    assert KEY.hex() not in repr(config)
    signing.forget_key("signed")
    with Store.from_config(config) as other:
        with pytest.raises(SignatureError, match="remember_key"):
            other.get_reference(reference)
        with pytest.raises(SignatureError, match="remember_key"):
            other.put([4])
        signing.remember_key("signed", KEY)
    with Store.from_config(config) as other:
        assert other.get_reference(reference) == [1, 2, 3]
        other.evict(reference.key)
    with Store("plain", store.connector) as plain:
        key = store.put([1])
        with pytest.raises(SignatureError, match="remember_key"):
            plain.get(key)


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="16 or more"):
        Store("short", LocalConnector(), signing_key=b"secret")


def test_stores_of_other_makes_are_signed_too(tmp_path):
    pytest.importorskip("proxystore")
    from proxystore.connectors.file import FileConnector as Theirs

    with Store("theirs", Theirs(str(tmp_path / "s")), signing_key=KEY) as store:
        key = store.put([1, 2])
        assert store.get(key) == [1, 2]
        plain = store.connector.put(b"".join(encode([1]).frames))
        with pytest.raises(SignatureError):
            store.get(plain)


@pytest.mark.parametrize("nbytes", [1 << 20, 64 << 20])
def test_what_is_signed_does_not_grow_with_the_data(nbytes):
    assert encode(np.zeros(nbytes // 8)).head_nbytes < 512
    assert encode({"a": np.zeros(nbytes // 8), "b": 1}).head_nbytes < 512


def put_again(proxy: Any) -> Any:
    """Read on a worker, and write through the store of a proxy."""
    store = daskref.get_store(proxy)
    assert store is not None
    return store.proxy(np.asarray(proxy) + 1, populate_target=False)


def test_workers_learn_the_key_of_a_clients_store(client, tmp_path):
    connector = FileConnector(tmp_path / "own")
    name = f"own-{os.urandom(4).hex()}"
    with Store(name, connector, register=True, signing_key=KEY) as store:
        proxy = store.proxy(np.arange(1000.0), populate_target=False)
        assert client.submit(total, proxy).result(30) == 499_500
        again = client.submit(put_again, proxy).result(30)
        assert total(daskref.extract(again)) == 500_500
        marker = tmp_path / "marker"
        proxy = store.proxy(np.ones(1000), populate_target=False)
        key = reference_of(proxy).key
        replace(store, key, evil(marker, key.nbytes))
        assert "not signed" in str(client.submit(total, proxy).exception(30))
        assert not marker.exists()


def test_a_worker_that_cannot_see_the_store_checks_what_it_is_sent(tmp_path):
    session = ClusterStore.create(Settings.read(connector=f"file://{tmp_path}"))
    try:
        reference = session.put(large())
        relay = Relayed(session.store.connector)
        with Store(
            "relay",
            relay,
            signing_key=known_key(session.info.store.name, session.info.secrets),
        ) as store:
            assert store.get_reference(reference).sum() == large().sum()
            marker = tmp_path / "marker"
            replace(session.store, reference.key, evil(marker, reference.key.nbytes))
            with pytest.raises(SignatureError, match="not signed"):
                store.get_reference(reference)
            assert not marker.exists()
    finally:
        session.leave()


class Relayed(LocalConnector):
    """Stands for the connector of a worker that others read for."""

    def __init__(self, connector: Any) -> None:
        super().__init__()
        self._other = connector

    def get(self, key: Any) -> Any:
        return self._other.get(key)
