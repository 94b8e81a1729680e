"""How results read: the pieces of wording that several verbs share, made from result records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.cli import units
from deltavc.cli.terminal import cut, escape, visible_width

if TYPE_CHECKING:
    from deltavc.cli.output import Output
    from deltavc.repo.results import BaseInfo, Committed, KindRow, SignatureRow, Undone
    from deltavc.repo.results_kpi import RuleRow
    from deltavc.repo.results_ship import RuleSeenRow

__all__ = [
    "NARROWEST",
    "SHOWN",
    "VERDICT_CODES",
    "VERDICT_MARKS",
    "aligned",
    "base_line",
    "commit_lines",
    "exactness",
    "id_list",
    "kind_counts",
    "kpi_words",
    "number",
    "operation_id",
    "operation_lines",
    "place",
    "plan_lines",
    "plural",
    "ref_lines",
    "ref_name",
    "ref_words",
    "rule_lines",
    "signature_status",
    "signature_words",
    "signer_words",
    "subject",
    "sum_lines",
    "tell_undone",
    "who",
]

SHOWN = 5
"""How much of a long list people see before the rest is counted."""


NARROWEST = 20
"""Columns that a text keeps however narrow the terminal is."""


def plural(count: int, word: str) -> str:
    """Returns a count with its noun: ``1 tensor``, ``201 tensors``."""
    return f"{units.count(count)} {word}{'' if count == 1 else 's'}"


def subject(message: str) -> str:
    """Returns the first line of a message."""
    return message.partition("\n")[0]


def who(actor: str) -> str:
    """Returns an actor's name without the mail address, for lists."""
    return actor.partition(" <")[0] or actor


def number(value: float | None) -> str:
    """Returns a measured number in about three digits, ``-`` for none."""
    if value is None or value != value:
        return "-"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.3g}"


def kpi_words(
    measurements: Mapping[str, float | None], half_widths: Mapping[str, float] | None = None
) -> str:
    """Returns measured values in one line: ``accuracy 0.853 ±0.010  latency 12``."""
    widths = half_widths or {}
    return "  ".join(
        f"{name} {'NaN' if value is None else format(value, '.6g')}"
        + (f" ±{number(widths[name])}" if name in widths else "")
        for name, value in measurements.items()
    )


def place(path: str | Path) -> str:
    """Returns a path as people read it: from here if it is below, with a slash behind a folder."""
    path = Path(path)
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
    return f"{shown}/" if path.is_dir() else str(shown)


def aligned(
    rows: Iterable[Sequence[str]],
    *,
    indent: str = "",
    right: int = 0,
    width: int | None = None,
    shrink: int | None = None,
) -> Iterator[str]:
    """Yields rows of cells as lines in which the cells stand below each other.

    Args:
        rows: The cells, as many in each row.
        indent: What stands in front of each line.
        right: How many of the last columns stand at their right edge.
        width: Columns of the terminal; None when lines may be as long as they are.
        shrink: The column that gives way when lines are longer than that.
    """
    rows = [[escape(cell, one_line=True) for cell in row] for row in rows]
    if not rows:
        return
    widths = [max(map(visible_width, cells)) for cells in zip(*rows, strict=True)]
    if width is not None and shrink is not None:
        excess = len(indent) + sum(widths) + 2 * (len(widths) - 1) - width
        widths[shrink] = max(min(widths[shrink], NARROWEST), widths[shrink] - max(0, excess))
    for row in rows:
        cells = []
        for at, (text, room) in enumerate(zip(row, widths, strict=True)):
            cell = cut(text, room) if room else text
            space = " " * (room - visible_width(cell))
            cells.append(space + cell if at >= len(row) - right else cell + space)
        yield (indent + "  ".join(cells)).rstrip()


VERDICT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}
VERDICT_MARKS = {"pass": ("pass", "good"), "fail": ("fail", "bad"), "inconclusive": ("?", "warn")}


def rule_lines(out: Output, rules: Iterable[RuleRow | RuleSeenRow]) -> Iterator[str]:
    """Yields a line for each rule of a gate: its verdict, the rule, and why."""
    rows = [
        (
            out.style(*VERDICT_MARKS[rule.verdict]),
            out.foreign(rule.rule),
            out.foreign(rule.sentence),
        )
        for rule in rules
    ]
    yield from aligned(rows, indent="  ")


def id_list(out: Output, ids: Sequence[str], *, shown: int = SHOWN) -> str:
    """Returns the first ids of a list as people see them, and counts the rest."""
    words = ", ".join(out.id(oid) for oid in ids[:shown])
    return words + (f" and {len(ids) - shown} more" if len(ids) > shown else "")


# refs and operations


def operation_id(out: Output, oid: str) -> str:
    """Returns an operation's id as people see it: eight digits."""
    return out.style(oid[:8], "id")


def ref_name(out: Output, name: str) -> str:
    """Returns a ref as people name it: a branch by its name alone."""
    kind, colon, rest = name.partition(":")
    return out.foreign(rest if kind == "branch" and colon else f"{kind} {rest}".strip())


def ref_words(out: Output, ref: Mapping[str, str | None]) -> str:
    """Returns how a ref moved: ``main 3e91c07a5d -> c7d20e8f13``."""
    before, after = _ref_value(out, ref["before"]), _ref_value(out, ref["after"])
    return f"{ref_name(out, ref['name'] or '')} {before} -> {after}"


def ref_lines(out: Output, refs: Iterable[Mapping[str, str | None]]) -> Iterator[str]:
    """Yields a line for each ref that moved."""
    rows = [
        (
            ref_name(out, ref["name"] or ""),
            f"{_ref_value(out, ref['before'])} -> {_ref_value(out, ref['after'])}",
        )
        for ref in refs
    ]
    yield from aligned(rows, indent="  ")


def _ref_value(out: Output, value: str | None) -> str:
    if not value:
        return "nothing"
    return ref_name(out, value) if ":" in value else out.id(value)


def operation_lines(out: Output, row: Mapping[str, Any]) -> Iterator[str]:
    """Yields one operation in full, from its document's fields."""
    yield f"operation {out.style(row['id'], 'id')}"
    yield f"number    {units.count(row['number'])}"
    yield f"time      {units.stamp(row['time'])}"
    yield f"actor     {out.foreign(row['actor'])}"
    yield f"command   {out.foreign(row['command'])}"
    if row["reason"]:
        yield f"reason    {out.foreign(row['reason'])}"
    yield ""
    yield f"    {out.foreign(row['summary'])}"
    yield ""
    yield from ref_lines(out, row["refs"])
    if row["objects"]:
        yield f"  {plural(len(row['objects']), 'object')} recorded or concerned"
    if not row["undoable"]:
        yield "  cannot be undone"


def tell_undone(out: Output, done: Undone, words: str) -> None:
    """Tells what undo, redo or restore moved.

    Args:
        out: The sink.
        done: What was done.
        words: How it begins, such as ``Took back``.
    """
    lines = [f"{words} {operation_id(out, done.taken)}: {out.foreign(done.summary)}"]
    lines += ref_lines(out, done.refs)
    if done.workspace_written:
        lines.append("  workspace written")
    out.changed(bool(done.refs), dry_run=done.dry_run)
    out.data(done, human=lines, ids=[done.operation or done.taken])
    for note in done.notes:
        out.warn(note)


# bases and commits


def base_line(out: Output, base: BaseInfo, path: str) -> str:
    """Returns a base in one line."""
    where = "copy in the repository" if base.copied else f"reference to {path} (nothing copied)"
    return f"base {out.foreign(base.name)}  {out.id(base.fingerprint)}  {out.foreign(where)}"


def kind_counts(kinds: Iterable[KindRow]) -> str:
    """Returns what the changed parameters are: ``154 low-rank (rank 16), 2 exact``."""
    words = []
    for row in kinds:
        if row.kind == "unchanged" or not row.parameters:
            continue
        rank = ""
        if row.rank_max is not None:
            same = row.rank_median == row.rank_max
            rank = f" (rank {row.rank_max})" if same else f" (rank up to {row.rank_max})"
        words.append(f"{units.count(row.parameters)} {row.kind}{rank}")
    return ", ".join(words) or "the base itself"


def commit_lines(out: Output, done: Committed) -> Iterator[str]:
    """Yields what a commit says for people."""
    where = out.foreign(done.branch or "detached HEAD")
    if not done.changed:
        yield f"Nothing to record: {where} holds this already ({out.id(done.commit or '')})."
        return
    yield f"[{where} {out.id(done.commit or '')}] {out.foreign(subject(done.message))}"
    kind = {"peft": "PEFT adapter", "checkpoint": "checkpoint"}.get(done.source, done.source)
    counts = kind_counts(done.kinds)
    if done.parameters and counts != plural(done.parameters, "parameter"):
        counts = f"{plural(done.parameters, 'parameter')}, {counts}"
    yield f"  {kind} on base {out.foreign(done.base_name)}: {counts}"
    if done.bytes_read:
        yield (
            f"  {units.size(done.bytes_read)} read, {units.size(done.bytes_stored)} stored, "
            f"{exactness(done.errors)}"
        )
    if done.measurements:
        yield f"  {kpi_words(done.measurements)} (no sample count given)"
    if done.signature is not None:
        yield f"  signed, {signer_words(out, done.signature)}"


def signature_status(out: Output, row: SignatureRow) -> str:
    """Returns what a signature is worth in a word or two: ``good``, ``unknown key``."""
    style = {"good": "good", "bad": "bad", "revoked": "bad"}.get(row.status, "warn")
    return out.style(row.status.replace("-", " "), style)


def signature_words(out: Output, row: SignatureRow) -> str:
    """Returns what a signature is worth, whose it is, and why."""
    reason = f": {out.foreign(row.sentence)}" if row.sentence else ""
    return f"{signature_status(out, row)}, {signer_words(out, row)}{reason}"


def signer_words(out: Output, row: SignatureRow) -> str:
    """Returns who signed, and with which key."""
    return out.foreign(f"{row.signer} {row.key}".strip() or "by nobody known")


def sum_lines(out: Output, done: Committed) -> Iterator[str]:
    """Yields what a revert or a cherry-pick says for people: it only adds up what is there."""
    title = out.foreign(subject(done.message))
    where = out.foreign(done.branch or "detached HEAD")
    if not done.changed:
        yield f"Nothing to record: {where} is the same without and with it: {title}"
        return
    changed = plural(done.parameters, "parameter")
    if done.dry_run:
        yield f"would commit on {where}: {title}"
        yield f"  {changed} would change, {exactness(done.errors)}"
    else:
        yield f"[{where} {out.id(done.commit or '')}] {title}"
        yield f"  {changed} changed, {exactness(done.errors)}"


def exactness(errors: Mapping[str, float]) -> str:
    """Returns ``exact``, or how approximate a version is."""
    if not errors:
        return "exact"
    return (
        f"approximate in {plural(len(errors), 'parameter')}: "
        f"largest relative error {max(errors.values()):.2g}"
    )


def plan_lines(out: Output, done: Committed) -> Iterator[str]:
    """Yields what a dry run of commit says: one line a kind, and the total."""
    if not done.changed:
        yield "would change nothing: HEAD holds this already"
        return
    kind = "PEFT adapter" if done.source == "peft" else "full checkpoint"
    yield (
        f"would commit a {kind} against {out.foreign(done.base_name)} {out.id(done.base)}, "
        f"{exactness(done.errors)}"
    )
    lines = [("kind", "parameters", "rank (median, max)", "stored")]
    for row in done.kinds:
        ranks = f"{row.rank_median}, {row.rank_max}" if row.rank_max is not None else ""
        stored = units.size(row.stored) if row.stored else "0"
        lines.append((row.kind, units.count(row.parameters), ranks, stored))
    lines.append(("total", "", "", units.size(done.bytes_stored)))
    *table, total = aligned(lines, indent="  ", right=3)
    yield from table
    yield f"{total} of {units.size(done.model_bytes)}"
