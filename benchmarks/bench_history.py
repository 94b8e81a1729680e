"""Questions to a history of ten thousand commits."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import deltavc
from benchmarks.assets import CACHE, built
from benchmarks.bench_rows import Lab, Row
from benchmarks.bench_startup import COMMAND, ENV
from benchmarks.synthetic import LLAMA_1B, model
from benchmarks.timing import Variant, compare, process
from deltavc.delta.vector import Vector
from deltavc.ids import BaseId, CommitId, ManifestId, ObjectId
from deltavc.ledger.log import draft_event
from deltavc.records.model import Commit, Measurement, RefChange
from deltavc.repo.objects import ObjectSink
from deltavc.repo.repository import Repository
from deltavc.repo.session import Session
from deltavc.store import ObjectStore
from deltavc.version import __version__

__all__ = ["history"]

_ACTOR = "Bench <bench@example.org>"
_START = 1_700_000_000_000
_MERGES = 0.025
_BRANCHES = 5
_BLOCK = 250


def history(lab: Lab) -> list[Row]:
    """Asks for the newest commits, one commit, ancestry and merge bases."""
    count = 1_000 if lab.quick else 10_000
    lab.say(f"history: {count} commits")
    folder = _repository(count)
    repo = Repository.open(folder, Session(_ACTOR, lambda: _START))
    refs = repo.state().refs
    names = sorted(name for name in refs if name.startswith("branch:"))
    tips = [CommitId(ObjectId(refs[name])) for name in names]
    root = _root(repo, tips[0])
    pairs = [(a, b) for i, a in enumerate(tips) for b in tips[i + 1 :]]

    def ancestry() -> None:
        with repo.reader() as reader:
            if not all(reader.is_ancestor(root, tip) for tip in tips):
                raise RuntimeError("the first commit must be an ancestor of all")

    def bases() -> None:
        with repo.reader() as reader:
            if not all(reader.merge_bases(a, b) for a, b in pairs):
                raise RuntimeError("a merge base is missing")

    def command(*words: str) -> Variant:
        return process(words[0], [COMMAND, *words], env=ENV, cwd=folder)

    rows = []
    for name, variant in (
        ("log -l 20, whole process", command("log", "-l", "20")),
        ("log of all, whole process", command("log", "--all")),
        ("show, whole process", command("show", str(tips[0]))),
        (
            f"is the first an ancestor of {len(tips)} tips, in process",
            Variant("ancestry", ancestry),
        ),
        (f"merge bases of {len(pairs)} pairs of tips, in process", Variant("merge bases", bases)),
    ):
        timed = compare([variant], rounds=lab.rounds(7))[0]
        limit = None if name.startswith("log of all") else 1.0
        rows.append(Row(f"{count} commits: {name}", timed.wall, limit, "s"))
    return rows


def _root(repo: Repository, tip: CommitId) -> CommitId:
    while parents := repo.commit(tip).parents:
        tip = parents[0]
    return tip


def _repository(count: int) -> Path:
    """Returns a repository with so many commits, one pack each, as commands would leave it."""
    base = model(LLAMA_1B.scaled(16, layers=1))
    target = CACHE / "histories" / f"{count}-{__version__}"
    with built(target) as folder:
        if folder is not None:
            with _no_flush():
                _make(folder, base, count)
    return target


@contextmanager
def _no_flush() -> Iterator[None]:
    """Leaves out waiting for the disk: what is made here need not outlive a power cut."""
    with patch("os.fsync", lambda _: None), patch("os.fdatasync", lambda _: None):
        yield


def _make(folder: Path, base: Path, count: int) -> None:
    """Makes commits on a few branches, some of them merges, in random order."""
    deltavc.init(folder, actor=_ACTOR, clock=lambda: _START).add_base("base", base)
    repo = Repository.open(folder, Session(_ACTOR, lambda: _START))
    fingerprint = next(iter(repo.base_names(repo.state()).values())).base
    manifest = ManifestId(repo.put_record("manifest", Vector(fingerprint).to_manifest()))
    draw = random.Random(count)
    tips: dict[str, CommitId] = {}
    side = repo.store
    for number in range(count):
        if number % _BLOCK == 0:  # a store that holds few packs takes new ones sooner
            _move(side, repo.store)
            side = ObjectStore.create(folder / f"side-{number}")
        branch = "main" if number == 0 else draw.choice([*tips, f"team-{len(tips)}"][:_BRANCHES])
        start = tips.get(branch, tips.get("main"))
        parents = () if start is None else (start,)
        other = tips.get(draw.choice(list(tips))) if tips and draw.random() < _MERGES else None
        if other is not None and other != start:
            parents = (*parents, other)
        tips[branch] = _commit(
            repo, side, manifest, fingerprint, branch, number, parents, tips.get(branch)
        )
    _move(side, repo.store)
    Repository.open(folder, repo.session).catch_up()


def _move(side: ObjectStore, store: ObjectStore) -> None:
    if side is not store:
        for path in side.packs_folder.iterdir():
            path.rename(store.packs_folder / path.name)
        shutil.rmtree(side.root)


def _commit(
    repo: Repository,
    store: ObjectStore,
    manifest: ManifestId,
    base: BaseId,
    branch: str,
    number: int,
    parents: tuple[CommitId, ...],
    before: CommitId | None,
) -> CommitId:
    """Writes what a commit writes: a pack, then an event; the catalog follows at the end."""
    time = _START + 60_000 * number
    record = Commit(
        manifest=manifest, base=base, author=_ACTOR, time=time, message=f"version {number}",
        tool="bench", parents=parents,
    )  # fmt: skip
    with store.pack() as pack:
        sink = ObjectSink(store, pack)
        oid = CommitId(sink.record("commit", record))
        value = Measurement(oid, "accuracy", 0.5 + number % 1000 / 2500, _ACTOR, time)
        measured = sink.record("measurement", value)
        pack.finish()
    event = draft_event(
        time=time, actor=_ACTOR, command="commit", summary=f"commit {oid[:10]}: version {number}",
        tool="bench", refs=(RefChange(f"branch:{branch}", before, oid),),
        objects=tuple(sink.ids), detail={"commits": [oid], "measurements": [measured]},
    )  # fmt: skip
    repo.log.append(event, expected=repo.log.head())
    return oid
