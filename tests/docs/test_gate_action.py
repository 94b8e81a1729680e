"""The composite action of the how-to: well formed, and its script does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ACTION = Path(__file__).parents[2] / "docs/how-to/deltavc-gate/action.yml"
PAGE = ACTION.parents[1] / "gate-in-ci.md"
INPUT = re.compile(r"\$\{\{ inputs\.([a-z-]+) \}\}")


@pytest.fixture(scope="module")
def action() -> Any:
    return yaml.safe_load(ACTION.read_text())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, commands: Any, models_in: Any) -> Path:
    """A repository whose HEAD passes one gate, fails another and leaves a third open."""
    folder = tmp_path_factory.mktemp("action")
    models = models_in(folder / "models")
    repo = folder / "a repository"
    commands.ok(folder, "init", repo)
    commands.ok(repo, "base", "add", "tiny", models.base())
    commands.ok(repo, "commit", models.adapter(), "-m", "a")
    commands.ok(
        repo, "kpi", "define", "acc", "--direction", "higher", "--kind", "proportion",
        "--min-samples", "100",
    )  # fmt: skip
    commands.ok(repo, "kpi", "add", "HEAD", "acc=0.9", "--samples", "1000")
    for name, limit in (("good", 0.8), ("bad", 0.95), ("open", 0.9)):
        commands.ok(repo, "kpi", "gate", "define", name, "--require", f"acc >= {limit}")
    binary = folder / "bin" / "deltavc"
    binary.parent.mkdir()
    code = "import sys; from deltavc.cli.main import run; sys.argv[0] = 'deltavc'; run()"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    binary.chmod(0o755)
    return folder


def run(action: Any, desk: Path, **given: str) -> tuple[int, str, str]:
    """Runs the step as a runner does: exit code, outputs, summary."""
    asked = {name: value.get("default", "") for name, value in action["inputs"].items()}
    asked |= {name.replace("_", "-"): value for name, value in given.items()}
    (step,) = action["runs"]["steps"]
    output, summary = desk / "output", desk / "summary"
    output.write_text("")
    summary.write_text("")
    environment = {
        name: INPUT.sub(lambda m: asked[m[1]], text) for name, text in step["env"].items()
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=desk, capture_output=True, text=True, timeout=60,
        env={"PATH": f"{desk / 'bin'}:/usr/bin:/bin", "HOME": str(desk), **environment,
             "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)},
    )  # fmt: skip
    return done.returncode, output.read_text(), summary.read_text()


def test_it_is_a_composite_action(action: Any) -> None:
    assert {"name", "description", "inputs", "outputs", "runs"} == set(action)
    assert action["runs"]["using"] == "composite"
    assert [key for key, one in action["inputs"].items() if one.get("required")] == ["gate"]
    for one in (*action["inputs"].values(), *action["outputs"].values()):
        assert one["description"]
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]  # an input is never text within the script
        assert set(INPUT.findall("".join(step["env"].values()))) == set(action["inputs"])


@pytest.mark.parametrize(
    ("gate", "options", "code", "verdict"),
    [
        ("good", {}, 0, "pass"),
        ("bad", {"against": "HEAD"}, 1, "fail"),
        ("open", {}, 3, "inconclusive"),
        ("open", {"allow_inconclusive": "true"}, 0, "inconclusive"),
    ],
)
def test_a_verdict_becomes_the_steps(
    action: Any, desk: Path, gate: str, options: dict[str, str], code: int, verdict: str
) -> None:
    found = run(action, desk, gate=gate, directory="a repository", **options)
    assert found[:2] == (code, f"verdict={verdict}\n")
    assert verdict in found[2]


@pytest.mark.parametrize("name", ["$(touch owned)", "--help", "'; touch owned; '"])
def test_a_hostile_name_is_only_a_name(action: Any, desk: Path, name: str) -> None:
    code, output, _ = run(action, desk, gate=name, directory="a repository")
    assert (code, output) == (20, "")
    code, output, _ = run(action, desk, gate="good", revision=name, directory="a repository")
    assert (code, output) == (20, "")
    assert not list(desk.rglob("owned"))


def test_the_page_shows_this_file_and_a_workflow_that_uses_it(action: Any) -> None:
    text = PAGE.read_text()
    assert "{literalinclude} deltavc-gate/action.yml" in text
    (workflow,) = [
        yaml.safe_load(block)
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]
    (job,) = workflow["jobs"].values()
    (step,) = [one for one in job["steps"] if "deltavc-gate" in one.get("uses", "")]
    assert step["uses"] == "./.github/actions/deltavc-gate"
    assert set(step["with"]) <= set(action["inputs"])
