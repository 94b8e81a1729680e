"""A model card: what a version is, from what is recorded of it.

Markdown with the front matter that model hubs read. Nothing in it depends on when
or where it is written, so equal revisions give equal cards. Texts of other people
(messages, labels) are quoted, never part of the page's own structure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deltavc.ids import CommitId, ObjectId, short
from deltavc.repo.history import show

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import CommitRow, MeasurementRow

__all__ = ["CARD_FILE", "model_card"]

CARD_FILE = "README.md"
LINEAGE = 20  # commits of the history that are listed
APPROXIMATED = 20  # parameters whose error is listed
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def model_card(
    repo: Repository, commit: CommitId, *, form: str = "full", base_name: str | None = None
) -> bytes:
    """Returns the card of a revision.

    Args:
        repo: The repository.
        commit: The revision.
        form: What it goes along with: ``full``, ``peft`` or ``vllm``.
        base_name: What others call the base; default: the name that it was added from.

    Returns:
        Markdown, UTF-8.
    """
    row = show(repo, commit).commit
    assert row is not None  # a commit's id shows a commit
    sections = [
        _front_matter(repo, row, form, base_name),
        [f"# {_text(_subject(row.message))}"],
        _quoted(row.message),
        _facts(repo, row),
        _measured(row.measurements),
        _approximated(row),
        _lineage(repo, row),
        [
            "To get it again, bit for bit:" if row.exact else "To get it again:",
            "",
            f"    deltavc checkout {row.commit}"
            + (f" --as {form}" if form != "full" else "")
            + " --to DIR",
        ],
    ]
    return ("\n\n".join("\n".join(lines) for lines in sections if lines) + "\n").encode()


def _front_matter(repo: Repository, row: CommitRow, form: str, base_name: str | None) -> list[str]:
    name = base_name or _hub_name(_source(repo, row))
    lines = ["---"]
    if name:
        lines.append(f"base_model: {json.dumps(name)}")
    lines.append(f"library_name: {'transformers' if form == 'full' else 'peft'}")
    lines += ["tags:", "- deltavc", *(["- lora"] if form == "vllm" else [])]
    return [*lines, "---"]


def _source(repo: Repository, row: CommitRow) -> str:
    for source in repo.base_names(repo.state()).values():
        if source.base == row.base and source.source:
            return source.source
    return ""


def _hub_name(source: str) -> str:
    """Returns ``org/name`` of a source such as ``hf:org/name@revision``."""
    return source.removeprefix("hf:").partition("@")[0] if source.startswith("hf:") else ""


def _facts(repo: Repository, row: CommitRow) -> list[str]:
    source = _source(repo, row)
    facts = [
        ("revision", f"`{row.commit}`"),
        ("base", f"{_text(row.base_name or '')} `{row.base}`"),
        ("base comes from", _text(source)),
        ("recorded by", _text(row.author)),
        ("recorded at", _time(row.time)),
        ("training run", _text(row.run or "")),
        ("changed parameters", _kinds(row)),
        ("exact", "yes, bit for bit" if row.exact else "no, approximated on request"),
        ("branches", _text(", ".join(row.branches))),
        ("tags", _text(", ".join(row.tags))),
        *((f"label {_text(key)}", _text(value)) for key, value in sorted(row.labels.items())),
        *(("training data", _data(item)) for item in row.data),
    ]
    return ["## What it is", "", *_table(("", ""), [fact for fact in facts if fact[1]])]


def _kinds(row: CommitRow) -> str:
    kinds = ", ".join(f"{count} {_text(kind)}" for kind, count in sorted(row.kinds.items()))
    return f"{row.parameters}" + (f" ({kinds})" if kinds else "")


def _data(item: dict[str, object]) -> str:
    return f"{_text(str(item.get('name', '')))} `{item.get('sha256', '')}`"


def _measured(rows: Sequence[MeasurementRow]) -> list[str]:
    if not rows:
        return []
    values = (
        (
            _text(row.kpi),
            "NaN" if row.value is None else format(row.value, ".6g"),
            str(row.samples or ""),
            _text(row.dataset or ""),
        )
        for row in rows
    )
    return ["## Measured", "", *_table(("KPI", "value", "samples", "data set"), values)]


def _approximated(row: CommitRow) -> list[str]:
    if not row.errors:
        return []
    worst = sorted(row.errors.items(), key=lambda item: (-item[1], item[0]))
    shown = [(f"`{_plain(name)}`", format(error, ".3g")) for name, error in worst[:APPROXIMATED]]
    more = len(worst) - len(shown)
    rest = ["", f"and {more} more parameters with smaller errors"] if more else []
    return ["## Approximated", "", *_table(("parameter", "relative error"), shown), *rest]


def _lineage(repo: Repository, row: CommitRow) -> list[str]:
    lines = list(_ancestors(repo, CommitId(ObjectId(row.commit))))
    return ["## Lineage", "", *lines] if len(lines) > 1 else []


def _ancestors(repo: Repository, commit: CommitId) -> Iterator[str]:
    """Yields a line for each commit back along first parents."""
    for _ in range(LINEAGE):
        record = repo.commit(commit)
        merged = f", merges {', '.join(f'`{short(p)}`' for p in record.parents[1:])}"
        yield (
            f"- `{short(commit)}` {_time(record.time)[:10]} {_text(_subject(record.message))}"
            + (merged if record.parents[1:] else "")
        )
        if not record.parents:
            return
        commit = record.parents[0]
    yield "- …"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _quoted(message: str) -> list[str]:
    """Returns a message in a code block, whose fence is longer than any that is in it."""
    if message.strip() == _subject(message):
        return []
    runs = re.findall(r"`+", message)
    fence = "`" * max(3, 1 + max(map(len, runs), default=0))
    return [f"{fence}text", *map(_printable, message.strip().splitlines()), fence]


def _subject(message: str) -> str:
    return message.strip().partition("\n")[0].strip()


def _text(value: str) -> str:
    """Returns a text in one line, without meaning in Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", _plain(value)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _plain(value: str) -> str:
    return _printable(value).replace("`", "'")


def _printable(value: str) -> str:
    return "".join(c if c.isprintable() else " " for c in value)


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
