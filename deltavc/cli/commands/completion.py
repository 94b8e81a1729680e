"""``deltavc completion``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deltavc.cli.completion import SHELLS, script
from deltavc.cli.verb import argument, verb

if TYPE_CHECKING:
    from deltavc.cli.context import Context


@verb(
    "completion",
    light=True,
    examples=[
        "deltavc completion bash > ~/.local/share/bash-completion/completions/deltavc",
        "deltavc completion fish > ~/.config/fish/completions/deltavc.fish",
    ],
)
@argument("shell", "bash, zsh or fish", type=click.Choice(SHELLS))
def command(ctx: Context, shell: str) -> None:
    """Print a completion script for a shell.

    The script completes verbs, options, branches, tags and bases. Write it where
    the shell looks for completions, or evaluate it in the shell's start-up file.
    """
    from deltavc.cli.root import ROOT

    text = script(ROOT, shell)
    ctx.out.data({"shell": shell, "script": text}, human=text.rstrip("\n"), ids=text.splitlines())
