"""``deltavc diff``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deltavc.cli import options
from deltavc.cli.tables import Column, human_lines, markdown_lines
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import number, place, plural
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import Diff, DiffRow

WORKSPACE = "workspace"


@verb(
    "diff",
    tabular=True,
    examples=[
        "deltavc diff",
        'deltavc diff main~1 main --params -p "layers.0.*"',
        "deltavc diff v1.0 HEAD --with-kpis --format md",
    ],
    exit_codes={1: "they differ, with --exit-code", 25: "the two stand on different bases"},
    see=["revisions"],
)
@argument("a", "The one revision; without both: HEAD", required=False, type=options.REVISION)
@argument("b", "The other; default: HEAD, without both: the workspace", required=False,
          type=options.REVISION)  # fmt: skip
@click.option("--stat", is_flag=True, help="One line a layer group (default for people)")
@click.option("--params", "by_param", is_flag=True, help="One line a parameter")
@options.param()
@click.option("--with-kpis", is_flag=True, help="Add measured KPIs of both sides")
@click.option("--exit-code", is_flag=True, help="Exit 1 when they differ")
def command(
    ctx: Context,
    a: str | None,
    b: str | None,
    stat: bool,
    by_param: bool,
    params: tuple[str, ...],
    with_kpis: bool,
    exit_code: bool,
) -> int:
    """Show what differs between two revisions.

    A and B stand for the changes of the two against the base: ||A|| is how far A is
    from it, ||B-A||/||A|| how far B is from A, cosine whether they go the same way.
    """
    import msgspec

    from deltavc.repo import diff

    if stat and by_param:
        raise UsageError("--stat and --params exclude each other", hint="deltavc diff -h")
    repo = ctx.open_repository()
    found = diff.diff(repo, a, b, params=params, with_kpis=with_kpis)
    for_people = ctx.out.is_human or ctx.out.manners.format == "md"
    grouped = stat or (for_people and not by_param)
    view = _groups(found.rows) if grouped else [_param(row) for row in found.rows]
    columns = _GROUP_COLUMNS if grouped else _PARAM_COLUMNS
    if ctx.out.manners.format in ("csv", "tsv"):
        raw = view if grouped else [msgspec.to_builtins(row) for row in found.rows]
        ctx.out.table(columns if grouped else _RAW_COLUMNS, raw)
    else:
        words = _Words(ctx.out, found, columns, view, filtered=bool(params))
        ctx.out.data(found, human=lambda: words.lines(repo.workspace), ids=_ids(found))
    differs = bool(found.rows or found.files) if params else not found.same
    return 1 if exit_code and differs else 0


def _ratio(value: float | str) -> str:
    return value if isinstance(value, str) else number(value)


_NORMS = (
    Column("norm_a", "number", title="||A||", word=number),
    Column("norm_b", "number", title="||B||", word=number),
)
_PARAM_COLUMNS = [
    Column("parameter"),
    *_NORMS,
    Column("relative", "number", title="||B-A||/||A||", word=_ratio),
    Column("cosine", "number", word=number),
    Column("rank"),
]
_RAW_COLUMNS = [
    Column("parameter"),
    *map(Column, ("norm_a", "norm_b", "norm_diff", "relative", "cosine", "rank_a", "rank_b")),
    Column("change"),
]
_GROUP_COLUMNS = [
    Column("layer"),
    Column("parameters", "count"),
    *_NORMS,
    Column("relative", "number", title="||B-A||/||A||", word=_ratio),
    Column("change"),
]


def _ids(found: Diff) -> list[str]:
    """Returns what ``-q`` prints: the parameters that differ."""
    return [row.parameter for row in found.rows]


def _param(row: DiffRow) -> dict[str, Any]:
    ranks = [str(rank or 0) for rank in (row.rank_a, row.rank_b)]
    is_ranked = row.rank_a is not None or row.rank_b is not None
    return {
        "parameter": row.parameter,
        "norm_a": row.norm_a if row.change != "added" else None,
        "norm_b": row.norm_b if row.change != "removed" else None,
        "relative": row.relative if row.change == "changed" else row.change,
        "cosine": row.cosine if row.change == "changed" else None,
        "rank": " -> ".join(ranks) if is_ranked else None,
    }


def group_of(parameter: str) -> str:
    """Returns the layer that a parameter belongs to: its name up to the first number in it.

    A name without a number belongs to its module: ``lm_head.weight`` to ``lm_head``.
    """
    parts = parameter.split(".")
    for at, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: at + 1])
    return ".".join(parts[:-1]) or parameter


def _groups(rows: Iterable[DiffRow]) -> list[dict[str, Any]]:
    groups: dict[str, list[DiffRow]] = {}
    for row in rows:
        groups.setdefault(group_of(row.parameter), []).append(row)
    return [_group(name, members) for name, members in groups.items()]


def _group(name: str, rows: Sequence[DiffRow]) -> dict[str, Any]:
    norms = [_root_sum(getattr(r, key) for r in rows) for key in ("norm_a", "norm_b", "norm_diff")]
    counts = {change: sum(row.change == change for row in rows) for change in _CHANGES}
    words = [f"{count} {change}" for change, count in counts.items() if count]
    only = next(iter(c for c, n in counts.items() if n == len(rows)), "")
    return {
        "layer": name,
        "parameters": len(rows),
        "norm_a": norms[0],
        "norm_b": norms[1],
        "relative": norms[2] / norms[0] if norms[2] is not None and norms[0] else None,
        "change": only or ", ".join(words),
    }


_CHANGES = ("changed", "added", "removed", "replaced")


def _root_sum(values: Iterable[float | None]) -> float | None:
    """Returns the norm of a group: the root of the sum of squares of those that have one."""
    known = [value for value in values if value is not None]
    return math.sqrt(sum(value * value for value in known)) if known else None


class _Words:
    """The words of a diff, for people and as Markdown."""

    def __init__(
        self,
        out: Output,
        found: Diff,
        columns: Sequence[Column],
        view: Sequence[dict[str, Any]],
        *,
        filtered: bool,
    ) -> None:
        self.out = out
        self.found = found
        self.columns = columns
        self.view = view
        self.filtered = filtered
        self.is_markdown = out.manners.format == "md"

    def lines(self, workspace: Path | None) -> Iterator[str]:
        """Yields all lines."""
        found, out = self.found, self.out
        other = out.id(found.b)
        if found.b == WORKSPACE and workspace is not None:
            other = f"workspace {out.foreign(place(workspace))}"
        base = f"base {out.foreign(found.base_name or '')}".rstrip()
        yield f"{out.id(found.a)} -> {other}   {base}, {self._count()}"
        yield from self._table(self.columns, self.view)
        if found.files:
            rows = [{"file": row["name"], "change": row["change"]} for row in found.files]
            yield from self._table([Column("file"), Column("change")], rows)
        if found.measurements:
            yield from self._table(_KPI_COLUMNS, [_kpi(row) for row in found.measurements])

    def _count(self) -> str:
        if self.found.same:
            return "no difference"
        parameters = plural(len(self.found.rows), "parameter")
        if self.filtered:
            return f"{parameters} of those asked for {_verb(len(self.found.rows))}"
        return f"{parameters} {_verb(len(self.found.rows))}"

    def _table(self, columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
        if not rows:
            return
        now = self.out.manners.now()
        if self.is_markdown:
            yield ""
            yield from markdown_lines(columns, rows, now=now)
        else:
            yield from human_lines(columns, rows, now=now, width=self.out.width, indent=2)


def _verb(count: int) -> str:
    return "differs" if count == 1 else "differ"


_KPI_COLUMNS = [
    Column("kpi", title="KPI"),
    Column("a", "number", title="A", word=str),
    Column("b", "number", title="B", word=str),
    Column("difference", "number", title="B-A", word=str),
]


def _kpi(row: dict[str, Any]) -> dict[str, Any]:
    a, b = row["a"], row["b"]
    known = a is not None and b is not None
    return {
        "kpi": row["kpi"],
        "a": None if a is None else format(a, ".6g"),
        "b": None if b is None else format(b, ".6g"),
        "difference": format(b - a, "+.3g") if known else None,
    }
