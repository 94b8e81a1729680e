"""``deltavc tag``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from deltavc.cli import options
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, verb
from deltavc.cli.words import aligned, signature_words, signer_words, subject
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import BranchRow


@verb(
    "tag",
    tabular=True,
    examples=[
        "deltavc tag",
        'deltavc tag v1.0 -m "first release"',
        'deltavc tag v1.0 --sign -m "first release"',
        "deltavc tag v1.0 --verify",
        'deltavc tag v1.0 --delete --reason "wrong revision"',
    ],
    exit_codes={
        1: "the deletion was not confirmed; with --verify: the tag is not signed",
        22: "the tag exists at another revision: tags do not move",
        36: "a deletion needs --yes off a terminal",
        43: "the signature is not good",
        44: "the key cannot sign; nothing was recorded",
    },
    see=["revisions"],
)
@argument("name", "The tag; without it, list all", required=False, type=options.TAG)
@argument("rev", "The revision to name; default: HEAD", required=False, type=options.REVISION)
@options.message("Annotate")
@options.sign()
@click.option("--verify", is_flag=True, help="Verify NAME's signature")
@click.option("--delete", is_flag=True, help="Delete NAME; needs --reason")
@options.reason()
@options.dry_run()
def command(
    ctx: Context,
    name: str | None,
    rev: str | None,
    message: str | None,
    sign: bool,
    verify: bool,
    delete: bool,
    reason: str | None,
    dry_run: bool,
) -> int:
    """List, create, verify or delete tags.

    A tag is a fixed name for a revision; others rely on it, so that deleting one
    needs a reason and a confirmation.
    """
    from deltavc.repo import branches

    _check(name, rev, message, reason, delete=delete, sign=sign, verify=verify)
    if name is None:
        _list(ctx.out, branches.tags(ctx.open_repository()))
        return 0
    if verify:
        return _verify(ctx, name)
    ctx.changes()
    repo = ctx.open_repository()
    if delete:
        return _delete(ctx, repo, name, reason or "", dry_run=dry_run)
    row = branches.tag(repo, name, rev, message=message, sign=sign, dry_run=dry_run)
    at = f"tag {ctx.out.foreign(name)} at {ctx.out.id(row.commit or '')}"
    text = f"{'Would create' if dry_run else 'Created'} {at}  {ctx.out.foreign(row.subject)}"
    if not row.changed:
        text = f"There is {at} already; nothing changed."
    ctx.out.changed(row.changed, dry_run=dry_run)
    lines = [text.rstrip(), *(f"  signed, {signer_words(ctx.out, s)}" for s in row.signatures)]
    ctx.out.data(row, human=lines, ids=[row.name])
    return 0


def _check(
    name: str | None,
    rev: str | None,
    message: str | None,
    reason: str | None,
    *,
    delete: bool,
    sign: bool,
    verify: bool,
) -> None:
    told = message is not None or reason is not None
    if name is None and (delete or told or sign or verify):
        raise UsageError("the tag's name is missing", hint='deltavc tag NAME REV -m "why"')
    if verify and (delete or sign or told or rev is not None):
        raise UsageError("--verify takes the name alone", hint=f"deltavc tag {name} --verify")
    if delete and (rev is not None or message is not None or sign):
        raise UsageError("--delete takes the name alone", hint="deltavc tag NAME --delete")
    if delete and not (reason or "").strip():
        raise UsageError(
            "deleting a tag needs a reason",
            hint=f'deltavc tag {name} --delete --reason "why"',
        )
    if reason is not None and not delete:
        raise UsageError("--reason is for --delete", hint="say it with -m instead")


def _verify(ctx: Context, name: str) -> int:
    from deltavc.repo import branches

    out = ctx.out
    row = branches.verify_tag(ctx.open_repository(), name)
    at = f"tag {out.foreign(name)} at {out.id(row.commit or '')}"
    lines = [f"{at}: signature {signature_words(out, found)}" for found in row.signatures]
    out.data(row, human=lines or [f"{at} is not signed."], ids=[row.name])
    if not lines:
        out.hint("tag-unsigned", f"see whether its commit is: deltavc show {name}")
    return 0 if row.signatures else 1


def _delete(ctx: Context, repo: Repository, name: str, reason: str, *, dry_run: bool) -> int:
    from deltavc.repo import branches

    out = ctx.out
    row = branches.delete_tag(repo, name, reason, dry_run=True)
    if not dry_run:
        question = f"Delete tag '{name}' at {(row.before or '')[:10]} ({row.subject})?"
        if not out.confirm(question):
            out.changed(False)
            out.data(row, human="Nothing changed.")
            return 1
        row = branches.delete_tag(repo, name, reason)
    words = f"tag {out.foreign(name)}, it was at {out.id(row.before or '')}"
    out.changed(True, dry_run=dry_run)
    out.data(row, human=f"{'Would delete' if dry_run else 'Deleted'} {words}", ids=[row.name])
    if not dry_run:
        out.hint("undo", "take it back: deltavc undo")
    return 0


def _list(out: Output, rows: Sequence[BranchRow]) -> None:
    if out.is_human or out.is_document or out.manners.quiet:
        out.data(list(rows), human=lambda: _lines(out, rows), ids=(row.name for row in rows))
        return
    out.table(
        [Column("name"), Column("commit", "id"), Column("subject"), Column("message")],
        ({"name": r.name, "commit": r.commit, "subject": r.subject, "message": r.message}
         for r in rows),
    )  # fmt: skip


def _lines(out: Output, rows: Sequence[BranchRow]) -> Iterator[str]:
    cells = [
        (
            out.style(row.name, "strong"),
            out.id(row.commit or ""),
            out.foreign(subject(row.message) if row.message else row.subject),
        )
        for row in rows
    ]
    yield from aligned(cells, width=out.width, shrink=2) if cells else ["No tags."]
