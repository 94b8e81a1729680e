"""The twenty questions of an auditor, each asked in words for people and for programs."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import deltavc

from .conftest import ADA, BO, KAI, Ask, Story, ms

PRODUCTION_1 = ("2026-09-03T12:00:00.000Z", "2026-09-12T09:00:00.000Z")


def saved(ask: Ask, name: str, **params: object) -> list[dict[str, Any]]:
    """Asks a saved query for people and for programs; both say the same number of rows."""
    words = [word for key, value in params.items() for word in ("--param", f"{key}={value}")]
    people = ask("audit", "query", "--saved", name, *words)
    programs = ask("audit", "query", "--saved", name, *words, "--json")
    assert people.code == programs.code
    rows: list[dict[str, Any]] = programs.data
    lines = people.out.splitlines()
    assert len(lines) == (len(rows) + 1 if rows else 1)
    for row, line in zip(rows, lines[1:], strict=False):
        short = [
            str(v)[:10] if k == "revision" else str(v) for k, v in row.items() if v is not None
        ]
        assert short[0] in line
    return rows


def test_q01_who_made_it_when_where_and_with_what(ask: Ask, told: Story) -> None:
    (row,) = saved(ask, "made-by", rev="v1.0")
    assert row["revision"] == told.versions["v1"]
    assert (row["author"], row["recorded_by"]) == (ADA, ADA)
    assert row["made"] == row["recorded"] == "2026-09-02T09:00:00.000Z"
    assert row["host"]
    assert row["user"]
    assert row["tool"].startswith("deltavc ")
    shown = ask("show", "v1.0")
    assert ADA in shown.out
    assert "2026-09-02 09:00 UTC" in shown.out
    mine = saved(ask, "changes-by", actor="bo@")
    assert [r["command"] for r in mine] == ["kpi define", "rollback"]


def test_q02_what_exactly_is_in_it(ask: Ask, told: Story, tmp_path: Path) -> None:
    found = ask("show", "v1.0", "-p", "*", "--json").data["commit"]
    (name,) = found["params"]
    assert name == "layers.0.q.weight"
    assert "layers.0.q.weight" in ask("show", "v1.0", "-p", "*").out
    raw = subprocess.run(
        [sys.executable, "-c", "from deltavc.cli.main import run; run()", "show", "v1.0", "--raw"],
        cwd=told.folder, capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert hashlib.sha256(raw).hexdigest() == told.versions["v1"]
    digests = []
    for place in ("one", "two"):
        assert ask("checkout", "v1.0", "--to", tmp_path / place).code == 0
        weights = (tmp_path / place / "model.safetensors").read_bytes()
        digests.append(hashlib.sha256(weights).hexdigest())
        receipt = json.loads((tmp_path / place / "deltavc.json").read_text())
        assert receipt["commit"] == found["commit"]
    assert digests[0] == digests[1]


def test_q03_on_which_base_bit_for_bit(ask: Ask, told: Story) -> None:
    (row,) = saved(ask, "base-of", rev="v1.0")
    assert row["names"] == "tiny"
    (verified,) = ask("base", "verify", "tiny", "--json").data
    assert (verified["ok"], verified["fingerprint"]) == (True, row["base"])
    assert ask("base", "verify", "tiny").code == 0


def test_q04_what_it_came_from(ask: Ask, told: Story) -> None:
    rows = saved(ask, "ancestors-of", rev=told.versions["v3"])
    assert [row["revision"] for row in rows] == [told.versions["v2"], told.versions["v1"]]
    assert rows[0]["parents"] == told.versions["v1"]
    assert saved(ask, "ancestors-of", rev="v1.0") == []


def test_q05_what_changed_between_two(ask: Ask, told: Story) -> None:
    found = ask("diff", "v1.0", told.versions["v2"], "--with-kpis", "--json").data
    assert [row["parameter"] for row in found["rows"]] == ["layers.0.q.weight"]
    people = ask("diff", "v1.0", told.versions["v2"], "--with-kpis")
    assert people.code == 0
    assert "accuracy" in people.out
    compared = ask("kpi", "compare", "v1.0", told.versions["v2"], "--json").data
    assert [row["kpi"] for row in compared] == ["accuracy"]


def test_q06_on_which_evidence_it_was_accepted(ask: Ask, told: Story) -> None:
    rows = saved(ask, "evidence-for", rev="v1.0")
    assert {row["environment"] for row in rows} == {"staging", "production"}
    for row in rows:
        assert (row["rule"], row["verdict"]) == ("accuracy >= 0.8", "pass")
        assert (row["value"], row["samples"]) == (0.9, 1000)
        assert (row["dataset"], row["dataset_sha256"]) == ("holdout-1", "d" * 64)
        assert (row["measured_by"], row["tool"]) == (ADA, "lm-eval 1.2")
        assert len(row["policy"]) == 64


def test_q07_whether_numbers_came_before_the_decision_and_changed_since(
    ask: Ask, told: Story
) -> None:
    rows = saved(ask, "evidence-timing", rev="v1.0")
    production = [row for row in rows if row["environment"] == "production"]
    first = [row for row in production if row["decided"] == PRODUCTION_1[0]]
    assert [(row["value"], row["relation"], row["decided_on"]) for row in first] == [
        (0.9, "before", 1),
        (0.91, "after", 0),
    ]
    changed = ask("audit", "query", "--saved", "evidence-changed", "--json")
    assert changed.code == 1
    assert {(r["value"], r["corrected_to"], r["corrected_by"]) for r in changed.data} == {
        (0.93, 0.78, KAI)
    }
    assert "measured on training data" in ask("audit", "query", "--saved", "evidence-changed").out


def test_q08_what_was_live_at_a_time(ask: Ask, told: Story) -> None:
    (row,) = saved(ask, "live-at", env="production", at="2026-09-10T00:00Z")
    assert (row["revision"], row["since"], row["until"]) == (told.versions["v1"], *PRODUCTION_1)
    shown = ask("env", "show", "production", "--at", "2026-09-10T00:00Z", "--json").data
    assert shown["serving"]["revision"] == told.versions["v1"]
    assert saved(ask, "live-at", env="production", at="2026-09-03T11:59Z") == []
    everywhere = saved(ask, "live-at", at="now")
    assert {r["environment"]: r["revision"] for r in everywhere} == {
        "dev": told.versions["v3"],
        "production": told.versions["v1"],
        "staging": told.versions["v3"],
    }
    assert everywhere == [
        {key: row.get(key) for key in everywhere[0]}
        for row in ask("audit", "query", "--saved", "serving-now", "--json").data
        for row in [row | {"until": None}]
    ]


def test_q09_when_and_how_long_it_was_live(ask: Ask, told: Story) -> None:
    rows = [
        row
        for row in saved(ask, "live-intervals", rev="v1.0")
        if row["environment"] == "production"
    ]
    assert [(row["since"], row["until"]) for row in rows] == [
        PRODUCTION_1,
        ("2026-10-05T08:00:00.000Z", None),
    ]
    day = 86400.0
    assert [row["seconds"] for row in rows] == [8.875 * day, pytest.approx((26 + 2 / 3) * day)]
    assert rows[0]["seconds_in_all"] == pytest.approx((8.875 + 26 + 2 / 3 + 8) * day)


def test_q10_who_approved_it_and_saw_what(ask: Ask, told: Story) -> None:
    (row,) = saved(ask, "approvals-of", rev="v1.0")
    assert (row["requested_by"], row["approver"], row["reason"]) == (ADA, KAI, "numbers are good")
    assert row["approved_at"] == "2026-09-03T10:00:00.000Z"
    assert len(row["evidence"]) == 64
    assert row["deployment"].startswith("d-")
    request = [r for r in saved(ask, "evidence-for", rev="v1.0") if r["decision"] == row["request"]]
    assert [r["value"] for r in request] == [0.9]
    assert saved(ask, "approvals-waiting") == []


def test_q11_was_anything_live_that_nobody_else_approved(ask: Ask, told: Story) -> None:
    assert saved(ask, "never-approved", env="production") == []
    found = ask("audit", "query", "--saved", "never-approved", "--json")
    assert found.code == 1
    assert {row["why"] for row in found.data} == {"no approval"}
    assert {row["environment"] for row in found.data} == {"staging", "dev"}


def test_q12_which_deployments_broke_a_threshold_of_the_day(ask: Ask, told: Story) -> None:
    (row,) = saved(ask, "threshold-broken", since="2026-09-01")
    assert (row["environment"], row["revision"]) == ("staging", told.versions["v3"])
    assert (row["verdict"], row["overridden"], row["reason"]) == ("fail", 1, "to look at it")
    assert saved(ask, "threshold-broken", since="2026-09-21") == []
    without = saved(ask, "deployments-without-gate")
    assert [(r["environment"], r["overridden"]) for r in without] == [("staging", 1), ("dev", 0)]


def test_q13_what_it_was_trained_on(ask: Ask, told: Story) -> None:
    rows = {row["what"]: row for row in saved(ask, "trained-on", rev="v1.0")}
    digest = hashlib.sha256((told.root / "tickets.csv").read_bytes()).hexdigest()
    assert rows["data"]["sha256"] == digest
    assert rows["run"]["value"] == "mlflow:8c1f22"
    assert (rows["licence"]["value"], rows["code"]["value"]) == ("CC-BY-4.0", "9f2c41d")
    assert rows["label team"]["value"] == "support"
    unsaid = saved(ask, "trained-on", rev=told.versions["v3"])
    assert {row["value"] for row in unsaid} == {"not recorded"}


def test_q14_what_derives_from_data_that_must_go(ask: Ask, told: Story) -> None:
    digest = hashlib.sha256((told.root / "german.csv").read_bytes()).hexdigest()
    rows = saved(ask, "derived-from-data", data=digest)
    assert [row["revision"] for row in rows] == [told.versions["v2"], told.versions["v3"]]
    assert [row["trained_on_it"] for row in rows] == [1, 0]
    assert (rows[0]["live_in"], rows[1]["live_in"]) == (None, "staging,dev")
    assert set(rows[0]["was_live_in"].split(",")) == {"staging", "production"}
    below = saved(ask, "descendants-of", rev="v1.0")
    assert [row["revision"] for row in below] == [told.versions["v2"], told.versions["v3"]]
    (base,) = saved(ask, "base-of", rev="v1.0")
    assert len(saved(ask, "derived-from-base", base=base["base"][:12])) == 3


def test_q15_which_version_answered(ask: Ask, told: Story) -> None:
    told_id = "dv-" + told.versions["v1"][:20]
    rows = saved(ask, "answered-by", id=told_id)
    assert {row["revision"] for row in rows} == {told.versions["v1"]}
    assert {row["environment"] for row in rows} == {"staging", "production"}
    assert ask("show", told_id, "--json").data["id"] == told.versions["v1"]


def test_q16_who_went_back_when_and_why(ask: Ask, told: Story) -> None:
    (row,) = saved(ask, "rollbacks")
    assert (row["environment"], row["actor"]) == ("production", BO)
    assert row["reason"] == "INC-318: wrong answers"
    assert row["went_back_from"] == told.versions["v2"]
    assert row["went_back_to"] == told.versions["v1"]
    assert row["seconds_bad"] == (ms("2026-10-05T08:00") - ms("2026-09-12T09:00")) / 1000


def test_q17_was_history_rewritten(ask: Ask, told: Story) -> None:
    assert ask("audit", "verify").code == 0
    found = ask("audit", "verify", "--deep", "--json")
    assert (found.code, found.data["ok"], found.data["rows_full"]) == (0, True, True)
    assert found.data["objects_read"] == found.data["objects"] > 20
    (gone,) = saved(ask, "history-moved")
    assert (gone["ref"], gone["after"], gone["actor"]) == ("branch:side", None, KAI)
    (step,) = saved(ask, "clock-steps")
    assert (step["actor"], step["command"]) == (BO, "kpi define")


def test_q18_is_the_log_complete_up_to_a_noted_head(ask: Ask, told: Story, tmp_path: Path) -> None:
    noted = tmp_path / "head.txt"
    noted.write_text(ask("audit", "head").out)
    assert "is in the log" in ask("audit", "verify", "--anchor", noted).out
    noted.write_text(ask("audit", "head", "--json").out)
    assert ask("audit", "verify", "--anchor", noted).code == 0
    noted.write_text(f"event 7 {'0' * 64}")
    found = ask("audit", "verify", "--anchor", noted, "--json")
    assert (found.code, found.data["findings"][0]["code"]) == (1, "log-anchor")
    noted.write_text(f"{found.data['events'] + 1} {'0' * 64}")
    assert ask("audit", "verify", "--anchor", noted).code == 1


def test_q19_everything_about_a_version_in_one_file(ask: Ask, told: Story, tmp_path: Path) -> None:
    pack = tmp_path / "v1.zip"
    asked = ask("audit", "export", "--as", "pack", "-o", pack, "--about", "v1.0", "--json")
    assert asked.data["sha256"] == hashlib.sha256(pack.read_bytes()).hexdigest()
    assert asked.data["events"] == len(ask("audit", "log", "--about", "v1.0", "--json").data)
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(tmp_path / "v1")
        names = archive.namelist()
    assert f"objects/commit/{told.versions['v1']}" in names
    assert {name.split("/")[1] for name in names if name.startswith("objects/")} >= {
        "commit", "manifest", "measurement", "deployment", "request", "approval", "INDEX",
    }  # fmt: skip
    checked = subprocess.run(
        [sys.executable, "-I", "verify.py"], cwd=tmp_path / "v1", capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_q20_can_it_be_rebuilt_bit_for_bit(ask: Ask, told: Story, tmp_path: Path) -> None:
    checked = ask("fsck", "--only", "v1.0", "--json")
    assert (checked.code, checked.data["ok"]) == (0, True)
    assert ask("checkout", "v1.0", "--to", tmp_path / "again").code == 0
    wanted = deltavc.open(told.folder).load("v1.0")
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert {n: a.tobytes() for n, a in found.items()} == {
        n: t.numpy().tobytes() for n, t in wanted.items()
    }


def test_live_at_agrees_with_a_plain_list_at_random_times(ask: Ask, told: Story) -> None:
    repo = deltavc.open(told.folder)
    deployments = [
        (row["time"], row["environment"], row["revision"])
        for row in repo.query("select * from v_deployments order by event").rows
    ]
    rng = random.Random(5)
    for _ in range(100):
        moment = rng.randrange(ms("2026-08-31T00:00"), ms("2026-11-02T00:00"))
        at = datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds")
        plain = {env: rev for time, env, rev in deployments if time <= at[:23] + "Z"}
        rows = repo.saved_query("live-at", {"at": moment}).rows
        assert {row["environment"]: row["revision"] for row in rows} == plain
