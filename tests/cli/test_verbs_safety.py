"""The verbs undo, redo, op, fsck and doctor, and the option --at-op, end to end."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def head(run: Run) -> str:
    return str(run("show", "HEAD", "-q").out.strip())


class TestUndo:
    def test_again_goes_further_back_and_redo_comes_forward(self, repository: Run) -> None:
        second, first = repository("log", "-q").out.split()
        plan = repository("undo", "-n")
        assert plan.out.startswith("Would take back ")
        assert head(repository) == second
        ran = repository("undo")
        lines = ran.out.splitlines()
        assert re.fullmatch(r"Took back [0-9a-f]{8}: commit [0-9a-f]{10}: second", lines[0])
        assert lines[1] == f"  main  {second[:10]} -> {first[:10]}"
        assert ran.err == "hint: deltavc redo brings it back\n"
        assert repository("undo").out.splitlines()[1] == f"  main  {first[:10]} -> nothing"
        assert repository("redo").code == 0
        assert head(repository) == first
        assert repository("redo", "--json").document["data"]["changed"] is True
        assert head(repository) == second
        ran = repository("redo")
        assert (ran.code, "deltavc op log" in ran.err) == (34, True)

    def test_to_the_very_beginning(self, repository: Run) -> None:
        while (ran := repository("undo")).code == 0:
            pass
        assert ran.code == 34
        assert repository("log").out == "No revisions.\n"
        while repository("redo").code == 0:
            pass
        assert len(repository("log", "-q").out.split()) == 2

    def test_a_checkout_is_written_back(self, repository: Run) -> None:
        repository("checkout", "main")
        before = Path("model/model.safetensors").read_bytes()
        repository("checkout", "HEAD~1")
        assert Path("model/model.safetensors").read_bytes() != before
        ran = repository("undo")
        assert "  workspace written" in ran.out
        assert Path("model/model.safetensors").read_bytes() == before
        repository("redo")
        Path("model/mine.txt").write_text("mine")
        ran = repository("undo")
        assert "warning: the workspace holds unrecorded changes" in ran.err
        assert Path("model/mine.txt").read_text() == "mine"


class TestOp:
    def test_log(self, repository: Run) -> None:
        rows = repository("op", "log").out.splitlines()
        assert re.fullmatch(
            r"@ [0-9a-f]{8}  just now  Ada  commit [0-9a-f]{10}: second +"
            r"main [0-9a-f]{10} -> [0-9a-f]{10}",
            rows[0],
        )
        assert rows[-1].endswith("cannot be undone")
        repository("undo")
        assert repository("op", "log").out.splitlines()[1].endswith("taken back")
        data = repository("op", "log", "-l", "2", "--json").document["data"]
        assert [row["command"] for row in data] == ["undo", "commit"]
        assert len(repository("op", "log", "-q", "-l", "3").out.split()) == 3
        table = repository("op", "log", "--format", "csv").out.splitlines()
        assert table[0].split(",")[0] == "operation"
        assert len(table) == 6

    def test_show_and_restore(self, repository: Run) -> None:
        newest, before = repository("op", "log", "-q").out.split()[:2]
        assert repository("op", "show", newest[:8]).out.startswith(f"operation {newest}\n")
        ran = repository("op", "restore", before[:8], "-n")
        assert ran.out.startswith(f"Would go back to {before[:8]}: commit ")
        assert repository("op", "restore", before[:8]).code == 0
        assert len(repository("log", "-q").out.split()) == 1
        ran = repository("op", "restore", before, "--json")
        assert (ran.code, ran.document["data"]["changed"]) == (0, False)
        repository("undo")
        assert len(repository("log", "-q").out.split()) == 2
        for words in (("show", "0" * 8), ("restore", "0" * 8), ("show", "ab")):
            assert repository("op", *words).code == 20
        assert repository("op").code == 2

    def test_at_an_earlier_operation(self, repository: Run) -> None:
        then = repository("op", "log", "-q").out.split()[1]
        assert len(repository("log", "-q", "--at-op", then[:8]).out.split()) == 1
        assert "first" in repository("branch", "--at-op", f"op:{then}").out
        assert "accuracy 0.853" in repository("status", "--at-op", then).out
        for words in (
            "undo",
            "commit full -m x",
            "branch x",
            "tag x",
            "switch main",
            "fsck --repair",
        ):
            ran = repository(*words.split(), "--at-op", then)
            assert (ran.code, "--at-op" in ran.err) == (2, True), words
        assert repository("log", "--at-op", "00000000").code == 20


class TestFsck:
    def test_whole(self, repository: Run) -> None:
        ran = repository("fsck")
        assert ran.code == 0
        assert re.fullmatch(r"\d+ objects, 4 events: all whole, \d\.\d s\n", ran.out)
        assert "not read" in repository("fsck", "--quick").out
        assert repository("fsck", "--only", "HEAD", "--json").document["data"]["ok"] is True

    def test_damage_is_found_named_and_moved_aside(self, repository: Run) -> None:
        pack = max(
            Path(".deltavc/objects/packs").glob("*"), key=lambda path: path.stat().st_mtime_ns
        )
        data = bytearray(pack.read_bytes())
        middle = len(data) // 3
        data[middle] ^= 0xFF
        os.chmod(pack, 0o644)
        pack.write_bytes(data)
        ran = repository("fsck")
        assert ran.code == 1
        assert "damaged" in ran.out
        assert re.search(r"needed by [0-9a-f]{10}", ran.out)
        assert ran.err == "hint: move damaged files aside: deltavc fsck --repair\n"
        assert repository("fsck", "--repair").code == 1
        assert list(Path(".deltavc/quarantine").iterdir())
        assert repository("fsck", "--json").document["data"]["ok"] is False


class TestDoctor:
    def test_without_a_repository(self, deltavc: Run) -> None:
        ran = deltavc("doctor")
        assert ran.code == 0
        assert ran.out.startswith("ok      deltavc ")
        assert "only the installation was looked at" in ran.out
        assert deltavc("doctor", "--fix").code == 10

    def test_a_broken_catalog_is_rebuilt(self, repository: Run) -> None:
        rows = repository("log", "--json").document["data"]
        for path in Path(".deltavc").glob("catalog.db*"):
            path.unlink()
        Path(".deltavc/catalog.db").write_bytes(b"not a database, but of some length" * 100)
        ran = repository("doctor")
        assert (ran.code, "problem" in ran.out) == (1, True)
        assert "deltavc doctor --fix" in ran.err
        ran = repository("doctor", "--fix")
        assert (ran.code, "fixed   catalog rebuilt" in ran.out) == (0, True)
        assert repository("log", "--json").document["data"] == rows
        assert (
            repository("doctor", "--rebuild-catalog", "--json").document["data"]["changed"] is True
        )
        assert repository("log", "--json").document["data"] == rows

    def test_broken_settings_are_a_finding(self, repository: Run) -> None:
        Path(".deltavc/config.toml").write_text("= broken")
        assert repository("log").code == 2
        ran = repository("doctor", "--json")
        assert ran.code == 1
        findings = ran.document["data"]["findings"]
        assert [f["code"] for f in findings if f["level"] == "problem"] == ["settings"]

    def test_the_report_hides_what_is_personal(self, repository: Run) -> None:
        os.rename("base", "secret-name")
        assert repository("doctor", "--report", "report.txt").code == 0
        text = Path("report.txt").read_text()
        assert "REPOSITORY/base" in text
        assert str(Path.cwd()) not in text
        assert repository("doctor", "--report", "report.txt").code == 2

    def test_redaction(self) -> None:
        from deltavc.cli.commands.doctor import redact

        text = "at /home/ada/x from https://ada:key@host/y by ada@example.org"
        assert redact(text, {"/home/ada": "HOME"}) == "at HOME/x from https://***@host/y by ***"


def test_completion_reads_the_catalog_of_today(repository: Run) -> None:
    """The catalog's table of refs is what completion reads."""
    repository("tag", "v1.0")
    with sqlite3.connect(Path(".deltavc/catalog.db").absolute().as_uri(), uri=True) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM refs")}
    connection.close()
    assert {"branch:main", "tag:v1.0", "base:tiny"} <= names
