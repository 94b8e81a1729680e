"""Tables in every form."""

from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from deltavc.cli.tables import Column, delimited, human_lines, markdown_lines
from deltavc.cli.terminal import escape, render, visible_width

COLUMNS = [
    Column("commit", "id"),
    Column("time", "time"),
    Column("stored", "size"),
    Column("accuracy", "number"),
    Column("message", shrink=True),
]
ROW = {
    "commit": "c7d20e8f13" + "0" * 54,
    "time": 0,
    "stored": 2048,
    "accuracy": 0.8794,
    "message": "epoch 4",
}
TEXTS = st.text(st.characters(), max_size=12)


def human(rows: list[dict[str, object]], width: int | None = None) -> list[str]:
    lines = human_lines(COLUMNS, rows, now=7_200_000, width=width)
    return [render(line, color=False) for line in lines]


def test_people_see_short_ids_relative_times_and_sizes() -> None:
    assert human([ROW, {**ROW, "accuracy": None, "stored": 0}]) == [
        "commit      time       stored  accuracy  message",
        "c7d20e8f13  2 h ago  2.00 KiB     0.879  epoch 4",
        "c7d20e8f13  2 h ago       0 B         -  epoch 4",
    ]


def test_columns_are_aligned() -> None:
    lines = human([ROW, {**ROW, "stored": 24, "message": "模型"}, {**ROW, "accuracy": None}])
    assert [line.index("2 h ago") for line in lines[1:]] == [12, 12, 12]
    assert [line[: line.index("B") + 1][-9:].strip() for line in lines[1:]] == [
        "2.00 KiB",
        "24 B",
        "2.00 KiB",
    ]
    starts = {
        line.index(text) for line, text in zip(lines[1:], ["epoch", "模型", "epoch"], strict=True)
    }
    assert len(starts) == 1


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(60, 120))
def test_a_table_fits_the_terminal_and_a_row_is_a_line(messages: list[str], width: int) -> None:
    lines = human([{**ROW, "message": text * 20} for text in messages], width=width)
    assert len(lines) == len(messages) + 1
    assert all(visible_width(line) <= width for line in lines)
    assert all("\n" not in line for line in lines)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_csv_reads_back(messages: list[str]) -> None:
    rows = [{**ROW, "message": text} for text in messages]
    text = "\n".join(delimited(COLUMNS, rows, ",")) + "\n"
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["message"] for row in read] == [escape(message) for message in messages]
    assert all(row["commit"] == ROW["commit"] for row in read)
    assert all((row["time"], row["stored"]) == ("1970-01-01T00:00:00Z", "2048") for row in read)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_tsv_line_is_a_row(messages: list[str]) -> None:
    lines = list(delimited(COLUMNS, [{**ROW, "message": text} for text in messages], "\t"))
    assert lines[0].split("\t") == [column.key for column in COLUMNS]
    assert [line.split("\t")[-1] for line in lines[1:]] == [
        escape(message, one_line=True) for message in messages
    ]


def test_markdown_is_worded_for_people_and_keeps_its_cells() -> None:
    rows = [{**ROW, "message": "a|b\nc <script>"}]
    assert list(markdown_lines(COLUMNS, rows, now=7_200_000)) == [
        "| commit | time | stored | accuracy | message |",
        "| --- | --- | ---: | ---: | --- |",
        "| c7d20e8f13 | 2 h ago | 2.00 KiB | 0.879 | a\\|b c &lt;script> |",
    ]
