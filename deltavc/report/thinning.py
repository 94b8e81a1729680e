"""Which points of a long series a chart shows: all that matter, and the envelope of the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["MOST_POINTS", "thinned"]

MOST_POINTS = 120
"""Points of a chart: one for each six pixels of its width."""

Point = tuple[int, float]


def thinned(
    points: Sequence[Point], always: Collection[int], most: int = MOST_POINTS
) -> list[Point]:
    """Returns at most about ``most`` points that look like all of them.

    Args:
        points: Position and value, positions increasing.
        always: Positions that are kept whatever they cost, such as deployed revisions.
        most: How many points to keep beside those.

    Returns:
        A subsequence with the first and the last point; where points were left out, the
        smallest and the greatest of each stretch, so that no outlier is lost.
    """
    if len(points) <= most:
        return list(points)
    kept = {0, len(points) - 1}
    kept |= {number for number, (at, _) in enumerate(points) if at in always}
    stretches = max(1, most // 2)
    for part in range(stretches):
        begin = part * len(points) // stretches
        end = (part + 1) * len(points) // stretches
        inside = range(begin, end)
        kept.add(min(inside, key=lambda number: points[number][1]))
        kept.add(max(inside, key=lambda number: points[number][1]))
    return [points[number] for number in sorted(kept)]
