"""The verbs init, base, commit, status and diff, end to end."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

Run = Callable[..., Any]


def ids(text: str) -> list[str]:
    return re.findall(r"\b[0-9a-f]{10}\b", text)


class TestInit:
    def test_says_where_and_what_next(self, deltavc: Run) -> None:
        ran = deltavc("init", "--workspace", "current", "--branch", "trunk")
        assert ran.code == 0
        assert ran.out == (
            "Created a repository in .deltavc, branch trunk; checkouts go to current/.\n"
        )
        assert ran.err == "hint: register the frozen model next: deltavc base add NAME PATH\n"

    def test_again_changes_nothing(self, deltavc: Run) -> None:
        assert deltavc("init", "--json").document["data"]["changed"] is True
        again = deltavc("init", "--json")
        assert (again.code, again.document["data"]["changed"]) == (0, False)
        assert len(deltavc("op", "log", "-q").out.split()) == 1

    def test_another_workspace_is_refused(self, deltavc: Run) -> None:
        deltavc("init")
        ran = deltavc("init", "--workspace", "other", "--json")
        assert (ran.code, ran.document["error"]["slug"]) == (13, "repository-exists")

    @pytest.mark.usefixtures("models")
    def test_the_hint_fits_the_folder(self, deltavc: Run) -> None:
        hint = deltavc("init", "some where").err
        command = hint.partition("next: ")[2].strip()
        assert command == "deltavc -C 'some where' base add NAME PATH"
        assert deltavc("-C", "some where", "base", "add", "tiny", "../base").code == 0

    def test_dry_run(self, deltavc: Run) -> None:
        ran = deltavc("init", "-n", "--json")
        assert (ran.code, ran.document["data"]["would_change"]) == (0, True)
        assert ran.document["data"]["changed"] is False
        assert not Path(".deltavc").exists()
        assert deltavc("init", "-q").out == f"{Path('.deltavc').absolute()}\n"

    @pytest.mark.parametrize("name", ["a b", "HEAD", "../x", ""])
    def test_names_of_branches_are_checked(self, deltavc: Run, name: str) -> None:
        assert deltavc("init", "--branch", name).code == 23


@pytest.mark.usefixtures("models")
class TestBase:
    def test_add_list_show(self, deltavc: Run) -> None:
        deltavc("init")
        ran = deltavc("base", "add", "tiny", "base", "--source", "hf:org/tiny@1")
        assert ran.code == 0
        first, second = ran.out.splitlines()
        assert re.fullmatch(r"Fingerprinted 5 tensors, 1.31 KiB, in \d\.\d s\.", first)
        assert second.endswith("reference to base (nothing copied)")
        [row] = deltavc("base", "list", "--json").document["data"]
        assert (row["name"], row["tensors"], row["source"]) == ("tiny", 5, "hf:org/tiny@1")
        shown = deltavc("base", "show", "tiny", "--tensors")
        assert "layers.0.q.weight  (8, 8) F32" in shown.out
        assert deltavc("base", "show", "tiny", "-q").out.strip() == row["fingerprint"]

    def test_twice_is_no_error_and_another_is(self, deltavc: Run) -> None:
        deltavc("init")
        assert deltavc("base", "add", "tiny", "base", "-n").code == 0
        assert deltavc("base", "list").out == "No base is registered.\n"
        deltavc("base", "add", "tiny", "base")
        again = deltavc("base", "add", "tiny", "base", "--json")
        assert (again.code, again.document["data"]["changed"]) == (0, False)
        ran = deltavc("base", "add", "tiny", "other")
        assert (ran.code, ran.out) == (22, "")
        assert "hint: " in ran.err

    def test_verify_names_what_differs(self, repository: Run) -> None:
        ran = repository("base", "verify", "tiny")
        assert (ran.code, "5 tensors match" in ran.out) == (0, True)
        ran = repository("base", "verify", "tiny", "--path", "other")
        assert ran.code == 1
        assert "1 of 5 tensors differ" in ran.out
        assert "embed.weight   other values" in ran.out
        assert "deltavc base add NAME other" in ran.err
        quick = repository("base", "verify", "--quick")
        assert (quick.code, "quick" in quick.out) == (0, True)

    def test_verify_without_the_files(self, repository: Run) -> None:
        shutil.move("base", "elsewhere")
        ran = repository("base", "verify")
        assert ran.code == 26
        assert "hint: say where it is: deltavc base add tiny PATH" in ran.err
        assert repository("base", "verify", "--path", "elsewhere").code == 0

    def test_remove_is_refused_while_needed(self, repository: Run) -> None:
        ran = repository("base", "remove", "tiny")
        assert (ran.code, "needed by 2 commits" in ran.err) == (35, True)
        repository("base", "add", "spare", "other")
        assert repository("base", "remove", "spare", "-n").out.startswith("Would remove")
        assert repository("base", "remove", "spare").code == 0
        assert repository("base", "show", "spare").code == 20


@pytest.mark.usefixtures("models")
class TestCommit:
    def test_says_what_was_recorded(self, deltavc: Run) -> None:
        deltavc("init")
        deltavc("base", "add", "tiny", "base")
        ran = deltavc("commit", "adapter-1", "-m", "first\n\nmore", "--kpi", "accuracy=0.853")
        assert ran.code == 0
        lines = ran.out.splitlines()
        assert re.fullmatch(r"\[main [0-9a-f]{10}\] first", lines[0])
        assert lines[1] == ("  PEFT adapter on base tiny: 4 parameters, 4 low-rank (rank 2)")
        assert re.fullmatch(r"  \S+ KiB read, \S+ KiB stored, exact", lines[2])
        assert lines[3] == "  accuracy 0.853 (no sample count given)"

    def test_document_and_id(self, repository: Run) -> None:
        document = repository("commit", "full", "-m", "third", "--json").document
        assert document["schema"] == "deltavc.commit/1"
        data = document["data"]
        assert (data["changed"], data["source"], data["exact"]) == (True, "checkpoint", True)
        assert repository("log", "-l", "1", "-q").out.strip() == data["commit"]
        assert repository("commit", "adapter-1", "-m", "x", "-q").out.strip() == (
            repository("log", "-l", "1", "-q").out.strip()
        )

    def test_the_same_again_changes_nothing(self, repository: Run) -> None:
        before = repository("op", "log", "-q").out
        ran = repository("commit", "adapter-2", "-m", "again", "--json")
        assert (ran.code, ran.document["data"]["changed"]) == (0, False)
        ran = repository("commit", "adapter-2", "-m", "again", "--fail-if-unchanged")
        assert (ran.code, ran.out.startswith("Nothing to record")) == (1, True)
        assert repository("op", "log", "-q").out == before

    def test_dry_run_prints_the_plan(self, repository: Run) -> None:
        before = repository("op", "log", "-q").out
        ran = repository("commit", "full", "-n")
        assert ran.code == 0
        head, *table = ran.out.splitlines()
        assert head.startswith("would commit a full checkpoint against tiny ")
        assert head.endswith(", exact")
        assert table[0].split("  ")[1] == "kind"
        assert table[-1].endswith("of 1.31 KiB")
        assert any(line.split()[:2] == ["unchanged", "4"] for line in table)
        assert repository("op", "log", "-q").out == before
        assert repository("commit", "adapter-2", "-n").out == (
            "would change nothing: HEAD holds this already\n"
        )

    def test_needs_a_message(self, repository: Run, tmp_path: Path) -> None:
        ran = repository("commit", "full")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err == ('error: a commit needs a message\nhint: deltavc commit PATH -m "why"\n')
        assert repository("commit", "full", "-m", "  ").code == 2
        (tmp_path / "text").write_text("from a file\n\nwith a body\n")
        assert repository("commit", "full", "-F", tmp_path / "text").code == 0
        assert repository("log", "--json").document["data"][0]["message"] == (
            "from a file\n\nwith a body"
        )
        assert repository("commit", "full", "-F", tmp_path / "text", "-m", "x").code == 2
        assert repository("commit", "full", "-F", tmp_path / "none").code == 2

    @pytest.mark.slow
    def test_the_editor_gives_the_message(
        self, repository: Run, on_terminal: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        editor = tmp_path / "editor"
        editor.write_text("#!/bin/sh\nprintf '# no\\nfrom the editor\\n' > \"$1\"\n")
        editor.chmod(0o755)
        monkeypatch.setenv("EDITOR", str(editor))
        assert on_terminal("commit", "full").code == 0
        assert repository("log", "--json").document["data"][0]["message"] == "from the editor"
        editor.write_text("#!/bin/sh\n")
        assert on_terminal("commit", "adapter-1").code == 2

    def test_measurements(self, repository: Run) -> None:
        ran = repository("commit", "full", "-m", "x", "--kpi", "loss=nan", "--kpi", "f1=1e-3")
        assert ran.code == 0
        assert "loss NaN  f1 0.001" in ran.out or "f1 0.001  loss NaN" in ran.out
        rows = repository("show", "HEAD", "--json").document["data"]["commit"]["measurements"]
        found = {row["kpi"]: (row["value"], row["is_nan"]) for row in rows}
        assert found == {"loss": (None, True), "f1": (0.001, False)}
        for wrong in ("f1", "f1=high", "f1=inf", "=3"):
            assert repository("commit", "adapter-1", "-m", "x", "--kpi", wrong).code == 2

    def test_approximate_is_said_everywhere(self, repository: Run) -> None:
        ran = repository("commit", "adapter-1", "-m", "small", "--max-rank", "1")
        assert "approximate in 4 parameters: largest relative error 0." in ran.out
        assert "approximate" in repository("log", "-l", "1").out
        assert "precision approximate in 4" in repository("show", "HEAD").out
        picked = repository("branch", "side", "HEAD~1").code or repository("switch", "side").code
        assert picked == 0
        assert "approximate" in repository("cherry-pick", "main").out

    def test_refusals(self, repository: Run) -> None:
        assert repository("commit", "nowhere", "-m", "x").code == 45
        assert repository("commit", "adapter-1", "-m", "x", "--base", "none").code == 20
        assert repository("commit", "full", "-m", "x", "--stack").code == 2
        assert repository("commit", "-m", "x").code == 2  # no workspace yet
        Path("p.bin").write_bytes(b"\x80\x04.")
        assert repository("commit", "p.bin", "-m", "x").code in (45, 46)


@pytest.mark.usefixtures("models")
class TestStatus:
    def test_before_anything(self, deltavc: Run) -> None:
        assert deltavc("status").code == 10
        deltavc("init")
        ran = deltavc("status")
        assert ran.out.startswith("On branch main, no revision yet\n")
        assert "deltavc base add NAME PATH" in ran.err
        deltavc("base", "add", "tiny", "base")
        assert "deltavc commit PATH" in deltavc("status").err

    def test_the_ways_of_a_workspace(self, repository: Run) -> None:
        ran = repository("status")
        assert "Workspace model  not written yet" in ran.out
        assert "KPIs of HEAD" not in ran.out
        assert "deltavc checkout main" in ran.err
        repository("checkout", "main")
        ran = repository("status", "--no-hash")
        assert (ran.out.splitlines()[-1], ran.err) == (
            "Workspace model/  holds HEAD, nothing changed",
            "",
        )
        repository("switch", "--detach", "HEAD~1")
        ran = repository("status", "--no-hash")
        assert ran.out.startswith("HEAD detached at ")
        assert "as it was written, HEAD is elsewhere" in ran.out
        assert "KPIs of HEAD: accuracy 0.853" in ran.out
        repository("switch", "main")
        shutil.copy("full/model.safetensors", "model/model.safetensors")
        assert "were not compared" in repository("status", "--no-hash").out
        ran = repository("status")
        assert "  changed  4 parameters, largest relative change " in ran.out
        for hint in ("deltavc commit", "deltavc diff", "deltavc checkout main --force"):
            assert hint in ran.err
        data = repository("status", "--json").document["data"]
        assert (data["clean"], data["hashed"], len(data["changed"])) == (False, True, 4)

    def test_the_hints_work(self, repository: Run) -> None:
        repository("checkout", "main")
        shutil.copy("full/model.safetensors", "model/model.safetensors")
        assert repository("checkout", "main").code == 31
        assert repository("diff", "--exit-code").code == 1
        assert repository("checkout", "main", "--force").code == 0
        assert repository("status").out.endswith("holds HEAD, nothing changed\n")
        shutil.copy("full/model.safetensors", "model/model.safetensors")
        assert repository("commit", "-m", "by hand").code == 0
        want, got = (load_file(f"{name}/model.safetensors") for name in ("full", "model"))
        assert {k: v.tobytes() for k, v in want.items()} == {k: v.tobytes() for k, v in got.items()}
        assert repository("diff", "--exit-code").code == 0


class TestDiff:
    def test_groups_for_people(self, repository: Run) -> None:
        ran = repository("diff", "HEAD~1", "HEAD")
        head, *table = ran.out.splitlines()
        assert head.endswith("base tiny, 4 parameters differ")
        assert [line.split()[:2] for line in table[1:]] == [["layers.0", "2"], ["layers.1", "2"]]

    def test_one_line_a_parameter(self, repository: Run) -> None:
        repository("commit", "adapter-3", "-m", "query only")
        ran = repository("diff", "HEAD~1", "HEAD", "--params")
        rows = {line.split()[0]: line for line in ran.out.splitlines()[2:]}
        assert set(rows) == {f"layers.{n}.{m}.weight" for n in (0, 1) for m in "qv"}
        assert "removed" in rows["layers.1.v.weight"]
        assert rows["layers.1.v.weight"].endswith("2 -> 0")
        assert rows["layers.0.q.weight"].endswith("2 -> 3")
        ran = repository("diff", "HEAD~1", "--params", "-p", "*.0.q.*")
        assert len(ran.out.splitlines()) == 3

    def test_exit_code_is_of_what_was_asked_for(self, repository: Run) -> None:
        assert repository("diff", "HEAD", "main", "--exit-code").code == 0
        assert repository("diff", "HEAD~1", "--exit-code").code == 1
        assert repository("diff", "HEAD~1").code == 0
        assert repository("diff", "HEAD~1", "-p", "embed*", "--exit-code").code == 0

    def test_formats(self, repository: Run) -> None:
        data = repository("diff", "HEAD~1", "--json", "--with-kpis").document["data"]
        assert (data["same"], len(data["rows"])) == (False, 4)
        assert data["measurements"] == [{"kpi": "accuracy", "a": 0.853, "b": None}]
        lines = repository("diff", "HEAD~1", "--format", "csv").out.splitlines()
        assert lines[0].startswith("parameter,norm_a,norm_b,norm_diff,relative,cosine")
        assert len(lines) == 5
        text = repository("diff", "HEAD~1", "--with-kpis", "--format", "md").out
        assert "| accuracy | 0.853 | - | - |" in text
        assert repository("diff", "HEAD~1", "-q").out.split() == [
            row["parameter"] for row in data["rows"]
        ]

    def test_refusals(self, repository: Run) -> None:
        assert repository("diff").code == 2  # no workspace yet
        assert repository("diff", "--stat", "--params", "HEAD~1").code == 2
        assert repository("diff", "HEAD~9").code == 20
        repository("base", "add", "other", "other")
        repository("commit", "other", "--base", "other", "-m", "elsewhere")
        assert repository("diff", "HEAD~1", "HEAD").code == 25
