"""Several processes at once: all succeed or say why, nothing is lost, the history stays whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

MOVED = 32


@dataclass
class Site:
    """A repository that several processes work in."""

    commands: Any
    work: Path
    models: Any

    def ok(self, *argv: object) -> Any:
        return self.commands.ok(self.work, *argv, "--json").data

    def at_once(self, *scripts: Sequence[Sequence[object]]) -> list[list[Any]]:
        """Runs scripts of commands, each in a process of its own, and returns all outcomes."""
        running = [
            self.commands.start(self.work, [[*map(str, argv), "--json"] for argv in script])
            for script in scripts
        ]
        outcomes = [process.wait() for process in running]
        assert [process.status for process in running] == [0] * len(scripts)
        return outcomes

    def history(self, rev: str = "main") -> list[dict[str, Any]]:
        return self.ok("log", rev)

    def is_whole(self) -> None:
        """Holds objects, chain and catalog against each other."""
        check = self.ok("fsck")
        assert check["findings"] == [], check
        kept = rows_of(self.work / ".deltavc/catalog.db")
        self.ok("doctor", "--rebuild-catalog")
        assert rows_of(self.work / ".deltavc/catalog.db") == kept


def rows_of(catalog: Path) -> dict[str, Counter[tuple[Any, ...]]]:
    """Returns all rows of a catalog by table."""
    connection = sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)
    try:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: Counter(connection.execute(f'SELECT * FROM "{name}"').fetchall())
            for (name,) in names
        }
    finally:
        connection.close()


@pytest.fixture(scope="module")
def template(commands, tmp_path_factory, models_in) -> Site:
    folder = tmp_path_factory.mktemp("site")
    models = models_in(folder / "models")
    base = models.base()
    os.utime(base / "model.safetensors", (0, 0))
    work = folder / "work"
    work.mkdir()
    site = Site(commands, work, models)
    site.ok("init")
    site.ok("base", "add", "tiny", base)
    site.ok("commit", base, "-m", "root")
    site.ok("commit", models.adapter(), "-m", "first")
    return site


@pytest.fixture
def site(template, tmp_path) -> Site:
    shutil.copytree(template.work, tmp_path / "work")
    return Site(template.commands, tmp_path / "work", template.models)


@pytest.mark.parametrize(
    ("processes", "commits"), [(2, 2), pytest.param(8, 4, marks=pytest.mark.slow)]
)
def test_commits_on_one_branch(site, processes, commits):
    scripts = [
        [("commit", site.models.adapter(), "-m", f"{p}-{c}") for c in range(commits)]
        for p in range(processes)
    ]
    made = {}
    for outcomes in site.at_once(*scripts):
        for outcome in outcomes:
            assert outcome.code == 0, outcome
            made[outcome.data["commit"]] = outcome.data["message"]
    rows = site.history()
    assert len(rows) == 2 + processes * commits
    assert {row["commit"] for row in rows[:-2]} == set(made)
    for child, parent in pairwise(rows):
        assert child["parents"] == [parent["commit"]]
    for p in range(processes):  # each saw its own in order
        mine = [r["message"] for r in reversed(rows) if r["message"].startswith(f"{p}-")]
        assert mine == [f"{p}-{c}" for c in range(commits)]
    site.is_whole()


def test_stacked_commits_are_made_on_what_they_were_trained_on(site):
    scripts = [[("commit", site.models.adapter(), "-m", f"s{p}", "--stack")] for p in range(4)]
    codes = [outcomes[0].code for outcomes in site.at_once(*scripts)]
    assert set(codes) <= {0, MOVED}
    assert 0 in codes
    rows = site.history()
    assert len(rows) == 2 + codes.count(0)
    site.is_whole()


@pytest.mark.parametrize("processes", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_refs_by_many(site, processes):
    scripts = [
        [
            ("branch", f"b{p}", "main"),
            ("tag", f"t{p}", "main", "-m", "text"),
            ("branch", "contested", "main~1" if p % 2 else "main"),
            ("commit", site.models.adapter(), "-m", f"c{p}"),
        ]
        for p in range(processes)
    ]
    won = 0
    for branch, tag, contested, commit in site.at_once(*scripts):
        assert (branch.code, tag.code, commit.code) == (0, 0, 0)
        assert contested.code in (0, 22), contested
        won += contested.code == 0
    assert won >= 1
    names = {row["name"] for row in site.ok("branch")}
    assert names == {"main", "contested", *(f"b{p}" for p in range(processes))}
    assert len(site.ok("tag")) == processes
    site.is_whole()


@pytest.mark.parametrize("rounds", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_undo_beside_commits(site, rounds):
    for i in range(rounds):  # else an undo would take back the base
        site.ok("branch", f"b{i}", "main")
    commits = [("commit", site.models.adapter(), "-m", f"c{i}") for i in range(rounds)]
    undone, made = site.at_once([("undo",)] * rounds, commits)
    assert {outcome.code for outcome in undone + made} <= {0, MOVED}
    done = [o.data["commit"] for o in made if o.code == 0]
    for commit in done:  # taken back or not, it is there
        site.ok("show", commit)
    took = sum(outcome.code == 0 for outcome in undone)
    assert len(site.ok("op", "log")) == 4 + rounds + len(done) + took
    rows = site.history()
    for child, parent in pairwise(rows):
        assert child["parents"] == [parent["commit"]]
    site.is_whole()


@pytest.mark.parametrize("rounds", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_checkout_beside_commits(site, weights_of, rounds):
    commits = [("commit", site.models.adapter(), "-m", f"c{i}") for i in range(rounds)]
    wrote, made = site.at_once([("checkout", "main")] * rounds, commits)
    assert {outcome.code for outcome in made} == {0}
    assert {outcome.code for outcome in wrote} <= {0, MOVED}
    status = site.ok("status", "--no-hash")
    assert status["head"]["branch"] == "main"  # never detached in passing
    assert len(site.history()) == 2 + rounds
    held = status["workspace_commit"]
    assert held is not None
    site.ok("checkout", held, "--to", site.work.parent / "fresh")
    assert weights_of(site.work / "model") == weights_of(site.work.parent / "fresh")
    site.is_whole()


@pytest.mark.parametrize("rounds", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_checkouts_take_turns(site, weights_of, rounds):
    revisions = [row["commit"] for row in site.history()]
    site.ok("checkout", "main")
    scripts = [[("checkout", revisions[(p + i) % 2]) for i in range(rounds)] for p in range(3)]
    for outcomes in site.at_once(*scripts):
        assert [outcome.code for outcome in outcomes] == [0] * rounds, outcomes
    status = site.ok("status")
    assert status["clean"]
    assert not status["interrupted"]
    assert status["head"]["commit"] == status["workspace_commit"]
    site.is_whole()


@pytest.mark.parametrize("copy", [[], ["--copy"]])
def test_bases_beside_commits(site, copy):
    other = site.models.checkpoint("emb.weight")
    scripts = [
        [("base", "add", "other", other, *copy)],
        [("base", "add", "other", other, *copy)],
        [("base", "add", "third", other, *copy)],
        [("commit", site.models.adapter(), "-m", "c", "--base", "tiny")],
    ]
    for outcomes in site.at_once(*scripts):
        assert outcomes[0].code == 0, outcomes
    assert {row["name"] for row in site.ok("base", "list")} == {"tiny", "other", "third"}
    assert all(row["ok"] for row in site.ok("base", "verify"))
    site.is_whole()


def test_one_repository_by_many(commands, tmp_path):
    running = [commands.start(tmp_path, [["init", "--json"]]) for _ in range(6)]
    outcomes = [process.wait()[0] for process in running]
    assert [outcome.code for outcome in outcomes] == [0] * 6
    assert [path.name for path in tmp_path.iterdir()] == [".deltavc"]
    assert len(commands.ok(tmp_path, "op", "log", "--json").data) == 1


def test_rebuilding_the_catalog_beside_commits_and_readers(site):
    commits = [("commit", site.models.adapter(), "-m", f"c{i}") for i in range(3)]
    rebuilt, made, read = site.at_once(
        [("doctor", "--rebuild-catalog")] * 3, commits, [("log",)] * 5
    )
    assert {outcome.code for outcome in rebuilt + made + read} == {0}
    assert len(site.history()) == 5
    site.is_whole()


def holding(site: Site) -> Any:
    """A commit that was stopped (SIGSTOP) while it held the repository's lock."""
    argv = ["commit", str(site.models.adapter()), "-m", "held"]
    lock = site.work / ".deltavc/lock"
    for step in range(4, 60):
        running = site.commands.start(site.work, [{"argv": argv, "hold_at": step}])
        while _state(running.pid) not in ("T", "Z", ""):
            time.sleep(0.01)
        if _state(running.pid) == "T" and str(running.pid) in lock.read_text():
            return running
        if _state(running.pid) == "T":
            os.kill(running.pid, signal.SIGKILL)
        running.wait()
    raise AssertionError("no step holds the lock")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_holder_that_stands_still_is_named_and_one_that_died_is_not_waited_for(site):
    holder = holding(site)
    refused = site.commands.run(site.work, "branch", "b", "main", lock_timeout=0.3)
    assert refused.code == 12, refused
    first = refused.err.splitlines()[0]
    assert f"process {holder.pid}" in first
    assert "commit by Ada" in first
    for argv in (["log"], ["show", "main"], ["status", "--no-hash"], ["fsck"]):
        site.commands.ok(site.work, *argv)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    site.ok("branch", "b", "main")
    assert time.monotonic() - started < 20
    site.is_whole()


def test_a_holder_that_goes_on_is_waited_for(site):
    holder = holding(site)
    waiting = site.commands.start(site.work, [["branch", "b", "main"]])
    time.sleep(0.3)
    os.kill(holder.pid, signal.SIGCONT)
    assert [outcome.code for outcome in holder.wait()] == [0]
    assert [outcome.code for outcome in waiting.wait()] == [0]
    assert [row["message"] for row in site.history()] == ["held", "first", "root"]
    site.is_whole()


@pytest.mark.parametrize("processes", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_deployments_by_many(site, processes):
    """To one environment each is carried out or told of another; to their own all succeed."""
    for name in ("shared", *(f"e{p}" for p in range(processes))):
        site.ok("env", "define", name, "--target", f"serve/{name}")
    scripts = [
        [
            ("deploy", "main" if p % 2 else "main~1", "--env", "shared", "--yes"),
            ("deploy", "main", "--env", f"e{p}", "--yes"),
        ]
        for p in range(processes)
    ]
    codes = []
    for shared, own in site.at_once(*scripts):
        assert own.code == 0, own
        codes.append(shared.code)
    assert set(codes) <= {0, MOVED}
    assert 0 in codes
    for name in ("shared", *(f"e{p}" for p in range(processes))):
        shown = site.ok("env", "show", name)
        assert shown["in_step"]
        told = json.loads((site.work / "serve" / name / "current" / "deltavc.json").read_text())
        assert told["commit"] == shown["serving"]["revision"]
    log = site.ok("env", "log", "shared")
    assert [row["previous"] for row in log] == [row["deployment"] for row in log[1:]] + [None]
    site.is_whole()
