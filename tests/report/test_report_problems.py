"""Each kind of problem is found where it is, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deltavc.records.ship import Environment as Definition
from deltavc.report.data import (
    Approval,
    Deployment,
    Environment,
    Gate,
    KpiNow,
    Lineage,
    Mark,
    Report,
    Request,
    Scope,
    Source,
    Version,
)
from deltavc.report.problems import decided_at, find
from deltavc.report.render import render
from deltavc.report.texts import LANGUAGES

GOOD = Version("a" * 64, "good", "Ada <ada@example.org>", 0)
OTHER = Version("b" * 64, "other", "Ada <ada@example.org>", 0)
PASSED = Gate("release", "pass", "p")
YES = Approval("Olga", 0, None)
SERVING = Deployment(
    9, "production", GOOD, "promote", "Grace", 0,
    verdict="pass", gates=(PASSED,), approvals=(YES,), counted=1, needed=1, serving=True,
)  # fmt: skip
STAGED = Deployment(7, "staging", GOOD, "deploy", "Grace", 0, serving=True)
DEFINITION = Definition("production", "staging", ("release",), approvals=1)
NOTHING = Report(
    Source("", 9, "0" * 64, 0, "deltavc"), Scope(), (), (), (), (), Lineage((), 0), (), ()
)
MEASURED = KpiNow("accuracy", "", "higher", 0.9, rules=("accuracy >= 0.85",))


def environment(serving=SERVING, definition=DEFINITION, **more):
    return Environment("production", "recorded", definition, serving, kpis=(MEASURED,), **more)


def kinds(serving=SERVING, *, env=None, earlier=(STAGED,), requests=(), **more):
    env = env or environment(serving)
    found = find([env], [serving, *earlier], requests, **more)
    for language in LANGUAGES:  # each kind has its sentence, with all that it names
        page = render(replace(NOTHING, problems=found), language=language)
        assert page.count('<li><span class="badge') == len(found)
    return [problem.kind for problem in found]


def test_nothing_is_wrong_with_what_passed():
    assert kinds() == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gates": (replace(PASSED, verdict="fail"),)}, ["gate_failed"]),
        ({"gates": (replace(PASSED, verdict="inconclusive"),)}, ["gate_inconclusive"]),
        (
            {"gates": (replace(PASSED, verdict="fail", overridden=True),), "overridden": True},
            ["gate_overridden"],
        ),
        ({"gates": ()}, ["gate_not_asked"]),
        ({"gates": (Gate("other", "pass", "p"),)}, ["gate_not_asked"]),
        ({"counted": 0, "approvals": ()}, ["approvals_missing"]),
        ({"approvals": (replace(YES, void="evidence"),)}, ["approvals_void"]),
        ({"needed": 0, "counted": 0, "approvals": ()}, ["approvals_raised"]),
        ({"bad": Mark(GOOD, "Olga", 0, None)}, ["marked_bad"]),
        ({"late": True}, ["late"]),
        ({"version": replace(GOOD, exact=False, max_error=0.1)}, ["approximate"]),
        ({"version": OTHER}, ["stage_skipped"]),
    ],
)
def test_problems_of_a_deployment(change, expected):
    assert kinds(replace(SERVING, **change)) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kpis": (replace(MEASURED, measured=False, value=None),)}, ["measurement_missing"]),
        ({"kpis": (replace(MEASURED, fails=MEASURED.rules),)}, ["rule_fails_now"]),
        ({"kpis": (KpiNow("f1", "", "higher", None, measured=False),)}, []),
        ({"out_of_step": ("the link leads nowhere",)}, ["out_of_step"]),
        ({"serving": None}, []),
        ({"serving": replace(SERVING, version=None, action="rollback")}, []),
    ],
)
def test_problems_of_an_environment(change, expected):
    assert kinds(env=replace(environment(), **change)) == expected


def test_a_rollback_stands_on_what_was_decided_before():
    back = replace(
        SERVING, number=20, action="rollback", gates=(), verdict=None, approvals=(), counted=0,
        needed=0,
    )  # fmt: skip
    between = replace(SERVING, number=15, version=OTHER, serving=False)
    earlier = (between, replace(SERVING, serving=False), STAGED)
    assert kinds(back, earlier=earlier) == []
    assert decided_at(back, earlier).number == SERVING.number
    failed = replace(SERVING, serving=False, gates=(replace(PASSED, verdict="fail"),))
    assert kinds(back, earlier=(between, failed, STAGED)) == ["gate_failed"]
    assert kinds(back, earlier=(between,)) == ["gate_not_asked", "approvals_raised"]


def test_problems_of_the_log():
    assert kinds(chain=["event 3 does not follow"], clock=[12]) == ["chain", "clock_back"]


def test_requests_are_told():
    request = Request(
        30, "production", OTHER, "Grace", 0, None, needed=2, counted=1, verdict="pass"
    )
    assert kinds(requests=[request]) == ["request_waiting"]
    void = replace(request, approvals=(replace(YES, void="self"),))
    assert kinds(requests=[void]) == ["request_void"]
    assert kinds(requests=[replace(request, stale="measurements changed")]) == ["request_stale"]


def test_a_request_that_was_overtaken_is_no_problem():
    old = Request(3, "production", OTHER, "Grace", 0, None, 2, 0, "pass", stale="other baseline")
    assert kinds(requests=[old]) == []


def test_the_past_is_counted():
    past = [
        replace(SERVING, number=4, serving=False, overridden=True),
        replace(SERVING, number=3, serving=False, verdict="fail"),
        replace(SERVING, number=2, serving=False, counted=0),
    ]
    found = find([environment()], [SERVING, STAGED, *past], [])
    assert [(p.kind, p.values["deployments"]) for p in found] == [
        ("past_overridden", [4]),
        ("past_not_passed", [3]),
        ("past_approvals", [2]),
    ]
    assert {p.level for p in found} == {"note"}
