"""What holds for every verb: light imports, dry runs that touch nothing, documents, hints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

HEAVY = ("torch", "numpy", "sqlalchemy", "alembic", "rich", "safetensors")

LIGHT = [
    "--help",
    "log --all --graph",
    "log -k accuracy --format md",
    "log --json",
    "show HEAD",
    "show HEAD~1 -p *.q.* --json",
    "status --no-hash",
    "status --no-hash --json",
    "branch",
    "tag",
    "op log",
    "op show @",
    "undo --help",
]
MUTATING = [
    "base add other other",
    "base remove tiny",
    "commit full -m third",
    "branch new",
    "branch side --delete",
    "branch side --rename other",
    "branch side --set-to main",
    "switch side",
    "switch -c new",
    "checkout side",
    "checkout main --to elsewhere",
    "tag v2",
    "tag v1 --delete --reason wrong",
    "revert HEAD~1",
    "cherry-pick side",
    "undo",
    "op restore {oldest}",
]


@pytest.fixture
def tagged(branches: Run) -> Run:
    branches("tag", "v1", "side", "-m", "annotated")
    return branches


@pytest.mark.parametrize("line", LIGHT)
def test_looking_imports_nothing_heavy(
    tagged: Run, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTAVC_HINTS", "0")
    program = (
        "import sys\n"
        "from deltavc.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        f"sys.stderr.write(' '.join(m for m in {HEAVY} if m in sys.modules))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *line.split()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def tree(folder: Path) -> dict[str, bytes]:
    """Returns all files but caches: those may come from looking."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not re.search(r"/cache/|catalog\.db|/lock$", str(path))
    }


@pytest.mark.parametrize("line", MUTATING)
def test_a_dry_run_touches_nothing_and_ends_like_the_real_one(tagged: Run, line: str) -> None:
    oldest = tagged("op", "log", "-q").out.split()[-2]
    words = line.format(oldest=oldest).split()
    before = tree(Path.cwd())
    plan = tagged(*words, "-n", "--yes", "--json")
    assert tree(Path.cwd()) == before
    real = tagged(*words, "--yes", "--json")
    assert plan.code == real.code
    assert plan.document["schema"] == real.document["schema"]
    if plan.code == 0 and isinstance(plan.document["data"], dict):
        assert set(real.document["data"]) <= set(plan.document["data"])
        assert plan.document["data"]["changed"] is False
        assert plan.document["data"]["would_change"] is real.document["data"]["changed"]


@pytest.mark.parametrize("line", [line for line in MUTATING if "op restore" not in line])
def test_undo_takes_back_the_refs(tagged: Run, line: str) -> None:
    before = refs(tagged)
    ran = tagged(*line.split(), "--yes")
    if ran.code == 0 and refs(tagged) != before and line != "undo":
        assert tagged("undo").code == 0
        assert refs(tagged) == before
        assert tagged("redo").code == 0
        assert refs(tagged) != before


def refs(run: Run) -> Any:
    lists = [run(*words.split(), "--json").document["data"] for words in ("branch", "tag")]
    bases = [row["name"] for row in run("base", "list", "--json").document["data"]]
    return lists, bases, run("status", "--no-hash", "--json").document["data"]["head"]


FAILURES = [
    "show nowhere",
    "log nowhere",
    "switch nowhere",
    "switch",
    "checkout nowhere",
    "commit nowhere -m x",
    "commit full",
    "tag v1",
    "tag v1 --delete",
    "tag v1 --delete --reason x",
    "branch main --delete",
    "branch main --set-to",
    "base show nowhere",
    "base add tiny other",
    "base remove tiny",
    "redo",
    "op show 00000000",
    "diff HEAD~7",
    "blame nothing*",
    "cherry-pick nowhere",
    "log -k",
    "log --since yesterday",
    "log --limit -1",
    "checkout HEAD --to base",
    "show HEAD --format csv",
]


@pytest.mark.parametrize("line", FAILURES)
def test_a_refusal_is_one_sentence_a_hint_and_a_document(tagged: Run, line: str) -> None:
    ran = tagged(*line.split())
    assert ran.out == ""
    assert ran.code not in (0, 1, 70)
    first, *rest = ran.err.splitlines()
    assert re.fullmatch(r"error: [^A-Z].*[^.]", first)
    assert rest
    assert all(text.startswith("hint: ") for text in rest)
    as_json = tagged("--json", *line.split())
    if "format" not in line:
        error = as_json.document["error"]
        assert (as_json.code, error["exit_code"]) == (ran.code, ran.code)
        assert first == f"error: {error['message']}"


def test_hints_can_be_pasted(tagged: Run) -> None:
    """Each command that a hint names parses, whatever it then answers."""
    seen = set()
    for line in [*FAILURES, *MUTATING, "status", "log", "undo", "fsck"]:
        ran = tagged(*line.format(oldest="@").split(), "--yes")
        for hint in re.findall(r"hint: (.*)", ran.err):
            for found in re.findall(r"deltavc [a-z].*", hint):
                seen.add(found.split(", or ")[0])
    assert len(seen) > 8
    for command in seen:
        words = shlex.split(command)[1:]
        ran = tagged(*words, "-h", "--json")
        assert ran.code == 0, command


@pytest.mark.parametrize("columns", [40, 200])
def test_narrow_and_wide_terminals(tagged: Run, on_terminal: Run, columns: int) -> None:
    for line in ("log --all", "branch", "op log", "show HEAD"):
        ran = on_terminal(*line.split(), "--no-pager", columns=columns)
        assert ran.code == 0
        assert re.search(r"[0-9a-f]{8}", ran.out)
        if line in ("log --all", "branch"):
            plain = re.sub(r"\x1b\[[0-9;]*m", "", ran.out)
            assert max(map(len, plain.splitlines())) <= max(columns, 60)


def test_foreign_text_stays_on_its_line_and_off_the_terminal(tagged: Run) -> None:
    tagged("commit", "full", "-m", "one", "-q")
    message = "red \x1b[31m\u202e text\ttab"
    assert tagged("commit", "adapter-1", "-m", message, "--label", "a=\x1b]0;x\x07").code == 0
    for line in ("log", "show HEAD", "branch", "op log", "blame", "status", "log --format csv"):
        out = tagged(*line.split()).out
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", out), line


def test_a_closed_pipe_ends_quietly(tagged: Run) -> None:
    read, write = os.pipe()
    os.close(read)
    program = "from deltavc.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, "log"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
