"""How the results of the verbs read: lines for people, made from result records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from deltavc.cli import units

if TYPE_CHECKING:
    from deltavc.cli.output import Output
    from deltavc.repo.results import BaseInfo, Committed, KindRow

__all__ = ["base_line", "commit_lines", "kind_counts", "kpi_words", "plan_lines", "plural"]


def plural(number: int, word: str) -> str:
    """Returns a count with its noun: ``1 tensor``, ``201 tensors``."""
    return f"{units.count(number)} {word}{'' if number == 1 else 's'}"


def kpi_words(measurements: dict[str, float | None]) -> str:
    """Returns measured values in one line: ``accuracy 0.853  latency 12``."""
    return "  ".join(
        f"{name} {'NaN' if value is None else format(value, '.6g')}"
        for name, value in measurements.items()
    )


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
    return ", ".join(words) or "nothing changed against the base"


def commit_lines(out: Output, done: Committed) -> Iterator[str]:
    """Yields what a commit says for people."""
    subject = out.foreign(done.message.partition("\n")[0])
    where = out.foreign(done.branch or "detached HEAD")
    if not done.changed:
        yield f"Nothing to record: {where} holds this already ({out.id(done.commit or '')})."
        return
    yield f"[{where} {out.id(done.commit or '')}] {subject}"
    kinds = {"peft": "PEFT adapter", "checkpoint": "checkpoint"}
    kind = kinds.get(done.source, done.source)
    yield (
        f"  {kind} on base {out.foreign(done.base_name)}: "
        f"{plural(done.parameters, 'parameter')} changed; {kind_counts(done.kinds)}"
    )
    if done.bytes_read:
        yield (
            f"  {units.size(done.bytes_read)} read, {units.size(done.bytes_stored)} stored, "
            f"{exactness(done.errors)}"
        )
    if done.measurements:
        yield f"  {kpi_words(done.measurements)} (no sample count given)"


def exactness(errors: dict[str, float]) -> str:
    """Returns ``exact``, or how approximate a version is."""
    if not errors:
        return "exact"
    return f"approximate: largest relative error {max(errors.values()):.2g}"


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
    header = ("kind", "parameters", "rank (median, max)", "stored")
    lines = [header]
    for row in done.kinds:
        ranks = f"{row.rank_median}, {row.rank_max}" if row.rank_max is not None else ""
        stored = units.size(row.stored) if row.stored else "0"
        lines.append((row.kind, units.count(row.parameters), ranks, stored))
    total = f"{units.size(done.bytes_stored)} of {units.size(done.model_bytes)}"
    lines.append(("total", "", "", total))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  " + "   ".join([first.ljust(widths[0]), *cells]).rstrip()
