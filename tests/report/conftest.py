"""A report that has everything in it, and pages made of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deltavc.records.ship import Environment as Definition
from deltavc.report import problems
from deltavc.report.data import (
    Approval,
    Change,
    Deployment,
    Edge,
    Environment,
    Gate,
    Group,
    KpiChange,
    KpiNow,
    Lineage,
    Mark,
    Node,
    Point,
    Report,
    Request,
    Rule,
    Scope,
    Series,
    Signature,
    Source,
    Version,
)
from deltavc.report.render import render

DAY = 86_400_000
START = 1_788_000_000_000  # 2026-08-29
HOSTILE = '<script>alert("x")</script>\u202egnp.exe'
ARABIC = "\u0645\u062d\u0645\u062f"


def version(number: int, subject: str = "", **names: tuple[str, ...]) -> Version:
    """A revision of this number."""
    oid = f"{(number * 2654435761) % (1 << 40):010x}" + f"{number:054x}"
    who = ("Ada Lovelace <ada@example.org>", "Grace Hopper <grace@example.org>")[number % 2]
    return Version(oid, subject or f"epoch {number}", who, START + number * DAY, **names)


def gate(verdict: str = "pass", *, overridden: bool = False) -> Gate:
    """The gate release, with this verdict of its first rule."""
    why = {
        "pass": "0.879 (0.870..0.888, n=5,000)",
        "fail": "0.812 (0.801..0.823, n=5,000)",
        "inconclusive": "0.852 (0.842..0.862, n=5,000): the interval contains the limit",
    }
    return Gate(
        "release",
        verdict,
        "ab" * 32,
        overridden=overridden,
        baseline=version(9).id,
        rules=(
            Rule("accuracy >= 0.85", verdict, why[verdict], "accuracy"),
            Rule("accuracy not worse than baseline at 95%", "pass", "+0.026 (+0.013..+0.039)"),
            Rule("latency_p95 <= 500 ms", "pass", "405 ms (n=2,000)", "latency_p95"),
        ),
    )


def deployed(number: int, environment: str, what: Version | None, **more: object) -> Deployment:
    """A deployment by Grace."""
    fields: dict[str, object] = {
        "action": "deploy",
        "actor": "Grace Hopper <grace@example.org>",
        "time": START + number * DAY // 2,
        "reason": "weekly release",
        "gates": (gate(),),
        "verdict": "pass",
    }
    return Deployment(number=number, environment=environment, version=what, **{**fields, **more})


def yes(actor: str, number: int, void: str = "") -> Approval:
    """An approval."""
    return Approval(f"{actor} <{actor.lower()}@example.org>", START + number * DAY // 2, None, void)


def _deployments() -> list[Deployment]:
    signed = (Signature("commit", "ada@example.org", "SHA256:Vx1c0QkPzzE3", START),)
    bad = Mark(
        version(30), "Olga <olga@example.org>", START + 44 * DAY // 2, "latency alarm INC-318"
    )
    return [
        deployed(
            96, "production", version(34, "lower temperature", tags=("v1.3",)), serving=True,
            action="promote", promoted_from="staging", needed=2, counted=2, request=94,
            approvals=(yes("Linus", 95), yes("Olga", 95)), signatures=signed,
        ),
        deployed(90, "canary", version(38, HOSTILE), serving=True, verdict="fail", overridden=True,
                 gates=(gate("fail", overridden=True),), reason=HOSTILE, actor=ARABIC),
        deployed(86, "staging", version(36), serving=True, verdict="inconclusive",
                 gates=(gate("inconclusive"),), reason=None),
        deployed(70, "production", version(24), until=START + 48 * DAY, action="rollback", gates=(),
                 verdict=None, reason="latency alarm INC-318", late=True),
        deployed(64, "production", version(30), until=START + 35 * DAY, bad=bad, needed=2,
                 counted=1, action="promote", promoted_from="staging", request=60,
                 approvals=(yes("Linus", 61), yes("Grace", 62, "self"))),
        *(
            deployed(n, "production", version(n // 2), until=START + (n + 6) * DAY // 2)
            for n in range(48, 2, -2)
        ),
    ]  # fmt: skip


def _environments(deployments: list[Deployment]) -> tuple[Environment, ...]:
    serving = {d.environment: d for d in deployments if d.serving}
    kpis = (
        KpiNow("accuracy", "", "higher", 0.879, 0.87, 0.888, 5000, ("accuracy >= 0.85",)),
        KpiNow("latency_p95", "ms", "lower", 405.0, 398.0, 413.0, 2000, ("latency_p95 <= 500 ms",)),
        KpiNow("accuracy[rare]", "", "higher", 0.71, 0.66, 0.76, 320),
    )
    missing = (
        kpis[0],
        KpiNow("toxicity", "%", "lower", None, rules=("toxicity <= 1%",), measured=False),
    )
    made = []
    for name, after, needed, target, own in (
        ("canary", None, 0, None, kpis),
        ("production", "staging", 2, "serve/production", kpis),
        ("staging", None, 0, "serve/staging", missing),
        ("trial", None, 0, None, ()),
    ):  # fmt: skip
        definition = Definition(name, after, ("release",), needed, target, protect=needed > 0)
        made.append(
            Environment(
                name,
                "deltavc.toml",
                definition,
                serving=serving.get(name),
                decided=serving.get(name),
                deployments=sum(d.environment == name for d in deployments),
                bad=tuple(d.bad for d in deployments if d.bad and d.environment == name),
                out_of_step=("'serve/staging/current' leads to 3e91c07a5d",) * (name == "staging"),
                kpis=own,
            )
        )
    return tuple(made)


def _lineage() -> Lineage:
    rows = [
        (version(41, "merge german", branches=("main",)), ((1, 0), (2, 2)), (), ("head",)),
        (version(38, HOSTILE), ((3, 3),), ("canary",), ()),
        (version(37, "german glossary", branches=("german",)), ((4, 5),), (), ()),
        (version(34, "lower temperature", tags=("v1.3",)), ((4, 1),), ("production",), ()),
        (version(30, "rank 32"), ((5, 5), (6, 0)), (), ("production",)),
        (version(24, "first with new data"), ((7, 12),), (), ("production",)),
        (version(20, "experiment", branches=("attic/rank-64",)), ((7, 3),), (), ()),
        (version(9, "first release", tags=("v1.0",)), ((-1, 8),), (), ("production",)),
    ]
    nodes = tuple(
        Node(
            what,
            tuple(Edge(to, skipped) for to, skipped in edges),
            served=() if other == ("head",) else other,
            serving=serving,
            is_head=other == ("head",),
            merges=len(edges) if len(edges) > 1 else 0,
        )
        for what, edges, serving, other in rows
    )
    return Lineage(nodes, total=41, left_out=3)


def _series(name: str, unit: str, at: float, step: float, limit: tuple[float, bool, str]) -> Series:
    points = []
    for number in range(41):
        value = at + step * (number / 40 + 0.3 * ((number * 7) % 5 - 2) / 5)
        served = ("production",) if number in (9, 24, 30) else ()
        serving = {34: ("production",), 36: ("staging",), 38: ("canary",)}.get(number, ())
        half = abs(step) / 6
        points.append(
            Point(version(number), number, value, value - half, value + half, 5000, "main",
                  served, serving)
        )  # fmt: skip
    dates = tuple((n, START + n * DAY) for n in (0, 8, 16, 24, 32, 40))
    way = "higher" if limit[1] else "lower"
    return Series(name, unit, way, "Share of right answers", (limit,), tuple(points), 41, 41, dates)


def _change(after: Deployment, before: Deployment) -> Change:
    return Change(
        after.environment,
        before,
        after,
        added=(version(34, "lower temperature"), version(33), version(32)),
        more_added=4,
        groups=(
            Group("layers.*.self_attn.q_proj.weight", 28, 1.2345),
            Group("layers.*.self_attn.v_proj.weight", 28, 0.71),
            Group("", 12),
        ),
        files=("tokenizer.json",),
        kpis=(
            KpiChange("accuracy", "", 0.853, 0.879, 0.026, 0.013, 0.039, "better"),
            KpiChange("latency_p95", "ms", 410.0, 405.0, -5.0, -14.0, 4.0, "not told apart"),
        ),
    )


def make_report(**more: object) -> Report:
    """A report with everything that a page can show."""
    deployments = _deployments()
    environments = _environments(deployments)
    requests = (
        Request(97, "production", version(38, HOSTILE), "Grace <grace@example.org>",
                START + 49 * DAY, "next", 2, 0, "inconclusive", (gate("inconclusive"),),
                (yes("Grace", 98, "self"),)),
    )  # fmt: skip
    fields: dict[str, object] = {
        "source": Source("c0ffee" + "1" * 58, 98, "5eed" * 16, START + 50 * DAY, "deltavc 1.0"),
        "scope": Scope(),
        "environments": environments,
        "problems": problems.find(
            environments, deployments, requests, ["event 12 does not follow"], [40, 41]
        ),
        "deployments": tuple(deployments),
        "requests": requests,
        "lineage": _lineage(),
        "kpis": (
            _series("accuracy", "", 0.82, 0.06, (0.85, True, "accuracy >= 0.85")),
            _series("latency_p95", "ms", 480, -80, (500, False, "latency_p95 <= 500 ms")),
        ),
        "changes": (_change(deployments[0], deployments[3]),),
        "revisions": 41,
        "kpis_left_out": ("rouge[ja]",),
        "more_changes": 2,
    }
    return Report(**{**fields, **more})


@pytest.fixture(scope="session")
def report() -> Report:
    """A report with everything that a page can show."""
    return make_report()


@pytest.fixture(scope="session")
def page_of() -> Callable[..., str]:
    """Renders a report; each page once."""
    return render


@pytest.fixture(scope="session")
def report_with() -> Callable[..., Report]:
    """Makes the report with other values of some fields."""
    return make_report


@pytest.fixture(scope="session")
def hostile() -> str:
    """A text that would act if it were not escaped."""
    return HOSTILE
