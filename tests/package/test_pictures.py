"""The drawn pictures have dark colours, and name files that exist."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.package.test_layers import MODULES, PACKAGE

DOCS = PACKAGE.parent / "docs"
PICTURES = sorted((DOCS / "_static").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
PAGES = "".join(path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md")))
HOW = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
TOURS = [path for path in PICTURES if f"(_static/{path.name})" in HOW]


@pytest.mark.parametrize("picture", TOURS, ids=lambda path: path.stem)
def test_a_picture_names_files_that_exist(picture: Path) -> None:
    files = [f"/{path.relative_to(PACKAGE)}" for path in MODULES.values()]
    texts = ElementTree.parse(picture).iter(f"{SVG}text")
    named = [(text.text or "").split(",")[0] for text in texts]
    named = [name for name in named if name.endswith(".py")]
    assert named
    for name in named:
        assert any(file.endswith(f"/{name}") for file in files), name


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_scales_and_has_dark_colours_and_a_description(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    assert root.get("viewBox", "").startswith("0 0 720 ")
    assert f"_static/{picture.name})" in PAGES
    assert root.get("width") is None
    assert root.findtext(f"{SVG}title")
    assert root.findtext(f"{SVG}desc")
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")


def test_how_it_works_has_a_picture_of_each_tour() -> None:
    assert len(TOURS) == 5
