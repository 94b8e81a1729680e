"""What a terminal may be sent: escaping of foreign text, roles of colour, widths.

Text for people passes :func:`render` once, on its way out. Colour is asked for
with :func:`style`, which wraps the text in Unicode noncharacters (U+FDD0 and
the following are set aside for a program's internal use); ``render`` first
makes every control and bidirectional character visible and then turns the
noncharacters into escape sequences, or into nothing. So f-strings of foreign
text and styled text are safe without any call at the place of use: an escape
character from a commit message never reaches the terminal as one.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ROLES", "cut", "escape", "render", "style", "visible_width", "wants_color"]

ROLES = {
    "id": "33",
    "good": "32",
    "bad": "1;31",
    "warn": "1;33",
    "hint": "36",
    "strong": "1",
    "faint": "2",
}
"""Roles of colour and their SGR parameters; meaning is never carried by colour alone."""

_FIRST_MARK = 0xFDD0
_END_MARK = 0xFDEF
_MARKS = {role: chr(_FIRST_MARK + number) for number, role in enumerate(ROLES)}
_TO_COLOR = {ord(_MARKS[role]): f"\x1b[{code}m" for role, code in ROLES.items()}
_TO_COLOR[_END_MARK] = "\x1b[0m"
_TO_NOTHING = dict.fromkeys(range(_FIRST_MARK, _END_MARK + 1))

# C0 but tab and newline, DEL, C1, line and paragraph separators, marks and overrides of
# direction (a name can be made to read backwards), byte order mark.
_UNSAFE = [
    *(code for code in range(0x20) if code not in (0x09, 0x0A)),
    *range(0x7F, 0xA0),
    0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF,
]  # fmt: skip
_ESCAPES: dict[int, str] = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _UNSAFE
}
_ESCAPES_ONE_LINE = _ESCAPES | {0x09: "\\t", 0x0A: "\\n"}


def escape(text: str, *, one_line: bool = False) -> str:
    r"""Makes control and bidirectional characters visible, as ``\x1b`` or ``\u202e``.

    Args:
        text: Text of any origin.
        one_line: Also escape tabs and newlines, for text that must stay on its line.

    Returns:
        Text that a terminal shows as it is; lone surrogates are escaped too.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.translate(_ESCAPES_ONE_LINE if one_line else _ESCAPES)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def style(text: str, role: str) -> str:
    """Marks a text with a role of colour; :func:`render` decides whether it is coloured.

    Args:
        text: Text of any origin; it stays on one line.
        role: One of :data:`ROLES`.

    Returns:
        The marked text, to be put into an f-string or a table cell.
    """
    return f"{_MARKS[role]}{escape(text.translate(_TO_NOTHING), one_line=True)}{chr(_END_MARK)}"


def render(text: str, *, color: bool, one_line: bool = False) -> str:
    """Returns a text as it may be written: escaped, its marks turned into colour or dropped."""
    if text.isascii() and text.isprintable():
        return text
    return escape(text, one_line=one_line).translate(_TO_COLOR if color else _TO_NOTHING)


def visible_width(text: str) -> int:
    """Returns how many columns a text takes: marks none, wide characters two."""
    if not text.isascii():
        text = text.translate(_TO_NOTHING)
    if text.isascii():
        return len(text)
    import unicodedata

    width = 0
    for char in text:
        if unicodedata.combining(char):
            continue
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return width


def cut(text: str, width: int) -> str:
    """Shortens a text to a number of columns; marks are kept, so that colour still ends.

    Args:
        text: One line.
        width: Columns to keep, at least 1.

    Returns:
        The text, or its beginning with an ellipsis.
    """
    if visible_width(text) <= width:
        return text
    room, kept, is_full = width - 1, "", False
    for char in text:
        if _FIRST_MARK <= ord(char) <= _END_MARK:
            kept += char
        elif not is_full and (taken := visible_width(char)) <= room:
            kept += char
            room -= taken
        elif not is_full:
            kept += "…"
            is_full = True
    return kept


def wants_color(when: str | None, environ: Mapping[str, str], is_terminal: bool) -> bool:
    """Decides whether a stream gets colour.

    Args:
        when: ``--color`` or the setting: auto, always, never, or nothing.
        environ: Environment; ``NO_COLOR``, then ``FORCE_COLOR``, then ``TERM``.
        is_terminal: Whether the stream is a terminal.

    Returns:
        True for colour.
    """
    if when in ("always", "never"):
        return when == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") != "0":
        return True
    return is_terminal and environ.get("TERM") != "dumb"
