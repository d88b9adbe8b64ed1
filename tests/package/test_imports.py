"""Imports go one way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "daskref"

#: From the bottom up. A module imports from its own layer or lower ones.
LAYERS = [
    ["_version", "annotations", "exceptions", "units", "background", "config"],
    ["connectors"],
    ["objects"],
    ["proxy"],
    # a method of the store makes owned proxies
    ["store", "ownership"],
    ["lifetimes"],
    ["graph", "_proxystore"],
    # both name what runs elsewhere
    ["cluster", "client", "scheduler", "worker", "entry"],
    ["preload", "", "testing"],
    ["bench"],
    ["cli", "demo"],
]
SHARED = {"annotations", "exceptions", "units", "background"}
#: These, and packages of these names, may import ``distributed``.
KNOW_DISTRIBUTED = {
    *["store", "objects", "ownership", "graph", "cluster", "client", "scheduler"],
    *["worker", "preload", "cli", "demo", "bench"],
}
#: Drivers: connector -> the one that it may import.
DRIVERS = {"zmq._keys": "cryptography"}
DRIVERS |= dict.fromkeys(["fsspec._connector", "fsspec._opening"], "fsspec")
DRIVERS |= dict.fromkeys(
    [
        f"redis.{name}"
        for name in ("_errors", "_objects", "_options", "_server", "_wire")
    ],
    "redis",
)
#: Never needed to import daskref; only by programs that bring their own data, and by
#: the page of the dashboard.
HEAVY = {"numpy", "pandas", "pyarrow", "polars", "bokeh"}
BRINGS_DATA = {"demo", "bench"}


class Import(NamedTuple):
    importer: str  # below daskref, as in "connectors.shm"; "" is the package itself
    imported: str  # absolute
    lazy: bool  # inside a function


def _module(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _walk(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            continue
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield child, inside
        yield from _walk(child, inside)


def _imports() -> list[Import]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = _module(path)
        for node, lazy in _walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [Import(name, alias.name, lazy) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"relative import in {path}"
                assert node.module is not None
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    target = full if _is_module(full) else node.module
                    found.append(Import(name, target, lazy))
    return found


def _is_module(name: str) -> bool:
    if not name.startswith("daskref."):
        return False
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").exists()


IMPORTS = _imports()
MODULES = sorted({_module(path) for path in PACKAGE.rglob("*.py")})


def _top(module: str) -> str:
    return module.partition(".")[0]


def _layer(module: str) -> int:
    for rank, layer in enumerate(LAYERS):
        if _top(module) in layer:
            return rank
    raise AssertionError(f"daskref.{module} has no layer: give it one in LAYERS")


def _inner() -> Iterator[tuple[Import, str]]:
    for found in IMPORTS:
        head, _, rest = found.imported.partition(".")
        if head == "daskref":
            yield found, rest


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_a_layer(module):
    _layer(module)


def test_imports_go_down():
    wrong = [
        found
        for found, target in _inner()
        if _top(target) != _top(found.importer)
        and _layer(target) > _layer(found.importer)
    ]
    assert not wrong


def test_imports_have_no_cycle():
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found, target in _inner():
        if not found.lazy and target != found.importer:
            graph[found.importer].add(target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path, module))}"
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_connectors_know_neither_objects_nor_dask():
    wrong = []
    for found in IMPORTS:
        if _top(found.importer) != "connectors":
            continue
        head, _, rest = found.imported.partition(".")
        driver = DRIVERS.get(found.importer.partition(".")[2])
        if head == "daskref":
            fine = _top(rest) == "connectors" or _top(rest) in SHARED
        else:
            fine = head in sys.stdlib_module_names or head == driver
        if not fine:
            wrong.append(found)
    assert not wrong


def test_only_some_modules_know_distributed():
    wrong = [
        found
        for found in IMPORTS
        if _top(found.imported) == "distributed"
        and _top(found.importer) not in KNOW_DISTRIBUTED
    ]
    assert not wrong


#: Modules that are imported only where Bokeh is imported already.
DRAWS = {"scheduler.dashboard._page", "scheduler.dashboard._charts"}


def test_heavy_packages_are_imported_only_inside_functions():
    wrong = [
        found
        for found in IMPORTS
        if _top(found.imported) in HEAVY
        and not found.lazy
        and _top(found.importer) not in BRINGS_DATA
        and found.importer not in DRAWS
    ]
    assert not wrong


def _python(code: str) -> str:
    environment = {k: v for k, v in os.environ.items() if "COVERAGE" not in k}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_needs_no_heavy_package():
    # None makes an import fail, as on a scheduler that lacks the package.
    # (distributed itself imports NumPy where it is installed.)
    _python(
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(HEAVY)!r}))\n"
        "import daskref\n"
    )


def test_import_brings_in_no_heavy_package():
    out = _python(
        "import sys, distributed\n"
        "before = set(sys.modules)\n"
        "import daskref\n"
        "print(*(set(sys.modules) - before))"
    )
    assert not {_top(name) for name in out.split()} & HEAVY


def test_import_starts_no_thread():
    out = _python(
        "import threading, distributed\n"
        "before = threading.active_count()\n"
        "import daskref\n"
        "print(threading.active_count() - before)"
    )
    assert int(out) == 0
