"""The kinds of PEFT adapter that have a form as weights, by their name in the config."""

from __future__ import annotations

from deltavc.formats.peft_kinds.adalora import ADALORA
from deltavc.formats.peft_kinds.base import Kind, Module
from deltavc.formats.peft_kinds.ia3 import IA3
from deltavc.formats.peft_kinds.lora import LORA
from deltavc.formats.peft_kinds.lycoris import LOHA, LOKR
from deltavc.formats.peft_kinds.plain import LN_TUNING, WEIGHTLESS
from deltavc.formats.peft_kinds.rotations import BOFT, HRA, OFT
from deltavc.formats.peft_kinds.vera import VERA

__all__ = ["KINDS", "MARKS", "WEIGHTLESS", "Kind", "Module"]

KINDS: dict[str, Kind] = {
    kind.peft_type: kind
    for kind in (LORA, ADALORA, IA3, LOHA, LOKR, OFT, BOFT, HRA, VERA, LN_TUNING)
}
# What names in a file begin with that belong to an adapter and to no module.
MARKS = ("lora_", "ia3_", "hada_", "lokr_", "oft_", "boft_", "hra_", "vera_")
