"""The verb ``commit``: what a person trained becomes a version.

formats opens the source, delta encodes it against the base, the store takes
one pack, the event log one event, the catalog its rows. The heavy part runs
before the lock is taken; under it only the commit record is added and the pack
finished.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.delta.vector import Vector
from deltavc.errors import (
    BaseMismatch,
    BaseUnavailable,
    RefMoved,
    UnknownRevision,
    UnsupportedFormat,
    UsageError,
)
from deltavc.formats.files import kind_of, open_regular, shown
from deltavc.ids import BaseId, CommitId, ManifestId, ObjectId, check_name
from deltavc.records.model import Commit, DataRef, Measurement, Source, split_series
from deltavc.repo import signing, workspace
from deltavc.repo.change import TOOL, Change
from deltavc.repo.encoding import (
    Encoding,
    Options,
    Selection,
    encode_checkpoint,
)
from deltavc.repo.encoding_adapter import encode_adapter
from deltavc.repo.objects import ObjectSink
from deltavc.repo.openbase import OpenBase, open_base
from deltavc.repo.repository import HEAD, branch_ref
from deltavc.repo.results import Committed, SignatureRow

if TYPE_CHECKING:
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository

__all__ = ["About", "commit", "data_ref", "record_version"]

KINDS = ("auto", "peft", "checkpoint")


@dataclass(frozen=True)
class About:
    """What goes with a commit besides the model.

    Attributes:
        message: Why, in the person's words.
        labels: Free key and value.
        data: Training data; its fingerprint is kept.
        kpis: Measured values.
        run: The training run.
        source: What it was read from.
        errors: Measured relative errors of approximated parameters.
        contents: Parameters by kind.
        recipe: How a merge came about.
        sign: Sign the commit, also where the settings do not say so.
    """

    message: str
    labels: Mapping[str, str] = field(default_factory=dict)
    data: tuple[DataRef, ...] = ()
    kpis: Mapping[str, float] = field(default_factory=dict)
    run: str | None = None
    source: Source | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    contents: Mapping[str, int] = field(default_factory=dict)
    recipe: ObjectId | None = None
    sign: bool = False


def commit(
    repo: Repository,
    source: Path | None = None,
    *,
    message: str,
    kind: str = "auto",
    base: str | None = None,
    stack: bool = False,
    max_rank: int | None = None,
    rel_error: float | None = None,
    effort: str = "default",
    params: Sequence[str] = (),
    exclude: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    data: Sequence[Path] = (),
    kpis: Mapping[str, float] | None = None,
    run: str | None = None,
    allow_pickle: bool = False,
    dry_run: bool = False,
    branch: str | None = None,
    sign: bool = False,
) -> Committed:
    """Records what the model is.

    A commit replaces HEAD's model by the base plus the source, except with
    ``stack``. Without ``max_rank`` and ``rel_error`` it is exact: checkout gives
    the committed bits back.

    Args:
        repo: The repository.
        source: A PEFT folder, a safetensors file or a Hugging Face folder;
            default: the workspace.
        message: Message.
        kind: auto, peft or checkpoint.
        base: Name of the base, where there are several.
        stack: The source is an adapter trained on HEAD's model.
        max_rank: Store low-rank factors of at most this rank: approximate.
        rel_error: Store low-rank factors within this relative error: approximate.
        effort: fast, default or max.
        params: Only parameters that fit one of these globs.
        exclude: Not those that fit one of these.
        labels: Free labels.
        data: Files whose fingerprint is kept.
        kpis: Measurements to record at once; NaN is kept as such.
        run: The training run.
        allow_pickle: Read a pickle with the weights-only loader.
        dry_run: Report what would be stored; write nothing.
        branch: Record on this branch and leave HEAD where it is; a new one starts
            from HEAD. What is told of HEAD then holds for the branch.
        sign: Sign the commit with the configured key.

    Returns:
        What was recorded; ``changed`` is False when HEAD holds it already.

    Raises:
        UsageError: Options that do not go together.
        BaseMismatch: The source belongs to another base.
        RefMoved: HEAD moved, and the commit depends on where it stood.
        SigningFailed: The key cannot sign; nothing is recorded.
    """
    started = time.monotonic()
    options = Options(effort, max_rank, rel_error, Selection(tuple(params), tuple(exclude)))
    _check(options, message, stack)
    _check_values(kind, labels or {}, kpis or {})
    if branch is not None:
        check_name(branch, "branch")
    signing.ready(repo, sign)
    where = _source(repo, source)
    lay = workspace.held(repo, where) if where == repo.workspace else None
    state = repo.state()
    head = _tip(repo, state, branch)
    with ExitStack() as stack_of:
        pack = None if dry_run else stack_of.enter_context(repo.store.pack())
        sink = ObjectSink(repo.store, pack)
        opened, encoding, origin = _encode(
            repo, where, kind, _choose_base(repo, base, head), head, options, sink,
            stack=stack, allow_pickle=allow_pickle,
        )  # fmt: skip
        about = About(
            message=message,
            labels=dict(labels or {}),
            data=tuple(data_ref(path) for path in data),
            kpis=dict(kpis or {}),
            run=run,
            source=origin,
            errors=encoding.errors,
            contents=encoding.contents(),
            sign=sign,
        )
        signatures: list[SignatureRow] = []
        depends = stack or not options.selection.everything
        if dry_run or pack is None:
            oid, changed = None, head is None or repo.vector(head) != encoding.vector
        else:
            with repo.change("commit") as change:
                now = _tip(repo, change.state, branch)
                if depends and now != head:
                    raise RefMoved(
                        f"{branch or HEAD} moved while the commit was made on top of it",
                        expected=head,
                        found=now,
                    )
                vector = encoding.vector
                oid, changed = record_version(repo, change, sink, vector, about, branch=branch)
                signatures = change.signatures
                if sink.ids:  # also objects that HEAD needs and the store had lost
                    pack.finish()
    if not dry_run and where == repo.workspace:
        whole = origin.kind == "checkpoint" and options.selection.everything
        workspace.retell(repo, where, lay, oid if whole and not encoding.errors else None)
    return Committed(
        commit=oid if changed else head,
        branch=branch if branch is not None else repo.head_branch(state),
        message=message,
        source=origin.kind,
        base=opened.id,
        base_name=opened.name,
        changed=changed,
        parameters=len(encoding.vector.params),
        kinds=encoding.kinds(),
        bytes_read=origin.bytes_read,
        bytes_stored=sink.stored if changed else 0,
        model_bytes=encoding.model_bytes,
        exact=not encoding.errors,
        errors=dict(encoding.errors),
        measurements={k: None if v != v else v for k, v in about.kpis.items()},
        seconds=time.monotonic() - started,
        dry_run=dry_run,
        ignored=encoding.ignored,
        signature=signatures[0] if signatures else None,
    )


def record_version(
    repo: Repository,
    change: Change,
    sink: ObjectSink,
    vector: Vector,
    about: About,
    *,
    parents: tuple[CommitId, ...] | None = None,
    expected_head: CommitId | None = None,
    branch: str | None = None,
) -> tuple[CommitId | None, bool]:
    """Adds manifest, commit and measurements to the sink and moves HEAD's branch, under the lock.

    Args:
        repo: The repository.
        change: The open change.
        sink: Takes the objects.
        vector: The version.
        about: Message and the rest.
        parents: Parents; default: HEAD.
        expected_head: Where HEAD must stand, when the version was computed from it.
        branch: A branch to move instead of HEAD's; its tip, or HEAD where it is new,
            then stands for HEAD.

    Returns:
        The commit's id and whether there is anything new to record.

    Raises:
        RefMoved: HEAD stands somewhere else than expected.
        SigningFailed: The key cannot sign.
    """
    head = _tip(repo, change.state, branch)
    if expected_head is not None and head != expected_head:
        raise RefMoved("HEAD moved while the command ran", expected=expected_head, found=head)
    manifest = ManifestId(sink.record("manifest", vector.to_manifest()))
    if head is not None and parents is None and repo.commit(head).manifest == manifest:
        _measure(repo, change, sink, head, about.kpis)
        if branch is not None and branch_ref(branch) not in change.state.refs:
            change.set(branch_ref(branch), head)
        return head, False
    record = Commit(
        manifest=manifest,
        base=vector.base,
        author=repo.session.actor,
        time=change.time,
        message=about.message,
        tool=TOOL,
        parents=parents if parents is not None else ((head,) if head is not None else ()),
        source=about.source,
        labels=dict(about.labels),
        data=about.data,
        run=about.run,
        errors=dict(about.errors),
        contents=dict(about.contents),
        recipe=about.recipe,
    )
    oid = CommitId(sink.record("commit", record))
    if about.sign or repo.session.signing.always:
        signing.sign(repo, change, "commit", oid, record, sink=sink)
    _measure(repo, change, sink, oid, about.kpis)
    onto = branch if branch is not None else repo.head_branch(change.state)
    change.set(HEAD if onto is None else branch_ref(onto), oid)
    change.summary = f"{change.command} {oid[:10]}: {about.message.partition(chr(10))[0][:60]}"
    change.note("commits", oid)
    stats = change.detail.setdefault("stats", {})
    before = sum(one["stored"] for one in stats.values())  # by earlier commits of this change
    stats[oid] = {"params": len(vector.params), "stored": sink.stored - before}
    change.touch(*sink.ids)
    return oid, True


def _tip(repo: Repository, state: State, branch: str | None) -> CommitId | None:
    """Returns the commit that a new one is made on: a branch's tip, or HEAD."""
    tip = state.refs.get(branch_ref(branch)) if branch is not None else None
    return CommitId(ObjectId(tip)) if tip else repo.head_commit(state)


def _measure(
    repo: Repository, change: Change, sink: ObjectSink, oid: CommitId, kpis: Mapping[str, float]
) -> None:
    """Records values that were measured on a commit."""
    for name, value in sorted(kpis.items()):
        kpi, part = split_series(name)
        number = None if value != value else float(value)  # 1 and 1.0 are one record
        measured = Measurement(oid, kpi, number, repo.session.actor, change.time, slice=part)
        record = sink.record("measurement", measured)
        change.note("measurements", record)
        change.touch(record)
        change.summary = f"{change.command} {name} of {oid[:10]}"


def _check(options: Options, message: str, stack: bool) -> None:
    if not message.strip():
        raise UsageError("a commit needs a message", hint='deltavc commit PATH -m "why"')
    if options.max_rank is not None and options.max_rank < 1:
        raise UsageError("--max-rank must be at least 1", max_rank=options.max_rank)
    if options.rel_error is not None and not 0 <= options.rel_error < 1:
        raise UsageError("--rel-error must lie in 0 to 1", rel_error=options.rel_error)
    if stack and not options.selection.everything:
        raise UsageError("--stack cannot be combined with --param or --exclude")


def _check_values(kind: str, labels: Mapping[str, str], kpis: Mapping[str, float]) -> None:
    if kind not in KINDS:
        raise UsageError(
            f"'{kind[:20]}' is not a kind of source", hint=f"kinds: {', '.join(KINDS)}"
        )
    if "" in labels or "" in kpis:
        raise UsageError("a label or KPI needs a name", hint="--label KEY=VALUE, --kpi NAME=VALUE")
    endless = [name for name, value in kpis.items() if math.isinf(value)]
    if endless:
        raise UsageError(
            f"KPI '{endless[0]}' is infinite, which is no measurement",
            hint="record a value that could not be measured as nan",
            kpi=endless[0],
        )


def _source(repo: Repository, source: Path | None) -> Path:
    if source is None:
        if repo.workspace is None or not repo.workspace.exists():
            raise UsageError(
                "there is no workspace to commit from, and no SOURCE was given",
                hint="deltavc commit PATH -m TEXT",
            )
        return repo.workspace
    if kind_of(source) is None:
        raise UnsupportedFormat(
            f"there is no file or folder '{shown(source)}'", hint="check the path"
        )
    return source


def _choose_base(repo: Repository, name: str | None, head: CommitId | None) -> BaseId:
    bases = repo.base_names(repo.state())
    if name is not None:
        if name not in bases:
            raise UnknownRevision(
                f"no base is called '{name}'", hint="list the bases: deltavc base list", base=name
            )
        return bases[name].base
    if not bases:
        raise BaseUnavailable(
            "no base is registered",
            hint="register the frozen model first: deltavc base add NAME PATH",
        )
    fingerprints = {source.base for source in bases.values()}
    if len(fingerprints) == 1:
        return fingerprints.pop()
    if head is not None:
        return repo.commit(head).base
    raise UsageError(
        f"there are several bases: {', '.join(bases)}", hint="say which one: --base NAME"
    )


def _encode(
    repo: Repository,
    where: Path,
    kind: str,
    base: BaseId,
    head: CommitId | None,
    options: Options,
    sink: ObjectSink,
    *,
    stack: bool,
    allow_pickle: bool,
) -> tuple[OpenBase, Encoding, Source]:
    from deltavc.formats.checkpoint import open_checkpoint
    from deltavc.formats.peft import is_adapter, open_adapter

    opened = open_base(repo, base)
    old = repo.vector(head) if head is not None else None
    if old is not None and old.base != base:
        if stack:
            raise BaseMismatch(
                "HEAD stands on another base; nothing can be stacked on it",
                expected=old.base,
                found=base,
            )
        old = None
    if kind == "peft" or (kind == "auto" and is_adapter(where)):
        if stack and old is None:
            raise UsageError("there is no commit to stack on", hint="commit without --stack")
        adapter = open_adapter(where, allow_pickle=allow_pickle)
        encoding = encode_adapter(repo, opened, adapter, old, options, sink, stack=stack)
        _inherit_errors(repo, head, old, encoding, options, stack=stack)
        return opened, encoding, Source("peft", where.name, adapter.bytes_read)
    if stack:
        raise UsageError(
            "--stack takes an adapter; a checkpoint says what the whole model is",
            hint="commit without --stack",
        )
    checkpoint = open_checkpoint(where, allow_pickle=allow_pickle)
    encoding = encode_checkpoint(repo, opened, checkpoint, old, options, sink)
    _inherit_errors(repo, head, old, encoding, options, stack=False)
    return opened, encoding, Source("checkpoint", where.name, checkpoint.total_bytes)


def _inherit_errors(
    repo: Repository,
    head: CommitId | None,
    old: Vector | None,
    encoding: Encoding,
    options: Options,
    *,
    stack: bool,
) -> None:
    """Carries over the measured errors of what is kept from HEAD, so that it stays told."""
    if head is None or old is None or (options.selection.everything and not stack):
        return
    for name, error in repo.commit(head).errors.items():
        kept = set(old.params.get(name, {})) & set(encoding.vector.params.get(name, {}))
        if kept and (stack or not options.selection(name)):
            encoding.errors.setdefault(name, error)


def data_ref(path: Path) -> DataRef:
    """Returns the fingerprint of a file or folder of data.

    Args:
        path: The file or folder.

    Returns:
        Name, size and SHA-256; of a folder, that of the list of its files.

    Raises:
        UnsupportedFormat: It cannot be read.
    """
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if not p.is_dir())
            digest, size = hashlib.sha256(), 0
            for file in files:
                size += file.stat().st_size
                digest.update(f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n".encode())
            return DataRef(path.name, size, digest.hexdigest())
        return DataRef(path.name, path.stat().st_size, _sha256(path))
    except OSError as error:
        raise UnsupportedFormat(
            f"the data '{shown(path)}' cannot be read: {error.strerror}",
            hint="check the path of --data",
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as (file, _):
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
