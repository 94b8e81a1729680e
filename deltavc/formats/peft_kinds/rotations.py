"""OFT, BOFT and HRA: weights whose inputs are rotated.

The rotation is a function of the tensors in the file, told in
:mod:`deltavc.delta.rotations`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.fits import oft_block
from deltavc.delta.kinds import Delta
from deltavc.errors import UnsupportedFormat
from deltavc.formats.peft_config import (
    COMMON,
    Settings,
    bias_of,
    check_fields,
    flag_of,
    misplaced,
    names_of,
    number_of,
)
from deltavc.formats.peft_items import AdapterItem, Change, Place
from deltavc.formats.peft_kinds.base import Kind, Module
from deltavc.formats.peft_kinds.lora import check_rank

__all__ = ["BOFT", "HRA", "OFT"]

Array = NDArray[np.float64]
OFT_ENDS = {".oft_R.weight": "r", ".oft_embedding_R.weight": "embedding_r"}
OFT_READ = {
    "bias", "block_share", "coft", "eps", "fan_in_fan_out", "modules_to_save",
    "num_cayley_neumann_terms", "oft_block_size", "r", "use_cayley_neumann",
}  # fmt: skip
OFT_HARMLESS = COMMON | {"init_weights", "module_dropout"}
BOFT_READ = {"bias", "boft_n_butterfly_factor", "fan_in_fan_out", "modules_to_save"}
# Sizes that the tensors' shapes tell as well, after PEFT has adjusted them.
BOFT_HARMLESS = COMMON | {"boft_block_num", "boft_block_size", "boft_dropout", "init_weights"}
HRA_READ = {"apply_GS", "bias", "modules_to_save", "r"}
HRA_HARMLESS = COMMON | {"init_weights"}
MAX_TERMS = 64
SERIES_SINCE = (0, 18)  # PEFT before it computed another series from the same numbers


@dataclass(frozen=True, kw_only=True)
class OftSettings(Settings):
    """What an OFT config says about the rotations.

    Attributes:
        terms: Terms of the truncated series; 0 for the whole Cayley transform.
        share: All blocks are one.
        ball: How large a block may be (COFT), of all blocks together; None for any size.
    """

    terms: int
    share: bool
    ball: float | None


def read_oft(config: Mapping[str, Any]) -> OftSettings:
    """Reads an OFT config."""
    check_fields(config, OFT_HARMLESS | OFT_READ, {})
    if "oft_block_size" not in config:
        raise UnsupportedFormat(
            "the adapter lacks 'oft_block_size', as those of PEFT before 0.14 do",
            hint="merge it with the PEFT that it was trained with, then commit the full model",
            flag="oft_block_size",
        )
    terms = 0
    if flag_of(config, "use_cayley_neumann", True):
        terms = int(number_of(config, "num_cayley_neumann_terms", 5, whole=True))
        if terms > MAX_TERMS:
            misplaced("num_cayley_neumann_terms")
        _check_version(config.get("peft_version"))
    ball = float(number_of(config, "eps", 6e-5)) if flag_of(config, "coft") else None
    if ball is not None and ball <= 0:
        misplaced("eps")
    return OftSettings(
        terms=terms,
        share=flag_of(config, "block_share"),
        ball=ball,
        fan_in_fan_out=flag_of(config, "fan_in_fan_out"),
        bias=bias_of(config, "oft_only"),
        modules_to_save=names_of(config, "modules_to_save"),
    )


def _check_version(version: Any) -> None:
    """Refuses an adapter whose series was another one when it was trained."""
    parts = str(version).partition("@")[0].split(".")[:2]
    told = len(parts) == 2 and all(part.isdecimal() and len(part) < 6 for part in parts)
    if told and tuple(int(part) for part in parts) >= SERIES_SINCE:
        return
    raise UnsupportedFormat(
        "the adapter's 'peft_version' is below 0.18, where 'use_cayley_neumann' meant another"
        " rotation",
        hint="merge it with the PEFT that it was trained with, then commit the full model",
        flag="peft_version",
    )


def oft_items(module: Module, settings: OftSettings) -> list[AdapterItem]:
    """Returns the rotation of one module; none where blocks of one element cannot turn."""
    if not module.parts:
        return []
    if len(module.parts) > 1:
        raise module.misfit("are of an embedding and of another layer")
    part = next(iter(module.parts))
    tensor = module.take(part)[part]
    if len(tensor.shape) != 2 or not tensor.shape[0] or not oft_block(tensor.shape[1]):
        raise module.misfit("are no blocks")
    if settings.share and tensor.shape[0] != 1:
        raise module.misfit("are not one block, as the config's 'block_share' says")
    if not tensor.count or (settings.terms == 1):
        return []
    params = {"terms": settings.terms, "share": int(settings.share)}
    if settings.ball is not None:
        params["ball"] = _radius(settings.ball, tensor.shape[0])
    keys, embedding = {"r": module.keys[part]}, part == "embedding_r"
    return [Rotated(module.name, "weight", {"r": tensor}, "oft", params, embedding, keys=keys)]


def _radius(ball: float, count: int) -> int:
    """Returns the bits of the size that one of some blocks may have.

    PEFT takes the root and divides in float32, and by way of the reciprocal.
    """
    size = (np.float32(1) / np.sqrt(np.float32(count))) * np.float32(ball)
    return int(np.float64(size).view(np.uint64))


def read_boft(config: Mapping[str, Any]) -> Settings:
    """Reads a BOFT config; how many factors there are, the tensors tell."""
    check_fields(config, BOFT_HARMLESS | BOFT_READ, {})
    number_of(config, "boft_n_butterfly_factor", 1, whole=True)
    return Settings(
        fan_in_fan_out=flag_of(config, "fan_in_fan_out"),
        bias=bias_of(config, "boft_only"),
        modules_to_save=names_of(config, "modules_to_save"),
    )


def boft_items(module: Module, _settings: Settings) -> list[AdapterItem]:
    """Returns the rotation of one module, with the scale of its outputs."""
    if not module.parts:
        return []
    parts = module.take("r", "s")
    r, s = parts["r"].shape, parts["s"].shape
    if len(r) != 4 or r[2] != r[3] or not parts["r"].count or len(s) != 2 or 1 not in s:
        raise module.misfit("are no blocks and no scale")
    return [Rotated(module.name, "weight", parts, "boft", {}, keys=module.keys_of(parts))]


@dataclass(frozen=True, kw_only=True)
class HraSettings(Settings):
    """What an HRA config says.

    Attributes:
        rank: How many reflections there are.
        orthogonal: Their vectors are made orthogonal first.
    """

    rank: int
    orthogonal: bool


def read_hra(config: Mapping[str, Any]) -> HraSettings:
    """Reads an HRA config."""
    check_fields(config, HRA_HARMLESS | HRA_READ, {})
    return HraSettings(
        rank=int(number_of(config, "r", 8, whole=True)),
        orthogonal=flag_of(config, "apply_GS"),
        bias=bias_of(config, "hra_only"),
        modules_to_save=names_of(config, "modules_to_save"),
    )


def hra_items(module: Module, settings: HraSettings) -> list[AdapterItem]:
    """Returns the reflections of one module."""
    if not module.parts:
        return []
    parts = module.take("u")
    if len(parts["u"].shape) != 2 or not parts["u"].count:
        raise module.misfit("are no vectors")
    check_rank(module.name, parts["u"].shape[1], settings.rank)
    params = {"orthogonal": 1} if settings.orthogonal else {}
    return [Rotated(module.name, "weight", parts, "hra", params, keys=module.keys_of(parts))]


@dataclass(frozen=True, eq=False)
class Rotated(Change):
    """A weight whose inputs are rotated.

    Attributes:
        form: oft, boft or hra.
        params: The form's parameters.
        embedding: The layer is an embedding: its vectors are rotated, the other way round.
    """

    form: str
    params: Mapping[str, int]
    embedding: bool = False

    @property
    def kind(self) -> str:
        """``OFT``, ``BOFT`` or ``HRA``."""
        return self.form.upper()

    @property
    def layer(self) -> str:
        """What it is to the reader of orientations: PEFT rotates no transposed weights."""
        return "embedding" if self.embedding else "conv"

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns the one way in which the blocks fit a weight's columns."""
        from deltavc.delta.fits import rotation_fits

        shapes = {part: tensor.shape for part, tensor in self.parts.items()}
        if len(shape) < 2 or (self.embedding and len(shape) != 2):
            return ()
        fits = rotation_fits(self.form, shapes, self.params, shape[0], math.prod(shape[1:]))
        return (False,) if fits else ()

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter of this shape."""
        from deltavc.delta.kinds import rightmul

        params = {**self.params, "direct": int(self.embedding)} if self.embedding else self.params
        return rightmul(self.form, self.parts, params, shape=place.shape)


OFT = Kind("OFT", OFT_ENDS, read_oft, oft_items)
BOFT = Kind("BOFT", {".boft_R": "r", ".boft_s": "s"}, read_boft, boft_items)
HRA = Kind("HRA", {".hra_u": "u"}, read_hra, hra_items)
