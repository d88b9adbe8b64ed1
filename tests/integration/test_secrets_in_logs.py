"""Credentials show in no log of Dask's, whether a session starts or not."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dask
import distributed
import pytest

import daskref
from daskref.cluster.opening import SessionInfo
from daskref.cluster.sealing import give_pad, seal, unseal
from daskref.config import Settings
from daskref.connectors import FileConnector, LocalConnector
from daskref.exceptions import DaskrefError
from daskref.store import Store
from tests.support.common import (
    large,
    processes,
    session_of,
    start_scheduler,
    start_worker,
)
from tests.support.redis_servers import SECRET, RedisServer

#: All that daskref and Dask log.
LOUD = {"DASK_LOGGING__DASKREF": "debug", "DASK_LOGGING__DISTRIBUTED": "debug"}
USER = "mallory-is-secret"
KEY = bytes(range(65, 97))


class Failing(LocalConnector):
    """A user's connector that fails as it should not, and tells what it was given."""

    def __init__(self, token: str) -> None:
        raise KeyError(f"nobody knows {token}")


BAD = {
    "redis": f"redis://{USER}:{SECRET}@127.0.0.1:1/0",
    "redis-option": f"redis://127.0.0.1:1/0?password={SECRET}",
    "redis-mapping": {
        "class": "daskref.connectors:RedisConnector",
        "url": "redis://127.0.0.1:1/0",
        "username": USER,
        "password": SECRET,
    },
    "s3": (
        "s3://bucket/prefix?endpoint_url=http%3A%2F%2F127.0.0.1%3A1"
        f"&key={USER}&secret={SECRET}"
    ),
    "unknown": f"rediss+nothing://{USER}:{SECRET}@127.0.0.1:1/0",
    "option": f"redis://{USER}:{SECRET}@127.0.0.1:1/0?nonsense={SECRET}",
    "user": {"class": f"{__name__}:Failing", "token": SECRET},
}


@contextmanager
def overheard() -> Iterator[io.StringIO]:
    """Yield all that this process logs, whatever the handlers of others do."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    loggers = [logging.getLogger(name) for name in ("distributed", "daskref")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.DEBUG)
    try:
        yield heard
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)


def check(texts: dict[str, str], *more: str) -> None:
    for what, text in texts.items():
        for secret in (SECRET, USER, *more):
            for form in (secret, quote(secret), secret.encode().hex()):
                if (found := text.find(form)) >= 0:
                    pytest.fail(f"in {what}: {text[max(0, found - 500) : found + 50]}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with processes(1, env=LOUD, args=("--nanny",)) as (scheduler, workers):
        yield scheduler, workers


@pytest.mark.parametrize("kind", BAD)
def test_a_session_that_does_not_start_tells_no_credentials(cluster, kind):
    scheduler, workers = cluster
    raises = dask.config.set({"daskref.on-failure": "raise"})
    with overheard() as heard, raises, pytest.raises(Exception) as caught:
        daskref.Client(scheduler.address, connector=BAD[kind], timeout=20)
    texts = {
        "the log of the client": heard.getvalue(),
        "the log of the scheduler": "".join(scheduler.lines),
        "the log of a worker": "".join(workers[0].lines),
    }
    if kind != "user":  # its text is the user's own
        assert isinstance(caught.value, DaskrefError)
        texts["the error"] = "".join(traceback.format_exception(caught.value))
        texts["the pickled error"] = repr(pickle.dumps(caught.value))
    check(texts)


def seen(obj: Any, name: str, depth: int = 6) -> dict[str, str]:
    """Return what `print` and `vars` show of an object, and of ours in it."""
    texts = {name: repr(obj), f"vars({name})": repr(getattr(obj, "__dict__", ""))}
    if depth:
        for attribute, value in getattr(obj, "__dict__", {}).items():
            # its settings and secrets are there to be read; who prints it shows none
            if type(value).__module__.startswith("daskref") and not isinstance(
                value, SessionInfo | Settings
            ):
                texts |= seen(value, f"{name}.{attribute}", depth - 1)
    return texts


@pytest.mark.parametrize("how", ["url", "mapping", "enable"])
def test_a_client_that_is_printed_shows_no_credentials(how):
    server = RedisServer(requirepass=SECRET, user=f"{USER} on >{SECRET} ~* +@all")
    url = f"redis://{USER}:{SECRET}@127.0.0.1:{server.port}/0"
    connector: Any = url
    if how == "mapping":
        place = "daskref.connectors:RedisConnector"
        url = f"redis://127.0.0.1:{server.port}/0"
        connector = {"class": place, "url": url, "password": SECRET}
    try:
        with distributed.Client(processes=False, dashboard_address=":0") as plain:
            if how == "enable":
                client = daskref.enable(plain, connector=connector)
            else:
                client = daskref.Client(plain.cluster, connector=connector)
            assert client.submit(len, bytes(2_000_000)).result() == 2_000_000
            assert "daskref_options" in repr(vars(client))
            check(seen(client, "client"))
            plugin = plain.cluster.scheduler.plugins["daskref"]
            check(seen(plugin.session, "session"))
            check(seen(plugin, "plugin"))
            store = plugin.session.store
            check(seen(store, "store") | seen(store.connector, "connector"))
            client.close()
    finally:
        server.close()


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "user"])
def test_a_client_that_goes_on_without_a_store_tells_no_credentials(cluster, kind):
    scheduler, workers = cluster
    with (
        overheard() as heard,
        suppress(DaskrefError),  # not the store's fault, but the settings'
        daskref.Client(scheduler.address, connector=BAD[kind], timeout=20) as client,
    ):
        assert client.submit(len, bytes(2_000_000)).result(timeout=20) == 2_000_000
    check(
        {
            "the log of the client": heard.getvalue(),
            "the log of the scheduler": "".join(scheduler.lines),
            "the log of a worker": "".join(workers[0].lines),
        }
    )


@pytest.fixture(params=["redis", "s3", "file", "zmq"])
def spec(request: Any, tmp_path: Path) -> Iterator[Any]:
    """A store that works; with credentials, if it has some."""
    if request.param == "redis":
        server = RedisServer(requirepass=SECRET)
        yield server.url.replace("://", f"://:{SECRET}@")
        server.close()
    elif request.param == "s3":
        s3 = request.getfixturevalue("s3")
        yield {
            "class": "daskref.connectors.fsspec:FsspecConnector",
            "url": f"s3://{s3.bucket()}/prefix",
            "endpoint-url": s3.endpoint,
            "key": USER,
            "secret": SECRET,
        }
    else:
        yield f"{request.param}://" + (str(tmp_path) * (request.param == "file"))


def total(array: Any) -> float:
    return float(array.sum())


def fail(array: Any) -> None:
    raise ValueError(f"{array.nbytes} bytes")


@pytest.mark.slow
def test_a_session_that_starts_tells_no_credentials(spec, tmp_path):
    with ExitStack() as stack:
        heard = stack.enter_context(overheard())
        cluster = processes(1, env=LOUD, args=("--nanny",))
        scheduler, (worker,) = stack.enter_context(cluster)
        client = stack.enter_context(daskref.Client(scheduler.address, connector=spec))
        late = start_worker(scheduler.address, env=LOUD)
        stack.callback(late.stop)
        client.wait_for_workers(2, 30)
        future = client.scatter(large())
        assert client.submit(total, future).result(30)
        with pytest.raises(ValueError, match="bytes"):
            client.submit(fail, future).result(30)
        with pytest.raises(ValueError, match="bytes"):
            client.run(fail, large())
        own = stack.enter_context(
            Store("own", FileConnector(tmp_path / "own"), signing_key=KEY)
        )
        proxy = own.proxy(large(), populate_target=False)
        assert client.submit(total, proxy).result(30)
        made = client.submit(large, 2.0)
        assert made.result(30).sum()
        client.restart(wait_for_workers=False)
        secrets = session_of(client).info.secrets
        values = [each for place in secrets.values() for each in place.values()]
        second = daskref.Client(scheduler.address, connector=f"shm://?token={SECRET}")
        second.close()
    texts = {
        "the log of the client": heard.getvalue(),
        "the log of the scheduler": "".join(scheduler.lines),
        "the log of a nanny and its worker": "".join(worker.lines),
        "the log of a late worker": "".join(late.lines),
    }
    assert all(texts.values())
    assert values
    check(texts, KEY.hex(), repr(KEY), *(each for each in values if len(each) > 8))


def test_a_scheduler_that_does_not_start_tells_no_credentials():
    env = {**LOUD, "DASK_DASKREF__CONNECTOR": BAD["redis"]}
    scheduler = start_scheduler("--preload", "daskref", env=env)
    scheduler.stop()
    check({"the log of the scheduler": "".join(scheduler.lines)})


def test_what_is_sealed_is_opened_once_and_shows_nothing():
    sealed = seal({"connector": SECRET}, *give_pad())
    again = pickle.loads(pickle.dumps(sealed))
    for text in (repr(sealed), repr(pickle.dumps(sealed))):
        assert SECRET not in text
    assert unseal(again) == {"connector": SECRET}
    assert unseal({"plain": 1}) == {"plain": 1}
    with pytest.raises(LookupError):
        unseal(sealed)
