"""What a KPI is: checks of definitions, and their form in ``deltavc.toml``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from deltavc.errors import InvalidName, UsageError
from deltavc.ids import check_name
from deltavc.records.model import Gate, Kpi, split_series

__all__ = [
    "DIRECTIONS",
    "KINDS",
    "check_kpi",
    "check_series",
    "checked_table",
    "gate_from_table",
    "kpi_from_table",
    "quantile_of",
    "text_of",
]

KINDS = ("proportion", "mean", "quantile", "count")
DIRECTIONS = ("higher", "lower")
MAX_TEXT = 500
_PERCENTILE = re.compile(r"_p(\d{1,6})\Z")
_UNIT = re.compile(r"[^\s\x00-\x1f\x7f]{1,20}\Z")
_SLICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,99}\Z")
_KPI_KEYS = ("direction", "kind", "unit", "min_samples", "quantile", "description")
_GATE_KEYS = ("require", "description")


def quantile_of(name: str) -> float | None:
    """Returns the quantile that a name ends with: 0.95 for ``latency_p95``, 0.999 for ``_p999``."""
    found = _PERCENTILE.search(name)
    if found is None:
        return None
    digits = found[1]
    quantile = int(digits) / 10 ** max(2, len(digits))
    return quantile if 0 < quantile < 1 else None


def check_series(name: str) -> tuple[str, str | None]:
    """Returns KPI and slice of a name such as ``accuracy`` or ``accuracy[rare]``.

    Args:
        name: The name.

    Returns:
        The KPI's name and the slice's; None for all of the data.

    Raises:
        InvalidName: The KPI or the slice cannot be called that.
    """
    kpi, part = split_series(name)
    check_name(kpi, "KPI")
    if part is not None and not _SLICE.match(part):
        raise InvalidName(
            f"'{part[:80]}' cannot be the name of a slice",
            hint="slices hold letters, digits, '.', '_', '-' and '/'",
            name=part,
        )
    return kpi, part


def check_kpi(kpi: Kpi) -> Kpi:
    """Returns a definition that makes sense, its quantile filled in from the name.

    Args:
        kpi: The definition.

    Returns:
        The definition.

    Raises:
        UsageError: It makes no sense.
        InvalidName: A KPI cannot be called that.
    """
    check_name(kpi.name, "KPI")
    for what, value, known in (
        ("direction", kpi.direction, DIRECTIONS),
        ("kind", kpi.kind, KINDS),
    ):
        if value not in known:
            raise UsageError(
                f"'{str(value)[:40]}' is not a {what} for KPI '{kpi.name}'",
                hint=f"it is one of: {', '.join(known)}",
                kpi=kpi.name,
            )
    if kpi.unit and not _UNIT.match(kpi.unit):
        raise UsageError(
            f"'{kpi.unit[:40]}' is not a unit for KPI '{kpi.name}'",
            hint="a unit is one word, such as ms or %",
            kpi=kpi.name,
        )
    if kpi.unit and kpi.kind == "proportion":
        raise UsageError(
            f"KPI '{kpi.name}' is a share between 0 and 1, which has no unit",
            hint="leave the unit out; a rule may still say 85%",
            kpi=kpi.name,
        )
    if not 0 <= kpi.min_samples < 1 << 53:
        raise UsageError(
            f"KPI '{kpi.name}' cannot need {kpi.min_samples} samples", hint="--min-samples 1000"
        )
    _check_text(kpi.description, f"KPI '{kpi.name}'")
    return _with_quantile(kpi)


def _with_quantile(kpi: Kpi) -> Kpi:
    if kpi.kind != "quantile":
        if kpi.quantile is not None:
            raise UsageError(
                f"KPI '{kpi.name}' is a {kpi.kind} and has no quantile", hint="--kind quantile"
            )
        return kpi
    quantile = kpi.quantile if kpi.quantile is not None else quantile_of(kpi.name)
    if quantile is None or not 0 < quantile < 1:
        raise UsageError(
            f"which quantile KPI '{kpi.name}' is cannot be told",
            hint="say it: --quantile 0.95, or end the name in _p95",
            kpi=kpi.name,
        )
    return Kpi(
        name=kpi.name,
        direction=kpi.direction,
        kind=kpi.kind,
        unit=kpi.unit,
        min_samples=kpi.min_samples,
        quantile=quantile,
        description=kpi.description,
    )


def _check_text(text: str, what: str) -> None:
    if len(text) > MAX_TEXT or "\n" in text:
        raise UsageError(
            f"the description of {what} is not one sentence", hint="keep it under 500 characters"
        )


def kpi_from_table(name: str, table: object, origin: str) -> Kpi:
    """Reads a definition from a table ``[kpi.NAME]``.

    Args:
        name: The KPI's name.
        table: What TOML made of the table.
        origin: The file, for messages.

    Returns:
        The definition, checked.

    Raises:
        UsageError: The table is no definition.
        InvalidName: A KPI cannot be called that.
    """
    where = f"'kpi.{name[:80]}' in {origin}"
    values = checked_table(table, _KPI_KEYS, where)
    kind = text_of(values, "kind", where)
    number, quantile = values.get("min_samples", 0), values.get("quantile")
    if type(number) is not int:
        raise UsageError(f"min_samples of {where} is not a whole number", hint="min_samples = 1000")
    if quantile is not None and (type(quantile) not in (int, float) or not math.isfinite(quantile)):
        raise UsageError(f"quantile of {where} is not a number", hint="quantile = 0.95")
    return check_kpi(
        Kpi(
            name=name,
            direction=text_of(values, "direction", where),
            kind=kind,
            unit=text_of(values, "unit", where, ""),
            min_samples=number,
            quantile=None if quantile is None else float(quantile),
            description=text_of(values, "description", where, ""),
        )
    )


def gate_from_table(name: str, table: object, origin: str) -> Gate:
    """Reads a gate from a table ``[gate.NAME]``; its rules are texts still to be parsed.

    Args:
        name: The gate's name.
        table: What TOML made of the table.
        origin: The file, for messages.

    Returns:
        The gate.

    Raises:
        UsageError: The table is no gate.
        InvalidName: A gate cannot be called that.
    """
    check_name(name, "gate")
    where = f"'gate.{name}' in {origin}"
    values = checked_table(table, _GATE_KEYS, where)
    rules = values.get("require")
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise UsageError(
            f"require of {where} is not a list of rules", hint='require = ["accuracy >= 0.85"]'
        )
    description = text_of(values, "description", where, "")
    _check_text(description, f"gate '{name}'")
    return Gate(name, tuple(rules), description)


def checked_table(table: object, keys: tuple[str, ...], where: str) -> Mapping[str, Any]:
    """Returns a table of a policy file, if it holds nothing that it does not take.

    Args:
        table: What TOML made of it.
        keys: What it takes.
        where: Where it is, for messages.

    Returns:
        The table.

    Raises:
        UsageError: It is no table, or holds something else.
    """
    if not isinstance(table, Mapping):
        raise UsageError(f"{where} is not a table", hint=f"it takes: {', '.join(keys)}")
    for key in table:
        if key not in keys:
            raise UsageError(
                f"{where} holds '{str(key)[:40]}', which it does not take",
                hint=f"it takes: {', '.join(keys)}",
                key=str(key),
            )
    return table


def text_of(values: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    """Returns a text of a table.

    Args:
        values: The table.
        key: Which value.
        where: Where it is, for messages.
        default: What a missing one counts as; without it, missing is an error.

    Returns:
        The text.

    Raises:
        UsageError: It is missing, or no text.
    """
    value = values.get(key, default)
    if not isinstance(value, str):
        what = "is missing" if value is None else "is not a text"
        raise UsageError(f"{key} of {where} {what}", hint=f'{key} = "TEXT"')
    return value
