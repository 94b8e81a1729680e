"""``deltavc branch``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from deltavc.cli import options
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import aligned
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import BranchRow


@verb(
    "branch",
    tabular=True,
    examples=[
        "deltavc branch",
        "deltavc branch german v1.0",
        "deltavc branch german --set-to main~1",
        "deltavc branch german --delete",
    ],
    exit_codes={22: "the name is in use", 35: "it is the current branch"},
    see=["revisions"],
)
@argument("name", "The branch; without it, list all", required=False, type=options.BRANCH)
@argument("start", "Where to create it; default: HEAD", required=False, type=options.REVISION)
@click.option("--delete", is_flag=True, help="Delete NAME")
@click.option("--rename", metavar="NEW", help="Rename NAME")
@click.option("--set-to", metavar="REV", type=options.REVISION, help="Move NAME to REV")
@options.dry_run()
def command(
    ctx: Context,
    name: str | None,
    start: str | None,
    delete: bool,
    rename: str | None,
    set_to: str | None,
    dry_run: bool,
) -> None:
    """List, create, rename, move or delete branches.

    Revisions stay when a branch is deleted or moved: undo brings it back.
    """
    from deltavc.repo import branches

    _check(name, start, delete=delete, rename=rename, set_to=set_to)
    if name is None:
        _list(ctx.out, branches.list_(ctx.open_repository()))
        return
    ctx.changes()
    repo = ctx.open_repository()
    if delete:
        row = branches.delete(repo, name, dry_run=dry_run)
        words = f"branch {ctx.out.foreign(name)}, it was at {ctx.out.id(row.before or '')}"
        text = f"Would delete {words}" if dry_run else f"Deleted {words}"
    elif rename is not None:
        row = branches.rename(repo, name, rename, dry_run=dry_run)
        words = f"branch {ctx.out.foreign(name)} to {ctx.out.foreign(rename)}"
        text = f"Would rename {words}" if dry_run else f"Renamed {words}"
    elif set_to is not None:
        row = branches.set_to(repo, name, set_to, dry_run=dry_run)
        moved = f"{ctx.out.id(row.before or '')} -> {ctx.out.id(row.commit or '')}"
        words = f"branch {ctx.out.foreign(name)}  {moved}"
        text = f"Would move {words}" if dry_run else f"Moved {words}"
    else:
        row = branches.create(repo, name, start, dry_run=dry_run)
        words = f"branch {ctx.out.foreign(name)} at {ctx.out.id(row.commit or '')}"
        text = f"Would create {words}" if dry_run else f"Created {words}"
    if not row.changed:
        text = f"Branch {ctx.out.foreign(row.name)} stands like that already; nothing changed."
    ctx.out.changed(row.changed, dry_run=dry_run)
    ctx.out.data(row, human=text, ids=[row.name])
    if row.changed and not dry_run:
        if (delete or set_to is not None) and row.before:
            ctx.out.hint("undo", "take it back: deltavc undo")
        elif not (delete or rename or set_to):
            ctx.out.hint("switch", f"stand on it: deltavc switch {name}")


def _check(
    name: str | None, start: str | None, *, delete: bool, rename: str | None, set_to: str | None
) -> None:
    flags = {"--delete": delete, "--rename": rename is not None, "--set-to": set_to is not None}
    given = [flag for flag, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other", hint="deltavc branch -h")
    if given and name is None:
        raise UsageError(f"{given[0]} needs the branch's name", hint="list them: deltavc branch")
    if given and start is not None:
        raise UsageError(
            f"START is for a new branch, not for {given[0]}", hint="deltavc branch NAME START"
        )


def _list(out: Output, rows: Sequence[BranchRow]) -> None:
    if out.is_human or out.is_document or out.manners.quiet:
        out.data(list(rows), human=lambda: _lines(out, rows), ids=(row.name for row in rows))
        return
    out.table(
        [Column("name"), Column("commit", "id"), Column("current", "flag"), Column("subject")],
        ({"name": r.name, "commit": r.commit, "current": r.current, "subject": r.subject}
         for r in rows),
    )  # fmt: skip


def _lines(out: Output, rows: Sequence[BranchRow]) -> Iterator[str]:
    cells = [
        (
            f"{'@' if row.current else ' '} {out.style(row.name, 'good')}",
            out.id(row.commit) if row.commit else "no revision yet",
            out.foreign(row.subject),
        )
        for row in rows
    ]
    yield from aligned(cells, width=out.width, shrink=2) if cells else ["No branches."]
