"""What a merge is asked to do: strategy, rules and their options, checked before any work."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltavc.delta.threeway import side_number
from deltavc.errors import UsageError
from deltavc.records.model import Recipe

if TYPE_CHECKING:
    from deltavc.merge.strategy import Strategy

__all__ = ["PICKS", "Rule", "Settings", "read_settings", "settings_of"]

PICKS = ("ours", "theirs", "base")
_NUMBERED = re.compile(r"theirs:[1-9][0-9]{0,3}\Z")


@dataclass(frozen=True)
class Rule:
    """Who decides the parameters and files that fit a glob: a side, the merge base, a strategy."""

    glob: str
    choice: str
    strategy: Strategy | None

    def fits(self, name: str) -> bool:
        """Tells whether a parameter or file is the rule's."""
        return fnmatch.fnmatchcase(name, self.glob)


@dataclass(frozen=True)
class Settings:
    """How conflicts are decided.

    Attributes:
        strategy: For all that no rule decides; a pick has no strategy object.
        pick: ``ours``, ``theirs`` or ``base`` for all that no rule decides.
        rules: The first that fits counts.
        rule_texts: The rules as given.
        rule_options: Options for the strategies of the rules, as given.
        max_rank: Largest rank of what is combined.
        rel_error: Largest relative error of it.
    """

    strategy: Strategy | None = None
    pick: str | None = None
    rules: tuple[Rule, ...] = ()
    rule_texts: tuple[str, ...] = ()
    rule_options: Mapping[str, str] | None = None
    max_rank: int | None = None
    rel_error: float | None = None

    def choice(self, name: str) -> tuple[str | None, Strategy | None]:
        """Returns who decides a parameter or file: a pick, a strategy, or neither."""
        for rule in self.rules:
            if rule.fits(name):
                return (None if rule.strategy else rule.choice), rule.strategy
        return self.pick, self.strategy

    @property
    def bounded(self) -> bool:
        """Whether what is combined is to be low-rank."""
        return self.max_rank is not None or self.rel_error is not None

    def check(self, sides: int) -> None:
        """Refuses what does not fit the number of sides.

        Args:
            sides: How many there are.

        Raises:
            UsageError: A strategy or its weights are for another number, or a rule
                names a side that there is not.
        """
        for strategy in (self.strategy, *(rule.strategy for rule in self.rules)):
            if strategy is not None:
                strategy.check(sides)
        named = [self.pick, *(rule.choice for rule in self.rules if rule.strategy is None)]
        for choice in filter(None, named):
            number = side_number(choice)
            if choice.startswith("theirs") and (
                number >= sides or (":" not in choice and sides > 2)
            ):
                others = [f"theirs:{n}" for n in range(1, sides)] if sides > 2 else ["theirs"]
                raise UsageError(
                    f"'{choice}' is none of the sides",
                    hint=f"the sides are ours, {', '.join(others)}",
                    choice=choice,
                )

    def recipe(self) -> Recipe:
        """Returns the part of a recipe that says what was asked for."""
        given = {"strategy": self.pick} if self.pick else {}
        return Recipe(
            strategy=self.strategy.record() if self.strategy is not None else given,
            rules=self.rule_texts,
            rule_options=dict(self.rule_options or {}),
            max_rank=self.max_rank,
            rel_error=self.rel_error,
        )


def read_settings(
    strategy: str | None = None,
    options: Mapping[str, object] | None = None,
    resolve: Sequence[str] = (),
    *,
    max_rank: int | None = None,
    rel_error: float | None = None,
) -> Settings:
    """Reads what a person asked for.

    Args:
        strategy: Name of a strategy or preset.
        options: Its options; those that a rule's strategy knows are its options, too.
        resolve: Rules ``GLOB=ours|theirs|theirs:N|base|STRATEGY``.
        max_rank: Largest rank of what is combined.
        rel_error: Largest relative error of it.

    Returns:
        The settings.

    Raises:
        UsageError: Something is unknown, malformed or out of range.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    if max_rank is not None and max_rank < 1:
        raise UsageError("--max-rank must be at least 1", max_rank=max_rank)
    if rel_error is not None and not 0 <= rel_error < 1:
        raise UsageError("--rel-error must lie in 0 to 1", rel_error=rel_error)
    rules = tuple(_rule(text, given) for text in resolve)
    if strategy is None and given and not any(rule.strategy for rule in rules):
        raise UsageError(
            f"'{next(iter(given))}' is an option of a strategy, and none was chosen",
            hint="choose one: -s NAME",
        )
    pick = strategy if strategy in PICKS else None
    chosen = None
    if strategy is not None and pick is None:
        chosen = _main(strategy, given, rules)
    elif pick is not None and given:
        raise UsageError(f"{pick} has no option '{next(iter(given))}'", hint="leave it out")
    return Settings(
        strategy=chosen,
        pick=pick,
        rules=rules,
        rule_texts=tuple(resolve),
        rule_options={k: _text(v) for k, v in given.items()} if rules else {},
        max_rank=max_rank,
        rel_error=rel_error,
    )


def _main(name: str, given: Mapping[str, object], rules: Sequence[Rule]) -> Strategy:
    """Returns the strategy for all that no rule decides; options of the rules' alone are theirs."""
    from deltavc.merge.registry import PRESETS, strategy, strategy_type

    preset = PRESETS.get(name)
    known = strategy_type(name if preset is None else preset.strategy).options()
    of_rules = {key for rule in rules if rule.strategy for key in rule.strategy.options()}
    return strategy(name, **{k: v for k, v in given.items() if k in known or k not in of_rules})


def settings_of(recipe: Recipe) -> Settings:
    """Returns the settings that a recipe wrote down, to do a merge again.

    Args:
        recipe: The recipe.

    Returns:
        The settings.

    Raises:
        ObjectCorrupt: The recipe cannot be read.
    """
    name = recipe.strategy.get("strategy")
    rules = tuple(_rule(text, recipe.rule_options) for text in recipe.rules)
    chosen = None
    if name is not None and name not in PICKS:
        from deltavc.merge.registry import strategy_from_record

        chosen = strategy_from_record(recipe.strategy)
    return Settings(
        strategy=chosen,
        pick=name if name in PICKS else None,
        rules=rules,
        rule_texts=recipe.rules,
        rule_options=recipe.rule_options,
        max_rank=recipe.max_rank,
        rel_error=recipe.rel_error,
    )


def _rule(text: str, options: Mapping[str, object]) -> Rule:
    glob, equals, choice = text.rpartition("=")
    if not equals or not glob or not choice:
        raise UsageError(
            f"'{text[:60]}' is not a rule GLOB=CHOICE", hint='such as --resolve "layers.0.*=ours"'
        )
    if choice in PICKS or _NUMBERED.match(choice):
        return Rule(glob, choice, None)
    from deltavc.merge.registry import PRESETS, strategy, strategy_type

    preset = PRESETS.get(choice)
    known = strategy_type(choice if preset is None else preset.strategy).options()
    fitting = {key: value for key, value in options.items() if key in known}
    return Rule(glob, choice, strategy(choice, **fitting))


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
