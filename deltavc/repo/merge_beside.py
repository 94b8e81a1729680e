"""Refusing merges of adapters that act beside the weights with weights that change.

A prompt or a prefix was trained on certain weights. Beside others there is no
form in which it could be checked out: not as weights, which it has none of, and not
as the adapter, which would not be the version. So the merge says so, not the
checkout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deltavc.delta.threeway import put, split
from deltavc.delta.vector import ATTACHMENT, Terms, Vector
from deltavc.errors import UsageError
from deltavc.repo.attached import (
    PEFT_INVENTORY,
    PEFT_WEIGHTS,
    digest_of,
    inventory_of,
    weightless_kind,
)

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["check_beside"]

_KEYS = (ATTACHMENT + PEFT_INVENTORY, ATTACHMENT + PEFT_WEIGHTS)


def check_beside(
    repo: Repository, base: Vector, sides: Sequence[Vector], names: Sequence[str]
) -> None:
    """Refuses a merge that would leave an adapter without the weights that it acts beside.

    Args:
        repo: The repository.
        base: The merge base's version.
        sides: The versions to merge; ours first.
        names: What they are called.

    Raises:
        UsageError: The merge changes the weights beside which a side's adapter acts, or would
            keep one of two such adapters.
    """
    kinds = [weightless_kind(repo, side) for side in sides]
    if not any(kinds):
        return
    found = split(base, sides)
    kept, before = _adapter(found.meta), _adapter(base.meta)
    params: dict[str, Terms] = {}
    for name, standing in found.standings.items():
        put(params, {}, name, standing)
    for side, kind, name in zip(sides, kinds, names, strict=True):
        mine = _adapter(side.meta)
        if not kind or (mine != kept and mine == before):
            continue
        inventory = inventory_of(repo, side)
        moved = inventory is None or found.conflicts or digest_of(params) != inventory.sum
        if mine == kept and not moved:
            continue
        what = "weights that the merge changes" if moved else "the weights, as another side's does"
        raise UsageError(
            f"'{name}' carries a '{kind}' adapter, which acts beside {what}",
            hint=f"keep them apart; the adapter itself: deltavc checkout {name} --to DIR --as peft",
            peft_type=kind,
            revision=name,
        )


def _adapter(meta: Mapping[str, str]) -> tuple[str | None, ...]:
    """Returns what tells an adapter that a version carries from others."""
    return tuple(meta.get(key) for key in _KEYS)
