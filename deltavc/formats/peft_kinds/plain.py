"""Kinds without a form of their own: whole layer norms, and prompts that change no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltavc.formats.peft_config import COMMON, Settings, check_fields, names_of
from deltavc.formats.peft_items import AdapterItem
from deltavc.formats.peft_kinds.base import Kind, Module

__all__ = ["LN_TUNING", "WEIGHTLESS"]

WEIGHTLESS = frozenset(
    (
        "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING",
        "PREFIX_TUNING", "PROMPT_TUNING",
    )
)  # fmt: skip
"""Kinds that act beside the weights: carried along, and given back bit for bit."""


def read(config: Mapping[str, Any]) -> Settings:
    """Reads the config of tuned layer norms."""
    check_fields(config, COMMON | {"modules_to_save"}, {})
    return Settings(modules_to_save=names_of(config, "modules_to_save"))


def items(_module: Module, _settings: Settings) -> list[AdapterItem]:
    """Returns nothing: what such an adapter has, it brings whole."""
    return []


LN_TUNING = Kind("LN_TUNING", {}, read, items)
