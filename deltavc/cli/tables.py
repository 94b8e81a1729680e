"""Tables: the columns of an answer, and their forms human, csv, tsv and md.

The human form is plain aligned columns. rich would draw it too, but its import
takes 30 to 40 ms, as long as everything else that ``deltavc log`` loads, and
aligned columns stay readable when they are copied into a ticket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltavc.cli import units
from deltavc.cli.terminal import cut, escape, render, style, visible_width
from deltavc.ids import short

__all__ = ["Column", "Row", "cell_for_document", "delimited", "human_lines", "markdown_lines"]

Row = Mapping[str, Any]

_RIGHT = ("size", "count", "number", "seconds")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: The field of the row, and the heading in csv and JSON.
        kind: ``text``; ``id`` (10 digits for people); ``time`` (milliseconds,
            relative for people, ISO in documents); ``size`` (bytes); ``count``;
            ``number`` (with ``digits``); ``seconds``; ``flag`` (yes or nothing).
        title: Heading for people; the key's words when left out.
        digits: Digits after the point of a ``number``.
        shrink: This column gives way when the table is wider than the terminal.
        missing: What people see for None.
        word: Words the value for people; the result may be styled.
    """

    key: str
    kind: str = "text"
    title: str | None = None
    digits: int = 3
    shrink: bool = False
    missing: str = "-"
    word: Callable[[Any], str] | None = None

    @property
    def heading(self) -> str:
        """The heading that people see."""
        return self.key.replace("_", " ") if self.title is None else self.title

    @property
    def right(self) -> bool:
        """Whether the cells stand at the right edge."""
        return self.kind in _RIGHT

    def for_people(self, value: Any, now: int) -> str:
        """Words one cell for people."""
        if value is None:
            return self.missing
        if self.word is not None:
            return self.word(value)
        match self.kind:
            case "id":
                return style(short(str(value)), "id")
            case "time":
                return units.when(int(value), now)
            case "size":
                return units.size(int(value))
            case "count":
                return units.count(int(value))
            case "number":
                return f"{value:.{self.digits}f}"
            case "seconds":
                return units.seconds(float(value))
            case "flag":
                return "yes" if value else ""
        if isinstance(value, list | tuple):
            return " ".join(str(item) for item in value)
        return str(value)


def cell_for_document(column: Column, value: Any) -> Any:
    """Returns a cell for JSON: times as ISO 8601, everything else as it is."""
    return units.iso(value) if column.kind == "time" and type(value) is int else value


def human_lines(
    columns: Sequence[Column], rows: Iterable[Row], *, now: int, width: int | None, indent: int = 0
) -> Iterator[str]:
    """Yields a heading and one line a row, columns aligned, fitted to the terminal.

    Args:
        columns: The columns.
        rows: The rows; missing fields count as None.
        now: The time, for relative times.
        width: Columns of the terminal; None when the table may be as wide as it is.
        indent: Spaces in front of each line.

    Yields:
        Lines that still pass :func:`deltavc.cli.terminal.render`.
    """
    cells = [
        [escape(column.for_people(row.get(column.key), now), one_line=True) for column in columns]
        for row in rows
    ]
    if not cells:
        return
    headings = [column.heading for column in columns]
    widths = [max(map(visible_width, texts)) for texts in zip(headings, *cells, strict=True)]
    if width is not None:
        _fit(columns, widths, width - indent)
    for number, texts in enumerate([headings, *cells]):
        line = "  ".join(
            _pad(texts[at], widths[at], column.right) for at, column in enumerate(columns)
        )
        line = " " * indent + line.rstrip()
        yield style(line, "faint") if number == 0 else line


def _fit(columns: Sequence[Column], widths: list[int], room: int) -> None:
    """Narrows the columns that may shrink until the table fits, or they are 8 wide."""
    excess = sum(widths) + 2 * (len(widths) - 1) - room
    flexible = [at for at, column in enumerate(columns) if column.shrink]
    while excess > 0 and flexible:
        widest = max(flexible, key=lambda at: widths[at])
        if widths[widest] <= 8:
            return
        step = min(excess, widths[widest] - 8)
        others = [widths[at] for at in flexible if at != widest and widths[at] < widths[widest]]
        if others:
            step = min(step, widths[widest] - max(others))
        step = max(1, step)
        widths[widest] -= step
        excess -= step


def _pad(text: str, width: int, right: bool) -> str:
    text = cut(text, width) if width > 0 else text
    space = " " * max(0, width - visible_width(text))
    return space + text if right else text + space


def _flat(value: Any) -> str:
    """Words a document cell as text: lists with spaces, objects as JSON."""
    from deltavc.cli.document import dumps, plain

    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return " ".join(map(str, value))
    return dumps(value) if isinstance(value, list | dict) else str(value)


def delimited(columns: Sequence[Column], rows: Iterable[Row], delimiter: str) -> Iterator[str]:
    """Yields the lines of a csv or tsv table, headed by the keys; values as in JSON.

    Control characters are escaped as for a terminal; in tsv tabs and newlines too,
    so that a line is always a row.
    """
    import csv
    import io

    body = (
        [_flat(cell_for_document(column, row.get(column.key))) for column in columns]
        for row in rows
    )
    for cells in ([column.key for column in columns], *body):
        if delimiter == "\t":
            yield "\t".join(render(cell, color=False, one_line=True) for cell in cells)
            continue
        line = io.StringIO()
        # The terminator has to be a newline: before Python 3.13 only its characters are quoted.
        csv.writer(line, lineterminator="\n").writerow(
            [render(cell, color=False) for cell in cells]
        )
        yield line.getvalue().removesuffix("\n")


def markdown_lines(columns: Sequence[Column], rows: Iterable[Row], *, now: int) -> Iterator[str]:
    """Yields a Markdown table worded as for people, for tickets and pull requests."""

    def row_line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    yield row_line(_markdown(column.heading) for column in columns)
    yield row_line("---:" if column.right else "---" for column in columns)
    for row in rows:
        yield row_line(_markdown(column.for_people(row.get(column.key), now)) for column in columns)


def _markdown(text: str) -> str:
    text = render(text.replace("\n", " "), color=False, one_line=True)
    for char, written in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|")):
        text = text.replace(char, written)
    return text
