"""Three-valued verdicts: what a rule says about what was measured, with the sentence why.

A rule passes or fails where its whole interval is on one side of the limit; where the
interval contains the limit, or something is missing, it is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deltavc.kpi import words
from deltavc.kpi.estimates import Difference, Estimate, Observed, difference, estimate
from deltavc.kpi.outcomes import FAIL, INCONCLUSIVE, PASS, worst_of
from deltavc.kpi.rules import AgeRule, BaselineRule, LimitRule, Rule
from deltavc.records.model import Kpi

__all__ = ["FAIL", "INCONCLUSIVE", "PASS", "Evidence", "Verdict", "judge", "worst"]

DAY = 86_400_000
CLOCK_SLACK = 60_000  # milliseconds that two machines' clocks may differ
MOST_SAMPLES = 10**12

Find = Callable[[str], Observed | None]
"""Returns what was measured under a name such as ``accuracy[rare]``."""


@dataclass(frozen=True)
class Evidence:
    """What a gate looks at.

    Attributes:
        kpis: Definitions by name.
        new: Finds what was measured of the revision.
        old: The same of the baseline; None where there is no baseline.
        now: The time in milliseconds.
        same: The revision is the baseline.
    """

    kpis: Mapping[str, Kpi]
    new: Find
    old: Find | None
    now: int
    same: bool = False


@dataclass(frozen=True)
class Verdict:
    """What one rule says.

    Attributes:
        rule: The rule as written.
        verdict: ``pass``, ``fail`` or ``inconclusive``.
        sentence: What it rests on, for people.
        series: The KPI, with its slice in brackets.
        value: The value; of a rule with a baseline, of the revision.
        baseline: The baseline's value.
        difference: Revision minus baseline.
        low: Low end of the interval, of the value or of the difference.
        high: High end.
        confidence: Of the interval.
        samples: Number of samples of the revision's value.
        method: How the interval was computed.
        hint: What would decide it; "" for nothing.
        missing: Which measurement is missing: ``revision``, ``baseline`` or "".
    """

    rule: str
    verdict: str
    sentence: str
    series: str
    value: float | None = None
    baseline: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    samples: int | None = None
    method: str | None = None
    hint: str = ""
    missing: str = ""


def worst(verdicts: Sequence[Verdict]) -> str:
    """Returns a gate's verdict: fail if a rule fails, else inconclusive if one is, else pass."""
    return worst_of(verdict.verdict for verdict in verdicts) or INCONCLUSIVE


def judge(rule: Rule, evidence: Evidence) -> Verdict:
    """Returns what a rule says.

    Args:
        rule: The rule.
        evidence: What was measured.

    Returns:
        Its verdict.
    """
    observed = evidence.new(rule.series)
    if observed is None:
        return Verdict(str(rule), INCONCLUSIVE, "no measurement", rule.series, missing="revision")
    if isinstance(rule, AgeRule):
        return _age(rule, observed, evidence.now)
    if observed.value is None:
        return _undecided(rule, observed, "the value is not a number")
    kpi = evidence.kpis.get(rule.kpi)
    if wrong := _wrong_unit(rule.unit, kpi):
        return _undecided(rule, observed, wrong)
    if kpi is not None and (observed.samples or 0) < kpi.min_samples:
        has = "no sample count" if observed.samples is None else f"n={observed.samples:,}"
        return _undecided(rule, observed, f"{has}, {kpi.min_samples:,} samples are needed")
    if isinstance(rule, LimitRule):
        return _limit(rule, observed, kpi)
    return _against_baseline(rule, observed, kpi, evidence)


def _undecided(rule: Rule, observed: Observed, why: str, hint: str = "") -> Verdict:
    return Verdict(
        rule=str(rule),
        verdict=INCONCLUSIVE,
        sentence=f"{_plain(observed)}: {why}",
        series=rule.series,
        value=observed.value,
        samples=observed.samples,
        hint=hint,
    )


def _plain(observed: Observed, unit: str = "") -> str:
    if observed.value is None:
        return "NaN"
    count = f" (n={observed.samples:,})" if observed.samples is not None else ""
    return words.value(observed.value, unit) + count


def _wrong_unit(unit: str, kpi: Kpi | None) -> str:
    """Says why a rule's unit cannot be compared with the KPI's; "" where it can."""
    if not unit or (kpi is not None and (unit == kpi.unit or _is_share(unit, kpi))):
        return ""
    if kpi is None:
        return f"the KPI is not defined, so the unit '{unit}' cannot be checked"
    return f"the rule is in '{unit}', the KPI in '{kpi.unit or 'no unit'}'"


def _is_share(unit: str, kpi: Kpi) -> bool:
    return unit == "%" and kpi.kind == "proportion" and not kpi.unit


def _in_units(number: float, unit: str, kpi: Kpi | None) -> float:
    share = kpi is not None and unit and _is_share(unit, kpi)
    return number / 100 if share else number


# limits


def _limit(rule: LimitRule, observed: Observed, kpi: Kpi | None) -> Verdict:
    found = estimate(observed, kpi, rule.confidence)
    limit = _in_units(rule.limit, rule.unit, kpi)
    unit = kpi.unit if kpi is not None else ""
    sign = 1 if rule.at_least else -1
    trusted = kpi is not None and 0 < kpi.min_samples <= (observed.samples or 0)
    why = ""
    if found.low is None and not trusted:
        verdict, why = INCONCLUSIVE, found.why
    else:
        low, high = (found.value, found.value) if found.low is None else _both(found)
        verdict = _side(sign * (low - limit), sign * (high - limit))
        if verdict == INCONCLUSIVE:
            why = "the interval contains the limit"
    return Verdict(
        rule=str(rule),
        verdict=verdict,
        sentence=_value_words(found, observed, unit) + (f": {why}" if why else ""),
        series=rule.series,
        value=found.value,
        low=_finite(found.low),
        high=_finite(found.high),
        confidence=rule.confidence,
        samples=observed.samples,
        method=found.method,
        hint=_samples_hint(found, found.value - limit, observed) if why else "",
    )


def _side(one: float, other: float) -> str:
    """Returns the verdict on an interval of what must not be negative."""
    if min(one, other) >= 0:
        return PASS
    return FAIL if max(one, other) < 0 else INCONCLUSIVE


def _value_words(found: Estimate, observed: Observed, unit: str) -> str:
    inner = [f"n={observed.samples:,}"] if observed.samples is not None else []
    if found.low is not None and found.method != "exact":
        inner.insert(0, words.interval(found.low, found.high))
    elif found.low is None and inner:
        inner.append("no interval")
    return words.value(found.value, unit) + (f" ({', '.join(inner)})" if inner else "")


# baselines


def _against_baseline(
    rule: BaselineRule, observed: Observed, kpi: Kpi | None, evidence: Evidence
) -> Verdict:
    if evidence.old is None:
        return _undecided(rule, observed, "there is no baseline", "give a baseline: --against REV")
    old = evidence.old(rule.series)
    if old is None:
        found = _undecided(rule, observed, "the baseline has no measurement")
        return _with(found, missing="baseline")
    if old.value is None:
        return _undecided(rule, observed, "the baseline's value is not a number")
    if kpi is None:
        return _undecided(rule, observed, "the KPI is not defined, so which way is worse is open")
    if kpi.min_samples > (old.samples or 0):
        return _undecided(
            rule, observed, f"the baseline has fewer than {kpi.min_samples:,} samples"
        )
    if observed.elsewhere(old):
        here, there = observed.dataset or "other data", old.dataset or "other data"
        return _undecided(
            rule, observed, f"measured on '{here}', the baseline on '{there}'; not comparable"
        )
    return _compared(rule, observed, old, kpi, same=evidence.same)


def _compared(rule: BaselineRule, new: Observed, old: Observed, kpi: Kpi, *, same: bool) -> Verdict:
    if same:
        found = Difference(0.0, 0.0, 0.0, "exact")
    else:
        found = difference(new, old, kpi, rule.confidence)
    margin = _in_units(rule.margin, rule.unit, kpi)
    sign = 1 if kpi.direction == "higher" else -1
    if found.low is None:
        verdict, why = INCONCLUSIVE, found.why
    else:
        low, high = _both(found)
        verdict = _side(sign * low + margin, sign * high + margin)
        why = "the interval contains the limit" if verdict == INCONCLUSIVE else ""
    text = words.signed(found.value, kpi.unit)
    if same:
        text = "the revision is the baseline"
    elif found.low is not None and found.method != "exact":
        text += f" ({words.interval(found.low, found.high, sign=True)})"
    distance = sign * found.value + margin
    return Verdict(
        rule=str(rule),
        verdict=verdict,
        sentence=text + (f": {why}" if why else ""),
        series=rule.series,
        value=new.value,
        baseline=old.value,
        difference=found.value,
        low=_finite(found.low),
        high=_finite(found.high),
        confidence=rule.confidence,
        samples=new.samples,
        method=found.method,
        hint=_samples_hint(found, distance, new) if why else "",
    )


def _samples_hint(found: Estimate, distance: float, observed: Observed) -> str:
    """Says how many samples would decide, if the values stayed: width falls as 1 / sqrt(n)."""
    half, n = found.half_width, observed.samples
    if half is None or not n or not half > 0:
        return ""
    told = f"{n:,} samples tell differences of {words.value(half)} apart"
    wanted = n * (half / distance) ** 2 if distance else math.inf
    if not wanted < MOST_SAMPLES:
        return f"{told}; no number of samples decides a value at its limit"
    return f"{told}; for {words.value(abs(distance))} it takes about {_round(wanted):,}"


def _round(number: float) -> int:
    """Returns a number rounded up to two digits."""
    scale = int(10 ** max(0, len(str(int(number))) - 2))
    return math.ceil(number / scale) * scale


# ages


def _age(rule: AgeRule, observed: Observed, now: int) -> Verdict:
    age = now - observed.time
    days = max(0, age) / DAY
    told = f"{days:.1f} days old"
    verdict = PASS if days <= rule.days else FAIL
    if age < -CLOCK_SLACK:
        verdict, told = INCONCLUSIVE, "recorded later than now: a clock is wrong"
    return Verdict(
        rule=str(rule),
        verdict=verdict,
        sentence=told,
        series=rule.series,
        value=days,
        samples=observed.samples,
        method="age",
    )


def _both(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _with(verdict: Verdict, *, missing: str) -> Verdict:
    from dataclasses import replace

    return replace(verdict, missing=missing)
