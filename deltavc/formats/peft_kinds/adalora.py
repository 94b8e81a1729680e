"""AdaLoRA: low-rank factors with a trained number for each rank, pruned in training.

The scale is alpha over the initial rank: PEFT keeps that when it prunes, and
adds 1e-5 to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta
from deltavc.formats.peft_config import (
    HARMLESS,
    READ,
    REFUSED,
    Settings,
    bias_of,
    check_fields,
    flag_of,
    misplaced,
    names_of,
    number_of,
    tokens_of,
)
from deltavc.formats.peft_items import AdapterItem, Change, Place, by_rank, oriented
from deltavc.formats.peft_kinds.base import Kind, Module
from deltavc.formats.peft_kinds.lora import check_rank

__all__ = ["ADALORA"]

ENDS = {".lora_A": "a", ".lora_B": "b", ".lora_E": "e"}
# How the ranks were given out while training; and what AdaLoRA has from LoRA and ignores.
SCHEDULE = {
    "alpha_pattern", "beta1", "beta2", "deltaT", "init_lora_weights", "init_r", "lora_bias",
    "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step", "use_rslora",
}  # fmt: skip
NOT_ADALORA = {
    "target_parameters": "it adapts parameters without a module of their own",
    "use_dora": "it rescales the base weights",
}
PRUNED = (".lora_E", ".lora_A", ".lora_B")


@dataclass(frozen=True, kw_only=True)
class AdaloraSettings(Settings):
    """What an AdaLoRA config says about the deltas.

    Attributes:
        rank: The rank at which it started.
        alpha: Alpha.
        kept: Ranks that were left, by module.
    """

    rank: int
    alpha: Fraction
    kept: Mapping[str, int]

    @property
    def scale(self) -> Fraction:
        """Alpha / (r + 1e-5) as the nearest float64; alpha is r where it is not above 0."""
        alpha = self.alpha if self.alpha > 0 else Fraction(self.rank)
        return Fraction(float(alpha) / (self.rank + 1e-5))


def read(config: Mapping[str, Any]) -> AdaloraSettings:
    """Reads an AdaLoRA config."""
    check_fields(config, (HARMLESS | READ | SCHEDULE) - set(NOT_ADALORA), REFUSED | NOT_ADALORA)
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        misplaced("rank_pattern")
    kept = {}
    for name, mask in pattern.items():
        if not isinstance(mask, list) or not all(isinstance(one, bool) for one in mask):
            misplaced("rank_pattern")
        ends = [name.removesuffix(end) for end in PRUNED if name.endswith(end)]
        kept[(ends or [name])[0]] = sum(mask)
    return AdaloraSettings(
        rank=int(number_of(config, "init_r", 12, whole=True)),
        alpha=number_of(config, "lora_alpha", 8),
        kept=kept,
        fan_in_fan_out=flag_of(config, "fan_in_fan_out"),
        bias=bias_of(config, "lora_only"),
        modules_to_save=names_of(config, "modules_to_save"),
        tokens=tokens_of(config),
    )


def items(module: Module, settings: AdaloraSettings) -> list[AdapterItem]:
    """Returns the change of one module; none where all its ranks were pruned."""
    if not module.parts:
        return []
    parts = module.take("a", "b", "e")
    a, b, e = (parts[part].shape for part in ("a", "b", "e"))
    if len(a) != 2 or len(b) != 2 or e != (a[0], 1) or b[1] != a[0] or not (a[1] and b[0]):
        raise module.misfit("do not fit each other")
    check_rank(module.name, a[0], settings.kept.get(module.name, settings.rank))
    if not a[0]:
        return []
    return [Pruned(module.name, "weight", parts, settings.scale, keys=module.keys_of(parts))]


@dataclass(frozen=True, eq=False)
class Pruned(Change):
    """b · (e ∘ a), times the scale."""

    scale: Fraction

    @property
    def kind(self) -> str:
        """``AdaLoRA``."""
        return "AdaLoRA"

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns in which ways the product fits a linear layer or a convolution."""
        product = (self.parts["b"].shape[0], self.parts["a"].shape[1])
        if len(shape) == 2:
            return oriented(product, shape)
        columns = 1
        for dim in shape[1:]:
            columns *= dim
        return (False,) if len(shape) > 2 and (shape[0], columns) == product else ()

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter of this shape."""
        from deltavc.delta.kinds import product

        layer = "linear" if len(place.shape) == 2 else "conv"
        return product(
            "adalora", self.parts, self.scale,
            shape=place.shape, transposed=place.transposed, layer=layer,
        )  # fmt: skip

    def result(self, place: Place) -> NDArray[np.float64]:
        """Returns the changed parameter in float64."""
        a, b, e = (self.parts[part].to_float64() for part in ("a", "b", "e"))
        change = by_rank(b, e * a) * float(self.scale)
        change = change.T if place.transposed else change
        return np.asarray(place.values() + change.reshape(place.shape))


ADALORA = Kind("ADALORA", ENDS, read, items)
