"""Who takes part in a session without locks, and who removes what."""

from __future__ import annotations

import json
import threading
import time

import pytest

from daskref.connectors import FsspecConnector
from daskref.connectors.fsspec._session import NAME, SESSION, new_name, timestamp
from daskref.connectors.processes import this_process
from daskref.exceptions import ConnectorUnavailableError
from tests.support.common import wait_until

SLOW = pytest.mark.slow

#: Joins, puts one object, says its key, and stays.
PUTTER = (
    "from daskref.connectors import FsspecConnector\n"
    "c = FsspecConnector.from_config(config)\n"
    "say(*c.put(b'of the child'))\n"
    "sys.stdin.read()\n"
    "c.close()"
)


class Place:
    """Where sessions are, seen past what is tested."""

    def __init__(self, url, names, write):
        self.url, self.names, self.write = url, names, write

    def open(self, **options):
        return FsspecConnector(**self.url, **options)


@pytest.fixture(params=[pytest.param("s3", marks=SLOW), "file"])
def place(request, tmp_path):
    if request.param == "file":
        return _files(tmp_path)
    else:
        s3 = request.getfixturevalue("s3")
        url = s3.arguments
        bucket = url["url"].split("/")[2]
        client = s3.client()

        def write(name, text):
            client.put_object(Bucket=bucket, Key=f"prefix/{name}", Body=text.encode())

        def names():
            return {key.removeprefix("prefix/") for key in s3.keys(bucket)}

        return Place(url, names, write)


@pytest.fixture
def files(tmp_path):
    return _files(tmp_path)


def _files(tmp_path):
    root = tmp_path / "prefix"

    def write(name, text):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    def names():
        return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}

    return Place({"url": f"fsspec+file://{root}"}, names, write)


def session_of(connector):
    return connector.config()["session"]


def test_names_tell_writer_and_time_and_fit_their_pattern():
    name = new_name("0123abcd")
    assert NAME.fullmatch(name)
    assert name.startswith("0123abcd-")
    assert abs(int(name.split("-")[1], 16) - time.time()) < 60
    copy = new_name("0123abcd", id=name.split("-")[2])
    assert copy != name
    assert copy.split("-")[2] == name.split("-")[2]
    assert len(timestamp(1.5)) == len(timestamp(time.time())) == len(timestamp(1e12))


def test_the_last_to_close_removes_the_session_and_nothing_else(place):
    place.write("mine", "the user's")
    place.write("daskref-like/mine", "the user's")
    first = place.open()
    assert SESSION.fullmatch(session_of(first))
    place.write(f"{session_of(first)}/mine", "the user's")
    second = FsspecConnector.from_config(first.config())
    key = first.put(b"bytes")
    first.renew(key, 100.0)
    first.close()
    assert second.get(key) == b"bytes"
    assert f"{session_of(first)}/l-{key.name}" in place.names()
    second.close()
    assert place.names() == {"mine", "daskref-like/mine", f"{session_of(first)}/mine"}
    with pytest.raises(ConnectorUnavailableError, match="has ended"):
        FsspecConnector.from_config(first.config())


def test_two_sessions_at_one_place_are_apart(place):
    with place.open() as one, place.open() as two:
        key = one.put(b"bytes")
        assert two.get(key) is None
        assert two.usage() == (0, 0)
        two.evict(key)
        assert one.get(key) == b"bytes"
    assert place.names() == set()


@SLOW
def test_a_killed_participant_on_this_host_is_gone_at_once(place, child):
    with place.open() as connector:
        process = child(PUTTER, config=connector.config())
        name, nbytes = process.line().split()
        key = (name.strip("'"), int(nbytes))
        ours = connector.put(b"ours")
        assert connector.sweep([], 0.0) == []
        process.kill()
        assert connector.sweep([], 1000.0) == []
        assert connector.sweep([key], 0.0) == []
        assert connector.sweep(None, 0.0) == []
        assert connector.sweep([], 0.0) == [key]
        assert connector.get(key) is None
        assert connector.get(ours) == b"ours"
    # the dead one's presence does not keep the session
    assert place.names() == set()


@SLOW
def test_the_next_session_removes_those_of_the_dead(place, child):
    process = child(
        "from daskref.connectors import FsspecConnector\n"
        "c = FsspecConnector(**url)\n"
        "c.put(b'of the child')\n"
        "say(c.config()['session'])\n"
        "sys.stdin.read()",
        url=place.url,
    )
    name = process.line().strip("'")
    with place.open():
        assert any(key.startswith(name) for key in place.names())
    process.kill()
    with place.open() as connector:
        assert {key.split("/")[0] for key in place.names()} == {session_of(connector)}
    assert place.names() == set()


@pytest.mark.parametrize(
    ("until", "lease", "stays"),
    [(-50, 100, True), (-150, 100, False), (50, 1, True), (-5, 1, False)],
)
def test_participants_of_other_hosts_live_by_their_lease(files, until, lease, stays):
    name = "daskref-" + 16 * "0"
    elsewhere = {**this_process(), "host": "elsewhere"}
    presence = {"until": timestamp(time.time() + until), "lease": lease}
    files.write(f"{name}/identity", json.dumps({"nonce": "0"}))
    files.write(f"{name}/{new_name('0' * 8)}", "object")
    files.write(f"{name}/p-00000000", json.dumps({**presence, "process": elsewhere}))
    with files.open():
        assert any(key.startswith(name) for key in files.names()) == stays


@pytest.mark.parametrize("text", ["", "{}", "[]", "\0", '{"until": "x"}'])
def test_a_presence_that_nobody_can_read_counts_as_alive(files, text):
    name = "daskref-" + 16 * "0"
    files.write(f"{name}/p-00000000", text)
    with files.open():
        assert f"{name}/p-00000000" in files.names()


def test_a_session_without_anyone_is_removed(place):
    name = "daskref-" + 16 * "0"
    place.write(f"{name}/identity", json.dumps({"nonce": "0"}))
    place.write(f"{name}/{new_name('0' * 8)}", "object")
    with place.open():
        assert not any(key.startswith(name) for key in place.names())


def test_presence_is_written_again_in_time(place):
    with place.open(lease=0.2) as connector:
        session = connector._session
        name = f"p-{session.writer}"

        def until():
            return float(session._read(name)["until"])

        first = until()
        wait_until(lambda: until() > first + 0.2, "two renewals")
        with place.open(lease=0.2):
            assert connector.get(connector.put(b"bytes")) == b"bytes"
    assert not [t for t in threading.enumerate() if t.name == "daskref-presence"]


def test_who_was_taken_for_dead_is_told(place):
    connector = place.open(lease=0.1)
    session = connector._session
    # 1. We are paused for long. 2. Another removes the session.
    session._blobs.delete([session.at("identity")])
    wait_until(lambda: session._ended, "the renewal finds out")
    with pytest.raises(ConnectorUnavailableError, match="has ended"):
        connector.put(b"bytes")
    connector.close()


def test_who_joins_while_the_last_one_leaves(place, monkeypatch):
    first = place.open()
    config = first.config()
    key = first.put(b"bytes")
    joined = []
    blobs = first._blobs
    delete = type(blobs).delete

    def join_before(self, paths):
        # 1. The last one saw nobody. 2. Another enters and reads the identity.
        if self is blobs and not joined and paths == [first._session.at("identity")]:
            joined.append(FsspecConnector.from_config(config))
        delete(self, paths)

    monkeypatch.setattr(type(blobs), "delete", join_before)
    first.close()
    (second,) = joined
    assert second.get(key) == b"bytes"
    # and yet another can join, since the identity was put back
    with FsspecConnector.from_config(config) as third:
        assert third.get(key) == b"bytes"
    second.close()
    assert place.names() == set()


def test_who_joins_too_late_is_refused(place, monkeypatch):
    first = place.open()
    config = first.config()
    blobs = first._blobs
    late = []
    sizes = type(blobs).sizes

    def join_after(self, directory):
        found = sizes(self, directory)
        # 1. The identity is gone, nobody is there. 2. Another enters.
        if self is blobs and not late and f"{directory}/identity" not in found:
            late.append(None)
            with pytest.raises(ConnectorUnavailableError, match="has ended"):
                FsspecConnector.from_config(config)
        return found

    first._session._blobs.delete([first._session.at("identity")])
    monkeypatch.setattr(type(blobs), "sizes", join_after)
    first.close()
    assert late
    assert place.names() == set()


def test_parts_of_the_dead_are_removed(place):
    with place.open() as connector:
        dead = f"{session_of(connector)}/.w-00000000-{new_name('0' * 8)}"
        ours = f"{session_of(connector)}/.w-00000000-"
        ours += new_name(connector._session.writer)
        place.write(dead, "half")
        place.write(ours, "half")
        connector.sweep(None, 0.0)
        assert dead not in place.names()
        assert ours in place.names()
    assert place.names() == set()


def test_leases_and_claims_beside_nothing_are_removed(place):
    with place.open() as connector:
        name = new_name(connector._session.writer)
        place.write(f"{session_of(connector)}/l-{name}", timestamp(time.time() + 100))
        place.write(f"{session_of(connector)}/c-{name}", "claim")
        connector.sweep(None, 1000.0)
        assert f"{session_of(connector)}/l-{name}" in place.names()
        assert connector.sweep(None, 0.0) == []
        left = {key.split("/")[1][:2] for key in place.names()}
        assert left == {"id", "p-"}


@SLOW
def test_uploads_of_the_dead_are_given_up(s3):
    place = s3.arguments
    bucket = place["url"].split("/")[2]
    name = "daskref-" + 16 * "0"
    client = s3.client()
    client.put_object(Bucket=bucket, Key=f"prefix/{name}/identity", Body=b"{}")
    for key in (f"prefix/{name}/{new_name('0' * 8)}", "prefix/mine"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    with FsspecConnector(**place):
        assert s3.uploads(bucket) == ["prefix/mine"]


@pytest.mark.parametrize(
    "change",
    [{"nonce": "0" * 32}, {"session": "daskref-" + "0" * 16}, {"session": "../else"}],
)
def test_another_session_is_not_joined(place, change):
    with place.open() as connector:
        config = {**connector.config(), **change}
        before = place.names()
        with pytest.raises(ConnectorUnavailableError, match="session"):
            FsspecConnector.from_config(config)
        assert place.names() == before
