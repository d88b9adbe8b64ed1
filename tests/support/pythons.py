"""Interpreters of this machine, and environments with daskref for them.

``python -m tests.support.pythons`` makes the environments that are missing and says
where they are, one per line: version and interpreter. They are kept in
``.venv-pythons``, or where ``DASKREF_PYTHON_VENVS`` says.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Every minor version that daskref supports.
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
THIS = "{}.{}".format(*sys.version_info)

#: A version manager's stand-in may be on PATH for a version that is not chosen, and a
#: distribution's Python may lack what environments need.
_PROBE = "import ensurepip, ssl, sys, venv; print('{}.{}'.format(*sys.version_info))"


def _candidates() -> Iterator[str]:
    yield from os.environ.get("DASKREF_PYTHONS", "").split(os.pathsep)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in VERSIONS:
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            yield os.path.join(folder, f"python{version}")
        # the newest release first
        every = (pyenv / "versions").glob(f"{version}*/bin/python{version}")
        yield from sorted(map(str, every), key=len, reverse=True)


@functools.cache
def interpreters() -> dict[str, str]:
    """Return the interpreter of each supported version that is found, oldest first."""
    found = {THIS: sys.executable}
    for path in _candidates():
        if path and os.access(path, os.X_OK):
            done = subprocess.run([path, "-c", _PROBE], capture_output=True, text=True)
            version = done.stdout.strip()
            if done.returncode == 0 and version in VERSIONS:
                found.setdefault(version, path)
    return {version: found[version] for version in VERSIONS if version in found}


def environment(version: str) -> Path:
    """Return where the environment of a version is, or would be."""
    folder = os.environ.get("DASKREF_PYTHON_VENVS", ROOT / ".venv-pythons")
    return Path(folder, version)


def python(version: str, extras: str = "") -> str | None:
    """Return an interpreter that has daskref: this one, or one made before.

    Parameters
    ----------
    version
        As in ``"3.12"``.
    extras
        What daskref was to be installed with, as in ``"test"``.
    """
    if version == THIS:
        return sys.executable
    folder = environment(version)
    return str(folder / "bin" / "python") if _is_made(folder, extras) else None


def _stamp(folder: Path, extras: str) -> Path:
    return folder / f".daskref-stamp-{extras}"


def _is_made(folder: Path, extras: str) -> bool:
    stamp = _stamp(folder, extras)
    wanted = (ROOT / "pyproject.toml").stat().st_mtime
    return stamp.exists() and stamp.stat().st_mtime >= wanted


def make(version: str, extras: str = "") -> str:
    """Make the environment of a version if there is none; return its interpreter."""
    if (path := python(version, extras)) is not None:
        return path
    folder = environment(version)
    if not (folder / "bin" / "python").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([interpreters()[version], "-m", "venv", folder], check=True)
    path = str(folder / "bin" / "python")
    print(f"installing daskref into {folder}", file=sys.stderr)
    options = ["--quiet", "--disable-pip-version-check"]
    what = ["--editable", f"{ROOT}[{extras}]" if extras else str(ROOT), "numpy"]
    subprocess.run([path, "-m", "pip", "install", *options, *what], check=True)
    _stamp(folder, extras).touch()
    return path


def main() -> None:
    """Make environments, and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.pythons")
    parser.add_argument("--extras", default="", help="of daskref, as in 'test'")
    parser.add_argument("--find", action="store_true", help="make nothing")
    arguments = parser.parse_args()
    for version, path in interpreters().items():
        if not arguments.find:
            path = make(version, arguments.extras)
        print(version, path, flush=True)


if __name__ == "__main__":
    main()
