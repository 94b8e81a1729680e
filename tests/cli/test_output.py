"""The sink: one answer in every format; what goes where; questions, pager, progress."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from deltavc.cli.failures import Failure
from deltavc.cli.output import Manners, Output
from deltavc.cli.pager import page, pager_command
from deltavc.cli.progress import ProgressLine
from deltavc.cli.tables import Column
from deltavc.errors import ApprovalMissing, InternalError

COLUMNS = [
    Column("name"),
    Column("commit", "id"),
    Column("time", "time"),
    Column("value", "number"),
]
ROWS = [
    {"name": "main", "commit": "c7d2" + "0" * 60, "time": 0, "value": 0.5, "extra": [1, 2]},
    {"name": "a,b", "commit": "a41f" + "1" * 60, "time": 3_600_000, "value": math.nan, "extra": []},
]
FAILURE = Failure("ref-moved", "a ref moved", "try again", 32, {"ref": "main"})


class Sink(Output):
    """An output on strings."""

    def __init__(self, **manners: Any) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        settings = replace(Manners(now=lambda: 7_200_000), **manners)
        super().__init__("deltavc.probe/1", settings, stdout=self.out, stderr=self.err, stdin=None)


def told(sink: Sink) -> None:
    sink.warn("careful")
    sink.table(COLUMNS, ROWS, before=["Branches:"], after=["2 in all"])
    sink.line("done")
    sink.hint("next", "deltavc log")
    sink.finish()


def test_json_is_one_document_with_every_field() -> None:
    sink = Sink(format="json")
    told(sink)
    assert sink.err.getvalue() == ""
    assert sink.out.getvalue().count("\n") == 1
    assert json.loads(sink.out.getvalue()) == {
        "schema": "deltavc.probe/1",
        "ok": True,
        "data": [
            {**ROWS[0], "time": "1970-01-01T00:00:00Z"},
            {**ROWS[1], "time": "1970-01-01T01:00:00Z", "value": None, "is_nan": True},
        ],
        "warnings": ["careful"],
        "hints": ["deltavc log"],
    }


def test_jsonl_streams_rows_and_ends_with_a_summary() -> None:
    sink = Sink(format="jsonl")
    told(sink)
    lines = [json.loads(line) for line in sink.out.getvalue().splitlines()]
    assert [line["name"] for line in lines[:2]] == ["main", "a,b"]
    assert lines[2] == {
        "schema": "deltavc.probe/1",
        "ok": True,
        "summary": {"rows": 2},
        "warnings": ["careful"],
        "hints": ["deltavc log"],
    }


def test_people_get_words_on_stdout_and_the_rest_on_stderr() -> None:
    sink = Sink()
    told(sink)
    assert sink.out.getvalue().splitlines() == [
        "Branches:",
        "name  commit      time     value",
        "main  c7d2000000  2 h ago  0.500",
        "a,b   a41f111111  1 h ago    nan",
        "2 in all",
        "done",
    ]
    assert sink.err.getvalue() == "warning: careful\nhint: deltavc log\n"


def test_quiet_is_ids_and_nothing_else() -> None:
    sink = Sink(quiet=True, wants_hint=lambda _name: False)
    told(sink)
    assert sink.out.getvalue().split() == [row["commit"] for row in ROWS]
    assert sink.err.getvalue() == "warning: careful\n"


def test_delimited_formats_and_markdown() -> None:
    for name, first in (
        ("csv", "name,commit,time,value"),
        ("tsv", "name\tcommit\ttime\tvalue"),
        ("md", "| name | commit | time | value |"),
    ):
        sink = Sink(format=name)
        told(sink)
        assert sink.out.getvalue().splitlines()[0] == first
        assert "done" not in sink.out.getvalue()
        assert sink.err.getvalue() == "warning: careful\n"


@pytest.mark.parametrize("format_", ["json", "jsonl"])
def test_a_failure_is_a_document_on_stdout(format_: str) -> None:
    sink = Sink(format=format_)
    sink.warn("careful")
    sink.data({"half": "done"})
    sink.fail(FAILURE)
    lines = sink.out.getvalue().splitlines()
    document = json.loads(lines[-1])
    assert document == {
        "schema": "deltavc.probe/1",
        "ok": False,
        "error": {
            "slug": "ref-moved",
            "message": "a ref moved",
            "hint": "try again",
            "exit_code": 32,
            "context": {"ref": "main"},
        },
        "warnings": ["careful"],
        "hints": [],
    }
    assert len(lines) == (1 if format_ == "json" else 2)
    assert sink.err.getvalue() == ""


@pytest.mark.parametrize("format_", ["human", "csv", "tsv", "md"])
def test_a_failure_is_told_on_stderr(format_: str) -> None:
    sink = Sink(format=format_)
    sink.fail(FAILURE)
    assert sink.out.getvalue() == ""
    assert sink.err.getvalue() == "error: a ref moved\nhint: try again\n"


def test_data_words_changed_and_ids() -> None:
    asked = []

    def words() -> list[str]:
        asked.append(True)
        return ["one", "two\nthree"]

    sink = Sink(format="json")
    sink.data({"id": "x"}, human=words)
    sink.changed(False)
    sink.finish()
    assert json.loads(sink.out.getvalue())["data"] == {"id": "x", "changed": False}
    assert asked == [], "words are not made for programs"
    sink = Sink()
    sink.data({"id": "x"}, human=words)
    sink.finish()
    assert sink.out.getvalue() == "one\ntwo\nthree\n"
    sink = Sink(quiet=True)
    sink.data({"id": "x"}, human=words, ids=["x", "y\nz"])
    assert sink.out.getvalue() == "x\ny\\nz\n"
    with pytest.raises(InternalError):
        sink.data({})


def test_empty_tables_say_so_to_people_only() -> None:
    sink = Sink()
    sink.table(COLUMNS, [], empty="no branches yet")
    assert sink.out.getvalue() == "no branches yet\n"
    sink = Sink(format="json")
    sink.table(COLUMNS, [], empty="no branches yet")
    sink.finish()
    assert json.loads(sink.out.getvalue())["data"] == []


def test_hints_can_be_silenced_by_name() -> None:
    sink = Sink(wants_hint=lambda name: name != "noisy")
    sink.hint("noisy", "no")
    sink.hint("useful", "yes")
    assert sink.err.getvalue() == "hint: yes\n"


def test_notes_follow_verbosity() -> None:
    sink = Sink(verbose=1)
    sink.note("some")
    sink.note("more", level=2)
    assert sink.err.getvalue() == "some\n"


def test_nobody_is_asked_off_a_terminal() -> None:
    with pytest.raises(ApprovalMissing, match="confirmation is needed") as caught:
        Sink().confirm("Delete tag 'v1'?")
    assert caught.value.exit_code == 36
    assert "--yes" in caught.value.hint
    assert Sink(yes=True).confirm("Delete tag 'v1'?") is True


CONFIRM = """
import sys, types
from deltavc.cli.verb import verb
from deltavc.cli.verbs import VERBS, VerbRow
@verb("probe")
def command(ctx):
    '''Probe.'''
    return 0 if ctx.out.confirm("Really?") else 1
VERBS["probe"] = VerbRow("Help", "Probe")
sys.modules["deltavc.cli.commands.probe"] = types.SimpleNamespace(command=command)
"""


@pytest.mark.parametrize(
    ("typed", "options", "code"),
    [
        ("YES\n", (), 0),
        ("\n", (), 1),
        ("", ("--no-input",), 36),
        ("", ("-y",), 0),
    ],
)
def test_a_person_is_asked_on_a_terminal(
    typed: str, options: tuple[str, ...], code: int, on_terminal: Callable[..., Any]
) -> None:
    ran = on_terminal("probe", *options, typed=typed, code=CONFIRM)
    assert ran.code == code
    assert ("Really? [y/N]" in ran.out) == bool(typed)


def test_colour_on_a_terminal(
    on_terminal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b[2m" in on_terminal("config", "list").out
    assert "\x1b[1;31merror:\x1b[0m" in on_terminal("nope").out
    assert "\x1b" not in on_terminal("config", "list", "--color", "never").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in on_terminal("config", "list").out
    assert "\x1b[2m" in on_terminal("config", "list", "--color", "always").out
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in on_terminal("config", "list").out


def test_a_table_fits_a_narrow_terminal(on_terminal: Callable[..., Any]) -> None:
    ran = on_terminal("config", "list", "--config", f"user.name={'long ' * 30}", columns=40)
    lines = ran.out.splitlines()
    assert max(len(line.replace("\x1b[2m", "").replace("\x1b[0m", "")) for line in lines) <= 40
    assert any("…" in line for line in lines)


def test_the_pager_reads_what_the_screen_cannot_hold(
    on_terminal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGER", "sed 's/^/paged: /'")
    assert on_terminal("help", "glossary", rows=10).out.startswith("paged: # Glossary\n")
    assert "paged" not in on_terminal("help", "glossary", rows=100).out
    assert "paged" not in on_terminal("help", "glossary", "--no-pager", rows=10).out
    assert "paged" not in on_terminal("help", "glossary", "--json", rows=10).out
    monkeypatch.setenv("DELTAVC_PAGER", "sed 's/^/ours: /'")
    assert on_terminal("help", "glossary", rows=10).out.startswith("ours: ")
    monkeypatch.setenv("DELTAVC_PAGER", "head -n 1")
    ran = on_terminal("help", "glossary", rows=5)
    assert (ran.code, ran.out) == (0, "# Glossary\n")


def test_which_pager() -> None:
    assert pager_command(None, {"PAGER": "cat"}) is None
    assert pager_command(None, {"PAGER": ""}) is None
    assert pager_command(None, {"PAGER": "no-such-program-at-all"}) is None
    assert pager_command(None, {"PAGER": "sh 'unclosed"}) is None
    assert pager_command("head -n 2", {"PAGER": "cat"}) == ["head", "-n", "2"]
    assert pager_command("head", {"DELTAVC_PAGER": "tail"}) == ["tail"]


def test_a_long_answer_is_not_read_before_the_screen_is_full() -> None:
    written: list[str] = []
    page((f"line {n}" for n in range(5)), ["sh", "-c", "exit 9"], 50, written.append)
    assert written == [f"line {n}\n" for n in range(5)]
    endless = (f"line {n}" for n in range(10**9))
    page(endless, ["true"], 3, written.append)
    assert next(endless) != "line 0", "the rest was not needed: the pager had gone"


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_one_line_on_a_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = ProgressLine(stream, "line", width=60, clock=clock)
    progress("rebuilding\x1b", 0, 2048)
    assert stream.getvalue() == ""
    clock.now = 1.0
    progress("rebuilding\x1b", 1024, 2048)
    shown = "\r\x1b[Krebuilding\\x1b  50 %  1.00 KiB of 2.00 KiB  1.00 KiB/s"
    assert stream.getvalue() == shown[: len("\r\x1b[K") + 59]
    progress.clear()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_progress_without_a_terminal_is_rare_plain_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = ProgressLine(stream, "plain", clock=clock)
    for tenth in range(121):
        clock.now = tenth / 10
        progress("reading", tenth, 0)
    lines = stream.getvalue().splitlines()
    assert lines == ["reading  50 B  10 B/s", "reading  100 B  10 B/s"]
    silent = ProgressLine(stream, "none", clock=clock)
    clock.now = 99
    silent("reading", 1, 2)
    assert len(stream.getvalue().splitlines()) == 2


def test_raw_bytes_stay_what_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    import sys

    sink = Output("deltavc.probe/1", Manners(), stdout=sys.stdout, stderr=sys.stderr, stdin=None)
    sink.raw(b"\x00\xff\n")
    sink.finish()
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"\x00\xff\n"
