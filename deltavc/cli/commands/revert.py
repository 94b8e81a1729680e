"""``deltavc revert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deltavc.cli import options
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import sum_lines

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb(
    "revert",
    mutating=True,
    examples=["deltavc revert HEAD~1", "deltavc revert 3e91c07a5d -n"],
    exit_codes={30: "a file or a replaced parameter changed since in another way"},
    see=["revisions"],
)
@argument("revs", "Revisions to take back", nargs=-1, required=True, metavar="REV",
          type=options.REVISION)  # fmt: skip
@options.message()
@click.option(
    "--mainline",
    metavar="N",
    type=click.IntRange(min=1),
    help="Which parent of a merge is the one to go back to",
)
@options.dry_run()
def command(
    ctx: Context,
    revs: tuple[str, ...],
    message: str | None,
    mainline: int | None,
    dry_run: bool,
) -> None:
    """Take revisions back with a new commit.

    It is exact, wherever in history they stand: the bits are those of the history
    without them.
    """
    from deltavc.repo import changes

    done = changes.revert(
        ctx.open_repository(), revs, message=message, mainline=mainline, dry_run=dry_run
    )
    ctx.out.changed(done.changed, dry_run=dry_run)
    ctx.out.data(
        done,
        human=lambda: sum_lines(ctx.out, done),
        ids=[done.commit] if done.commit and not dry_run else [],
    )
    if done.changed and not dry_run:
        ctx.out.hint("revert-write", f"write it: deltavc checkout {done.branch or 'HEAD'}")
        ctx.out.hint("undo", "take it back: deltavc undo")
