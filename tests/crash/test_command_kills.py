"""Killed at any step, a command leaves the old state or the new one, and nothing in the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FEW, MANY = 3, 8
"""Steps to die at, spread over all of a command: in the quick loop, and in the slow one."""


@dataclass
class Ground:
    """A repository that can be put back as it was."""

    commands: Any
    work: Path
    kept: Path
    models: Any
    revisions: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)

    def restore(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.kept, self.work, symlinks=True)

    def killed(self, n: int, argv: Sequence[str], first: Sequence[Sequence[str]] = ()) -> bool:
        """Runs a command that dies at its n-th step; says whether it came that far."""
        running = self.commands.start(
            self.work, [*first, {"argv": list(argv), "kill_at": n}], root=self.work.parent
        )
        outcomes = running.wait()
        assert all(o.code == 0 for o in outcomes), outcomes
        assert running.status in (0, -signal.SIGKILL)
        assert len(outcomes) == len(first) + (running.status == 0)
        return running.status != 0

    def steps(self, argv: Sequence[str], first: Sequence[Sequence[str]] = ()) -> int:
        """Counts the steps of a command that is left alone."""
        self.restore()
        outcomes = self.commands.start(self.work, [*first, argv], root=self.work.parent).wait()
        assert all(o.code == 0 for o in outcomes), outcomes
        return outcomes[-1].steps

    def after(self, *steps: Sequence[str]) -> list[Any]:
        """Runs what comes next, which must work without help, and returns the answers."""
        outcomes = self.commands.start(self.work, [[*argv, "--json"] for argv in steps]).wait()
        assert len(outcomes) == len(steps)
        for argv, outcome in zip(steps, outcomes, strict=True):
            assert outcome.code == 0, (argv, outcome)
            assert outcome.err == "", (argv, outcome)
        return [outcome.data for outcome in outcomes]


def age(folder: Path) -> None:
    """Makes what a killed process left look as if it had lain there for a day."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 86_400))


def chosen(total: int, most: int) -> list[int]:
    """Returns at most so many of the steps 1 … total + 1, the first and the last among them."""
    wanted = range(1, total + 2)
    if len(wanted) <= most:
        return list(wanted)
    return sorted({1 + round(i * total / (most - 1)) for i in range(most)})


@pytest.fixture(scope="module")
def ground(commands, tmp_path_factory, models_in, weights_of) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    models = models_in(folder / "models")
    work = folder / "home" / "work"
    work.mkdir(parents=True)
    ground = Ground(commands, work, folder / "kept", models)
    base = models.base()
    os.utime(base / "model.safetensors", (0, 0))
    run = lambda *argv: commands.ok(work, *argv, "--json").data  # noqa: E731
    run("init")
    run("base", "add", "tiny", base)
    sources = {"one": models.adapter(), "two": models.checkpoint(), "three": models.adapter()}
    for name, source in sources.items():
        ground.revisions[name] = run("commit", source, "-m", name)["commit"]
        run("checkout", "HEAD", "--to", folder / name)
        ground.weights[name] = weights_of(folder / name)
    run("branch", "side", ground.revisions["one"])
    run("tag", "v1", ground.revisions["two"], "-m", "a tag")
    ground.before = [row["commit"] for row in run("log", "--all")]
    shutil.copytree(work, ground.kept, symlinks=True)
    return ground


LOG = ("log", "--all")


def records(ground: Ground, argv: Sequence[str], n: int, new: int) -> str:
    """Kills a command that records; afterwards the history is the old or the new one."""
    ground.restore()
    died = ground.killed(n, argv)
    age(ground.work / ".deltavc" / "tmp")
    rows, found, check, later = ground.after(
        LOG, ("commit", str(ground.next), "-m", "after"), ("fsck",), LOG
    )
    commits = [row["commit"] for row in rows]
    assert commits[-len(ground.before) :] == ground.before
    assert len(commits) in (len(ground.before), len(ground.before) + new)
    assert found["changed"]
    assert [row["commit"] for row in later] == [found["commit"], *commits]
    assert check["ok"], check
    assert check["findings"] == []
    assert list((ground.work / ".deltavc" / "tmp").iterdir()) == []
    if not died:
        assert len(commits) == len(ground.before) + new
    return "new" if len(commits) > len(ground.before) else "old"


@pytest.fixture
def recording(ground: Ground) -> Callable[[str], list[str]]:
    ground.next = ground.models.adapter()
    other = ground.models.base().with_name("other")
    if not other.exists():
        shutil.copytree(ground.models.checkpoint("emb.weight"), other)

    def words(name: str) -> list[str]:
        return {
            "adapter": ["commit", str(ground.models.adapter()), "-m", "new", "--kpi", "acc=0.5"],
            "checkpoint": ["commit", str(ground.models.checkpoint("emb.weight")), "-m", "new"],
            "revert": ["revert", ground.revisions["two"]],
            "cherry-pick": ["cherry-pick", ground.revisions["two"]],
            "branch": ["branch", "fresh", "main"],
            "tag": ["tag", "v2", "main", "-m", "another"],
            "undo": ["undo"],
            "base": ["base", "add", "other", str(other)],
            "copy": ["base", "add", "other", str(other), "--copy"],
            "rebuild": ["doctor", "--rebuild-catalog"],
        }[name]

    return words


RECORDING = {"adapter": 1, "checkpoint": 1, "revert": 1}
OTHERS = ("branch", "tag", "undo", "base", "copy", "rebuild")


@pytest.mark.parametrize("most", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*RECORDING, *OTHERS])
def test_a_killed_command_that_records(ground, recording, name, most):
    argv, new = recording(name), RECORDING.get(name, 0)
    outcomes = [records(ground, argv, n, new) for n in chosen(ground.steps(argv), most)]
    if new:
        assert outcomes == sorted(outcomes, reverse=True)
        assert {"old", "new"} == set(outcomes)


CHECKOUTS = {
    "fresh": ([], ["checkout", "main"]),
    "in-place": ([["checkout", "v1"]], ["checkout", "main"]),
    "replace": ([["checkout", "v1"]], ["checkout", "main", "--force"]),
    "undo": ([["checkout", "v1"]], ["undo"]),
}


def receipt_of(model: Path) -> str | None:
    """Returns the revision that a folder says it holds, if it says so."""
    path = model / "deltavc.json"
    return json.loads(path.read_text())["commit"] if path.exists() else None


def checks_out(ground: Ground, name: str, n: int, weights_of: Callable[[Path], Any]) -> None:
    """Kills a checkout; afterwards another one is possible and right, whichever way it goes."""
    ground.restore()
    first, argv = CHECKOUTS[name]
    if name == "replace":  # a stranger's folder
        shutil.copytree(ground.models.checkpoint(), ground.work / "model", dirs_exist_ok=True)
        first = []
    died = ground.killed(n, argv, first)
    age(ground.work / ".deltavc" / "tmp")
    model = ground.work / "model"
    told = receipt_of(model)
    if told is not None:  # whatever the moment, it is true
        names = {oid: one for one, oid in ground.revisions.items()}
        assert weights_of(model) == ground.weights[names[told]]
    if name != "replace":
        (status,) = ground.after(("status",))
        if not status["interrupted"] and model.exists():
            held = weights_of(model)
            assert held in (ground.weights["two"], ground.weights["three"])
            if not died:
                assert held == ground.weights["three"]
                assert status["clean"]
    target, expected = [("main", "three"), ("side", "one"), ("v1", "two")][n % 3]
    force = ["--force"] if name == "replace" else []
    status, _ = ground.after(("checkout", target, *force), ("status",))
    assert weights_of(model) == ground.weights[expected]
    assert status["commit"] == ground.revisions[expected]
    names = ["config.json", "deltavc.json", "model.safetensors"]
    assert sorted(p.name for p in model.iterdir()) == names
    assert receipt_of(model) == ground.revisions[expected]
    assert sorted(p.name for p in ground.work.iterdir()) == [".deltavc", "model"]
    assert not (ground.work / ".deltavc" / "workspace.journal").exists()
    (check,) = ground.after(("fsck",))
    assert {found["code"] for found in check["findings"]} <= {"log-torn"}  # until the next event


@pytest.mark.parametrize("most", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHECKOUTS)
def test_a_killed_checkout(ground, weights_of, name, most):
    first, argv = CHECKOUTS[name]
    for n in chosen(ground.steps(argv, first), most):
        checks_out(ground, name, n, weights_of)


@pytest.mark.parametrize("most", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_killed_init(commands, tmp_path, most):
    total = commands.ok(_fresh(tmp_path, 0), "init").steps
    for n in chosen(total, most):
        folder = _fresh(tmp_path, n)
        commands.start(folder, [{"argv": ["init"], "kill_at": n}]).wait()
        outcomes = commands.start(folder, [["init"], ["status", "--json"], ["op", "log"]]).wait()
        assert [o.code for o in outcomes] == [0, 0, 0], (n, outcomes)
        assert outcomes[1].data["head"]["branch"] == "main", n
        assert [p.name for p in folder.iterdir()] == [".deltavc"], n
        assert len(outcomes[2].out.splitlines()) == 1


def _fresh(tmp_path: Path, n: int) -> Path:
    folder = tmp_path / f"init-{n}"
    folder.mkdir()
    return folder
