"""``deltavc kpi``: define, list, add, import, show, compare; ``kpi gate``: define, list, check."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from deltavc.cli import options
from deltavc.cli.gate import gate, tables_of, tell_defined
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, group, verb
from deltavc.cli.words import aligned, plural, who
from deltavc.errors import UsageError
from deltavc.kpi import words
from deltavc.kpi.definitions import DIRECTIONS, KINDS
from deltavc.records.model import Kpi, series_name

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import MeasurementRow
    from deltavc.repo.results_kpi import KpiDifference, KpiRow

command = group(
    "kpi",
    "Define, record and compare what is measured, and check gates.\n\n"
    "Measurements are never changed: a correction points at what it replaces and says why.",
)

_REV = options.REVISION


# definitions


@verb(
    "define",
    group=command,
    mutating=True,
    examples=[
        "deltavc kpi define accuracy --direction higher --kind proportion --min-samples 1000",
        "deltavc kpi define latency_p95 --direction lower --kind quantile --unit ms",
        "deltavc kpi define --from-file kpis.toml -n",
    ],
    exit_codes={35: "deltavc.toml defines it differently"},
    see=["gates"],
)
@argument("name", "The KPI, such as accuracy or latency_p95", required=False, type=options.KPI)
@click.option(
    "--direction", metavar="WAY", type=click.Choice(DIRECTIONS), help="higher or lower is better"
)
@click.option("--unit", metavar="TEXT", help="Unit for people and reports, such as % or ms")
@click.option(
    "--kind",
    metavar="KIND",
    type=click.Choice(KINDS),
    help="proportion, mean, quantile or count; decides the interval",
)
@click.option(
    "--quantile",
    metavar="Q",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Which quantile, such as 0.95; default: from a name that ends in _p95",
)
@click.option(
    "--min-samples",
    metavar="N",
    type=click.IntRange(min=0),
    help="Below this a gate is inconclusive",
)
@click.option("--description", metavar="TEXT", help="One sentence")
@click.option("--from-file", metavar="FILE", help="Apply definitions from a TOML file")
@options.dry_run()
def define(
    ctx: Context,
    name: str | None,
    direction: str | None,
    unit: str | None,
    kind: str | None,
    quantile: float | None,
    min_samples: int | None,
    description: str | None,
    from_file: str | None,
    dry_run: bool,
) -> None:
    """Say what a KPI is.

    The definition decides which values are better, how an interval is computed,
    and below how many samples a gate does not decide. What deltavc.toml defines
    is changed there.
    """
    from deltavc.repo import kpis

    given = (direction, unit, kind, quantile, min_samples, description)
    if from_file is not None:
        if name is not None or any(value is not None for value in given):
            raise UsageError(
                "--from-file says everything itself", hint="deltavc kpi define --from-file FILE"
            )
        wanted = list(tables_of(ctx, from_file)[0].values())
        if not wanted:
            raise UsageError(f"'{from_file}' defines no KPI", hint="it holds tables [kpi.NAME]")
    elif name is None or direction is None or kind is None:
        raise UsageError(
            "a definition needs a name, --direction and --kind",
            hint="deltavc kpi define accuracy --direction higher --kind proportion",
        )
    else:
        wanted = [
            Kpi(name, direction, kind, unit or "", min_samples or 0, quantile, description or "")
        ]
    rows = kpis.define(ctx.open_repository(), wanted, dry_run=dry_run)
    tell_defined(ctx.out, "KPI", rows, [_kpi_words(row) for row in rows], dry_run=dry_run)


def _kpi_words(row: KpiRow) -> str:
    parts = [row.kind or "", f"{row.direction} is better"]
    if row.kind == "quantile":
        parts[0] = f"quantile {row.quantile:g}"
    if row.unit:
        parts.append(f"in {row.unit}")
    if row.min_samples:
        parts.append(f"at least {plural(row.min_samples, 'sample')}")
    return f"{row.name}: {', '.join(parts)}"


@verb("list", group=command, tabular=True, examples=["deltavc kpi list"], see=["gates"])
def list_(ctx: Context) -> None:
    """List the KPIs, and where their definitions come from."""
    from deltavc.repo import kpis

    rows = kpis.list_(ctx.open_repository())
    out = ctx.out
    if out.is_document:
        out.data(rows)
    else:
        columns = [
            Column("name"),
            Column("kind"),
            Column("direction", title="better"),
            Column("unit"),
            Column("min_samples", "count", title="samples"),
            Column("revisions", "count", title="measured"),
            Column("slices"),
            Column("origin"),
            Column("description", shrink=True),
        ]
        out.table(columns, (_kpi_cells(row) for row in rows), empty="No KPIs.")
    for row in rows:
        if row.overrides:
            out.warn(f"deltavc.toml overrides the recorded definition of '{row.name}'")
    undefined = [row.name for row in rows if row.direction is None]
    if undefined:
        out.hint(
            "kpi-define",
            f"gates need to know it: deltavc kpi define {undefined[0]} --direction WAY --kind KIND",
        )


def _kpi_cells(row: KpiRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__} | {
        "min_samples": row.min_samples or None
    }


# measurements


@verb(
    "add",
    group=command,
    mutating=True,
    examples=[
        "deltavc kpi add HEAD accuracy=0.879 --samples 5000 --dataset tickets-2026-10",
        "deltavc kpi add HEAD 'accuracy[rare]=0.71' --samples 400",
        "deltavc kpi add HEAD accuracy=0.86 --supersedes 4f1d2a --reason 'wrong split'",
    ],
    exit_codes={20: "no such revision or measurement", 22: "it has been corrected already"},
    see=["gates"],
)
@argument("rev", "The revision that was measured", type=_REV)
@argument("values", "What was measured; a slice stands in brackets", nargs=-1, required=True,
          metavar="NAME=VALUE", type=options.KEY_VALUE)  # fmt: skip
@click.option(
    "--samples", metavar="N", type=click.IntRange(min=1), help="Number of samples behind the values"
)
@click.option("--stderr", metavar="X", type=float, help="Standard error, when the kind cannot tell")
@click.option("--values", "file", metavar="FILE", help="Per-sample values, for paired comparison")
@click.option("--dataset", metavar="ID", help="Evaluation set and version")
@click.option("--data", metavar="PATH", help="Evaluation data: its digest is kept, not the data")
@click.option("--tool", metavar="TEXT", help="Harness and version")
@click.option("--seed", metavar="N", type=int, help="Evaluation seed")
@click.option("--source", metavar="URI", help="Where the numbers come from")
@click.option("--supersedes", metavar="ID", help="Correct an earlier measurement; needs --reason")
@options.reason()
@options.dry_run("Check, and show what would be recorded")
def add(
    ctx: Context,
    rev: str,
    values: tuple[tuple[str, str], ...],
    samples: int | None,
    stderr: float | None,
    file: str | None,
    dataset: str | None,
    data: str | None,
    tool: str | None,
    seed: int | None,
    source: str | None,
    supersedes: str | None,
    reason: str | None,
    dry_run: bool,
) -> None:
    """Record what was measured on a revision.

    Measurements are never changed. A correction counts in the place of what it
    supersedes; both stay in the history.
    """
    from deltavc.repo import kpis
    from deltavc.repo.samples import Samples

    measured = {name: _number(name, text) for name, text in values}
    if len(measured) != len(values):
        raise UsageError("a KPI is given twice", hint="one value a KPI and slice")
    digest = None
    if data is not None:
        from deltavc.repo.record import data_ref

        ref = data_ref(ctx.directory / data)
        dataset, digest = dataset if dataset is not None else ref.name, ref.sha256
    rows = kpis.add(
        ctx.open_repository(),
        rev,
        measured,
        samples=samples,
        stderr=stderr,
        per_sample=None if file is None else Samples.read(ctx.directory / file),
        dataset=dataset,
        dataset_sha256=digest,
        tool=tool,
        seed=seed,
        source=source,
        supersedes=supersedes,
        reason=reason,
        dry_run=dry_run,
    )
    _tell_recorded(ctx.out, rows, dry_run=dry_run)
    if samples is None and file is None and stderr is None:
        ctx.out.hint("kpi-samples", "gates need a sample count: --samples N")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(
            f"'{text[:40]}' is not a number for KPI '{name}'", hint=f"{name}=0.87"
        ) from error


def _tell_recorded(out: Output, rows: Sequence[MeasurementRow], *, dry_run: bool) -> None:
    def lines() -> Iterator[str]:
        yield f"{'Would record' if dry_run else 'Recorded'} on {out.id(rows[0].revision)}:"
        yield from aligned([_measured(out, row) for row in rows], indent="  ")

    out.changed(bool(rows), dry_run=dry_run)
    out.data({"measurements": list(rows)}, human=lines, ids=[row.id for row in rows if row.id])


def _measured(out: Output, row: MeasurementRow) -> list[str]:
    return [
        out.foreign(series_name(row.kpi, row.slice)),
        out.foreign(_value(row.value, row.unit)),
        _spread(row.low, row.high, row.method, row.samples),
        out.foreign(" ".join(filter(None, (row.dataset, f"({row.tool})" if row.tool else "")))),
        out.id(row.id) if row.id else "",
    ]


def _value(value: float | None, unit: str) -> str:
    return "NaN" if value is None else words.value(value, unit)


def _spread(low: float | None, high: float | None, method: str | None, samples: int | None) -> str:
    """Returns interval and sample count: ``0.870..0.888, n=5,000``."""
    parts = []
    if method not in (None, "exact") and low is not None and high is not None:
        parts.append(words.interval(low, high))
    if samples is not None:
        parts.append(f"n={samples:,}")
    return ", ".join(parts)


@verb(
    "import",
    group=command,
    mutating=True,
    examples=[
        "deltavc kpi import HEAD --from json:scores.json --dataset tickets-2026-10",
        "deltavc kpi import HEAD --from trainer:out/checkpoint-300 --map eval_accuracy=accuracy",
    ],
    exit_codes={45: "the source holds no numbers", 60: "the client is not installed"},
    see=["gates"],
)
@argument("rev", "The revision that was measured", type=_REV)
@click.option(
    "--from",
    "source",
    metavar="URI",
    required=True,
    help="mlflow:RUN, wandb:ENTITY/PROJECT/RUN, json:FILE or trainer:FOLDER",
)
@click.option(
    "--map",
    "names",
    metavar="THEIRS=OURS",
    type=options.KEY_VALUE,
    multiple=True,
    help="Names to take and what to call them",
)
@click.option(
    "--samples", metavar="N", type=click.IntRange(min=1), help="Number of samples behind the values"
)
@click.option("--dataset", metavar="ID", help="Evaluation set and version")
@options.dry_run("Show what would be recorded")
def import_(
    ctx: Context,
    rev: str,
    source: str,
    names: tuple[tuple[str, str], ...],
    samples: int | None,
    dataset: str | None,
    dry_run: bool,
) -> None:
    """Record numbers that others measured.

    Without --map the KPIs that are defined are taken, under their own names.
    """
    from deltavc.repo import kpi_import

    rows = kpi_import.import_(
        ctx.open_repository(),
        rev,
        source,
        folder=ctx.directory,
        names=dict(names),
        samples=samples,
        dataset=dataset,
        dry_run=dry_run,
    )
    _tell_recorded(ctx.out, rows, dry_run=dry_run)


@verb(
    "show",
    group=command,
    tabular=True,
    examples=["deltavc kpi show HEAD", "deltavc kpi show main --history"],
    see=["gates"],
)
@argument("rev", "The revision", type=_REV)
@click.option("--history", is_flag=True, help="Include superseded measurements")
def show(ctx: Context, rev: str, history: bool) -> None:
    """Show what was measured of a revision."""
    from deltavc.repo import kpis

    rows = kpis.show(ctx.open_repository(), rev, history=history)
    out = ctx.out
    if out.is_document:
        out.data(rows)
        return
    columns = [
        Column("kpi"),
        Column("value", word=str),
        Column("interval"),
        Column("dataset"),
        Column("tool", shrink=True),
        Column("time", "time", title="when"),
        Column("actor"),
        *([Column("state"), Column("reason", shrink=True)] if history else []),
        Column("id", "id"),
    ]
    people = out.is_human or out.manners.format == "md"
    out.table(columns, (_shown(row, people=people) for row in rows), empty="No measurements.")


def _shown(row: MeasurementRow, *, people: bool) -> dict[str, Any]:
    state = "" if row.is_latest else "older"
    if row.superseded_by is not None:
        state = f"superseded by {row.superseded_by[:10]}"
    return {
        "kpi": series_name(row.kpi, row.slice),
        "value": _value(row.value, row.unit) if people else row.value,
        "interval": _spread(row.low, row.high, row.method, row.samples),
        "dataset": row.dataset,
        "tool": row.tool,
        "time": row.time,
        "actor": who(row.actor),
        "state": state,
        "reason": row.reason,
        "id": row.id,
    }


@verb(
    "compare",
    group=command,
    tabular=True,
    examples=["deltavc kpi compare main~1 main", "deltavc kpi compare v1.0 HEAD --format md"],
    see=["gates"],
)
@argument("a", "A revision", type=_REV)
@argument("b", "Another revision", type=_REV)
@options.kpi_names("Only these")
@click.option(
    "--confidence",
    metavar="P",
    type=float,
    default=0.95,
    help="Confidence of intervals; default: 0.95",
)
def compare(ctx: Context, a: str, b: str, kpis: tuple[str, ...], confidence: float) -> None:
    """Compare what was measured of two revisions.

    Where both have values of the same samples, the comparison is a paired one.
    """
    from deltavc.repo import kpi_compare

    rows = kpi_compare.compare(ctx.open_repository(), a, b, kpis=kpis, confidence=confidence)
    out = ctx.out
    if out.is_document:
        out.data(rows)
        return
    columns = [
        Column("kpi"),
        Column("a", word=str),
        Column("b", word=str),
        Column("difference", title="b - a", word=str),
        Column("interval"),
        Column("verdict"),
        Column("method"),
    ]
    people = out.is_human or out.manners.format == "md"
    out.table(columns, (_compared(row, people=people) for row in rows), empty="No measurements.")


def _compared(row: KpiDifference, *, people: bool) -> Mapping[str, Any]:
    if not people:
        ends = (row.low, row.high)
        interval = "" if None in ends else f"{row.low!r}..{row.high!r}"
        return {
            n: getattr(row, n) for n in ("kpi", "a", "b", "difference", "verdict", "method")
        } | {"interval": interval}
    known = row.low is not None and row.method != "exact"
    finite = row.difference is not None and math.isfinite(row.difference)
    return {
        "kpi": row.kpi,
        "a": None if row.a is None else words.value(row.a, row.unit),
        "b": None if row.b is None else words.value(row.b, row.unit),
        "difference": words.signed(row.difference or 0.0, row.unit) if finite else None,
        "interval": words.interval(row.low, row.high, sign=True) if known else "",
        "verdict": row.verdict,
        "method": row.method or row.why,
    }


command.add_command(gate)
