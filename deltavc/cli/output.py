"""The sink: commands say what there is to tell, this decides how and where.

stdout carries the answer, stderr everything else. One format is settled before
a command runs:

========  ======================================================================
human     lines as they come; tables and long answers through the pager
json      one document at the end, also on failure
jsonl     a line a row as they come, a summary or an error at the end
csv tsv   tables only
md        tables only, worded as for people
quiet     ``-q``: nothing but ids, one a line
========  ======================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from deltavc.cli import terminal, units
from deltavc.errors import ApprovalMissing, InternalError
from deltavc.ids import short

if TYPE_CHECKING:
    from deltavc.cli.failures import Failure

__all__ = ["FORMATS", "Manners", "Output"]

FORMATS = ("auto", "human", "json", "jsonl", "csv", "tsv", "md")
TABLE_FORMATS = ("csv", "tsv", "md")

Human = str | Iterable[str] | Callable[[], str | Iterable[str]]


@dataclass(frozen=True)
class Manners:
    """How an answer is to be given; settled once from options, environment and settings.

    Attributes:
        format: human, json, jsonl, csv, tsv or md.
        quiet: Only ids on stdout; neither progress nor hints on stderr.
        verbose: How much :meth:`Output.note` says.
        color: Whether stdout gets colour.
        color_stderr: Whether stderr gets colour.
        pager: The pager's command; None for none.
        progress: auto, always or never.
        ask: Whether questions may be asked: a terminal, and not ``--no-input``.
        yes: Whether confirmations are given beforehand.
        wants_hint: Tells whether a hint of this name is wanted.
        now: Returns the time in milliseconds, for relative times.
    """

    format: str = "human"
    quiet: bool = False
    verbose: int = 0
    color: bool = False
    color_stderr: bool = False
    pager: list[str] | None = None
    progress: str = "auto"
    plain_progress: bool = False
    ask: bool = False
    yes: bool = False
    wants_hint: Callable[[str], bool] = lambda _name: True
    now: Callable[[], int] = lambda: 0


class Output:
    """Tells one command's answer.

    Args:
        schema: Name of the answer's document, such as ``deltavc.status/1``.
        manners: How.
        stdout: The answer's stream.
        stderr: The stream of everything else.
        stdin: Where answers to questions come from.
    """

    def __init__(
        self, schema: str, manners: Manners, *, stdout: TextIO, stderr: TextIO, stdin: TextIO | None
    ) -> None:
        self.schema = schema
        self.manners = manners
        self._stdout, self._stderr, self._stdin = stdout, stderr, stdin
        self._data: Any = None
        self._answered = False
        self._changes: dict[str, bool] = {}
        self._rows_streamed = 0
        self._warnings: list[str] = []
        self._hints: list[str] = []
        self._progress: Any = None

    # What kind of answer is wanted.

    @property
    def is_human(self) -> bool:
        """Whether people read the answer, and want more than ids."""
        return self.manners.format == "human" and not self.manners.quiet

    @property
    def is_document(self) -> bool:
        """Whether the answer is JSON, in one document or in lines."""
        return self.manners.format in ("json", "jsonl")

    @property
    def is_terminal(self) -> bool:
        """Whether people read the answer on a terminal."""
        return self.is_human and _isatty(self._stdout)

    @property
    def width(self) -> int | None:
        """Columns of the terminal that the answer goes to; None when it is none."""
        return (
            os.get_terminal_size(self._stdout.fileno()).columns if _isatty(self._stdout) else None
        )

    @property
    def has_blocks(self) -> bool:
        """Whether the encoding of the answer's stream has block elements."""
        try:
            "▁█".encode(self._stdout.encoding or "ascii")
        except (UnicodeError, LookupError):
            return False
        return True

    # Wording; the results may be put into f-strings, lines and cells.

    def style(self, text: str, role: str) -> str:
        """Marks text with a role of colour: id, good, bad, warn, hint, strong or faint."""
        return terminal.style(text, role)

    def id(self, oid: str) -> str:
        """Returns an id as people see it: ten digits, coloured."""
        return terminal.style(short(oid), "id")

    def foreign(self, text: str) -> str:
        """Returns text of foreign origin that has to stay on its line."""
        return terminal.escape(text, one_line=True)

    def when(self, milliseconds: int) -> str:
        """Returns a time as people read it: relative under a week."""
        return units.when(milliseconds, self.manners.now())

    # The answer.

    def data(self, value: Any, *, human: Human = (), ids: Iterable[str] = ()) -> None:
        """Gives the answer: a value for programs, words for people.

        Args:
            value: Records, mappings, sequences and scalars; see
                :func:`deltavc.cli.document.plain`. A sequence is streamed by ``jsonl``.
            human: The words: a text, lines, or a function that returns them, called only
                when people read. Long ones go through the pager.
            ids: What ``-q`` prints.
        """
        self._only_answer()
        if self.is_document:
            from deltavc.cli.document import plain

            if self.manners.format == "jsonl":
                for row in value if isinstance(value, list | tuple) else [value]:
                    self._stream_row(plain(row))
            else:
                self._data = plain(value)
        elif self.manners.quiet:
            self.ids(ids)
        else:
            self._block(_lines(human))

    def table(
        self,
        columns: Sequence[Any],
        rows: Iterable[Mapping[str, Any]],
        *,
        empty: str = "",
        before: Iterable[str] = (),
        after: Iterable[str] = (),
    ) -> None:
        """Gives a table as the answer.

        Args:
            columns: :class:`~deltavc.cli.tables.Column` values. The first of kind ``id`` is
                what ``-q`` prints, else the first column.
            rows: Mappings; fields beyond the columns appear in JSON only.
            empty: What people see when there is no row.
            before: Lines above the table, for people.
            after: Lines below the table, for people.
        """
        from deltavc.cli import tables

        self._only_answer()
        if self.is_document:
            kinds = {column.key: column for column in columns if column.kind == "time"}
            self._document_rows(kinds, rows)
        elif self.manners.quiet:
            ids = [column for column in columns if column.kind == "id"] or list(columns)
            self.ids(str(row.get(ids[0].key) or "") for row in rows)
        elif self.manners.format == "md":
            self._write_lines(tables.markdown_lines(columns, rows, now=self.manners.now()))
        elif self.manners.format in ("csv", "tsv"):
            delimiter = "," if self.manners.format == "csv" else "\t"
            self._write_lines(tables.delimited(columns, rows, delimiter))
        else:
            rows = list(rows)
            body: Iterable[str] = [empty] if empty and not rows else ()
            if rows:
                now = self.manners.now()
                body = tables.human_lines(columns, rows, now=now, width=self.width)
            self._block(line for part in (before, body, after) for line in part)

    def line(self, text: str = "") -> None:
        """Tells people one line more, at once; programs do not see it."""
        if self.is_human:
            self._clear_progress()
            self._stdout.write(terminal.render(text, color=self.manners.color) + "\n")

    def ids(self, ids: Iterable[str]) -> None:
        """Prints ids with ``-q``, one a line; nothing otherwise."""
        if self.manners.quiet and not self.is_document:
            self._write_lines(terminal.render(text, color=False, one_line=True) for text in ids)

    def changed(self, changed: bool, *, dry_run: bool = False) -> None:
        """Records whether anything changed, for the data of the document.

        Args:
            changed: Whether anything changed, or with ``dry_run`` would change.
            dry_run: Nothing was changed: the document says ``"changed": false`` and
                ``would_change``.
        """
        self._changes = {"changed": changed and not dry_run}
        if dry_run:
            self._changes["would_change"] = changed

    def page(self, text: str) -> None:
        """Shows a long text, such as help, through the pager if it does not fit."""
        self._block(iter(text.split("\n")))

    def raw(self, data: bytes) -> None:
        """Writes bytes to stdout as they are, such as an object's canonical form."""
        self._only_answer()
        self._stdout.flush()
        buffer = getattr(self._stdout, "buffer", None)
        if buffer is None:
            self._stdout.write(data.decode("utf-8", "backslashreplace"))
        else:
            buffer.write(data)

    # Everything else.

    def warn(self, text: str) -> None:
        """Warns: on stderr for people, in the document for programs."""
        self._warnings.append(text)
        if not self.is_document:
            self._say("warning", "warn", text)

    def hint(self, name: str, text: str) -> None:
        """Offers a next step, with a command that can be pasted.

        Args:
            name: Name for the setting ``hints.NAME`` that silences it.
            text: The hint, without ``hint:`` in front.
        """
        if not self.manners.wants_hint(name):
            return
        self._hints.append(text)
        if self.is_human:
            self._say("hint", "hint", text)

    def note(self, text: str, *, level: int = 1) -> None:
        """Says more on stderr when ``-v`` was given that often."""
        if self.manners.verbose >= level:
            self._to_stderr(text)

    @property
    def progress(self) -> Callable[[str, int, int], None]:
        """The place to tell progress: called with what, bytes done, bytes in all (0: unknown)."""
        if self._progress is None:
            from deltavc.cli.progress import ProgressLine

            width = os.get_terminal_size(self._stderr.fileno()).columns if (
                _isatty(self._stderr)
            ) else 80  # fmt: skip
            self._progress = ProgressLine(self._stderr, self._progress_mode(), width=width)
        progress: Callable[[str, int, int], None] = self._progress
        return progress

    @property
    def can_ask(self) -> bool:
        """Whether a question would reach somebody."""
        return self.manners.ask

    def confirm(self, question: str) -> bool:
        """Asks for a yes.

        Args:
            question: A question, with its question mark.

        Returns:
            True for yes: given beforehand with ``--yes``, or answered.

        Raises:
            ApprovalMissing: There is nobody to ask, and no ``--yes``.
        """
        if self.manners.yes:
            return True
        if not self.can_ask or self._stdin is None:
            raise ApprovalMissing(
                f"confirmation is needed, and there is no terminal to ask: {question}",
                hint="confirm with --yes",
            )
        self._clear_progress()
        self._stderr.write(terminal.render(f"{question} [y/N] ", color=False))
        self._stderr.flush()
        return self._stdin.readline().strip().lower() in ("y", "yes")

    # The end; called by the frame.

    def finish(self) -> None:
        """Ends a command that worked: writes the document, if one is wanted."""
        self._clear_progress()
        if self.manners.format == "json":
            from deltavc.cli.document import dumps, success_envelope

            envelope = success_envelope(
                self.schema, self._with_changed(), self._warnings, self._hints
            )
            self._stdout.write(dumps(envelope) + "\n")
        elif self.manners.format == "jsonl":
            from deltavc.cli.document import dumps

            self._stdout.write(dumps({"schema": self.schema, "ok": True, **self._summary()}) + "\n")
        self._stdout.flush()

    def fail(self, failure: Failure) -> None:
        """Ends a command that failed: tells why, on stderr or in the document."""
        self._clear_progress()
        wants_hint = self.manners.wants_hint("error")
        if self.is_document:
            from deltavc.cli.document import dumps, failure_envelope

            envelope = failure_envelope(
                self.schema, failure.as_document(), self._warnings, self._hints
            )
            self._stdout.write(dumps(envelope) + "\n")
            self._stdout.flush()
            return
        self._stdout.flush()
        self._say("error", "bad", failure.message)
        for line in failure.lines:
            self._to_stderr("  " + self.foreign(line))
        if failure.hint and wants_hint:
            for text in failure.hint.split("\n"):
                self._say("hint", "hint", text)

    # Inside.

    def _only_answer(self) -> None:
        if self._answered:
            raise InternalError("a command gave two answers")
        self._answered = True

    def _document_rows(self, times: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
        from deltavc.cli.document import plain
        from deltavc.cli.tables import cell_for_document

        result = []
        for row in rows:
            cells = {
                key: cell_for_document(times[key], value) if key in times else value
                for key, value in row.items()
            }
            if self.manners.format == "jsonl":
                self._stream_row(plain(cells))
            else:
                result.append(plain(cells))
        self._data = result

    def _stream_row(self, row: Any) -> None:
        from deltavc.cli.document import dumps

        self._stdout.write(dumps(row) + "\n")
        self._rows_streamed += 1

    def _summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = {"rows": self._rows_streamed, **self._changes}
        return {"summary": summary, "warnings": self._warnings, "hints": self._hints}

    def _with_changed(self) -> Any:
        if not self._changes:
            return self._data
        if self._data is None:
            return dict(self._changes)
        if isinstance(self._data, dict):
            return self._data | self._changes
        return self._data

    def _write_lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._stdout.write(line + "\n")

    def _block(self, lines: Iterable[str]) -> None:
        """Writes lines for people, through the pager if the screen is too small for them."""
        self._clear_progress()
        rendered = (terminal.render(line, color=self.manners.color) for line in lines)
        if self.manners.pager is None or not _isatty(self._stdout):
            self._write_lines(rendered)
            return
        from deltavc.cli.pager import page

        self._stdout.flush()
        height = max(1, os.get_terminal_size(self._stdout.fileno()).lines)
        page(rendered, self.manners.pager, height, self._stdout.write)

    def _say(self, word: str, role: str, text: str) -> None:
        self._to_stderr(f"{terminal.style(word + ':', role)} {self.foreign(text)}")

    def _to_stderr(self, text: str) -> None:
        self._clear_progress()
        self._stdout.flush()  # so that both streams interleave on a terminal as they were written
        self._stderr.write(terminal.render(text, color=self.manners.color_stderr) + "\n")
        self._stderr.flush()

    def _progress_mode(self) -> str:
        if self.manners.quiet or self.manners.progress == "never":
            return "none"
        if _isatty(self._stderr) and not self.manners.plain_progress:
            return "line"
        return "plain"

    def _clear_progress(self) -> None:
        if self._progress is not None:
            self._progress.clear()


def _lines(human: Human) -> Iterator[str]:
    """Yields the lines of what a command offered for people."""
    words = human() if callable(human) else human
    if isinstance(words, str):
        yield from words.split("\n")
    else:
        for text in words:
            yield from text.split("\n")


def _isatty(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
