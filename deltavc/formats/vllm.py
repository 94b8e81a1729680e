"""Writes a folder that vLLM serves as a LoRA.

vLLM reads ``r``, ``lora_alpha`` and ``target_modules`` of the config and scales every
layer by alpha / r; patterns of ranks and alphas are ignored without a word, saved
modules and DoRA are refused, and a rank above its ``--max-lora-rank`` as well. So
all layers get one rank, shorter factors filled up with zeros, and alpha equal to
it; scales go into B. Modules have the names that the base's files have, since a
module whose name the server does not know is served without its adapter. The
file-system resolver takes an adapter only if ``base_model_name_or_path`` is, as a
text, the name that the server was started with.

Zeros change nothing, and with one rank and equal flags for every version a
compiled model takes one version after another (PEFT's hot-swap).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from deltavc.delta.kinds import Delta, lowrank
from deltavc.delta.tensor import Tensor
from deltavc.delta.truncate import truncate
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UnsupportedFormat, UsageError
from deltavc.formats.writer import Written, write_folder
from deltavc.formats.writer_lora import LoraLayer, fold
from deltavc.formats.writer_plan import FolderPlan, Held, Planned, PlannedFile, Seal, layout

__all__ = ["MAX_RANKS", "VllmAdapter", "WrittenVllm", "build_vllm", "refuse", "write_vllm"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
KEY_PREFIX = "base_model.model."
SHOWN = 5
MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as ``--max-lora-rank``."""

Terms = Mapping[str, Sequence[tuple[Delta, Fraction]]]


@dataclass(frozen=True)
class VllmAdapter:
    """An adapter in memory.

    Attributes:
        config: What ``adapter_config.json`` says.
        tensors: The tensors by key.
        rank: The one rank.
        rounded: Parameters whose scale could not be folded into B exactly.
        lost: Share of the change's energy (its squared norm) that an approximation
            left out, by parameter.
        lost_total: The same of the whole version.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    rank: int
    rounded: tuple[str, ...] = ()
    lost: Mapping[str, float] = field(default_factory=dict)
    lost_total: float = 0.0

    @property
    def server_rank(self) -> int:
        """The least ``--max-lora-rank`` that a server must be started with."""
        return next(rank for rank in MAX_RANKS if rank >= self.rank)


@dataclass
class WrittenVllm(Written):
    """What was written.

    Attributes:
        sha256: SHA-256 of the adapter's two files.
    """

    sha256: dict[str, str] = field(default_factory=dict)


def refuse(names: Iterable[str], why: str, *, hint: str | None = None) -> UnsupportedFormat:
    """Returns the refusal of parameters that vLLM has no place for."""
    found = sorted(names)
    shown = ", ".join(f"'{name}'" for name in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return UnsupportedFormat(
        f"{shown}{more} cannot be served as LoRA by vLLM: {why}",
        hint=hint or "write full weights: deltavc checkout REV --to DIR",
        parameters=found,
    )


def build_vllm(
    params: Terms,
    *,
    base_name: str,
    prefix: str = "",
    task: str | None = None,
    max_rank: int | None = None,
    rel_error: float | None = None,
    pad_rank: int | None = None,
    lost: Mapping[str, tuple[float, float]] | None = None,
) -> VllmAdapter:
    """Makes one LoRA of one rank out of low-rank deltas.

    Args:
        params: Low-rank deltas and coefficients of each changed weight, by its name in
            the base.
        base_name: ``base_model_name_or_path``: what the server calls the base.
        prefix: What the model's names have in front of the base's.
        task: ``task_type`` for PEFT.
        max_rank: Refuse a higher rank, or with ``rel_error`` truncate to it.
        rel_error: Largest relative error of a parameter when truncating.
        pad_rank: Fill up to this rank, the same for every version that is to be
            exchanged for another; default: the largest that there is.
        lost: Energy left out and energy in all of parameters that were approximated
            before, by name.

    Returns:
        The adapter.

    Raises:
        UsageError: The base has no name, or a rank is below 1.
        UnsupportedFormat: A parameter has no place in such an adapter.
        ShapeMismatch: A rank is above what is allowed.
        NonFiniteTensor: A factor, or its product with its scale, is not finite.
    """
    if not base_name:
        raise UsageError(
            "vLLM finds an adapter by the name of its base, and none is known",
            hint="say what the server is started with: --base-name TEXT",
        )
    if not any(params.values()):
        raise refuse([], "this version has no low-rank change")
    limit = _limit(max_rank, pad_rank)
    energy = dict(lost or {})
    layers: dict[str, LoraLayer] = {}
    for name, terms in params.items():
        if terms:
            layers[name] = _layer(name, terms, limit, rel_error, energy)
    rank = _one_rank(layers, limit, pad_rank)
    modules = {name: prefix + name.removesuffix(".weight") for name in layers}
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        _check_finite(name, layer)
        tensors |= _tensors(modules[name], layer, rank)
    total = sum(whole for _, whole in energy.values())
    total += sum(_energy(layer) for name, layer in layers.items() if name not in energy)
    missed = {name: part / whole if whole else 0.0 for name, (part, whole) in energy.items()}
    return VllmAdapter(
        _config(sorted(modules.values()), layers.values(), rank, base_name, task),
        tensors,
        rank,
        tuple(sorted(name for name, layer in layers.items() if layer.rounded)),
        {name: _told(share) for name, share in sorted(missed.items()) if share},
        _told(sum(part for part, _ in energy.values()) / total) if total else 0.0,
    )


def write_vllm(
    target: Path,
    adapter: VllmAdapter,
    *,
    files: Mapping[str, bytes] | None = None,
    seal: Seal | None = None,
    replace: bool = False,
) -> WrittenVllm:
    """Writes an adapter as a folder.

    Args:
        target: The folder that is to be.
        adapter: The adapter.
        files: Other files of the folder.
        seal: The file that is made last, and says what the folder is.
        replace: Take the place of a folder that is there.

    Returns:
        What was written.

    Raises:
        NameTaken: The target is there and not to be replaced.
        RepositoryUnwritable: Disk full, read-only, no permission.
    """
    weights = PlannedFile(
        WEIGHTS_FILE,
        {"format": "pt"},
        [Planned(k, t.dtype, t.shape, Held.later(t)) for k, t in _in_order(adapter.tensors)],
    )
    config = json.dumps(adapter.config, indent=2, sort_keys=True).encode()
    sums = {
        CONFIG_FILE: hashlib.sha256(config).hexdigest(),
        WEIGHTS_FILE: _sha256(weights, adapter.tensors),
    }
    plan = FolderPlan([weights], {**(files or {}), CONFIG_FILE: config}, seal)
    done = write_folder(target, plan, replace=replace)
    return WrittenVllm(**vars(done), sha256=sums)


def _limit(max_rank: int | None, pad_rank: int | None) -> int:
    for option, value in (("--max-rank", max_rank), ("--pad-rank", pad_rank)):
        if value is not None and value < 1:
            raise UsageError(f"{option} must be at least 1")
    if pad_rank is not None and pad_rank > MAX_RANKS[-1]:
        raise ShapeMismatch(
            f"a rank of {pad_rank} is above {MAX_RANKS[-1]}, the largest that vLLM takes",
            hint=f"pad to {MAX_RANKS[-1]} or less",
            expected=MAX_RANKS[-1],
            found=pad_rank,
        )
    return min(rank for rank in (max_rank, pad_rank, MAX_RANKS[-1]) if rank is not None)


def _layer(
    name: str,
    terms: Sequence[tuple[Delta, Fraction]],
    limit: int,
    rel_error: float | None,
    energy: dict[str, tuple[float, float]],
) -> LoraLayer:
    """Returns the folded layer of one parameter, truncated where that is asked for."""
    if not name.endswith(".weight") or name == ".weight":
        raise refuse([name], "it is not the weight of a module")
    layer = fold(terms)
    if layer.kind == "conv":
        raise refuse([name], "it is a convolution")
    if rel_error is None or name in energy:
        return layer
    _check_finite(name, layer)
    shape = terms[0][0].shape
    flip = layer.kind == "embedding" or layer.transposed
    whole = lowrank(layer.b, layer.a, Fraction(1), shape=shape, transposed=flip, layer=layer.kind)
    least, error = truncate(whole, rel_error=rel_error, max_rank=limit)
    if error > rel_error:
        raise ShapeMismatch(
            f"'{name}' needs a rank above {limit} to stay within a relative error of"
            f" {rel_error:g}: at {limit} it is {error:.3g}",
            hint="allow a higher --max-rank or a larger --rel-error",
            parameters={name: error},
        )
    if least is whole:
        return layer
    before = _energy(layer)
    energy[name] = error**2 * before, before
    return fold([(least, Fraction(1))])


def _one_rank(layers: Mapping[str, LoraLayer], limit: int, pad_rank: int | None) -> int:
    above = {name: layer.rank for name, layer in layers.items() if layer.rank > limit}
    if above:
        name = next(iter(above))
        raise ShapeMismatch(
            f"{len(above)} parameters need a rank above {limit}, such as '{name}' with"
            f" {above[name]}",
            hint="truncate on purpose with --rel-error X, or allow a higher rank"
            f" (vLLM takes up to {MAX_RANKS[-1]})",
            parameters=above,
        )
    return pad_rank if pad_rank is not None else max(layer.rank for layer in layers.values())


def _check_finite(name: str, layer: LoraLayer) -> None:
    if not (layer.a.is_finite() and layer.b.is_finite()):
        raise NonFiniteTensor(
            f"the factors of '{name}', or their product with the scale, are not finite",
            parameter=name,
        )


def _tensors(module: str, layer: LoraLayer, rank: int) -> dict[str, Tensor]:
    """Returns the factors of a module, filled up with zeros."""
    a, b = layer.a, layer.b
    more = rank - layer.rank
    if more:
        zeros = np.zeros(more * a.shape[1], dtype=a.dtype.bits)
        a = Tensor(a.dtype, (rank, a.shape[1]), np.concatenate([a.bits, zeros]))
        wide = np.zeros((b.shape[0], rank), dtype=b.dtype.bits)
        wide[:, : layer.rank] = b.bits.reshape(b.shape)
        b = Tensor(b.dtype, (b.shape[0], rank), wide.reshape(-1))
    if layer.kind == "embedding":
        return {
            f"{KEY_PREFIX}{module}.lora_embedding_A": a,
            f"{KEY_PREFIX}{module}.lora_embedding_B": b,
        }
    return {
        f"{KEY_PREFIX}{module}.lora_A.weight": a,
        f"{KEY_PREFIX}{module}.lora_B.weight": b,
    }


def _config(
    modules: list[str], layers: Iterable[LoraLayer], rank: int, base_name: str, task: str | None
) -> dict[str, Any]:
    """Returns a config in which nothing but the modules depends on the version."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": any(layer.transposed for layer in layers),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": modules,
        "task_type": task,
        "use_dora": False,
        "use_rslora": False,
    }


def _in_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Returns tensors in the order of the reference writer: wide elements first, then by name."""
    return sorted(tensors.items(), key=lambda item: (-item[1].dtype.size, item[0]))


def _sha256(weights: PlannedFile, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(layout(weights).header)
    for planned in weights.tensors:
        digest.update(tensors[planned.name].raw())
    return digest.hexdigest()


def _told(share: float) -> float:
    """Returns a share to four digits: the rest depends on the order in which sums were taken."""
    return float(f"{share:.4g}")


def _energy(layer: LoraLayer) -> float:
    """Returns ‖B @ A‖² from the two small Gram matrices."""
    b, a = layer.b.to_float64(), layer.a.to_float64()
    return max(0.0, float(np.sum((b.T @ b) * (a @ a.T)))) if math.prod(b.shape) else 0.0
