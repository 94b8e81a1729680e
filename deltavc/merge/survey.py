"""Selections over a whole model: what each parameter keeps, before any is merged.

TIES, as its paper has it, trims a side's changes as one long vector: which of
them are small is decided over all parameters at once. Two passes count, as
for a single one (:mod:`deltavc.merge.selection`); each has one parameter in hand
at a time and hands it back before the next. What stays is counts of
patterns near the threshold, and in the end a few integers for each parameter.

Elements stand in the order of descending magnitude, equal ones by the order in
which their parameters come, then by position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from deltavc.delta.increment import Increment
from deltavc.errors import UsageError
from deltavc.merge.angles import increments_of
from deltavc.merge.blocks import Blocks
from deltavc.merge.selection import Share, Tally, Wanted, lower, merged, upper
from deltavc.merge.strategy import Operand, Parameter, Side, Strategy, check_sides
from deltavc.merge.trim import Trimming

__all__ = ["Cases", "Shares", "survey"]

Cases = Callable[[], Iterable[tuple[Parameter, tuple[Side, ...]]]]
"""Gives the parameters with their sides from the first on, the same each time."""
Shares = dict[tuple[str, str], Share]
"""What is kept, by parameter and by the side's key."""


@dataclass
class _Line:
    """One side over all parameters."""

    count: int = 0
    counts: Tally = field(default_factory=lambda: Tally.of(np.zeros(0, dtype=np.int64)))
    ends: tuple[Wanted, ...] = ()
    parts: dict[str, list[Tally]] = field(default_factory=dict)

    @property
    def halves(self) -> list[int]:
        """The upper halves of the patterns at which what is kept begins and ends."""
        return sorted({end.half for end in self.ends} - {-1})

    def settle(self) -> None:
        """Finds the patterns from what the second pass counted."""
        for end in self.ends:
            if end.half >= 0:
                row = self.halves.index(end.half)
                end.after_second(merged(part[row] for part in self.parts.values()))

    def share(self, name: str) -> Share:
        """Returns what is kept of the next parameter."""
        halves, part = self.halves, self.parts[name]
        end, skip = (
            each.quota(None if each.half < 0 else part[halves.index(each.half)])
            for each in self.ends
        )
        return Share(end, skip)


def survey(strategy: Strategy, cases: Cases, *, threads: int = 1) -> Shares:
    """Returns what each side keeps of each parameter, decided over all of them.

    Args:
        strategy: The strategy; its density is a share of all elements that a side changed.
        cases: The parameters that it will merge, with their sides. It is called
            twice, and the order counts where magnitudes are equal.
        threads: How many threads compute; the result does not depend on it.

    Returns:
        What to pass on as :attr:`deltavc.merge.strategy.Side.share`.

    Raises:
        UsageError: The strategy does not select by magnitude.
        DeltavcError: What :meth:`deltavc.merge.strategy.Strategy.combine` raises for a parameter.

    Cost:
        Each parameter is read and gone over twice.
    """
    if not isinstance(strategy, Trimming):
        raise UsageError(
            f"{strategy.name} keeps no share of the largest changes",
            hint="leave scope out, or choose another strategy",
            strategy=strategy.name,
        )
    lines: dict[str, _Line] = {}
    for parameter, sides in cases():
        for key, increment, blocks in _parts(parameter, sides):
            line = lines.setdefault(key, _Line())
            line.count += blocks.count
            found = upper(increment.values, blocks, threads)
            line.counts = Tally.of(merged([line.counts, found]))
    for line in lines.values():
        line.ends = tuple(Wanted(rank) for rank in strategy.ranks(line.count))
        for end in line.ends:
            end.after_first(merged([line.counts]))
    for parameter, sides in cases():
        for key, increment, blocks in _parts(parameter, sides):
            halves = lines[key].halves
            pieces = lower(increment.values, blocks, halves, threads) if halves else []
            tallies = [Tally.of(merged(row)) for row in zip(*pieces, strict=True)]
            lines[key].parts[parameter.name] = tallies
    for line in lines.values():
        line.settle()
    return {(name, key): line.share(name) for key, line in lines.items() for name in line.parts}


def _parts(parameter: Parameter, sides: Sequence[Side]) -> Iterator[tuple[str, Increment, Blocks]]:
    """Yields the sides of a parameter, ready to be gone over; none where it has no elements."""
    check_sides(parameter, sides)
    operands = [Operand(side, Fraction(1)) for side in sides] if parameter.count else []
    for operand, increment in zip(operands, increments_of(parameter, operands), strict=True):
        yield operand.key, increment, Blocks(parameter.count, increment.columns)
