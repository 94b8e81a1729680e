"""Three-way merge of versions as vectors: what changed where, and what that leaves to decide.

Per parameter, seen from the merge base: changed on one side, that side is
taken as it is; changed equally on several, once; a side that holds all that
the others changed, and more, is taken; anything else is a conflict, for which
:func:`sum_terms` is the one answer that needs no look at a tensor.

A parameter's state is its terms, its shape where it is not the base's, and
whether it was removed. What is not a parameter follows the same table, but for
attachments, which only tell where a version came from: the first side's stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from deltavc.delta.vector import ATTACHMENT, FILE, PREFIX, REMOVED, SHAPE, Terms, Vector, add_terms
from deltavc.ids import DeltaId

__all__ = [
    "BASE",
    "EQUAL",
    "Split",
    "Standing",
    "put",
    "side_name",
    "side_number",
    "split",
    "sum_terms",
]

EQUAL = "equal"
BASE = "base"


class Standing(NamedTuple):
    """How a parameter stands in one version.

    Attributes:
        terms: Delta id to coefficient; empty where the parameter is the base's own.
        shape: Dtype and shape where they are not the base's.
        removed: Whether the version lacks the parameter.
    """

    terms: tuple[tuple[DeltaId, Fraction], ...]
    shape: str | None = None
    removed: bool = False

    @classmethod
    def of(cls, vector: Vector, name: str) -> Standing:
        """Returns how a parameter stands in a version."""
        terms = tuple(sorted(vector.params.get(name, {}).items()))
        return cls(terms, vector.meta.get(SHAPE + name), REMOVED + name in vector.meta)


@dataclass
class Split:
    """What a three-way look at versions finds.

    Attributes:
        standings: What is decided: parameter to how it stands in the merge.
        outcomes: How each parameter that some side changed was decided: a side's name or ``equal``.
        conflicts: Parameters that sides changed in different ways, sorted.
        meta: Files, prefix and attachments that are decided.
        meta_conflicts: Keys of those that sides changed in different ways, sorted.
    """

    standings: dict[str, Standing] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    meta: dict[str, str] = field(default_factory=dict)
    meta_conflicts: list[str] = field(default_factory=list)


def side_name(number: int, sides: int) -> str:
    """Returns what a side is called: ours, theirs, and of several others theirs:1, theirs:2, …."""
    if number == 0:
        return "ours"
    return "theirs" if sides == 2 else f"theirs:{number}"


def side_number(name: str) -> int:
    """Returns which side a name stands for: the inverse of :func:`side_name`."""
    return 0 if name == "ours" else int(name.partition(":")[2] or 1)


def split(base: Vector, sides: Sequence[Vector]) -> Split:
    """Looks at versions from their merge base.

    Args:
        base: The merge base.
        sides: The versions, all over the base's base model; ours first.

    Returns:
        What is decided and what is not.
    """
    found = Split()
    names = sorted({n for v in (base, *sides) for n in _parameters(v)})
    for name in names:
        before = Standing.of(base, name)
        now = [Standing.of(side, name) for side in sides]
        changed = [i for i, standing in enumerate(now) if standing != before]
        if not changed:
            found.standings[name] = before
            continue
        winner = _container(before, now, changed)
        if winner is None:
            found.conflicts.append(name)
            continue
        same = len(changed) > 1 and all(now[i] == now[winner] for i in changed)
        found.outcomes[name] = EQUAL if same else side_name(winner, len(sides))
        found.standings[name] = now[winner]
    _split_meta(base, sides, found)
    return found


def _parameters(vector: Vector) -> set[str]:
    removed = {key.removeprefix(REMOVED) for key in vector.meta if key.startswith(REMOVED)}
    return removed | set(vector.params)


def _container(before: Standing, now: Sequence[Standing], changed: Sequence[int]) -> int | None:
    """Returns the side that holds the changes of all others, if one does; the first of equals."""
    for candidate in changed:
        mine = now[candidate]
        for other in changed:
            theirs = now[other]
            if theirs == mine:
                continue
            if (theirs.shape, theirs.removed) != (mine.shape, mine.removed):
                break
            own, all_of_mine = (
                _changes(before.terms, theirs.terms),
                _changes(before.terms, mine.terms),
            )
            if not own.items() <= all_of_mine.items():
                break
        else:
            return candidate
    return None


def _changes(
    before: Sequence[tuple[DeltaId, Fraction]], after: Sequence[tuple[DeltaId, Fraction]]
) -> dict[DeltaId, Fraction]:
    return add_terms((1, dict(after)), (-1, dict(before)))


def _split_meta(base: Vector, sides: Sequence[Vector], found: Split) -> None:
    keys = {
        key
        for vector in (base, *sides)
        for key in vector.meta
        if key.startswith((FILE, ATTACHMENT)) or key == PREFIX
    }
    for key in sorted(keys):
        before = base.meta.get(key)
        changed = [v for side in sides if (v := side.meta.get(key)) != before]
        if len(set(changed)) > 1 and not key.startswith(ATTACHMENT):
            found.meta_conflicts.append(key)
            continue
        value = changed[0] if changed else before
        if value is not None:
            found.meta[key] = value


def sum_terms(base: Terms, sides: Sequence[Terms]) -> dict[DeltaId, Fraction]:
    """Returns the sum of all changes since the merge base, each counted once.

    Per delta: changed on one side, or by the same amount on several, that change
    once; changed by different amounts, their sum. One case is no edit of terms:
    a side that holds none of the merge base's terms any more was committed anew, as
    a checkpoint trained further is, and what it puts in their place contains
    them. Where several sides did so, each differently, what they contain is
    taken off but once: with base X and sides A and B the sum is A + B − X.

    Args:
        base: The parameter's terms in the merge base.
        sides: Its terms on each side.

    Returns:
        The sum; it does not depend on the order of the sides.
    """
    changes = [add_terms((1, side), (-1, base)) for side in sides]
    total = add_terms((1, base))
    for oid in {oid for change in changes for oid in change}:
        amounts = {change[oid] for change in changes if oid in change}
        total[oid] = total.get(oid, Fraction(0)) + sum(amounts)
    anew = {
        tuple(sorted(side.items())) for side in sides if base and side and not set(side) & set(base)
    }
    return add_terms((1, total), *[(-1, base)] * (len(anew) - 1))


def put(params: dict[str, Terms], meta: dict[str, str], name: str, standing: Standing) -> None:
    """Writes how a parameter stands into the parts of a vector.

    Args:
        params: Parameter to terms.
        meta: The vector's other keys.
        name: The parameter.
        standing: How it stands.
    """
    if standing.terms:
        params[name] = dict(standing.terms)
        if standing.shape is not None:
            meta[SHAPE + name] = standing.shape
    if standing.removed:
        meta[REMOVED + name] = "1"
