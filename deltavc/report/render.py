"""From what a report tells to HTML.

Templates escape everything; only what :mod:`deltavc.report.show` and the drawings have
made is markup. The page has no script, and its policy would let none run.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from deltavc.ids import CommitId, ObjectId, serving_id
from deltavc.report import show
from deltavc.report.charts import Chart, make_chart
from deltavc.report.data import Deployment, Node, Point, Problem, Report, Series
from deltavc.report.drawing import draw
from deltavc.report.texts import Texts

__all__ = ["SECTIONS", "render"]

SECTIONS = (
    "problems",
    "serving",
    "deployments",
    "lineage",
    "kpis",
    "changes",
    "verify",
    "glossary",
)
PAGE = 20
"""Deployments of an environment that are shown at once; older ones unfold."""

LISTED = 40  # measured values in the table beside a chart, served revisions apart
GENERATOR = '<meta name="generator" content="deltavc '
"""What tells a report from other files."""


def render(
    report: Report, *, title: str | None = None, language: str = "en", charts: bool = True
) -> str:
    """Returns a report as one HTML page.

    Args:
        report: What it tells.
        title: Its title; default: that of the language.
        language: Language of the fixed text.
        charts: Whether KPIs have charts.

    Returns:
        The page; the same report gives the same text.

    Raises:
        UsageError: There is no such language.
        MissingExtra: There is something to chart, and matplotlib is not installed.
    """
    texts = Texts(language)
    words = _Words(report, texts)
    chart = make_chart() if charts and report.kpis else None
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            t=texts,
            title=show.visible(title) if title else str(texts("page.title")),
            sections=SECTIONS,
            known=words.known,
            sentence=words.sentence,
            origin=words.origin,
            judged=words.judged,
            scope_parts=words.scope(),
            commands=words.commands(words.again(title, charts=charts)),
            serving_count=sum(
                env.serving is not None and env.serving.version is not None
                for env in report.environments
            ),
            graph=draw(report.lineage.nodes),
            listed=_listed,
            page=PAGE,
            charts=chart is not None,
            chart=_charting(chart, words),
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deltavc.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        "as_code",
        "foreign",
        "ident",
        "interval",
        "mail",
        "name_of",
        "number",
        "visible",
        "when",
    ):
        environment.filters[name] = getattr(show, name)
    return environment


def _listed(series: Series) -> list[Point]:
    """Returns the values for the table: those of served revisions and the newest, newest first."""
    newest = set(series.points[-LISTED:])
    return [p for p in reversed(series.points) if p in newest or p.served or p.serving]


def _charting(chart: Chart | None, words: _Words) -> Callable[[Series], Markup]:
    def draw_one(series: Series) -> Markup:
        if chart is None:
            return Markup("")
        return chart(series, show.visible(series.name), words.description(series))

    return draw_one


class _Words:
    """Sentences that are put together from several values."""

    def __init__(self, report: Report, texts: Texts) -> None:
        self.report, self.t = report, texts
        self.known = frozenset(d.number for d in report.deployments)

    def sentence(self, problem: Problem) -> Markup:
        """Returns what a problem says."""
        values = {key: self._value(key, value) for key, value in problem.values.items()}
        n = problem.values.get("n")
        return self.t(
            f"problem.{problem.kind}",
            n if isinstance(n, int) else None,
            **{key: value for key, value in values.items() if key != "n"},
        )

    def _value(self, key: str, value: Any) -> Markup:
        if key == "deployment":
            return self._deployment(value)
        if key == "deployments":
            return self._list(self._deployment(number) for number in value)
        if key == "request":
            return Markup('<a href="#r-{0:06d}">r-{0:06d}</a>').format(value)
        if key == "revision":
            return show.ident(value)
        if key == "reason":
            return show.foreign(value) if value else self.t("deployments.no_reason")
        if key == "rules":
            return self._list(show.as_code(str(v)) for v in value)
        if key in ("environment", "after"):
            return Markup("<strong>{}</strong>").format(show.foreign(value))
        if isinstance(value, list):
            return self._list(show.name_of(str(v)) for v in value)
        if isinstance(value, int):
            return Markup("{:,}").format(value)
        return show.name_of(str(value))

    def _deployment(self, number: int) -> Markup:
        form = '<a href="#d-{0:06d}">d-{0:06d}</a>' if number in self.known else "d-{0:06d}"
        return Markup(form).format(number)  # noqa: S704 - one of two fixed forms

    def _list(self, parts: Iterable[Markup]) -> Markup:
        return self.t("page.comma").join(parts)

    def origin(self, node: Node) -> Markup:
        """Returns where a revision of the lineage comes from."""
        if not node.edges:
            return self.t("lineage.first")
        nodes = self.report.lineage.nodes
        parts = []
        for edge in node.edges:
            if edge.to >= 0:
                revision = show.ident(nodes[edge.to].version.id)
                parts.append(
                    self.t("lineage.over", edge.skipped, revision=revision)
                    if edge.skipped
                    else revision
                )
            elif edge.skipped:
                parts.append(self.t("lineage.beginning", edge.skipped))
            else:
                parts.append(self.t("lineage.continues"))
        return self._list(parts)

    def judged(self, verdict: str) -> Markup:
        """Returns how a difference of KPIs was judged."""
        key = f"judged.{verdict.replace(' ', '_')}"
        return self.t(key) if self.t.has(key) else show.foreign(verdict)

    def scope(self) -> list[Markup]:
        """Returns what the report is limited to."""
        scope = self.report.scope
        parts = []
        if scope.environments:
            names = self._list(show.foreign(name) for name in scope.environments)
            parts.append(self.t("page.scope_environments", names=names))
        if scope.range is not None:
            parts.append(self.t("page.scope_range", range=show.foreign(scope.range)))
        if scope.since is not None:
            parts.append(self.t("page.scope_since", time=show.when(scope.since)))
        return parts

    def description(self, series: Series) -> str:
        """Returns what a chart shows, for those who do not see it."""
        values = [point.value for point in series.points]
        numbers = {
            key: show.number(value, series.unit)
            for key, value in (("least", min(values)), ("greatest", max(values)))
        }
        last = show.number(values[-1], series.unit)
        parts = [
            self.t("kpis.alt", len(values), kpi=show.visible(series.name), last=last, **numbers)
        ]
        if series.limits:
            rules = ", ".join(show.visible(rule) for _, _, rule in series.limits)
            parts.append(self.t("kpis.alt_limits", rules=rules))
        now = [
            f"{', '.join(point.serving)}: {show.number(point.value, series.unit)}"
            for point in series.points
            if point.serving
        ]
        if now:
            parts.append(self.t("kpis.alt_serving", values=show.visible("; ".join(now))))
        return Markup(" ").join(parts).unescape()

    def commands(self, again: Sequence[str]) -> list[tuple[Markup, list[str]]]:
        """Returns the commands that verify the report, each with what it does.

        Args:
            again: Options that make the same report.

        Returns:
            What a step does, and its lines.
        """
        source, served = self.report.source, self._example()
        steps = {
            "step_anchor": [
                f"echo '{source.number} {source.hash}' > head.txt",
                "deltavc audit verify --anchor head.txt",
            ],
            "step_deep": ["deltavc audit verify --deep"],
        }
        if served is not None and served.version is not None:
            at = show.iso(served.time + 999)  # not before it, in whole seconds
            steps["step_served"] = [f"deltavc env show {served.environment} --at {at}"]
            name = serving_id(CommitId(ObjectId(served.version.id)))
            steps["step_rebuild"] = [f"deltavc checkout {name} --to FOLDER --verify"]
        steps["step_again"] = [shlex.join(["deltavc", "report", "-o", "again.html", *again])]
        return [(self.t(f"verify.{key}"), lines) for key, lines in steps.items()]

    def again(self, title: str | None, *, charts: bool) -> list[str]:
        """Returns the options that make the same report."""
        scope = self.report.scope
        options = [word for name in scope.environments for word in ("--env", name)]
        if scope.range is not None:
            options += ["--range", scope.range]
        if scope.since is not None:
            options += ["--since", show.iso(scope.since)]
        if title:
            options += ["--title", title]
        if self.t.language != "en":
            options += ["--lang", self.t.language]
        return options if charts else [*options, "--no-charts"]

    def _example(self) -> Deployment | None:
        """Returns a deployment to show commands with: what is served, else the newest."""
        serving = [env.serving for env in self.report.environments if env.serving is not None]
        return next((d for d in serving if d.version), next(iter(self.report.deployments), None))
