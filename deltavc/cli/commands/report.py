"""``deltavc report``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from deltavc.cli import options, units
from deltavc.cli.verb import verb
from deltavc.cli.words import plural

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.report.verb import Reported

LANGUAGES = ("en", "ja")


@verb(
    "report",
    examples=[
        "deltavc report",
        "deltavc report -o lineage.html --env production --since 2026-07-01",
        "deltavc report --lang ja --title 'Q3 review'",
    ],
    exit_codes={60: "charts need the extra 'report'; --no-charts does without"},
    see=["revisions"],
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="report.html",
    help="One HTML file; default: report.html",
)
@click.option(
    "--env",
    "environments",
    metavar="NAME",
    multiple=True,
    type=options.ENVIRONMENT,
    help="Only these environments",
)
@click.option(
    "--range", "range_", metavar="RANGE", type=options.REVISION, help="Only these revisions"
)
@options.since()
@click.option("--title", metavar="TEXT", help="Title")
@click.option(
    "--lang",
    "language",
    metavar="CODE",
    type=click.Choice(LANGUAGES),
    default="en",
    help="Language of fixed text; default: en",
)
@click.option("--no-charts", is_flag=True, help="Leave the charts of KPIs out")
@click.option("--open", "open_", is_flag=True, help="Open it in a browser")
def command(
    ctx: Context,
    output: str,
    environments: tuple[str, ...],
    range_: str | None,
    since: int | None,
    title: str | None,
    language: str,
    no_charts: bool,
    open_: bool,
) -> None:
    """Write one HTML file about what is served, and why.

    It tells what is served now and since when, open problems, deployments with verdicts
    and approvals, lineage, KPIs, what changed, and how to verify it. The file loads
    nothing, prints well, and is the same to the byte for the same repository state.
    """
    from deltavc.report.verb import report

    file = ctx.directory / output
    done = report(
        ctx.open_repository(),
        file,
        environments=environments,
        range_=range_,
        since=since,
        title=title,
        language=language,
        charts=not no_charts,
    )
    ctx.out.data(done, human=lambda: _lines(ctx.out, done, output), ids=[str(file)])
    ctx.out.hint("report-anchor", f"keep the head elsewhere: event {done.event} {done.head}")
    if open_ and click.launch(file.resolve().as_uri()) != 0:
        ctx.out.warn(f"no browser could be started; open it yourself: {output}")


def _lines(out: Output, done: Reported, output: str) -> Iterator[str]:
    told = [
        plural(done.revisions, "revision"),
        plural(done.deployments, "deployment"),
        plural(done.kpis, "KPI"),
    ]
    yield (
        f"Wrote {out.foreign(output)} ({units.size(done.size)}): {', '.join(told)}. "
        "Nothing is loaded from the network."
    )
    if done.problems:
        yield out.style(f"{plural(done.problems, 'open problem')}", "bad") + ", on its first page."
    else:
        yield "No open problem."
