"""``deltavc cherry-pick``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltavc.cli import options
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import sum_lines

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb(
    "cherry-pick",
    mutating=True,
    examples=["deltavc cherry-pick german", "deltavc cherry-pick german~1 german"],
    exit_codes={
        25: "a revision stands on another base",
        30: "a file or a replaced parameter changed here in another way",
    },
    see=["revisions"],
)
@argument("revs", "Revisions whose change is wanted, in order", nargs=-1, required=True,
          metavar="REV", type=options.REVISION)  # fmt: skip
@options.message("Message; default: that of REV")
@options.dry_run()
def command(ctx: Context, revs: tuple[str, ...], message: str | None, dry_run: bool) -> None:
    """Apply the change of other revisions here.

    It is exact, and what reaches a branch twice counts once when they are merged.
    """
    from deltavc.repo import changes

    picked = changes.cherry_pick(ctx.open_repository(), revs, message=message, dry_run=dry_run)
    changed = any(done.changed for done in picked)
    ctx.out.changed(changed, dry_run=dry_run)
    ctx.out.data(
        picked,
        human=lambda: (line for done in picked for line in sum_lines(ctx.out, done)),
        ids=[done.commit for done in picked if done.commit and not dry_run],
    )
    if changed and not dry_run:
        ctx.out.hint("undo", "take it back: deltavc undo")
