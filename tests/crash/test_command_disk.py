"""A full disk and a read-only one: one line, nothing changed, looking goes on."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NOT_PERMITTED = 77
VERBS = [
    "commit", "revert", "branch", "tag", "undo", "checkout", "base", "rebuild", "env", "deploy",
]  # fmt: skip


def later(*values: Any) -> Any:
    """Marks a case for the slow set."""
    return pytest.param(*values, marks=pytest.mark.slow)


LOOK = (["log", "--all", "--json"], ["show", "main", "--json"], ["status", "--no-hash", "--json"])


@dataclass
class Shelf:
    """A repository on an ordinary disk, of which others get a copy."""

    commands: Any
    kept: Path
    mount: Path
    words: dict[str, list[str]]
    before: list[str]

    def run(
        self, steps: Sequence[Sequence[str]], source: Path | None = None, **limits: Any
    ) -> tuple[int, list[Any]]:
        """Runs commands in a copy on a disk of its own, seen by them alone."""
        running = self.commands.start(
            self.mount.parent, steps, root=self.mount, tmpfs=str(self.mount),
            tmpfs_source=str(source or self.kept), **limits,
        )  # fmt: skip
        outcomes = running.wait()
        return running.status, outcomes


@pytest.fixture(scope="module")
def shelf(commands, tmp_path_factory, models_in) -> Shelf:
    folder = tmp_path_factory.mktemp("shelf")
    models, kept = models_in(folder / "models"), folder / "kept"
    kept.mkdir()
    base = models.base()
    os.utime(base / "model.safetensors", (0, 0))
    commands.ok(kept, "init")
    commands.ok(kept, "base", "add", "tiny", base)
    commands.ok(kept, "commit", models.adapter(), "-m", "one")
    commands.ok(kept, "env", "define", "production", "--target", "serve")
    commands.ok(kept, "deploy", "main", "--env", "production", "--yes")
    commands.ok(kept, "commit", models.checkpoint(), "-m", "two")
    commands.ok(kept, "log")
    other = models.checkpoint("emb.weight")
    words = {
        "commit": ["commit", str(models.checkpoint("emb.weight")), "-m", "new"],
        "revert": ["revert", "HEAD~1"],
        "branch": ["branch", "fresh", "main"],
        "tag": ["tag", "v1", "main", "-m", "text"],
        "undo": ["undo"],
        "checkout": ["checkout", "main~1"],
        "base": ["base", "add", "other", str(other), "--copy"],
        "rebuild": ["doctor", "--rebuild-catalog"],
        "env": ["env", "define", "staging"],
        "deploy": ["deploy", "main", "--env", "production", "--yes"],
    }
    before = [row["commit"] for row in commands.ok(kept, "log", "--all", "--json").data]
    mount = folder / "mount"
    mount.mkdir()
    return Shelf(commands, kept, mount, words, before)


def check_refusal(outcome: Any) -> None:
    lines = outcome.err.splitlines()
    assert outcome.code == 14, outcome
    assert outcome.out == ""
    assert [line for line in lines if line.startswith("error: ")] == lines[:1]
    assert lines[1].startswith("hint: ")


def check_sight(shelf: Shelf, looked: Sequence[Any], *, changed: bool) -> None:
    for outcome in looked:
        assert outcome.code == 0, outcome
    commits = [row["commit"] for row in looked[0].data]
    if changed:
        assert set(commits) >= set(shelf.before[1:])  # an undo takes one away
    else:
        assert commits == shelf.before


def with_space_for(shelf: Shelf, name: str, kib: int) -> bool | None:
    """Runs a command where so much is free; says whether it sufficed, None without a disk."""
    steps = [shelf.words[name], *LOOK]
    status, outcomes = shelf.run(steps, tmpfs_kib=8192, leave_kib=kib)
    if status == NOT_PERMITTED:
        return None
    assert status == 0, status
    first, *looked = outcomes
    if first.code:
        check_refusal(first)
    check_sight(shelf, looked, changed=first.code == 0)
    return first.code == 0


@pytest.mark.parametrize("sizes", [(0, 12, 2000), later((4, 8, 16, 20, 24, 32, 40, 64, 96))])
@pytest.mark.parametrize(
    "name", ["commit", "checkout", "deploy", *(later(n) for n in ("base", "tag"))]
)
def test_a_full_disk(shelf, name, sizes):
    found = [with_space_for(shelf, name, kib) for kib in sizes]
    if found[0] is None:
        assert found == [None] * len(sizes)  # no right to mount: see the files that cannot grow
        return
    if 0 in sizes:
        assert (found[0], found[-1]) == (False, True)
    assert found == sorted(found)


@pytest.mark.parametrize("limit", [900, later(1), later(5000)])
@pytest.mark.parametrize(
    "name", ["commit", "revert", "tag", "undo", "checkout", "base", "rebuild", "deploy"]
)
def test_files_that_cannot_grow(shelf, tmp_path, name, limit):
    """Without the right to mount: every file may have so many bytes."""
    work = tmp_path / "work"
    shutil.copytree(shelf.kept, work, symlinks=True)
    argv = shelf.words[name]
    outcome = shelf.commands.run(work, *argv, largest_file=limit)
    if outcome.code:
        check_refusal(outcome)
    looked = shelf.commands.start(work, LOOK).wait()
    check_sight(shelf, looked, changed=outcome.code == 0)
    later = shelf.commands.start(work, [*LOOK, argv, ["fsck", "--json"]]).wait()
    assert [o.code for o in later] == [0] * 5, later
    assert later[-1].data["findings"] == []


@pytest.mark.parametrize("name", VERBS)
def test_a_folder_without_permission(shelf, tmp_path, digest_of, name):
    work = tmp_path / "work"
    shutil.copytree(shelf.kept, work, symlinks=True)
    before = digest_of(work)
    paths = [work, *work.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        outcomes = shelf.commands.start(work, [shelf.words[name], *LOOK], obey_modes=True).wait()
        assert digest_of(work) == before
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    check_refusal(outcomes[0])
    check_sight(shelf, outcomes[1:], changed=False)


def test_a_checkout_elsewhere_from_a_folder_without_permission(shelf, tmp_path, weights_of):
    """A serving host may read a repository that it cannot write."""
    work = tmp_path / "work"
    shutil.copytree(shelf.kept, work, symlinks=True)
    shelf.commands.ok(work, "checkout", "main", "--to", tmp_path / "before")
    paths = [work, *work.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        argv = ["checkout", "main", "--to", str(tmp_path / "out")]
        outcome = shelf.commands.run(work, *argv, obey_modes=True)
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert outcome.code == 0, outcome
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "before")


@pytest.mark.parametrize("catalog", ["there", "gone"])
def test_a_read_only_disk(shelf, catalog):
    steps = [*shelf.words.values(), *LOOK, ["fsck", "--json"], ["doctor", "--json"]]
    source = shelf.kept
    if catalog == "gone":
        source = shelf.kept.with_name("bare")
        shutil.copytree(shelf.kept, source, dirs_exist_ok=True, symlinks=True)
        for path in source.glob(".deltavc/catalog.db*"):
            path.unlink()
    status, outcomes = shelf.run(steps, source, tmpfs_kib=8192, read_only=True)
    if status == NOT_PERMITTED:
        assert outcomes == []
        return
    for outcome in outcomes[: len(shelf.words)]:
        check_refusal(outcome)
    check_sight(shelf, outcomes[len(shelf.words) : -2], changed=False)
    assert outcomes[-2].code == 0, outcomes[-2]
    assert outcomes[-1].code in (0, 1)
