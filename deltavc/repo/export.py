"""A version as a PEFT adapter: what came in as LoRA goes out as LoRA."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.delta.kinds import Delta
from deltavc.delta.tensor import Tensor
from deltavc.delta.vector import ATTACHMENT
from deltavc.errors import ShapeMismatch, UnsupportedFormat
from deltavc.formats.peft_write import write_adapter
from deltavc.ids import BlobId, CommitId, ObjectId
from deltavc.records import canonical
from deltavc.records.delta import ReplaceHeader
from deltavc.repo import workspace
from deltavc.repo.attached import PEFT_CONFIG, PEFT_NAMES, PEFT_PREFIX, PEFT_WHOLE
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
    replace: bool = False,
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
        replace: Take the place of a folder that is there.
        dry_run: Only check.

    Returns:
        What was written.

    Raises:
        UnsupportedFormat: A parameter is not a sum of low-rank factors.
        ShapeMismatch: A rank is above ``max_rank``.
    """
    started = time.monotonic()
    version = open_version(repo, commit, base_path=base_path)
    attached = _attachments(repo, version)
    config = _config(attached.get(PEFT_CONFIG))
    contents = _sort(version)
    _bound(contents, max_rank, rel_error)
    prefix = attached.get(PEFT_PREFIX, b"").decode("utf-8")
    size, files = 0, ["adapter_config.json", "adapter_model.safetensors"]
    if not dry_run:
        written = write_adapter(
            target,
            params=contents.lowrank,
            rows=contents.rows,
            new=contents.new,
            saved=contents.saved,
            config=config,
            prefix=prefix,
            names=_names(attached.get(PEFT_NAMES)),
            base_name=base_name,
            split=max_rank is None,
            replace=replace,
        )
        workspace.remember(repo, target, commit, repo.commit(commit).manifest)
        size, files = sum(written.sizes.values()), sorted(written.sizes)
    whole = len(contents.rows) + len(contents.new) + len(contents.saved)
    tensors = 2 * len(contents.lowrank) + whole
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


def _attachments(repo: Repository, version: Version) -> dict[str, bytes]:
    return {
        key.removeprefix(ATTACHMENT): bytes(repo.store.get(BlobId(ObjectId(blob)), "blob"))
        for key, blob in version.vector.meta.items()
        if key.startswith(ATTACHMENT)
    }


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
            f"{len(names)} parameters {what}, such as '{names[0]}': no adapter can say that",
            hint="write full weights: deltavc checkout REV --to DIR",
            parameters=names,
        )
    if not contents.lowrank:
        raise UnsupportedFormat(
            "this version has no low-rank change that an adapter could hold",
            hint="write full weights: deltavc checkout REV --to DIR",
        )
    return contents


def _is_rows(delta: Delta, coefficient: Fraction) -> bool:
    """Tells whether a delta is an embedding's trained rows."""
    return isinstance(delta.header, ReplaceHeader) and delta.header.rows > 0 and coefficient == 1


def _bound(contents: _Contents, max_rank: int | None, rel_error: float | None) -> None:
    """Truncates to, or refuses above, the wanted rank."""
    if rel_error is not None:
        from deltavc.delta.truncate import truncate

        for name, terms in contents.lowrank.items():
            bounded = [truncate(d, max_rank=max_rank, rel_error=rel_error)[0] for d, _ in terms]
            contents.lowrank[name] = list(zip(bounded, (c for _, c in terms), strict=True))
    if max_rank is None:
        return
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
