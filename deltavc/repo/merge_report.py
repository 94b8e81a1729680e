"""How two changes of a parameter meet: sizes, angle, and how often they pull apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltavc.delta.vector import Terms, Vector, add_terms
from deltavc.errors import ShapeMismatch
from deltavc.repo.merge_decide import CHANGED, Clash, Decider
from deltavc.repo.results import MergeConflictRow

if TYPE_CHECKING:
    from deltavc.delta.kinds import Delta

__all__ = ["Meeting", "conflict_rows", "meeting"]

Meeting = tuple[list[float | None], float | None, float | None]
NOTHING: Meeting = ([], None, None)


def conflict_rows(decider: Decider, clashes: Sequence[Clash]) -> list[MergeConflictRow]:
    """Returns what is told of each conflict.

    Args:
        decider: The merge.
        clashes: What could not be decided.

    Returns:
        One row each, in the same order.
    """
    rows = []
    for number, clash in enumerate(clashes):
        norms, cosine, opposed = (
            meeting(decider, clash.name) if clash.reason == CHANGED else NOTHING
        )
        rows.append(
            MergeConflictRow(
                name=clash.name,
                reason=clash.reason,
                parts=list(clash.parts),
                norms=norms,
                cosine=cosine,
                opposed=opposed,
            )
        )
        decider.repo.session.progress("weigh", number + 1, len(clashes))
    return rows


def meeting(decider: Decider, name: str) -> Meeting:
    """Compares the increments of one parameter.

    Args:
        decider: The merge.
        name: The parameter; a file has nothing to compare.

    Returns:
        Norm of each side's increment, cosine and share of opposed signs of the first
        two sides that changed it; None where there is no difference in numbers.
    """
    from deltavc.delta.compare import angle, norm, opposed_share

    increments = [_increment(decider.base, side, name) for side in decider.sides]
    if not any(increments):
        return NOTHING
    known = name in decider.repo.base(decider.base.base).tensors
    loaded = [[(decider.delta(oid), c) for oid, c in terms.items()] for terms in increments]
    origin = decider.opened.tensor(name) if known and _needs_base(loaded) else None
    changed = [number for number, terms in enumerate(loaded) if terms]
    norms: list[float | None] = [None if terms else 0.0 for terms in loaded]
    try:
        for number in changed[2:] if len(changed) > 1 else changed:
            norms[number] = norm(loaded[number], origin)
        if len(changed) < 2:
            return norms, None, None
        one, other = (loaded[number] for number in changed[:2])
        norms[changed[0]], norms[changed[1]], cosine = angle(one, other, origin)
        return (
            norms,
            None if math.isnan(cosine) else cosine,
            opposed_share(one, other, origin),
        )
    except ShapeMismatch:  # replacements of another form have no difference in numbers
        return NOTHING


def _increment(base: Vector, side: Vector, name: str) -> Terms:
    return add_terms((1, side.params.get(name, {})), (-1, base.params.get(name, {})))


def _needs_base(loaded: Sequence[Sequence[tuple[Delta, object]]]) -> bool:
    """Tells whether a delta is relative to the base's values; low-rank and dense ones are not."""
    return any(delta.kind not in ("lowrank", "dense") for terms in loaded for delta, _ in terms)
