"""``deltavc env``: define, list, show, log, approve, mark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from deltavc.cli import options, units
from deltavc.cli.gate import tell_defined
from deltavc.cli.ship import gate_lines, version
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, group, verb
from deltavc.cli.words import who
from deltavc.errors import UnsupportedFormat, UsageError
from deltavc.ids import short
from deltavc.records.ship import Environment

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results_ship import (
        DeploymentRow,
        EnvironmentRow,
        EnvironmentShown,
        RequestShown,
    )


command = group("env", "Define environments, and tell what they serve and served.")


@verb(
    "define",
    group=command,
    mutating=True,
    examples=[
        "deltavc env define staging --gate release --target serve/staging",
        "deltavc env define production --after staging --gate release --approvals 1 --protect",
        "deltavc env define --from-file environments.toml -n",
    ],
    exit_codes={2: "the definition makes no sense", 35: "deltavc.toml defines it differently"},
    see=["gates"],
)
@argument("name", "The environment", required=False, type=options.ENVIRONMENT)
@click.option(
    "--after", metavar="ENV", type=options.ENVIRONMENT, help="Promotions must come from ENV"
)
@click.option(
    "--gate", "gates", metavar="NAME", multiple=True, type=options.GATE, help="Gates that must pass"
)
@click.option(
    "--approvals",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Approvals by others before it takes effect",
)
@click.option(
    "--target",
    metavar="DIR",
    help="Folder to keep in step: versions beside each other, one switched link",
)
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    help="Versions kept ready in the target, so that rollback is a switched link; default: 3",
)
@click.option(
    "--target-format",
    "form",
    metavar="KIND",
    type=click.Choice(options.FORMS),
    default="full",
    help="full, peft or vllm",
)
@click.option("--hook", metavar="COMMAND", help="Run after the switch; failure rolls back")
@click.option("--protect", is_flag=True, help="Nothing may be forced")
@click.option("--from-file", metavar="FILE", help="Apply environments from a TOML file")
@options.dry_run()
def define(
    ctx: Context,
    name: str | None,
    after: str | None,
    gates: tuple[str, ...],
    approvals: int,
    target: str | None,
    keep: int,
    form: str,
    hook: str | None,
    protect: bool,
    from_file: str | None,
    dry_run: bool,
) -> None:
    """Say what an environment asks of versions, and where it keeps them.

    The definition replaces the one before as a whole. What deltavc.toml defines,
    in tables [env.NAME], is changed there.
    """
    from deltavc.repo import environments

    if from_file is not None:
        if name is not None:
            raise UsageError(
                "--from-file says everything itself", hint="deltavc env define --from-file FILE"
            )
        wanted = _from_file(ctx, from_file)
    elif name is None:
        raise UsageError(
            "the environment's name is missing", hint="deltavc env define NAME --target DIR"
        )
    else:
        wanted = [
            Environment(
                name=name,
                after=after,
                gates=tuple(dict.fromkeys(gates)),
                approvals=approvals,
                target=None if target is None else _from_root(ctx, target),
                keep=keep,
                form=form,
                hook=hook,
                protect=protect,
            )
        ]
    rows = environments.define(ctx.open_repository(), wanted, dry_run=dry_run)
    told = [f"{row.name}: {_asks(row)}" for row in rows]
    tell_defined(ctx.out, "environment", rows, told, dry_run=dry_run)


def _from_file(ctx: Context, file: str) -> list[Environment]:
    from deltavc.repo.environment_policy import environments_of_file

    path = ctx.directory / file
    if not path.is_file():
        raise UnsupportedFormat(f"there is no file '{file}'", hint="check the path of --from-file")
    found = list(environments_of_file(path).values())
    if not found:
        raise UsageError(f"'{file}' defines no environment", hint="it holds tables [env.NAME]")
    return found


def _from_root(ctx: Context, target: str) -> str:
    """Returns a folder as the repository keeps it: from its own folder, if it lies below."""
    import os

    root = ctx.repository_folder().parent
    path = os.path.normpath(ctx.directory / target)
    relative = os.path.relpath(path, root)
    return path if relative == ".." or relative.startswith("../") else relative


def _asks(row: EnvironmentRow) -> str:
    parts = [f"after {row.after}"] if row.after else []
    parts += [f"gate {gate}" for gate in row.gates]
    if row.approvals:
        parts.append(f"{row.approvals} approval{'s' if row.approvals > 1 else ''}")
    if row.protect:
        parts.append("protected")
    if row.target is not None:
        parts.append(f"{row.format} in {row.target}, {row.keep} kept")
    if row.hook is not None:
        parts.append(f"hook '{row.hook}'")
    return ", ".join(parts) or "a pointer, no questions asked"


@verb("list", group=command, tabular=True, examples=["deltavc env list"], see=["gates"])
def list_(ctx: Context) -> None:
    """List environments with what they serve."""
    from deltavc.repo import environments

    out, rows = ctx.out, environments.list_(ctx.open_repository())
    if out.is_document:
        out.data(rows)
        return
    columns = [
        Column("name"),
        Column("revision", "id"),
        Column("subject", shrink=True),
        Column("since", "time"),
        Column("by"),
        Column("asks"),
    ]
    cells = (
        {
            "name": row.name,
            "revision": row.revision,
            "subject": row.subject,
            "since": row.since_time,
            "by": who(row.actor or ""),
            "asks": _asks(row),
        }
        for row in rows
    )
    if out.manners.quiet:
        out.ids(row.name for row in rows)
        return
    out.table(columns, cells, empty="No environments.")
    for row in rows:
        if row.overrides:
            out.warn(f"deltavc.toml overrides the recorded environment '{row.name}'")


@verb(
    "show",
    group=command,
    examples=[
        "deltavc env show production",
        "deltavc env show production --at 2026-10-01T12:00Z",
    ],
    exit_codes={20: "no such environment"},
    see=["revisions"],
)
@argument("name", "The environment", type=options.ENVIRONMENT)
@click.option("--at", metavar="TIME", type=options.TIME, help="What it served then")
def show(ctx: Context, name: str, at: int | None) -> None:
    """Show what an environment serves, or served at a time.

    Order is that of the log. Where a clock was set back, a time passed more than once:
    then every version that was served at it is named.
    """
    from deltavc.repo import environments

    shown = environments.show(ctx.open_repository(), name, at=at)
    out = ctx.out
    lines = _at_lines if at is not None else _now_lines
    revision = None if shown.serving is None else shown.serving.revision
    out.data(shown, human=lambda: lines(out, shown), ids=[revision or ""])
    if shown.also:
        out.warn(f"a clock was set back: '{name}' served {len(shown.also) + 1} versions then")
    if not shown.in_step:
        out.warn(f"the target of '{name}' is not in step with the log")
        if shown.serving is not None and shown.serving.revision is not None:
            told = f"deltavc deploy {short(shown.serving.revision)} --env {name}"
            out.hint("env", f"put it in step: {told}")


def _at_lines(out: Output, shown: EnvironmentShown) -> Iterator[str]:
    name, when = out.foreign(shown.environment.name), units.stamp(shown.at_time or 0)
    if shown.serving is None or shown.serving.revision is None:
        yield f"{name} served nothing on {when}"
        return
    for row in (shown.serving, *shown.also):
        subject = out.foreign(row.subject or "")
        yield f"{name} served {version(out, row.revision)} ({subject}) on {when}"
        until = "now" if row.until_time is None else units.stamp(row.until_time)
        yield f"  deployment {row.deployment}, {units.stamp(row.time)} to {until}{_by(out, row)}"


def _by(out: Output, row: DeploymentRow) -> str:
    text = f", by {out.foreign(who(row.actor))}"
    if row.gate_verdict is not None:
        words = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}
        over = " and overridden" if row.overridden else ""
        text += f", gates {words[row.gate_verdict]}{over}"
    if row.approvals_needed:
        people = ", ".join(out.foreign(who(actor)) for actor in row.approvers)
        text += f", approved by {people}"
    return text


def _now_lines(out: Output, shown: EnvironmentShown) -> Iterator[str]:
    row, serving = shown.environment, shown.serving
    yield f"environment {out.style(out.foreign(row.name), 'strong')}: {out.foreign(_asks(row))}"
    if serving is None or serving.revision is None:
        yield "serves nothing" + ("" if serving is None else f" ({serving.deployment})")
    else:
        subject = out.foreign(serving.subject or "")
        yield f"serves {out.id(serving.revision)}  {subject}"
        yield (
            f"  deployment {serving.deployment} ({serving.action}), {out.when(serving.time)}"
            f"{_by(out, serving)}"
        )
        if serving.reason:
            yield f"  reason: {out.foreign(serving.reason)}"
        for line in gate_lines(out, serving.gates, full=False):
            yield f"  {line}"
    if shown.ready:
        link = f", current -> {out.foreign(shown.linked or 'nothing')}"
        yield f"kept ready: {', '.join(map(out.foreign, shown.ready))}{link}"
    for waiting in shown.waiting:
        yield from _waiting_lines(out, waiting)
    for mark in shown.bad:
        why = f": {out.foreign(mark.reason)}" if mark.reason else ""
        by = out.foreign(who(mark.actor))
        yield f"called bad: {out.id(mark.revision)} by {by}, {out.when(mark.time)}{why}"
    if shown.back is not None:
        yield f"a rollback would go to {out.id(shown.back)}"


def _waiting_lines(out: Output, row: RequestShown) -> Iterator[str]:
    people = ", ".join(out.foreign(who(actor)) for actor in row.approvers) or "nobody yet"
    yield (
        f"waits: {row.request}  {out.id(row.revision)} {out.foreign(row.subject)}, asked by"
        f" {out.foreign(who(row.actor))}, {len(row.approvers)} of {row.needed} approvals ({people})"
    )
    if row.void is not None:
        yield f"  {out.style('void', 'warn')}: {out.foreign(row.void)}"


@verb(
    "log",
    group=command,
    tabular=True,
    examples=["deltavc env log production", "deltavc env log production -l 3 --json"],
    exit_codes={20: "no such environment"},
)
@argument("name", "The environment", type=options.ENVIRONMENT)
@options.limit("deployments")
def log(ctx: Context, name: str, limit: int | None) -> None:
    """List what an environment served, newest first."""
    from deltavc.repo import environments

    out, rows = ctx.out, environments.log(ctx.open_repository(), name, limit=limit)
    if out.is_document:
        out.data(rows)
        return
    columns = [
        Column("deployment"),
        Column("revision", "id"),
        Column("action"),
        Column("time", "time"),
        Column("until", "time"),
        Column("by"),
        Column("gates"),
        Column("subject", shrink=True),
        Column("reason", shrink=True),
    ]
    cells = (
        {
            "deployment": row.deployment,
            "revision": row.revision,
            "action": row.action,
            "time": row.time,
            "until": row.until_time,
            "by": who(row.actor),
            "gates": (row.gate_verdict or "") + (" (overridden)" if row.overridden else ""),
            "subject": row.subject,
            "reason": row.reason,
        }
        for row in rows
    )
    if out.manners.quiet:
        out.ids(row.deployment for row in rows)
        return
    out.table(columns, cells, empty=f"'{name}' has served nothing yet.")


@verb(
    "approve",
    group=command,
    mutating=True,
    examples=[
        'deltavc env approve r-000041 --reason "numbers checked, INC-300 is fixed"',
        "deltavc env approve r-000041 --sign",
    ],
    exit_codes={
        20: "no such request",
        35: "the request is your own, void or used",
        44: "the key cannot sign; nothing was recorded",
    },
    see=["gates"],
)
@argument("request", "The request, such as r-000041")
@options.reason()
@options.sign()
@options.dry_run("Say whether it can be approved")
def approve(ctx: Context, request: str, reason: str | None, sign: bool, dry_run: bool) -> None:
    """Approve a deployment that waits.

    An approval is bound to the version, its measurements and the policy: where one
    changes, it is void. Authors cannot approve what they made or asked for.
    """
    from deltavc.repo import environments

    out = ctx.out
    done = environments.approve(
        ctx.open_repository(), request, reason=reason, sign=sign, dry_run=dry_run
    )
    out.changed(done.changed, dry_run=dry_run)
    have = f"{len(done.approvers)} of {done.needed}"
    word = "Would approve" if dry_run else "Approved"
    word = word if done.changed else "You approved already:"
    line = (
        f"{word} {done.request}: {out.id(done.revision)} {out.foreign(done.subject)} for"
        f" {out.foreign(done.environment)}, {have} approvals"
    )
    out.data(done, human=[line, *(["  signed"] if done.signed else [])], ids=[done.request])
    if done.enough and not dry_run:
        told = f"deltavc deploy {short(done.revision)} --env {done.environment}"
        out.hint("env", f"it may go live now: {told}")


@verb(
    "mark",
    group=command,
    mutating=True,
    examples=[
        'deltavc env mark production c7d20e8f13 --bad --reason "INC-318"',
        'deltavc env mark production c7d20e8f13 --good --reason "it was the cache"',
    ],
    exit_codes={20: "no such environment, or it never served that revision"},
)
@argument("name", "The environment", type=options.ENVIRONMENT)
@argument("rev", "The version", type=options.REVISION)
@click.option("--bad/--good", "bad", default=None, help="Call it bad there, or not any more")
@options.reason()
@options.dry_run()
def mark(
    ctx: Context, name: str, rev: str, bad: bool | None, reason: str | None, dry_run: bool
) -> None:
    """Call a version bad in an environment, or not any more.

    Nothing deploys a bad version there, and no rollback goes to it.
    A rollback calls bad what it leaves.
    """
    from deltavc.repo import environments

    if bad is None:
        raise UsageError("say --bad or --good", hint=f"deltavc env mark {name} {rev} --bad")
    out = ctx.out
    done = environments.mark(
        ctx.open_repository(), name, rev, bad=bad, reason=reason, dry_run=dry_run
    )
    word = "bad" if bad else "not bad"
    verb_ = "would be" if dry_run and done.changed else "is"
    text = f"{out.id(done.revision)} {verb_} called {word} in {out.foreign(name)}"
    out.changed(done.changed, dry_run=dry_run)
    out.data(done, human=text + ("" if done.changed else " already"), ids=[done.revision])
