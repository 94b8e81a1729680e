"""``deltavc op``: log, show, restore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from deltavc.cli import options
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, group, verb
from deltavc.cli.words import (
    aligned,
    operation_id,
    operation_lines,
    ref_words,
    tell_undone,
    who,
)

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import OperationRow

command = group(
    "op",
    "Look at operations and go back to one.\n\n"
    "Every command that changes something is one operation, and none is ever deleted.",
)


@verb("log", group=command, tabular=True, examples=["deltavc op log -l 10"])
@options.limit("operations")
def log(ctx: Context, limit: int | None) -> None:
    """List the operations, newest first."""
    from deltavc.repo import operations

    rows = operations.log(ctx.open_repository(), limit=limit)
    out = ctx.out
    if out.is_human or out.is_document or out.manners.quiet:
        out.data(rows, human=lambda: _lines(out, rows), ids=(row.id for row in rows))
    else:
        out.table(_COLUMNS, (_flat(out, row) for row in rows))


_COLUMNS = [
    Column("operation", "id"),
    Column("number", "count"),
    Column("time", "time", title="when"),
    Column("actor"),
    Column("command"),
    Column("summary"),
    Column("state"),
    Column("refs"),
    Column("reason"),
]


def _state(row: OperationRow) -> str:
    if row.undone:
        return "taken back"
    return "" if row.undoable else "cannot be undone"


def _flat(out: Output, row: OperationRow) -> dict[str, Any]:
    return {
        "operation": row.id,
        "number": row.number,
        "time": row.time,
        "actor": who(row.actor),
        "command": row.command,
        "summary": row.summary,
        "state": _state(row),
        "refs": ", ".join(ref_words(out, ref) for ref in row.refs),
        "reason": row.reason,
    }


def _lines(out: Output, rows: Sequence[OperationRow]) -> Iterator[str]:
    cells = [
        (
            f"{'@' if row.current else '*'} {operation_id(out, row.id)}",
            out.when(row.time),
            out.foreign(who(row.actor)),
            out.foreign(row.summary),
            _state(row) or _moves(out, row),
        )
        for row in rows
    ]
    yield from aligned(cells, width=out.width, shrink=3) if cells else ["No operations."]


def _moves(out: Output, row: OperationRow) -> str:
    """Returns how the first refs moved; several are counted."""
    words = ", ".join(ref_words(out, ref) for ref in row.refs[:2])
    return words + (f", {len(row.refs) - 2} more" if len(row.refs) > 2 else "")


@verb("show", group=command, examples=["deltavc op show 4f1d2ac0", "deltavc op show @"])
@argument("operation", "The operation's id, or the beginning of it; @ is the newest")
def show(ctx: Context, operation: str) -> None:
    """Show one operation."""
    import msgspec

    from deltavc.repo import operations

    row = operations.show(ctx.open_repository(), operation)
    ctx.out.data(
        row, human=lambda: operation_lines(ctx.out, msgspec.to_builtins(row)), ids=[row.id]
    )


@verb(
    "restore",
    group=command,
    mutating=True,
    examples=["deltavc op restore 9b27e61f -n", "deltavc op restore 9b27e61f"],
    exit_codes={20: "there is no such operation"},
)
@argument("operation", "The operation to go back to")
@options.dry_run()
def restore(ctx: Context, operation: str, dry_run: bool) -> None:
    """Put all refs back to where they were after an operation.

    This is an operation itself: undo takes it back.
    """
    from deltavc.repo import operations

    done = operations.restore(ctx.open_repository(), operation, dry_run=dry_run)
    if not done.refs:
        ctx.out.changed(False)
        ctx.out.data(
            done,
            human=f"All refs stand as after {operation_id(ctx.out, done.taken)} already.",
            ids=[done.taken],
        )
        return
    tell_undone(ctx.out, done, "Would go back to" if dry_run else "Went back to")
    if not dry_run:
        ctx.out.hint("undo", "take it back: deltavc undo")
