"""A team's autumn, told in one repository, and ways to ask about it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import deltavc
from deltavc.cli.main import main
from deltavc.errors import ApprovalMissing
from deltavc.repo import branches

ADA, KAI, BO = "Ada <ada@example.org>", "Kai <kai@example.org>", "Bo <bo@example.org>"
REMOVED = ("NO_COLOR", "FORCE_COLOR", "PAGER", "CI", "SOURCE_DATE_EPOCH")


def ms(text: str) -> int:
    """Milliseconds of a time in UTC."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1000


class Story:
    """The repository while it grows: who acts is said each time, the clock stands still."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "repo"
        self.now = ms("2026-09-01T10:00")
        self.rng = np.random.default_rng(3)
        self.versions: dict[str, str] = {}
        self.ids: dict[str, Any] = {}
        base = {f"layers.{n}.q.weight": self._normal(8, 8) for n in (0, 1)}
        (root / "base").mkdir()
        save_file(base, root / "base" / "model.safetensors", metadata={"format": "pt"})
        (root / "base" / "config.json").write_text('{"hidden_size": 8}')
        (root / "tickets.csv").write_text("text,label\nhelp,1\n")
        (root / "german.csv").write_text("text,label\nhilfe,1\n")

    def _normal(self, *shape: int) -> Any:
        return self.rng.normal(size=shape).astype("f4")

    def as_(self, actor: str, time: str | None = None) -> deltavc.Repository:
        """The repository in somebody's hands."""
        if time is not None:
            self.now = ms(time)
        return deltavc.open(self.folder, actor=actor, clock=lambda: self.now)

    def adapter(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        module = "base_model.model.layers.0.q"
        factors = {
            f"{module}.lora_A.weight": self._normal(2, 8),
            f"{module}.lora_B.weight": 0.1 * self._normal(8, 2),
        }
        save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"],
                  "bias": "none", "base_model_name_or_path": "tiny"}  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    def commit(self, repo: deltavc.Repository, name: str, message: str, **more: Any) -> str:
        done = repo.commit(self.adapter(name), message=message, **more)
        assert done.commit is not None
        self.versions[name] = done.commit
        return done.commit

    def request(self, repo: deltavc.Repository) -> str:
        """Asks for a promotion that has to wait."""
        with pytest.raises(ApprovalMissing) as refused:
            repo.promote("staging", "production", reason="weekly release")
        return str(refused.value.context["request"])


def tell(root: Path) -> Story:
    story = Story(root)
    deltavc.init(story.folder, actor=ADA, clock=lambda: story.now)
    ada = story.as_(ADA)
    ada.add_base("tiny", root / "base")
    ada.define_kpi("accuracy", direction="higher", kind="proportion", min_samples=100)
    ada.define_gate("release", ["accuracy >= 0.8"])
    ada.define_environment("staging", gates=["release"])
    ada.define_environment("production", after="staging", gates=["release"], approvals=1)
    ada.define_environment("dev")

    ada = story.as_(ADA, "2026-09-02T09:00")
    story.commit(
        ada,
        "v1",
        "first release",
        labels={"licence": "CC-BY-4.0", "code": "9f2c41d", "team": "support"},
        data=[root / "tickets.csv"],
        run="mlflow:8c1f22",
    )
    ada.measure("HEAD", {"accuracy": 0.9}, samples=1000, dataset="holdout-1", tool="lm-eval 1.2",
                dataset_sha256="d" * 64)  # fmt: skip
    ada.tag("v1.0", "HEAD")
    ada.deploy("HEAD", "staging", reason="first")
    first = story.request(story.as_(ADA, "2026-09-03T09:00"))
    story.as_(KAI, "2026-09-03T10:00").approve(first, reason="numbers are good")
    story.as_(ADA, "2026-09-03T12:00").promote("staging", "production", reason="weekly release")

    ada = story.as_(ADA, "2026-09-10T09:00")
    story.commit(ada, "v2", "more tickets", data=[root / "tickets.csv", root / "german.csv"])
    measured = ada.measure("HEAD", {"accuracy": 0.93}, samples=1000, dataset="holdout-1")
    ada.deploy("HEAD", "staging")
    second = story.request(story.as_(ADA, "2026-09-11T09:00"))
    story.as_(KAI, "2026-09-11T10:00").approve(second, reason="better again")
    story.as_(ADA, "2026-09-12T09:00").promote("staging", "production", reason="weekly release")

    kai = story.as_(KAI, "2026-09-20T09:00")
    story.commit(kai, "v3", "an experiment")
    kai.measure("HEAD", {"accuracy": 0.7}, samples=1000, dataset="holdout-1")
    kai.deploy("HEAD", "staging", override=["release"], reason="to look at it")

    story.as_(BO, "2026-10-05T08:00").rollback("production", reason="INC-318: wrong answers")
    kai = story.as_(KAI, "2026-10-06T09:00")
    kai.measure("v1.0~0", {"accuracy": 0.91}, samples=2000, dataset="holdout-2")
    kai.measure(story.versions["v2"], {"accuracy": 0.78}, samples=1000, dataset="holdout-1",
                supersedes=measured[0].id, reason="measured on training data")  # fmt: skip
    kai.deploy(story.versions["v3"], "dev")
    kai.branch("side", "HEAD~1")
    branches.delete(kai._repo, "side")
    story.as_(BO, "2026-10-05T09:00").define_kpi(  # the clock of Bo's machine is a day behind
        "latency", direction="lower", kind="mean", unit="ms"
    )
    story.now = ms("2026-11-01T00:00")
    return story


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The story. Who changes anything takes a copy."""
    return tell(tmp_path_factory.mktemp("story"))


@dataclass
class Asked:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The answer for programs."""
        document = json.loads(self.out)
        assert document["ok"], document
        return document["data"]

    @property
    def error(self) -> Any:
        """The refusal for programs."""
        document = json.loads(self.out)
        assert not document["ok"], document
        return document["error"]


Ask = Callable[..., Asked]


@pytest.fixture
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own and a clock that stands on the first of November."""
    (tmp_path / "home").mkdir()
    for name in list(os.environ):
        if name.startswith(("DELTAVC_", "GIT_")) or name in REMOVED:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(ms("2026-11-01T00:00") // 1000))
    monkeypatch.setenv("DELTAVC_ACTOR", "Eve <eve@example.org>")
    monkeypatch.setenv("DELTAVC_PROGRESS", "0")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(clean_environment: None, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command line in this process."""

    def command(*argv: object) -> Asked:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Asked(code, captured.out, captured.err)

    return command


@pytest.fixture
def ask(told: Story, run: Ask, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks about the story."""
    monkeypatch.chdir(told.folder)
    return run


@pytest.fixture
def copy(told: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the story's repository, to be changed; the working folder is there."""
    shutil.copytree(told.root, tmp_path / "story")
    monkeypatch.chdir(tmp_path / "story" / "repo")
    return tmp_path / "story" / "repo"
