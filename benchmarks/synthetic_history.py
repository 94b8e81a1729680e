"""A history of a size that a team reaches in years: commits, measurements, deployments.

Objects and events are those that the commands write, made by the same code, only many
to a pack and without waiting for the disk. Everything depends on the number of commits
and the seed alone: random numbers from one generator, times from a clock of its own that
is set back now and then, as clocks are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import deltavc
from benchmarks.assets import CACHE, built
from benchmarks.synthetic import LLAMA_1B, model
from deltavc.codec.frames import Part
from deltavc.delta.vector import Vector
from deltavc.ids import (
    ApprovalId,
    BaseId,
    CommitId,
    DeploymentId,
    ManifestId,
    MeasurementId,
    ObjectId,
    RequestId,
)
from deltavc.ledger.log import draft_event
from deltavc.records import canonical
from deltavc.records.model import Commit, DataRef, Measurement, RefChange, Tag
from deltavc.records.ship import Approval, Deployment, Environment, GateSeen, Request, RuleSeen
from deltavc.repo.repository import Repository
from deltavc.repo.session import Session
from deltavc.version import __version__

__all__ = ["ENVIRONMENTS", "KPIS", "START", "Facts", "no_flush", "synthetic_history"]

START = 1_700_000_000_000
KPIS = ("accuracy", "f1", "loss", "latency_ms", "refusals")
ENVIRONMENTS = ("dev", "test", "canary", "stage", "prod")
_VERSION = 1  # of what is made here; part of the name in the cache
_MINUTE = 60_000
_PEOPLE = tuple(f"Person {n} <person{n}@example.org>" for n in range(12))
_TOOL = "deltavc bench"
_TEAMS = 20
_MERGES = 0.025
_PAIRS = 64  # one event in so many brings two commits, so that others fit into as many events
_PACKED = 1000  # events whose objects are in one pack
_SINCE = 0.73  # where accuracy falls for good: what bisect is to find


@dataclass(frozen=True)
class Facts:
    """A history and what is known of it.

    Attributes:
        folder: The folder of the repository.
        commits: Number of commits.
    """

    folder: Path
    commits: int


def synthetic_history(commits: int = 100_000, *, seed: int = 0) -> Facts:
    """Returns a repository with as many events as commits and five times the measurements.

    Args:
        commits: Number of commits.
        seed: Of all that is drawn.

    Returns:
        The repository, from the cache if it was made before; its catalog is in step.
    """
    base = model(LLAMA_1B.scaled(16, layers=1))
    target = CACHE / "histories" / f"scale-{commits}-{seed}-{_VERSION}-{__version__}"
    with built(target) as folder:
        if folder is not None:
            with no_flush():
                _Maker(folder, base, commits, seed).make()
    return Facts(target, commits)


@contextmanager
def no_flush() -> Iterator[None]:
    """Leaves out waiting for the disk: what is made here need not outlive a power cut."""
    with patch("os.fsync", lambda _: None), patch("os.fdatasync", lambda _: None):
        yield


@dataclass
class _Made:
    """What the next event names: ids that are new, by the word for them in its detail."""

    detail: dict[str, list[str]] = field(default_factory=dict)

    def add(self, word: str, oid: ObjectId) -> ObjectId:
        self.detail.setdefault(word, []).append(oid)
        return oid


class _Maker:
    """Writes a history event by event, as the commands would have."""

    def __init__(self, folder: Path, base: Path, commits: int, seed: int) -> None:
        deltavc.init(folder, actor=_PEOPLE[0], clock=lambda: START).add_base("base", base)
        self.repo = Repository.open(folder, Session(_PEOPLE[0], lambda: START))
        self.base: BaseId = next(iter(self.repo.base_names(self.repo.state()).values())).base
        self.manifest = ManifestId(
            self.repo.put_record("manifest", Vector(self.base).to_manifest())
        )
        self.wanted, self.draw = commits, random.Random(seed)
        self.refs = dict(self.repo.state().refs)
        self.head = self.repo.log.head()
        self.clock = START
        self.count = 0
        self.tips: dict[str, CommitId] = {}
        self.authors: dict[CommitId, str] = {}
        self.measured: dict[CommitId, list[MeasurementId]] = {}
        self.recent: list[CommitId] = []
        self.definitions: dict[str, ObjectId] = {}
        self.deployed: dict[str, list[tuple[DeploymentId, CommitId]]] = {}
        self.number = 0

    def make(self) -> None:
        """Writes all events, a thousand to a pack, and brings the catalog in step."""
        while self.count < self.wanted:
            with self.repo.store.pack() as pack:
                self.pack = pack
                for _ in range(_PACKED):
                    if self.count >= self.wanted:
                        break
                    self._step()
                pack.finish()
        Repository.open(self.repo.root, self.repo.session).rebuild_catalog()

    def _step(self) -> None:
        """Writes one event: most bring commits, some are about what is there."""
        self.clock += _MINUTE
        if self.draw.random() < 0.0002:
            self.clock -= 90 * _MINUTE  # a clock that was set back
        number, self.number = self.number, self.number + 1
        if number < len(ENVIRONMENTS):
            self._define(ENVIRONMENTS[number])
        elif number % 160 == 100 and self.recent:
            self._deploy(self.draw.choice(ENVIRONMENTS))
        elif number % 200 == 150:
            self._tag(number)
        elif number % 300 == 250:
            self._correct()
        elif number % 200 == 175:
            self._measure_again()
        else:
            self._commit(2 if number % _PAIRS == 3 else 1)

    def _put(self, kind: str, record: object) -> ObjectId:
        """Adds a record to the pack; no two are alike, so nobody needs to look for it."""
        prepared = self.repo.store.prepare(kind, [Part(canonical.encode(record))])
        return self.pack.add_prepared(prepared, is_new=True)

    # what brings commits and values ------------------------------------------

    def _commit(self, count: int) -> None:
        branch = self._branch()
        made, before, actor = _Made(), self.tips.get(branch), self.draw.choice(_PEOPLE)
        for _ in range(min(count, self.wanted - self.count)):
            oid = self._one_commit(branch, actor)
            made.add("commits", oid)
            for kpi in KPIS:
                self._measurement(made, oid, kpi, actor)
            self.tips[branch] = oid
        self._event(
            "commit", f"commit {oid[:10]}: version {self.count}", made, actor,
            {f"branch:{branch}": (before, oid)},
        )  # fmt: skip

    def _branch(self) -> str:
        if self.count < 2 or self.draw.random() < 0.5:
            return "main"
        return f"team-{self.draw.randrange(_TEAMS)}"

    def _one_commit(self, branch: str, actor: str) -> CommitId:
        start = self.tips.get(branch, self.tips.get("main"))
        parents = () if start is None else (start,)
        other = self.tips.get(self.draw.choice(list(self.tips))) if self.tips else None
        if other not in (None, start) and self.draw.random() < _MERGES:
            parents = (*parents, other)
        data = ()
        if self.count % 50 == 7:
            data = (DataRef(f"orders-{self.count % 900}.csv", 4096, f"{self.count % 900:064x}"),)
        record = Commit(
            manifest=self.manifest, base=self.base, author=actor, time=self.clock,
            message=f"version {self.count}", tool=_TOOL, parents=parents, data=data,
            labels={"team": branch} if self.count % 20 == 11 else {},
        )  # fmt: skip
        oid = CommitId(self._put("commit", record))
        self.count += 1
        self.authors[oid], self.measured[oid] = actor, []
        self.recent = [*self.recent[-200:], oid]
        return oid

    def _value(self, kpi: str) -> float:
        if kpi == "accuracy":
            level = 0.9 if self.count <= _SINCE * self.wanted else 0.8
            return round(level + self.draw.uniform(-0.02, 0.02), 4)
        return round(self.draw.lognormvariate(0.0, 0.5), 4)

    def _measurement(
        self, made: _Made, commit: CommitId, kpi: str, actor: str, **more: Any
    ) -> MeasurementId:
        record = Measurement(
            commit, kpi, self._value(kpi), actor, self.clock, samples=400, dataset="holdout",
            **more,
        )  # fmt: skip
        oid = MeasurementId(made.add("measurements", self._put("measurement", record)))
        self.measured[commit].append(oid)
        return oid

    def _measure_again(self) -> None:
        made, commit = _Made(), self.draw.choice(self.recent)
        actor = self.draw.choice(_PEOPLE)
        self._measurement(made, commit, "accuracy", actor, seed=self.number)
        self._event("kpi add", f"measure {commit[:10]}", made, actor)

    def _correct(self) -> None:
        made, commit = _Made(), self.draw.choice(self.recent)
        actor = self.draw.choice(_PEOPLE)
        old = self.measured[commit][0]
        self._measurement(
            made, commit, "accuracy", actor, supersedes=old, reason="the wrong file was read"
        )
        self._event("kpi add", f"correct {commit[:10]}", made, actor)

    def _tag(self, number: int) -> None:
        commit, actor = self.draw.choice(self.recent), self.draw.choice(_PEOPLE)
        made, name, value = _Made(), f"v{number}", commit
        if number % 400 == 150:
            record = Tag(commit, name, actor, self.clock, "release")
            value = CommitId(made.add("tags", self._put("tag", record)))
        self._event("tag", f"tag {name}", made, actor, {f"tag:{name}": (None, value)})

    # what is live --------------------------------------------------------------

    def _define(self, name: str) -> None:
        place = ENVIRONMENTS.index(name)
        record = Environment(
            name, after=ENVIRONMENTS[place - 1] if place else None, gates=("quality",),
            approvals=2 if name == "prod" else 0,
        )  # fmt: skip
        oid = self.definitions[name] = self._put("environment", record)
        refs = {f"env:{name}": (None, str(oid))}
        self._event("env define", f"env define {name}", _Made(), _PEOPLE[0], refs, (oid,))

    def _deploy(self, name: str) -> None:
        commit, actor = self.draw.choice(self.recent), self.draw.choice(_PEOPLE)
        before = self.deployed.get(name, [])
        if before and self.draw.random() < 0.15:
            earlier = self.draw.choice(before)[1]
            self._serve(name, earlier, actor, "rollback", reason="answers went wrong")
            return
        request, approvals = None, ()
        if name == "prod":
            request = self._request(name, commit, actor)
            approvals = tuple(
                self._approve(name, commit, request, who)
                for who in self.draw.sample([p for p in _PEOPLE if p != actor], 2)
            )
        self._serve(name, commit, actor, "deploy", request=request, approvals=approvals)

    def _gates(self, commit: CommitId) -> tuple[GateSeen, ...]:
        rule = RuleSeen(
            "accuracy >= 0.75", "pass", "accuracy is at least 0.75", "accuracy",
            value=0.8, samples=400, measurement=self.measured[commit][0],
        )  # fmt: skip
        return (GateSeen("quality", "pass", f"{7:064x}", (rule,)),)

    def _request(self, name: str, commit: CommitId, actor: str) -> RequestId:
        made = _Made()
        record = Request(
            name, commit, actor, self.clock, self.definitions[name], f"{self.number:064x}",
            gates=self._gates(commit), measurements=tuple(sorted(self.measured[commit])), needed=2,
        )  # fmt: skip
        oid = RequestId(made.add("requests", self._put("request", record)))
        self._event("deploy", f"request {commit[:10]} for {name}", made, actor)
        return oid

    def _approve(self, name: str, commit: CommitId, request: RequestId, who: str) -> ApprovalId:
        self.clock += _MINUTE
        made = _Made()
        record = Approval(
            request, name, commit, f"{self.number:064x}", who, self.clock, "looked at the report"
        )
        oid = ApprovalId(made.add("approvals", self._put("approval", record)))
        self._event("env approve", f"approve {commit[:10]} for {name}", made, who)
        return oid

    def _serve(self, name: str, commit: CommitId, actor: str, action: str, **more: Any) -> None:
        self.clock += _MINUTE
        made, before = _Made(), self.deployed.setdefault(name, [])
        record = Deployment(
            name, commit, action, actor, self.clock, self.definitions[name],
            previous=before[-1][0] if before else None,
            gates=() if action == "rollback" else self._gates(commit),
            needed=2 if more.get("request") else 0, **more,
        )  # fmt: skip
        oid = DeploymentId(made.add("deployments", self._put("deployment", record)))
        refs = {f"serve:{name}": (before[-1][0] if before else None, str(oid))}
        before.append((oid, commit))
        self._event(action, f"{action} {commit[:10]} to {name}", made, actor, refs)

    # events ----------------------------------------------------------------------

    def _event(
        self,
        command: str,
        summary: str,
        made: _Made,
        actor: str,
        refs: dict[str, tuple[str | None, str]] | None = None,
        objects: tuple[ObjectId, ...] = (),
    ) -> None:
        detail = made.detail
        named = dict.fromkeys([*objects, *(ObjectId(o) for ids in detail.values() for o in ids)])
        draft = draft_event(
            time=self.clock, actor=actor, command=command, summary=summary, tool=_TOOL,
            refs=tuple(RefChange(n, old, new) for n, (old, new) in (refs or {}).items()),
            objects=tuple(named), detail=detail, host="ws-7", user="person",
        )  # fmt: skip
        event, event_hash = self.repo.log.append(draft, expected=self.head)
        self.head = type(self.head)(event.number, event_hash)
