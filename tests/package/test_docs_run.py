"""What README and documentation tell readers to run, runs; their links lead somewhere.

A block is left out if a comment on the line before it says so:
``<!-- not run: why -->``.
The names that a block takes as given are in the fixture `given`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from symtable import symtable
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from distributed import Client, Future, LocalCluster, wait
from distributed.deploy.cluster import Cluster

import daskref
from daskref import Store
from daskref.connectors import Connector, FileConnector, SharedMemoryConnector
from tests.support.pages import PAGES, ROOT, Block, anchors, blocks, links, name_of
from tests.support.requirements import require_module

DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
BIN = str(Path(sys.executable).parent)
PYTHON = [
    page
    for page in PAGES
    if page != TUTORIAL and any(block.runs for block in blocks(page, "python"))
]
SHELL = [
    pytest.param(block, id=f"{name_of(page)}:{block.line}")
    for page in PAGES
    for block in blocks(page, "bash", "shell")
    if block.runs
]


def score(table: Any, *where: Any) -> float:
    return float(table["delay"].mean())


@pytest.fixture
def given(redis_server: Any, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Names that readers have of their own; what a page opens is closed."""
    before = set(Client._instances)
    frame = pd.DataFrame({"delay": [1.0, None, 3.0] * 100_000})
    with (
        # what a page sets is taken back
        dask.config.set(
            {"daskref.connector": "auto", "distributed.client.preload": []}
        ),
        LocalCluster(
            n_workers=1, processes=False, protocol="tcp://", dashboard_address=":0"
        ) as cluster,
    ):
        names: dict[str, Any] = {
            "__name__": "__main__",
            "address": cluster.scheduler_address,
            "array": np.arange(1_000),
            "cluster": cluster,
            "dask": dask,
            "daskref": daskref,
            "flights": frame,
            "frame": frame,
            "score": score,
            "sweep": [("UA", 6), ("UA", 9)],
            "table": frame,
            "train": score,
        }
        yield names
        opened = [value for value in names.values() if value is not cluster]
        names.clear()  # owners and proxies go before their stores
        for client in set(Client._instances) - before:
            client.close()
        for value in reversed(opened):
            if issubclass(type(value), (Cluster, Store, Connector)):
                value.close()
    redis_server.ask("FLUSHALL")  # ProxyStore's own connectors leave what they put


@pytest.mark.slow
# somebody else may have the port of the dashboard
@pytest.mark.filterwarnings("ignore:Port 8787 is already in use")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Sending large graph")
@pytest.mark.parametrize("page", PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(
    page: Path, given: dict[str, Any], redis_server: Any, tmp_path: Path
) -> None:
    here = {
        "/shared/": f"{tmp_path}/",
        "/scratch/": f"{tmp_path}/",
        "tcp://head:8786": given["address"],
        "redis://host:6379/0": redis_server.url,
        "redis://localhost:6379": redis_server.url,
        '"host", 6379': f'"127.0.0.1", {redis_server.port}',
        '"localhost", 6379': f'"127.0.0.1", {redis_server.port}',
    }
    for block in blocks(page, "python"):
        if not block.runs:
            continue
        if "proxystore." in block.code:
            require_module("proxystore")
        _give_what_is_used(block.code, given)
        code = "\n" * block.line + block.code
        for name, value in here.items():
            code = code.replace(name, value)
        exec(compile(code, name_of(page), "exec"), given)
    _check_futures(given)


def _give_what_is_used(code: str, names: dict[str, Any]) -> None:
    """Make what only some pages want, if a block uses it and none has made it."""
    makers: dict[str, Callable[[], Any]] = {
        "client": lambda: daskref.Client(names["cluster"]),
        "store": lambda: Store("given", SharedMemoryConnector(), register=True),
    }
    used = symtable(code, "page", "exec")
    for name, make in makers.items():
        if name in names or name not in used.get_identifiers():
            continue
        if not used.lookup(name).is_assigned():
            names[name] = make()


def _check_futures(names: dict[str, Any]) -> None:
    for value in list(names.values()):
        futures = value if type(value) is list else [value]  # it may be a proxy
        if futures and all(type(future) is Future for future in futures):
            wait(futures, timeout=60)
            assert {future.status for future in futures} == {"finished"}


@pytest.mark.slow
@pytest.mark.parametrize("block", SHELL)
def test_a_block_for_the_shell_runs(block: Block, tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(300)  # where others use the machine
def test_the_tutorial_can_be_pasted(tmp_path: Path) -> None:
    """Line by line, into Python as it starts; it answers what stands below."""
    steps = blocks(TUTORIAL, "python", "text")
    pasted, expected = "", ""
    for number, step in enumerate(steps):
        if step.kind == "text":
            expected += step.code
        else:
            pasted += f"print('-- {number}')\n{step.code}\n"
            expected += f"-- {number}\n"
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=pasted,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSTARTUP": ""},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Sending large graph" in done.stderr
    assert done.stdout == expected


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_what_is_left_out_is_little_and_says_why() -> None:
    left_out = [b for page in PAGES for b in blocks(page, "python", "bash", "shell")]
    notes = [block.note for block in left_out if not block.runs]
    assert len(notes) < 24
    assert all(len(note) > len("not run: ") + 8 for note in notes)


def test_the_copy_of_proxystores_data_has_every_object(tmp_path: Path) -> None:
    theirs = require_module("proxystore.connectors.file").FileConnector
    before = require_module("proxystore.store").Store
    objects = [b"bytes", "text", [1, {"a": 2}], np.arange(10)]
    with before("theirs", theirs(str(tmp_path / "old"), clear=False)) as store:
        old = [store.put(obj) for obj in objects]
        unfinished = store.connector.new_key()
    (tmp_path / "old" / unfinished.filename).write_bytes(b"by")

    text = (DOCS / "migrating.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n([^`]*copied = \{\}[^`]*)```", text)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program.replace("/shared/", f"{tmp_path}/"), "copy", "exec"), names)

    assert set(names["copied"]) == set(old)
    with Store("copied", FileConnector(tmp_path / "new")) as after:
        for key, obj in zip(old, objects, strict=True):
            np.testing.assert_equal(after.get(names["copied"][key]), obj)
    assert len(list((tmp_path / "old").glob("*.ready"))) == len(objects)
