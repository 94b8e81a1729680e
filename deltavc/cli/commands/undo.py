"""``deltavc undo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltavc.cli import options
from deltavc.cli.verb import verb
from deltavc.cli.words import tell_undone

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb(
    "undo",
    mutating=True,
    examples=["deltavc undo", "deltavc undo -n"],
    exit_codes={34: "there is nothing to take back"},
)
@options.dry_run("Show what would be taken back")
def command(ctx: Context, dry_run: bool) -> None:
    """Take back the last operation.

    Again goes further back, redo comes forward. Refs and the workspace move;
    nothing that was recorded is lost.
    """
    from deltavc.repo import operations

    done = operations.undo(ctx.open_repository(), dry_run=dry_run)
    tell_undone(ctx.out, done, "Would take back" if dry_run else "Took back")
    if not dry_run:
        ctx.out.hint("redo", "deltavc redo brings it back")
