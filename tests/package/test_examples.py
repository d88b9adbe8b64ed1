"""The examples of the documentation run as they stand, and say what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT
from tests.support.requirements import require_module

EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
#: What each prints, as far as it does not depend on the machine.
PRINTED = {
    "sweep": r"latest: EV at 18:00, 91 minutes\nputs: 1, by reference: 2\d{3} MB",
    "model": r"without noise: 9\d%, with the most: [34]\d%\nputs: 1, by",
    "images": r"movements found: 64 of 64\nnoise: 12\.\d in a frame, 1\.\d in the sum",
    "words": r"\d+ MB, most frequent: \[\('self', \d+\), \('return', \d+\)",
    "training": r"error: 0\.\d+ .*\nputs: 10\nby reference: 4\d MB",
}


@pytest.mark.slow
@pytest.mark.timeout(300)  # where others use the machine
@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    if name == "training":
        require_module("torch")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.match(PRINTED[name], done.stdout), done.stdout


@pytest.mark.parametrize("name", PRINTED)
def test_the_page_has_each_example_and_its_picture(name: str) -> None:
    assert f"(examples/{name}.svg)" in PAGE
    assert f"{{literalinclude}} examples/{name}.py" in PAGE
    assert (EXAMPLES / f"{name}.svg").is_file()


def test_there_are_no_others() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*PRINTED, "pictures"}
