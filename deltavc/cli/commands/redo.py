"""``deltavc redo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltavc.cli import options
from deltavc.cli.verb import verb
from deltavc.cli.words import tell_undone

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb(
    "redo",
    mutating=True,
    examples=["deltavc redo", "deltavc redo -n"],
    exit_codes={34: "there is nothing to do again"},
)
@options.dry_run("Show what would be done again")
def command(ctx: Context, dry_run: bool) -> None:
    """Do again what undo took back.

    A new operation forgets what could be done again.
    """
    from deltavc.repo import operations

    done = operations.redo(ctx.open_repository(), dry_run=dry_run)
    tell_undone(ctx.out, done, "Would do again" if dry_run else "Did again")
    if not dry_run:
        ctx.out.hint("undo", "take it back: deltavc undo")
