"""VeRA: two vectors for each module between matrices that all modules share.

The matrices are in the file with ``save_projection``; without it they come from
a seed and a random number generator, and another machine need not have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta
from deltavc.errors import UnsupportedFormat
from deltavc.formats.peft_config import (
    COMMON,
    Settings,
    bias_of,
    check_fields,
    flag_of,
    names_of,
    number_of,
)
from deltavc.formats.peft_items import AdapterItem, Change, Place, by_rank
from deltavc.formats.peft_kinds.base import Kind, Module
from deltavc.formats.peft_kinds.lora import check_rank

__all__ = ["VERA"]

ENDS = {".vera_lambda_b": "lambda_b", ".vera_lambda_d": "lambda_d"}
SHARED = {"base_model.vera_A": "a", "base_model.vera_B": "b"}
READ = {"bias", "fan_in_fan_out", "modules_to_save", "r", "save_projection"}
HARMLESS = COMMON | {"d_initial", "init_weights", "projection_prng_key", "vera_dropout"}


@dataclass(frozen=True, kw_only=True)
class VeraSettings(Settings):
    """What a VeRA config says.

    Attributes:
        rank: Columns of B and rows of A.
    """

    rank: int


def read(config: Mapping[str, Any]) -> VeraSettings:
    """Reads a VeRA config."""
    check_fields(config, HARMLESS | READ, {})
    if not flag_of(config, "save_projection", True):
        raise UnsupportedFormat(
            "the adapter was saved without its matrices ('save_projection' is false), and the"
            " random numbers that they came from are not the same everywhere",
            hint="save it again with save_projection=True",
            flag="save_projection",
        )
    return VeraSettings(
        rank=int(number_of(config, "r", 256, whole=True)),
        fan_in_fan_out=flag_of(config, "fan_in_fan_out"),
        bias=bias_of(config, "vera_only"),
        modules_to_save=names_of(config, "modules_to_save"),
    )


def items(module: Module, settings: VeraSettings) -> list[AdapterItem]:
    """Returns the change of one module."""
    if not module.parts:
        return []
    own = module.take("lambda_b", "lambda_d")
    whole = Module("vera", dict(module.shared))
    shared = whole.take("a", "b")
    a, b = shared["a"].shape, shared["b"].shape
    if len(a) != 2 or len(b) != 2 or b[1] != a[0] or not (a[1] and b[0]):
        raise whole.misfit("do not fit each other")
    check_rank("vera_A", a[0], settings.rank)
    if any(len(t.shape) != 1 or not t.count for t in own.values()) or own["lambda_d"].count != a[0]:
        raise module.misfit("are not the vectors of these matrices")
    keys, blobs = module.keys_of(own), module.blobs
    return [Vera(module.name, "weight", {**own, **shared}, keys=keys, shared=blobs)]


@dataclass(frozen=True, eq=False)
class Vera(Change):
    """diag(lambda_b) · B[:out] · diag(lambda_d) · A[:, :in]."""

    @property
    def kind(self) -> str:
        """``VeRA``."""
        return "VeRA"

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns in which ways the product fits; the shared matrices may be larger."""
        if len(shape) != 2:
            return ()
        out, most = self.parts["lambda_b"].count, self.parts["a"].shape[1]
        if out > self.parts["b"].shape[0]:
            return ()
        return tuple(t for t in (False, True) if shape[t] == out and shape[1 - t] <= most)

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter of this shape."""
        from deltavc.delta.kinds import product

        return product(
            "vera", self.parts, Fraction(1),
            shape=place.shape, transposed=place.transposed, shared=self.shared,
        )  # fmt: skip

    def result(self, place: Place) -> NDArray[np.float64]:
        """Returns the changed parameter in float64."""
        values = {part: tensor.to_float64() for part, tensor in self.parts.items()}
        inputs = place.shape[0 if place.transposed else 1]
        left = values["lambda_b"][:, None] * values["b"][: values["lambda_b"].size]
        change = by_rank(left, values["lambda_d"][:, None] * values["a"][:, :inputs])
        return np.asarray(place.values() + (change.T if place.transposed else change))


VERA = Kind("VERA", ENDS, read, items, SHARED)
