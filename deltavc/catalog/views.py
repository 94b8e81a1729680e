"""What the views and their columns mean, for those who ask in SQL and for Datasette.

``views.toml`` beside has the words. The page ``docs/reference/sql-views.md`` says the
same; tests hold both together, and both to the schema.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["View", "views"]


class View(NamedTuple):
    """A view: what a row of it is, and what its columns mean."""

    about: str
    columns: dict[str, str]


@cache
def views() -> dict[str, View]:
    """Returns the views by name, with their columns in the order that they have."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {
        name: View(str(table["about"]), dict(table["columns"]))
        for name, table in tomllib.loads(text).items()
    }
