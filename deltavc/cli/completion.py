"""Shell completion: the scripts, the answers, and names from the repository.

Answers must come within 150 ms, so names are read from the catalog with the
standard library alone. A catalog that is missing, locked or of another schema
offers nothing: completion never fails and never says anything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

if TYPE_CHECKING:
    from deltavc.cli.root import Root

__all__ = ["SHELLS", "answer", "offer", "script"]

VARIABLE = "_DELTAVC_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
MOST = 200


def script(root: click.Command, shell: str) -> str:
    """Returns the script that a shell runs at its start.

    Args:
        root: The command ``deltavc``.
        shell: One of :data:`SHELLS`.

    Returns:
        The script.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # The base class's method: bash's own one starts bash to ask for its version.
    return ShellComplete.source(kind(root, {}, "deltavc", VARIABLE))


def answer(root: Root, instruction: str) -> int:
    """Answers a shell that completes a command line.

    Args:
        root: The command ``deltavc``.
        instruction: Value of the completion variable, such as ``bash_complete``.

    Returns:
        The exit code; 1 for an instruction that nobody knows.
    """
    shell, _, action = instruction.partition("_")
    kind = get_completion_class(shell)
    if kind is None or action not in ("source", "complete"):
        return 1
    if action == "source":
        sys.stdout.write(script(root, shell) + "\n")
        return 0
    try:
        text = kind(root, {}, "deltavc", VARIABLE).complete()
    except Exception:
        return 1
    sys.stdout.write(text + "\n")
    return 0


def offer(kinds: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Offers names of the repository around the working folder.

    Args:
        kinds: Kinds of ref: ``branch``, ``tag``, ``base``. With ``branch``, HEAD is offered too.
        incomplete: What has been typed.

    Returns:
        The names that begin so.
    """
    from deltavc.cli.context import _start, find_repository

    folder = find_repository(_start())
    if folder is None:
        return []
    names = read_names(folder / "catalog.db", kinds)
    if "branch" in kinds:
        names.append(("HEAD", "the current revision"))
    return [
        CompletionItem(name, help=about) for name, about in names if name.startswith(incomplete)
    ]


def read_names(catalog: Path, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Reads names and what they are from a catalog.

    Args:
        catalog: The SQLite file.
        kinds: Kinds of ref.

    Returns:
        Pairs of name and kind; none when the catalog cannot be read.
    """
    import sqlite3

    names: list[tuple[str, str]] = []
    with suppress(sqlite3.Error, OSError):
        uri = f"{catalog.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=0.05)) as connection:
            for kind in kinds:
                rows = connection.execute(
                    "SELECT substr(name, ?) FROM refs WHERE name >= ? AND name < ? "
                    "ORDER BY name LIMIT ?",
                    (len(kind) + 2, f"{kind}:", f"{kind};", MOST),
                )
                names += [(str(name), kind) for (name,) in rows]
    return names
