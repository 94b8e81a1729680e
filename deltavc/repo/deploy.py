"""The verbs ``deploy`` and ``promote``: a version goes live, on evidence that is kept.

Gates are asked and approvals counted first; then the version is written beside the
others; then, under the locks, the link is switched and one event says so.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from deltavc.errors import (
    DeltavcError,
    HookFailed,
    NameTaken,
    RefMoved,
    UsageError,
)
from deltavc.ids import DeploymentId, short
from deltavc.records.ship import Deployment
from deltavc.repo import evidence as evidences
from deltavc.repo import target as targets
from deltavc.repo.change import TOOL
from deltavc.repo.deploy_plan import (
    Plan,
    check_key,
    check_override,
    comes_from,
    refuse_marked,
    request_of,
    settled,
    wait_for_approval,
)
from deltavc.repo.environment_policy import (
    SERVE,
    check_apart,
    check_environment,
    definition_id,
    definitions,
)
from deltavc.repo.revisions import resolve
from deltavc.repo.serving import Served, Standing, deployment_name, moved
from deltavc.repo.spool import Entry
from deltavc.repo.switching import (
    check_reason,
    deployment_id,
    keep_ready,
    materialise,
    run,
)

if TYPE_CHECKING:
    from deltavc.catalog.reader_ship import DeploymentRow as CatalogRow
    from deltavc.repo.repository import Repository
    from deltavc.repo.results_ship import DeployedRow, HookRow

__all__ = ["deploy", "promote"]


def promote(
    repo: Repository,
    source: str,
    environment: str,
    *,
    reason: str | None = None,
    override: Collection[str] = (),
    key: str | None = None,
    dry_run: bool = False,
) -> DeployedRow:
    """Deploys to an environment what another one serves.

    Args:
        repo: The repository.
        source: The environment whose version goes on.
        environment: Where to.
        reason: As in :func:`deploy`.
        override: As in :func:`deploy`.
        key: As in :func:`deploy`.
        dry_run: As in :func:`deploy`.

    Returns:
        What was done.

    Raises:
        UsageError: ``source`` serves nothing.
        Protected: The environment comes after another one.
    """
    commit = Served(repo, source).commit
    if commit is None:
        raise UsageError(
            f"'{source}' serves nothing that could be promoted",
            hint=f"deploy there first: deltavc deploy REV --env {source}",
        )
    return deploy(
        repo,
        commit,
        environment,
        reason=reason,
        override=override,
        key=key,
        dry_run=dry_run,
        promoted_from=source,
    )


def deploy(
    repo: Repository,
    rev: str,
    environment: str,
    *,
    reason: str | None = None,
    override: Collection[str] = (),
    key: str | None = None,
    dry_run: bool = False,
    promoted_from: str | None = None,
) -> DeployedRow:
    """Makes a revision the one that an environment serves.

    Args:
        repo: The repository.
        rev: The revision.
        environment: The environment.
        reason: Why, for the audit trail; needed to override a gate.
        override: Gates to pass over, by name.
        key: Idempotency key: in one environment the same key is done once.
        dry_run: Only ask gates and approvals, and say what would be done.
        promoted_from: The environment that it comes from.

    Returns:
        What was done; ``blocked`` says ``gate`` where a gate does not pass, and then
        nothing was.

    Raises:
        UnknownRevision: There is no such revision, environment or gate.
        Protected: The environment comes after another one, allows no override, or calls
            the version bad.
        ApprovalMissing: Approvals are missing; the request is recorded.
        NameTaken: The key was used for another version.
        RefMoved: Somebody else switched meanwhile.
        HookFailed: The hook failed, and the environment went back.
        RepositoryUnwritable: The target or the repository cannot be written.
    """
    started = time.monotonic()
    if not dry_run:
        repo.require_now("deploy")
    served = settled(repo, environment)
    check_environment(repo, served.definition)
    check_apart(repo, {n: env for n, (env, _) in definitions(repo, repo.state().refs).items()})
    commit = resolve(repo, rev)
    promoted_from = comes_from(repo, served, commit, promoted_from)
    evidence = evidences.gather(repo, served.definition, commit, served.commit, override)
    plan = Plan(
        repo=repo,
        served=served,
        commit=commit,
        action="deploy" if promoted_from is None else "promote",
        reason=check_reason(reason),
        key=check_key(key),
        promoted_from=promoted_from,
        dry_run=dry_run,
        started=started,
        evidence=evidence,
        approved=evidences.approvals_that_count(repo, served.definition, evidence),
    )
    return _same_again(plan) or _carry_out(plan, override)


def _carry_out(plan: Plan, override: Collection[str]) -> DeployedRow:
    refuse_marked(plan)
    check_override(plan, override)
    if plan.evidence.verdict not in ("pass", None):
        return plan.told(blocked="gate")
    if len(plan.approved.approvals) < plan.environment.approvals:
        return wait_for_approval(plan)
    if plan.dry_run:
        return plan.told(changed=True, request=request_of(plan))
    if plan.served.target is not None:
        targets.check_link(plan.served.target)
        plan.ready = materialise(plan.repo, plan.served, plan.commit)
    record = _record(plan)
    number = _switch(plan, record)
    hook = run(plan.served, record, deployment_name(number), plan.served.commit)
    if hook is not None and hook.exit_code:
        raise _went_back(plan, record, number, hook)
    return _done(plan, number, hook)


def _same_again(plan: Plan) -> DeployedRow | None:
    """Returns what there is to say of a key that was used, or of what is served already."""
    name = plan.environment.name
    if plan.key is not None:
        found = plan.repo.reader().deployment_by_key(name, plan.key)
        if found is not None:
            return _done_before(plan, found)
    current = plan.served.current
    if current is None or current.record.commit != plan.commit:
        return None
    if plan.served.target is None or plan.dry_run:
        return plan.told(deployment=current.name)
    return _put_in_step(plan, current)


def _done_before(plan: Plan, found: CatalogRow) -> DeployedRow:
    if found.commit != plan.commit:
        told = "nothing" if found.commit is None else short(found.commit)
        raise NameTaken(
            f"key '{plan.key}' was used in '{found.environment}' for {told},"
            f" not for {short(plan.commit)}",
            hint="use a new key for another deployment",
            key=plan.key,
        )
    return plan.told(deployment=deployment_name(found.number))


def _put_in_step(plan: Plan, current: Standing) -> DeployedRow:
    """Mends the target of what is served already; the log has nothing to add."""
    served = plan.served
    assert served.target is not None
    targets.check_link(served.target)
    folder = current.record.folder
    wrong = ["no folder"]
    if folder is not None and targets.linked(served.target) == folder:
        expected = served.receipt_of(plan.commit, folder)
        wrong = targets.problems(
            served.target / folder, plan.commit, expected, threads=plan.repo.session.threads
        )
    if not wrong:
        return plan.told(deployment=current.name, folder=folder)
    return _carry_out(plan, ())


# the switch -------------------------------------------------------------------


def _record(plan: Plan) -> Deployment:
    repo, served, approved = plan.repo, plan.served, plan.approved
    return Deployment(
        environment=served.name,
        commit=plan.commit,
        action=plan.action,
        actor=repo.session.actor,
        time=repo.session.clock(),
        definition=definition_id(served.definition),
        previous=None if served.current is None else served.current.id,
        reason=plan.reason,
        gates=plan.evidence.gates,
        evidence=plan.evidence.digest,
        request=None if approved.request is None else approved.request.id,
        approvals=approved.ids,
        needed=served.definition.approvals,
        key=plan.key,
        promoted_from=plan.promoted_from,
        folder=None if plan.ready is None else plan.ready.folder,
        receipt=None if plan.ready is None else plan.ready.receipt,
    )


def _switch(plan: Plan, record: Deployment) -> int:
    """Switches the link and appends the event, under the environment's and the log's locks."""
    repo, served = plan.repo, plan.served
    target, oid = served.target, deployment_id(record)
    before = None if served.current is None else served.current.id
    summary = f"{plan.action} {short(plan.commit)} to {served.name}"
    repo.put_record("environment", served.definition)
    repo.put_record("deployment", record)
    with served.spool.hold(repo.session.lock_timeout):
        _refuse_moved(plan, before)
        served.spool.prepare()  # also for the rollback to come, whatever the disk is like then
        if target is not None:
            served.spool.write(
                [
                    Entry(
                        id=oid,
                        deployment=msgspec.structs.replace(record, gates=()),
                        before=before,
                        definition=served.definition,
                        summary=summary,
                        tool=TOOL,
                        folder=record.folder,
                        linked=True,
                    )
                ]
            )
        was = None if target is None else targets.linked(target)
        change = None
        try:
            with repo.change(plan.action) as change:
                if change.state.refs.get(SERVE + served.name) != before:
                    raise moved(Served(repo, served.name), before)
                change.set(SERVE + served.name, oid)
                change.touch(oid)
                change.note("deployments", oid)
                change.reason, change.summary = plan.reason, summary
                if target is not None:
                    targets.switch(target, record.folder)
        except BaseException:
            if target is not None and (change is None or change.event is None):
                _switch_back(served, was)
            raise
        served.spool.clear()
    assert change.event is not None
    return change.event.number


def _switch_back(served: Served, was: str | None) -> None:
    assert served.target is not None
    if targets.linked(served.target) != was:
        targets.switch(served.target, was)
    served.spool.clear()


def _refuse_moved(plan: Plan, before: DeploymentId | None) -> None:
    """Refuses to switch on a decision that is not true any more."""
    now = Served(plan.repo, plan.served.name)
    if (None if now.current is None else now.current.id) != before:
        raise moved(now, before)
    if plan.repo.state().number == plan.evidence.event:
        return
    overridden = [gate.gate for gate in plan.evidence.gates if gate.overridden]
    fresh = evidences.gather(plan.repo, now.definition, plan.commit, now.commit, overridden)
    if fresh.digest != plan.evidence.digest:
        raise RefMoved(
            f"what is known of {short(plan.commit)} changed while the command ran",
            hint="the same command again looks at it anew",
            revision=plan.commit,
        )


def _done(plan: Plan, number: int, hook: HookRow | None) -> DeployedRow:
    removed: list[str] = []
    if plan.ready is not None:
        removed = keep_ready(plan.repo, plan.served, plan.ready.folder)
    head = plan.repo.log.head()
    return plan.told(
        deployment=deployment_name(number),
        request=request_of(plan),
        folder=None if plan.ready is None else plan.ready.folder,
        written=plan.ready is not None and plan.ready.written,
        removed=removed,
        hook=hook,
        changed=True,
        head_number=head.number,
        head_hash=head.hash,
    )


def _went_back(plan: Plan, record: Deployment, number: int, hook: HookRow) -> HookFailed:
    """Takes a deployment back whose hook failed; returns the error that tells of both."""
    from deltavc.repo.rollback import back_from

    name = plan.environment.name
    said = hook.output[-300:] or "it said nothing"
    why = f"hook of {deployment_name(number)} failed with {hook.exit_code}"
    try:
        back = back_from(plan.repo, name, deployment_id(record), why)
        to = "nothing" if back.revision is None else short(back.revision)
        then = f"'{name}' serves {to} again ({back.deployment})"
    except HookFailed as error:
        then = error.message
    except DeltavcError as error:
        then = f"and it could not go back: {error.message}"
    return HookFailed(
        f"{why}: {said}; {then}",
        environment=name,
        deployment=deployment_name(number),
        revision=plan.commit,
        before=plan.served.commit,
        hook_exit_code=hook.exit_code,
        output=hook.output,
    )
