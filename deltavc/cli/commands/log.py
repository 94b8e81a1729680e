"""``deltavc log``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from deltavc.cli import options
from deltavc.cli.graph import Node, draw
from deltavc.cli.sparkline import sparkline
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import aligned, kpi_words, signature_status, subject, who
from deltavc.errors import UnknownRevision

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import LogRow


@verb(
    "log",
    tabular=True,
    examples=[
        "deltavc log -k accuracy",
        "deltavc log --all --since '14 days ago'",
        "deltavc log main..german --format md",
        "deltavc log --show-signature",
    ],
    see=["revisions"],
)
@argument("range_", "A revision and what is before it, or A..B; default: HEAD", required=False,
          metavar="RANGE", type=options.REVISION)  # fmt: skip
@options.limit("revisions")
@click.option("--graph", is_flag=True, help="Draw the lineage (default on a terminal)")
@click.option("--no-graph", "plain", is_flag=True, help="Plain list")
@click.option("--all", "all_", is_flag=True, help="All branches, tags and environments")
@options.kpi_names()
@options.param("Only revisions that changed these parameters")
@options.label("Only with this label")
@click.option("--author", metavar="TEXT", help="Only by this author")
@options.since()
@options.until()
@click.option("--show-signature", "signatures", is_flag=True, help="Check the signatures")
def command(
    ctx: Context,
    range_: str | None,
    limit: int | None,
    graph: bool,
    plain: bool,
    all_: bool,
    kpis: tuple[str, ...],
    params: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    author: str | None,
    since: int | None,
    until: int | None,
    signatures: bool,
) -> None:
    """List revisions, newest first.

    The current one is marked with @. A ~ in the drawing stands for revisions that
    are not listed. Below a drawing, each KPI that was asked for is drawn too.
    """
    from deltavc.repo import history

    repo = ctx.open_repository()
    try:
        rows = history.log(
            repo,
            range_=range_,
            limit=limit,
            all_=all_,
            kpis=kpis,
            params=params,
            labels=dict(labels),
            author=author,
            since=since,
            until=until,
            signatures=signatures,
        )
    except UnknownRevision:
        if range_ is not None or repo.head_commit(repo.state()) is not None:
            raise
        rows = []  # nothing has been recorded yet, which is an answer
    _tell(ctx.out, rows, kpis, draws=not plain and (graph or ctx.out.is_terminal))
    if not rows and not any((range_, params, labels, author, since, until, limit == 0)):
        ctx.out.hint("first-commit", 'record the first revision: deltavc commit PATH -m "why"')
    for kpi in kpis:
        if rows and not any(kpi in row.measurements for row in rows):
            ctx.out.warn(f"none of these revisions has a measurement of '{kpi}'")


def _tell(out: Output, rows: Sequence[LogRow], kpis: Sequence[str], *, draws: bool) -> None:
    if not (out.is_human or out.is_document or out.manners.quiet):
        checked = any(row.signatures is not None for row in rows)
        out.table(_columns(kpis, checked=checked), (_flat(row, kpis) for row in rows))
        return
    none = ["No revisions."]
    out.data(
        list(rows),
        human=lambda: _lines(out, rows, kpis, draws=draws) if rows else none,
        ids=(row.commit for row in rows),
    )


def _columns(kpis: Sequence[str], *, checked: bool) -> list[Column]:
    return [
        Column("commit", "id"),
        Column("branches"),
        Column("tags"),
        Column("environments"),
        Column("time", "time", title="when"),
        Column("author"),
        Column("subject"),
        Column("precision"),
        *([Column("signatures")] if checked else []),
        *(Column(kpi) for kpi in kpis),
    ]


def _flat(row: LogRow, kpis: Sequence[str]) -> dict[str, Any]:
    measured = {
        kpi: "NaN" if value is None else format(value, ".6g")
        for kpi, value in row.measurements.items()
        if kpi in kpis
    }
    return measured | {
        "commit": row.commit,
        "branches": row.branches,
        "tags": row.tags,
        "environments": row.environments,
        "time": row.time,
        "author": who(row.author),
        "subject": subject(row.message),
        "precision": "exact" if row.exact else "approximate",
        "signatures": [f"{one.status} {one.signer}" for one in row.signatures or ()],
    }


def _lines(
    out: Output, rows: Sequence[LogRow], kpis: Sequence[str], *, draws: bool
) -> Iterator[str]:
    """Yields a line a revision: drawing, id and names, then columns that stand below each other."""
    marks = {row.commit: "@" if row.is_head else "*" for row in rows}
    taken = {name for row in rows for name in (*row.branches, *row.tags)}
    nodes = [Node(row.commit, row.parents if draws else (), marks[row.commit]) for row in rows]
    by_id = {row.commit: row for row in rows}
    drawn = draw(nodes) if draws else ((node.mark, node) for node in nodes)
    lines = [
        (prefix, None if node is None else _cells(out, by_id[node.name], prefix, kpis, taken))
        for prefix, node in drawn
    ]
    cells = [found for _, found in lines if found is not None]
    used = [at for at in range(len(cells[0])) if any(row[at] for row in cells)]
    texts = aligned(
        ([row[at] for at in used] for row in cells),
        width=out.width,
        shrink=used.index(SUBJECT) if SUBJECT in used else None,
    )
    for prefix, found in lines:
        yield prefix if found is None else next(texts)
    if draws:
        yield from _trends(out, rows, kpis)


SUBJECT = 3
"""Which of the cells gives way on a narrow terminal."""


MOST_DRAWN = 60
"""Values of a KPI that are drawn: the newest."""


def _trends(out: Output, rows: Sequence[LogRow], kpis: Sequence[str]) -> Iterator[str]:
    """Yields a line a KPI: how it went, the newest revision at the right, and the ends in words."""
    cells = []
    for kpi in kpis:
        measured = [row.measurements[kpi] for row in rows if kpi in row.measurements]
        shown = measured[:MOST_DRAWN][::-1]
        numbers = [value for value in shown if value is not None]
        if len(numbers) < 2:
            continue
        low, high = (format(value, ".6g") for value in (min(numbers), max(numbers)))
        newest = "NaN" if shown[-1] is None else format(shown[-1], ".6g")
        of = f" of {len(measured)}" if len(measured) > len(shown) else ""
        words = f"{low} to {high}, now {newest}; {len(shown)}{of} revisions, oldest at the left"
        cells.append([out.foreign(kpi), sparkline(shown, blocks=out.has_blocks), words])
    if cells:
        yield ""
        yield from aligned(cells)


def _cells(
    out: Output, row: LogRow, prefix: str, kpis: Sequence[str], taken: Collection[str]
) -> list[str]:
    names = [out.style(name, "good") for name in row.branches]
    names += [out.style(name, "strong") for name in row.tags]
    # an environment that is called as a branch or tag is told apart
    names += [out.style(f"env:{n}" if n in taken else n, "warn") for n in row.environments]
    measured = {k: row.measurements[k] for k in kpis if k in row.measurements}
    return [
        "  ".join([f"{prefix} {out.id(row.commit)}", *([" ".join(names)] if names else [])]),
        out.when(row.time),
        out.foreign(who(row.author)),
        out.foreign(subject(row.message)),
        "" if row.exact else out.style("approximate", "warn"),
        _signed(out, row),
        kpi_words(measured, row.half_widths),
    ]


def _signed(out: Output, row: LogRow) -> str:
    """Returns what the signatures are worth, where they were checked."""
    if row.signatures is None:
        return ""
    words = (f"{signature_status(out, one)} {out.foreign(one.signer)}" for one in row.signatures)
    return ", ".join(words) or "not signed"
