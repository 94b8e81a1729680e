"""Prints a dependency group of pyproject.toml, for installers that cannot read groups yet."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
print("\n".join(item.replace(" ", "") for item in project["dependency-groups"][sys.argv[1]]))
