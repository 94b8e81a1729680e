"""LoRA: low-rank factors; with DoRA a trained length of each output's weights beside them.

Also what LoRA has for biases (``lora_bias``) and for parameters that are no
module's weight (``target_parameters``: the fused experts of a mixture).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta, lowrank
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UnsafeFile, UnsupportedFormat
from deltavc.formats.files import shown
from deltavc.formats.peft_config import LoraSettings, read_settings
from deltavc.formats.peft_items import AdapterItem, Change, Factors, Place, by_rank
from deltavc.formats.peft_kinds.base import Kind, Module

__all__ = ["LORA", "Experts", "factors"]

ENDS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "b_bias",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".lora_magnitude_vector": "m",
    ".lora_magnitude_vector.weight": "m",  # as PEFT named it before 0.14
}


def read(config: Mapping[str, Any]) -> LoraSettings:
    """Reads a LoRA config."""
    return read_settings(dict(config))


def items(module: Module, settings: LoraSettings) -> list[AdapterItem]:
    """Returns the changes of one module."""
    if settings.parameters and (found := _experts(module, settings)):
        return found
    pairs = [p for p in (("a", "b"), ("embedding_a", "embedding_b")) if set(p) & set(module.parts)]
    if len(pairs) > 1:
        raise UnsafeFile(
            f"the adapter has '{shown(module.name)}' both as embedding and as linear layer",
            module=shown(module.name),
        )
    made: list[AdapterItem] = []
    for a, b in pairs:
        made.append(_weight(module, a, b, settings))
    if ("b_bias" in module.parts) != (settings.lora_bias and pairs[:1] == [("a", "b")]):
        raise _contradicted(module, "lora_bias", "b_bias" in module.parts)
    if "b_bias" in module.parts:
        made.append(_bias(module, settings))
    return made


def _weight(module: Module, a: str, b: str, settings: LoraSettings) -> Factors:
    if (a in module.parts) != (b in module.parts):
        raise UnsafeFile(
            f"the adapter holds one of two factors of '{shown(module.name)}'",
            module=shown(module.name),
        )
    found = factors(module, a, b, settings)
    if ("m" in module.parts) != settings.dora:
        raise _contradicted(module, "use_dora", "m" in module.parts)
    if not settings.dora:
        return found
    m = module.take("m")["m"]
    shapes = {(found.b.shape[0],), (1, found.b.shape[0], *(1 for _ in found.a.shape[2:]))}
    if m.shape not in shapes:
        raise module.misfit("do not fit each other")
    parts = {**found.parts, "m": m}
    keys = {**found.keys, "m": module.keys["m"]}
    return Dora(module.name, "weight", parts, found.scale, found.form, keys=keys)


def _contradicted(module: Module, flag: str, held: bool) -> UnsupportedFormat:
    told = f"holds '{shown(module.name)}' as adapters with '{flag}' do"
    if not held:
        told = f"lacks of '{shown(module.name)}' what adapters with '{flag}' have"
    return UnsupportedFormat(
        f"the adapter {told}, and its config says otherwise",
        hint="take config and weights of the same adapter",
        flag=flag,
        module=shown(module.name),
    )


def factors(module: Module, a_part: str, b_part: str, settings: LoraSettings) -> Factors:
    """Returns the low-rank factors of a module.

    Args:
        module: The module.
        a_part: The part that is A.
        b_part: The part that is B.
        settings: Rank and alpha.

    Returns:
        The factors.

    Raises:
        ShapeMismatch: They do not fit each other or the config.
        UnsupportedFormat: Integers, or a grouped convolution.
    """
    name, embedding = module.name, a_part == "embedding_a"
    a, b = module.parts[a_part], module.parts[b_part]
    shapes = f"A {a.shape} and B {b.shape} of '{shown(name)}'"
    if not (a.dtype.arithmetic and b.dtype.arithmetic):
        raise UnsupportedFormat(
            f"the factors of '{shown(name)}' are {b.dtype.name} and {a.dtype.name}",
            hint="deltavc reads factors in F16, BF16, F32 and F64",
        )
    fits = len(a.shape) >= 2 and len(a.shape) == len(b.shape) and a.count and b.count
    if not fits or any(dim != 1 for dim in b.shape[2:]) or (embedding and len(a.shape) > 2):
        raise ShapeMismatch(f"{shapes} are not factors", module=shown(name))
    rank = a.shape[0]
    if len(a.shape) > 2 and b.shape[1] != rank and rank % b.shape[1] == 0:
        raise UnsupportedFormat(
            f"'{shown(name)}' is a grouped convolution, and its factors have no product",
            hint="leave grouped convolutions out of target_modules",
            module=shown(name),
        )
    if b.shape[1] != rank:
        raise ShapeMismatch(f"{shapes} have no common rank", module=shown(name))
    check_rank(name, rank, settings.rank_of(name))
    layer = "embedding" if embedding else "linear" if len(a.shape) == 2 else "conv"
    keys = {part: module.keys[key] for part, key in (("b", b_part), ("a", a_part))}
    return Factors(
        name, "weight", {"b": b, "a": a}, settings.scale_of(name, rank), layer, keys=keys
    )


def check_rank(module: str, found: int, said: int) -> None:
    """Refuses a rank that is not the config's.

    Raises:
        ShapeMismatch: It is not.
    """
    if found != said:
        raise ShapeMismatch(
            f"'{shown(module)}' has rank {found}, and the adapter's config says {said}",
            hint="take config and weights of the same adapter",
            module=shown(module),
            expected=said,
            found=found,
        )


@dataclass(frozen=True, eq=False)
class Dora(Factors):
    """Low-rank factors, and the length that each output's weights have after them (``m``)."""

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter of this shape; the norms are the base's and its."""
        from deltavc.delta.dora import gains, weigh
        from deltavc.delta.kinds import dora

        m, turned = self.parts["m"], place.transposed
        gain = gains(place.origin(), self.b, self.a, m, self.scale, transposed=turned)
        return dora(
            self.b, self.a, m, gain if weigh(self.b, self.a, m) else None, self.scale,
            shape=place.shape, transposed=turned, layer=self.layer,
        )  # fmt: skip

    def result(self, place: Place) -> NDArray[np.float64]:
        """Refuses it: there is no delta where a norm is zero, and no number either."""
        raise NonFiniteTensor(
            f"an output of '{self.name}' has weights that are all zero, and DoRA divides by their"
            f" length (shape {list(place.shape)})",
            tensor=self.name,
        )


def _bias(module: Module, settings: LoraSettings) -> AdapterItem:
    """Returns what ``lora_bias`` adds to a bias: the scale times B's own."""
    bias = module.take("b_bias")["b_bias"]
    b = module.parts["b"]
    if bias.shape != b.shape[:1]:
        raise module.misfit("do not fit each other")
    rank = module.parts["a"].shape[0]
    column = Tensor(bias.dtype, (bias.count, 1), bias.bits)
    one = Tensor.from_array(np.ones((1, 1), dtype="<f4"))
    return BiasFactors(
        module.name, "bias", {"b": column, "a": one},
        settings.scale_of(module.name, rank), "linear", keys={"b": module.keys["b_bias"]},
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class BiasFactors(Factors):
    """A vector that is added to a bias, as factors of rank 1: itself and the number 1."""

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns the one way in which it fits a vector."""
        return (False,) if shape == self.b.shape[:1] else ()


# parameters without a module of their own --------------------------------------


def _experts(module: Module, settings: LoraSettings) -> list[AdapterItem]:
    """Returns the changes of a module whose parameters are adapted themselves; none of others.

    PEFT wraps a module once for each of its parameters, in the order in which
    the module registered them, and each wrapper is the next one's base_layer.
    The file tells the depth only; which parameter that is, the base's shapes tell.
    """
    dotted = f".{module.name}." if module.name else "."
    names = sorted(
        {
            leaf
            for path, dot, leaf in (target.rpartition(".") for target in settings.parameters)
            if not dot or dotted.endswith(f".{path}.")
        }
    )
    depths = sorted(
        int(p.partition("@")[2] or 0) for p in module.parts if p.partition("@")[0] == "a"
    )
    if names == ["weight"] or not names or not depths:
        return []
    held = {p for i in depths for p in ((f"a@{i}", f"b@{i}") if i else ("a", "b"))}
    if set(module.parts) != held:
        raise module.misfit("are not those of the config's 'target_parameters'")
    return [_expert(module, depth, tuple(names), settings) for depth in depths]


def _expert(
    module: Module, depth: int, names: tuple[str, ...], settings: LoraSettings
) -> AdapterItem:
    a, b = (f"{part}@{depth}" if depth else part for part in "ab")
    parts = {"b": module.take(a, b)[b], "a": module.parts[a]}
    if any(len(t.shape) != 2 or not t.count for t in parts.values()):
        raise module.misfit("are not factors")
    if parts["b"].shape[1] != parts["a"].shape[0]:
        raise module.misfit("have no common rank")
    rank = settings.rank_of(module.name)
    keys = {"b": module.keys[b], "a": module.keys[a]}
    scale = settings.scale_of(module.name, rank)
    return Experts(module.name, "", parts, scale, rank, names, depth, keys=keys)


@dataclass(frozen=True, eq=False)
class Experts(Change):
    """Low-rank factors of each expert of a fused parameter.

    Attributes:
        scale: alpha / r.
        rank: The rank of one expert's factors.
        names: The parameters that it can be.
        depth: How deep PEFT wrapped it; the outermost wrapper is 0.
        turned: Whether the parameter is transposed, where its shape does not tell.

    Shapes:
        a: (experts · r, in), expert by expert; b: (out, r · experts), rank by rank. The
        parameter is (experts, out, in), or transposed (experts, in, out); or it is (out, in).
    """

    scale: Fraction
    rank: int
    names: tuple[str, ...]
    depth: int
    turned: bool | None = None

    @property
    def plain(self) -> AdapterItem:
        """The same factors as those of a module's weight."""
        keys, layer = self.keys, "linear"
        return Factors(self.module, "weight", self.parts, self.scale, layer, keys=keys)

    @property
    def kind(self) -> str:
        """``experts``."""
        return "experts"

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns in which ways the experts' products fit a parameter."""
        out, count = self.parts["b"].shape[0], self.parts["a"].shape[0]
        product = (out, self.parts["a"].shape[1])
        if len(shape) == 2:
            return (False,) if shape == product and count == self.rank else ()
        if len(shape) != 3 or count != self.rank * shape[0]:
            return ()
        known = (False, True) if self.turned is None else (self.turned,)
        return tuple(t for t in known if shape[1:] == (product[::-1] if t else product))

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a matrix, or on a stack of them."""
        if len(place.shape) == 2:
            return lowrank(self.parts["b"], self.parts["a"], self.scale, shape=place.shape)
        from deltavc.delta.kinds import product

        return product(
            "experts", self.parts, self.scale, shape=place.shape, transposed=place.transposed
        )

    def pieces(self, place: Place) -> Iterator[NDArray[np.float64]]:
        """Yields expert by expert: its weights, and the sum over its ranks one by one."""
        base, (count, *shape) = place.origin(), place.shape
        b, a = self.parts["b"].to_float64(), self.parts["a"].to_float64()
        b = b.reshape(b.shape[0], self.rank, count)
        a = a.reshape(count, self.rank, a.shape[1]) * float(self.scale)
        size = shape[0] * shape[1]
        for expert in range(count):
            bits = base.bits[expert * size : (expert + 1) * size]
            change = by_rank(b[:, :, expert], a[expert])
            values = Tensor(base.dtype, tuple(shape), bits).to_float64()
            yield values + (change.T if place.transposed else change)


LORA = Kind("LORA", ENDS, read, items)
