"""The verb ``kpi compare``: what was measured of two revisions, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltavc.errors import UnknownRevision, UsageError
from deltavc.kpi.estimates import difference
from deltavc.kpi.rules import CONFIDENCE
from deltavc.records.model import Kpi, split_series
from deltavc.repo.kpis import observed
from deltavc.repo.policy import Policy, read_policy
from deltavc.repo.results_kpi import KpiDifference
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.catalog.rows import MeasurementRow as CatalogRow
    from deltavc.repo.repository import Repository

__all__ = ["compare"]


def compare(
    repo: Repository, a: str, b: str, *, kpis: Sequence[str] = (), confidence: float = CONFIDENCE
) -> list[KpiDifference]:
    """Compares what was measured of two revisions.

    Args:
        repo: The repository.
        a: The one.
        b: The other.
        kpis: Only these KPIs, or ``KPI[slice]``; default: all that either has.
        confidence: Of the intervals.

    Returns:
        A row a KPI, with the interval of b - a.

    Raises:
        UsageError: The confidence is none.
    """
    if not 0.5 <= confidence < 1:
        raise UsageError(
            f"{confidence:g} is not a confidence", hint="a number from 0.5 to below 1, such as 0.95"
        )
    ids = resolve(repo, a), resolve(repo, b)
    policy, latest = read_policy(repo), repo.reader().latest_rows(ids)
    one, other = latest.get(ids[0], {}), latest.get(ids[1], {})
    wanted = [name for name in kpis if name not in one and name not in other]
    if wanted:
        raise UnknownRevision(
            f"neither revision has a measurement of '{wanted[0]}'",
            hint="see what there is: deltavc kpi show REV",
            kpi=wanted[0],
        )
    names = sorted(set(kpis) or {*one, *other})
    return [
        _compared(repo, name, one.get(name), other.get(name), policy, confidence) for name in names
    ]


def _compared(
    repo: Repository, name: str, a: CatalogRow | None, b: CatalogRow | None, policy: Policy,
    confidence: float,
) -> KpiDifference:  # fmt: skip
    kpi = policy.kpis.get(split_series(name)[0])
    value_a, value_b = (m.value if m is not None else None for m in (a, b))
    low = high = found = None
    verdict, why, method, paired = "", "", None, False
    if a is None or b is None:
        verdict, why = "not measured", f"'{name}' was not measured on {'A' if a is None else 'B'}"
    elif value_a is None or value_b is None:
        verdict, why = "not a number", "a value is not a number"
    else:
        one, other = (observed(repo, m, kpi, pairs=True) for m in (a, b))
        compared = difference(other, one, kpi, confidence)
        found, low, high = compared.value, compared.low, compared.high
        method, paired, why = compared.method, compared.paired, compared.why
        verdict = _verdict(low, high, kpi)
        if other.elsewhere(one):
            verdict, why = "other data", f"measured on '{a.dataset}' and on '{b.dataset}'"
    return KpiDifference(
        kpi=name,
        a=value_a,
        b=value_b,
        unit=kpi.unit if kpi is not None else "",
        difference=found,
        low=low,
        high=high,
        confidence=confidence,
        samples_a=a.samples if a is not None else None,
        samples_b=b.samples if b is not None else None,
        method=method,
        paired=paired,
        verdict=verdict,
        why=why,
    )


def _verdict(low: float | None, high: float | None, kpi: Kpi | None) -> str:
    if low is None or high is None:
        return "not known"
    if low <= 0 <= high:
        return "same" if low == high else "not told apart"
    words = ("higher", "lower")
    if kpi is not None:
        words = ("better", "worse") if kpi.direction == "higher" else ("worse", "better")
    return words[0] if low > 0 else words[1]
