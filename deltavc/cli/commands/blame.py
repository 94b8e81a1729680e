"""``deltavc blame``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from deltavc.cli import options
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import who

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.repo.results import BlameRow


@verb(
    "blame",
    tabular=True,
    examples=['deltavc blame "layers.0.*"', "deltavc blame --rev v1.0 --format csv"],
    see=["revisions"],
)
@argument("pattern", "Only these parameters; default: all that are changed", required=False,
          metavar="PARAM_GLOB")  # fmt: skip
@click.option(
    "--rev",
    metavar="REV",
    type=options.REVISION,
    default="HEAD",
    help="As of this revision; default: HEAD",
)
def command(ctx: Context, pattern: str | None, rev: str) -> None:
    """Say which commit each delta came from.

    The share is the delta's norm over the sum of those of the parameter's deltas.
    """
    from deltavc.repo.blame import blame

    rows = blame(ctx.open_repository(), pattern, rev=rev)
    ctx.out.table(
        _COLUMNS,
        (_row(row, whole=ctx.out.is_document) for row in rows),
        empty="Every parameter is the base's own.",
    )


_COLUMNS = [
    Column("parameter"),
    Column("commit", "id"),
    Column("share", "number", word=lambda value: f"{value:.0%}"),
    Column("times"),
    Column("kind"),
    Column("time", "time", title="when"),
    Column("author"),
    Column("subject", shrink=True),
]


def _row(row: BlameRow, *, whole: bool) -> dict[str, Any]:
    return {
        "parameter": row.parameter,
        "commit": row.commit,
        "share": row.share,
        ("coefficient" if whole else "times"): row.coefficient,
        "kind": row.kind,
        "time": row.time,
        "author": row.author if whole else who(row.author),
        "subject": row.subject,
        "delta": row.delta,
    }
