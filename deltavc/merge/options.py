"""Options of strategies: what may be set, within which bounds, and how it is written down.

An option is a field of a strategy's dataclass that carries its kind and its
meaning. Values are exact: ``0.3`` is 3/10, as text and as a Python float. The
same kinds read what a user types, what Python code passes and what a commit
recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, Protocol, TypeVar

from deltavc.errors import UsageError

__all__ = [
    "Choice",
    "Flag",
    "Kind",
    "Option",
    "Rational",
    "Weights",
    "Whole",
    "option",
    "options_of",
]

T = TypeVar("T")
MAX_TEXT = 200  # no number that is meant needs more digits
MAX_POWER = 300  # largest power of ten in a number, so that 1e999999999 costs nothing


class Kind(Protocol):
    """What an option's values are."""

    def read(self, value: object) -> Any:
        """Returns the value that is meant; raises ValueError with the rule that it breaks."""

    def write(self, value: Any) -> str:
        """Returns a value as text that :meth:`read` reads back."""

    def rule(self) -> str:
        """Returns what values may be, as the end of the sentence "it must be …"."""


@dataclass(frozen=True)
class Rational:
    """Exact numbers between two bounds.

    Attributes:
        low: Smallest value; None for no bound.
        high: Largest value; None for no bound.
        above: Whether ``low`` itself is left out.
        below: Whether ``high`` itself is left out.
    """

    low: Fraction | int | None = None
    high: Fraction | int | None = None
    above: bool = False
    below: bool = False

    def read(self, value: object) -> Fraction:
        """Returns the number; floats count as the decimal that Python prints for them."""
        number = _fraction(value)
        if self.low is not None and (number < self.low or (self.above and number == self.low)):
            raise ValueError(self.rule())
        if self.high is not None and (number > self.high or (self.below and number == self.high)):
            raise ValueError(self.rule())
        return number

    def write(self, value: Fraction) -> str:
        """Returns ``p`` or ``p/q``."""
        return str(value)

    def rule(self) -> str:
        """Returns the bounds in words."""
        bounds = []
        if self.low is not None:
            bounds.append(f"{'above' if self.above else 'at least'} {self.low}")
        if self.high is not None:
            bounds.append(f"{'below' if self.below else 'at most'} {self.high}")
        return " ".join(["a number", " and ".join(bounds)]).strip()


@dataclass(frozen=True)
class Weights:
    """One exact number for each side; none means that the strategy's default counts."""

    def read(self, value: object) -> tuple[Fraction, ...]:
        """Returns the numbers of a sequence or of text with commas."""
        if isinstance(value, str):
            if len(value) > MAX_TEXT * 64:
                raise ValueError(self.rule())
            parts: Iterable[object] = value.replace(",", " ").split()
        elif isinstance(value, Iterable):
            parts = value
        else:
            raise ValueError(self.rule())
        try:
            return tuple(_fraction(part) for part in parts)
        except ValueError as error:
            raise ValueError(self.rule()) from error

    def write(self, value: tuple[Fraction, ...]) -> str:
        """Returns the numbers with commas between."""
        return ",".join(str(weight) for weight in value)

    def rule(self) -> str:
        """Returns what is meant, in words."""
        return "numbers, one for each side"


@dataclass(frozen=True)
class Whole:
    """Whole numbers from ``low`` to ``high``."""

    low: int
    high: int

    def read(self, value: object) -> int:
        """Returns the number."""
        number = _fraction(value)
        if number.denominator != 1 or not self.low <= number <= self.high:
            raise ValueError(self.rule())
        return int(number)

    def write(self, value: int) -> str:
        """Returns the digits."""
        return str(value)

    def rule(self) -> str:
        """Returns the bounds in words."""
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    def read(self, value: object) -> str:
        """Returns the name."""
        if not isinstance(value, str) or value not in self.names:
            raise ValueError(self.rule())
        return value

    def write(self, value: str) -> str:
        """Returns the name."""
        return value

    def rule(self) -> str:
        """Returns the names in words."""
        return " or ".join([", ".join(self.names[:-1]), self.names[-1]])


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    def read(self, value: object) -> bool:
        """Returns the truth of ``true``, ``false`` or a bool."""
        if isinstance(value, bool):
            return value
        if value not in ("true", "false"):
            raise ValueError(self.rule())
        return value == "true"

    def write(self, value: bool) -> str:
        """Returns ``true`` or ``false``."""
        return "true" if value else "false"

    def rule(self) -> str:
        """Returns the two words."""
        return "true or false"


@dataclass(frozen=True)
class Option:
    """One option of a strategy.

    Attributes:
        name: Its name on the command line and in commits.
        field: The name of the dataclass field that holds it.
        kind: What its values are.
        default: Its value unless set; None for weights that follow from the sides.
        meaning: What it does, one phrase.
    """

    name: str
    field: str
    kind: Kind
    default: Any
    meaning: str

    def read(self, strategy: str, value: object) -> Any:
        """Returns the value that is meant.

        Args:
            strategy: Name of the strategy, for the message.
            value: Text, or a Python value.

        Returns:
            The value.

        Raises:
            UsageError: It is out of range, or no such value at all.
        """
        try:
            return self.kind.read(value)
        except ValueError as error:
            raise UsageError(
                f"'{_shown(value)}' is no {self.name} for {strategy}: it must be {error}",
                hint=f"{self.name}: {self.meaning}",
                strategy=strategy,
                option=self.name,
                found=_shown(value),
            ) from error


def option(default: T, kind: Kind, meaning: str) -> T:
    """Returns a dataclass field that is an option of a strategy."""
    made: T = field(default=default, metadata={"kind": kind, "meaning": meaning})
    return made


def options_of(strategy: type) -> dict[str, Option]:
    """Returns the options of a strategy's class by name, in their order."""
    found = {}
    for each in fields(strategy):
        kind = each.metadata["kind"]
        name = each.name.rstrip("_")  # ``lambda`` is a word of Python
        found[name] = Option(name, each.name, kind, each.default, each.metadata["meaning"])
    return found


def _fraction(value: object) -> Fraction:
    """Returns the number that text or a Python number means; ValueError if none."""
    if isinstance(value, bool):
        raise ValueError("a number")
    if isinstance(value, int | Fraction):
        return Fraction(value)
    text = repr(value) if isinstance(value, float) else value
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ValueError("a number")
    _, _, power = text.lower().partition("e")
    try:
        if power and abs(int(power)) > MAX_POWER:
            raise ValueError("a number")
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError("a number") from error


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_shown, value[:8]))
    return str(value)[:40]
