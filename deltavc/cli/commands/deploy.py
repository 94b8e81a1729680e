"""``deltavc deploy``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from deltavc.cli import options
from deltavc.cli.ship import run_deploy
from deltavc.cli.verb import argument, verb
from deltavc.ids import short

if TYPE_CHECKING:
    from collections.abc import Callable

    from deltavc.cli.context import Context
    from deltavc.repo.results_ship import DeployedRow

EXIT_CODES = {
    1: "a gate failed, or the question was answered with no",
    3: "a gate cannot decide",
    20: "no such revision, environment or gate",
    22: "the key was used for another version",
    32: "somebody else switched meanwhile",
    35: "protected, out of order, or called bad there",
    36: "approvals are missing (the request is recorded), or --yes is needed off a terminal",
    61: "the hook failed, and the environment went back",
}


@verb(
    "deploy",
    mutating=True,
    examples=[
        'deltavc deploy HEAD --env staging --reason "weekly release"',
        "deltavc deploy v1.0 --env staging --key $CI_RUN_ID --yes",
        "deltavc deploy HEAD --env staging -n",
    ],
    exit_codes=EXIT_CODES,
    see=["gates", "revisions"],
)
@argument("rev", "The revision", type=options.REVISION)
@click.option(
    "--env",
    "environment",
    metavar="ENV",
    required=True,
    type=options.ENVIRONMENT,
    help="Environment to deploy to",
)
@options.reason()
@options.override_gate()
@options.key()
@options.dry_run("Show gates, approvals and steps")
def command(
    ctx: Context,
    rev: str,
    environment: str,
    reason: str | None,
    override: tuple[str, ...],
    key: str | None,
    dry_run: bool,
) -> int:
    """Make a revision the one that an environment serves.

    Asks the environment's gates, counts approvals, writes the version beside the
    others and switches the link. What the gates saw is kept with the deployment.
    """
    from deltavc.repo.deploy import deploy

    repo = ctx.open_repository()

    def run(*, dry: bool) -> DeployedRow:
        return deploy(
            repo, rev, environment, reason=reason, override=override, key=key, dry_run=dry
        )

    return carry_out(ctx, run, dry_run=dry_run)


def carry_out(ctx: Context, run: Callable[..., DeployedRow], *, dry_run: bool) -> int:
    """Looks first, asks, then does it: for ``deploy`` and ``promote``.

    Args:
        ctx: The run.
        run: Deploys, or with ``dry=True`` only looks.
        dry_run: Only look.

    Returns:
        The exit code.
    """
    looked = run(dry=True)
    if dry_run:
        return run_deploy(ctx, looked)
    looked = msgspec.structs.replace(looked, dry_run=False)
    if looked.blocked == "gate":
        return run_deploy(ctx, looked)
    if looked.changed and not _agreed(ctx, looked):
        ctx.out.changed(False)
        ctx.out.data(looked, human="Nothing changed.")
        return 1
    return run_deploy(ctx, run(dry=False))


def _agreed(ctx: Context, looked: DeployedRow) -> bool:
    before = "nothing" if looked.before is None else short(looked.before)
    return ctx.out.confirm(
        f"Switch '{looked.environment}' from {before} to {short(looked.revision)}"
        f" ({looked.subject})?"
    )
