"""Changing one value of a TOML file and leaving the rest as it was, comments included.

The standard library reads TOML and does not write it. What ``config set``
needs is small: texts, booleans and whole numbers under ``[table]`` headings.
Every edit is read back before it is taken; a file that is too artful for the
edit by lines is refused rather than rewritten.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from deltavc.errors import UsageError

__all__ = ["edit", "quoted"]

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_HEADING = re.compile(r"\s*\[\s*([A-Za-z0-9_.\s-]+?)\s*\]\s*(#.*)?\Z")


def quoted(text: str) -> str:
    """Returns a text as a basic TOML string."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    written = "".join(
        escapes.get(char)
        or (f"\\u{ord(char):04x}" if ord(char) < 0x20 or ord(char) == 0x7F else char)
        for char in text
    )
    return f'"{written}"'


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else quoted(str(value))


def edit(content: str, key: str, value: Any) -> str:
    """Returns a TOML text with one value set, or taken out.

    Args:
        content: The text.
        key: Dotted key of two parts: table and name.
        value: A text, boolean or whole number; None takes the key out.

    Returns:
        The new text.

    Raises:
        UsageError: The file is written in a way that this edit does not handle.
    """
    table, _, name = key.partition(".")
    wanted = tomllib.loads(content)
    section = wanted.get(table, {})
    if not isinstance(section, dict) or not _BARE.match(table) or not _BARE.match(name):
        raise _too_artful(key)
    if value is None:
        section.pop(name, None)
    else:
        wanted[table] = {**section, name: value}
    lines = content.split("\n")
    changed = _edit_lines(
        lines, table, name, None if value is None else f"{name} = {_written(value)}"
    )
    result = "\n".join(changed)
    try:
        found = tomllib.loads(result)
    except ValueError:
        found = None
    if found != wanted:
        raise _too_artful(key)
    return result


def _edit_lines(lines: list[str], table: str, name: str, line: str | None) -> list[str]:
    begin, end = _section(lines, table)
    if begin is None:
        if line is None:
            return lines
        body = lines[:-1] if lines and not lines[-1].strip() else list(lines)
        gap = [""] if body and body[-1].strip() else []
        return [*body, *gap, f"[{table}]", line, ""]
    own = re.compile(rf"""\s*(?:{re.escape(name)}|"{re.escape(name)}"|'{re.escape(name)}')\s*=""")
    for at in range(begin + 1, end):
        if own.match(lines[at]):
            return [*lines[:at], *([] if line is None else [line]), *lines[at + 1 :]]
    if line is None:
        return lines
    while end > begin + 1 and not lines[end - 1].strip():
        end -= 1
    return [*lines[:end], line, *lines[end:]]


def _section(lines: list[str], table: str) -> tuple[int | None, int]:
    """Finds a table's heading and the line after its last."""
    begin = None
    for at, text in enumerate(lines):
        if not text.lstrip().startswith("["):
            continue
        if begin is not None:
            return begin, at
        heading = _HEADING.match(text)
        if heading and heading[1] == table:
            begin = at
    return begin, len(lines)


def _too_artful(key: str) -> UsageError:
    return UsageError(
        f"the file is written in a way that '{key}' cannot be changed in",
        hint="change it with an editor",
        key=key,
    )
