"""What the pages for users contain: blocks to run, text that they print, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^>]*) -->\n)?"
    r"(?P<indent> *)```(?P<kind>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code."""

    #: ``python``, ``bash``, ``text``, ...
    kind: str
    code: str
    #: The comment on the line before it.
    note: str
    #: Number of the line in front of its first.
    line: int

    @property
    def runs(self) -> bool:
        """Whether it is run here; what does not says why."""
        return not self.note.startswith("not run: ")


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, *kinds: str) -> list[Block]:
    """Return the blocks of a page, of some kinds."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        lines = match["code"].splitlines(keepends=True)
        code = "".join(line.removeprefix(match["indent"]) for line in lines)
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(match["kind"], code, match["note"] or "", line))
    return [block for block in found if block.kind in kinds]


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures, code left out."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))


def anchors(page: Path) -> set[str]:
    """Return what a link can have after ``#``: the headings, as GitHub writes them."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    found = set()
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-"))
    return found
