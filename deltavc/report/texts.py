"""Fixed text of the report, one catalogue a language."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

from deltavc.errors import UsageError

__all__ = ["LANGUAGES", "Texts"]

LANGUAGES = ("en", "ja")


class Texts:
    """The texts of one language.

    Args:
        language: Its code.

    Raises:
        UsageError: There is no catalogue of this language.
    """

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise UsageError(
                f"there is no report in the language '{language[:20]}'",
                hint=f"--lang is one of: {', '.join(LANGUAGES)}",
            )
        self.language = language
        file = resources.files(__package__).joinpath("locale", f"{language}.toml")
        self.catalogue: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))

    def __call__(self, key: str, n: int | None = None, /, **values: object) -> Markup:
        """Returns a text, with values put in.

        Args:
            key: Section and name, such as ``page.title``.
            n: What is counted: it chooses between one and many, and is the value ``n``.
            **values: What the placeholders stand for; text of foreign origin is escaped.

        Returns:
            The text as markup.
        """
        section, _, name = key.partition(".")
        text = self.catalogue[section][name]
        if isinstance(text, Mapping):
            text = text["one"] if n == 1 and "one" in text else text["other"]
        if n is not None:
            values["n"] = f"{n:,}"
        return Markup(escape(text)).format(**values)  # noqa: S704 - escaped; values are by format

    def list_of(self, key: str) -> list[list[str]]:
        """Returns a text that is a list of pairs, such as the glossary."""
        section, _, name = key.partition(".")
        return [list(pair) for pair in self.catalogue[section][name]]

    def has(self, key: str) -> bool:
        """Tells whether there is a text of this key."""
        section, _, name = key.partition(".")
        return name in self.catalogue.get(section, {})
