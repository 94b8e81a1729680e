"""The verbs kpi, kpi gate and bisect, end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

ACCURACY = ("kpi", "define", "accuracy", "--direction", "higher", "--kind", "proportion")
RULES = (
    "accuracy >= 0.85",
    "accuracy not worse than baseline at 95%",
    "latency_p95 <= 500 ms",
)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("catalog.db-wal", "catalog.db-shm", "lock")
    }


@pytest.fixture
def measured(repository: Run) -> Run:
    """Two revisions with measurements, definitions and the gate of the contract's example."""
    repository(*ACCURACY, "--min-samples", 1000)
    repository("kpi", "define", "latency_p95", "--direction", "lower", "--kind", "quantile",
               "--unit", "ms", "--min-samples", 1000)  # fmt: skip
    repository("kpi", "gate", "define", "release", *(w for r in RULES for w in ("--require", r)))
    repository("kpi", "add", "HEAD~1", "accuracy=0.853", "--samples", 5000)
    repository("kpi", "add", "HEAD", "accuracy=0.879", "--samples", 5000)
    repository("kpi", "add", "HEAD", "latency_p95=405", "--samples", 2000)
    return repository


class TestKpi:
    def test_define(self, repository: Run) -> None:
        ran = repository(*ACCURACY, "--min-samples", 1000, "-n")
        assert ran.out.startswith("Would define KPI accuracy: proportion, higher is better")
        assert repository("kpi", "list", "--json").document["data"][0]["origin"] == "not defined"
        assert repository(*ACCURACY, "--json").document["data"]["changed"] is True
        ran = repository(*ACCURACY)
        assert ran.out == "As before: KPI accuracy: proportion, higher is better\n"
        assert repository(*ACCURACY, "--json").document["data"]["changed"] is False
        for words in (("x",), ("x", "--direction", "higher"), ("--from-file", "no"), ()):
            assert repository("kpi", "define", *words).code in (2, 45)
        assert repository("kpi", "define", "x", "--from-file", "f").code == 2
        assert repository(*ACCURACY, "--unit", "%").code == 2
        assert repository("kpi").code == 2

    def test_definitions_in_a_file(self, repository: Run) -> None:
        text = '[kpi.a]\ndirection = "lower"\nkind = "count"\n[gate.g]\nrequire = ["a <= 3"]\n'
        Path("policy.toml").write_text(text)
        assert repository("kpi", "define", "--from-file", "policy.toml").code == 0
        ran = repository("kpi", "gate", "define", "--from-file", "policy.toml")
        assert ran.out == "Defined gate g: a <= 3\n"
        Path("deltavc.toml").write_text(text.replace("<= 3", "<= 4"))
        ran = repository("kpi", "gate", "list")
        assert ran.out.splitlines()[1].split() == ["g", "a", "<=", "4", "deltavc.toml"]
        assert "overrides the recorded gate 'g'" in ran.err
        ran = repository("kpi", "gate", "define", "g", "--require", "a <= 9")
        assert (ran.code, "change it there: [gate.g]" in ran.err) == (35, True)
        Path("deltavc.toml").write_text("[kpi.a]\nkind = 3")
        ran = repository("kpi", "list")
        assert (ran.code, "kind" in ran.err) == (2, True)

    def test_add_and_show(self, repository: Run) -> None:
        repository(*ACCURACY)
        Path("eval.jsonl").write_text("{}\n")
        ran = repository("kpi", "add", "HEAD", "accuracy=0.879", "accuracy[rare]=0.5",
                         "--samples", 100, "--data", "eval.jsonl", "--tool", "h 1")  # fmt: skip
        assert ran.out.splitlines()[1].startswith("  accuracy        0.879  0.801..0.929, n=100")
        rows = repository("kpi", "show", "HEAD", "--json").document["data"]
        assert [(row["kpi"], row["slice"], row["dataset"]) for row in rows] == [
            ("accuracy", None, "eval.jsonl"),
            ("accuracy", "rare", "eval.jsonl"),
        ]
        assert len(rows[0]["dataset_sha256"]) == 64
        old = rows[0]["id"]
        ran = repository("kpi", "add", "HEAD", "accuracy=0.87", "--samples", 100,
                         "--supersedes", old[:8])  # fmt: skip
        assert (ran.code, "needs a reason" in ran.err) == (2, True)
        ran = repository("kpi", "add", "HEAD", "accuracy=0.87", "--samples", 100,
                         "--supersedes", old[:8], "--reason", "wrong split")  # fmt: skip
        assert ran.code == 0
        history = repository("kpi", "show", "HEAD", "--history").out
        assert f"superseded by {ran.out.split()[-1]}" in history
        assert "wrong split" in history
        table = repository("kpi", "show", "HEAD", "--format", "csv").out.splitlines()
        assert table[0] == "kpi,value,interval,dataset,tool,time,actor,id"
        assert table[1].startswith("accuracy,0.87,")
        ran = repository("kpi", "add", "HEAD", "accuracy=0.9")
        assert "gates need a sample count" in ran.err
        assert repository("kpi", "show", "HEAD~1").out.count("\n") == 2

    def test_values_of_each_sample(self, repository: Run) -> None:
        repository(*ACCURACY)
        for rev, right in (("HEAD~1", 88), ("HEAD", 90)):
            Path("v.json").write_text(json.dumps([1] * right + [0] * (100 - right)))
            ran = repository("kpi", "add", rev, f"accuracy={right / 100}", "--values", "v.json",
                             "--dataset", "d")  # fmt: skip
            assert ran.code == 0
        (row,) = repository("kpi", "compare", "HEAD~1", "HEAD", "--json").document["data"]
        assert (row["paired"], row["method"]) == (True, "newcombe paired")
        ran = repository("kpi", "add", "HEAD", "accuracy=0.5", "--values", "v.json")
        assert (ran.code, "have the mean 0.9, not 0.5" in ran.err) == (2, True)

    def test_compare(self, measured: Run) -> None:
        ran = measured("kpi", "compare", "HEAD~1", "HEAD")
        assert re.search(r"accuracy +0.853 +0.879 +\+0.026 +\+0.013..\+0.039 +better", ran.out)
        assert re.search(r"latency_p95 +- +405 ms +- +not measured", ran.out)
        markdown = measured("kpi", "compare", "HEAD~1", "HEAD", "-k", "accuracy", "--format", "md")
        assert markdown.out.splitlines()[0].startswith("| kpi | a | b | b - a |")
        for words in (("-k", "other"), ("--confidence", "2"), ("--confidence", "nan")):
            assert measured("kpi", "compare", "HEAD~1", "HEAD", *words).code in (2, 20)

    def test_import(self, repository: Run) -> None:
        Path("scores.json").write_text('{"acc": 0.5, "loss": 2}')
        take = ("kpi", "import", "HEAD", "--from", "json:scores.json")
        ran = repository(*take)
        assert (ran.code, "--map THEIRS=OURS; it has: acc, loss" in ran.err) == (2, True)
        assert repository(*take, "--map", "acc=accuracy", "-n").out.startswith("Would record on ")
        ran = repository(*take, "--map", "acc=accuracy", "--json")
        assert [m["value"] for m in ran.document["data"]["measurements"]] == [0.5]
        ran = repository("kpi", "import", "HEAD", "--from", "mlflow:8c1f22")
        assert (ran.code, ran.err.splitlines()[1]) == (60, "hint: pip install mlflow")

    def test_the_log_shows_half_widths_and_best_goes_by_direction(self, measured: Run) -> None:
        lines = measured("log", "-k", "accuracy").out.splitlines()
        assert lines[0].endswith("accuracy 0.879 ±0.009")
        assert lines[1].endswith("accuracy 0.853 ±0.010")
        head = measured("show", "HEAD", "-q").out
        assert measured("show", "best:accuracy", "-q").out == head
        measured("kpi", "define", "accuracy", "--direction", "lower", "--kind", "proportion")
        assert measured("show", "best:accuracy", "-q").out != head


class TestGate:
    def test_pass_fail_and_inconclusive(self, measured: Run) -> None:
        ran = measured("kpi", "gate", "check", "release", "HEAD", "--against", "HEAD~1")
        assert ran.code == 0
        lines = ran.out.splitlines()
        assert re.fullmatch(r"gate release on [0-9a-f]{10} against [0-9a-f]{10}: pass", lines[0])
        assert lines[1:] == [
            "  pass  accuracy >= 0.85                         0.879 (0.870..0.888, n=5,000)",
            "  pass  accuracy not worse than baseline at 95%  +0.026 (+0.013..+0.039)",
            "  pass  latency_p95 <= 500 ms                    405 ms (n=2,000, no interval)",
        ]
        ran = measured("kpi", "gate", "check", "release")
        assert (ran.code, ran.err) == (3, "hint: give a baseline: --against REV\n")
        ran = measured("kpi", "gate", "check", "release", "HEAD~1", "--against", "HEAD")
        assert (ran.code, "  fail  accuracy not worse" in ran.out) == (1, True)
        assert "hint: deltavc kpi add HEAD~1 'latency_p95=VALUE' --samples N" in ran.err

    def test_the_document(self, measured: Run) -> None:
        ran = measured("kpi", "gate", "check", "release", "--against", "HEAD~1", "--json")
        document = ran.document
        assert (document["schema"], document["ok"]) == ("deltavc.gate/1", True)
        data = document["data"]
        assert (data["gate"], data["verdict"], len(data["rules"])) == ("release", "pass", 3)
        rule = data["rules"][0]
        assert (rule["rule"], rule["verdict"], rule["samples"]) == (RULES[0], "pass", 5000)
        assert rule["low"] < rule["value"] < rule["high"]
        assert measured("kpi", "gate", "check", "release", "-q").out == "inconclusive\n"
        ran = measured("kpi", "gate", "check", "nothing", "--json")
        assert (ran.code, ran.document["schema"]) == (20, "deltavc.gate/1")

    def test_the_summary_is_added_to(self, measured: Run) -> None:
        Path("summary.md").write_text("before\n")
        for _ in range(2):
            measured("kpi", "gate", "check", "release", "--summary", "summary.md")
        text = Path("summary.md").read_text()
        assert text.startswith("before\n### Gate release on `")
        assert text.count("| inconclusive | accuracy not worse than baseline at 95% |") == 2
        ran = measured("kpi", "gate", "check", "release", "--summary", "no/folder/here.md")
        assert (ran.code, "cannot be written" in ran.err) == (14, True)

    def test_define(self, repository: Run) -> None:
        define = ("kpi", "gate", "define", "g", "--require")
        ran = repository(*define, "accuracy > 0.85")
        assert ran.code == 2
        assert "rule 'accuracy > 0.85', column 10: has '>'" in ran.err
        assert repository(*define, "accuracy>=0.850", "-n").out == (
            "Would define gate g: accuracy >= 0.85\n"
        )
        assert repository("kpi", "gate", "list").out == "No gates.\n"
        assert repository(*define, "accuracy>=0.850").code == 0
        assert repository(*define, "accuracy >= .85").out == "As before: gate g: accuracy >= 0.85\n"
        assert repository("undo").code == 0
        assert repository("kpi", "gate", "list").out == "No gates.\n"
        for words in (("g",), (), ("g g", "--require", "a >= 1")):
            assert repository("kpi", "gate", "define", *words).code in (2, 23)

    def test_hostile_names_stay_text(self, repository: Run) -> None:
        Path("deltavc.toml").write_text('[kpi."a\\u001b[31m"]\ndirection="lower"\nkind="count"\n')
        ran = repository("kpi", "list")
        assert (ran.code, "\x1b" in ran.err + ran.out) == (23, False)


class TestBisect:
    @pytest.fixture
    def line(self, branches: Run) -> Run:
        """Three revisions on main with values of which the last is bad."""
        for rev, value in (("HEAD~2", 0.9), ("HEAD~1", 0.88), ("HEAD", 0.7)):
            branches("kpi", "add", rev, f"accuracy={value}", "--samples", 1000)
        return branches

    def test_kpi(self, line: Run) -> None:
        ran = line("bisect", "kpi", "accuracy", "--good", "HEAD~2", "--expect", ">= 0.85")
        assert ran.code == 0
        lines = ran.out.splitlines()
        assert re.fullmatch(
            r"first bad: [0-9a-f]{10}  third  \(accuracy 0.7, parent 0.88\)", lines[0]
        )
        assert lines[1] == "2 of 2 revisions had measurements"
        for words in (("--expect", "> 1"), ("--expect", ">= 0.95"), ("--expect", ">= 1 ms")):
            assert line("bisect", "kpi", "accuracy", "--good", "HEAD~2", *words).code == 2

    def test_run(self, line: Run) -> None:
        code = "import os, sys; d = os.environ['DELTAVC_BISECT_DIR']; assert d == sys.argv[1]; "
        code += "print('said'); sys.exit(0 if os.listdir(d) else 9)"
        words = ("bisect", "run", "--good", "HEAD~2", "--", sys.executable, "-c", code, "{dir}")
        ran = line(*words)
        assert ran.code == 0
        assert ran.out.splitlines()[0].endswith("  third")
        ran = line("bisect", "run", "--good", "HEAD~2", "--json", "--", sys.executable, "-c",
                   "raise SystemExit(125)")  # fmt: skip
        assert (ran.code, len(ran.document["data"]["suspects"])) == (3, 2)
        assert line("bisect", "run", "--good", "HEAD~2", "--", "no-such-program").code == 2

    def test_step_by_step(self, line: Run) -> None:
        assert line("bisect", "mark", "good").code == 34
        ran = line("bisect", "start", "--good", "HEAD~2")
        assert re.fullmatch(r"next: [0-9a-f]{10}   2 of 2 revisions in question\n", ran.out)
        assert "deltavc bisect mark good" in ran.err
        ran = line("bisect", "mark", "good")
        assert ran.out.splitlines()[0].endswith("  third")
        assert line("bisect", "reset").out == "The search is forgotten.\n"
        assert line("bisect", "reset", "--json").document["data"]["changed"] is False


REFUSED = [
    "kpi define accuracy --direction higher --kind quantile",
    "kpi define a[b] --direction higher --kind mean",
    "kpi add nothing accuracy=1",
    "kpi add HEAD accuracy=much",
    "kpi add HEAD accuracy=2 --samples 5",
    "kpi add HEAD accuracy=inf",
    "kpi add HEAD a/../b=1",
    "kpi add HEAD accuracy=1 accuracy=2",
    "kpi add HEAD accuracy=1 --stderr=-1",
    "kpi add HEAD accuracy=1 --values nothing.json",
    "kpi add HEAD accuracy=1 --data nothing",
    "kpi add HEAD accuracy=1 --supersedes ffff --reason x",
    "kpi import HEAD --from nothing",
    "kpi import HEAD --from json:nothing.json",
    "kpi import HEAD --from trainer:base",
    "kpi import HEAD --from wandb:a/b/c",
    "kpi show nothing",
    "kpi compare HEAD nothing",
    "kpi gate define g --require accuracy",
    "kpi gate check nothing",
    "kpi gate check release nothing",
    "kpi gate check release --against nothing",
    "bisect kpi accuracy --good nothing --expect x",
    "bisect start --good HEAD",
    "bisect mark good",
]


def test_every_refusal_has_a_sentence_a_hint_and_a_code_and_changes_nothing(measured: Run) -> None:
    before = tree(Path.cwd())
    for line in REFUSED:
        ran = measured(*line.split())
        assert 1 < ran.code < 70, line
        error, hint = ran.err.splitlines()[:2]
        assert error.startswith("error: "), line
        assert not error.endswith("."), line
        assert hint.startswith("hint: "), line
        assert "Traceback" not in ran.err
        assert ran.out == ""
        assert tree(Path.cwd()) == before, line


@pytest.mark.parametrize(
    "line",
    [
        "kpi show HEAD",
        "kpi list --json",
        "kpi gate check release --against HEAD~1",
        "kpi gate list",
    ],
)
def test_reading_imports_nothing_heavy(measured: Run, line: str) -> None:
    heavy = ("torch", "numpy", "scipy", "sqlalchemy", "alembic", "rich", "safetensors")
    program = (
        "import sys; from deltavc.cli.main import main; main(sys.argv[1:]);"
        f" found = [m for m in {heavy!r} if m in sys.modules]; sys.exit(' '.join(found) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *line.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
