"""The programs in the pages on connectors and on coming from ProxyStore run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
    if "proxystore." in program.replace("connectors.proxystore", ""):
        require_module("proxystore")
    program = program.replace("/shared/", f"{tmp_path}/")
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})


def test_there_are_programs_on_each_page() -> None:
    assert len(programs()) >= 8
