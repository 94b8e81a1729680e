"""The strategies by name, and the presets that reproduce other tools.

A strategy's module is imported when its name is used. To add one: a frozen
dataclass that extends :class:`deltavc.merge.strategy.Strategy`, a line here, a
section in ``docs/reference/merge-strategies.md``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module

from deltavc.errors import ObjectCorrupt, UsageError
from deltavc.merge.presets import PRESETS
from deltavc.merge.strategy import Strategy

__all__ = ["PRESETS", "STRATEGIES", "strategy", "strategy_from_record", "strategy_type"]

STRATEGIES: dict[str, str] = {
    "sum": "deltavc.merge.sum:Sum",
    "linear": "deltavc.merge.linear:Linear",
    "task-arithmetic": "deltavc.merge.linear:TaskArithmetic",
    "slerp": "deltavc.merge.slerp:Slerp",
    "karcher": "deltavc.merge.karcher:Karcher",
    "model-stock": "deltavc.merge.model_stock:ModelStock",
    "ties": "deltavc.merge.ties:Ties",
    "dare-linear": "deltavc.merge.dare:DareLinear",
    "dare-ties": "deltavc.merge.dare:DareTies",
    "breadcrumbs": "deltavc.merge.breadcrumbs:Breadcrumbs",
    "breadcrumbs-ties": "deltavc.merge.breadcrumbs:BreadcrumbsTies",
    "magnitude-prune": "deltavc.merge.magnitude_prune:MagnitudePrune",
    "della": "deltavc.merge.della:Della",
    "della-linear": "deltavc.merge.della:DellaLinear",
    "sce": "deltavc.merge.sce:Sce",
    "knots-ties": "deltavc.merge.knots:KnotsTies",
    "knots-dare": "deltavc.merge.knots:KnotsDare",
    "core-ties": "deltavc.merge.core:CoreTies",
    "core-dare": "deltavc.merge.core:CoreDare",
    "tsv": "deltavc.merge.tsv:Tsv",
    "iso-c": "deltavc.merge.iso_c:IsoC",
    "ours": "deltavc.merge.pick:Ours",
    "theirs": "deltavc.merge.pick:Theirs",
    "base": "deltavc.merge.pick:Base",
}
"""Where each strategy's class is: module and name."""


def strategy_type(name: str) -> type[Strategy]:
    """Returns the class of a strategy.

    Args:
        name: Its name.

    Returns:
        The class.

    Raises:
        UsageError: There is none of this name.
    """
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, [*STRATEGIES, *PRESETS], n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"strategies: {', '.join(STRATEGIES)}"
        raise UsageError(
            f"there is no merge strategy '{name[:40]}'", hint=hint, candidates=list(STRATEGIES)
        )
    module, _, attribute = STRATEGIES[name].partition(":")
    found: type[Strategy] = getattr(import_module(module), attribute)
    return found


def strategy(name: str, /, **options: object) -> Strategy:
    """Returns a strategy with its options set.

    Args:
        name: Name of a strategy or of a preset.
        **options: Options by name, as text or as Python values; a trailing underscore is
            dropped (``lambda_``). They come before what a preset sets.

    Returns:
        The strategy.

    Raises:
        UsageError: Unknown name or option, or a value out of range.
    """
    preset = PRESETS.get(name)
    kind = strategy_type(name if preset is None else preset.strategy)
    given = {key.rstrip("_"): value for key, value in options.items() if value is not None}
    if preset is not None:
        given = {**preset.options, **given}
    known = kind.options()
    values = {}
    for key, value in given.items():
        if key not in known:
            listed = ", ".join(known)
            raise UsageError(
                f"{kind.name} has no option '{key[:40]}'",
                hint=f"options of {kind.name}: {listed}" if listed else "it has no options",
                strategy=kind.name,
                option=key[:40],
            )
        values[known[key].field] = known[key].read(kind.name, value)
    return kind(**values)


def strategy_from_record(record: Mapping[str, str]) -> Strategy:
    """Returns the strategy that a commit recorded.

    Args:
        record: What :meth:`deltavc.merge.strategy.Strategy.record` gave.

    Returns:
        The strategy.

    Raises:
        ObjectCorrupt: The record names no strategy, or what it says cannot be read.
    """
    options: dict[str, object] = {k: v for k, v in record.items() if k != "strategy"}
    try:
        if record["strategy"] not in STRATEGIES:
            raise ObjectCorrupt(
                f"a merge was recorded with the unknown strategy '{record['strategy'][:40]}'"
            )
        return strategy(record["strategy"], **options)
    except (KeyError, UsageError) as error:
        raise ObjectCorrupt(f"the record of a merge cannot be read: {error}") from error
