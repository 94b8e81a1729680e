"""``deltavc switch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deltavc.cli import options
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import place
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import BranchRow


@verb(
    "switch",
    mutating=True,
    examples=[
        "deltavc switch german",
        "deltavc switch -c german --start v1.0",
        "deltavc switch --detach HEAD~2",
    ],
    exit_codes={20: "there is no such branch", 22: "the branch to create exists"},
    see=["revisions"],
)
@argument("name", "The branch to stand on", required=False, type=options.BRANCH)
@click.option("-c", "--create", is_flag=True, help="Create NAME here, or at --start")
@click.option("--start", metavar="REV", type=options.REVISION, help="Where to create it")
@click.option(
    "--detach", metavar="REV", type=options.REVISION, help="Stand on a revision without a branch"
)
@options.dry_run()
def command(
    ctx: Context,
    name: str | None,
    create: bool,
    start: str | None,
    detach: str | None,
    dry_run: bool,
) -> None:
    """Move HEAD without writing a model.

    It is instant; checkout also rebuilds the model.
    """
    from deltavc.repo import branches

    if create and name is None:
        raise UsageError("--create needs the branch's name", hint="deltavc switch -c NAME")
    repo = ctx.open_repository()
    row = branches.switch(
        repo,
        None if create else name,
        create=name if create else None,
        start=start,
        detach=detach,
        dry_run=dry_run,
    )
    ctx.out.changed(row.changed, dry_run=dry_run)
    ctx.out.data(
        row,
        human=lambda: _text(ctx.out, row, detached=detach is not None, dry_run=dry_run),
        ids=[row.commit] if row.commit else [],
    )
    workspace = repo.workspace
    if row.changed and not dry_run and workspace is not None and workspace.exists():
        ctx.out.hint(
            "switch-checkout",
            f"{place(workspace)} was left alone; write it: deltavc checkout {row.name}",
        )


def _text(out: Output, row: BranchRow, *, detached: bool, dry_run: bool) -> str:
    begin = "Would stand" if dry_run else "Now" if row.changed else "Already"
    at = (
        f"at {out.id(row.commit)}  {out.foreign(row.subject)}"
        if row.commit
        else "without a revision"
    )
    if detached:
        return f"{begin} on no branch, {at}".rstrip()
    return f"{begin} on branch {out.style(row.name, 'good')} {at}".rstrip()
