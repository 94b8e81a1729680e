"""A row of values as a row of characters: how a KPI went, at a glance.

It stands beside the numbers and never in their place.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["sparkline"]

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-=*#"  # where the terminal's encoding has no blocks
NO_NUMBER = "?"


def sparkline(values: Sequence[float | None], *, blocks: bool = True) -> str:
    """Draws values as characters of rising height, one each.

    Args:
        values: The values; None for a measurement that is no number.
        blocks: Draw with block elements instead of ASCII.

    Returns:
        As many characters. The range is cut into equal parts; where all values are
        equal, they stand in the middle.
    """
    numbers = [value for value in values if value is not None]
    if not numbers:
        return NO_NUMBER * len(values)
    levels = BLOCKS if blocks else ASCII
    # halves, since the difference of two large numbers may be infinite
    low, span = min(numbers) / 2, max(numbers) / 2 - min(numbers) / 2

    def level(value: float) -> str:
        share = (value / 2 - low) / span if span else 0.5
        return levels[min(int(share * len(levels)), len(levels) - 1)]

    return "".join(NO_NUMBER if value is None else level(value) for value in values)
