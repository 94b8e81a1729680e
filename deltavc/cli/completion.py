"""Shell completion: the scripts, the answers, and names from the repository.

Answers must come within 150 ms, so names are read from the catalog with the
standard library alone. A catalog that is missing, locked or of another schema
offers nothing: completion never fails and never says anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    get_completion_class,
)

from deltavc.cli.terminal import escape
from deltavc.ids import SERVING, SERVING_DIGITS, SHORT_DIGITS

if TYPE_CHECKING:
    from deltavc.cli.root import Root

__all__ = ["SHELLS", "answer", "offer", "script"]

VARIABLE = "_DELTAVC_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
MOST = 200
_PLAIN = re.compile(r"[\w.+/-]+\Z")  # a shell would take other names apart
POLICY = "deltavc.toml"
POLICY_KINDS = ("env", "gate", "kpi")


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
        kind = _Bash if shell == "bash" else kind
        text = kind(root, {}, "deltavc", VARIABLE).complete()
    except Exception:
        return 1
    sys.stdout.write(text + "\n")
    return 0


class _Bash(BashComplete):
    """Bash takes a colon for the end of a word, and names such as ``env:production`` have one."""

    _typed = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Returns the words with names whole again, and what is to be completed."""
        args, last = super().get_completion_args()
        words: list[str] = []
        for word in (*args, last):
            if words and (word == ":" or words[-1].endswith(":")):
                words[-1] += word
            else:
                words.append(word)
        self._typed = words[-1].removesuffix("" if last == ":" else last)
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """Leaves out what bash keeps: the word up to its last colon."""
        return f"{item.type},{str(item.value).removeprefix(self._typed)}"


def offer(kinds: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Offers names of the repository around the working folder.

    Args:
        kinds: Kinds of name: ``branch``, ``tag``, ``base``, ``kpi``, ``gate``, ``env``; with
            a colon behind it, as in ``env:``, names have their kind in front. With
            ``branch``, HEAD is offered too, and the ids of revisions to who begins one.
        incomplete: What has been typed.

    Returns:
        The names that begin so.
    """
    from deltavc.cli.context import _start, find_repository

    folder = find_repository(_start())
    if folder is None:
        return []
    catalog = folder / "catalog.db"
    names = [*read_names(catalog, kinds), *read_policy_names(folder.with_name(POLICY), kinds)]
    if "branch" in kinds:
        names += [("HEAD", "the current revision"), *read_ids(catalog, incomplete)]
    return [
        CompletionItem(name, help=about)
        for name, about in dict(names).items()
        if name.startswith(incomplete)
    ]


def read_names(catalog: Path, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Reads names and what they are from a catalog.

    Args:
        catalog: The SQLite file.
        kinds: Kinds of ref, as in :func:`offer`.

    Returns:
        Pairs of name and kind; none when the catalog cannot be read.
    """
    names: list[tuple[str, str]] = []
    for kind in kinds:
        ref, front = f"{kind.removesuffix(':')}:", kind if kind.endswith(":") else ""
        for (name,) in _ask(
            catalog,
            "SELECT substr(name, ?) FROM refs WHERE name >= ? AND name < ? ORDER BY name LIMIT ?",
            (len(ref) + 1, ref, f"{ref[:-1]};", MOST),
        ):
            names.append((f"{front}{name}", ref[:-1]))
    return names


def read_ids(catalog: Path, incomplete: str) -> list[tuple[str, str]]:
    """Reads the short ids of revisions that begin so, and their subjects.

    Args:
        catalog: The SQLite file.
        incomplete: The beginning of an id or of a serving id; nothing else is looked for.

    Returns:
        Pairs of id and subject.
    """
    digits = incomplete.removeprefix(SERVING)
    if not digits or not set(digits) <= set("0123456789abcdef"):
        return []
    front = incomplete.removesuffix(digits)
    length = max(SERVING_DIGITS if front else SHORT_DIGITS, len(digits))
    rows = _ask(
        catalog,
        "SELECT id, message FROM commits WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (digits, f"{digits}g", MOST),
    )
    return [
        (front + str(oid)[:length], escape(str(message).partition("\n")[0], one_line=True))
        for oid, message in rows
    ]


def read_policy_names(path: Path, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Reads names that are defined in the work tree's policy file.

    Args:
        path: The file.
        kinds: As in :func:`offer`.

    Returns:
        Pairs of name and kind; none when the file is not there or makes no sense.
    """
    wanted = [kind for kind in kinds if kind.removesuffix(":") in POLICY_KINDS]
    if not wanted or not path.is_file():
        return []
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    names = []
    for kind in wanted:
        table = content.get(kind.removesuffix(":"))
        front = kind if kind.endswith(":") else ""
        if isinstance(table, dict):
            found = (name for name in table if _PLAIN.match(name))
            names += [(front + name, kind.removesuffix(":")) for name in found]
    return names


def _ask(catalog: Path, query: str, values: Sequence[object]) -> list[tuple[object, ...]]:
    """Returns rows of a catalog; none where it cannot be read just now."""
    import sqlite3

    with suppress(sqlite3.Error, OSError):
        uri = f"{catalog.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=0.05)) as connection:
            return connection.execute(query, tuple(values)).fetchall()
    return []
