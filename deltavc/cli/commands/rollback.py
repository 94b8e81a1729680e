"""``deltavc rollback``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deltavc.cli import options, units
from deltavc.cli.ship import hook_words, version
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import aligned, number, place
from deltavc.ids import short

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results_ship import RolledBack


@verb(
    "rollback",
    mutating=True,
    hardy=True,
    examples=[
        'deltavc rollback production --reason "latency alarm INC-318"',
        "deltavc rollback production --to v1.0 --yes",
        "deltavc rollback production -n",
    ],
    exit_codes={
        1: "the question was answered with no",
        20: "no such environment, or it never served that revision",
        32: "somebody else was faster: nothing is done twice",
        34: "nothing earlier is left to go back to",
        36: "off a terminal it needs --yes",
        40: "the earlier version is damaged; the hint names one that is whole",
        61: "it serves the earlier version, but the hook failed",
    },
)
@argument("env", "The environment", type=options.ENVIRONMENT)
@click.option(
    "--to",
    metavar="REV",
    type=options.REVISION,
    help="This earlier deployment instead of the previous one",
)
@click.option(
    "--steps",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="N deployments back; default: 1",
)
@options.reason()
@options.dry_run("Show what would be served")
def command(
    ctx: Context, env: str, to: str | None, steps: int, reason: str | None, dry_run: bool
) -> int:
    """Return an environment to what it served before.

    The last version that is not called bad: no gate, no approval, no network. What
    it leaves is called bad there. It works while the catalog is locked or gone; where
    the log cannot be written, the next command records what was done.
    """
    from deltavc.repo.rollback import rollback

    out, repo = ctx.out, ctx.open_repository()
    if dry_run or not out.manners.yes:
        looked = rollback(repo, env, to=to, steps=steps, reason=reason, dry_run=True)
        if dry_run:
            out.changed(True, dry_run=True)
            out.data(looked, human=lambda: _plan(out, looked), ids=[looked.revision or ""])
            return 0
        question = f"Switch '{env}' from {_plain(looked.before)} back to {_plain(looked.revision)}?"
        if not out.confirm(question):
            out.changed(False)
            out.data(looked, human="Nothing changed.")
            return 1
        done = rollback(repo, env, to=to, steps=steps, reason=reason, expected=looked.seen)
    else:
        done = rollback(repo, env, to=to, steps=steps, reason=reason)
    out.changed(True)
    out.data(done, human=lambda: _lines(out, done), ids=[done.revision or ""])
    if not done.recorded:
        out.warn(f"not in the log yet ({done.why_not}); the next command records it")
    if done.before is not None:
        hint = f"deltavc kpi add {short(done.before)} NAME=VALUE --samples N"
        out.hint("rollback", f"tell the others why it went back: {hint}")
    return 0


def _plain(commit: str | None) -> str:
    return "nothing" if commit is None else short(commit)


def _lines(out: Output, done: RolledBack) -> Iterator[str]:
    arrow = f"{version(out, done.before)} -> {version(out, done.revision)}"
    yield (
        f"{out.foreign(done.environment)}: {arrow}   deployment {done.deployment}"
        f" (rollback of {done.of})"
    )
    what = "objects" if done.target is None else "files"
    parts = [f"{done.checked:,} {what} verified" if done.ready else "rebuilt and verified"]
    if done.target is not None:
        parts.append(f"{place(Path(done.target) / 'current')} switched")
    told = ", ".join(parts) + hook_words(out, done.hook)
    yield f"  {told}   {units.seconds(done.seconds)}"
    if done.rebuilt_seconds is not None:
        took = units.seconds(done.rebuilt_seconds)
        yield f"  it was not kept ready ({out.foreign(done.missing[0])}): rebuilt in {took}"


def _plan(out: Output, looked: RolledBack) -> Iterator[str]:
    arrow = f"{version(out, looked.before)} -> {version(out, looked.revision)}"
    yield f"{out.foreign(looked.environment)} would go back: {arrow}   (from {looked.of})"
    if looked.ready:
        what = "objects of the version" if looked.target is None else "files kept ready"
        size = f", {units.size(looked.bytes)}" if looked.bytes else ""
        yield f"  {looked.checked:,} {what}{size}, all whole"
    for text in looked.missing:
        yield f"  {out.style('missing', 'warn')}  {out.foreign(text)}: it would be rebuilt first"
    rows = [
        (out.foreign(kpi), number(old), "->", number(new))
        for kpi, (old, new) in looked.kpis.items()
    ]
    yield from aligned(rows, indent="  ")
