"""Against a real S3 server over HTTP, memory, and the local file system."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import socket
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from daskref.connectors import FsspecConnector, FsspecKey, open_connector
from daskref.connectors.fsspec._blobs import pieces
from daskref.connectors.fsspec._bucket import Bucket
from daskref.connectors.fsspec._s3 import S3Bucket
from daskref.exceptions import (
    ConfigError,
    ConnectorClosedError,
    ConnectorError,
    ConnectorUnavailableError,
    WireError,
)
from daskref.objects.reference import Reference, describe
from daskref.store import Store
from daskref.testing import RULES, check_connector
from tests.support import s3 as s3_server
from tests.support.common import wait_until
from tests.support.namespaces import require_namespaces, run_case

PART = 5 * 2**20
SLOW = pytest.mark.slow
SECRET = "hunter2hunter2"


def _pattern(nbytes):
    return bytes(range(251)) * (nbytes // 251) + bytes(nbytes % 251)


@pytest.fixture
def bucket(s3):
    return s3.bucket()


@pytest.fixture
def open_s3(s3, bucket):
    """``**options -> connector``, at one place; closed at the end."""
    opened = []

    def open_one(url=f"s3://{bucket}/prefix", **options):
        opened.append(FsspecConnector(url, endpoint_url=s3.endpoint, **options))
        return opened[-1]

    yield open_one
    for connector in opened:
        connector.close()


@pytest.fixture(params=[pytest.param("s3", marks=SLOW), "memory", "file"])
def place(request, tmp_path):
    """Arguments of a connector, each kind of store in its turn."""
    if request.param == "s3":
        return request.getfixturevalue("s3").arguments
    return {"url": f"fsspec+{request.param}://{tmp_path}/place"}


@pytest.fixture
def calls(monkeypatch):
    """Names of the requests that S3 gets, as they are made."""
    import s3fs

    made = []
    original = s3fs.S3FileSystem._call_s3

    async def call(self, method, *args, **kwargs):
        made.append(method)
        return await original(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
    return made


# Large objects.


@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 4], [10, 0, 1], [7] * 5, [100]])
def test_pieces_are_views_of_the_buffers_in_order(sizes):
    views = [memoryview(bytes([i]) * n) for i, n in enumerate(sizes)]
    cut = list(pieces(views, 7))
    lengths = [sum(view.nbytes for view in piece) for piece in cut]
    assert b"".join(b"".join(piece) for piece in cut) == b"".join(views)
    assert lengths[:-1] == [7] * (len(cut) - 1)
    assert all(0 < n <= 7 for n in lengths)
    assert all(any(v.obj is w.obj for w in views) for piece in cut for v in piece)


@SLOW
@pytest.mark.parametrize("nbytes", [PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 7])
def test_large_objects_go_and_come_in_parts(open_s3, s3, bucket, calls, nbytes):
    connector = open_s3(part_size=PART)
    value = _pattern(nbytes)
    del calls[:]
    key = connector.put_frames([value[:100], value[100:-3], value[-3:]])
    parts = calls.count("upload_part")
    assert parts == (0 if nbytes <= PART else -(-nbytes // PART))
    assert ("put_object" in calls) == (nbytes <= PART)
    name = f"prefix/{connector.config()['session']}/{key.name}"
    etag = s3.client().head_object(Bucket=bucket, Key=name)["ETag"].strip('"')
    assert etag.endswith(f"-{parts}") == bool(parts)
    del calls[:]
    view = connector.get(key)
    assert view == value
    assert not view.readonly
    assert calls == ["get_object"] * -(-nbytes // PART)
    assert not s3.uploads(bucket)


@SLOW
def test_memory_beside_a_large_object_is_bounded(open_s3):
    connector = open_s3(part_size=PART, concurrency=2)
    value = memoryview(bytearray(12 * PART))
    connector.evict(connector.put(value[: 2 * PART]))  # what is made only once
    tracemalloc.start()
    try:
        key = connector.put(value)
        put = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert connector.get(key) == value
        got = tracemalloc.get_traced_memory()[1] - value.nbytes
    finally:
        tracemalloc.stop()
    # each part as it is sent, and as the driver holds it
    assert put < 6 * PART
    assert got < 6 * PART


@SLOW
@pytest.mark.parametrize("failing", ["upload_part", "complete_multipart_upload"])
@pytest.mark.parametrize("kind", [OSError, TimeoutError])
def test_a_failed_upload_leaves_nothing(
    open_s3, s3, bucket, monkeypatch, failing, kind
):
    connector = open_s3(part_size=PART)
    before = s3.keys(bucket)
    original = S3Bucket._call

    async def call(self, method, path, **arguments):
        if method == failing and arguments.get("PartNumber", 3) == 3:
            raise kind("broken in the middle")
        return await original(self, method, path, **arguments)

    monkeypatch.setattr(S3Bucket, "_call", call)
    with pytest.raises(ConnectorError, match="could not be written"):
        connector.put(bytes(4 * PART))
    assert s3.uploads(bucket) == []
    assert s3.keys(bucket) == before
    monkeypatch.undo()
    assert connector.get(connector.put(b"goes on")) == b"goes on"


@SLOW
@pytest.mark.parametrize("nbytes", [10, PART, 3 * PART])
@pytest.mark.parametrize("changed", [-1, 1, None])
def test_an_object_of_another_size_is_refused(open_s3, s3, bucket, nbytes, changed):
    connector = open_s3(part_size=PART)
    key = connector.put(bytes(nbytes))
    name = f"prefix/{connector.config()['session']}/{key.name}"
    body = b"" if changed is None else bytes(nbytes + changed)
    s3.client().put_object(Bucket=bucket, Key=name, Body=body)
    with pytest.raises(WireError, match=f"the {nbytes} bytes that its key says"):
        connector.get(key)


@SLOW
def test_a_large_link_is_copied_in_parts(open_s3, monkeypatch, calls):
    monkeypatch.setattr("daskref.connectors.fsspec._s3._COPIED_AT_ONCE", PART)
    connector = open_s3(part_size=PART)
    value = _pattern(2 * PART + 5)
    key = connector.put(value)
    del calls[:]
    linked = connector.link(key)
    assert calls.count("upload_part_copy") == 3
    assert "get_object" not in calls
    assert connector.usage() == (1, len(value))
    connector.evict(key)
    assert connector.get(linked) == value
    assert connector.link(key) is None


# Batches.


@SLOW
def test_batches_of_s3(open_s3, calls):
    connector = open_s3()
    values = [bytes([n]) * n for n in range(1, 41)]
    keys = connector.put_batch(values)
    del calls[:]
    assert [bytes(view) for view in connector.get_batch(keys)] == values
    assert calls == ["get_object"] * 40
    del calls[:]
    connector.evict_batch(keys)
    assert calls == ["delete_objects"]
    assert connector.usage() == (0, 0)


@SLOW
def test_of_a_batch_that_fails_nothing_remains(open_s3, monkeypatch):
    connector = open_s3()
    original = S3Bucket._put_whole
    stored = []

    async def put_whole(self, path, data, exclusive):
        if data == b"\x03":
            await asyncio.wait_for(some_stored.wait(), 30)
            raise OSError("broken in the middle")
        await original(self, path, data, exclusive)
        stored.append(path)
        some_stored.set()

    some_stored = asyncio.Event()
    monkeypatch.setattr(S3Bucket, "_put_whole", put_whole)
    with pytest.raises(ConnectorError, match="a batch of 20 objects"):
        connector.put_batch([bytes([n]) for n in range(20)])
    assert stored
    assert connector.usage() == (0, 0)


# Stores of other drivers: as they are called, shown with the driver that is here.


@pytest.fixture
def open_other(open_s3, monkeypatch):
    monkeypatch.setattr("daskref.connectors.fsspec._opening.S3Bucket", Bucket)
    return open_s3


@SLOW
@pytest.mark.parametrize(
    "rule",
    ["missing", "configuration", "batches", "links", "leases", "usage", "frames"],
)
def test_any_asynchronous_driver_keeps_the_contract(open_other, rule):
    check_connector(open_other, relax=RULES.keys() - {rule})


@SLOW
def test_any_asynchronous_driver_streams_large_objects(open_other, s3, bucket):
    connector = open_other(part_size=PART)
    assert type(connector._blobs) is Bucket
    value = _pattern(3 * PART + 7)
    key = connector.put(value)
    name = f"prefix/{connector.config()['session']}/{key.name}"
    etag = s3.client().head_object(Bucket=bucket, Key=name)["ETag"].strip('"')
    assert etag.endswith("-4")
    assert connector.get(key) == value
    assert connector.take(key) == value
    assert connector.get(key) is None


@SLOW
def test_a_stream_that_fails_is_not_published(open_other, s3, bucket, monkeypatch):
    import s3fs

    connector = open_other(part_size=PART)
    before = s3.keys(bucket)
    original = s3fs.S3FileSystem.call_s3

    def call(self, method, *args, **kwargs):
        if kwargs.get("PartNumber") == 2:
            raise OSError("broken in the middle")
        return original(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", call)
    with pytest.raises(ConnectorError, match="broken in the middle"):
        connector.put(bytes(4 * PART))
    gc.collect()
    assert s3.uploads(bucket) == []
    assert s3.keys(bucket) == before


# Credentials.


@SLOW
def test_credentials_are_in_no_reference(s3, bucket):
    options = {
        "key": "AKIASECRETKEY",
        "secret": SECRET,
        "client_kwargs": {"region_name": "us-east-1", "aws_session_token": "tok-5up3r"},
        "endpoint_url": s3.endpoint,
    }
    with FsspecConnector(f"s3://{bucket}/prefix", **options) as connector:
        key = connector.put(b"bytes")
        store = Store("with-secrets", connector)
        reference = Reference(key, store.config(), describe(b"bytes", 5))
        shown = [pickle.dumps(connector), pickle.dumps(reference)]
        for each in (connector, connector.config(), key, reference, store):
            shown.append(repr(each).encode())
        shown.append(repr(vars(connector)).encode())
        for text in shown:
            for secret in (b"AKIASECRETKEY", SECRET.encode(), b"tok-5up3r"):
                assert secret not in text
        hash(store.config)
        (place,) = connector.secrets()
        told = json.loads(connector.secrets()[place]["options"])
        assert told["secret"] == SECRET
        assert told["client_kwargs"] == {"aws_session_token": "tok-5up3r"}
        assert "region_name" in connector.config()["options"]
        # as in a process that was told over Dask's connections
        with pickle.loads(pickle.dumps(connector)) as other:
            assert other.secrets() == connector.secrets()
            assert other._blobs._fs.secret == SECRET
            assert other.get(key) == b"bytes"


@SLOW
def test_a_process_is_told_or_asks_its_environment(s3, bucket, child):
    options = {"key": "AKIATOLD", "secret": SECRET, "endpoint_url": s3.endpoint}
    with FsspecConnector(f"s3://{bucket}/prefix", **options) as connector:
        key = connector.put(b"bytes")
        code = (
            "from daskref.connectors import FsspecConnector\n"
            "from daskref.connectors.credentials import remember\n"
            "for place, each in secrets.items(): remember(place, each)\n"
            "with FsspecConnector.from_config(config) as c:\n"
            "    say(bytes(c.get(key)), c._blobs._fs.key)"
        )
        config = connector.config()
        names = {"config": config, "key": tuple(key)}
        told = child(code, secrets=connector.secrets(), **names)
        assert told.line() == "b'bytes' 'AKIATOLD'"
        untold = child(code, secrets={}, **names)
        assert untold.line() == "b'bytes' None"


@pytest.fixture(scope="module")
def guarded():
    """A server that looks at credentials, and those of a user who may only read."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
        ],
    }
    # it lets as many requests pass as the fixture makes
    number = {"INITIAL_NO_AUTH_ACTION_COUNT": "4"}
    with pytest.MonkeyPatch.context() as patch, s3_server.server(**number) as server:
        for name, value in s3_server.ENVIRONMENT.items():
            patch.setenv(name, value)
        bucket = server.bucket()
        iam = server.client("iam")
        iam.create_user(UserName="reader")
        iam.put_user_policy(
            UserName="reader", PolicyName="p", PolicyDocument=json.dumps(policy)
        )
        made = iam.create_access_key(UserName="reader")["AccessKey"]
        yield (
            server,
            bucket,
            {"key": made["AccessKeyId"], "secret": made["SecretAccessKey"]},
        )


@SLOW
@pytest.mark.parametrize("who", ["stranger", "liar", "reader"])
def test_wrong_credentials_and_read_only_buckets(guarded, who):
    server, bucket, keys = guarded
    given = {
        "stranger": {"key": "AKIASTRANGER", "secret": SECRET},
        "liar": {**keys, "secret": SECRET},
        "reader": keys,
    }[who]
    with pytest.raises(ConnectorUnavailableError, match="refused it") as caught:
        FsspecConnector(f"s3://{bucket}/p", endpoint_url=server.endpoint, **given)
    for secret in given.values():
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value)


# What fails.


@SLOW
def test_a_bucket_that_does_not_exist(open_s3):
    with pytest.raises(ConnectorUnavailableError, match="bucket does not exist"):
        open_s3("s3://no-such-bucket-here/prefix")


@SLOW
def test_a_bucket_that_vanishes(open_s3, s3, bucket):
    connector = open_s3()
    key = connector.put(b"bytes")
    client = s3.client()
    for name in s3.keys(bucket):
        client.delete_object(Bucket=bucket, Key=name)
    client.delete_bucket(Bucket=bucket)
    with pytest.raises(ConnectorUnavailableError, match="bucket does not exist"):
        connector.put(b"more")
    with pytest.raises(ConnectorUnavailableError, match="bucket does not exist"):
        connector.get(key)


FAST = {"connect_timeout": 0.3, "timeout": 0.6, "retries": 1}


@SLOW
@pytest.mark.parametrize("mute", [True, False])
def test_a_server_that_is_down_or_mute(s3, mute):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if mute:
            listening.listen(8)  # and nobody accepts
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ConnectorUnavailableError, match=r"no answer|be reached"):
            FsspecConnector("s3://bucket/prefix", endpoint_url=endpoint, **FAST)
        # a bound, not a measurement
        assert time.monotonic() - begin < 30


@SLOW
def test_every_operation_on_a_server_that_died(monkeypatch):
    for name, value in s3_server.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with s3_server.server() as server:
        limits = {**FAST, "timeout": 5.0}  # it may be slow, but dies at once
        connector = FsspecConnector(**server.arguments, **limits)
        key = connector.put(b"bytes")
    for operation in (
        lambda: connector.put(b"bytes"),
        lambda: connector.put(bytes(3 * PART)),
        lambda: connector.get(key),
        lambda: connector.exists(key),
        lambda: connector.evict(key),
        lambda: connector.link(key),
        lambda: connector.renew(key, 1.0),
        lambda: connector.sweep(),
        lambda: connector.usage(),
        lambda: connector.take(key),
        lambda: connector.set(connector.new_key(), b"x"),
        lambda: connector.put_batch([b"1", b"2"]),
        lambda: connector.get_batch([key]),
    ):
        with pytest.raises(ConnectorUnavailableError, match=r"no answer|be reached"):
            operation()
    connector.close()
    with pytest.raises(ConnectorClosedError):
        connector.get(key)


def fill():
    """Fill a small file system; see the test of this name."""
    with FsspecConnector("fsspec+file:///dev/shm/place") as connector:
        key = connector.put(b"bytes")
        try:
            connector.put(bytes(2 << 20))
        except ConnectorError as exc:
            return str(exc), connector.usage(), bytes(connector.get(key)).decode()


@SLOW
def test_a_full_disk():
    require_namespaces()
    text, usage, found = run_case(__name__, "fill", size="1m")
    assert "could not be written: the store is full" in text
    assert usage == [1, 5]
    assert found == "bytes"


def test_a_directory_that_may_not_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConnectorUnavailableError, match="could not be opened"):
        FsspecConnector(f"fsspec+file://{tmp_path}/file/place")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("s4://bucket/prefix", "did you mean s3://"),
        ("gcss://bucket", "did you mean gcs://"),
        ("memry://", "did you mean memory://"),
        ("fsspec+sfttp://host/dir", "did you mean sftp"),
        ("fsspec://host/dir", "fsspec+sftp://host/directory"),
        ("s3:///prefix", "s3://bucket/prefix"),
        ("s3://bucket?part_size=1 MiB", "5 MiB or more"),
        ("s3://bucket?part-size=much", "a size such as"),
        ("memory://?timeout=soon", "a positive duration such as"),
        ("memory://?retries=-1", "a whole number, 0 or more"),
        ("memory://?concurrency=0", "a whole number, 1 or more"),
        ("s3://bucket?endpoint_ulr=x", "did you mean endpoint_url"),
        ("s3://bucket?anon=perhaps", "true or false"),
    ],
)
def test_malformed_specs(spec, expected):
    with pytest.raises(ConfigError) as caught:
        open_connector(spec)
    assert expected in str(caught.value)


@SLOW
@pytest.mark.parametrize(
    ("module", "spec", "command"),
    [
        ("s3fs", "s3://bucket/prefix", "pip install 'daskref[s3]'"),
        ("gcsfs", "gs://bucket/prefix", "pip install gcsfs"),
        ("adlfs", "az://bucket/prefix", "pip install adlfs"),
    ],
)
def test_a_driver_that_is_not_installed(child, module, spec, command):
    process = child(
        "sys.modules[module] = None\n"
        "from daskref.connectors import open_connector, FsspecConnector\n"
        "try:\n    open_connector(spec)\n"
        "except Exception as exc: say(type(exc).__name__, str(exc))\n"
        "config = {'url': spec, 'session': 'daskref-' + 16 * '0', 'nonce': ''}\n"
        "try:\n    FsspecConnector.from_config(config)\n"
        "except Exception as exc: say(type(exc).__name__, str(exc))",
        module=module,
        spec=spec,
    )
    first, second = process.line(), process.line()
    assert first.startswith("'ConfigError'")
    assert second.startswith("'ConnectorUnavailableError'")
    assert command in first.replace("\\'", "'")
    assert command in second.replace("\\'", "'")


# One taker, one writer.


def test_exactly_one_takes(place):
    with FsspecConnector(**place) as connector:
        keys = [connector.put(bytes([n]) * 1000) for n in range(3)]
        barrier = threading.Barrier(6)

        def take(number):
            barrier.wait(30)
            return [connector.take(key) for key in keys]

        with ThreadPoolExecutor(6) as pool:
            taken = list(pool.map(take, range(6)))
        for number, views in enumerate(zip(*taken, strict=True)):
            (found,) = [view for view in views if view is not None]
            assert found == bytes([number]) * 1000
        assert not any(map(connector.exists, keys))
        assert connector.take(keys[0]) is None
        assert connector.usage() == (0, 0)


@SLOW
def test_another_process_takes_no_second_time(s3, child):
    with FsspecConnector(**s3.arguments) as connector:
        key = connector.put(b"bytes")
        code = (
            "from daskref.connectors import FsspecConnector\n"
            "with FsspecConnector.from_config(config) as c:\n    say(c.take(key))"
        )
        assert connector.take(key) == b"bytes"
        process = child(code, config=connector.config(), key=tuple(key))
        assert process.line() == "None"
        process.wait()


@SLOW
def test_a_store_that_cannot_tell_takers_apart_still_takes(open_s3, monkeypatch):
    original = S3Bucket._put_whole

    async def put_whole(self, path, data, exclusive):
        await original(self, path, data, False)  # a store that ignores the condition

    monkeypatch.setattr(S3Bucket, "_put_whole", put_whole)
    connector = open_s3()
    key = connector.put(b"bytes")
    with FsspecConnector.from_config(connector.config()) as other:
        assert not other._session.exclusive
        assert other.take(key) == b"bytes"
    assert connector.take(key) is None
    key = connector.new_key()
    connector.set(key, b"first")
    with pytest.raises(ConnectorError, match="set before"):
        connector.set(key, b"second")
    assert connector.get(key) == b"first"


@pytest.mark.parametrize("nbytes", [0, 10, pytest.param(2 * PART + 1, marks=SLOW)])
def test_an_object_may_come_after_its_key(place, nbytes):
    with FsspecConnector(part_size=PART, **place) as connector:
        key = connector.new_key(b"not looked at")
        assert isinstance(key, FsspecKey)
        assert connector.get(key) is None
        assert not connector.exists(key)
        assert connector.link(key) is None
        value = _pattern(nbytes)
        with FsspecConnector.from_config(connector.config()) as other:
            other.set_frames(key, [value[:3], value[3:]])
        assert connector.get(key) == value
        with pytest.raises(ConnectorError, match="set before"):
            connector.set(key, b"other")
        with pytest.raises(WireError, match="not from new_key"):
            connector.set(connector.put(b"x"), b"y")
        assert connector.get(key) == value
        linked = connector.link(key)
        connector.evict(key)
        assert connector.get(key) is None
        assert connector.get(linked) == value


# The process.


def test_memory_is_of_one_process(child):
    with FsspecConnector("memory://of-one-process") as connector:
        key = connector.put(b"bytes")
        process = child(
            "from daskref.connectors import FsspecConnector\n"
            "try:\n    FsspecConnector.from_config(config)\n"
            "except Exception as exc:\n    say(type(exc).__name__, str(exc))",
            config=connector.config(),
        )
        text = process.line()
        assert text.startswith("'ConnectorUnavailableError'")
        assert "memory of another process" in text
        assert _in_fork(lambda: connector.get(key)) == "ConnectorUnavailableError"
        assert connector.get(key) == b"bytes"


@pytest.mark.parametrize("kind", [pytest.param("s3", marks=SLOW), "file"])
def test_a_forked_child_takes_part_by_itself(kind, request, tmp_path):
    place = {"url": f"fsspec+file://{tmp_path}/place"}
    if kind == "s3":
        place = request.getfixturevalue("s3").arguments
    with FsspecConnector(**place) as connector:
        key = connector.put(b"bytes")

        def child():
            assert connector.get(key) == b"bytes"
            theirs = connector.put(b"of the child")
            assert theirs.name[:8] != key.name[:8]
            connector.close()
            return json.dumps(theirs)

        theirs = tuple(json.loads(_in_fork(child)))
        assert connector.get(theirs) == b"of the child"
        assert connector.get(key) == b"bytes"


def _in_fork(work):
    """Return what *work* returns in a forked child, or the name of its error."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and newer: other threads run
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        try:
            text = work()
        except BaseException as exc:
            text = type(exc).__name__
        with suppress(BaseException):
            os.write(writing, str(text).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text


@SLOW
def test_a_connector_that_nobody_closed_leaves(s3, bucket):
    place = {"url": f"s3://{bucket}/prefix", "endpoint_url": s3.endpoint}
    connector = FsspecConnector(**place)
    connector.put(b"bytes")
    assert s3.keys(bucket)

    async def collect():
        # as on the loop that leaving itself waits for
        nonlocal connector
        connector = None
        gc.collect()

    from fsspec.asyn import get_loop

    asyncio.run_coroutine_threadsafe(collect(), get_loop()).result(30)
    wait_until(lambda: not s3.keys(bucket), "the session's end")
