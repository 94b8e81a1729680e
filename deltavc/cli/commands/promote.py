"""``deltavc promote``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltavc.cli import options
from deltavc.cli.commands.deploy import EXIT_CODES, carry_out
from deltavc.cli.verb import argument, verb

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.repo.results_ship import DeployedRow


@verb(
    "promote",
    mutating=True,
    examples=[
        'deltavc promote staging production --reason "weekly release"',
        "deltavc promote staging production -n",
    ],
    exit_codes=EXIT_CODES,
    see=["gates"],
)
@argument("from", "The environment whose version goes on", type=options.ENVIRONMENT)
@argument("to", "The environment that it goes to", type=options.ENVIRONMENT)
@options.reason()
@options.override_gate()
@options.key()
@options.dry_run("Show gates, approvals and steps")
def command(
    ctx: Context,
    to: str,
    reason: str | None,
    override: tuple[str, ...],
    key: str | None,
    dry_run: bool,
    **words: str,
) -> int:
    """Deploy what another environment serves.

    The way on for versions that have proven themselves: first a small department,
    then a wider one. Gates and approvals are those of the environment it goes to.
    """
    from deltavc.repo.deploy import promote

    repo, source = ctx.open_repository(), words["from"]

    def run(*, dry: bool) -> DeployedRow:
        return promote(repo, source, to, reason=reason, override=override, key=key, dry_run=dry)

    return carry_out(ctx, run, dry_run=dry_run)
