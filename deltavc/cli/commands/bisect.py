"""``deltavc bisect``: kpi, run, start, mark, reset."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deltavc.cli import options
from deltavc.cli.verb import argument, group, verb
from deltavc.cli.words import id_list, plural
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results_kpi import Bisected

command = group(
    "bisect",
    "Find the first bad revision.\n\n"
    "By recorded measurements, by a command's exit code, or step by step.",
)

F = TypeVar("F", bound=Callable[..., Any])
UNDECIDED = 3


def _good(text: str = "Good end") -> Callable[[F], F]:
    return click.option("--good", metavar="REV", required=True, type=options.REVISION, help=text)


def _bad(text: str = "Bad end; default: HEAD") -> Callable[[F], F]:
    return click.option("--bad", metavar="REV", default="HEAD", type=options.REVISION, help=text)


_KPI_CODES = {3: "measurements are missing: the first bad revision is one of several"}


@verb(
    "kpi",
    group=command,
    examples=["deltavc bisect kpi accuracy --good v1.0 --expect '>= 0.85'"],
    exit_codes=_KPI_CODES,
    see=["gates"],
)
@argument("name", "The KPI, with a slice in brackets if need be", type=options.KPI)
@_good("Last revision known to be good")
@_bad("First revision known to be bad; default: HEAD")
@click.option(
    "--expect", metavar="EXPR", required=True, help='What counts as good, such as ">= 0.85"'
)
def kpi(ctx: Context, name: str, good: str, bad: str, expect: str) -> int:
    """Find the first bad revision by recorded measurements.

    Revisions without one are passed over, and named.
    """
    from deltavc.repo import bisect

    done = bisect.by_kpi(ctx.open_repository(), name, expect=expect, good=good, bad=bad)
    return _tell(ctx.out, done)


@verb(
    "run",
    group=command,
    examples=[
        'deltavc bisect run --good v1.0 --as peft -- python eval.py --adapter "{dir}"',
    ],
    exit_codes={3: "skipped revisions hide it", 2: "the command ended with more than 127"},
)
@argument("words", "The command; {dir} stands for the candidate's folder", nargs=-1, required=True,
          metavar="COMMAND", type=click.UNPROCESSED)  # fmt: skip
@_good()
@_bad()
@options.as_kind(
    "How to write each candidate: full or peft; default: full", ("full", "peft"), "full"
)
def run(ctx: Context, words: tuple[str, ...], good: str, bad: str, kind: str) -> int:
    """Find the first bad revision by a command.

    Each candidate is written to a folder, which is {dir} in the command and
    DELTAVC_BISECT_DIR in its environment. The exit code is read as git does:
    0 good, 125 skip, 1 to 127 bad, more stops.
    """
    from deltavc.repo import bisect

    def judge(folder: Path, oid: str) -> int:
        argv = [word.replace("{dir}", str(folder)) for word in words]
        environ = {**os.environ, "DELTAVC_BISECT_DIR": str(folder)}
        try:
            # stdout carries the answer, so what the command says goes to stderr.
            code = subprocess.run(argv, env=environ, stdout=2, check=False).returncode  # noqa: S603
        except OSError as error:
            raise UsageError(
                f"'{argv[0][:80]}' cannot be run: {error.strerror}", hint="check the command"
            ) from error
        ctx.out.note(f"{oid[:10]} ended with {code}")
        return code

    return _tell(ctx.out, bisect.run(ctx.open_repository(), judge, good=good, bad=bad, form=kind))


@verb("start", group=command, examples=["deltavc bisect start --good v1.0 --bad HEAD"])
@_good()
@_bad()
def start(ctx: Context, good: str, bad: str) -> int:
    """Begin a search step by step."""
    from deltavc.repo import bisect

    return _tell(ctx.out, bisect.start(ctx.open_repository(), good=good, bad=bad))


@verb(
    "mark",
    group=command,
    examples=["deltavc bisect mark good", "deltavc bisect mark bad HEAD~2"],
    exit_codes={34: "no search was begun"},
)
@argument("verdict", "good, bad or skip", type=click.Choice(("good", "bad", "skip")))
@argument("rev", "The revision; default: the one asked about", required=False,
          type=options.REVISION)  # fmt: skip
def mark(ctx: Context, verdict: str, rev: str | None) -> int:
    """Say whether a revision is good or bad."""
    from deltavc.repo import bisect

    return _tell(ctx.out, bisect.mark(ctx.open_repository(), verdict, rev))


@verb("reset", group=command, examples=["deltavc bisect reset"])
def reset(ctx: Context) -> None:
    """Forget a search."""
    from deltavc.repo import bisect

    changed = bisect.reset(ctx.open_repository())
    ctx.out.changed(changed)
    ctx.out.data({}, human="The search is forgotten." if changed else "There is no search.")


def _tell(out: Output, done: Bisected) -> int:
    ids = [done.first_bad or done.next] if done.first_bad or done.next else done.suspects
    out.data(done, human=lambda: _lines(out, done), ids=[oid for oid in ids if oid])
    if done.next is not None:
        out.hint("bisect", f"look at it: deltavc checkout {done.next[:10]} --to DIR")
        out.hint("bisect", "then say: deltavc bisect mark good, or bad, or skip")
    if done.suspects and done.kpi is not None:
        missing = [oid for oid in done.suspects if oid in done.unmeasured]
        out.hint("bisect", f"measure: deltavc kpi add {missing[0][:10]} {done.kpi}=VALUE")
    return UNDECIDED if done.suspects else 0


def _lines(out: Output, done: Bisected) -> Iterator[str]:
    if done.next is not None:
        asked = f"{done.remaining} of {plural(done.revisions, 'revision')} in question"
        yield f"next: {out.id(done.next)}   {asked}"
        return
    if done.suspects:
        yield f"the first bad revision is one of: {id_list(out, done.suspects)}"
    else:
        found = f"first bad: {out.id(done.first_bad or '')}  {out.foreign(done.subject)}"
        yield found + _numbers(done)
    if done.kpi is None:
        yield f"{plural(len(done.steps), 'revision')} of {done.revisions} looked at"
        return
    lacking = ""
    if done.unmeasured:
        what = "not measured" if done.suspects else "not needed"
        lacking = f"; {what}: {id_list(out, done.unmeasured)}"
    yield f"{done.measured} of {plural(done.revisions, 'revision')} had measurements{lacking}"


def _numbers(done: Bisected) -> str:
    if done.value is None:
        return ""
    before = f", parent {done.parent_value:.6g}" if done.parent_value is not None else ""
    return f"  ({done.kpi} {done.value:.6g}{before})"
