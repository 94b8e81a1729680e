"""The verbs ``env define``, ``list``, ``show``, ``log``, ``approve`` and ``mark``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltavc.errors import Protected, UnknownRevision
from deltavc.ids import CommitId, short
from deltavc.records.ship import Approval, Environment, Mark, Marks
from deltavc.repo import evidence as evidences
from deltavc.repo import target as targets
from deltavc.repo.deploy_plan import gate_rows
from deltavc.repo.environment_policy import (
    ENVIRONMENT,
    MARKS,
    check_apart,
    check_environment,
    definitions,
    recorded,
    unknown,
)
from deltavc.repo.policy_file import FILE
from deltavc.repo.results_ship import (
    ApprovedRow,
    DeploymentRow,
    EnvironmentRow,
    EnvironmentShown,
    MarkRow,
    RequestShown,
)
from deltavc.repo.revisions import resolve
from deltavc.repo.rollback import candidates
from deltavc.repo.serving import Served, deployment_name, load_deployment, request_name
from deltavc.repo.switching import check_reason

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.catalog.reader_ship import DeploymentRow as CatalogRow
    from deltavc.catalog.reader_ship import RequestRow
    from deltavc.repo.repository import Repository

__all__ = ["approve", "define", "list_", "log", "mark", "show"]

_REQUEST = re.compile(r"(?:r-)?0*([1-9]\d{0,17})\Z")


def define(
    repo: Repository, environments: Sequence[Environment], *, dry_run: bool = False
) -> list[EnvironmentRow]:
    """Records environments; the same again changes nothing.

    Args:
        repo: The repository.
        environments: The definitions.
        dry_run: Only say what would change.

    Returns:
        The environments; ``changed`` says whether anything did, or would.

    Raises:
        Protected: ``deltavc.toml`` defines one of them differently.
        UsageError: A definition makes no sense, or not beside the others.
        InvalidName: An environment cannot be called that.
    """
    checked = [check_environment(repo, environment) for environment in environments]
    known = definitions(repo, repo.state().refs)
    for environment in checked:
        now, origin = known.get(environment.name, (None, None))
        if origin == FILE and now != environment:
            raise Protected(
                f"environment '{environment.name}' is defined in {FILE}, differently",
                hint=f"change it there: [env.{environment.name}]",
                environment=environment.name,
            )
    merged = {name: env for name, (env, _) in known.items()} | {e.name: e for e in checked}
    check_apart(repo, merged)
    new = [env for env in checked if known.get(env.name, (None, ""))[0] != env]
    if new and not dry_run:
        with repo.change("env define") as change:
            for environment in new:
                change.set(
                    ENVIRONMENT + environment.name, repo.put_record("environment", environment)
                )
            change.summary = f"define environment {', '.join(env.name for env in new)}"[:200]
    return [
        _row(env, known.get(env.name, (None, "recorded"))[1], changed=env in new) for env in checked
    ]


def _row(
    environment: Environment,
    origin: str,
    *,
    changed: bool = False,
    overrides: bool = False,
    serving: CatalogRow | None = None,
    subject: str | None = None,
) -> EnvironmentRow:
    return EnvironmentRow(
        name=environment.name,
        origin=origin,
        after=environment.after,
        gates=list(environment.gates),
        approvals=environment.approvals,
        target=environment.target,
        keep=environment.keep,
        format=environment.form,
        hook=environment.hook,
        protect=environment.protect,
        revision=None if serving is None else serving.commit,
        subject=subject,
        deployment=None if serving is None else deployment_name(serving.number),
        since_time=None if serving is None else serving.time,
        actor=None if serving is None else serving.actor,
        overrides=overrides,
        changed=changed,
    )


def list_(repo: Repository) -> list[EnvironmentRow]:
    """Returns the environments by name, with what each serves."""
    state = repo.state()
    known, reader = definitions(repo, state.refs), repo.reader()
    serving = reader.serving() if repo.as_of is None else {}
    if repo.as_of is not None:
        for row in reversed(_until_now(repo, reader.deployments())):
            serving[row.environment] = row
    rows = []
    for name, (environment, origin) in known.items():
        now = serving.get(name)
        value = state.refs.get(ENVIRONMENT + name)
        rows.append(
            _row(
                environment,
                origin,
                overrides=origin == FILE
                and value is not None
                and recorded(repo, value) != environment,
                serving=now,
                subject=_subject(repo, None if now is None else now.commit),
            )
        )
    return rows


def show(repo: Repository, name: str, *, at: int | None = None) -> EnvironmentShown:
    """Returns what an environment serves, or served at a time.

    Args:
        repo: The repository.
        name: The environment.
        at: Milliseconds since 1970, UTC; default: now.

    Returns:
        What it serves, who approved it, and what else there is to know.

    Raises:
        UnknownRevision: There is no such environment.
    """
    reader = repo.reader()
    known = definitions(repo, repo.state().refs)
    newest = _until_now(repo, reader.deployments(name, limit=_all_of(repo, 1)))[:1]
    history = newest if at is None else _until_now(repo, reader.live_at(name, at))
    if name not in known and not newest:
        raise unknown(name)
    environment, origin = known.get(name, (Environment(name), "not defined any more"))
    rows = [_deployment(repo, reader, row, gates=True) for row in history]
    serving = next(iter(history), None)
    shown = EnvironmentShown(
        environment=_row(
            environment,
            origin,
            serving=serving,
            subject=_subject(repo, None if serving is None else serving.commit),
        ),
        serving=rows[0] if rows else None,
        at_time=at,
        also=rows[1:],
    )
    return shown if at is not None or name not in known else _with_now(repo, reader, shown)


def _all_of(repo: Repository, limit: int | None) -> int | None:
    """Returns how many rows to read: all of them where later ones have to be passed over."""
    return limit if repo.as_of is None else None


def _until_now(repo: Repository, rows: list[CatalogRow]) -> list[CatalogRow]:
    """Returns the deployments that there were when the repository is looked at."""
    if repo.as_of is None:
        return rows
    then = repo.as_of.number
    open_ = [
        row._replace(until=None, until_event=None) if (row.until_event or 0) > then else row
        for row in rows
    ]
    return [row for row in open_ if row.number <= then]


def _with_now(repo: Repository, reader: CatalogReader, shown: EnvironmentShown) -> EnvironmentShown:
    """Adds what matters of an environment as of now."""
    import msgspec

    served = Served(repo, shown.environment.name)
    ready: list[str] = []
    link, in_step = None, True
    current = served.current
    if served.target is not None:
        link = targets.linked(served.target)
        wanted = None if current is None else current.record.folder
        in_step = link == wanted and (wanted is None or (served.target / wanted).is_dir())
        folders = [s.record.folder for s in served.standings() if s.record.folder is not None]
        ready = [f for f in dict.fromkeys(folders) if (served.target / f).is_dir()]
    back = next((s.record.commit for s in candidates(served)), None)
    return msgspec.structs.replace(
        shown,
        waiting=[
            _request(repo, reader, row)
            for row in reader.open_requests()
            if row.environment == served.name
        ],
        bad=[_mark(served.name, commit, mark) for commit, mark in served.marks.bad.items()],
        ready=ready,
        linked=link,
        in_step=in_step,
        back=back,
    )


def _request(repo: Repository, reader: CatalogReader, row: RequestRow) -> RequestShown:
    votes = reader.approvals([row.id])[row.id]
    return RequestShown(
        request=request_name(row.number),
        environment=row.environment,
        revision=row.commit,
        subject=_subject(repo, row.commit) or "",
        actor=row.actor,
        time=row.time,
        needed=row.needed,
        approvers=[vote.actor for vote in votes],
        reason=row.reason,
        void=why_void(repo, row),
    )


def why_void(repo: Repository, row: RequestRow) -> str | None:
    """Says what of a request's evidence changed; None where it still holds.

    Args:
        repo: The repository.
        row: The request.

    Returns:
        A phrase.
    """
    found = definitions(repo, repo.state().refs).get(row.environment)
    if found is None:
        return "the environment is not defined any more"
    request = evidences.load_request(repo, row.id)
    overridden = [gate.gate for gate in request.gates if gate.overridden]
    served = Served(repo, row.environment)
    try:
        now = evidences.gather(repo, found[0], row.commit, served.commit, overridden)
    except UnknownRevision as error:
        return error.message
    return None if now.digest == row.evidence else evidences.what_changed(repo, request, now)


def log(repo: Repository, name: str, *, limit: int | None = None) -> list[DeploymentRow]:
    """Returns the deployments of an environment, newest first.

    Args:
        repo: The repository.
        name: The environment.
        limit: At most this many.

    Returns:
        The deployments.

    Raises:
        UnknownRevision: There is no such environment.
    """
    reader = repo.reader()
    rows = _until_now(repo, reader.deployments(name, limit=_all_of(repo, limit)))[:limit]
    if not rows and name not in definitions(repo, repo.state().refs):
        raise unknown(name)
    return [_deployment(repo, reader, row) for row in rows]


def _deployment(
    repo: Repository, reader: CatalogReader, row: CatalogRow, *, gates: bool = False
) -> DeploymentRow:
    previous = None if row.previous is None else reader.deployment_number(row.previous)
    request = None if row.request is None else reader.request_number(row.request)
    votes = [] if row.request is None else reader.approvals([row.request])[row.request]
    return DeploymentRow(
        deployment=deployment_name(row.number),
        environment=row.environment,
        revision=row.commit,
        subject=_subject(repo, row.commit),
        action=row.action,
        actor=row.actor,
        time=row.time,
        until_time=row.until,
        reason=row.reason,
        gate_verdict=row.gate_verdict,
        overridden=row.overridden,
        approvals=row.approvals,
        approvals_needed=row.needed,
        request=None if request is None else request_name(request),
        promoted_from=row.promoted_from,
        previous=None if previous is None else deployment_name(previous),
        key=row.key,
        event=row.number,
        late=row.late,
        approvers=[vote.actor for vote in votes],
        gates=gate_rows(load_deployment(repo, row.id).gates) if gates else [],
    )


def _subject(repo: Repository, commit: CommitId | None) -> str | None:
    return None if commit is None else repo.commit(commit).message.partition("\n")[0]


# approvals and marks ----------------------------------------------------------


def approve(
    repo: Repository,
    request: str,
    *,
    reason: str | None = None,
    sign: bool = False,
    dry_run: bool = False,
) -> ApprovedRow:
    """Says yes to a deployment that waits.

    Args:
        repo: The repository.
        request: The request, such as ``r-000041``.
        reason: Why, for the audit trail.
        sign: Sign the approval.
        dry_run: Only say whether it can be given.

    Returns:
        The approval, and how many there are.

    Raises:
        UnknownRevision: There is no such request.
        Protected: The request is void, was used, or is the approver's own.
    """
    from deltavc.repo import signing

    row = _open_request(repo, request)
    name, actor = request_name(row.number), repo.session.actor
    author = repo.commit(row.commit).author
    for other, what in ((author, "made this version"), (row.actor, "asked for it")):
        if evidences.same_person(actor, other):
            raise Protected(
                f"{actor} {what}, so somebody else has to approve {name}",
                hint="ask a colleague: deltavc env approve " + name,
                request=name,
            )
    void = why_void(repo, row)
    if void is not None:
        raise Protected(
            f"{name} is void: {void}",
            hint=f"ask again: deltavc deploy {short(row.commit)} --env {row.environment}",
            request=name,
        )
    votes = repo.reader().approvals([row.id])[row.id]
    again = any(evidences.same_person(vote.actor, actor) for vote in votes)
    signed = False
    why = check_reason(reason)
    if not again and not dry_run:
        signing_now = signing.ready(repo, sign)
        with repo.change("env approve") as change:
            record = Approval(
                request=row.id,
                environment=row.environment,
                commit=row.commit,
                evidence=row.evidence,
                actor=actor,
                time=change.time,
                reason=why,
            )
            oid = repo.put_record("approval", record)
            change.note("approvals", oid)
            change.touch(oid)
            if signing_now:
                signing.sign(repo, change, "approval", oid, record)
                signed = True
            change.reason = record.reason
            change.summary = f"approve {short(row.commit)} for {row.environment} ({name})"
    return ApprovedRow(
        request=name,
        environment=row.environment,
        revision=row.commit,
        subject=_subject(repo, row.commit) or "",
        actor=actor,
        approvers=[vote.actor for vote in votes] + ([] if again else [actor]),
        needed=row.needed,
        signed=signed,
        changed=not again,
    )


def _open_request(repo: Repository, request: str) -> RequestRow:
    found = _REQUEST.match(request.strip())
    rows = repo.reader().requests(number=int(found[1])) if found else []
    if not rows:
        raise UnknownRevision(
            f"no request is called '{request[:40]}'",
            hint="what waits: deltavc env show NAME",
            request=request,
        )
    row = rows[0]
    if row.id not in {waiting.id for waiting in repo.reader().open_requests()}:
        raise Protected(
            f"{request_name(row.number)} led to a deployment already",
            hint=f"see it: deltavc env log {row.environment}",
            request=request_name(row.number),
        )
    return row


def mark(
    repo: Repository,
    name: str,
    rev: str,
    *,
    bad: bool,
    reason: str | None = None,
    dry_run: bool = False,
) -> MarkRow:
    """Calls a version bad in an environment, or not any more.

    Nothing deploys a version that is called bad there, and no rollback goes to it.

    Args:
        repo: The repository.
        name: The environment.
        rev: The version.
        bad: Whether it is bad.
        reason: Why, for the audit trail.
        dry_run: Only say what would change.

    Returns:
        The mark.

    Raises:
        UnknownRevision: There is no such environment or version, or it never served there.
    """
    served, commit = Served(repo, name), resolve(repo, rev)
    why = check_reason(reason)
    marks = dict(served.marks.bad)
    if bad == (commit in marks):
        found = marks.get(commit, Mark(repo.session.actor, repo.session.clock(), why))
        return _mark(name, commit, found, bad=bad)
    if bad and not any(standing.record.commit == commit for standing in served.standings()):
        raise UnknownRevision(
            f"{short(commit)} was never served by '{name}'",
            hint=f"what it served: deltavc env log {name}",
            revision=commit,
        )
    if dry_run:
        new = Mark(repo.session.actor, repo.session.clock(), why)
        return _mark(name, commit, new, bad=bad, changed=True)
    with repo.change("env mark") as change:
        new = Mark(repo.session.actor, change.time, why)
        if bad:
            marks[commit] = new
        else:
            del marks[commit]
        record = Marks(name, dict(sorted(marks.items())))
        oid = repo.put_record("marks", record)
        change.set(MARKS + name, oid, expected=served.marks_id)
        change.reason = why
        change.summary = f"call {short(commit)} {'bad' if bad else 'good'} in {name}"
    return _mark(name, commit, new, bad=bad, changed=True)


def _mark(
    name: str, commit: CommitId, mark: Mark, *, bad: bool = True, changed: bool = False
) -> MarkRow:
    return MarkRow(
        environment=name,
        revision=commit,
        actor=mark.actor,
        time=mark.time,
        reason=mark.reason,
        bad=bad,
        changed=changed,
    )
