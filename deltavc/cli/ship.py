"""Words that the verbs of environments share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltavc.cli import units
from deltavc.cli.words import (
    VERDICT_CODES,
    VERDICT_MARKS,
    place,
    plural,
    rule_lines,
    who,
)
from deltavc.ids import short

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results_ship import DeployedRow, GateSeenRow, HookRow

__all__ = [
    "deployed_lines",
    "gate_lines",
    "gate_words",
    "hook_words",
    "run_deploy",
    "version",
]


def version(out: Output, commit: str | None) -> str:
    """Returns a version as people see it; what serves nothing says so."""
    return "nothing" if commit is None else out.id(commit)


def gate_words(out: Output, gate: GateSeenRow) -> str:
    """Returns a line on a gate: its verdict, and whether it was passed over."""
    verdict = out.style(gate.verdict, VERDICT_MARKS[gate.verdict][1])
    over = out.style(", overridden", "warn") if gate.overridden else ""
    return f"gate {out.foreign(gate.gate)}: {verdict}{over} ({plural(len(gate.rules), 'rule')})"


def gate_lines(out: Output, gates: Sequence[GateSeenRow], *, full: bool) -> Iterator[str]:
    """Yields what gates said: a line each, and their rules where they did not pass."""
    for gate in gates:
        yield gate_words(out, gate)
        if full or gate.verdict != "pass":
            yield from rule_lines(out, gate.rules)


def hook_words(out: Output, hook: HookRow | None) -> str:
    """Returns how a hook ended; nothing without one."""
    if hook is None:
        return ""
    word = out.style("ok", "good") if hook.exit_code == 0 else out.style("failed", "bad")
    return f"   hook {word} ({units.seconds(hook.seconds)})"


def deployed_lines(out: Output, done: DeployedRow) -> Iterator[str]:
    """Yields what a deployment did, or would do."""
    yield from gate_lines(out, done.gates, full=done.dry_run)
    if done.needed:
        people = ", ".join(out.foreign(who(actor)) for actor in done.approvers) or "nobody yet"
        yield f"approvals: {len(done.approvers)} of {done.needed} ({people})"
    if done.blocked == "gate":
        yield f"{out.foreign(done.environment)} still serves {version(out, done.before)}"
        return
    arrow = f"{version(out, done.before)} -> {out.id(done.revision)}"
    if done.dry_run:
        to = "" if done.target is None else f", and switch {place(done.target)}"
        would = "would serve" if done.blocked is None else "would wait for approvals to serve"
        yield f"{out.foreign(done.environment)} {would} {arrow}{to}"
        return
    if not done.changed:
        yield f"{out.foreign(done.environment)} serves {out.id(done.revision)} already"
        return
    yield f"{out.foreign(done.environment)}: {arrow}   deployment {done.deployment}"
    if done.target is not None and done.folder is not None:
        word = "written" if done.written else "kept ready"
        yield (
            f"  {word}  {place(Path(done.target) / done.folder)}   link switched"
            f"{hook_words(out, done.hook)}   {units.seconds(done.seconds)}"
        )
    if done.head_hash is not None:
        yield out.style(f"  log head {done.head_number} {short(done.head_hash)}", "faint")


def run_deploy(ctx: Context, done: DeployedRow) -> int:
    """Tells what a deployment did or would do, and returns the exit code."""
    out = ctx.out
    out.changed(done.changed and done.blocked is None, dry_run=done.dry_run)
    out.data(done, human=lambda: deployed_lines(out, done), ids=[done.deployment or done.revision])
    for text in done.hints:
        out.hint("gate", text)
    if done.blocked == "gate":
        return VERDICT_CODES[done.verdict or "inconclusive"]
    if done.blocked == "approval":
        return 36
    if done.changed and not done.dry_run:
        reason = f'deltavc rollback {done.environment} --reason "..."'
        out.hint("rollback", f"go back with: {reason}")
    return 0
