"""What CONTRIBUTING says is so: its connector, its paths, its commands."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from tests.package.test_layers import PACKAGE

ROOT = PACKAGE.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CONNECTOR, USE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_connector_keeps_the_contract_and_works_under_dask(tmp_path):
    (tmp_path / "directory_connector.py").write_text(CONNECTOR, encoding="utf-8")
    program = "if __name__ == '__main__':\n" + re.sub("(?m)^(?=.)", "    ", USE)
    path = tmp_path / "program.py"
    path.write_text(program.replace("mkdtemp()", f"mkdtemp(dir={str(tmp_path)!r})"))
    # in a process of its own: `directory_connector` is to be a module that is found
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_connector_has_40_lines_and_some_imports():
    lines = [line for line in CONNECTOR.splitlines() if line.strip()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert len(lines) - len(imports) <= 40


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:daskref|tests|docs|\.ci)/[\w./]*)`", TEXT)))
)
def test_a_path_exists(path):
    assert (ROOT / path).exists()


def test_the_targets_of_make_exist():
    named = set(re.findall(r"`make ([a-z -]+?)(?= PYTEST|`)", TEXT))
    targets = {target for words in named for target in words.split()}
    assert {"test", "lint", "type", "docs"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_hooks_run_what_make_lint_and_make_type_run():
    recipes = re.findall(r"^(?:lint|type):.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    lines = "".join(recipes).replace("$(bin)", ".venv/bin").splitlines()
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == [line.strip() for line in lines]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
