"""Help, topics, completion, shared option types, the generated reference."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from deltavc.cli import options, reference
from deltavc.cli.completion import SHELLS, read_names
from deltavc.cli.topics import TOPICS
from deltavc.cli.verbs import VERBS
from deltavc.errors import DeltavcError

Run = Callable[..., Any]
DOCS = Path(__file__).parents[2] / "docs" / "reference"


def test_every_topic_and_verb_has_help(deltavc: Run) -> None:
    listing = deltavc("help").out
    for topic in TOPICS:
        assert topic in listing
        text = deltavc("help", topic)
        assert text.out.startswith("# ")
        assert max(map(len, text.out.splitlines())) <= 120
        assert deltavc("help", topic, "--json").document["data"]["text"] + "\n" == text.out
    for name in VERBS:
        assert deltavc("help", name).out == deltavc(name, "-h").out
    assert deltavc("help", "config", "set").out == deltavc("config", "set", "-h").out
    ran = deltavc("help", "revision")
    assert ran.code == 2
    assert ran.err.endswith("hint: did you mean: deltavc help revisions\n")
    assert deltavc("help", "config", "nope").code == 2


def test_help_has_its_parts_in_order(deltavc: Run) -> None:
    text = deltavc("config", "get", "-h").out
    parts = "Print the value|Usage: deltavc config get KEY|Arguments:|Examples:|Exit codes:|More:"
    places = [text.index(part) for part in parts.split("|")]
    assert places == sorted(places)


def test_the_exit_code_topic_names_every_error(deltavc: Run) -> None:
    text = deltavc("help", "exit-codes").out
    for kind in reference.error_classes(DeltavcError):
        if not kind.slug.endswith("-error"):
            assert any(
                line.split()[:2] == [str(kind.exit_code), kind.slug] for line in text.splitlines()
            )
    for code in (0, 1, 130, 141):
        assert f"  {code:>3}  " in text


def test_slugs_are_unique_and_every_error_has_a_hint() -> None:
    kinds = list(reference.error_classes(DeltavcError))
    slugs = [kind.slug for kind in kinds]
    assert len(slugs) == len(set(slugs))
    for kind in kinds:
        assert kind.default_hint, kind
        assert kind.slug.replace("-", "").isalpha(), kind


def test_the_reference_is_what_the_code_says(tmp_path: Path, capsys: Any) -> None:
    for name, content in reference.pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == content, "make it anew"
    assert reference.main(["--check", str(DOCS)]) == 0
    assert reference.main([str(tmp_path)]) == 0
    assert reference.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "cli" / "version.md").write_text("edited")
    (tmp_path / "cli" / "gone.md").write_text("left over")
    capsys.readouterr()
    assert reference.main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("out of date") == 2
    reference.main([str(tmp_path)])
    assert reference.main(["--check", str(tmp_path)]) == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(shell: str, deltavc: Run) -> None:
    ran = deltavc("completion", shell)
    assert "_DELTAVC_COMPLETE" in ran.out
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=ran.out, text=True, check=True, timeout=30)


def complete(run: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    monkeypatch.setenv("_DELTAVC_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    ran = run()
    assert ran.stderr == ""
    return [line.partition(",")[2] for line in ran.stdout.splitlines() if line]


def test_completion_of_verbs_options_and_choices(
    deltavc_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"config", "completion"} <= set(complete(deltavc_process, monkeypatch, "deltavc", "co"))
    assert complete(deltavc_process, monkeypatch, "deltavc", "config", "l") == ["list"]
    offered = complete(deltavc_process, monkeypatch, "deltavc", "config", "list", "--o")
    assert offered == ["--origin"]
    assert "--json" in complete(deltavc_process, monkeypatch, "deltavc", "version", "--")
    assert complete(deltavc_process, monkeypatch, "deltavc", "completion", "z") == ["zsh"]


def test_names_for_completion_come_from_the_catalog(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    assert read_names(path, ["branch"]) == []
    assert not path.exists()
    path.write_bytes(b"not a database" * 100)
    assert read_names(path, ["branch"]) == []
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE refs (name TEXT PRIMARY KEY, value TEXT)")
        connection.executemany(
            "INSERT INTO refs VALUES (?, 'x')",
            [("HEAD",), ("branch:main",), ("branch:dev",), ("tag:v1",), ("base:tiny",)],
        )
    connection.close()
    assert read_names(path, ["branch", "tag"]) == [
        ("dev", "branch"),
        ("main", "branch"),
        ("v1", "tag"),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-10-01", 1_790_812_800),
        ("2026-10-01T12:00Z", 1_790_856_000),
        ("2026-10-01 14:00+02:00", 1_790_856_000),
        ("now", 1_800_000_000),
        ("14 days ago", 1_800_000_000 - 14 * 86_400),
        ("3 h ago", 1_800_000_000 - 3 * 3600),
        ("1 week", 1_800_000_000 - 7 * 86_400),
    ],
)
def test_times(text: str, seconds: int) -> None:
    assert options.TIME.convert(text, None, None) == seconds * 1000


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "-1 day", "99999999999 days ago"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time"):
        options.TIME.convert(text, None, None)


def test_pairs_and_names() -> None:
    assert options.KEY_VALUE.convert("a=b=c", None, None) == ("a", "b=c")
    assert options.KEY_VALUE.convert("a=", None, None) == ("a", "")
    for text in ("a", "=b", ""):
        with pytest.raises(click.BadParameter, match="KEY=VALUE"):
            options.KEY_VALUE.convert(text, None, None)
    assert options.REVISION.convert("main~1", None, None) == "main~1"
    with pytest.raises(click.BadParameter, match="cannot be empty"):
        options.REVISION.convert(" ", None, None)
