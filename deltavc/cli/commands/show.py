"""``deltavc show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from deltavc.cli import options, units
from deltavc.cli.tables import Column, human_lines
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import (
    SHOWN,
    aligned,
    exactness,
    number,
    operation_lines,
    plural,
    signature_words,
)
from deltavc.errors import UsageError
from deltavc.records.model import series_name

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import CommitRow, ServedRow, Shown, SignatureRow

MOST = 20
"""Fields of one level that people see of an object other than a commit."""


@verb(
    "show",
    examples=[
        "deltavc show HEAD",
        'deltavc show main~1 -p "layers.0.*"',
        "deltavc show v1.0 --raw | sha256sum",
    ],
    see=["revisions"],
)
@argument("name", "A revision, a base, op:ID, or the beginning of any object's id",
          metavar="OBJECT", type=options.REVISION)  # fmt: skip
@click.option("--raw", is_flag=True, help="Canonical bytes; their SHA-256 is the id")
@options.param()
def command(ctx: Context, name: str, raw: bool, params: tuple[str, ...]) -> None:
    """Show one object."""
    from deltavc.repo import history, signing

    repo = ctx.open_repository()
    if raw:
        if ctx.out.is_document:
            raise UsageError("--raw writes bytes, so it cannot be JSON", hint="leave --json out")
        ctx.out.raw(history.raw(repo, name))
        return
    shown = history.show(repo, name, params=params)
    signs = signing.in_use(repo)
    ctx.out.data(shown, human=lambda: _lines(ctx.out, shown, signs=signs), ids=[shown.id])


def _lines(out: Output, shown: Shown, *, signs: bool) -> Iterator[str]:
    if shown.commit is not None:
        yield from _commit(out, shown.commit, signs=signs)
    elif shown.kind == "operation":
        yield from operation_lines(out, shown.value)
    else:
        yield f"{shown.kind.ljust(9)} {out.style(shown.id, 'id')}"
        yield from _plain_lines(shown.value)
        if shown.kind in ("tag", "approval"):
            yield from _signatures(out, shown.signatures, shown.kind, signs=signs)


def _signatures(
    out: Output, rows: Sequence[SignatureRow], kind: str, *, signs: bool
) -> Iterator[str]:
    """Yields what signatures are worth; that there is none only where signing is in use."""
    for row in rows:
        of = f"{row.kind} " if row.kind != kind else ""
        yield f"signature {of}{signature_words(out, row)}"
    if signs and not any(row.kind == kind for row in rows):
        yield "signature none"


def _plain_lines(value: Any, indent: str = "") -> Iterator[str]:
    """Yields a record's fields, an indented line each; long ones are for --json."""
    items = list(value.items()) if isinstance(value, dict) else [("-", item) for item in value]
    for key, item in items[:MOST]:
        nested = isinstance(item, dict) or (
            isinstance(item, list | tuple) and any(isinstance(x, dict | list) for x in item)
        )
        if nested and item:
            yield f"{indent}{key}:"
            yield from _plain_lines(item, indent + "  ")
        elif isinstance(item, list | tuple):
            yield f"{indent}{key}: {', '.join(map(str, item)) or 'none'}"
        else:
            yield f"{indent}{key}: {'none' if item in (None, {}) else item}"
    if len(items) > MOST:
        yield f"{indent}... {units.count(len(items) - MOST)} more (--json lists all)"


def _commit(out: Output, row: CommitRow, *, signs: bool) -> Iterator[str]:
    rows = [("commit", out.style(row.commit, "id"))]
    rows += [("parent", f"{out.id(p['commit'])}  {out.foreign(p['subject'])}") for p in row.parents]
    rows.append(("base", f"{out.foreign(row.base_name or '')} {out.id(row.base)}"))
    rows.append(("author", f"{out.foreign(row.author)}  {units.stamp(row.time)}"))
    names = [out.style(name, "good") for name in row.branches]
    names += [out.style(name, "strong") for name in row.tags]
    if names:
        rows.append(("names", " ".join(names)))
    if row.run:
        rows.append(("run", out.foreign(row.run)))
    if row.labels:
        labels = " ".join(f"{key}={value}" for key, value in sorted(row.labels.items()))
        rows.append(("labels", out.foreign(labels)))
    rows += [("data", _data(out, ref)) for ref in row.data]
    if row.source:
        rows.append(("source", _source(out, row.source)))
    if row.recipe is not None:
        rows += [("merged", line) for line in _recipe(out, row.recipe)]
    for key, text in rows:
        yield f"{key.ljust(9)} {text}"
    yield from _signatures(out, row.signatures, "commit", signs=signs)
    yield ""
    yield from ("    " + line if line else "" for line in row.message.split("\n"))
    yield ""
    yield from _kpis(out, row)
    if row.served is not None:
        yield _served(out, row, row.served)
    yield from _contents(out, row)


def _data(out: Output, ref: dict[str, Any]) -> str:
    return (
        f"{out.foreign(str(ref['name']))}  {units.size(ref['size'])}  sha256 {ref['sha256'][:10]}"
    )


def _source(out: Output, source: dict[str, Any]) -> str:
    kinds = {"peft": "PEFT adapter", "checkpoint": "checkpoint"}
    kind = kinds.get(str(source["kind"]))
    if source["kind"] == "merge":
        return out.foreign(f"merge of {source['detail']}")
    if kind is None:
        ids = ", ".join(oid[:10] for oid in str(source["detail"]).split(","))
        return out.foreign(f"{source['kind']} {ids}".strip())
    return f"{kind} {out.foreign(str(source['detail']))}, {units.size(source['bytes_read'])}"


def _recipe(out: Output, recipe: dict[str, Any]) -> Iterator[str]:
    """Yields how a merge came about: from where, by what, by which rules."""
    bases = [out.id(oid) for oid in recipe["bases"]]
    yield f"since {', '.join(bases) or 'the base itself'}"
    settings = dict(recipe["strategy"])
    if settings:
        name = settings.pop("strategy")
        values = " ".join(f"{key}={value}" for key, value in settings.items())
        yield out.foreign(f"by {name} {values}".strip())
    for rule in recipe["rules"]:
        yield out.foreign(rule)


def _kpis(out: Output, row: CommitRow) -> Iterator[str]:
    cells = [
        (
            out.foreign(series_name(one.kpi, one.slice)),
            "NaN" if one.value is None else format(one.value, ".6g"),
            "" if one.samples is None else f"n={units.count(one.samples)}",
            "" if one.dataset is None else f"set {one.dataset}",
            "" if one.source is None else one.source,
            out.when(one.time),
        )
        for one in row.measurements
    ]
    used = [at for at in range(6) if any(cell[at] for cell in cells)]
    lines = aligned([cell[at] for at in used] for cell in cells)
    yield from (f"{word}{line}" for word, line in zip(_words("KPIs"), lines, strict=False))


def _served(out: Output, row: CommitRow, served: Sequence[ServedRow]) -> str:
    """Returns which environments serve a revision, or what of its line is served instead."""
    now = [one for one in served if one.until_time is None]
    here = [out.foreign(one.environment) for one in now if one.revision == row.commit]
    text = f"served by {', '.join(here)}" if here else "served by nobody yet"
    before = [one for one in served if one.until_time is not None]
    if before and not here:
        was = [
            f"{out.foreign(one.environment)} served it until {units.stamp(one.until_time or 0)}"
            f" ({one.deployment})"
            for one in before
        ]
        text = f"served by nobody now; {', '.join(was)}"
    related: dict[tuple[str, str], list[str]] = {}
    for one in now:
        if one.relation in ("ancestor", "descendant"):
            key = (one.relation, one.revision)
            related.setdefault(key, []).append(out.foreign(one.environment))
    for (relation, commit), names in related.items():
        text += f"; {relation} {out.id(commit)} is in {', '.join(names)}"
    return text


def _words(first: str) -> Iterator[str]:
    yield first.ljust(10)
    while True:
        yield " " * 10


def _contents(out: Output, row: CommitRow) -> Iterator[str]:
    kinds = [f"{units.count(n)} {kind}" for kind, n in row.kinds.items() if kind != "unchanged"]
    rank = f" (rank up to {row.rank_max})" if row.rank_max is not None else ""
    words = [plural(row.parameters, "parameter"), *kinds]
    yield f"contents  {', '.join(words)}{rank}, {units.size(row.stored)} stored"
    yield f"precision {exactness(row.errors)}"
    for name, error in list(row.errors.items())[:SHOWN]:
        yield f"          {out.foreign(name)}  {number(error)}"
    if len(row.errors) > SHOWN:
        yield f"          ... {len(row.errors) - SHOWN} more (--json lists all)"
    if row.files:
        yield f"files     {out.foreign(', '.join(row.files))}"
    if row.removed:
        yield f"removed   {plural(len(row.removed), 'tensor')} of the base"
    if row.params is not None:
        yield ""
        rows = [
            {"parameter": name, "delta": delta, "times": coefficient}
            for name, terms in row.params.items()
            for delta, coefficient in terms.items()
        ]
        yield from (
            human_lines(
                [Column("parameter"), Column("delta", "id"), Column("times")],
                rows,
                now=0,
                width=None,
            )
            if rows
            else ["No changed parameter fits."]
        )
