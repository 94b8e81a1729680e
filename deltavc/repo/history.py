"""The verbs ``log`` and ``show``: what was recorded, told from records alone.

No delta is opened and nothing heavy imported, so that history is there at once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from deltavc.errors import AmbiguousRevision, NamingError, UnknownRevision
from deltavc.ids import CommitId, ObjectId, is_object_id, short
from deltavc.records import canonical
from deltavc.records.model import (
    Base,
    BaseSource,
    Commit,
    Gate,
    Kpi,
    Manifest,
    Measurement,
    Tag,
)
from deltavc.records.ship import (
    Approval,
    Deployment,
    Environment,
    Marks,
    Request,
    Signature,
)
from deltavc.repo.repository import tag_ref
from deltavc.repo.results import CommitRow, LogRow, MeasurementRow, Shown, SignatureRow
from deltavc.repo.revisions import Range, parse_range, peel, resolve
from deltavc.repo.served import relations, served

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.catalog.rows import CommitRow as CatalogRow
    from deltavc.ledger.state import State
    from deltavc.repo.repository import Repository

__all__ = ["find_object", "log", "names_of", "raw", "show"]

_RECORDS: dict[str, type[Any]] = {
    "approval": Approval,
    "base": Base,
    "basesource": BaseSource,
    "commit": Commit,
    "deployment": Deployment,
    "environment": Environment,
    "gate": Gate,
    "kpi": Kpi,
    "manifest": Manifest,
    "marks": Marks,
    "measurement": Measurement,
    "request": Request,
    "signature": Signature,
    "tag": Tag,
}
MIN_PREFIX = 4


def log(
    repo: Repository,
    *,
    range_: str | None = None,
    limit: int | None = None,
    all_: bool = False,
    kpis: Sequence[str] = (),
    params: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    author: str | None = None,
    since: int | None = None,
    until: int | None = None,
    signatures: bool = False,
) -> list[LogRow]:
    """Returns revisions, newest first, a child before its parents.

    Args:
        repo: The repository.
        range_: A revision or ``A..B``; default: HEAD.
        limit: At most this many.
        all_: From all branches and tags, and from what environments serve.
        kpis: Show these KPIs; default: all that were measured.
        params: Only revisions that changed a parameter that fits one of these globs.
        labels: Only revisions with all of these labels.
        author: Only revisions whose author contains this text.
        since: Not before, in milliseconds.
        until: Not after, in milliseconds.
        signatures: Also check the signatures: a process for each.

    Returns:
        The revisions.
    """
    state = repo.state()
    reader = repo.reader()
    live = served(repo, state, reader)
    chosen = _everything(repo, state, reader, live) if all_ else parse_range(repo, range_, state)
    names = names_of(repo, state, reader)
    head = repo.head_commit(state)
    rows: list[CatalogRow] = []
    found_labels: dict[str, dict[str, str]] = {}
    for row in reader.log(chosen.starts, exclude=chosen.exclude):
        if limit is not None and len(rows) >= limit:
            break
        own = found_labels[row.id] = reader.labels(row.id)
        if _wanted(repo, row, own, params, labels or {}, author, since, until):
            rows.append(row)
    measured = reader.latest([row.id for row in rows], list(kpis) or None)
    widths = _half_widths(repo, measured, kpis) if kpis else {}
    signed = _checked(repo, [row.id for row in rows]) if signatures else {}
    return [
        LogRow(
            commit=row.id,
            parents=list(row.parents),
            author=row.author,
            time=row.time,
            message=row.message,
            base=row.base,
            exact=row.exact,
            is_head=row.id == head,
            branches=names.get(row.id, ([], []))[0],
            tags=names.get(row.id, ([], []))[1],
            measurements=measured.get(row.id, {}),
            labels=found_labels[row.id],
            parameters=row.params or 0,
            stored=row.stored_bytes or 0,
            half_widths=widths.get(row.id, {}),
            signatures=signed.get(row.id, []) if signatures else None,
            environments=[name for name, commit in live.items() if commit == row.id],
        )
        for row in rows
    ]


def _half_widths(
    repo: Repository, measured: Mapping[CommitId, Mapping[str, object]], kpis: Sequence[str]
) -> dict[CommitId, dict[str, float]]:
    """Returns half of each value's 95 % interval, where samples or a standard error give one."""
    from deltavc.kpi.estimates import Observed, estimate
    from deltavc.kpi.rules import CONFIDENCE
    from deltavc.repo.policy import read_policy

    definitions = read_policy(repo).kpis
    found: dict[CommitId, dict[str, float]] = {}
    for oid, values in repo.reader().latest_rows(measured, kpis).items():
        for series, one in values.items():
            if one.value is not None:
                seen = Observed(one.value, one.samples, one.stderr)
                half = estimate(seen, definitions.get(one.kpi), CONFIDENCE).half_width
                if half is not None:
                    found.setdefault(oid, {})[series] = half
    return found


def _everything(
    repo: Repository, state: State, reader: CatalogReader, live: Mapping[str, CommitId]
) -> Range:
    starts = dict.fromkeys([*_named_commits(repo, state, reader).values(), *live.values()])
    head = repo.head_commit(state)
    if head is not None:
        starts[head] = None
    return Range(tuple(starts))


def names_of(
    repo: Repository, state: State, reader: CatalogReader
) -> dict[CommitId, tuple[list[str], list[str]]]:
    """Returns the branches and tags that stand at each commit."""
    names: dict[CommitId, tuple[list[str], list[str]]] = {}
    for ref, commit in _named_commits(repo, state, reader).items():
        kind, _, name = ref.partition(":")
        names.setdefault(commit, ([], []))[kind == "tag"].append(name)
    return names


def _named_commits(repo: Repository, state: State, reader: CatalogReader) -> dict[str, CommitId]:
    """Returns the commit that each branch and tag stands at, by ref in order.

    Asked of the catalog at once: to read an object of each of 500 tags took a second.
    """
    refs = {n: v for n, v in sorted(state.refs.items()) if n.startswith(("branch:", "tag:"))}
    known = reader.tagged(value for name, value in refs.items() if name.startswith("tag:"))
    return {
        name: CommitId(ObjectId(value))
        if name.startswith("branch:")
        else known[value][0]
        if value in known
        else peel(repo, ObjectId(value))
        for name, value in refs.items()
    }


def _wanted(
    repo: Repository,
    row: CatalogRow,
    own: Mapping[str, str],
    params: Sequence[str],
    labels: Mapping[str, str],
    author: str | None,
    since: int | None,
    until: int | None,
) -> bool:
    if author is not None and author.lower() not in row.author.lower():
        return False
    if (since is not None and row.time < since) or (until is not None and row.time > until):
        return False
    if any(own.get(key) != value for key, value in labels.items()):
        return False
    return not params or any(
        fnmatch.fnmatchcase(name, pattern)
        for name in _changed_params(repo, row)
        for pattern in params
    )


def _changed_params(repo: Repository, row: CatalogRow) -> Iterator[str]:
    """Yields the parameters whose terms differ from the first parent's."""
    new = repo.manifest(row.manifest).params
    old = repo.manifest(repo.commit(row.parents[0]).manifest).params if row.parents else {}
    return (name for name in sorted({*old, *new}) if old.get(name) != new.get(name))


def show(repo: Repository, name: str = "HEAD", *, params: Sequence[str] = ()) -> Shown:
    """Returns an object of any kind.

    Args:
        repo: The repository.
        name: A revision, a base's name, ``op:ID``, or the beginning of any object's id.
        params: Also list the terms of the parameters that fit one of these globs.

    Returns:
        The object.

    Raises:
        UnknownRevision: Nothing is called that.
        AmbiguousRevision: Several objects begin like that.
    """
    if name.startswith("op:"):
        from deltavc.repo.operations import show as show_operation

        row = show_operation(repo, name)
        return Shown(kind="operation", id=row.id, value=msgspec.to_builtins(row))
    kind, oid = find_object(repo, name)
    if kind == "commit":
        commit = CommitId(oid)
        return Shown(kind=kind, id=oid, commit=_commit_row(repo, commit, params))
    signed = _checked(repo, [oid]).get(oid, []) if kind in ("approval", "tag") else []
    body = repo.store.get(oid, kind)
    if kind in _RECORDS:
        record = canonical.decode(body, _RECORDS[kind])
        return Shown(kind=kind, id=oid, value=msgspec.to_builtins(record), signatures=signed)
    if kind == "delta":
        header = bytes(body[: 1 << 20]).partition(b"\n")[0]
        return Shown(kind=kind, id=oid, value=msgspec.json.decode(header))
    return Shown(kind=kind, id=oid, value={"bytes": body.nbytes})


def raw(repo: Repository, name: str) -> bytes:
    """Returns an object's canonical bytes; their SHA-256 is its id."""
    from deltavc.codec.digest import object_header

    kind, oid = find_object(repo, name)
    body = repo.store.get(oid, kind)
    return object_header(kind, body.nbytes) + bytes(body)


def find_object(repo: Repository, name: str) -> tuple[str, ObjectId]:
    """Finds an object by a revision's name, a base's name or the beginning of its id.

    Args:
        repo: The repository.
        name: The name.

    Returns:
        Its kind and id.

    Raises:
        UnknownRevision: Nothing is called that.
        AmbiguousRevision: Several objects begin like that.
    """
    try:
        return "commit", resolve(repo, name)
    except AmbiguousRevision:
        raise
    except NamingError as error:
        bases = repo.base_names(repo.state())
        if name in bases:
            return "base", bases[name].base
        if is_object_id(name) and repo.store.has(ObjectId(name)):
            return repo.store.stat(ObjectId(name)).kind, ObjectId(name)
        if len(name) < MIN_PREFIX or not set(name) <= set("0123456789abcdef"):
            raise
        hits = repo.store.resolve_prefix(name)
        if not hits:
            raise UnknownRevision(f"no object begins with '{name}'", revision=name) from error
        if len(hits) > 1:
            raise AmbiguousRevision(
                f"'{name}' fits {len(hits)} objects: {', '.join(short(h) for h in hits[:5])}",
                candidates=list(hits),
            ) from error
        return repo.store.stat(hits[0]).kind, hits[0]


def _commit_row(repo: Repository, oid: CommitId, params: Sequence[str]) -> CommitRow:
    state = repo.state()
    record = repo.commit(oid)
    manifest = repo.manifest(record.manifest)
    reader = repo.reader()
    branches, tags = names_of(repo, state, reader).get(oid, ([], []))
    kinds = {kind: count for kind, count in record.contents.items() if kind != "rank"}
    row = _catalog_row(reader, oid)
    terms = None
    if params:
        terms = {
            name: {str(delta): c for delta, c in found.items()}
            for name, found in manifest.params.items()
            if any(fnmatch.fnmatchcase(name, p) for p in params)
        }
    return CommitRow(
        commit=oid,
        parents=[
            {"commit": p, "subject": repo.commit(p).message.partition("\n")[0]}
            for p in record.parents
        ],
        base=record.base,
        base_name=repo.base_name(state, record.base),
        author=record.author,
        time=record.time,
        message=record.message,
        run=record.run,
        labels=record.labels,
        data=[msgspec.to_builtins(ref) for ref in record.data],
        source=msgspec.to_builtins(record.source) if record.source else None,
        tool=record.tool,
        exact=not record.errors,
        errors=record.errors,
        measurements=_measurements(repo, oid),
        parameters=len(manifest.params),
        kinds=kinds,
        rank_max=record.contents.get("rank"),
        stored=(row.stored_bytes or 0) if row is not None else 0,
        files=sorted(manifest.files),
        removed=list(manifest.removed),
        branches=branches,
        tags=tags,
        params=terms,
        recipe=None
        if record.recipe is None
        else msgspec.structs.asdict(repo.recipe(record.recipe)),
        signatures=_signatures(repo, state, oid, tags),
        served=None if row is None else relations(repo, state, reader, oid),
    )


def _signatures(
    repo: Repository, state: State, oid: CommitId, tags: Sequence[str]
) -> list[SignatureRow]:
    """Returns the signatures of a commit and of the tags that name it."""
    objects = [oid, *(ObjectId(state.refs[tag_ref(name)]) for name in tags)]
    found = _checked(repo, list(dict.fromkeys(objects)))
    return [row for rows in found.values() for row in rows]


def _checked(repo: Repository, objects: Sequence[ObjectId]) -> dict[ObjectId, list[SignatureRow]]:
    """Returns the signatures of objects; where there are none, nothing more is loaded."""
    if not any(repo.reader().signatures_of(objects).values()):
        return {}
    from deltavc.repo.signing import signatures_of

    return signatures_of(repo, objects)


def _catalog_row(reader: CatalogReader, oid: CommitId) -> CatalogRow | None:
    return reader.commits([oid]).get(oid)


def _measurements(repo: Repository, oid: CommitId) -> list[MeasurementRow]:
    reader = repo.reader()
    if _catalog_row(reader, oid) is None:
        return []
    found = reader.measurements(oid)
    if not found:
        return []
    from deltavc.repo.kpis import row
    from deltavc.repo.policy import read_policy

    policy = read_policy(repo)
    return [row(repo, measured, policy) for measured in found]
