"""LoHa and LoKr: Hadamard and Kronecker products of small matrices.

Both scale by alpha / r. What a convolution's factors look like depends on
``use_effective_conv2d`` and on the kernel; the file's tensors tell which it was.
"""

from __future__ import annotations

import math
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
    LoraSettings,
    check_fields,
    names_of,
    number_of,
    patterns_of,
)
from deltavc.formats.peft_items import AdapterItem, Change, Place, by_rank
from deltavc.formats.peft_kinds.base import Kind, Module
from deltavc.formats.peft_kinds.lora import check_rank

__all__ = ["LOHA", "LOKR"]

Array = NDArray[np.float64]

READ = {"alpha", "alpha_pattern", "modules_to_save", "r", "rank_pattern"}
HARMLESS = COMMON | {"init_weights", "module_dropout", "rank_dropout", "use_effective_conv2d"}
LOKR_HARMLESS = HARMLESS | {"decompose_both", "decompose_factor", "rank_dropout_scale"}
HADAMARD = {
    ".hada_w1_a": "w1a",
    ".hada_w1_b": "w1b",
    ".hada_w2_a": "w2a",
    ".hada_w2_b": "w2b",
    ".hada_t1": "t1",
    ".hada_t2": "t2",
}
KRONECKER = {
    ".lokr_w1": "w1",
    ".lokr_w1_a": "w1a",
    ".lokr_w1_b": "w1b",
    ".lokr_w2": "w2",
    ".lokr_w2_a": "w2a",
    ".lokr_w2_b": "w2b",
    ".lokr_t2": "t2",
}


def _read(config: Mapping[str, Any], harmless: set[str]) -> LoraSettings:
    check_fields(config, harmless | READ, {})
    return LoraSettings(
        rank=int(number_of(config, "r", 8, whole=True)),
        alpha=number_of(config, "alpha", 8),
        modules_to_save=names_of(config, "modules_to_save"),
        ranks=patterns_of(config, "rank_pattern", whole=True),
        alphas=patterns_of(config, "alpha_pattern", whole=False),
    )


def read_loha(config: Mapping[str, Any]) -> LoraSettings:
    """Reads a LoHa config."""
    return _read(config, HARMLESS)


def read_lokr(config: Mapping[str, Any]) -> LoraSettings:
    """Reads a LoKr config."""
    return _read(config, LOKR_HARMLESS)


def loha_items(module: Module, settings: LoraSettings) -> list[AdapterItem]:
    """Returns the change of one module."""
    if not module.parts:
        return []
    tucker = {"t1", "t2"} & set(module.parts)
    parts = module.take("w1a", "w1b", "w2a", "w2b", *(("t1", "t2") if tucker else ()))
    shape = {part: tensor.shape for part, tensor in parts.items()}
    rank = parts["w1b"].shape[0] if parts["w1b"].shape else 0
    check_rank(module.name, rank, settings.rank_of(module.name))
    if tucker:
        fits = all(len(shape[f"t{i}"]) == 4 and shape[f"t{i}"][:2] == (rank, rank) for i in (1, 2))
        fits = fits and shape["t1"] == shape["t2"]
        fits = fits and all(len(shape[p]) == 2 and shape[p][0] == rank for p in HALVES)
        fits = fits and shape["w1a"] == shape["w2a"] and shape["w1b"] == shape["w2b"]
        out, columns = shape["w1a"][-1], shape["w1b"][-1] * math.prod(shape["t1"][2:])
    else:
        fits = all(len(shape[p]) == 2 for p in HALVES)
        fits = fits and shape["w1a"] == shape["w2a"] and shape["w1b"] == shape["w2b"]
        fits = fits and shape["w1a"][1] == rank
        out, columns = shape["w1a"][0], shape["w1b"][-1]
    if not fits or not all(tensor.count for tensor in parts.values()):
        raise module.misfit("do not fit each other")
    scale = settings.scale_of(module.name, rank)
    keys = module.keys_of(parts)
    return [Loha(module.name, "weight", parts, scale, (out, columns), keys=keys)]


HALVES = ("w1a", "w1b", "w2a", "w2b")


@dataclass(frozen=True, eq=False)
class _Product(Change):
    """A matrix in a factored form, reshaped to the parameter.

    Attributes:
        scale: alpha / r.
        matrix: Its shape.
    """

    scale: Fraction
    matrix: tuple[int, int]

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns the one way in which it fits a linear layer or a convolution."""
        fits = len(shape) >= 2 and (shape[0], math.prod(shape[1:])) == self.matrix
        return (False,) if fits else ()

    def product(self) -> Array:
        """Returns the change without its scale, rows by columns, sums in a fixed order."""
        raise NotImplementedError

    def result(self, place: Place) -> Array:
        """Returns the changed parameter in float64."""
        change = self.product().reshape(place.shape)
        return np.asarray(place.values() + change * float(self.scale))


@dataclass(frozen=True, eq=False)
class Loha(_Product):
    """(w1a · w1b) ∘ (w2a · w2b); with t1 and t2 both sides in Tucker form."""

    @property
    def kind(self) -> str:
        """``LoHa``."""
        return "LoHa"

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter of this shape."""
        from deltavc.delta.kinds import product

        if "t1" in self.parts:
            raise UnsupportedFormat(
                f"the Tucker form of '{self.name}' has products of four numbers",
                hint="train it without use_effective_conv2d",
            )
        layer = _layer(place.shape)
        return product("hadamard", self.parts, self.scale, shape=place.shape, layer=layer)

    def product(self) -> Array:
        """Returns the Hadamard product of the two matrices."""
        sides = []
        for i in (1, 2):
            a, b = (self.parts[f"w{i}{x}"].to_float64() for x in "ab")
            t = self.parts[f"t{i}"].to_float64() if "t1" in self.parts else None
            sides.append(by_rank(a, b) if t is None else _tucker(t, a, b))
        return np.asarray(sides[0] * sides[1])


def _layer(shape: tuple[int, ...]) -> str:
    return "linear" if len(shape) == 2 else "conv"


def _tucker(t: Array, a: Array, b: Array) -> Array:
    """Returns Σ_ij a[i, p] · t[i, j, …] · b[j, q] as (p, q · …), term by term."""
    middle = t.reshape(*t.shape[:2], -1)
    total = np.zeros((a.shape[1], b.shape[1] * middle.shape[2]))
    for i in range(t.shape[0]):
        inner = np.zeros((b.shape[1], middle.shape[2]))
        for j in range(t.shape[1]):
            inner += b[j, :, None] * middle[i, j]
        total += a[i, :, None] * inner.reshape(-1)
    return total


def lokr_items(module: Module, settings: LoraSettings) -> list[AdapterItem]:
    """Returns the change of one module."""
    if not module.parts:
        return []
    first = ("w1",) if "w1" in module.parts else ("w1a", "w1b")
    second: tuple[str, ...] = ("w2",) if "w2" in module.parts else ("w2a", "w2b")
    if "t2" in module.parts:
        second = (*second, "t2")
    parts = module.take(*first, *second)
    if set(parts) != set(module.parts) or not all(t.count for t in parts.values()):
        raise module.misfit("do not go together")
    rank = settings.rank_of(module.name)
    outer, inner = _operands(module, rank)
    scale = settings.scale_of(module.name, rank)
    matrix = (outer[0] * inner[0], outer[1] * math.prod(inner[1:]))
    keys = module.keys_of(parts)
    return [Lokr(module.name, "weight", parts, scale, matrix, keys=keys)]


def _operands(module: Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shapes of the two operands, checked against each other and the rank."""
    shape = {part: tensor.shape for part, tensor in module.parts.items()}
    found: list[tuple[int, ...]] = []
    for side in ("w1", "w2"):
        if side in shape:
            found.append(shape[side])
            continue
        a, b = shape[f"{side}a"], shape[f"{side}b"]
        if len(a) != 2 or len(b) != 2:
            raise module.misfit("do not fit each other")
        tucker = shape.get("t2") if side == "w2" else None
        ranks = (a[0], b[0], *tucker[:2]) if tucker is not None else (a[1], b[0])
        if len(set(ranks)) > 1 or (tucker is not None and len(tucker) != 4):
            raise module.misfit("do not fit each other")
        check_rank(module.name, ranks[0], rank)
        found.append((a[1], b[1], *tucker[2:]) if tucker is not None else (a[0], b[1]))
    outer, inner = found
    if len(outer) != 2 or not 2 <= len(inner) <= 4:
        raise module.misfit("do not fit each other")
    return outer, inner


@dataclass(frozen=True, eq=False)
class Lokr(_Product):
    """kron(w1, w2), each of the two whole, a product, or (w2) in Tucker form."""

    @property
    def kind(self) -> str:
        """``LoKr``."""
        return "LoKr"

    @property
    def _interleaved(self) -> bool:
        """Whether w2 is a whole Conv1d kernel: PEFT pairs its dimensions with others of w1."""
        return "w2" in self.parts and len(self.parts["w2"].shape) == 3

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter of this shape."""
        from deltavc.delta.kinds import product

        if self._interleaved:
            raise UnsupportedFormat(
                f"the kernel of '{self.name}' is not one Kronecker product of matrices",
                hint="train it with a smaller r",
            )
        layer = _layer(place.shape)
        return product("kron", self.parts, self.scale, shape=place.shape, layer=layer)

    def product(self) -> Array:
        """Returns the Kronecker product."""
        values = {part: tensor.to_float64() for part, tensor in self.parts.items()}
        w1 = values["w1"] if "w1" in values else by_rank(values["w1a"], values["w1b"])
        if "t2" in values:
            w2 = _tucker(values["t2"], values["w2a"], values["w2b"])
        else:
            w2 = values["w2"] if "w2" in values else by_rank(values["w2a"], values["w2b"])
        if self._interleaved:  # (1, a, c) with (o, i, k): what torch.kron does with it
            return np.asarray(np.kron(w1[None], w2)).reshape(self.matrix)
        return np.asarray(np.kron(w1, w2.reshape(w2.shape[0], -1)))


LOHA = Kind("LOHA", HADAMARD, read_loha, loha_items)
LOKR = Kind("LOKR", KRONECKER, read_lokr, lokr_items)
