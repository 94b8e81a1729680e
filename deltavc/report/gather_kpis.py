"""What was measured: series over all revisions, and what is known of those that are served."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from deltavc.catalog import reader_report
from deltavc.ids import CommitId, ObjectId
from deltavc.kpi.estimates import Observed
from deltavc.kpi.rules import LimitRule, parse
from deltavc.kpi.verdicts import FAIL, Evidence, judge
from deltavc.records.model import Kpi, split_series
from deltavc.repo.kpis import observed
from deltavc.repo.kpis import row as measured_row
from deltavc.report.data import KpiNow, Point, Series
from deltavc.report.thinning import thinned

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.catalog.reader_report import History
    from deltavc.catalog.rows import MeasurementRow as CatalogRow
    from deltavc.repo.policy import Policy
    from deltavc.repo.repository import Repository
    from deltavc.repo.results import MeasurementRow
    from deltavc.report.versions import Versions

__all__ = ["MOST_SERIES", "Measured", "rules_of"]

MOST_SERIES = 16
"""KPIs with a chart; further ones are named."""

MOST_NOW = 8
DATES = 6

Served = Mapping[str, Collection[str]]  # id of a revision to environments


def rules_of(policy: Policy, gates: Sequence[str]) -> dict[str, list[str]]:
    """Returns the rules of gates by the series that they are about; unknown gates have none."""
    found: dict[str, list[str]] = {}
    for name in gates:
        gate = policy.gates.get(name)
        for text in gate.rules if gate is not None else ():
            rules = found.setdefault(parse(text).series, [])
            if text not in rules:
                rules.append(text)
    return found


class Measured:
    """Measurements of a repository.

    Args:
        repo: The repository.
        reader: Its catalog.
        policy: Definitions and gates that hold.
        history: All commits.
        allowed: Keys of the commits to tell of; None for all.
    """

    def __init__(
        self,
        repo: Repository,
        reader: CatalogReader,
        policy: Policy,
        history: History,
        allowed: Collection[int] | None,
    ) -> None:
        self._repo, self._reader, self._policy = repo, reader, policy
        self._history, self._allowed = history, allowed
        self._limits = rules_of(policy, sorted(policy.gates))

    def now(self, commit: str, gates: Sequence[str], time: int) -> tuple[KpiNow, ...]:
        """Returns what is known of a served version: what its gates ask for first.

        Args:
            commit: The version.
            gates: The gates of its environment.
            time: When the report is about, for rules about age.

        Returns:
            The KPIs.
        """
        rules = rules_of(self._policy, gates)
        found = self._reader.latest_rows([CommitId(ObjectId(commit))]).get(
            CommitId(ObjectId(commit)), {}
        )
        failing = self._failing(found, [text for texts in rules.values() for text in texts], time)
        names = [*rules, *sorted(found.keys() - rules.keys())]
        return tuple(
            self._now(name, found.get(name), rules.get(name, ()), failing)
            for name in names[: max(MOST_NOW, len(rules))]
        )

    def _failing(
        self, found: Mapping[str, CatalogRow], rules: Sequence[str], time: int
    ) -> set[str]:
        """Returns the rules without a baseline that fail by what is known today."""

        def find(series: str) -> Observed | None:
            row = found.get(series)
            return None if row is None else observed(self._repo, row, self._kpi(series))

        evidence = Evidence(kpis=self._policy.kpis, new=find, old=None, now=time)
        return {text for text in rules if judge(parse(text), evidence).verdict == FAIL}

    def _now(
        self, name: str, found: CatalogRow | None, rules: Sequence[str], failing: Collection[str]
    ) -> KpiNow:
        kpi = self._kpi(name)
        row = None if found is None else measured_row(self._repo, found, self._policy)
        return KpiNow(
            series=name,
            unit=kpi.unit if kpi is not None else "",
            direction=kpi.direction if kpi is not None else "",
            value=row.value if row is not None else None,
            low=row.low if row is not None else None,
            high=row.high if row is not None else None,
            samples=row.samples if row is not None else None,
            rules=tuple(rules),
            fails=tuple(text for text in rules if text in failing),
            measured=row is not None,
        )

    def series(
        self, versions: Versions, served: Served, serving: Served
    ) -> tuple[tuple[Series, ...], tuple[str, ...]]:
        """Returns the series with a chart, and the names of those that have none.

        Args:
            versions: Names of revisions.
            served: Environments that served a revision at some time.
            serving: Environments that serve it now.

        Returns:
            What gates ask for first, then what is defined, then the rest, each by name.
        """
        history = self._history
        keys = [key for key in history.ids if self._allowed is None or key in self._allowed]
        at = {key: number for number, key in enumerate(keys)}
        marked = {number for key, number in at.items() if history.ids[key] in served}
        found = {
            name: [(at[key], value) for key, value in points if key in at]
            for name, points in reader_report.series(self._reader).items()
        }
        names = sorted((name for name in found if found[name]), key=self._rank)
        kept = {name: thinned(found[name], marked) for name in names[:MOST_SERIES]}
        numbers = {number for points in kept.values() for number, _ in points}
        ids = {number: history.ids[keys[number]] for number in numbers}
        versions.read(ids.values())
        rows = self._rows(sorted(set(ids.values())), list(kept))
        dates = _dates(keys, history.times)
        done = []
        for name, points in kept.items():
            told = [
                Point(
                    version=versions[ids[number]],
                    at=number,
                    value=value,
                    branch=history.branches[keys[number]],
                    served=tuple(served.get(ids[number], ())),
                    serving=tuple(serving.get(ids[number], ())),
                    low=row.low if row is not None else None,
                    high=row.high if row is not None else None,
                    samples=row.samples if row is not None else None,
                )
                for number, value in points
                for row in [rows.get(ids[number], {}).get(name)]
            ]
            done.append(self._series(name, told, len(found[name]), len(keys), dates))
        return tuple(done), tuple(names[MOST_SERIES:])

    def _series(
        self,
        name: str,
        points: Sequence[Point],
        measured: int,
        span: int,
        dates: tuple[tuple[int, int], ...],
    ) -> Series:
        kpi = self._kpi(name)
        limits = []
        for text in self._limits.get(name, ()):
            rule = parse(text)
            if isinstance(rule, LimitRule):
                share = rule.unit == "%" and kpi is not None and kpi.kind == "proportion"
                scale = 100 if share and kpi is not None and not kpi.unit else 1
                limits.append((rule.limit / scale, rule.at_least, text))
        return Series(
            name=name,
            unit=kpi.unit if kpi is not None else "",
            direction=kpi.direction if kpi is not None else "",
            description=kpi.description if kpi is not None else "",
            limits=tuple(limits),
            points=tuple(points),
            measured=measured,
            span=span,
            dates=dates,
        )

    def _rank(self, name: str) -> tuple[int, str]:
        if name in self._limits:
            return 0, name
        return (1 if self._kpi(name) is not None else 2), name

    def _kpi(self, series: str) -> Kpi | None:
        return self._policy.kpis.get(split_series(series)[0])

    def _rows(
        self, ids: Sequence[str], kpis: Collection[str] | None = None
    ) -> dict[str, dict[str, MeasurementRow]]:
        found = self._reader.latest_rows([CommitId(ObjectId(oid)) for oid in ids], kpis)
        return {
            oid: {name: measured_row(self._repo, row, self._policy) for name, row in rows.items()}
            for oid, rows in found.items()
        }


def _dates(keys: Sequence[int], times: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    """Returns evenly spread positions with their times."""
    last = len(keys) - 1
    if last < 1:
        return tuple((number, times[key]) for number, key in enumerate(keys))
    count = min(DATES, last + 1)
    places = sorted({round(part * last / (count - 1)) for part in range(count)})
    return tuple((place, times[keys[place]]) for place in places)
