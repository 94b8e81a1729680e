"""A KPI as a row of characters."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from deltavc.cli.sparkline import ASCII, BLOCKS, sparkline

finite = st.floats(allow_nan=False, allow_infinity=False)


def test_as_drawn_by_hand() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BLOCKS
    assert sparkline([0.75, 0.78125, 0.875, 0.8125, 0.8125]) == "▁▃█▅▅"
    assert sparkline([3, 3, 3]) == "▅▅▅"
    assert sparkline([1, None, 2]) == "▁?█"
    assert sparkline([None, None]) == "??"
    assert sparkline([]) == ""
    assert sparkline([0, 1, 2, 3, 4, 5], blocks=False) == ASCII
    assert sparkline([-1e308, 0, 1.7e308]) == "▁▃█"
    assert sparkline([5e-324, 0.0]) == "▅▅"  # halves of the smallest number are nothing


@given(st.lists(st.none() | finite, max_size=40), st.booleans())
def test_a_character_each_and_higher_means_higher(values: list[float | None], blocks: bool) -> None:
    drawn = sparkline(values, blocks=blocks)
    levels = BLOCKS if blocks else ASCII
    assert len(drawn) == len(values)
    assert drawn.isascii() or blocks
    for one, character in zip(values, drawn, strict=True):
        assert (character == "?") == (one is None)
    numbers = sorted(
        (value, levels.index(character))
        for value, character in zip(values, drawn, strict=True)
        if value is not None
    )
    heights = [height for _, height in numbers]
    assert heights == sorted(heights)
    if numbers and math.ldexp(numbers[-1][0], -1) != math.ldexp(numbers[0][0], -1):
        assert (heights[0], heights[-1]) == (0, len(levels) - 1)
