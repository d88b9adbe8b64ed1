"""The house: what may import what, and how wide and how deep it is.

Every import counts, those inside functions and for type checking as well.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "daskref"

#: From the bottom up. A package imports from lower rows only, not from its neighbours.
LAYERS: list[set[str]] = [
    {"annotations", "exceptions", "units", "background", "_version"},
    {"config"},
    {"connectors"},
    {"objects"},
    {"proxy"},
    {"store"},
    {"lifetimes", "ownership", "graph"},
    {"cluster", "_proxystore"},
    {"client", "scheduler"},
    {"worker", "preload", "entry", "testing"},
    {""},
    {"bench"},
    {"cli", "demo"},
]
#: Of the lowest row: they may import one another.
GROUND = LAYERS[0]
#: Imports inside functions that go up, and why.
LATE = {
    # a method of the store makes what is above it, as ProxyStore's does
    ("store.store", "ownership"),
}
#: What is loaded by name in another process (`daskref.cluster.joining`).
ENTRY_POINTS = [
    "daskref.scheduler.install:start",
    "daskref.worker.plugin:ReferenceWorkerPlugin",
    "daskref.worker.nanny:ReferenceNannyPlugin",
]
WIDEST, PACKAGE_FLOORS, MODULE_FLOORS = 15, 10, 7
#: Programs beside the library.
TOOLS = {"bench", "cli", "demo"}


class Import(NamedTuple):
    importer: str  # below daskref, as in "connectors.shm"; "" is the package itself
    imported: str


def _module(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


MODULES = {_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}
PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import"
        assert node.module is not None
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            is_module = full.partition(".")[2] in MODULES
            yield full if full.startswith("daskref.") and is_module else node.module


@cache
def _imports() -> frozenset[Import]:
    found = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node):
                head, _, rest = target.partition(".")
                if head == "daskref" and rest != name:
                    found.add(Import(name, rest))
    return frozenset(found)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _parent(module: str) -> str:
    return module.rpartition(".")[0]


def _layer(module: str) -> int:
    for rank, layer in enumerate(LAYERS):
        if _top(module) in layer:
            return rank
    raise AssertionError(f"daskref.{module} has no layer: give it one in LAYERS")


def _late(found: Import) -> bool:
    return (found.importer, _top(found.imported)) in LATE


@pytest.mark.parametrize("module", sorted({_top(name) for name in MODULES}))
def test_each_package_has_a_layer(module: str) -> None:
    _layer(module)


def test_packages_import_downwards() -> None:
    wrong = [
        found
        for found in _imports()
        if _top(found.imported) != _top(found.importer)
        and not {_top(found.imported), _top(found.importer)} <= GROUND
        and _layer(found.imported) >= _layer(found.importer)
        and not _late(found)
    ]
    assert not sorted(wrong)


def _graph(skip: bool = True) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in _imports():
        if not (skip and _late(found)):
            graph[found.importer].add(found.imported)
    return graph


def _floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return for each the length of the longest chain of imports below it."""
    floors: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> int:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module not in floors:
            below = [visit(each, (*path, module)) for each in sorted(graph[module])]
            floors[module] = 1 + max(below, default=0)
        return floors[module]

    for module in graph:
        visit(module, ())
    return floors


def test_modules_have_no_circles() -> None:
    _floors(_graph())


def test_the_packages_are_few_floors_high() -> None:
    graph: dict[str, set[str]] = defaultdict(set)

    def package(module: str) -> str:
        return "ground" if _top(module) in GROUND else _top(module)

    for found in _imports():
        upper, lower = package(found.importer), package(found.imported)
        graph[upper] |= {lower} - {upper} if not _late(found) else set()
        graph[lower] |= set()
    floors = _floors(dict(graph))
    library = [floors[name] for name in floors if name not in TOOLS]
    assert max(library) <= PACKAGE_FLOORS
    assert max(floors.values()) <= PACKAGE_FLOORS + 2


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_few_floors_high(package: str) -> None:
    inside = {name for name in MODULES if _parent(name) == package and name}
    graph = {name: set[str]() for name in inside}
    for found in _imports():
        if {found.importer, found.imported} <= inside and not _late(found):
            graph[found.importer].add(found.imported)
    assert max(_floors(graph).values(), default=0) <= MODULE_FLOORS


def test_private_modules_stay_private() -> None:
    wrong = [
        found
        for found in _imports()
        if found.imported.rpartition(".")[2].startswith("_")
        and found.imported != "_version"
        and _parent(found.imported) not in {_parent(found.importer), found.importer}
    ]
    assert not sorted(wrong)


@pytest.mark.parametrize("package", [name for name in PACKAGES if name])
def test_faces_are_small_and_define_nothing(package: str) -> None:
    text = MODULES[package].read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) < 40
    for node in tree.body[1:]:
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        is_import |= ast.unparse(node).startswith("if TYPE_CHECKING:")
        # modules that ProxyStore has there
        is_import |= ast.unparse(node).startswith("__path__ = extend_path(")
        assert is_import or ast.unparse(node).startswith("__all__ = ")


def test_no_folder_is_wide() -> None:
    widths = Counter(
        _parent(name)
        for name, path in MODULES.items()
        if path.name not in ("__init__.py", "__main__.py")
    )
    assert {k: v for k, v in widths.items() if v > WIDEST} == {}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_entry_points_exist(name: str) -> None:
    module, _, attribute = name.partition(":")
    assert callable(getattr(import_module(module), attribute))
