"""``deltavc init``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deltavc.cli import options
from deltavc.cli.verb import argument, verb
from deltavc.errors import UsageError

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb(
    "init",
    mutating=True,
    examples=["deltavc init", "deltavc init models --workspace current"],
    exit_codes={13: "there is a repository with another workspace"},
)
@argument("directory", "Folder of the repository; default: here", required=False, metavar="DIR")
@click.option(
    "--workspace",
    metavar="PATH",
    default="model",
    show_default=True,
    help="Folder that checkout rebuilds and status watches",
)
@click.option("--bare", is_flag=True, help="No workspace: a repository for sharing or for CI")
@click.option(
    "--branch", metavar="NAME", default="main", show_default=True, help="Name of the first branch"
)
@options.dry_run()
def command(
    ctx: Context, directory: str | None, workspace: str, bare: bool, branch: str, dry_run: bool
) -> None:
    """Create a repository.

    Doing it again in the same folder changes nothing.
    """
    from deltavc.repo.initialise import init

    if not workspace.strip():
        raise UsageError("the workspace needs a name", hint="deltavc init --workspace model")
    root = ctx.directory / (directory or ".")
    repo, created = init(
        root, ctx.session(), workspace=workspace, branch=branch, bare=bare, dry_run=dry_run
    )
    folder = repo.layout.folder
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    place = ctx.out.foreign(str(shown))
    work = "no workspace" if bare else f"checkouts go to {ctx.out.foreign(workspace)}/"
    verb_ = "Would create" if dry_run else "Created"
    line = (
        f"{verb_} a repository in {place}, branch {ctx.out.foreign(branch)}; {work}."
        if created
        else f"There is a repository in {place} already; nothing changed."
    )
    ctx.out.changed(created, dry_run=dry_run)
    ctx.out.data(
        {"path": str(folder), "branch": branch, "workspace": None if bare else workspace},
        human=line,
        ids=[str(folder)],
    )
    if created and not dry_run:
        program = f"deltavc -C {shlex.quote(directory)}" if directory else "deltavc"
        ctx.out.hint("init-base", f"register the frozen model next: {program} base add NAME PATH")
