"""``deltavc checkout``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from deltavc.cli import options, units
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import SHOWN, place, plural
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import CheckedOut


@verb(
    "checkout",
    mutating=True,
    examples=[
        "deltavc checkout main",
        "deltavc checkout v1.0 --to ./serve --verify",
        "deltavc checkout HEAD --to ./adapter --as peft --base-name org/tiny-llama",
        "deltavc checkout HEAD --to ./serve --as vllm --base-name org/tiny-llama --pad-rank 16",
    ],
    exit_codes={
        26: "the base's files cannot be found",
        31: "the folder holds something that no commit records",
        45: "the revision cannot be expressed in this form",
        48: "a rank is above --max-rank",
    },
    see=["revisions"],
)
@argument("rev", "The revision to rebuild", metavar="REV", type=options.REVISION)
@click.option(
    "--to",
    metavar="DIR",
    help="Rebuild there and leave HEAD alone; "
    "without it: into the workspace, and HEAD moves to REV",
)
@options.as_kind("full, peft or vllm; default: full", options.FORMS, "full")
@click.option("--base-path", metavar="PATH", help="Where the base's files are now")
@click.option(
    "--base-name", metavar="TEXT", help="What to write as base_model_name_or_path (peft, vllm)"
)
@options.max_rank("Refuse (48) above this rank, or with --rel-error truncate to it (peft, vllm)")
@options.rel_error("Largest relative error when truncating (peft, vllm)")
@click.option(
    "--pad-rank",
    metavar="N",
    type=click.IntRange(min=1),
    help="Fill all factors up to this rank, so that versions can be exchanged (vllm)",
)
@click.option("--card", is_flag=True, help="Also write a model card from message, lineage and KPIs")
@click.option("--verify", is_flag=True, help="Read the written files back and compare")
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite files that deltavc did not write, or unrecorded changes",
)
@options.dry_run()
def command(
    ctx: Context,
    rev: str,
    to: str | None,
    kind: str,
    base_path: str | None,
    base_name: str | None,
    max_rank: int | None,
    rel_error: float | None,
    pad_rank: int | None,
    card: bool,
    verify: bool,
    force: bool,
    dry_run: bool,
) -> None:
    """Rebuild a revision into files.

    A folder is written beside and renamed: a reader sees the old model or the new
    one. A workspace that nobody changed is updated where it lies, and only the
    tensors that differ are computed. The bits are those that were committed.
    """
    from deltavc.repo.checkout import checkout

    adapter = (("--base-name", base_name), ("--max-rank", max_rank), ("--rel-error", rel_error))
    _check(kind, [name for name, value in adapter if value is not None], pad_rank, verify=verify)
    done = checkout(
        ctx.open_repository(),
        rev,
        to=None if to is None else ctx.directory / to,
        form=kind,
        base_path=None if base_path is None else ctx.directory / base_path,
        base_name=base_name,
        max_rank=max_rank,
        rel_error=rel_error,
        pad_rank=pad_rank,
        card=card,
        verify=verify,
        force=force,
        dry_run=dry_run,
    )
    wrote = bool(done.files) or done.head_moved or dry_run
    ctx.out.changed(wrote, dry_run=dry_run)
    ctx.out.data(done, human=lambda: _lines(ctx.out, done, rev), ids=[done.commit])
    if to is None and done.branch is None:
        ctx.out.hint(
            "detached", "HEAD stands on no branch now; make one here: deltavc switch -c NAME"
        )


def _check(kind: str, given: list[str], pad_rank: int | None, *, verify: bool) -> None:
    """Refuses options that would have no effect."""
    if kind == "full" and (given or pad_rank is not None):
        raise UsageError(
            f"{(given or ['--pad-rank'])[0]} says something about an adapter, and full weights"
            " are written",
            hint=f"deltavc checkout REV --to DIR --as {'peft' if given else 'vllm'}",
        )
    if kind == "peft" and pad_rank is not None:
        raise UsageError("--pad-rank is for --as vllm", hint="write that, or leave it out")
    if kind != "full" and verify:
        raise UsageError("--verify reads full weights back, not an adapter", hint="leave it out")


def _lines(out: Output, done: CheckedOut, rev: str) -> Iterator[str]:
    where = out.foreign(place(done.target).rstrip("/") + "/")
    name = out.foreign(done.branch if done.branch is not None else rev)
    named = out.id(done.commit)
    if not done.commit.startswith(name):
        named = f"{name} {named}"
    if done.form != "full":
        files = ", ".join(done.files[:SHOWN])
        size = "" if done.dry_run else f" ({units.size(done.bytes)})"
        yield f"{'Would write' if done.dry_run else 'Wrote'} {where}: {out.foreign(files)}{size}"
        if done.form == "vllm":
            yield from _served(out, done, named)
            return
        yield f"  {named} as a PEFT adapter, {plural(done.tensors, 'tensor')}"
        return
    changed = f"{units.count(done.tensors_changed)} of {plural(done.tensors, 'tensor')} changed"
    if done.dry_run:
        yield f"Would rebuild {named} in {where}: {units.size(done.bytes)}, {changed}."
    elif done.in_place and not done.files:
        yield f"{where} holds {named} already."
    elif done.in_place:
        rewritten = f"{units.count(done.tensors_written)} of {plural(done.tensors, 'tensor')}"
        yield (
            f"Rebuilt {named} in {where}: {rewritten} rewritten in place, "
            f"{units.size(done.bytes)}, {units.seconds(done.seconds)}."
        )
    else:
        yield (
            f"Rebuilt {named} in {where}: {units.size(done.bytes)}, {changed}, "
            f"{units.seconds(done.seconds)}."
        )
    if done.verified:
        yield "  read back and compared: every bit is as committed"


def _served(out: Output, done: CheckedOut, named: str) -> Iterator[str]:
    """Tells what an adapter for vLLM holds, and what it does not."""
    yield f"  {named} as a LoRA for vLLM, {plural(done.tensors, 'tensor')} of rank {done.rank}"
    for name, digest in done.sha256.items():
        yield f"  sha256 {digest}  {out.foreign(name)}"
    if done.rounded:
        names = ", ".join(out.foreign(name) for name in done.rounded[:SHOWN])
        count = plural(len(done.rounded), "parameter")
        yield f"  {count} rounded to float32 when the scale was folded in: {names}"
    if done.energy_lost:
        worst = sorted(done.energy_lost.items(), key=lambda item: -item[1])
        yield f"  approximate: {done.energy_lost_total:.3g} of the change's energy left out"
        for name, share in worst[:SHOWN]:
            yield f"    {out.foreign(name)}  {share:.3g}"
        if len(worst) > SHOWN:
            yield f"    and {len(worst) - SHOWN} more"
