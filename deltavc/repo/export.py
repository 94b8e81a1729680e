"""A version as a PEFT adapter.

Sums of LoRAs go out as one LoRA. An adapter of another kind, with nothing added
to it or taken away, goes out as it came in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltavc.delta.kinds import Delta
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.delta.vector import ATTACHMENT, form_from_text
from deltavc.errors import ShapeMismatch, UnsupportedFormat
from deltavc.formats.peft_config import read_settings
from deltavc.formats.peft_found import rows_as_listed, write_found
from deltavc.formats.peft_write import write_adapter
from deltavc.ids import BlobId, CommitId, ObjectId
from deltavc.records import canonical
from deltavc.records.delta import ReplaceHeader
from deltavc.records.receipt import RECEIPT_FILE
from deltavc.repo import workspace
from deltavc.repo.attached import (
    PEFT_CONFIG,
    PEFT_NAMES,
    PEFT_PREFIX,
    PEFT_WEIGHTS,
    PEFT_WHOLE,
    Inventory,
    attachments,
    digest_of,
    inventory_of,
)
from deltavc.repo.receipt import seal
from deltavc.repo.results import CheckedOut
from deltavc.repo.version import Version, open_version

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["write_peft"]

Terms = list[tuple[Delta, Fraction]]


@dataclass(frozen=True)
class _Contents:
    """A version sorted into what an adapter can hold."""

    lowrank: dict[str, Terms]
    rows: dict[str, Delta]
    saved: dict[str, Tensor]
    new: dict[str, Tensor]


def write_peft(
    repo: Repository,
    commit: CommitId,
    target: Path,
    *,
    base_name: str | None = None,
    max_rank: int | None = None,
    rel_error: float | None = None,
    base_path: Path | None = None,
    extra: Mapping[str, bytes] | None = None,
    replace: bool = False,
    digests: bool = False,
    dry_run: bool = False,
) -> CheckedOut:
    """Writes a version as a folder that ``PeftModel.from_pretrained`` loads.

    Args:
        repo: The repository.
        commit: The version.
        target: The folder.
        base_name: What to write as ``base_model_name_or_path``.
        max_rank: Refuse a higher rank, or with ``rel_error`` truncate to it.
        rel_error: Largest relative error when truncating.
        base_path: Where the base's files are now.
        extra: Other files to write beside: a model card.
        replace: Take the place of a folder that is there.
        digests: Have the receipt tell what each file holds.
        dry_run: Only check.

    Returns:
        What was written.

    Raises:
        UnsupportedFormat: A parameter is not a sum of low-rank factors, and the version
            not one adapter of another kind.
        ShapeMismatch: A rank is above ``max_rank``.
    """
    started = time.monotonic()
    version = open_version(repo, commit, base_path=base_path)
    attached = attachments(repo, version.vector)
    config = _config(attached.get(PEFT_CONFIG))
    inventory = inventory_of(repo, version.vector)
    size, files = 0, ["adapter_config.json", "adapter_model.safetensors", RECEIPT_FILE]
    if inventory is not None and inventory.sum == digest_of(version.vector.params):
        _refuse_bounds(config, max_rank, rel_error)
        found = _found(version, inventory, config or {})
        tensors = len(found) if isinstance(found, dict) else 0
        if not dry_run:
            written = write_found(
                target,
                config or {},
                found,
                base_name=base_name,
                files=extra,
                seal=seal(repo, commit, "peft", digests=digests),
                replace=replace,
            )
            size, files, tensors = sum(written.sizes.values()), sorted(written.sizes), written.count
    else:
        if inventory is not None and inventory.weightless:
            raise _mixed(version, inventory.weightless)
        contents = _sort(version)
        exact = _bound(contents, max_rank, rel_error)
        if not dry_run:
            written = write_adapter(
                target,
                params=contents.lowrank,
                rows=contents.rows,
                new=contents.new,
                saved=contents.saved,
                config=_lora(config),
                prefix=attached.get(PEFT_PREFIX, b"").decode("utf-8"),
                names=_names(attached.get(PEFT_NAMES)),
                base_name=base_name,
                files=extra,
                seal=seal(repo, commit, "peft", exact=exact, digests=digests),
                split=max_rank is None,
                replace=replace,
            )
            size, files = sum(written.sizes.values()), sorted(written.sizes)
        whole = len(contents.rows) + len(contents.new) + len(contents.saved)
        tensors = 2 * len(contents.lowrank) + whole
    if not dry_run:
        workspace.remember(repo, target, commit, repo.commit(commit).manifest)
    return CheckedOut(
        commit=commit,
        target=str(target),
        form="peft",
        bytes=size,
        tensors=tensors,
        tensors_changed=len(version.vector.params),
        tensors_written=0 if dry_run else tensors,
        files=files,
        branch=None,
        head_moved=False,
        seconds=time.monotonic() - started,
        in_place=False,
        verified=False,
        dry_run=dry_run,
    )


def _found(
    version: Version, inventory: Inventory, config: dict[str, Any]
) -> dict[str, Tensor] | bytes:
    """Returns the tensors of the adapter's file as they came in, or the file itself."""
    kept = version.vector.meta.get(ATTACHMENT + PEFT_WEIGHTS)
    if kept is not None:
        return bytes(version.repo.store.get(BlobId(ObjectId(kept)), "blob"))
    tensors: dict[str, Tensor] = {}
    deltas: dict[str, Delta] = {}
    for key, (name, part) in inventory.tensors.items():
        if not part and not _has_rows(version, name):
            tensors[key] = version.tensor(name)
            continue
        if name not in deltas:
            deltas[name] = version.repo.delta(next(iter(version.vector.params[name])))
        delta = deltas[name]
        tensor = delta.tensor(part) if part else rows_as_listed(delta, config, key)
        # a vector's factors of rank 1 are the vector and the number 1
        shape = delta.shape if len(delta.shape) == 1 and part == "b" else tensor.shape
        tensors[key] = Tensor(tensor.dtype, shape, tensor.bits)
    for key, form in inventory.empty.items():
        dtype, shape = form_from_text(form)
        tensors[key] = Tensor(DTYPES[dtype], shape, np.empty(0, DTYPES[dtype].bits))
    return tensors


def _refuse_bounds(
    config: dict[str, Any] | None, max_rank: int | None, rel_error: float | None
) -> None:
    """Refuses to truncate what goes out as it came in."""
    if max_rank is not None or rel_error is not None:
        kind = str((config or {}).get("peft_type"))
        raise UnsupportedFormat(
            f"a '{kind}' adapter with these settings goes out as it came in, and its rank"
            " cannot be bounded",
            hint="leave out --max-rank and --rel-error",
            peft_type=kind,
        )


def _mixed(version: Version, kind: str) -> UnsupportedFormat:
    names = sorted(version.vector.params)
    return UnsupportedFormat(
        f"this version has changed weights beside its '{kind}' adapter, such as"
        f" '{names[0] if names else ''}': no adapter can say that",
        hint="take back one of the two: deltavc revert",
        peft_type=kind,
        parameters=names,
    )


def _lora(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns a config that a written LoRA can go by; None if it says more than factors."""
    if config is None or config.get("peft_type") != "LORA":
        return None
    return config if read_settings(config).plain else None


def _config(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return None
    config = canonical.loads_strict(data, "the kept adapter_config.json")
    return config if isinstance(config, dict) else None


def _names(data: bytes | None) -> dict[str, str]:
    return canonical.decode(data, dict[str, str]) if data is not None else {}


def _sort(version: Version) -> _Contents:
    """Sorts parameters into factors, rows, whole modules and new ones; refuses the rest by name."""
    known = version.base.record.tensors
    tied, params = version.base.checkpoint.tied, version.vector.params
    mark = ATTACHMENT + PEFT_WHOLE
    whole = {key.removeprefix(mark) for key in version.vector.meta if key.startswith(mark)}
    contents = _Contents({}, {}, {}, {})
    refused = []
    for name in sorted({*params, *whole}):
        terms = params.get(name, {})
        if name in tied and params.get(tied[name]) == params.get(name):
            continue  # one physical tensor: said once
        loaded = [(version.repo.delta(oid), c) for oid, c in terms.items()]
        if name not in known:
            contents.new[name] = version.tensor(name)
        elif loaded and all(delta.kind == "lowrank" for delta, _ in loaded):
            contents.lowrank[name] = loaded
        elif name in whole:  # also where it is the base's own: PEFT wants all of a module
            contents.saved[name] = version.tensor(name)
        elif len(loaded) == 1 and _is_rows(*loaded[0]):
            contents.rows[name] = loaded[0][0]
        else:
            refused.append(name)
    if refused or version.removed:
        names = refused or sorted(version.removed)
        what = "are not low-rank" if refused else "are missing in this version"
        raise UnsupportedFormat(
            f"{len(names)} parameters {what}, such as '{names[0]}': no LoRA can say that, and"
            " the version is not one adapter as it came in",
            hint="write full weights: deltavc checkout REV --to DIR",
            parameters=names,
        )
    if not contents.lowrank:
        raise UnsupportedFormat(
            "this version has no low-rank change that an adapter could hold",
            hint="write full weights: deltavc checkout REV --to DIR",
        )
    return contents


def _has_rows(version: Version, name: str) -> bool:
    """Tells whether a parameter is the base's with some rows replaced."""
    terms = version.vector.params.get(name, {})
    return len(terms) == 1 and _is_rows(version.repo.delta(next(iter(terms))), Fraction(1))


def _is_rows(delta: Delta, coefficient: Fraction) -> bool:
    """Tells whether a delta is an embedding's trained rows."""
    return isinstance(delta.header, ReplaceHeader) and delta.header.rows > 0 and coefficient == 1


def _bound(contents: _Contents, max_rank: int | None, rel_error: float | None) -> bool:
    """Truncates to, or refuses above, the wanted rank; tells whether all is still exact."""
    exact = True
    if rel_error is not None:
        from deltavc.delta.truncate import truncate

        for name, terms in contents.lowrank.items():
            bounded = [truncate(d, max_rank=max_rank, rel_error=rel_error)[0] for d, _ in terms]
            exact &= all(new is old for new, (old, _) in zip(bounded, terms, strict=True))
            contents.lowrank[name] = list(zip(bounded, (c for _, c in terms), strict=True))
    if max_rank is None:
        return exact
    above = {
        name: rank
        for name, terms in contents.lowrank.items()
        if (rank := sum(delta.rank for delta, _ in terms)) > max_rank
    }
    if above:
        name = next(iter(above))
        raise ShapeMismatch(
            f"{len(above)} parameters need a rank above {max_rank}, "
            f"such as '{name}' with {above[name]}",
            hint="truncate on purpose with --rel-error X, or allow a higher --max-rank",
            parameters=above,
        )
    return exact
