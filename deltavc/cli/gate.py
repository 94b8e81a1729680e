"""``deltavc kpi gate``: define, list, check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from deltavc.cli import options
from deltavc.cli.tables import Column, markdown_lines
from deltavc.cli.verb import argument, group, verb
from deltavc.cli.words import VERDICT_CODES, VERDICT_MARKS, rule_lines
from deltavc.errors import RepositoryUnwritable, UnsupportedFormat, UsageError
from deltavc.records.model import Gate

if TYPE_CHECKING:
    from pathlib import Path

    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results_kpi import GateChecked

__all__ = ["gate", "tables_of", "tell_defined"]

gate = group("gate", "Define and check what a revision must pass.")


def tables_of(ctx: Context, file: str) -> Any:
    """Returns the definitions and gates of the file of ``--from-file``."""
    from deltavc.repo.policy import read_tables

    path = ctx.directory / file
    if not path.is_file():
        raise UnsupportedFormat(f"there is no file '{file}'", hint="check the path of --from-file")
    return read_tables(path)


def tell_defined(
    out: Output, what: str, rows: Sequence[Any], told: Sequence[str], *, dry_run: bool
) -> None:
    """Tells which definitions are new; one is an object in the document, several are a list."""
    lines = []
    for row, text in zip(rows, told, strict=True):
        begin = ("Would define" if dry_run else "Defined") if row.changed else "As before:"
        lines.append(f"{begin} {what} {out.foreign(text)}")
    out.changed(any(row.changed for row in rows), dry_run=dry_run)
    data = rows[0] if len(rows) == 1 else {"definitions": list(rows)}
    out.data(data, human=lines, ids=[row.name for row in rows])


@verb(
    "define",
    group=gate,
    mutating=True,
    examples=[
        "deltavc kpi gate define release --require 'accuracy >= 0.85'",
        "deltavc kpi gate define release --require 'a not worse than baseline by 0.01'",
    ],
    exit_codes={2: "a rule cannot be read", 35: "deltavc.toml defines it differently"},
    see=["gates"],
)
@argument("name", "The gate", required=False, type=options.GATE)
@click.option(
    "--require",
    "rules",
    metavar="RULE",
    multiple=True,
    help="A rule in the gate language; all must hold",
)
@click.option("--description", metavar="TEXT", help="One sentence")
@click.option("--from-file", metavar="FILE", help="Apply gates from a TOML file")
@options.dry_run()
def define(
    ctx: Context,
    name: str | None,
    rules: tuple[str, ...],
    description: str | None,
    from_file: str | None,
    dry_run: bool,
) -> None:
    """Say what a revision must pass.

    A gate is the worst of its rules. What deltavc.toml defines is changed there.
    """
    from deltavc.repo import gates

    if from_file is not None:
        if name is not None or rules or description is not None:
            raise UsageError(
                "--from-file says everything itself",
                hint="deltavc kpi gate define --from-file FILE",
            )
        wanted = list(tables_of(ctx, from_file)[1].values())
        if not wanted:
            raise UsageError(f"'{from_file}' defines no gate", hint="it holds tables [gate.NAME]")
    elif name is None or not rules:
        raise UsageError(
            "a gate needs a name and --require",
            hint="deltavc kpi gate define release --require 'accuracy >= 0.85'",
        )
    else:
        wanted = [Gate(name, rules, description or "")]
    rows = gates.define(ctx.open_repository(), wanted, dry_run=dry_run)
    told = [f"{row.name}: {'; '.join(row.rules)}" for row in rows]
    tell_defined(ctx.out, "gate", rows, told, dry_run=dry_run)


@verb("list", group=gate, tabular=True, examples=["deltavc kpi gate list"], see=["gates"])
def list_(ctx: Context) -> None:
    """List the gates with their rules, and where they come from."""
    from deltavc.repo import gates

    rows = gates.list_(ctx.open_repository())
    out = ctx.out
    if out.is_document:
        out.data(rows)
    else:
        columns = [
            Column("name"),
            Column("rule"),
            Column("origin"),
            Column("description", shrink=True),
        ]
        cells = (
            {
                "name": row.name if at == 0 or not out.is_human else "",
                "rule": rule,
                "origin": row.origin if at == 0 or not out.is_human else "",
                "description": row.description if at == 0 else "",
            }
            for row in rows
            for at, rule in enumerate(row.rules)
            if at == 0 or not out.manners.quiet
        )
        out.table(columns, cells, empty="No gates.")
    for row in rows:
        if row.overrides:
            out.warn(f"deltavc.toml overrides the recorded gate '{row.name}'")


@verb(
    "check",
    group=gate,
    tabular=True,
    document="gate",
    examples=[
        "deltavc kpi gate check release",
        "deltavc kpi gate check release HEAD --against v1.0 --summary summary.md",
    ],
    exit_codes={0: "pass", 1: "fail", 3: "inconclusive", 20: "no such gate or revision"},
    see=["gates"],
)
@argument("name", "The gate", type=options.GATE)
@argument("rev", "The revision; default: HEAD", required=False, type=options.REVISION)
@click.option(
    "--against",
    metavar="REV",
    type=options.REVISION,
    help="Baseline; default: what the gate's environment serves",
)
@click.option(
    "--summary",
    metavar="FILE",
    help="Also write Markdown there, such as $GITHUB_STEP_SUMMARY",
)
def check(
    ctx: Context, name: str, rev: str | None, against: str | None, summary: str | None
) -> int:
    """Say whether a revision passes a gate, and why.

    A rule whose interval contains its limit is inconclusive, and so is one that
    lacks a measurement, samples or a baseline.
    """
    from deltavc.repo import gates

    out = ctx.out
    done = gates.check(ctx.open_repository(), name, rev or "HEAD", against=against)
    if summary is not None:
        _summarise(ctx.directory / summary, done)
    if out.is_human or out.is_document or out.manners.quiet:
        out.data(done, human=lambda: _lines(out, done), ids=[done.verdict])
    else:
        out.table(_COLUMNS, _cells(done))
    for text in done.hints:
        out.hint("gate", text)
    return VERDICT_CODES[done.verdict]


_COLUMNS = [Column("verdict"), Column("rule"), Column("sentence", title="measured")]


def _cells(done: GateChecked) -> Iterator[dict[str, Any]]:
    for row in done.rules:
        yield {"verdict": row.verdict, "rule": row.rule, "sentence": row.sentence}


def _lines(out: Output, done: GateChecked) -> Iterator[str]:
    against = f" against {out.id(done.baseline)}" if done.baseline is not None else ""
    verdict = out.style(done.verdict, VERDICT_MARKS[done.verdict][1])
    yield f"gate {out.foreign(done.gate)} on {out.id(done.revision)}{against}: {verdict}"
    yield from rule_lines(out, done.rules)


def _summarise(path: Path, done: GateChecked) -> None:
    """Adds the verdict as Markdown to a file, as CI systems collect it."""
    against = f" against `{done.baseline[:10]}`" if done.baseline is not None else ""
    title = f"### Gate {done.gate} on `{done.revision[:10]}`{against}: {done.verdict}"
    lines = [title, "", *markdown_lines(_COLUMNS, _cells(done), now=0)]
    if done.hints:
        lines += ["", *(f"- {hint}" for hint in done.hints)]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        raise RepositoryUnwritable(
            f"the summary '{path}' cannot be written: {error.strerror}", path=str(path)
        ) from error
