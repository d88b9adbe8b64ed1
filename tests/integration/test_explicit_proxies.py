"""Explicit proxies through Dask: the program of the guide, and what must not fetch."""

from __future__ import annotations

import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from dask.base import is_dask_collection
from dask.sizeof import sizeof
from dask.tokenize import tokenize
from distributed import Client
from distributed.protocol import deserialize, serialize

import daskref
from daskref import Store, get_key, get_store
from daskref.cluster import _leases as leases
from daskref.cluster import family
from daskref.connectors import FileConnector
from daskref.proxy import Proxy, extract, is_proxy, is_resolved
from tests.support.common import Process, processes, wait_until
from tests.support.proxy_cases import fail

GUIDE = Path(__file__).parents[2] / "docs" / "stores.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
(PROGRAM,) = [block for block in BLOCKS if block.startswith("# guide")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store("explicit", FileConnector(tmp_path / "store"), register=True) as store:
        yield store


def copied(proxy: Any) -> Any:
    """Return the proxy as another process gets it."""
    return pickle.loads(pickle.dumps(proxy))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b != PROGRAM])
def test_the_examples_of_the_page(block: str) -> None:
    exec(compile(block, str(GUIDE), "exec"), {"__name__": "example"})


# The program of the guide


@pytest.fixture(scope="module")
def cluster_with_log() -> Iterator[tuple[str, dict[str, Process]]]:
    env = {"DASK_LOGGING__DASKREF": "debug"}
    with processes(2, env=env) as (scheduler, workers):
        named = {f"worker {i}": worker for i, worker in enumerate(workers)}
        yield scheduler.address, {"scheduler": scheduler, **named}


def lines(process: Process, start: int = 0) -> list[str]:
    output: list[str] = process.lines
    return output[start:]


@pytest.mark.slow
@pytest.mark.parametrize("populate", [True, False])
@pytest.mark.parametrize("package", ["distributed", "daskref"])
def test_the_program_of_the_guide_gets_the_list_once_on_a_worker(
    cluster_with_log: Any, tmp_path: Path, package: str, populate: bool
) -> None:
    address, members = cluster_with_log
    seen = {name: len(lines(process)) for name, process in members.items()}
    code = PROGRAM
    for old, new in {
        "from distributed import Client": f"from {package} import Client",
        "/scratch/objects": str(tmp_path / "objects"),
        "register=True": f"register=True, populate_target={populate}",
    }.items():
        assert old in code
        code = code.replace(old, new)
    program = tmp_path / "program.py"
    program.write_text(
        "import logging\n"
        "logging.basicConfig()\n"
        "logging.getLogger('daskref').setLevel(logging.DEBUG)\n" + code
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "DASK_SCHEDULER_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(sum(range(100_000)))]

    def gets() -> dict[str, list[str]]:
        logs = {name: lines(member, seen[name]) for name, member in members.items()}
        logs["client"] = done.stderr.splitlines()
        return {
            name: [line for line in log if " GET " in line and "'guide'" in line]
            for name, log in logs.items()
        }

    wait_until(lambda: any(gets().values()), "the worker's log")
    found = gets()
    assert sum(map(len, found.values())) == 1, found
    assert not found["client"]
    assert not found["scheduler"]
    assert "INFO" in done.stderr
    for what in ("Initialized <Store 'guide'", "Registered a store", "Unregistered a"):
        assert what in done.stderr
    put = re.search(r"PUT (FileKey\(.*?\)) in \d+\.\d+ ms, \d+ bytes", done.stderr)
    assert put is not None
    assert f"PROXY {put[1]} in " in done.stderr
    (got,) = [line for log in found.values() for line in log]
    assert f"GET {put[1]} in " in got
    assert "(cached=False)" in got


# What Dask asks of an argument

QUESTIONS: dict[str, Any] = {
    "hash": lambda p: hash(p),
    "isinstance": lambda p: isinstance(p, tuple),
    "class": lambda p: p.__class__ is tuple,
    "len": lambda p: len(p),
    "repr": repr,
    "sizeof": sizeof,
    "getsizeof": sys.getsizeof,
    "tokenize": tokenize,
    "is_dask_collection": is_dask_collection,
    "dask": lambda p: hasattr(p, "__dask_graph__"),
    "pickle": lambda p: pickle.dumps(p),
    "serialize": lambda p: deserialize(*serialize(p, serializers=["dask", "pickle"])),
    "family": lambda p: family.loads(*family.dumps(p)),
}


@pytest.mark.parametrize("populate", [True, False])
@pytest.mark.parametrize("question", QUESTIONS)
def test_what_dask_asks_does_not_fetch(
    store: Store, question: str, populate: bool
) -> None:
    proxy = copied(store.proxy((1, 2, 3), populate_target=populate))
    answer = QUESTIONS[question](proxy)
    assert not is_resolved(proxy)
    assert store.counters.snapshot()["gets"] == 0
    expected = {"hash": hash((1, 2, 3)), "isinstance": True, "class": True, "len": 3}
    if question in expected:
        assert answer == expected[question]
    if question in {"serialize", "family"}:
        assert not is_resolved(answer)


def test_equal_proxies_have_equal_tokens(store: Store) -> None:
    proxy = store.proxy([1])
    assert tokenize(proxy) == tokenize(copied(proxy))
    assert tokenize(proxy) != tokenize(store.proxy([1]))
    key = store.put(b"[1]", serializer=bytes)
    seen: set[str] = set()
    for deserializer in (bytes, len):
        other = store.proxy_from_key(key, deserializer=deserializer)
        assert tokenize(other) == tokenize(copied(other))
        seen.add(tokenize(other))
    assert len(seen) == 2


def test_what_a_user_made_gets_no_lease_on_its_way(
    store: Store, monkeypatch: Any
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(family, "keep_alive", lambda *args: kept.append(args))
    proxy = store.proxy([1], populate_target=False)
    deserialize(*serialize(proxy, serializers=["dask"]))
    family.loads(*family.dumps(proxy))
    assert not kept
    assert leases._keeper is None or not leases._keeper._kept


# On a cluster of processes


def touch_not(x: Any) -> int:
    return 1


def listed(x: Any) -> list[Any]:
    return [x]


#: ``(client, proxy) -> 1``, or a proxy
FORMS: dict[str, Any] = {
    "submit": lambda c, p: c.submit(touch_not, p).result(timeout=20),
    "keyword": lambda c, p: c.submit(touch_not, x=p, pure=False).result(timeout=20),
    "nested": lambda c, p: c.submit(touch_not, [{"a": p}]).result(timeout=20),
    "map": lambda c, p: c.gather(c.map(touch_not, [p]))[0],
    "scatter": lambda c, p: c.submit(touch_not, c.scatter(p)).result(timeout=20),
    "result": lambda c, p: c.submit(give_back, p).result(timeout=20),
    "inside a result": lambda c, p: c.submit(listed, p).result(timeout=20)[0],
    "passed on": lambda c, p: c.submit(touch_not, c.submit(give_back, p)).result(),
    "delayed": lambda c, p: dask.delayed(touch_not)(p).compute(),
    "gather": lambda c, p: c.gather(c.scatter(p)),
}


def total(x: Any) -> float:
    return float(x.sum())


def give_back(x: Any) -> Any:
    return x


@pytest.mark.parametrize("kind", [Client, daskref.Client])
class TestOnACluster:
    @pytest.fixture
    def client(self, cluster: Any, kind: Any) -> Iterator[Any]:
        with kind(cluster) as client:
            yield client

    @pytest.mark.parametrize("form", FORMS)
    def test_nothing_is_known_of_it_and_nobody_looks(
        self, client: Any, form: str
    ) -> None:
        found = FORMS[form](client, Proxy(fail))
        assert is_proxy(found) or found == 1

    def test_as_an_argument_in_every_form(self, client: Any, store: Store) -> None:
        x = np.arange(300_000.0)
        proxy = store.proxy(x, populate_target=False)
        expected = float(x.sum())
        assert client.submit(total, proxy).result() == expected
        assert client.gather(client.map(total, [proxy], pure=False)) == [expected]
        assert client.submit(total, x=proxy, pure=False).result() == expected
        nested = client.submit(lambda d: total(d["a"][0]), {"a": [proxy]})
        assert nested.result() == expected
        assert not is_resolved(proxy)
        assert store.counters.snapshot()["gets"] == 0

    def test_as_a_result(self, client: Any, store: Store) -> None:
        proxy = store.proxy(np.arange(10), populate_target=False)
        back = client.submit(give_back, proxy).result()
        assert isinstance(back, Proxy)
        assert get_key(back) == get_key(proxy)
        assert get_store(back) is store
        np.testing.assert_array_equal(extract(back), np.arange(10))

    def test_scattered(self, client: Any, store: Store) -> None:
        proxy = store.proxy(np.arange(10), populate_target=False)
        future = client.scatter(proxy)
        assert client.submit(total, future).result() == 45
        assert client.gather(future).sum() == 45

    def test_single_use(self, client: Any, store: Store) -> None:
        proxy = store.proxy(np.arange(10), evict=True)
        futures = [client.submit(total, proxy, pure=False) for _ in range(6)]
        client_errors = [future.exception(timeout=30) for future in futures]
        lost = [error for error in client_errors if error is not None]
        assert len(lost) == 5
        for error in lost:
            assert type(error) is daskref.exceptions.ResolveError
            assert "single-use" in str(error)
            assert repr(get_key(proxy)) in str(error)
        assert not store.exists(get_key(proxy))

    def test_futures(self, client: Any, store: Store) -> None:
        promised = store.future(polling_timeout=30)
        consumer = client.submit(total, promised.proxy())
        producer = client.submit(
            lambda f: f.set_result(np.arange(10.0)), promised, pure=False
        )
        assert consumer.result(timeout=30) == 45
        producer.result(timeout=30)
        assert promised.done()
        assert promised.result(timeout=5).sum() == 45

    def test_own_functions_travel(self, client: Any, store: Store) -> None:
        scale = 3
        proxy = store.proxy(
            [1, 2],
            serializer=lambda obj: bytes(obj),
            deserializer=lambda data: [scale * n for n in data],
        )
        assert proxy == [3, 6]
        assert client.submit(sum, proxy).result() == 9


@pytest.mark.slow
def test_a_name_that_is_used_again_for_another_place(tmp_path: Path) -> None:
    with processes(1) as (scheduler, _), Client(scheduler.address) as client:
        for place in ("first", "second", "first"):
            connector = FileConnector(tmp_path / place)
            with Store("again", connector, register=True) as store:
                proxy = store.proxy([1, 2], populate_target=False)
                assert client.submit(sum, proxy, pure=False).result(timeout=30) == 3


def test_nothing_above_debug_per_object(store: Store, caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        key = store.put([1])
        store.get(key)
        copied(store.proxy([1], populate_target=False))[0]
        store.evict(key)
        future = store.future()
        future.set_result(1)
        future.result()
    assert not caplog.records
