"""The verb on real repositories: what it finds, what it writes, what it refuses."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import deltavc
from deltavc.errors import (
    ApprovalMissing,
    RepositoryUnwritable,
    UnknownRevision,
    UsageError,
)
from deltavc.repo.repository import Repository as LibraryRepository
from deltavc.repo.session import Session
from deltavc.report.gather import gather

ADA, GRACE, OLGA = (f"{n} <{n.lower()}@example.org>" for n in ("Ada", "Grace", "Olga"))
HOSTILE = "<img src=x onerror=alert(1)>\u202e"
POLICY = """
[env.production]
after = "staging"
gates = ["release"]
approvals = 1
target = "serve/production"
"""


class Team:
    """People who work on one repository, with a clock that goes on by a minute an event."""

    def __init__(self, folder: Path, models) -> None:
        self.folder, self.models, self.now = folder, models, 1_790_000_000_000
        deltavc.init(folder, actor=ADA, clock=self.clock)
        ada = self.as_(ADA)
        ada.add_base("tiny", models.base())
        ada.define_kpi("accuracy", direction="higher", kind="proportion", min_samples=100)
        ada.define_kpi("latency", direction="lower", kind="mean", unit="ms")
        ada.define_gate("release", ["accuracy >= 0.8"])
        ada.define_environment("staging")
        (folder / "deltavc.toml").write_text(POLICY)

    def clock(self) -> int:
        self.now += 60_000
        return self.now

    def as_(self, actor: str) -> deltavc.api.Repository:
        return deltavc.open(self.folder, actor=actor, clock=self.clock)

    def commit(self, accuracy: float | None, message: str = "tuned") -> str:
        ada = self.as_(ADA)
        done = ada.commit(self.models.adapter(), message=message)
        if accuracy is not None:
            ada.measure("HEAD", {"accuracy": accuracy}, samples=5000)
        return done.commit

    def ship(self, rev: str, *, override: bool = False, approve: bool = True) -> None:
        """Deploys to staging and promotes to production, with Olga's approval."""
        grace = self.as_(GRACE)
        grace.deploy(rev, "staging", reason="try")
        how = {"reason": "weekly", "override": ["release"] if override else []}
        with pytest.raises(ApprovalMissing) as waiting:
            grace.promote("staging", "production", **how)
        if approve:
            self.as_(OLGA).approve(waiting.value.context["request"])
            grace.promote("staging", "production", **how)

    def told(self, **options):
        """What a report tells."""
        session = Session(ADA, self.clock)
        return gather(LibraryRepository.open(self.folder, session), **options)

    def problems(self) -> list[str]:
        return [problem.kind for problem in self.told().problems]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, models_in):
    """Three versions shipped, the last one taken back."""
    folder = tmp_path_factory.mktemp("shipped")
    team = Team(folder, models_in(tmp_path_factory.mktemp("models")))
    team.first = team.commit(0.82, "first release")
    team.ship(team.first)
    team.hostile = team.commit(0.86, HOSTILE)
    team.ship(team.hostile)
    team.third = team.commit(0.9, "third")
    team.ship(team.third)
    team.as_(OLGA).rollback("production", reason="latency alarm")
    return team


def test_report_tells_what_happened(shipped):
    told = shipped.told()
    assert [e.name for e in told.environments] == ["production", "staging"]
    production = told.environments[0]
    assert production.origin == "deltavc.toml"
    assert production.serving.version.id == shipped.hostile
    assert production.serving.action == "rollback"
    assert production.decided.gates[0].verdict == "pass"
    assert [a.actor for a in production.decided.approvals] == [OLGA]
    assert [mark.version.id for mark in production.bad] == [shipped.third]
    assert production.kpis[0].value == 0.86
    assert [(d.environment, d.action) for d in told.deployments] == [
        ("production", "rollback"),
        *[("production", "promote"), ("staging", "deploy")] * 3,
    ]
    assert told.problems == ()
    assert [p.value for p in told.kpis[0].points] == [0.82, 0.86, 0.9]
    assert told.kpis[0].points[1].serving == ("production",)
    assert told.kpis[0].limits == ((0.8, True, "accuracy >= 0.8"),)
    assert len(told.lineage.nodes) == 3
    change = next(c for c in told.changes if c.environment == "production")
    assert change.added == ()
    assert change.dropped == 1
    assert [(k.series, k.before, k.after) for k in change.kpis] == [("accuracy", 0.9, 0.86)]
    assert {g.name: g.changed for g in change.groups} == {
        "layers.*.q.weight": 1,
        "layers.*.v.weight": 1,
    }
    assert all(g.norm > 0 for g in change.groups)


def test_same_state_gives_the_same_bytes(shipped, tmp_path):
    pages = []
    for name in ("one", "two"):
        done = shipped.as_(name).report(tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
        assert done.size == len(pages[-1])
    assert pages[0] == pages[1]
    shipped.as_(ADA).report(tmp_path / "ja", language="ja")
    assert "デプロイ" in (tmp_path / "ja").read_text()


def test_report_names_the_head_of_the_log(shipped, tmp_path):
    done = shipped.as_(ADA).report(tmp_path / "r.html", charts=False)
    page = (tmp_path / "r.html").read_text()
    line = next(iter(sorted((shipped.folder / ".deltavc" / "events").iterdir(), reverse=True)))
    newest = line.read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
    assert done.head == hashlib.sha256(newest).hexdigest()
    assert json.loads(newest)["number"] == done.event
    assert done.head in page
    assert 'class="chart"' not in page


def test_hostile_messages_do_not_act(shipped, tmp_path):
    shipped.as_(ADA).report(tmp_path / "r.html", title=HOSTILE)
    page = (tmp_path / "r.html").read_text()
    assert "<img" not in page
    assert "\u202e" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;\\u202e") > 5


def test_only_what_is_asked_for(shipped):
    told = shipped.told(environments=["staging"])
    assert {d.environment for d in told.deployments} == {"staging"}
    assert [e.name for e in told.environments] == ["staging"]
    assert shipped.told(environments=["production"]).problems == ()
    told = shipped.told(range_=f"{shipped.first}..")
    assert told.revisions == 2
    assert [p.value for p in told.kpis[0].points] == [0.86, 0.9]
    assert shipped.first not in {n.version.id for n in told.lineage.nodes}
    assert shipped.first not in {d.version.id for d in told.deployments}
    later = shipped.told(since=shipped.told().deployments[0].time)
    assert [d.action for d in later.deployments] == ["rollback", "promote", "deploy"]
    assert later.kpis == ()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"environments": ["nowhere"]}, UnknownRevision),
        ({"revisions": "nothing"}, UnknownRevision),
        ({"language": "tlh"}, UsageError),
        ({"title": " "}, UsageError),
    ],
)
def test_what_makes_no_sense_is_refused(shipped, tmp_path, options, error):
    with pytest.raises(error):
        shipped.as_(ADA).report(tmp_path / "r.html", **options)
    assert not (tmp_path / "r.html").exists()


def test_other_files_are_not_replaced(shipped, tmp_path):
    ada, file = shipped.as_(ADA), tmp_path / "r.html"
    ada.report(file, charts=False)
    ada.report(file, charts=False, title="again")
    assert "<title>again</title>" in file.read_text()
    for other in (tmp_path / "weights", tmp_path / "folder", tmp_path / "link"):
        if other.name == "weights":
            other.write_bytes(b"\x00weights")
        elif other.name == "folder":
            other.mkdir()
        else:
            other.symlink_to(file)
        with pytest.raises(UsageError, match="is there and is no report"):
            ada.report(other, charts=False)
    with pytest.raises(RepositoryUnwritable):
        ada.report(tmp_path / "missing" / "r.html", charts=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link", "r.html", "weights"]


def test_commands_of_the_page_verify_it(shipped, commands, tmp_path):
    page = tmp_path / "r.html"
    shipped.as_(ADA).report(page, title="Q3 'n' more", charts=False)
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in html.unescape(block).splitlines()]
    ran = []
    for line in lines:
        words = shlex.split(line)
        if words[0] == "echo":
            (shipped.folder / words[3]).write_text(words[1] + "\n")
            continue
        assert words.pop(0) == "deltavc"
        ran.append(words[0])
        words = [str(tmp_path / w) if w in ("FOLDER", "again.html") else w for w in words]
        done = commands.ok(shipped.folder, *words)
        if words[0] == "env":
            assert shipped.hostile[:10] in done.out
    assert ran == ["audit", "audit", "env", "checkout", "report"]
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


# what goes wrong


@pytest.fixture
def team(tmp_path, models):
    folder = tmp_path / "repo"
    folder.mkdir()
    return Team(folder, models)


def test_nothing_served_is_no_problem(team, tmp_path):
    assert team.problems() == []
    done = team.as_(ADA).report(tmp_path / "r.html")
    assert (done.deployments, done.problems, done.revisions) == (0, 0, 0)


def test_overridden_gates_and_broken_folders_are_found(team):
    team.ship(team.commit(0.7), override=True)
    assert team.problems() == ["gate_overridden"]
    link = team.folder / "serve" / "production" / "current"
    there = link.readlink()
    link.unlink()
    link.symlink_to("elsewhere")
    assert team.problems() == ["gate_overridden", "out_of_step"]
    link.unlink()
    link.symlink_to(there)
    receipt = link / "deltavc.json"
    receipt.chmod(0o644)
    receipt.write_text(receipt.read_text().replace("{", "{ ", 1))
    problem = team.told().problems[1]
    assert problem.kind == "out_of_step"
    assert "receipt" in problem.details[0]


def test_what_is_measured_later_counts(team):
    first = team.commit(0.82)
    team.ship(first)
    assert team.problems() == []
    team.as_(ADA).measure(first, {"accuracy": 0.7}, samples=5000)
    assert team.problems() == ["rule_fails_now"]
    policy = (team.folder / "deltavc.toml").read_text()
    more = '"release", "speed"'
    (team.folder / "deltavc.toml").write_text(policy.replace('"release"', more))
    team.as_(ADA).define_gate("speed", ["latency <= 500 ms"])
    assert team.problems() == ["rule_fails_now", "gate_not_asked", "measurement_missing"]


def test_marks_and_requests_are_told(team):
    first = team.commit(0.82)
    team.ship(first)
    team.as_(OLGA).mark("production", first, bad=True, reason="toxic")
    second = team.commit(0.84)
    team.ship(second, approve=False)
    assert team.problems() == ["marked_bad", "request_waiting"]
    team.as_(ADA).measure(second, {"accuracy": 0.85}, samples=6000)
    problems = team.told().problems
    assert [p.kind for p in problems] == ["marked_bad", "request_stale"]
    assert "accuracy" in problems[1].details[0]


def test_a_clock_set_back_is_told(team):
    team.commit(0.82)
    team.now -= 3_600_000
    team.commit(0.83)
    problem = team.told().problems[0]
    assert problem.kind == "clock_back"
    assert problem.values["n"] == 1


def test_a_changed_event_is_told(team):
    team.commit(0.82)
    for segment in (team.folder / ".deltavc" / "events").iterdir():
        text = segment.read_bytes()
        segment.write_bytes(
            text.replace(b'"summary":"define accuracy"', b'"summary":"define accurocy"')
        )
    problems = team.told().problems
    assert problems[0].kind == "chain"
    assert problems[0].level == "serious"


def test_a_damaged_record_is_told(team):
    first = team.commit(0.82)
    team.ship(first)
    team.as_(OLGA).mark("production", first, bad=True)
    repo = LibraryRepository.open(team.folder, Session(ADA, team.clock))
    oid = repo.state().refs["marks:production"]
    (file,) = (team.folder / ".deltavc" / "objects" / "loose").rglob(f"*{oid[4:]}*")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    problems = team.told().problems
    assert [p.kind for p in problems] == ["damaged"]
    assert oid[:8] in problems[0].details[0]


def test_an_earlier_operation_is_refused(team):
    repo = LibraryRepository.open(team.folder, Session(ADA, team.clock))
    repo.look_at(repo.state().hash)
    with pytest.raises(UsageError, match="newest state"):
        gather(repo)


# the command


def test_command_tells_and_writes(shipped, commands, tmp_path):
    done = commands.ok(shipped.folder, "report", "-o", tmp_path / "a.html", "--no-charts")
    assert re.match(
        r"Wrote .*a\.html \([\d.]+ KiB\): 3 revisions, 7 deployments, 1 KPI\. "
        r"Nothing is loaded from the network\.\nNo open problem\.\n\Z",
        done.out,
    )
    assert "hint: keep the head elsewhere: event" in done.err
    again = commands.ok(
        shipped.folder, "report", "-o", tmp_path / "b.html", "--no-charts", "--json"
    )
    assert again.document["schema"] == "deltavc.report/1"
    assert again.data["problems"] == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    quiet = commands.ok(
        shipped.folder, "report", "-o", tmp_path / "a.html", "--no-charts", "-q", "--env", "staging"
    )
    assert quiet.out == f"{tmp_path / 'a.html'}\n"
    assert commands.run(shipped.folder, "report", "--env", "nowhere").code == 20
    assert commands.run(shipped.folder, "report", "--lang", "tlh").code == 2


def test_command_without_matplotlib_names_the_extra(shipped, tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from deltavc.cli.main import run\nsys.argv[0] = 'deltavc'\nrun()\n"
    )
    argv = [sys.executable, "-c", code, "-C", str(shipped.folder), "report", "-o"]
    home = {"HOME": str(tmp_path)}
    done = subprocess.run(
        [*argv, str(tmp_path / "r.html")], capture_output=True, text=True, env=home
    )
    assert done.returncode == 60
    assert 'pip install "deltavc[report]"' in done.stderr
    assert not (tmp_path / "r.html").exists()
    done = subprocess.run([*argv, str(tmp_path / "r.html"), "--no-charts"], env=home, check=False)
    assert done.returncode == 0
