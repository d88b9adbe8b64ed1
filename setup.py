"""The readme of the distribution: beside it, on a package index, there are no files.

Everything else is in ``pyproject.toml``.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
source = project["urls"]["Source"]
readme = (HERE / "README.md").read_text("utf-8")
readme = re.sub(r"<!--.*?-->\n", "", readme)
readme = re.sub(r"\]\((?![a-z]+:|#)", f"]({source}", readme)
setup(long_description=readme, long_description_content_type="text/markdown")
