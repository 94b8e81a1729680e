"""Environments: what goes live, on which evidence, with whose consent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import deltavc
from deltavc.errors import (
    ApprovalMissing,
    HookFailed,
    InvalidName,
    NameTaken,
    Protected,
    RefMoved,
    UnknownRevision,
    UsageError,
)

KAI, ADA = "Kai <kai@example.org>", "Ada <ada@example.org>"


def as_(lab, actor):
    """The same repository in another person's hands."""
    return deltavc.open(lab.root / "repo", actor=actor, clock=lab.clock)


@pytest.fixture
def shop(lab):
    """Three versions, a KPI and a gate."""
    lab.versions = [lab.commit(lab.lora(), f"version {n}") for n in range(3)]
    lab.repo.define_kpi("accuracy", direction="higher", kind="proportion", min_samples=100)
    lab.repo.define_gate("release", ["accuracy >= 0.8"])
    for version, value in zip(lab.versions, (0.9, 0.91, 0.5), strict=True):
        lab.repo.measure(version, {"accuracy": value}, samples=1000)
    lab.target = lab.root / "repo" / "serve"
    return lab


def current(lab, target="serve"):
    return load_file(lab.root / "repo" / target / "current" / "model.safetensors")


def assert_served(lab, version, target="serve"):
    """What a server reads is the version, bit for bit, and says so."""
    wanted = lab.repo.load(version)
    found = current(lab, target)
    assert {n: t.numpy().tobytes() for n, t in wanted.items()} == {
        n: a.tobytes() for n, a in found.items()
    }
    told = json.loads((lab.root / "repo" / target / "current" / "deltavc.json").read_text())
    assert told["commit"] == version


# definitions ---------------------------------------------------------------------


def test_the_same_definition_again_changes_nothing(shop):
    first = shop.repo.define_environment("production", gates=["release"], target="serve")
    again = shop.repo.define_environment("production", gates=["release"], target="serve")
    assert (first.changed, again.changed) == (True, False)
    assert shop.repo.define_environment("production", keep=2).changed


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "no/../way"}, InvalidName),
        ({"keep": 0}, UsageError),
        ({"approvals": -1}, UsageError),
        ({"form": "onnx", "target": "serve"}, UsageError),
        ({"after": "production"}, UsageError),
        ({"after": "nowhere"}, UsageError),
        ({"hook": "true"}, UsageError),
        ({"target": "."}, UsageError),
        ({"target": ".deltavc/x"}, UsageError),
        ({"target": "model"}, UsageError),
        ({"target": "serve", "hook": "a\0b"}, UsageError),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused_and_changes_nothing(shop, options, error):
    before = shop.repo.operations()
    with pytest.raises(error):
        shop.repo.define_environment(**{"name": "production"} | options)
    assert shop.repo.operations() == before


def test_targets_may_not_overlap_and_order_may_not_run_in_a_circle(shop):
    shop.repo.define_environment("a", target="serve")
    with pytest.raises(UsageError, match="overlap"):
        shop.repo.define_environment("b", target="serve/b")
    shop.repo.define_environment("b", after="a")
    with pytest.raises(UsageError, match="circle"):
        shop.repo.define_environment("a", after="b", target="serve")


def test_the_file_that_is_reviewed_wins(shop):
    (shop.root / "repo" / "deltavc.toml").write_text(
        '[env.production]\ngates = ["release"]\napprovals = 1\ntarget = "serve"\n'
    )
    row = shop.repo.environments()[0]
    assert (row.name, row.origin, row.gates, row.approvals) == (
        "production",
        "deltavc.toml",
        ["release"],
        1,
    )
    with pytest.raises(Protected, match=r"deltavc\.toml"):
        shop.repo.define_environment("production", target="elsewhere")
    with pytest.raises(ApprovalMissing):
        shop.repo.deploy(shop.versions[0], "production")


# deploy ---------------------------------------------------------------------------


def test_a_deployment_writes_beside_and_switches_one_link(shop):
    shop.repo.define_environment("production", gates=["release"], target="serve")
    first, second, _ = shop.versions
    done = shop.repo.deploy(first, "production", reason="first")
    assert (done.changed, done.verdict, done.written) == (True, "pass", True)
    assert_served(shop, first)
    done = shop.repo.deploy(second, "production")
    assert_served(shop, second)
    assert {p.name for p in shop.target.iterdir() if not p.name.startswith(".")} == {
        first[:10],
        second[:10],
        "current",
    }
    rows = shop.repo.deployments("production")
    assert [(row.revision, row.previous) for row in rows] == [
        (second, rows[1].deployment),
        (first, None),
    ]
    assert rows[1].until_time == rows[0].time
    assert rows[0].deployment == done.deployment == f"d-{rows[0].event:06d}"


def test_a_gate_that_fails_stops_it_and_nothing_changes(shop):
    shop.repo.define_environment("production", gates=["release"], target="serve")
    before = shop.repo.operations()
    done = shop.repo.deploy(shop.versions[2], "production")
    assert (done.blocked, done.verdict, done.changed) == ("gate", "fail", False)
    assert shop.repo.operations() == before
    assert not shop.target.exists()


def test_what_the_gate_saw_stays_with_the_deployment(shop):
    shop.repo.define_environment("production", gates=["release"])
    shop.repo.deploy(shop.versions[0], "production")
    shop.repo.define_gate("release", ["accuracy >= 0.99"])
    shop.repo.measure(shop.versions[0], {"accuracy": 0.1}, samples=1000)
    gate = shop.repo.environment("production").serving.gates[0]
    assert (gate.verdict, gate.rules[0].rule) == ("pass", "accuracy >= 0.8")
    assert gate.rules[0].value == 0.9
    assert gate.rules[0].samples == 1000


def test_an_override_needs_a_reason_a_gate_that_is_asked_and_no_protection(shop):
    bad = shop.versions[2]
    shop.repo.define_environment("production", gates=["release"])
    with pytest.raises(UsageError, match="reason"):
        shop.repo.deploy(bad, "production", override=["release"])
    with pytest.raises(UsageError, match="does not ask"):
        shop.repo.deploy(bad, "production", override=["other"], reason="now")
    done = shop.repo.deploy(bad, "production", override=["release"], reason="now")
    assert done.changed
    row = shop.repo.deployments("production")[0]
    assert (row.overridden, row.gate_verdict, row.reason) == (True, "fail", "now")
    shop.repo.define_environment("production", gates=["release"], protect=True)
    with pytest.raises(Protected):
        shop.repo.deploy(shop.versions[0], "production", override=["release"], reason="now")


def test_a_gate_that_is_not_defined_is_named(shop):
    shop.repo.define_environment("production", gates=["unheard-of"])
    with pytest.raises(UnknownRevision, match="unheard-of"):
        shop.repo.deploy(shop.versions[0], "production")


def test_the_same_key_is_done_once(shop):
    shop.repo.define_environment("production")
    first, second, _ = shop.versions
    one = shop.repo.deploy(first, "production", key="run-7")
    shop.repo.deploy(second, "production", key="run-8")
    again = shop.repo.deploy(first, "production", key="run-7")
    assert (again.changed, again.deployment) == (False, one.deployment)
    assert shop.repo.environment("production").serving.revision == second
    with pytest.raises(NameTaken):
        shop.repo.deploy(second, "production", key="run-7")


def test_what_is_served_already_changes_nothing_but_a_damaged_target_is_mended(shop):
    shop.repo.define_environment("production", target="serve")
    version = shop.versions[0]
    shop.repo.deploy(version, "production")
    before = shop.repo.operations()
    assert not shop.repo.deploy(version, "production").changed
    assert shop.repo.operations() == before
    weights = shop.target / "current" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    served = os.readlink(shop.target / "current")
    assert shop.repo.deploy(version, "production").changed
    assert_served(shop, version)
    assert os.readlink(shop.target / "current") != served  # never written where it is read


def test_a_dry_run_touches_nothing(shop):
    shop.repo.define_environment("production", gates=["release"], target="serve")
    before = shop.repo.operations()
    done = shop.repo.deploy(shop.versions[0], "production", dry_run=True)
    assert (done.dry_run, done.changed, done.verdict) == (True, True, "pass")
    assert shop.repo.operations() == before
    assert not shop.target.exists()


def test_somebody_elses_file_in_the_links_place_is_left_alone(shop):
    shop.repo.define_environment("production", target="serve")
    (shop.target / "current").mkdir(parents=True)
    (shop.target / "current" / "mine").write_text("x")
    with pytest.raises(Protected):
        shop.repo.deploy(shop.versions[0], "production")
    assert (shop.target / "current" / "mine").read_text() == "x"


@pytest.mark.parametrize("form", ["peft", "vllm"])
def test_an_adapter_can_be_kept_in_step(shop, form):
    shop.repo.define_environment("production", target="serve", form=form)
    shop.repo.deploy(shop.versions[0], "production")
    names = {path.name for path in (shop.target / "current").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "deltavc.json"} <= names


def test_so_many_versions_as_asked_for_are_kept_ready(shop):
    shop.repo.define_environment("production", target="serve", keep=2)
    for version in shop.versions:
        shop.repo.deploy(version, "production")
    kept = {path.name for path in shop.target.iterdir() if not path.name.startswith(".")}
    assert kept == {shop.versions[1][:10], shop.versions[2][:10], "current"}


# order ------------------------------------------------------------------------------


def test_promotions_come_from_where_they_must(shop):
    shop.repo.define_environment("small")
    shop.repo.define_environment("wide", after="small")
    first, second, _ = shop.versions
    with pytest.raises(Protected, match="small"):
        shop.repo.deploy(first, "wide")
    shop.repo.deploy(first, "small")
    done = shop.repo.promote("small", "wide")
    assert (done.action, done.revision) == ("promote", first)
    shop.repo.deploy(second, "small")
    assert shop.repo.deploy(second, "wide").changed  # it is what 'small' serves
    assert shop.repo.deployments("wide")[0].promoted_from == "small"
    shop.repo.define_environment("other")
    shop.repo.deploy(first, "other")
    with pytest.raises(Protected, match="not from 'other'"):
        shop.repo.promote("other", "wide")


def test_nothing_cannot_be_promoted(shop):
    shop.repo.define_environment("small")
    shop.repo.define_environment("wide")
    with pytest.raises(UsageError, match="serves nothing"):
        shop.repo.promote("small", "wide")


# approvals --------------------------------------------------------------------------


def ask(lab, version, name="production"):
    with pytest.raises(ApprovalMissing) as caught:
        lab.repo.deploy(version, name)
    return caught.value.context["request"]


def test_a_deployment_waits_for_others_and_says_so_once(shop):
    shop.repo.define_environment("production", gates=["release"], approvals=2)
    version = shop.versions[0]
    request = ask(shop, version)
    assert ask(shop, version) == request
    for actor in (ADA, "Ada Lovelace <ADA@example.org>"):
        with pytest.raises(Protected, match="somebody else"):
            as_(shop, actor).approve(request)
    assert as_(shop, KAI).approve(request).changed
    assert not as_(shop, KAI).approve(request).changed  # one person, one voice
    assert ask(shop, version) == request
    as_(shop, "Mia <mia@example.org>").approve(request, reason="numbers checked")
    done = shop.repo.deploy(version, "production")
    assert done.changed
    assert done.approvers == [KAI, "Mia <mia@example.org>"]
    row = shop.repo.deployments("production")[0]
    assert (row.approvals, row.approvals_needed, row.request) == (2, 2, request)
    with pytest.raises(Protected, match="already"):
        as_(shop, "Noa <noa@example.org>").approve(request)


def test_who_asks_cannot_approve_even_if_another_made_the_version(shop):
    shop.repo.define_environment("production", approvals=1)
    kai = as_(shop, KAI)
    with pytest.raises(ApprovalMissing) as caught:
        kai.deploy(shop.versions[0], "production")
    with pytest.raises(Protected, match="asked for it"):
        kai.approve(caught.value.context["request"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lab: lab.repo.measure(lab.versions[0], {"accuracy": 0.9}, samples=900), "accuracy"),
        (lambda lab: lab.repo.measure(lab.versions[0], {"latency_ms": 12}), "latency_ms"),
        (lambda lab: lab.repo.define_gate("release", ["accuracy >= 0.7"]), "gate 'release'"),
        (
            lambda lab: lab.repo.define_environment("production", gates=["release"], approvals=1,
                                                    keep=9),
            "defined anew",
        ),
    ],
)  # fmt: skip
def test_an_approval_is_void_once_what_it_saw_changed(shop, change, told):
    shop.repo.define_environment("production", gates=["release"], approvals=1)
    version = shop.versions[0]
    request = ask(shop, version)
    as_(shop, KAI).approve(request)
    change(shop)
    shown = shop.repo.environment("production").waiting[0]
    assert told in shown.void
    with pytest.raises(ApprovalMissing, match="void") as caught:
        shop.repo.deploy(version, "production")
    new = caught.value.context["request"]
    assert new != request
    with pytest.raises(Protected, match="void"):
        as_(shop, "Mia <mia@example.org>").approve(request)
    as_(shop, "Mia <mia@example.org>").approve(new)
    assert shop.repo.deploy(version, "production").changed


def test_a_request_is_used_once(shop):
    shop.repo.define_environment("production", approvals=1)
    first, second, _ = shop.versions
    for version in (first, second):
        as_(shop, KAI).approve(ask(shop, version))
        shop.repo.deploy(version, "production")
    with pytest.raises(ApprovalMissing):
        shop.repo.deploy(first, "production")


# hooks ------------------------------------------------------------------------------


def test_a_hook_knows_what_happened(shop):
    out = shop.root / "told"
    hook = f'echo "$DELTAVC_ENVIRONMENT $DELTAVC_ACTION $DELTAVC_REVISION $DELTAVC_FOLDER" > {out}'
    shop.repo.define_environment("production", target="serve", hook=hook)
    done = shop.repo.deploy(shop.versions[0], "production")
    assert done.hook.exit_code == 0
    folder = shop.target / shop.versions[0][:10]
    assert out.read_text().split() == ["production", "deploy", shop.versions[0], str(folder)]


def test_a_hook_that_fails_goes_back_and_both_stand_in_the_log(shop):
    shop.repo.define_environment("production", target="serve")
    first, second, _ = shop.versions
    shop.repo.deploy(first, "production")
    shop.repo.define_environment(
        "production",
        target="serve",
        hook=f'test "$DELTAVC_REVISION" = {first} || {{ echo no luck; exit 3; }}',
    )
    with pytest.raises(HookFailed, match="no luck") as caught:
        shop.repo.deploy(second, "production")
    assert caught.value.exit_code == 61
    assert_served(shop, first)
    rows = shop.repo.deployments("production")
    assert [(row.action, row.revision) for row in rows] == [
        ("rollback", first),
        ("deploy", second),
        ("deploy", first),
    ]
    assert "failed with 3" in rows[0].reason
    with pytest.raises(Protected, match="bad"):
        shop.repo.deploy(second, "production")


def test_a_first_deployment_whose_hook_fails_leaves_nothing_served(shop):
    shop.repo.define_environment("production", target="serve", hook="exit 1")
    with pytest.raises(HookFailed):
        shop.repo.deploy(shop.versions[0], "production")
    assert shop.repo.environment("production").serving.revision is None
    assert not os.path.lexists(shop.target / "current")
    with pytest.raises(UnknownRevision, match="serves nothing"):
        shop.repo.resolve("env:production")


# marks ------------------------------------------------------------------------------


def test_what_is_called_bad_comes_back_only_when_somebody_says_so(shop):
    shop.repo.define_environment("production")
    first, second, _ = shop.versions
    shop.repo.deploy(first, "production")
    shop.repo.deploy(second, "production")
    shop.repo.rollback("production", reason="latency")
    with pytest.raises(Protected, match="latency"):
        shop.repo.deploy(second, "production")
    shop.repo.mark("production", second, bad=False, reason="it was the cache")
    assert shop.repo.deploy(second, "production").changed
    shop.repo.mark("production", first, bad=True)
    assert shop.repo.environment("production").back is None
    with pytest.raises(UnknownRevision, match="never served"):
        shop.repo.mark("production", shop.versions[2], bad=True)


# revisions and undo -------------------------------------------------------------------


def test_environments_name_revisions(shop):
    shop.repo.define_environment("production")
    first, second, third = shop.versions
    for version in (first, second, third):
        shop.repo.deploy(version, "production")
    names = ("env:production", "env:production~1", "env:production~2", "env:production^")
    found = [shop.repo.resolve(name) for name in names]
    assert found == [third, second, first, second]
    with pytest.raises(UnknownRevision):
        shop.repo.resolve("env:production~3")
    with pytest.raises(UnknownRevision, match="not defined"):
        shop.repo.resolve("env:nowhere")


def test_undo_and_restore_never_pretend_that_a_deployment_did_not_happen(shop):
    shop.repo.define_environment("production", target="serve")
    operation = shop.repo.operations()[0].id
    shop.repo.deploy(shop.versions[0], "production")
    shop.repo.tag("v1")
    shop.repo.deploy(shop.versions[1], "production")
    undone = shop.repo.undo()
    assert "v1" in undone.summary
    assert any("rollback production" in note for note in undone.notes)
    shop.repo.restore(operation)
    assert shop.repo.environment("production").serving.revision == shop.versions[1]
    assert_served(shop, shop.versions[1])


def test_two_who_deploy_at_once_are_told_apart(shop, monkeypatch):
    """The second one's decision was about another state: it is refused, not carried out."""
    from deltavc.repo import deploy as module

    shop.repo.define_environment("production", target="serve")
    shop.repo.deploy(shop.versions[0], "production")
    real = module.materialise

    def slow(repo, served, commit):
        ready = real(repo, served, commit)
        monkeypatch.setattr(module, "materialise", real)
        as_(shop, KAI).deploy(shop.versions[1], "production")
        return ready

    monkeypatch.setattr(module, "materialise", slow)
    with pytest.raises(RefMoved, match="Kai"):
        shop.repo.deploy(shop.versions[2], "production")
    assert_served(shop, shop.versions[1])


def test_a_target_outside_the_repository_may_be_absolute(shop, tmp_path):
    shop.repo.define_environment("production", target=str(tmp_path / "out"))
    shop.repo.deploy(shop.versions[0], "production")
    assert Path(tmp_path / "out" / "current" / "deltavc.json").is_file()
