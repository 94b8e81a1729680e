"""The verbs log, show, blame, branch, switch, checkout, tag, revert, cherry-pick, end to end."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

Run = Callable[..., Any]


def bits(folder: str) -> dict[str, bytes]:
    return {k: v.tobytes() for k, v in load_file(f"{folder}/model.safetensors").items()}


def head(run: Run) -> str:
    return str(run("show", "HEAD", "-q").out.strip())


class TestLog:
    def test_one_line_a_revision(self, repository: Run) -> None:
        ran = repository("log", "-k", "accuracy")
        newest, oldest = ran.out.splitlines()
        assert re.fullmatch(r"@ [0-9a-f]{10}  main  just now  Ada  second", newest)
        assert re.fullmatch(r"\* [0-9a-f]{10}        just now  Ada  first   accuracy 0.853", oldest)
        assert repository("log", "-k", "loss").err.startswith("warning: none of these revisions")

    def test_nothing_yet(self, deltavc: Run) -> None:
        deltavc("init")
        ran = deltavc("log")
        assert (ran.code, ran.out) == (0, "No revisions.\n")
        assert "deltavc commit PATH" in ran.err
        assert deltavc("log", "--json").document["data"] == []
        assert deltavc("log", "main").code == 20

    def test_the_lineage(self, branches: Run) -> None:
        drawn = [
            line.split("  ")[0] for line in branches("log", "--all", "--graph").out.split("\n")
        ]
        shapes = [re.sub(r"[0-9a-f]{10}", "id", line) for line in drawn]
        assert shapes == ["* id", "| @ id", "| * id", "|/", "* id", ""]
        plain = branches("log", "--all", "--no-graph").out
        assert plain == branches("log", "--all").out
        assert "|" not in plain

    def test_a_terminal_gets_the_drawing_and_keeps_its_width(
        self, branches: Run, on_terminal: Run
    ) -> None:
        branches("commit", "adapter-1", "-m", "a long subject, " * 9)
        ran = on_terminal("log", "--all", "--no-pager", columns=70)
        assert "|/" in ran.out
        assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 70 for line in ran.out.split("\n"))
        assert "…" in ran.out

    @pytest.mark.parametrize(
        ("options", "subjects"),
        [
            (["-l", "1"], ["third"]),
            (["-l", "0"], []),
            (["HEAD~1"], ["second", "first"]),
            (["side..main"], ["third", "second"]),
            (["--label", "data=october"], ["second"]),
            (["--author", "ada"], ["third", "second", "first"]),
            (["--author", "kai"], []),
            (["--since", "1 min ago"], ["third", "second", "first"]),
            (["--until", "1 min ago"], []),
            (["-p", "embed*"], []),
        ],
    )
    def test_choices(self, branches: Run, options: list[str], subjects: list[str]) -> None:
        rows = branches("log", *options, "--json").document["data"]
        assert [row["message"] for row in rows] == subjects

    def test_documents(self, branches: Run) -> None:
        document = branches("log", "side", "--json").document
        assert document["schema"] == "deltavc.log/1"
        top = document["data"][0]
        assert top["time"] == "2027-01-15T08:00:00Z"
        assert (top["branches"], top["is_head"], top["exact"]) == (["side"], False, True)
        assert top["measurements"] == {"accuracy": 0.9}
        lines = branches("log", "side", "--format", "jsonl").out.splitlines()
        assert [json.loads(line).get("commit") for line in lines][:-1] == [
            row["commit"] for row in document["data"]
        ]
        assert json.loads(lines[-1])["summary"] == {"rows": 2}
        rows = branches("log", "side", "--format", "csv", "-k", "accuracy").out.splitlines()
        assert rows[0].endswith(",subject,precision,accuracy")
        assert [row.rpartition(",")[2] for row in rows[1:]] == ["0.9", "0.853"]
        assert branches("log", "side", "-q").out.split() == [r["commit"] for r in document["data"]]


class TestShow:
    def test_a_revision(self, repository: Run) -> None:
        out = repository("show", "HEAD~1").out
        assert out.startswith(f"commit    {repository('show', 'HEAD~1', '-q').out.strip()}\n")
        assert "author    Ada <ada@example.org>  2027-01-15 08:00 UTC\n" in out
        assert "\n\n    first\n\n" in out
        assert "KPIs      accuracy  0.853  just now\n" in out
        repository("kpi", "add", "HEAD~1", "accuracy[rare]=0.7", "--samples", "40")
        both = repository("show", "HEAD~1").out
        assert re.search(r"KPIs +accuracy +0\.853 +just now\n +accuracy\[rare\] +0\.7 ", both)
        assert "precision exact" in out
        out = repository("show", "main", "-p", "*.q.*").out
        assert out.count("layers.") == 2
        assert "labels    data=october" in out
        assert re.search(r"parent    [0-9a-f]{10}  first", out)

    def test_raw_bytes_hash_to_the_id(self, repository: Run) -> None:
        command = [sys.executable, "-c", "from deltavc.cli.main import run; run()"]
        done = subprocess.run([*command, "show", "HEAD", "--raw"], capture_output=True, check=True)
        assert hashlib.sha256(done.stdout).hexdigest() == head(repository)
        assert repository("show", "HEAD", "--raw", "--json").code == 2

    def test_other_objects(self, repository: Run) -> None:
        assert repository("show", "tiny").out.startswith("base      ")
        assert "layers.0.q.weight:" in repository("show", "tiny").out
        shown = repository("show", "HEAD", "-p", "*", "--json").document["data"]["commit"]
        delta = next(iter(shown["params"]["layers.0.q.weight"]))
        assert "kind: lowrank" in repository("show", delta[:12]).out
        assert repository("show", "op:@").out.startswith("operation ")
        assert repository("show", "op:@", "--json").document["data"]["kind"] == "operation"
        for name in ("nothing", "ffff", "HEAD~9"):
            assert repository("show", name).code == 20


class TestBlame:
    def test_names_the_commit_of_each_delta(self, branches: Run) -> None:
        rows = branches("blame", "layers.0.q*", "--rev", "side", "--json").document["data"]
        assert sorted(row["subject"] for row in rows) == ["first", "fourth"]
        assert abs(sum(row["share"] for row in rows) - 1) < 1e-9
        out = branches("blame", "layers.0.q*", "--rev", "side").out
        assert re.search(r"layers\.0\.q\.weight +[0-9a-f]{10} +\d+% +1 +lowrank", out)
        assert branches("blame", "nothing*").code == 20


class TestBranchAndSwitch:
    def test_create_list_rename_move_delete(self, repository: Run) -> None:
        ran = repository("branch", "german", "HEAD~1")
        assert re.fullmatch(r"Created branch german at [0-9a-f]{10}\n", ran.out)
        assert "deltavc switch german" in ran.err
        again = repository("branch", "german", "HEAD~1", "--json")
        assert (again.code, again.document["data"]["changed"]) == (0, False)
        assert repository("branch", "german", "HEAD").code == 22
        listed = repository("branch").out.splitlines()
        assert re.fullmatch(r"  german  [0-9a-f]{10}  first", listed[0])
        assert re.fullmatch(r"@ main    [0-9a-f]{10}  second", listed[1])
        assert repository("branch", "-q").out == "german\nmain\n"
        assert re.fullmatch(
            r"Moved branch german  [0-9a-f]{10} -> [0-9a-f]{10}\n",
            repository("branch", "german", "--set-to", "main").out,
        )
        assert repository("branch", "german", "--rename", "main").code == 22
        assert repository("branch", "german", "--rename", "de").code == 0
        assert "Deleted branch de" in repository("branch", "de", "--delete").out
        assert repository("branch", "main", "--delete").code == 35
        assert repository("branch", "de", "--delete").code == 20

    @pytest.mark.parametrize(
        "words",
        ["--delete", "x y --delete", "x --delete --rename y", "x --rename y --set-to HEAD"],
    )
    def test_what_does_not_go_together(self, repository: Run, words: str) -> None:
        ran = repository("branch", *words.split())
        assert (ran.code, ran.out) == (2, "")

    def test_switch_moves_head_only(self, repository: Run) -> None:
        repository("checkout", "main")
        before = bits("model")
        ran = repository("switch", "-c", "side", "--start", "HEAD~1")
        assert re.fullmatch(r"Now on branch side at [0-9a-f]{10}  first\n", ran.out)
        assert ran.err == "hint: model/ was left alone; write it: deltavc checkout side\n"
        assert bits("model") == before
        assert repository("switch", "side").out.startswith("Already on branch side")
        assert repository("switch", "--detach", "main~1").out.startswith("Now on no branch, at ")
        assert repository("switch", "nowhere").code == 20
        assert "deltavc switch -c nowhere" in repository("switch", "nowhere").err
        assert repository("switch", "-c", "main").code == 22
        assert repository("switch").code == 2
        assert repository("switch", "-c").code == 2


class TestCheckout:
    def test_the_bits_come_back(self, branches: Run) -> None:
        ran = branches("checkout", "main")
        assert re.fullmatch(
            r"Rebuilt main [0-9a-f]{10} in model/: 1\.31 KiB, 1 of 5 tensors changed, \d.*s\.\n",
            ran.out,
        )
        assert bits("model") == bits("full")
        ran = branches("checkout", "HEAD")
        assert re.fullmatch(r"model/ holds main [0-9a-f]{10} already\.\n", ran.out)
        assert branches("checkout", "main", "--json").document["data"]["changed"] is False
        first = branches("checkout", "HEAD~2")
        assert "rewritten in place" in first.out
        assert "deltavc switch -c NAME" in first.err

    def test_elsewhere_leaves_head_alone(self, repository: Run) -> None:
        before = head(repository)
        ran = repository("checkout", "HEAD~1", "--to", "serve", "--verify")
        assert "read back and compared: every bit is as committed" in ran.out
        assert head(repository) == before
        Path("kept").mkdir()
        Path("kept/mine.txt").write_text("mine")
        ran = repository("checkout", "HEAD", "--to", "kept")
        assert (ran.code, Path("kept/mine.txt").read_text()) == (31, "mine")
        assert "--force" in ran.err
        assert repository("checkout", "HEAD", "--to", "kept", "--force").code == 0

    def test_as_an_adapter(self, repository: Run) -> None:
        ran = repository("checkout", "HEAD", "--to", "a", "--as", "peft", "--base-name", "org/x")
        assert ran.code == 0
        assert "adapter_model.safetensors" in ran.out
        assert json.loads(Path("a/adapter_config.json").read_text())["base_model_name_or_path"] == (
            "org/x"
        )
        ran = repository("checkout", "HEAD", "--to", "b", "--as", "peft", "--max-rank", "1")
        assert (ran.code, Path("b").exists()) == (48, False)
        repository("commit", "full", "-m", "full")
        assert repository("checkout", "HEAD", "--to", "c", "--as", "peft").code == 45
        assert repository("checkout", "HEAD~1", "--as", "peft").code == 2
        assert repository("checkout", "HEAD~1", "--max-rank", "2").code == 2
        ran = repository("checkout", "HEAD~1", "--to", "d", "--as", "peft", "--verify")
        assert ran.code == 2

    def test_as_an_adapter_for_vllm(self, repository: Run) -> None:
        words = ("checkout", "HEAD", "--as", "vllm", "--base-name", "org/x", "--to")
        ran = repository(*words, "a", "--pad-rank", "8")
        assert ran.code == 0, ran.err
        card = json.loads(Path("a/deltavc.json").read_text())
        served = card["adapter"]
        assert (served["rank"], served["base_model_name_or_path"]) == (8, "org/x")
        for name, file in card["files"].items():
            assert f"sha256 {file['sha256']}  {name}" in ran.out
        ran = repository(*words, "b", "--json")
        assert ran.document["data"]["sha256"].keys() == card["files"].keys()
        ran = repository(*words, "b", "--card")
        assert "README.md" in ran.out
        assert Path("b/README.md").read_text().startswith("---\nbase_model:")
        assert repository("checkout", "HEAD", "--card").code == 2
        ran = repository(*words, "c", "-n")
        assert (ran.code, Path("c").exists()) == (0, False)
        assert "Would write" in ran.out
        assert repository(*words, "c", "--max-rank", "1").code == 48
        assert repository(*words, "c", "--pad-rank", "600").code == 48
        assert repository(*words, "c", "--verify").code == 2
        assert repository("checkout", "HEAD", "--as", "vllm").code == 2
        assert repository("checkout", "HEAD", "--to", "c", "--pad-rank", "8").code == 2
        ran = repository("checkout", "HEAD", "--to", "c", "--as", "peft", "--pad-rank", "8")
        assert (ran.code, Path("c").exists()) == (2, False)
        repository("commit", "full", "-m", "full")
        ran = repository(*words, "c")
        assert (ran.code, Path("c").exists()) == (45, False)

    def test_the_base_can_be_elsewhere(self, repository: Run) -> None:
        shutil.move("base", "moved")
        assert repository("checkout", "main").code == 26
        assert repository("checkout", "main", "--base-path", "other").code == 25
        assert repository("checkout", "main", "--base-path", "moved").code == 0

    def test_dry_run(self, repository: Run) -> None:
        ran = repository("checkout", "HEAD~1", "-n")
        assert ran.out.startswith("Would rebuild HEAD~1 ")
        assert not Path("model").exists()
        assert repository("status", "--json").document["data"]["head"]["branch"] == "main"


class TestTag:
    def test_create_and_list(self, repository: Run) -> None:
        ran = repository("tag", "v1.0", "HEAD~1", "-m", "first release")
        assert re.fullmatch(r"Created tag v1\.0 at [0-9a-f]{10}  first\n", ran.out)
        assert repository("tag", "v1.0", "HEAD~1", "--json").document["data"]["changed"] is False
        assert repository("tag", "v1.0").code == 22
        assert re.fullmatch(r"v1\.0  [0-9a-f]{10}  first release\n", repository("tag").out)
        assert repository("tag", "-q").out == "v1.0\n"
        assert "v1.0" in repository("log").out
        assert repository("show", "tag:v1.0", "-q").out == repository("show", "HEAD~1", "-q").out

    def test_delete_needs_a_reason_and_a_yes(self, repository: Run) -> None:
        repository("tag", "v1.0")
        assert repository("tag", "v1.0", "--delete", "--yes").code == 2
        ran = repository("tag", "v1.0", "--delete", "--reason", "wrong")
        assert (ran.code, "hint: confirm with --yes" in ran.err) == (36, True)
        assert repository("tag", "-q").out == "v1.0\n"
        assert repository("tag", "v1.0", "--delete", "--reason", "wrong", "-n").code == 0
        assert repository("tag", "v1.0", "--delete", "--reason", "wrong", "--yes").code == 0
        assert repository("op", "show", "@", "--json").document["data"]["reason"] == "wrong"
        assert repository("tag").out == "No tags.\n"
        assert repository("tag", "v1.0", "--delete", "--reason", "wrong", "--yes").code == 20

    def test_asks_on_a_terminal(self, repository: Run, on_terminal: Run) -> None:
        repository("tag", "v1.0")
        ran = on_terminal("tag", "v1.0", "--delete", "--reason", "wrong", typed="n\n")
        assert (ran.code, "Delete tag 'v1.0' at" in ran.out) == (1, True)
        assert repository("tag", "-q").out == "v1.0\n"
        assert on_terminal("tag", "v1.0", "--delete", "--reason", "x", typed="y\n").code == 0
        assert repository("tag", "-q").out == ""

    def test_what_does_not_go_together(self, repository: Run) -> None:
        for words in (
            "--delete --reason x",
            "v1 --reason x",
            "v1 HEAD --delete --reason x",
            "-m x",
        ):
            assert repository("tag", *words.split()).code == 2, words


class TestSums:
    def test_revert_gives_the_bits_without_it(self, repository: Run) -> None:
        repository("checkout", "HEAD", "--to", "with")
        repository("commit", "adapter-3", "--stack", "-m", "stacked")
        plan = repository("revert", "HEAD", "-n")
        assert (
            plan.out
            == 'would commit on main: Revert "stacked"\n  1 parameter would change, exact\n'
        )
        ran = repository("revert", "HEAD")
        assert re.fullmatch(
            r'\[main [0-9a-f]{10}\] Revert "stacked"\n  1 parameter changed, exact\n', ran.out
        )
        assert ran.err.splitlines() == [
            "hint: write it: deltavc checkout main",
            "hint: take it back: deltavc undo",
        ]
        repository("checkout", "HEAD", "--to", "without")
        assert bits("with") == bits("without")

    def test_cherry_pick_is_one_operation(self, branches: Run) -> None:
        count = len(branches("op", "log", "-q").out.split())
        ran = branches("cherry-pick", "side", "HEAD~1")
        assert [line[:6] for line in ran.out.splitlines()[::2]] == ["[main "] * 2
        assert len(branches("op", "log", "-q").out.split()) == count + 1
        assert [row["message"] for row in branches("log", "--json").document["data"][:2]] == [
            "second",
            "fourth",
        ]
        branches("undo")
        assert branches("log", "-l", "1", "--json").document["data"][0]["message"] == "third"
        assert branches("fsck").code == 0

    def test_cherry_pick_of_several_is_all_or_none(self, branches: Run) -> None:
        branches("base", "add", "other", "other")
        branches("switch", "-c", "foreign")
        branches("commit", "other", "--base", "other", "-m", "foreign")
        branches("switch", "main")
        before = branches("op", "log", "-q").out
        assert branches("cherry-pick", "side", "foreign").code == 25
        assert branches("op", "log", "-q").out == before

    def test_nothing_to_do(self, repository: Run) -> None:
        repository("commit", "base", "-m", "the base")
        repository("branch", "root")
        repository("commit", "adapter-1", "-m", "again")
        ran = repository("revert", "HEAD", "HEAD~1", "--json")
        assert ran.code == 0
        assert repository("revert", "nowhere").code == 20
        assert repository("revert").code == 2
        assert repository("revert", "HEAD", "--mainline", "2").code == 2
