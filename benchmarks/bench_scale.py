"""A history of years: 100,000 commits and events, 500,000 measurements, 600 deployments.

Questions are timed as whole commands, start of the interpreter included, beside one that
does nothing. What is slow must be the question and not the history around it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.bench_rows import Lab, Row
from benchmarks.bench_startup import COMMAND, ENV
from benchmarks.synthetic_history import START, no_flush, synthetic_history
from benchmarks.timing import Timed, Variant, compare, process
from deltavc.catalog.queries import names, saved
from deltavc.ids import CommitId, ObjectId
from deltavc.repo.repository import Repository
from deltavc.repo.session import Session

__all__ = ["scale"]

_ACTOR = "Bench <bench@example.org>"
_SECONDS = 1.0  # for every question
_VERIFY = 2.0  # for the log of 100,000 events
_REBUILT = 20_000  # events a second
_AT = "2023-12-20"
_FOUND = (0, 1)  # 1: a saved query that should find nothing found something


def scale(lab: Lab) -> list[Row]:
    """Asks, verifies, rebuilds and goes back in a history of 100,000 commits."""
    facts = synthetic_history(5_000 if lab.quick else 100_000)
    lab.say(f"scale: {facts.commits} commits in {facts.folder}")
    values = _values(facts.folder)
    floor = process("python -c pass", [sys.executable, "-c", "pass"])
    asked = [floor, *_questions(facts.folder, values), *_saved(facts.folder, values)]
    timed = compare(asked, rounds=lab.rounds(5), on_round=lambda n: lab.say(f"scale: round {n}"))
    rows = [_row(each, _SECONDS) for each in timed[1:]]
    rows += _in_process(lab, facts.folder)
    copy = _copy(facts.folder, lab.scratch("scale"))
    rows += _rebuilt(lab, copy)
    return rows + _rolled_back(lab, copy, floor)


def _row(one: Timed, limit: float | None) -> Row:
    note = f"{one.cpu:.2f} s of CPU, {one.ratio:.1f} x python -c pass"
    return Row(f"{one.name}, whole process", one.wall, limit, "s", note=note)


def _values(folder: Path) -> dict[str, Any]:
    """Returns what questions are about: ends of the history, a version that was deployed."""
    with sqlite3.connect(f"file:{folder}/.deltavc/catalog.db?mode=ro", uri=True) as db:
        (first,) = db.execute("SELECT id FROM commits WHERE key = 1").fetchone()
        (tip,) = db.execute("SELECT value FROM refs WHERE name = 'branch:main'").fetchone()
        (live,) = db.execute(
            "SELECT revision FROM v_deployments WHERE environment = 'prod' AND action = 'deploy'"
            " ORDER BY event DESC LIMIT 1"
        ).fetchone()
        (base,) = db.execute("SELECT fingerprint FROM bases").fetchone()
    db.close()
    return {
        "first": first, "tip": tip, "live": live, "rev": live, "id": live, "base": base,
        "actor": "Person 3", "data": "orders-7.csv", "at": _AT, "since": _AT, "now": "2025-01-01",
        "env": "prod",
    }  # fmt: skip


def _questions(folder: Path, values: dict[str, Any]) -> Iterable[Variant]:
    """Yields the commands whose answer must not depend on the length of the history."""
    lines: dict[str, tuple[str, ...]] = {
        "log -l 20": (),
        "log --all -l 20": (),
        "show TIP": ("show", values["tip"]),
        "show best:accuracy": (),
        "status --no-hash": (),
        "branch": (),
        "tag": (),
        "kpi list": (),
        "op log -l 20": (),
        "audit log -l 20": (),
        "env list": (),
        "env show prod": (),
        "env show prod --at TIME": ("env", "show", "prod", "--at", _AT),
        "env log prod": (),
        "bisect kpi": (
            "bisect", "kpi", "accuracy", "--expect", ">= 0.85",
            "--good", values["first"], "--bad", values["tip"],
        ),
    }  # fmt: skip
    for name, words in lines.items():
        yield process(name, [COMMAND, *(words or name.split())], env=ENV, cwd=folder)
    typed = {
        "_DELTAVC_COMPLETE": "bash_complete",
        "COMP_WORDS": "deltavc show v1",
        "COMP_CWORD": "2",
    }
    yield process("completion of a tag", [COMMAND], env={**ENV, **typed}, cwd=folder)


def _saved(folder: Path, values: dict[str, Any]) -> Iterable[Variant]:
    """Yields each saved query."""
    for query in map(saved, names()):
        words = [COMMAND, "audit", "query", "--saved", query.name]
        for parameter in query.params:
            words += ["--param", f"{parameter.name}={values[parameter.name]}"]
        name = f"audit query {query.name}"
        yield process(name, words, env=ENV, cwd=folder, accept=_FOUND)


def _in_process(lab: Lab, folder: Path) -> list[Row]:
    """Reads and verifies the log, and looks for merge bases."""
    repo = _open(folder)
    events = repo.log.head().number
    refs = repo.state().refs
    tips = [CommitId(ObjectId(refs[n])) for n in sorted(refs) if n.startswith("branch:")][:8]
    pairs = [(a, b) for i, a in enumerate(tips) for b in tips[i + 1 :]]

    def bases() -> None:
        with repo.reader() as reader:
            if not all(reader.merge_bases(a, b) for a, b in pairs):
                raise RuntimeError("a merge base is missing")

    def read() -> None:
        if sum(1 for _ in repo.log.read()) != events:
            raise RuntimeError("the log has other events")

    def verify() -> None:
        if repo.log.verify():
            raise RuntimeError("the log is said to be broken")

    measured = (
        (f"merge bases of {len(pairs)} pairs of tips", bases, _SECONDS * len(pairs)),
        ("reading the log", read, _VERIFY),
        ("verifying the log", verify, _VERIFY),
    )
    rows = []
    for name, call, limit in measured:
        one = _timed(lab, name, call)
        rows.append(
            Row(f"{name}, in process", one.wall, limit, "s", note=f"{one.cpu:.2f} s of CPU")
        )
    whole = process(
        "audit verify", [COMMAND, "audit", "verify"], env=ENV, cwd=folder, accept=_FOUND
    )
    one = compare([whole], rounds=lab.rounds(3))[0]
    note = f"{one.cpu:.2f} s of CPU; objects and the catalog's rows are compared too"
    return [*rows, Row("audit verify, whole process", one.wall, None, "s", note=note)]


def _rebuilt(lab: Lab, folder: Path) -> list[Row]:
    """Makes the catalog anew; the rate is that of the whole, indexes and the disk included."""
    repo = _open(folder)
    events = repo.log.head().number
    with sqlite3.connect(repo.layout.catalog) as db:
        (objects,) = db.execute(
            "SELECT (SELECT count(*) FROM commits) + (SELECT count(*) FROM measurements)"
        ).fetchone()
    db.close()
    one = _timed(lab, "rebuild", repo.rebuild_catalog, rounds=3)
    note = f"{one.wall:.1f} s, {one.cpu:.1f} s of CPU; {objects / events:.1f} objects an event"
    return [
        Row("catalog made anew", events / one.wall, _REBUILT, "events/s", at_least=True, note=note),
        Row("… objects", objects / one.wall, None, "objects/s"),
    ]


def _rolled_back(lab: Lab, folder: Path, floor: Variant) -> list[Row]:
    """Goes back in an environment, with the catalog in step, gone, and not coming back."""
    repo = _open(folder)

    def lose() -> None:
        for path in folder.glob(".deltavc/catalog.db*"):
            path.unlink()

    with sqlite3.connect(repo.layout.catalog) as db:
        query = "SELECT environment FROM deployments GROUP BY 1 ORDER BY count(*) DESC LIMIT 2"
        first, second = (str(name) for (name,) in db.execute(query))
    db.close()

    def back(name: str, environment: str, prepare: Callable[[], object]) -> Variant:
        words = [COMMAND, "rollback", environment, "--reason", "bench", "--yes"]
        env = {**ENV, "DELTAVC_ACTOR": _ACTOR}
        return process(name, words, env=env, cwd=folder, prepare=prepare)

    in_step = back("rollback, catalog in step", first, repo.catch_up)
    gone = back("rollback, catalog gone", second, lose)
    timed = compare([floor, in_step, gone], rounds=lab.rounds(3))
    return [_row(each, _SECONDS) for each in timed[1:]]


def _timed(lab: Lab, name: str, call: Callable[[], object], rounds: int = 5) -> Timed:
    def once() -> None:
        call()

    return compare([Variant(name, once)], rounds=lab.rounds(rounds))[0]


def _open(folder: Path) -> Repository:
    return Repository.open(folder, Session(_ACTOR, lambda: START + int(time.time())))


def _copy(folder: Path, target: Path) -> Path:
    """Returns a copy that can be written to: objects and full segments never change."""
    copied = target / "copy"
    (copied / "work").mkdir(parents=True)
    last = max((folder / ".deltavc" / "events").iterdir())

    def copy(source: str, to: str) -> object:
        keep = source.endswith((".pack", ".jsonl")) and source != str(last)
        return os.link(source, to) if keep else shutil.copyfile(source, to)

    with no_flush():
        shutil.copytree(folder / ".deltavc", copied / ".deltavc", copy_function=copy)
    return copied
