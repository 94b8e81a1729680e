"""How numbers with units read in the sentences of verdicts."""

from __future__ import annotations

import math

__all__ = ["interval", "signed", "value"]


def value(number: float, unit: str = "") -> str:
    """Returns a number in about four digits, with its unit: ``0.879``, ``405 ms``, ``87%``."""
    return _digits(number) + _unit(unit)


def signed(number: float, unit: str = "") -> str:
    """Returns a difference with its sign: ``+0.026``."""
    return ("+" if number >= 0 else "") + _digits(number) + _unit(unit)


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """Returns an interval: ``0.870..0.888``; an end that is not known is left open."""
    ends = []
    for end in (low, high):
        open_end = end is None or math.isinf(end)
        assert end is not None or open_end
        text = "" if open_end or end is None else _digits(end)
        ends.append(("+" if sign and end is not None and end >= 0 and text else "") + text)
    return f"{ends[0]}..{ends[1]}"


def _unit(unit: str) -> str:
    return "%" if unit == "%" else f" {unit}" if unit else ""


def _digits(number: float) -> str:
    if not math.isfinite(number):
        return str(number)
    if number == int(number) and 1 <= abs(number) < 1e15:
        return f"{int(number):,}"
    if number == 0 or 0.01 <= abs(number) < 100:
        return f"{number + 0.0:.3f}"
    return f"{number:,.1f}" if 100 <= abs(number) < 1e9 else f"{number:.3g}"
