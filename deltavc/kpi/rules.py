"""The gate language: a parser by hand, its positions in its errors, and nothing evaluated.

``docs/reference/gates.md`` has the grammar. A rule is read into one of three values
and written back in one canonical form, which is what is stored and shown.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NoReturn

from deltavc.errors import DeltavcError, UsageError
from deltavc.kpi.definitions import check_series
from deltavc.records.model import series_name

__all__ = ["CONFIDENCE", "MAX_RULE", "AgeRule", "BaselineRule", "LimitRule", "Rule", "parse"]

CONFIDENCE = 0.95
MAX_RULE = 400
_TOKEN = re.compile(r"\s*(?:(>=|<=|==|!=|=|>|<)|([^\s<>=!]+))")
_NUMBER = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)(.*)\Z", re.DOTALL)
_DAYS = {"day": 1.0, "days": 1.0, "hour": 1 / 24, "hours": 1 / 24, "week": 7.0, "weeks": 7.0}
_FORMS = "'K >= 0.85', 'K not worse than baseline by 0.01', 'age of K <= 14 days'"


@dataclass(frozen=True)
class LimitRule:
    """``K >= x [unit] [at P%]`` or ``K <= x [unit] [at P%]``."""

    kpi: str
    part: str | None
    at_least: bool
    limit: float
    unit: str = ""
    stated: float | None = None

    @property
    def confidence(self) -> float:
        """The confidence of its interval."""
        return CONFIDENCE if self.stated is None else self.stated

    @property
    def series(self) -> str:
        """The name of the values that it is about."""
        return series_name(self.kpi, self.part)

    def __str__(self) -> str:
        unit = ("%" if self.unit == "%" else f" {self.unit}") if self.unit else ""
        sign = ">=" if self.at_least else "<="
        return f"{self.series} {sign} {_written(self.limit)}{unit}{_at(self.stated)}"


@dataclass(frozen=True)
class BaselineRule:
    """``K not worse than baseline [by x [unit]] [at P%]``."""

    kpi: str
    part: str | None
    margin: float = 0.0
    unit: str = ""
    stated: float | None = None

    @property
    def confidence(self) -> float:
        """The confidence of its interval."""
        return CONFIDENCE if self.stated is None else self.stated

    @property
    def series(self) -> str:
        """The name of the values that it is about."""
        return series_name(self.kpi, self.part)

    def __str__(self) -> str:
        unit = ("%" if self.unit == "%" else f" {self.unit}") if self.unit else ""
        by = f" by {_written(self.margin)}{unit}" if self.margin else ""
        return f"{self.series} not worse than baseline{by}{_at(self.stated)}"


@dataclass(frozen=True)
class AgeRule:
    """``age of K <= N days``."""

    kpi: str
    part: str | None
    amount: float
    unit: str = "days"

    @property
    def series(self) -> str:
        """The name of the values that it is about."""
        return series_name(self.kpi, self.part)

    @property
    def days(self) -> float:
        """The limit in days."""
        return self.amount * _DAYS[self.unit]

    def __str__(self) -> str:
        return f"age of {self.series} <= {_written(self.amount)} {self.unit}"


Rule = LimitRule | BaselineRule | AgeRule


def parse(text: str) -> Rule:
    """Reads a rule.

    Args:
        text: Such as ``accuracy[rare] not worse than baseline by 0.02 at 99%``.

    Returns:
        The rule; written back it is the canonical form, which parses to the same.

    Raises:
        UsageError: It is no rule; the message has the column, the context too.
    """
    if len(text) > MAX_RULE:
        raise UsageError(
            f"a rule of {len(text)} characters is too long", hint="one rule, one condition"
        )
    return _Parser(text).rule()


class _Parser:
    """The tokens of a rule, with their columns, and where reading stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        self.at = 0
        end = 0
        while found := _TOKEN.match(text, end):
            group = 1 if found[1] is not None else 2
            self.tokens.append((found[group], found.start(group) + 1))
            end = found.end()
        if text[end:].strip():
            self.fail("cannot be read", column=end + 1 + len(text[end:]) - len(text[end:].lstrip()))

    def rule(self) -> Rule:
        if not self.tokens:
            self.fail("is empty", column=1)
        if self.words("age", "of"):
            return self.age()
        kpi, part = self.name()
        if self.words("not"):
            return self.baseline(kpi, part)
        at_least = self.sign()
        limit, unit = self.amount("a number")
        rule = LimitRule(kpi, part, at_least, limit, unit, self.confidence())
        self.end()
        return rule

    def age(self) -> AgeRule:
        kpi, part = self.name()
        if self.sign():
            self.at -= 1
            self.fail("an age is limited from above", expected="<=")
        amount, unit = self.amount("a number of days")
        if unit not in _DAYS:
            self.at -= 1
            self.fail("an age has a unit", expected="days, hours or weeks")
        if amount < 0:
            self.fail("an age is not negative", column=self.column(self.at - 2))
        self.end()
        return AgeRule(kpi, part, amount, unit)

    def baseline(self, kpi: str, part: str | None) -> BaselineRule:
        for word in ("worse", "than", "baseline"):
            if not self.words(word):
                self.fail("", expected=f"'{word}'")
        margin, unit = 0.0, ""
        if self.words("by"):
            margin, unit = self.amount("a margin")
            if margin < 0:
                self.fail("a margin is not negative", column=self.column(self.at - 1))
        rule = BaselineRule(kpi, part, margin, unit if margin else "", self.confidence())
        self.end()
        return rule

    # pieces

    def words(self, *words: str) -> bool:
        """Reads these words, if they come next."""
        found = tuple(token for token, _ in self.tokens[self.at : self.at + len(words)])
        if found != words:
            return False
        self.at += len(words)
        return True

    def take(self, expected: str) -> str:
        if self.at >= len(self.tokens):
            self.fail("ends too early", expected=expected)
        self.at += 1
        return self.tokens[self.at - 1][0]

    def name(self) -> tuple[str, str | None]:
        name = self.take("a KPI's name")
        try:
            return check_series(name)
        except DeltavcError as error:
            self.at -= 1
            self.fail(error.message, expected="a KPI's name, such as accuracy or accuracy[rare]")

    def sign(self) -> bool:
        sign = self.take(">= or <=")
        if sign not in (">=", "<="):
            self.at -= 1
            self.fail("", expected=">=, <= or 'not worse than baseline'")
        return sign == ">="

    def amount(self, what: str) -> tuple[float, str]:
        """Reads a number and its unit, written together or apart."""
        word = self.take(what)
        found = _NUMBER.match(word)
        value = float(found[1]) if found else math.inf
        if found is None or not math.isfinite(value):
            self.at -= 1
            self.fail("", expected=what)
        if found[2]:
            return self.plain(value), self.unit(found[2])
        follows = self.tokens[self.at][0] if self.at < len(self.tokens) else "at"
        if follows == "at" or _NUMBER.match(follows):
            return self.plain(value), ""
        return self.plain(value), self.unit(self.take("a unit"))

    def plain(self, value: float) -> float:
        return value + 0.0  # -0 is 0

    def unit(self, unit: str) -> str:
        if len(unit) > 20 or unit[0] in "+-.0123456789":
            self.at -= 1
            self.fail("", expected="a unit such as ms or %")
        return unit

    def confidence(self) -> float | None:
        if not self.words("at"):
            return None
        value, unit = self.amount("a confidence such as 95%")
        if unit != "%" or not 50 <= value <= 99.999:
            self.at = max(0, self.at - 1)
            self.fail("", expected="a confidence from 50% to 99.999%")
        return float(f"{value}e-2")

    def end(self) -> None:
        if self.at < len(self.tokens):
            self.fail("", expected="the end of the rule")

    def column(self, at: int) -> int:
        return self.tokens[at][1] if at < len(self.tokens) else len(self.text) + 1

    def fail(self, why: str, *, expected: str = "", column: int | None = None) -> NoReturn:
        column = self.column(self.at) if column is None else column
        found = self.tokens[self.at][0] if self.at < len(self.tokens) else ""
        what = why or (f"has '{found[:40]}'" if found else "ends too early")
        wanted = f", where it needs {expected}" if expected else ""
        raise UsageError(
            f"rule '{self.text[:120]}', column {column}: {what}{wanted}",
            hint=f"rules: {_FORMS}; deltavc help gates",
            rule=self.text,
            column=column,
        )


def _written(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _at(stated: float | None) -> str:
    return "" if stated is None else f" at {stated * 100:.10g}%"
