"""What is built from the repository is whole, and describes itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from pathlib import Path

import jinja2
import pytest
import yaml
from packaging.requirements import Requirement

from daskref import __version__
from tests.support.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
#: Names of packages where conda-forge has others.
CONDA = {"dask": "dask-core", "msgpack": "msgpack-python", "xxhash": "python-xxhash"}


def tracked() -> set[str]:
    """Return the files of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a repository")
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    return {name for name in listed.split("\0") if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tarfile.TarFile]:
    """The source distribution of what is in the repository."""
    directory = tmp_path_factory.mktemp("sdist")
    for name in tracked():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, directory / name)
    build = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    subprocess.run(
        [sys.executable, "-c", build], cwd=directory, check=True, timeout=100
    )
    (built,) = (directory / "dist").iterdir()
    with tarfile.open(built) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(sdist: tarfile.TarFile) -> Message:
    file = sdist.extractfile(f"daskref-{__version__}/PKG-INFO")
    assert file is not None
    return message_from_string(file.read().decode())


@pytest.mark.slow
def test_a_source_distribution_has_every_file_of_the_repository(
    sdist: tarfile.TarFile,
) -> None:
    names = {str(Path(*Path(name).parts[1:])) for name in sdist.getnames()}
    assert tracked() - names == set()


@pytest.mark.slow
def test_the_readme_of_the_distribution_links_to_addresses(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    targets = re.findall(r"\]\(([^)]*)\)", text)
    source = PROJECT["urls"]["Source"]
    assert len(targets) > 5
    for target in targets:
        assert re.match(r"https?://|#", target), target
        if target.startswith(source):
            assert (ROOT / target.removeprefix(source).partition("#")[0]).exists()
    assert "<!--" not in text
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.mark.slow
def test_the_distribution_says_where_to_look(metadata: Message) -> None:
    urls = {url.partition(",")[0] for url in metadata.get_all("Project-URL", [])}
    assert {"Documentation", "Source", "Changelog"} <= urls
    assert "dask" in metadata["Keywords"].split(",")


def test_all_is_for_users() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "docs", "test"}


def test_the_recipe_for_conda_has_what_the_project_has() -> None:
    text = (ROOT / "conda" / "meta.yaml").read_text("utf-8")
    recipe = yaml.safe_load(jinja2.Template(text).render(PYTHON="python"))
    assert recipe["package"]["version"] == __version__
    wanted = {f"python {PROJECT['requires-python']}"}
    for requirement in map(Requirement, PROJECT["dependencies"]):
        name = CONDA.get(requirement.name, requirement.name)
        wanted.add(f"{name} {requirement.specifier}".strip())
    assert set(recipe["requirements"]["run"]) == wanted
    assert recipe["build"]["entry_points"] == [
        f"{name} = {path}" for name, path in PROJECT["scripts"].items()
    ]
