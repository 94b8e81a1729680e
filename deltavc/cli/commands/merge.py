"""``deltavc merge``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from deltavc.cli import options, units
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import SHOWN, aligned, exactness, number, plural, subject
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import Merged, MergeRow

TAKEN = {
    "ours": "from ours",
    "theirs": "from theirs",
    "base": "as in the merge base",
    "equal": "changed equally",
    "rows": "merged by rows",
    "keys": "merged by keys",
}


@verb(
    "merge",
    mutating=True,
    examples=[
        "deltavc merge german",
        "deltavc merge german -s ties --density 0.4",
        'deltavc merge german --resolve "layers.0.*=ours" --resolve "*=sum" -n',
    ],
    exit_codes={
        25: "the revisions stand on different bases",
        30: "something changed differently on both sides, and nothing decides it",
        32: "HEAD moved while the merge was computed",
        33: "with --ff-only, HEAD cannot just move forward",
    },
    see=["revisions"],
)
@argument("revs", "Revisions to merge into HEAD", nargs=-1, required=True, metavar="REV",
          type=options.REVISION)  # fmt: skip
@options.message()
@click.option(
    "-s",
    "--strategy",
    metavar="NAME",
    help="How to combine what changed on both sides: sum, linear, slerp, ties, dare-ties, …",
)
@click.option(
    "--weights",
    metavar="W",
    multiple=True,
    help="One for each side, ours first; default: 1 each for sum, equal shares for linear",
)
@click.option(
    "--density", metavar="D", help="Share of the elements that ties, dare, breadcrumbs keep"
)
@click.option("--t", metavar="T", help="Interpolation for slerp: 0 is ours, 1 theirs")
@click.option(
    "--seed",
    metavar="N",
    help="Seed for dare and della; recorded; the result does not depend on the machine",
)
@click.option(
    "--option",
    "more",
    metavar="KEY=VALUE",
    type=options.KEY_VALUE,
    multiple=True,
    help="Another option of the strategy",
)
@options.max_rank("Recompress the result to low rank: approximate, measured and recorded")
@options.rel_error("Recompress within this relative error")
@click.option(
    "--resolve",
    metavar="RULE",
    multiple=True,
    help="GLOB=ours, GLOB=theirs, GLOB=base or GLOB=STRATEGY; the first that fits counts",
)
@click.option("--ff-only", is_flag=True, help="Only move forward")
@click.option("--no-ff", is_flag=True, help="Record a merge even when moving forward would do")
@options.dry_run("Show overlap, interference and cost")
def command(
    ctx: Context,
    revs: tuple[str, ...],
    message: str | None,
    strategy: str | None,
    weights: tuple[str, ...],
    density: str | None,
    t: str | None,
    seed: str | None,
    more: tuple[tuple[str, str], ...],
    max_rank: int | None,
    rel_error: float | None,
    resolve: tuple[str, ...],
    ff_only: bool,
    no_ff: bool,
    dry_run: bool,
) -> None:
    """Bring other lines of adaptation into this one.

    Three-way, from the merge base: what changed on one side only is taken as it is,
    what changed equally on both counts once. What changed differently on both is a
    conflict, unless a strategy or a --resolve rule says what to do. Either the merge
    is recorded, or nothing changes and the conflicts are listed.
    """
    from deltavc.repo import merge

    if ff_only and no_ff:
        raise UsageError("give --ff-only or --no-ff, not both", hint="leave one of them out")
    given = {"weights": ",".join(weights) or None, "density": density, "t": t, "seed": seed}
    done = merge.merge(
        ctx.open_repository(),
        revs,
        message=message,
        strategy=strategy,
        options=given | dict(more),
        resolve=resolve,
        max_rank=max_rank,
        rel_error=rel_error,
        fast_forward="only" if ff_only else "never" if no_ff else "auto",
        dry_run=dry_run,
    )
    ctx.out.changed(done.changed, dry_run=dry_run)
    ctx.out.data(
        done,
        human=lambda: _lines(ctx.out, done),
        ids=[done.commit] if done.commit and not dry_run else [],
    )
    _hints(ctx.out, done)


def _hints(out: Output, done: Merged) -> None:
    if done.taken_back_by is not None:
        short = done.taken_back_by[:10]
        out.hint(
            "merge-again", f"it was taken back by {short}; bring it back: deltavc revert {short}"
        )
    if done.changed and not done.dry_run:
        out.hint("merge-write", f"write it: deltavc checkout {done.branch or 'HEAD'}")
        out.hint("undo", "take it back: deltavc undo")


def _lines(out: Output, done: Merged) -> Iterator[str]:
    where = out.foreign(done.branch or "detached HEAD")
    if done.kind == "up-to-date":
        yield f"Already up to date: {where} holds all of it ({out.id(done.commit or '')})."
        return
    if done.kind == "fast-forward":
        verb_words = "would move" if done.dry_run else "Moved"
        yield f"{verb_words} {where} forward to {out.id(done.commit or '')}; nothing to combine."
        return
    title = out.foreign(subject(done.message))
    yield (
        f"would commit on {where}: {title}"
        if done.dry_run
        else (f"[{where} {out.id(done.commit or '')}] {title}")
    )
    yield f"  {_counts(done)}"
    stored = f"{units.size(done.bytes_stored)} stored, the rest shared"
    if done.dry_run and not done.bytes_stored:
        stored = "nothing stored but how it is combined"
    yield f"  {stored}; {exactness(done.errors)}"
    if done.dry_run:
        yield from _plan(out, done.rows)


def _counts(done: Merged) -> str:
    counts = Counter(row.outcome for row in done.rows)
    words = [f"{units.count(n)} {TAKEN.get(name, f'by {name}')}" for name, n in counts.items()]
    return f"{plural(len(done.rows), 'parameter')} changed: {', '.join(words) or 'none'}"


def _plan(out: Output, rows: list[MergeRow]) -> Iterator[str]:
    """Yields what a dry run adds: each parameter, how it is decided and how the sides meet."""
    lines = [("parameter", "decided", "norms", "cosine", "opposed")]
    for row in rows:
        norms = " ".join(number(norm) for norm in row.norms)
        opposed = "" if row.opposed is None else f"{row.opposed:.0%}"
        cosine = "" if row.cosine is None else number(row.cosine)
        lines.append((out.foreign(row.name), row.outcome, norms, cosine, opposed))
    shown = lines if out.manners.verbose else lines[: 4 * SHOWN + 1]
    yield from aligned(shown, indent="  ", width=out.width, shrink=0)
    if len(shown) < len(lines):
        yield f"  ... {units.count(len(lines) - len(shown))} more (-v or --json lists all)"
