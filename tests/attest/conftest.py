"""A repository with two versions, what was measured of them, and checkouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import deltavc

DATA = b"text,label\nhello,1\n"


class Desk:
    """A repository, its versions, and folders."""

    def __init__(self, root: Path, models: Any) -> None:
        self.root = root
        self.models = models
        self.now = 1_760_000_000_000
        self.api = deltavc.init(root / "repo", actor="Ada <ada@example.org>", clock=self.clock)
        self.api.add_base("tiny", models.base(), source="hf:org/tiny-llama@0123abcd")
        (root / "train.csv").write_bytes(DATA)
        self._count = 0

    @property
    def repo(self) -> Any:
        """What functions of the library take."""
        return self.api._repo

    def clock(self) -> int:
        self.now += 1000
        return self.now

    def reopen(self) -> Any:
        """The same repository, opened by somebody else, later."""
        later = self.now + 86_400_000
        return deltavc.open(
            self.root / "repo", actor="Bo <bo@example.org>", clock=lambda: later
        )._repo

    def commit(self, source: Path | None = None, message: str = "a change", **more: Any) -> str:
        done = self.api.commit(source or self.models.adapter(), message=message, **more)
        assert done.commit is not None
        return str(done.commit)

    def out(self, rev: str, **options: Any) -> Path:
        """A checkout in a folder of its own."""
        self._count += 1
        folder = self.root / f"out-{self._count}" / "model"
        self.api.checkout(rev, to=folder, **options)
        return folder

    def define(self) -> None:
        """The KPI and the gates that are asked."""
        self.api.define_kpi("acc", direction="higher", kind="proportion", min_samples=100)
        self.api.define_gate("release", ["acc >= 0.85", "acc[rare] >= 0.7"])


@pytest.fixture
def desk(tmp_path: Path, models: Any) -> Desk:
    return Desk(tmp_path, models)
