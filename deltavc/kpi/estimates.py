"""From what was measured to what can be said: an interval of a value, and of a difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from deltavc.kpi import intervals
from deltavc.kpi.intervals import Interval
from deltavc.records.model import Kpi

__all__ = ["Difference", "Estimate", "Observed", "difference", "estimate"]

Values = Sequence[float] | Mapping[str, float]


@dataclass(frozen=True)
class Observed:
    """What was measured of one KPI on one revision.

    Attributes:
        value: The value; None for NaN.
        samples: Number of samples behind it.
        stderr: Its standard error.
        values: The value of each sample, in order or by the sample's name.
        dataset: What it was measured on.
        dataset_sha256: The digest of that.
        time: When it was recorded, in milliseconds.
        revision: The revision's id.
    """

    value: float | None
    samples: int | None = None
    stderr: float | None = None
    values: Values | None = None
    dataset: str | None = None
    dataset_sha256: str | None = None
    time: int = 0
    revision: str = ""

    @cached_property
    def numbers(self) -> list[float]:
        """The per-sample values without names."""
        found = self.values or ()
        return list(found.values() if isinstance(found, Mapping) else found)

    def elsewhere(self, other: Observed) -> bool:
        """Tells whether the two were certainly measured on different data."""
        pairs = (
            (self.dataset_sha256, other.dataset_sha256),
            (self.dataset, other.dataset),
        )
        for mine, theirs in pairs:
            if mine is not None and theirs is not None:
                return mine != theirs
        return False


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; ``method`` is None, and the ends too, where none can be told.

    ``why`` then says why. A count is what it is: its interval is the value.
    """

    value: float
    low: float | None = None
    high: float | None = None
    method: str | None = None
    why: str = ""

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width; None without one, or where it has no end."""
        if self.low is None or self.high is None or self.method == "exact":
            return None
        half = (self.high - self.low) / 2
        return half if math.isfinite(half) else None


@dataclass(frozen=True)
class Difference(Estimate):
    """The difference of two values, new - old, with its interval."""

    paired: bool = False


def estimate(observed: Observed, kpi: Kpi | None, confidence: float) -> Estimate:
    """Returns a value's interval by the method that its kind asks for.

    Args:
        observed: What was measured, with a value.
        kpi: The definition; None where there is none.
        confidence: Such as 0.95.

    Returns:
        The value and its interval.
    """
    value = math.nan if observed.value is None else observed.value
    kind = kpi.kind if kpi is not None else None
    if kind == "count":
        return Estimate(value, value, value, "exact")
    if kind == "proportion" and not 0 <= value <= 1:
        return Estimate(value, why="a proportion lies between 0 and 1")
    if kind == "proportion" and observed.samples:
        return _of(value, intervals.wilson(value, observed.samples, confidence), "wilson")
    if kind == "quantile" and kpi is not None and kpi.quantile is not None and observed.numbers:
        ends = intervals.order_statistics(sorted(observed.numbers), kpi.quantile, confidence)
        return _of(value, ends, "order statistics")
    if observed.stderr is not None:
        ends = intervals.from_stderr(value, observed.stderr, observed.samples, confidence)
        return _of(value, ends, "standard error")
    return Estimate(value, why=_why(observed, kpi))


def _why(observed: Observed, kpi: Kpi | None) -> str:
    if kpi is None:
        return "the KPI is not defined, so its interval is not known"
    if kpi.kind == "proportion" or observed.samples is None:
        return "no sample count"
    if kpi.kind == "quantile":
        return "no per-sample values"
    return "no standard error and no per-sample values"


def _of(value: float, ends: Interval, method: str) -> Estimate:
    return Estimate(value, ends[0], ends[1], method)


def difference(new: Observed, old: Observed, kpi: Kpi | None, confidence: float) -> Difference:
    """Returns the interval of new - old: paired where both have values of the same samples.

    Args:
        new: What was measured of the one, with a value.
        old: What was measured of the other, with a value.
        kpi: The definition; None where there is none.
        confidence: Such as 0.95.

    Returns:
        The difference and its interval.
    """
    a = math.nan if new.value is None else new.value
    b = math.nan if old.value is None else old.value
    kind = kpi.kind if kpi is not None else None
    if kind == "count":
        return Difference(a - b, a - b, a - b, "exact")
    pairs = None if kind == "quantile" else _pairs(new, old)
    if pairs is not None and kind == "proportion" and _binary(pairs):
        return _difference(a - b, _paired_shares(pairs, confidence), "newcombe paired", paired=True)
    if pairs is not None and len(pairs) > 1:
        ends = intervals.paired_mean([x for x, _ in pairs], [y for _, y in pairs], confidence)
        return _difference(a - b, ends, "paired t", paired=True)
    one, other = estimate(new, kpi, confidence), estimate(old, kpi, confidence)
    for part in (one, other):
        if part.low is None or part.high is None:
            return Difference(a - b, why=part.why)
    if kind == "proportion" and one.method == other.method == "wilson":
        assert new.samples is not None
        assert old.samples is not None
        ends = intervals.newcombe(a, new.samples, b, old.samples, confidence)
        return _difference(a - b, ends, "newcombe")
    if one.method == other.method == "standard error":
        assert new.stderr is not None
        assert old.stderr is not None
        ends = intervals.welch(
            (a, new.stderr, new.samples), (b, old.stderr, old.samples), confidence
        )
        return _difference(a - b, ends, "welch")
    ends = intervals.square_and_add((a, _ends(one)), (b, _ends(other)))
    return _difference(a - b, ends, "square and add")


def _difference(value: float, ends: Interval, method: str, *, paired: bool = False) -> Difference:
    return Difference(value, ends[0], ends[1], method, paired=paired)


def _ends(part: Estimate) -> Interval:
    assert part.low is not None
    assert part.high is not None
    return part.low, part.high


def _pairs(new: Observed, old: Observed) -> list[tuple[float, float]] | None:
    """Returns the values of both by sample; None where the samples are not the same ones."""
    if new.values is None or old.values is None:
        return None
    if isinstance(new.values, Mapping) and isinstance(old.values, Mapping):
        if new.values.keys() != old.values.keys():
            return None
        return [(new.values[name], old.values[name]) for name in sorted(new.values)]
    if isinstance(new.values, Mapping) or isinstance(old.values, Mapping):
        return None
    known = new.dataset or new.dataset_sha256
    if len(new.values) != len(old.values) or not known or not (old.dataset or old.dataset_sha256):
        return None  # by position alone they pair only on a data set that both name
    return list(zip(new.values, old.values, strict=True))


def _binary(pairs: Sequence[tuple[float, float]]) -> bool:
    return all(x in (0, 1) and y in (0, 1) for x, y in pairs)


def _paired_shares(pairs: Sequence[tuple[float, float]], confidence: float) -> Interval:
    both = sum(1 for x, y in pairs if x and y)
    only_new = sum(1 for x, y in pairs if x and not y)
    only_old = sum(1 for x, y in pairs if y and not x)
    neither = len(pairs) - both - only_new - only_old
    return intervals.newcombe_paired(both, only_new, only_old, neither, confidence)
