"""The ten needs of somebody who is woken up at three, each a test by its number."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import deltavc
from deltavc.errors import NothingToUndo
from deltavc.repo import rollback as module

NOT_PERMITTED = 77
EMPTY = hashlib.sha256().hexdigest()
KAI, MIA = {"DELTAVC_ACTOR": "Kai <kai@example.org>"}, {"DELTAVC_ACTOR": "Mia <mia@example.org>"}
ROLLBACK = ["rollback", "production", "--yes", "--reason", "latency, INC-318", "--json"]
SHOW = ["env", "show", "production", "--json"]
LOG = ["env", "log", "production", "--json"]


@dataclass
class Incident:
    """A repository in which the third version has just gone live, and its copies."""

    commands: Any
    kept: Path
    work: Path
    versions: list[str]
    weights: list[Any]

    def restore(self) -> None:
        shutil.rmtree(self.work.parent, ignore_errors=True)
        shutil.copytree(self.kept, self.work.parent, symlinks=True)

    def run(self, *argv: str, **options: Any) -> Any:
        return self.commands.run(self.work, *argv, **options)

    def after(self, *steps: list[str]) -> list[Any]:
        outcomes = self.commands.start(self.work, list(steps)).wait()
        assert [outcome.code for outcome in outcomes] == [0] * len(steps), outcomes
        return [outcome.data for outcome in outcomes]

    @property
    def target(self) -> Path:
        return self.work / "serve"

    def served(self) -> str:
        return str(json.loads((self.target / "current" / "deltavc.json").read_text())["commit"])


@pytest.fixture(scope="module")
def prepared(commands, tmp_path_factory, models_in, weights_of) -> Incident:
    folder = tmp_path_factory.mktemp("incident")
    models, work = models_in(folder / "models"), folder / "home" / "work"
    work.mkdir(parents=True)
    base = models.base()
    os.utime(base / "model.safetensors", (0, 0))
    run = lambda *argv: commands.ok(work, *argv, "--json").data  # noqa: E731
    run("init")
    run("base", "add", "tiny", base)
    run("kpi", "define", "accuracy", "--direction", "higher", "--kind", "proportion")
    versions, weights = [], []
    run("env", "define", "production", "--target", "serve")
    for number, source in enumerate((models.adapter(), models.checkpoint(), models.adapter())):
        commit = run("commit", source, "-m", f"version {number}")["commit"]
        run("kpi", "add", commit, f"accuracy=0.9{number}", "--samples", "500")
        run("deploy", commit, "--env", "production", "--yes")
        versions.append(commit)
        weights.append(weights_of(work / "serve" / "current"))
    kept = folder / "kept"
    shutil.copytree(work.parent, kept, symlinks=True)
    return Incident(commands, kept, work, versions, weights)


@pytest.fixture
def incident(prepared) -> Incident:
    prepared.restore()
    return prepared


def check_back(incident: Incident, weights_of: Any) -> None:
    """It serves the second version, bit for bit, and the log says so once asked."""
    assert incident.served() == incident.versions[1]
    assert weights_of(incident.target / "current") == incident.weights[1]
    shown, log = incident.after(SHOW, LOG)
    assert shown["serving"]["revision"] == incident.versions[1]
    assert shown["serving"]["reason"] == "latency, INC-318"
    assert shown["in_step"]
    assert [row["action"] for row in log] == ["rollback", "deploy", "deploy", "deploy"]


# I1 --------------------------------------------------------------------------------------


class Plain:
    """What an environment does, as a plain list: the oracle."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.bad: set[str] = set()

    def back(self) -> str | None:
        for version in reversed(self.served[:-1]):
            if version != self.served[-1] and version not in self.bad:
                return version
        return None


def history(repo: deltavc.Repository, versions: list[str], name: str, seed: int) -> int:
    """Walks through one random history; says how many rollbacks it had."""
    rng, plain, rollbacks = random.Random(seed), Plain(), 0
    repo.define_environment(name)
    for step in range(6):
        good = [v for v in versions if v not in plain.bad and v not in plain.served[-1:]]
        move = rng.choice(["deploy", "deploy", "rollback", "mark"]) if step > 1 else "deploy"
        if move == "deploy" and good:
            version = rng.choice(good)
            repo.deploy(version, name)
            plain.served.append(version)
        elif move == "rollback":
            wanted = plain.back()
            if wanted is None:
                with pytest.raises(NothingToUndo):
                    repo.rollback(name)
                continue
            assert repo.rollback(name).revision == wanted
            plain.bad.add(plain.served[-1])
            plain.served.append(wanted)
            rollbacks += 1
        elif move == "mark":
            version = rng.choice(plain.served)
            bad = version not in plain.bad and version != plain.served[-1]
            repo.mark(name, version, bad=bad)
            (plain.bad.add if bad else plain.bad.discard)(version)
    return rollbacks


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 100), marks=pytest.mark.slow)])
def test_i01_one_command_finds_the_right_version_without_a_hash(tmp_path, models_in, seeds):
    models = models_in(tmp_path / "models")
    repo = deltavc.init(tmp_path / "repo", actor="Ada <ada@example.org>")
    repo.add_base("tiny", models.base())
    versions = [str(repo.commit(models.adapter(), message=f"v{n}").commit) for n in range(4)]
    found = [history(repo, versions, f"env-{seed}", seed) for seed in seeds]
    assert sum(found) > len(found) // 3


# I2 --------------------------------------------------------------------------------------

WITHOUT = """
import sys
from deltavc.cli.main import main
code = main(sys.argv[1:])
loaded = {"torch", "sqlalchemy", "alembic", "transformers", "requests"} & set(sys.modules)
print(sorted(loaded), file=sys.stderr)
raise SystemExit(code)
"""


def test_i02_seconds_since_neither_torch_nor_sqlalchemy_is_imported(incident, weights_of):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *ROLLBACK],
        cwd=incident.work,
        env={**os.environ, **KAI},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    check_back(incident, weights_of)


# I3 --------------------------------------------------------------------------------------


@pytest.fixture
def everything_locked(incident) -> Iterator[None]:
    """Another process is in the middle of a change of the log, and of one of the catalog."""
    handle = os.open(incident.work / ".deltavc" / "lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    database = sqlite3.connect(incident.work / ".deltavc" / "catalog.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    yield
    database.close()
    os.close(handle)


def test_i03_it_works_while_somebody_else_writes(incident, weights_of, everything_locked):
    assert module.HOLD_SECONDS + module.LOCK_SECONDS < 5
    done = incident.run(*ROLLBACK)
    assert done.code == 0, done
    assert (done.data["recorded"], done.data["deployment"]) == (False, "d-spooled")
    assert "locked" in done.data["why_not"]
    assert incident.served() == incident.versions[1]
    seen = incident.run("rollback", "production", "-n", "--json")
    assert seen.data["before"] == incident.versions[1]  # the next one knows of it all the same


def test_i03_what_waited_is_recorded_by_the_next_command(incident, weights_of):
    handle = os.open(incident.work / ".deltavc" / "lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    done = incident.run(*ROLLBACK, env=KAI)
    os.close(handle)
    assert not done.data["recorded"]
    check_back(incident, weights_of)
    row = incident.after(LOG)[0][0]
    assert (row["actor"], row["late"]) == (KAI["DELTAVC_ACTOR"], True)
    assert row["time"] <= incident.after(["op", "log", "-l", "1", "--json"])[0][0]["time"]


# I4 --------------------------------------------------------------------------------------


def spoil(catalog: Path, how: str) -> None:
    for path in catalog.parent.glob("catalog.db*"):
        if how == "gone":
            path.unlink()
        elif how == "garbage":
            path.write_bytes(os.urandom(path.stat().st_size))
        elif how == "empty":
            path.write_bytes(b"")
        else:
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("how", ["gone", "garbage", "empty", "half"])
def test_i04_it_works_without_a_sound_catalog(incident, weights_of, how):
    spoil(incident.work / ".deltavc" / "catalog.db", how)
    done = incident.run(*ROLLBACK)
    assert done.code == 0, done
    assert done.data["recorded"]
    assert incident.served() == incident.versions[1]
    assert incident.run("doctor", "--fix").code == 0
    check_back(incident, weights_of)


def test_i04_it_works_where_the_repository_cannot_be_written(incident, weights_of):
    """The target can be; what was done waits there until the repository can be, too."""
    store = incident.work / ".deltavc"
    paths = [store, *store.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        done = incident.run(*ROLLBACK, obey_modes=True)
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)
    assert done.code == 0, done
    assert not done.data["recorded"]
    check_back(incident, weights_of)


def test_i04_it_works_on_a_full_disk(incident, weights_of, commands):
    mount = incident.work.parent / "mount"
    mount.mkdir()
    steps = [ROLLBACK, SHOW, LOG]
    running = commands.start(
        mount.parent, steps, root=mount, tmpfs=str(mount), tmpfs_source=str(incident.work),
        tmpfs_kib=8192, leave_kib=0,
    )  # fmt: skip
    outcomes = running.wait()
    if running.status == NOT_PERMITTED:
        outcomes = commands.start(incident.work, steps, largest_file=1).wait()
    assert outcomes[0].code == 0, outcomes[0]
    assert not outcomes[0].data["recorded"]
    assert outcomes[0].data["revision"] == incident.versions[1]
    assert all(outcome.code == 0 for outcome in outcomes[1:]), outcomes


# I5 --------------------------------------------------------------------------------------


def spread(total: int, most: int) -> list[int]:
    return sorted({1 + round(i * total / (most - 1)) for i in range(most)})


@pytest.mark.parametrize("most", [9, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["rollback", "deploy"])
def test_i05_killed_at_any_moment_it_serves_the_old_or_the_new(prepared, weights_of, name, most):
    incident = prepared
    argv = ROLLBACK if name == "rollback" else ["deploy", "main~2", "--env", "production", "--yes"]
    new = incident.versions[1] if name == "rollback" else incident.versions[0]
    incident.restore()
    root = incident.work.parent
    if name == "deploy":  # so that it has to write the version
        shutil.rmtree(incident.target / incident.versions[0][:10])
    total = incident.commands.start(incident.work, [argv], root=root).wait()[0].steps
    seen = set()
    for step in spread(total, most):
        incident.restore()
        if name == "deploy":
            shutil.rmtree(incident.target / incident.versions[0][:10])
        running = incident.commands.start(
            incident.work, [{"argv": list(argv), "kill_at": step}], root=root
        )
        running.wait()
        served = incident.served()
        assert served in (incident.versions[2], new)
        assert (
            weights_of(incident.target / "current")
            == incident.weights[incident.versions.index(served)]
        )
        shown, check = incident.after(SHOW, ["fsck", "--json"])
        assert shown["in_step"]
        assert shown["serving"]["revision"] == served
        assert check["findings"] == []
        seen.add(served)
        (again,) = incident.after(["deploy", "main~1", "--env", "production", "--yes", "--json"])
        assert again["changed"] == (served != incident.versions[1])
    assert seen == {incident.versions[2], new}


# I6 --------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_i06_a_version_that_came_to_harm_is_never_served(incident, weights_of):
    """It was kept ready, and a bit of it flipped: it is rebuilt, and the harm is kept aside."""
    flip(incident.target / incident.versions[1][:10] / "model.safetensors")
    done = incident.run(*ROLLBACK)
    assert done.code == 0, done
    assert done.data["rebuilt_seconds"] is not None
    assert "does not hold what was written" in done.data["missing"][0]
    check_back(incident, weights_of)
    assert any(path.name.startswith(".damaged-") for path in incident.target.iterdir())


def test_i06_where_it_cannot_be_rebuilt_the_next_good_one_is_offered(incident):
    flip(incident.target / incident.versions[1][:10] / "model.safetensors")
    packs = sorted(
        (incident.work / ".deltavc" / "objects" / "packs").glob("*.pack"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    for pack in packs:  # every delta is gone, so neither can be rebuilt
        flip(pack)
    done = incident.run(*ROLLBACK)
    assert done.code in (40, 41), done
    error = done.document["error"]
    assert f"still serves {incident.versions[2][:10]}" in error["message"]
    assert f"--to {incident.versions[0][:10]}" in error["hint"]
    assert incident.served() == incident.versions[2]


# I7 --------------------------------------------------------------------------------------


def test_i07_a_dry_run_says_all_of_it_and_touches_nothing(incident, digest_of):
    before = digest_of(incident.work.parent)
    data = incident.run("rollback", "production", "-n", "--json").data
    after = digest_of(incident.work.parent)
    for found in (before, after):  # how SQLite tells its readers of each other
        found.pop("work/.deltavc/catalog.db-shm", None)
        if found.get("work/.deltavc/catalog.db-wal") == EMPTY:
            del found["work/.deltavc/catalog.db-wal"]
    assert after == before
    assert (data["before"], data["revision"]) == (incident.versions[2], incident.versions[1])
    assert data["kpis"] == {"accuracy": [0.92, 0.91]}
    assert data["bytes"] > 0
    assert (data["ready"], data["missing"], data["changed"]) == (True, [], False)
    shutil.rmtree(incident.target / incident.versions[1][:10])
    data = incident.run("rollback", "production", "-n", "--json").data
    assert (data["ready"], len(data["missing"])) == (False, 1)


# I8 --------------------------------------------------------------------------------------

ALONE = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(event)
sys.addaudithook(refuse)
from deltavc.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_i08_no_network_no_server_no_training(incident, weights_of):
    """Also where the version has to be rebuilt."""
    shutil.rmtree(incident.target / incident.versions[1][:10])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *ROLLBACK],
        cwd=incident.work,
        env={**os.environ, **KAI},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_back(incident, weights_of)


# I9 --------------------------------------------------------------------------------------


def test_i09_who_and_why_stand_in_the_log(incident, weights_of):
    assert incident.run(*ROLLBACK, env=MIA).code == 0
    check_back(incident, weights_of)
    (event,) = incident.after(["op", "log", "-l", "1", "--json"])[0]
    assert (event["actor"], event["reason"]) == (MIA["DELTAVC_ACTOR"], "latency, INC-318")
    shown = incident.after(SHOW)[0]
    assert [row["revision"] for row in shown["bad"]] == [incident.versions[2]]


@pytest.mark.slow
def test_i09_two_in_a_row_that_could_not_be_recorded_are_both_kept(incident):
    handle = os.open(incident.work / ".deltavc" / "lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    first = incident.run(*ROLLBACK, env=MIA)
    second = incident.run(*ROLLBACK, env=MIA)
    os.close(handle)
    assert [first.data["recorded"], second.data["recorded"]] == [False, False]
    assert second.data["revision"] == incident.versions[0]
    log = incident.after(LOG)[0]
    assert [row["revision"] for row in log[:2]] == [incident.versions[0], incident.versions[1]]
    assert all(row["late"] for row in log[:2])


# I10 -------------------------------------------------------------------------------------


def test_i10_of_two_responders_at_once_the_second_is_told(incident, weights_of):
    both = [incident.commands.start(incident.work, [ROLLBACK], env=env) for env in (KAI, MIA)]
    outcomes = [running.wait()[0] for running in both]
    assert sorted(outcome.code for outcome in outcomes) == [0, 32], outcomes
    done = next(outcome for outcome in outcomes if outcome.code == 0)
    told = next(outcome for outcome in outcomes if outcome.code == 32).document["error"]
    winner = (KAI, MIA)[outcomes.index(done)]["DELTAVC_ACTOR"]
    assert winner in told["message"]
    assert incident.versions[1][:10] in told["message"]
    check_back(incident, weights_of)


def test_i10_a_second_thought_minutes_later_is_told_too(incident, weights_of):
    assert incident.run(*ROLLBACK, env=KAI).code == 0
    again = incident.run(*ROLLBACK, env=MIA)
    assert again.code == 32, again
    check_back(incident, weights_of)
    further = incident.run(*ROLLBACK, "--to", incident.versions[0][:10], env=MIA)
    assert further.code == 0, further
    assert incident.served() == incident.versions[0]


def test_rollback_takes_back_to_a_name_or_so_many_steps(incident):
    two = incident.run("rollback", "production", "--steps", "2", "--yes", "--json")
    assert two.data["revision"] == incident.versions[0]
    incident.restore()
    name = incident.after(LOG)[0][2]["deployment"]
    named = incident.run("rollback", "production", "--to", name, "--yes", "--json")
    assert named.data["revision"] == incident.versions[0]
    same = incident.run("rollback", "production", "--to", "main~2", "--yes")
    assert same.code == 2, same
    never = incident.run("rollback", "production", "--to", "nope", "--yes")
    assert never.code == 20, never
    unsure = incident.run("rollback", "production")
    assert unsure.code == 36, unsure


def test_a_pointer_alone_checks_the_objects_of_what_it_goes_back_to(tmp_path, models_in):
    models = models_in(tmp_path / "models")
    repo = deltavc.init(tmp_path / "repo", actor="Ada <ada@example.org>")
    repo.add_base("tiny", models.base())
    repo.define_environment("production")
    first, second = (repo.commit(models.adapter(), message="v").commit for _ in range(2))
    repo.deploy(str(first), "production")
    repo.deploy(str(second), "production")
    assert repo.rollback("production", dry_run=True).checked > 3
    for pack in (tmp_path / "repo" / ".deltavc" / "objects" / "packs").glob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[40:60] = bytes(20)
        pack.write_bytes(data)
    with pytest.raises(deltavc.errors.IntegrityError):
        deltavc.open(tmp_path / "repo").rollback("production")


def test_i04_it_works_while_a_policy_or_settings_file_is_broken(incident, weights_of):
    """Somebody's half-saved file must not stand between an incident and its end."""
    policy, settings = incident.work / "deltavc.toml", incident.work / ".deltavc" / "config.toml"
    kept = settings.read_text() if settings.exists() else None
    for path in (policy, settings):
        path.write_text("[env.production\n")
    assert incident.run("status").code == 2
    done = incident.run(*ROLLBACK)
    assert done.code == 0, done
    assert any("deltavc.toml" in text for text in done.document["warnings"])
    policy.unlink()
    settings.unlink() if kept is None else settings.write_text(kept)
    check_back(incident, weights_of)
