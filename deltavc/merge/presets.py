"""Presets: option values that give what other tools compute under the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """A strategy with options that reproduce another tool's variant.

    Attributes:
        strategy: Name of the strategy.
        options: The options that differ from its defaults, as text.
        meaning: What is reproduced, and what is not.
    """

    strategy: str
    options: Mapping[str, str]
    meaning: str


PRESETS: dict[str, Preset] = {}
