"""What was live at a time: right for any time, whatever the clocks did."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest

import deltavc

NAMES = ("tests", "staging", "small", "wide", "production")
START = 1_700_000_000_000


@dataclass
class Told:
    """A deployment as a plain list has it."""

    environment: str
    revision: str | None
    time: int


def walk(tmp_path, models_in, count, seed):
    """Makes a random history under a clock that is set back now and then."""
    rng, models = random.Random(seed), models_in(tmp_path / "models")
    now = START

    def clock():
        return now

    repo = deltavc.init(tmp_path / "repo", actor="Ada <ada@example.org>", clock=clock)
    repo.add_base("tiny", models.base())
    versions = [str(repo.commit(models.adapter(), message=f"v{n}").commit) for n in range(5)]
    for name in NAMES:
        repo.define_environment(name)
    told: list[Told] = []
    serving: dict[str, str] = {}
    while len(told) < count:
        now += rng.randrange(1, 60_000)
        if rng.random() < 0.05:
            now -= rng.randrange(1, 600_000)  # somebody sets the clock
        name = rng.choice(NAMES)
        version = rng.choice([v for v in versions if v != serving.get(name)])
        marked = {mark.revision for mark in repo.environment(name).bad} if told else set()
        if version in marked:
            repo.mark(name, version, bad=False)
        if name in serving and rng.random() < 0.2 and repo.environment(name).back:
            revision = repo.rollback(name).revision
        else:
            revision = repo.deploy(version, name).revision
        told.append(Told(name, revision, now))
        serving[name] = str(revision)
    return repo, told


def by_list(told, name, time):
    """The last one recorded with a time that is not after this one."""
    found = [row.revision for row in told if row.environment == name and row.time <= time]
    return found[-1] if found else None


@pytest.mark.parametrize(
    ("count", "times"), [(60, 1000), pytest.param(500, 1000, marks=pytest.mark.slow)]
)
def test_t17_a_thousand_times_over_random_deployments(tmp_path, models_in, count, times):
    repo, told = walk(tmp_path, models_in, count, seed=count)
    first, last = min(row.time for row in told), max(row.time for row in told)
    rng = random.Random(7)
    assert any(b.time < a.time for a, b in pairwise(told))  # the clock was set back
    reader = repo._repo.reader()
    for _ in range(times):
        name, time = rng.choice(NAMES), rng.randrange(first - 60_000, last + 60_000)
        found = reader.live_at(name, time)
        assert (found[0].commit if found else None) == by_list(told, name, time)
    for name in NAMES:  # and as the verb tells it
        time = rng.randrange(first, last)
        shown = repo.environment(name, at=time).serving
        assert (None if shown is None else shown.revision) == by_list(told, name, time)


def test_a_time_that_passed_twice_names_both(tmp_path, models_in):
    """Served at 100 by the first clock, and again at 100 by the one that was set back."""
    models = models_in(tmp_path / "models")
    now = START

    def clock():
        return now

    repo = deltavc.init(tmp_path / "repo", actor="Ada <ada@example.org>", clock=clock)
    repo.add_base("tiny", models.base())
    a, b, c = (str(repo.commit(models.adapter(), message=f"v{n}").commit) for n in range(3))
    repo.define_environment("production")
    for version, offset in ((a, 100), (b, 200), (c, 150)):
        now = START + offset
        repo.deploy(version, "production")
    at = lambda offset: repo.environment("production", at=START + offset)  # noqa: E731
    assert at(50).serving is None
    assert (at(120).serving.revision, at(120).also) == (a, [])
    twice = at(170)
    assert (twice.serving.revision, [row.revision for row in twice.also]) == (c, [a])
    assert at(1000).serving.revision == c
