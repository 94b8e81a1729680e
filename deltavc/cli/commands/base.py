"""``deltavc base``: add, list, show, verify, remove."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deltavc.cli import options, units
from deltavc.cli.tables import Column
from deltavc.cli.verb import argument, group, verb
from deltavc.cli.words import base_line, plural

if TYPE_CHECKING:
    from deltavc.cli.context import Context
    from deltavc.cli.output import Output
    from deltavc.repo.results import BaseVerified

command = group("base", "Register and check frozen base models.")

SHOWN = 5


@verb(
    "add",
    group=command,
    mutating=True,
    examples=[
        "deltavc base add tiny-llama ./models/tiny-llama",
        "deltavc base add minilm ./minilm --source hf:sentence-transformers/all-MiniLM-L6-v2",
    ],
    exit_codes={22: "the name stands for another base", 26: "there is nothing at PATH"},
)
@argument("name", "What to call it")
@argument("path", "A Hugging Face folder or a safetensors file")
@click.option(
    "--source",
    metavar="URI",
    help="Where it came from, for the record, such as hf:org/name@revision",
)
@click.option(
    "--copy", is_flag=True, help="Store the tensors in the repository instead of a reference"
)
@options.dry_run("Fingerprint and report only")
def add(ctx: Context, name: str, path: str, source: str | None, copy: bool, dry_run: bool) -> None:
    """Register a frozen model.

    A base is known by the fingerprint of its tensors; the name is a convenience.
    """
    from deltavc.repo import bases

    repo = ctx.open_repository()
    info = bases.add(repo, name, ctx.directory / path, source=source, copy=copy, dry_run=dry_run)
    ctx.out.changed(info.changed, dry_run=dry_run)
    tensors = plural(info.tensors, "tensor")
    lines = [
        f"Fingerprinted {tensors}, {units.size(info.bytes)}, in {units.seconds(info.seconds)}.",
        base_line(ctx.out, info, path)
        if info.changed
        else f"base {ctx.out.foreign(name)}  {ctx.out.id(info.fingerprint)}  as before",
    ]
    ctx.out.data(info, human=lines, ids=[info.fingerprint])


@verb("list", group=command, tabular=True, examples=["deltavc base list"])
def list_(ctx: Context) -> None:
    """List the registered bases."""
    import msgspec

    from deltavc.repo import bases

    rows = [msgspec.to_builtins(info) for info in bases.list_(ctx.open_repository())]
    ctx.out.table(
        [
            Column("name"),
            Column("fingerprint", "id"),
            Column("tensors", "count"),
            Column("bytes", "size", title="size"),
            Column("path", shrink=True),
        ],
        rows,
        empty="No base is registered.",
    )
    if not rows:
        ctx.out.hint("init-base", "register the frozen model: deltavc base add NAME PATH")


@verb("show", group=command, examples=["deltavc base show tiny-llama --tensors"])
@argument("name", "The base", type=options.BASE)
@click.option("--tensors", is_flag=True, help="List tensors with shape, dtype and hash")
def show(ctx: Context, name: str, tensors: bool) -> None:
    """Show one base."""
    from deltavc.repo import bases

    info = bases.show(ctx.open_repository(), name, tensors=tensors)

    def words() -> Iterator[str]:
        out = ctx.out
        yield f"base      {out.foreign(info.name)}  {out.style(info.fingerprint, 'id')}"
        yield f"path      {out.foreign(info.path)}"
        yield f"source    {out.foreign(info.source or 'not recorded')}"
        yield f"tensors   {units.count(info.tensors)}, {units.size(info.bytes)}"
        for row in info.tensor_list or ():
            shape = ", ".join(map(str, row["shape"]))
            yield f"  {out.foreign(row['name'])}  ({shape}) {row['dtype']}  {row['sha256'][:10]}"

    ctx.out.data(info, human=words, ids=[info.fingerprint])


@verb(
    "verify",
    group=command,
    examples=["deltavc base verify", "deltavc base verify tiny-llama --path ./models/new"],
    exit_codes={1: "tensors differ", 26: "the files are gone"},
)
@argument("name", "The base; default: all", required=False, type=options.BASE)
@click.option("--path", metavar="PATH", help="Verify this folder instead of the recorded one")
@click.option("--quick", is_flag=True, help="Size, time and cached sum only; says so in the answer")
def verify(ctx: Context, name: str | None, path: str | None, quick: bool) -> int:
    """Check that a base's files still hold its tensors."""
    from deltavc.repo import bases

    where = ctx.directory / path if path else None
    found = bases.verify(ctx.open_repository(), name, path=where, quick=quick)
    ctx.out.data(
        found,
        human=lambda: (line for one in found for line in _verified(ctx.out, one)),
        ids=[one.fingerprint for one in found if one.ok],
    )
    if path and not all(one.ok for one in found):
        ctx.out.hint(
            "other-base",
            "this is another base; register it under its own name: "
            f"deltavc base add NAME {Path(path)}",
        )
    return 0 if all(one.ok for one in found) else 1


def _verified(out: Output, one: BaseVerified) -> Iterator[str]:
    head = f"{out.foreign(one.name)}  {out.id(one.fingerprint)}"
    if one.ok and one.quick:
        yield f"{head}  size and time as last hashed (quick, nothing read)"
    elif one.ok:
        read = f"{units.size(one.bytes)} read, {units.seconds(one.seconds)}"
        yield f"{head}  {plural(one.tensors, 'tensor')} match ({read})"
    else:
        yield f"{head}  {len(one.differences)} of {plural(one.tensors, 'tensor')} differ"
        for row in one.differences[:SHOWN]:
            if row.expected == row.found:
                yield f"  {out.foreign(row.name)}   other values"
            else:
                expected, found = row.expected or "none", row.found or "none"
                yield f"  {out.foreign(row.name)}   expected {expected}, found {found}"
        if len(one.differences) > SHOWN:
            yield f"  ... {len(one.differences) - SHOWN} more (--json lists all)"


@verb(
    "remove",
    group=command,
    mutating=True,
    examples=["deltavc base remove tiny-llama"],
    exit_codes={35: "a commit needs it"},
)
@argument("name", "The base", type=options.BASE)
@options.dry_run("Say what would be removed")
def remove(ctx: Context, name: str, dry_run: bool) -> None:
    """Forget a base's name and place; its files are not touched."""
    from deltavc.repo import bases

    info = bases.remove(ctx.open_repository(), name, dry_run=dry_run)
    ctx.out.changed(True, dry_run=dry_run)
    word = "Would remove" if dry_run else "Removed"
    ctx.out.data(
        info,
        human=f"{word} base {ctx.out.foreign(name)}, {ctx.out.id(info.fingerprint)}",
        ids=[info.fingerprint],
    )
