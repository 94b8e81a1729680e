"""The verbs ``base add``, ``list``, ``show``, ``verify`` and ``remove``: frozen models."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.codec.digest import object_id
from deltavc.codec.frames import Part
from deltavc.errors import (
    BaseUnavailable,
    NameTaken,
    Protected,
    UnknownRevision,
)
from deltavc.formats.files import kind_of, shown
from deltavc.ids import BaseId, ObjectId, check_name, short
from deltavc.records import canonical
from deltavc.records.model import Base, BaseSource, FileInfo
from deltavc.records.receipt import RECEIPT_FILE
from deltavc.repo.openbase import (
    describe,
    differences,
    file_infos,
    fingerprint,
    quick_match,
    remember,
    source_path,
    stamps_of,
)
from deltavc.repo.results import BaseInfo, BaseVerified, TensorDifference

if TYPE_CHECKING:
    from deltavc.formats.checkpoint import Checkpoint
    from deltavc.repo.repository import Repository

__all__ = ["add", "list_", "remove", "show", "verify"]


def add(
    repo: Repository,
    name: str,
    path: Path,
    *,
    source: str | None = None,
    copy: bool = False,
    dry_run: bool = False,
) -> BaseInfo:
    """Registers a frozen model by the fingerprint of its tensors.

    Args:
        repo: The repository.
        name: What to call it.
        path: A Hugging Face folder or a safetensors file.
        source: Where it came from, for the record.
        copy: Keep a copy in the repository instead of a reference.
        dry_run: Fingerprint and report only.

    Returns:
        The base; ``changed`` is False when it was registered just so.

    Raises:
        NameTaken: The name stands for another base.
        BaseUnavailable: There is nothing at the path.
    """
    from deltavc.formats.checkpoint import open_checkpoint

    check_name(name, "base")
    if kind_of(path) is None:
        raise BaseUnavailable(f"there is no file or folder '{shown(path)}'", hint="check the path")
    started = time.monotonic()
    checkpoint = open_checkpoint(path)
    stamps = stamps_of(checkpoint, path)
    record = fingerprint(repo, checkpoint)
    base = BaseId(object_id("base", [canonical.encode(record)]))
    _check_name_free(repo, name, base)
    copied = copy and not dry_run
    where = _copy_in(repo, base, path, checkpoint) if copied else path
    if RECEIPT_FILE in checkpoint.ignored:
        repo.warnings.append(
            f"'{RECEIPT_FILE}' of base '{name}' is left out: checkouts have deltavc's own receipt"
            " under that name"
        )
    registered = BaseSource(
        base=base,
        path=_recorded_path(repo, where),
        weights=tuple(weights.name for weights in checkpoint.layout),
        files=file_infos(checkpoint.files) if dry_run else _keep(repo, checkpoint),
        source=source,
        copied=copy,
    )
    changed = True
    with repo.change("base add") as change:
        _check_name_free(repo, name, base)
        if not dry_run:
            repo.put_record("base", record)
            oid = repo.put_record("basesource", registered)
            _warn_of_files(repo, name, registered)
            change.summary = f"base {name} is {short(base)}"
            change.set(f"base:{name}", oid)
            changed = bool(change.ref_changes())
            if changed:
                change.touch(base, oid)
    if not dry_run and not copied:
        remember(repo, base, path.absolute(), stamps, checkpoint)
    return _info(name, record, registered, str(where), time.monotonic() - started, changed)


def _keep(repo: Repository, checkpoint: Checkpoint) -> dict[str, FileInfo]:
    """Stores the files that go with a base, for versions to have when its folder has others."""
    with repo.store.pack() as pack:
        kept = file_infos(checkpoint.files, lambda data: pack.add("blob", [Part(data)]))
        pack.finish()
    return kept


def _warn_of_files(repo: Repository, name: str, registered: BaseSource) -> None:
    """Warns where a base registered anew has other files: all of its versions get them."""
    before = repo.base_names(repo.state()).get(name)
    old = before.files if before is not None else registered.files
    names = {*old, *registered.files}
    other = sorted(n for n in names if old.get(n) != registered.files.get(n))
    if other:
        repo.warnings.append(
            f"base '{name}' has other files than before, such as '{other[0]}': "
            "what was committed without files of its own is checked out with these"
        )


def list_(repo: Repository) -> list[BaseInfo]:
    """Returns the registered bases by name."""
    return [show(repo, name) for name in repo.base_names(repo.state())]


def show(repo: Repository, name: str, *, tensors: bool = False) -> BaseInfo:
    """Returns a registered base.

    Args:
        repo: The repository.
        name: Its name.
        tensors: Also list its tensors.

    Returns:
        The base.

    Raises:
        UnknownRevision: There is none of this name.
    """
    source = _named(repo, name)
    record = repo.base(source.base)
    rows: list[dict[str, Any]] | None = None
    if tensors:
        rows = [
            {"name": n, "dtype": t.dtype, "shape": list(t.shape), "sha256": t.sha256}
            for n, t in sorted(record.tensors.items())
        ]
    return _info(name, record, source, str(source_path(repo, source)), 0.0, False, rows)


def verify(
    repo: Repository, name: str | None = None, *, path: Path | None = None, quick: bool = False
) -> list[BaseVerified]:
    """Checks whether folders still hold the registered bases.

    Args:
        repo: The repository.
        name: Only this base; default: all.
        path: Check this folder instead of the registered one.
        quick: Compare size, time and inode with those last hashed; says so in the answer.

    Returns:
        One outcome a base; a folder that is gone raises.

    Raises:
        UnknownRevision: There is no such base.
        BaseUnavailable: The files are gone.
    """
    names = [name] if name is not None else list(repo.base_names(repo.state()))
    return [_verify_one(repo, one, path, quick) for one in names]


def _verify_one(repo: Repository, name: str, path: Path | None, quick: bool) -> BaseVerified:
    from deltavc.formats.checkpoint import open_checkpoint

    source = _named(repo, name)
    where = path or source_path(repo, source)
    if kind_of(where) is None:
        raise BaseUnavailable(
            f"base '{name}' is not at '{shown(where)}'" + (" any more" if path is None else ""),
            hint=f"say where it is: deltavc base add {name} PATH",
            base=source.base,
        )
    started = time.monotonic()
    record = repo.base(source.base)
    checkpoint = open_checkpoint(where)
    is_quick = quick and quick_match(repo, source.base, where, checkpoint)
    wrong = []
    if not is_quick:
        stamps = stamps_of(checkpoint, where)
        wrong = differences(record, fingerprint(repo, checkpoint))
        if not wrong and path is None:
            remember(repo, source.base, where, stamps, checkpoint)
    return BaseVerified(
        name=name,
        fingerprint=source.base,
        path=str(where),
        quick=is_quick,
        ok=not wrong,
        tensors=len(record.tensors),
        bytes=_bytes(record),
        seconds=time.monotonic() - started,
        differences=[
            TensorDifference(name=n, expected=describe(a), found=describe(b)) for n, a, b in wrong
        ],
    )


def remove(repo: Repository, name: str, *, dry_run: bool = False) -> BaseInfo:
    """Forgets a base's name and place.

    Args:
        repo: The repository.
        name: The base.
        dry_run: Only check.

    Returns:
        The base as it was.

    Raises:
        UnknownRevision: There is none of this name.
        Protected: A commit needs it and no other name stands for it.
    """
    info = show(repo, name)
    with repo.change("base remove") as change:
        source = _named(repo, name)
        others = [n for n, s in repo.base_names(change.state).items() if s.base == source.base]
        needed = repo.reader().commits_of_base(source.base)
        if needed and others == [name]:
            raise Protected(
                f"base '{name}' is needed by {len(needed)} commits, such as {short(needed[0])}",
                hint="a base can go when no commit stands on it",
                base=source.base,
                commits=len(needed),
            )
        if not dry_run:
            change.summary = f"remove base {name}"
            change.set(f"base:{name}", None)
    return info


def _named(repo: Repository, name: str) -> BaseSource:
    value = repo.state().refs.get(f"base:{name}")
    if value is None:
        raise UnknownRevision(
            f"no base is called '{name}'", hint="list the bases: deltavc base list", base=name
        )
    return repo.base_source(ObjectId(value))


def _check_name_free(repo: Repository, name: str, base: BaseId) -> None:
    value = repo.state().refs.get(f"base:{name}")
    if value is not None and (found := repo.base_source(ObjectId(value)).base) != base:
        raise NameTaken(
            f"'{name}' is base {short(found)}, and this is {short(base)}",
            hint="give the new one another name",
            name=name,
            expected=found,
            found=base,
        )


def _recorded_path(repo: Repository, path: Path) -> str:
    absolute = path.absolute()
    try:
        return absolute.relative_to(repo.root).as_posix()
    except ValueError:
        return str(absolute)


def _copy_in(repo: Repository, base: BaseId, path: Path, checkpoint: Checkpoint) -> Path:
    """Copies weights and companions into the repository, whole and on disk or not at all."""
    from deltavc.formats.writer_stage import stage_folder

    target = repo.layout.bases / base
    if target.exists():
        return target
    folder = path if path.is_dir() else path.parent
    wanted = {weights.name: folder / weights.name for weights in checkpoint.layout}
    index = {p.name: p for p in sorted(folder.glob("*.index.json")) if path.is_dir()}
    try:
        with stage_folder(target, replace=False, durable=True) as stage:
            for name, file in {**wanted, **index, **checkpoint.files}.items():
                (stage.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, stage.path / name)
            stage.publish()
    except NameTaken:
        pass  # another process copied the same base meanwhile
    return target


def _bytes(record: Base) -> int:
    from deltavc.delta.tensor import DTYPES

    total = 0
    for tensor in record.tensors.values():
        count = 1
        for dim in tensor.shape:
            count *= dim
        total += count * DTYPES[tensor.dtype].size
    return total


def _info(
    name: str,
    record: Base,
    source: BaseSource,
    path: str,
    seconds: float,
    changed: bool,
    rows: list[dict[str, Any]] | None = None,
) -> BaseInfo:
    return BaseInfo(
        name=name,
        fingerprint=source.base,
        path=path,
        source=source.source,
        copied=source.copied,
        tensors=len(record.tensors),
        bytes=_bytes(record),
        seconds=seconds,
        changed=changed,
        tensor_list=rows,
    )
