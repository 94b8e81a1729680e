"""A version as an adapter that vLLM serves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta, lowrank
from deltavc.delta.tensor import Tensor
from deltavc.delta.vector import ATTACHMENT
from deltavc.errors import NonFiniteTensor, ShapeMismatch
from deltavc.formats.vllm import (
    CONFIG_FILE,
    MAX_RANKS,
    WEIGHTS_FILE,
    VllmAdapter,
    build_vllm,
    refuse,
    write_vllm,
)
from deltavc.ids import BlobId, CommitId, ObjectId
from deltavc.records import canonical
from deltavc.records.receipt import RECEIPT_FILE, EnergyLost, ServedAdapter
from deltavc.repo import workspace
from deltavc.repo.attached import PEFT_CONFIG, refuse_weightless
from deltavc.repo.receipt import seal
from deltavc.repo.results import CheckedOut
from deltavc.repo.version import Version, open_version

if TYPE_CHECKING:
    from deltavc.records.model import BaseTensor
    from deltavc.repo.repository import Repository

__all__ = ["write_for_vllm"]

Terms = dict[str, list[tuple[Delta, Fraction]]]
Energy = dict[str, tuple[float, float]]
# Modules of these models keep their weights as (in, out).
CONV1D_MODELS = ("decision_transformer", "gpt2", "imagegpt", "openai-gpt")
EMBEDDINGS = ("shared", "wpe", "wte")  # and every module that has "embed" in its name
NOT_LOW_RANK = "the change is not low-rank"
STEP = 1 << 20


def write_for_vllm(
    repo: Repository,
    commit: CommitId,
    target: Path,
    *,
    base_name: str | None = None,
    max_rank: int | None = None,
    rel_error: float | None = None,
    pad_rank: int | None = None,
    base_path: Path | None = None,
    extra: Mapping[str, bytes] | None = None,
    replace: bool = False,
    dry_run: bool = False,
) -> CheckedOut:
    """Writes a version as a folder that vLLM loads as a LoRA.

    Args:
        repo: The repository.
        commit: The version.
        target: The folder.
        base_name: What the server calls the base; default: what the adapter's own
            config said.
        max_rank: Refuse a higher rank, or with ``rel_error`` truncate to it.
        rel_error: Approximate what is not low-rank, or of a higher rank, within this
            relative error of each parameter.
        pad_rank: Fill all factors up to this rank.
        base_path: Where the base's files are now.
        extra: Other files to write beside: a model card.
        replace: Take the place of a folder that is there.
        dry_run: Only check.

    Returns:
        What was written, and what it cost.

    Raises:
        UnsupportedFormat: Parameters that such an adapter has no place for, by name.
        ShapeMismatch: A rank is above what is allowed.
        UsageError: The base's name is not known.
    """
    started = time.monotonic()
    version = open_version(repo, commit, base_path=base_path)
    refuse_weightless(repo, version.vector, "vLLM would serve the base alone")
    config = _kept_config(repo, version)
    limit = min(r for r in (max_rank, pad_rank, MAX_RANKS[-1]) if r is not None)
    params, energy = _sort(version, limit, rel_error)
    task = config.get("task_type")
    adapter = build_vllm(
        params,
        base_name=base_name or str(config.get("base_model_name_or_path") or ""),
        prefix=version.prefix,
        task=task if isinstance(task, str) else None,
        max_rank=max_rank,
        rel_error=rel_error,
        pad_rank=pad_rank,
        lost=energy,
    )
    size, sums, files = 0, {}, [CONFIG_FILE, WEIGHTS_FILE, RECEIPT_FILE]
    if not dry_run:
        sealed = seal(
            repo,
            commit,
            "vllm",
            exact=not adapter.rounded and not adapter.lost,
            adapter=_served(adapter),
            digests=True,
        )
        written = write_vllm(target, adapter, files=extra, seal=sealed, replace=replace)
        workspace.remember(repo, target, commit, repo.commit(commit).manifest)
        size, sums = sum(written.sizes.values()), written.sha256
        files = sorted(written.sizes)
    return _result(commit, target, adapter, size, sums, files, version, started, dry_run=dry_run)


def _served(adapter: VllmAdapter) -> ServedAdapter:
    return ServedAdapter(
        base_model_name_or_path=adapter.config["base_model_name_or_path"],
        rank=adapter.rank,
        max_lora_rank=adapter.server_rank,
        rounded=list(adapter.rounded),
        energy_lost=EnergyLost(adapter.lost_total, dict(adapter.lost)),
    )


def _result(
    commit: CommitId,
    target: Path,
    adapter: VllmAdapter,
    size: int,
    sums: dict[str, str],
    files: list[str],
    version: Version,
    started: float,
    *,
    dry_run: bool,
) -> CheckedOut:
    return CheckedOut(
        commit=commit,
        target=str(target),
        form="vllm",
        bytes=size,
        tensors=len(adapter.tensors),
        tensors_changed=len(version.vector.params),
        tensors_written=0 if dry_run else len(adapter.tensors),
        files=files,
        branch=None,
        head_moved=False,
        seconds=time.monotonic() - started,
        in_place=False,
        verified=False,
        dry_run=dry_run,
        rank=adapter.rank,
        sha256=sums,
        rounded=list(adapter.rounded),
        energy_lost=dict(adapter.lost),
        energy_lost_total=adapter.lost_total,
    )


def _kept_config(repo: Repository, version: Version) -> dict[str, Any]:
    """Returns the config of the adapter that a version came from; {} without one."""
    blob = version.vector.meta.get(ATTACHMENT + PEFT_CONFIG)
    if blob is None:
        return {}
    data = bytes(repo.store.get(BlobId(ObjectId(blob)), "blob"))
    config = canonical.loads_strict(data, "the kept adapter_config.json")
    return config if isinstance(config, dict) else {}


def _sort(version: Version, limit: int, rel_error: float | None) -> tuple[Terms, Energy]:
    """Returns low-rank terms of every changed parameter; refuses by name what has no place."""
    known, tied = version.base.record.tensors, version.base.checkpoint.tied
    reasons: dict[str, list[str]] = {}
    params: Terms = {}
    others: list[str] = []
    for name, terms in version.vector.params.items():
        if tied.get(name) in version.vector.params:
            continue  # one physical tensor, told of under its main name
        loaded = [(version.repo.delta(oid), c) for oid, c in terms.items()]
        low_rank = all(delta.kind == "lowrank" for delta, _ in loaded)
        why = _no_place(version, name, known, low_rank=low_rank)
        if why is None and not low_rank and rel_error is None:
            why = NOT_LOW_RANK
        if why is not None:
            reasons.setdefault(why, []).append(name)
        elif low_rank:
            params[name] = loaded
        else:
            others.append(name)
    if version.removed:
        reasons["the version lacks it"] = sorted(version.removed)
    if reasons:
        alone = list(reasons) == [NOT_LOW_RANK]
        hint = "approximate on purpose: --rel-error X" if alone else None
        names = [name for found in reasons.values() for name in found]
        raise refuse(names, "; ".join(sorted(reasons)), hint=hint)
    energy: Energy = {}
    for name in others:  # only when nothing is refused: this reads whole tensors
        delta, energy[name] = _approximated(version, name, limit, rel_error or 0.0)
        params[name] = [(delta, Fraction(1))]
    return params, energy


def _no_place(
    version: Version, name: str, known: Mapping[str, BaseTensor], *, low_rank: bool
) -> str | None:
    """Returns why a parameter has no place in an adapter, however it changed."""
    ties = version.base.checkpoint.tied
    if name not in known:
        return "the base lacks it, and saved modules are not taken"
    if not name.endswith(".weight") or len(known[name].shape) != 2:
        return "it is not the weight of a linear layer"
    if name in ties or name in ties.values():
        return "it is tied to another weight, which the server would leave as it was"
    module = name.split(".")[-2]
    if not low_rank and ("embed" in module or module in EMBEDDINGS):
        return "it is an embedding"
    return None


def _approximated(
    version: Version, name: str, limit: int, rel_error: float
) -> tuple[Delta, tuple[float, float]]:
    """Returns a low-rank delta near a change, the energy that it leaves out, and that of all."""
    from deltavc.delta.lossy import approximate

    before, after = version.base.tensor(name), version.tensor(name)
    if not before.dtype.arithmetic or before.dtype is not after.dtype:
        raise refuse([name], "its dtype has no differences")
    if not (before.is_finite() and after.is_finite()):
        raise NonFiniteTensor(f"'{name}' holds NaN or infinity", parameter=name)
    delta, error = approximate(before, after, max_rank=limit, rel_error=rel_error)
    if error > rel_error:
        raise ShapeMismatch(
            f"'{name}' needs a rank above {limit} to stay within a relative error of"
            f" {rel_error:g}: at {limit} it is {error:.3g}",
            hint="allow a higher --max-rank or a larger --rel-error",
            parameters={name: error},
        )
    whole = 0.0
    for at in range(0, before.count, STEP):
        old, new = (_values(tensor, at) for tensor in (before, after))
        whole += float(np.sum(np.square(new - old)))
    return _turned(version, name, delta), (error**2 * whole, whole)


def _values(tensor: Tensor, at: int) -> NDArray[np.float64]:
    bits = tensor.bits[at : at + STEP]
    return Tensor(tensor.dtype, bits.shape, bits).to_float64()


def _turned(version: Version, name: str, delta: Delta) -> Delta:
    """Returns a delta in the orientation of its layer: some models keep weights as (in, out)."""
    model = version.base.checkpoint.config.get("model_type")
    if model not in CONV1D_MODELS or not name.split(".")[-2].startswith("c_"):
        return delta
    b, a = (_transposed(delta.factor(factor)) for factor in ("b", "a"))
    return lowrank(a, b, delta.scale, shape=delta.shape, transposed=True)


def _transposed(tensor: Tensor) -> Tensor:
    rows, columns = tensor.shape
    bits = tensor.bits.reshape(rows, columns).T.copy()
    return Tensor(tensor.dtype, (columns, rows), bits.reshape(-1))
