"""The programs in the pages on connectors and on coming from ProxyStore run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daskref import Store
from daskref.connectors import FileConnector
from tests.support.requirements import require_module

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    *("connectors/shm.md", "connectors/local.md"),
    *("connectors/file.md", "connectors/multi.md", "connectors/proxystore.md"),
    "migrating.md",
]


def programs() -> list[object]:
    found = []
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for number, match in enumerate(re.findall(r"```python\n(.*?)```", text, re.S)):
            if not match.startswith("# not run"):
                found.append(pytest.param(match, id=f"{page}-{number}"))
    return found


@pytest.mark.parametrize("program", programs())
def test_runs(program: str, tmp_path: Path) -> None:
    if "proxystore." in program:
        require_module("proxystore")
    program = program.replace("/shared/", f"{tmp_path}/")
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})


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


def test_there_are_programs_on_each_page() -> None:
    assert len(programs()) >= 8
