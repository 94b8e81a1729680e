"""The in-toto statement: the library takes it, and it names what was decided, by digest."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as Predicate
from in_toto_attestation.v1.statement import Statement

from deltavc.attest.intoto import gate_statement
from deltavc.errors import MissingExtra, UnknownRevision, UsageError

from .conftest import Desk  # type: ignore[import-not-found]


def read(document: bytes) -> Any:
    """Reads a statement by the library's messages; unknown fields are an error there."""
    found = json.loads(document)
    statement = Statement([], "", {})
    json_format.Parse(document, statement.pb)
    statement.validate()
    json_format.ParseDict(found["predicate"], Predicate())
    return found


@pytest.fixture
def judged(desk: Desk) -> str:
    """A version on which numbers pass one rule and leave another open."""
    desk.commit(message="first")
    rev = desk.commit(message="second")
    desk.define()
    desk.api.measure(rev, {"acc": 0.9, "acc[rare]": 0.7}, samples=1000, dataset="tickets")
    return rev


def test_every_rule_is_a_test(desk: Desk, judged: str) -> None:
    found = read(gate_statement(desk.repo, judged, gates=["release"]))
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    predicate = found["predicate"]
    assert predicate["result"] == "WARNED"
    assert predicate["passedTests"] == ["release: acc >= 0.85"]
    assert predicate["warnedTests"] == ["release: acc[rare] >= 0.7"]
    assert "failedTests" not in predicate
    (gate,) = predicate["configuration"]
    checked = desk.api.check_gate("release", judged)
    rules = {one["rule"]: one for one in gate["annotations"]["rules"]}
    for row in checked.rules:
        assert rules[row.rule]["sentence"] == row.sentence
        assert rules[row.rule]["measurement"] == row.measurement
        assert (rules[row.rule]["samples"], rules[row.rule]["value"]) == (1000, row.value)


@pytest.mark.parametrize(("value", "result"), [(0.99, "PASSED"), (0.75, "WARNED"), (0.5, "FAILED")])
def test_the_worst_rule_is_the_result(desk: Desk, judged: str, value: float, result: str) -> None:
    desk.api.define_gate("one", ["acc[rare] >= 0.74"])
    desk.api.measure(judged, {"acc[rare]": value}, samples=1000)
    found = read(gate_statement(desk.repo, judged, gates=["one", "release"]))["predicate"]
    names = [one["name"] for one in found["configuration"]]
    assert names == ["deltavc/gate/one", "deltavc/gate/release"]
    assert found["result"] == result


def test_policy_and_subjects_are_digests_of_bytes(desk: Desk, judged: str) -> None:
    folder = desk.out(judged)
    found = read(gate_statement(desk.repo, judged, gates=["release"], folder=folder))
    (gate,) = found["predicate"]["configuration"]
    policy = base64.b64decode(gate["content"])
    assert hashlib.sha256(policy).hexdigest() == gate["digest"]["sha256"]
    assert gate["digest"]["sha256"] == desk.api.check_gate("release", judged).policy
    assert [one["name"] for one in json.loads(policy)] == ["release", "acc"]
    subjects = {one["name"]: one["digest"]["sha256"] for one in found["subject"]}
    from deltavc.repo.history import raw

    manifest = desk.repo.commit(judged).manifest
    for kind, oid in (("commit", judged), ("manifest", manifest)):
        assert subjects.pop(f"deltavc/{kind}/{oid}") == oid
        assert hashlib.sha256(raw(desk.repo, oid)).hexdigest() == oid
    assert subjects == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }


def test_equal_states_give_equal_bytes(desk: Desk, judged: str) -> None:
    desk.api.define_gate("fresh", ["age of acc <= 1 days"])
    once = gate_statement(desk.repo, judged, gates=["fresh", "release"])
    again = gate_statement(desk.reopen(), judged, gates=["release", "fresh", "fresh"])
    assert again == once  # though by the clock of the second the measurement is too old
    assert read(once)["predicate"]["passedTests"] == [
        "fresh: age of acc <= 1 days", "release: acc >= 0.85",
    ]  # fmt: skip


def test_a_baseline_is_named(desk: Desk, judged: str) -> None:
    desk.api.define_gate("better", ["acc not worse than baseline by 0.01"])
    desk.api.measure("HEAD~1", {"acc": 0.8}, samples=1000, dataset="tickets")
    found = read(gate_statement(desk.repo, judged, gates=["better"], against="HEAD~1"))
    (gate,) = found["predicate"]["configuration"]
    assert gate["annotations"]["baseline"] == desk.api.resolve("HEAD~1")
    assert found["predicate"]["result"] == "PASSED"


def test_by_default_it_is_of_the_deployment_that_let_it_go_live(desk: Desk, judged: str) -> None:
    desk.api.define_gate("release", ["acc >= 0.85"])
    desk.api.define_environment("staging", gates=["release"])
    desk.api.define_environment("open")
    before = desk.api.check_gate("release", judged)
    went = desk.api.deploy(judged, "staging", reason="weekly")
    desk.api.deploy(judged, "open", reason="asks no gate, so it has no verdict")
    once = gate_statement(desk.repo, judged)
    (gate,) = read(once)["predicate"]["configuration"]
    assert gate["annotations"]["deployment"] == went.deployment
    assert gate["annotations"]["environment"] == "staging"
    assert gate["digest"]["sha256"] == before.policy
    assert "content" in gate
    # What is measured or decided later is another matter, and the policy of then is not at hand.
    desk.api.measure(judged, {"acc": 0.1}, samples=1000)
    assert gate_statement(desk.repo, judged) == once
    desk.api.define_gate("release", ["acc >= 0.95"])
    (then,) = read(gate_statement(desk.repo, judged))["predicate"]["configuration"]
    assert then == {key: value for key, value in gate.items() if key != "content"}


def test_a_gate_that_was_overridden_has_failed(desk: Desk, judged: str) -> None:
    desk.api.define_gate("strict", ["acc >= 0.95"])
    desk.api.define_environment("staging", gates=["strict"])
    desk.api.deploy(judged, "staging", reason="the other one is on fire", override=["strict"])
    found = read(gate_statement(desk.repo, judged))["predicate"]
    assert (found["result"], found["failedTests"]) == ("FAILED", ["strict: acc >= 0.95"])
    assert found["configuration"][0]["annotations"]["overridden"] is True


def test_what_cannot_be_said_is_not(
    desk: Desk, judged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no gate has been asked") as caught:
        gate_statement(desk.repo, judged)
    assert "--gate" in caught.value.hint
    with pytest.raises(UsageError, match="a baseline belongs to gates"):
        gate_statement(desk.repo, judged, against="HEAD~1")
    with pytest.raises(UnknownRevision, match="no gate is called 'other'"):
        gate_statement(desk.repo, judged, gates=["other"])
    monkeypatch.setitem(sys.modules, "in_toto_attestation.v1.statement", None)
    with pytest.raises(MissingExtra, match="'in_toto_attestation'"):
        gate_statement(desk.repo, judged, gates=["release"])
