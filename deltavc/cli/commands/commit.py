"""``deltavc commit``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deltavc.cli import options
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import commit_lines, plan_lines
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb(
    "commit",
    mutating=True,
    examples=[
        'deltavc commit ./out/checkpoint-300 -m "epoch 4" --kpi accuracy=0.879',
        'deltavc commit ./out/adapter-2 --stack -m "on top of HEAD"',
        "deltavc commit ./full -m check -n",
    ],
    exit_codes={
        1: "nothing changed, with --fail-if-unchanged",
        25: "the source belongs to another base",
        44: "the key cannot sign; nothing was recorded",
        46: "the source is a pickle, or malformed",
    },
)
@argument("source", "PEFT folder, safetensors file or model folder; default: the workspace",
          required=False)  # fmt: skip
@options.message("Message; opens an editor on a terminal when missing")
@click.option("-F", "--message-file", metavar="FILE", help="Read the message from FILE")
@options.as_kind("auto, peft or checkpoint; default: auto", ("auto", "peft", "checkpoint"), "auto")
@click.option(
    "--base",
    metavar="NAME",
    type=options.BASE,
    help="Base, when SOURCE does not tell and there are several",
)
@click.option(
    "--stack",
    is_flag=True,
    help="SOURCE is an adapter trained on HEAD's model: add it to HEAD's instead of replacing it",
)
@options.max_rank(
    "Store low-rank factors of at most this rank: approximate, error measured and recorded"
)
@options.rel_error(
    "Store low-rank factors within this relative error: approximate, measured and recorded"
)
@click.option(
    "--effort",
    metavar="LEVEL",
    type=click.Choice(("fast", "default", "max")),
    default="default",
    help="fast, default or max: how hard to look for a smaller exact form",
)
@options.param()
@click.option("--exclude", metavar="GLOB", multiple=True, help="Not these")
@options.label("Free label kept with the commit")
@click.option(
    "--data",
    metavar="PATH",
    multiple=True,
    help="Training data: its fingerprint is kept with the commit, not the data",
)
@click.option(
    "--kpi",
    "kpis",
    metavar="NAME=VALUE",
    type=options.KEY_VALUE,
    multiple=True,
    help="Record measurements at once",
)
@click.option(
    "--run",
    metavar="URI",
    help="Training run, such as mlflow:RUN or wandb:ENTITY/PROJECT/RUN",
)
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="Read a pickled checkpoint with torch's weights-only loader",
)
@options.sign()
@click.option(
    "--fail-if-unchanged", is_flag=True, help="Exit 1 instead of 0 when HEAD already holds this"
)
@options.dry_run("Report kinds, ranks, sizes; write nothing")
def command(
    ctx: Context,
    source: str | None,
    message: str | None,
    message_file: str | None,
    kind: str,
    base: str | None,
    stack: bool,
    max_rank: int | None,
    rel_error: float | None,
    effort: str,
    params: tuple[str, ...],
    exclude: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    data: tuple[str, ...],
    kpis: tuple[tuple[str, str], ...],
    run: str | None,
    allow_pickle: bool,
    sign: bool,
    fail_if_unchanged: bool,
    dry_run: bool,
) -> int:
    """Record an adapter or a checkpoint as a new revision.

    A commit says what the model is: it replaces HEAD's model, except with
    --stack. Without --max-rank or --rel-error it is exact: checkout gives the
    committed bits back.
    """
    from deltavc.repo import record

    done = record.commit(
        ctx.open_repository(),
        None if source is None else ctx.directory / source,
        message=_message(ctx, message, message_file, dry_run=dry_run),
        kind=kind,
        base=base,
        stack=stack,
        max_rank=max_rank,
        rel_error=rel_error,
        effort=effort,
        params=params,
        exclude=exclude,
        labels=dict(labels),
        data=[ctx.directory / path for path in data],
        kpis={name: _value(name, text) for name, text in kpis},
        run=run,
        allow_pickle=allow_pickle,
        sign=sign,
        dry_run=dry_run,
    )
    ctx.out.changed(done.changed, dry_run=dry_run)
    lines = plan_lines if dry_run else commit_lines
    ctx.out.data(done, human=lambda: lines(ctx.out, done), ids=[done.commit] if done.commit else [])
    if sign and not done.changed:
        ctx.out.warn("nothing was recorded, so nothing was signed")
    if done.ignored:
        shown = ", ".join(done.ignored[:5]) + (" …" if len(done.ignored) > 5 else "")
        ctx.out.note(f"left out of the commit: {shown}")
    return 1 if fail_if_unchanged and not done.changed else 0


def _message(ctx: Context, text: str | None, file: str | None, *, dry_run: bool) -> str:
    if text is not None and file is not None:
        raise UsageError("give -m or -F, not both", hint='deltavc commit PATH -m "why"')
    if file is not None:
        try:
            text = (ctx.directory / Path(file)).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"the message file '{file}' cannot be read", hint="check the path of -F"
            ) from error
    if text is None and dry_run:
        return "(dry run)"
    if text is None and ctx.out.can_ask:
        text = click.edit("\n# Why? Lines that begin with # are left out.\n") or ""
        text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    if text is None or not text.strip():
        raise UsageError("a commit needs a message", hint='deltavc commit PATH -m "why"')
    return text.strip()


def _value(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(
            f"'{text}' is not a number for KPI '{name}'", hint=f"--kpi {name}=0.87"
        ) from error
    if math.isinf(value):
        raise UsageError(
            f"an infinite KPI '{name}' cannot be compared with anything",
            hint=f"say that it has no value: --kpi {name}=nan",
        )
    return value
