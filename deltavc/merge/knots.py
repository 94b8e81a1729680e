"""KnOTS: element-wise strategies in the basis that the sides' columns share.

With [d_1 … d_n] = U S [V_1 … V_n] the increments have the same columns U and
differ in their rows S V_i. These are as many as the ranks together, and are
merged element by element; U times the result is of low rank again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deltavc.delta.ordered import Matrix, combine, ieee
from deltavc.delta.spectrum import Sum, triplets
from deltavc.merge.dare import DareTies
from deltavc.merge.elementwise import Elementwise
from deltavc.merge.factor_space import finished, in_rows, inner, product, space, values_of
from deltavc.merge.options import Flag, option
from deltavc.merge.strategy import Operand, Outcome, Parameter
from deltavc.merge.ties import TensorTies

__all__ = ["KnotsDare", "KnotsTies"]


@dataclass(frozen=True)
class _Knots(Elementwise):
    """The frame: bases, an element-wise merge of rows, and back."""

    source: ClassVar[str] = "KnOTS, arXiv:2410.19735"

    scaled: bool = option(True, Flag(), "whether singular values count when elements are compared")

    def _combine(self, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Outcome:
        with ieee():
            total = space(parameter, operands)
            left, sizes, blocks = _aligned(total)
        if not sizes.size:
            return finished(parameter, operands, total.spectrum(total.core()), {})
        if not self.scaled:
            blocks = [block / sizes[:, np.newaxis] for block in blocks]
        small, sides = inner(parameter, operands, blocks)
        rows, facts = values_of(super()._combine(small, sides, threads), small.shape)
        with ieee():
            if not self.scaled:
                rows = rows * sizes[:, np.newaxis]
            return finished(parameter, operands, in_rows(total, left, rows), facts)


@dataclass(frozen=True)
class KnotsTies(_Knots, TensorTies):
    """TIES on the rows S V_i."""

    name: ClassVar[str] = "knots-ties"
    summary: ClassVar[str] = "ties in the basis of all sides' columns; stays low-rank"
    source: ClassVar[str] = _Knots.source


@dataclass(frozen=True)
class KnotsDare(_Knots, DareTies):
    """DARE, then the vote of TIES, on the rows S V_i."""

    name: ClassVar[str] = "knots-dare"
    summary: ClassVar[str] = "dare-ties in the basis of all sides' columns; stays low-rank"
    source: ClassVar[str] = _Knots.source


def _aligned(total: Sum) -> tuple[Matrix, Matrix, list[Matrix]]:
    """Returns U as coordinates (r, left.size), S, and S V_i as rows (r, columns)."""
    cores = total.cores()
    parts = triplets(np.concatenate(cores, axis=1)).above(total.floor)
    blocks = []
    for core in cores:
        weights = total.right.weights(product(parts.left, core))
        blocks.append(combine(weights, total.right.source)[:, : total.right.width])
    return parts.left, parts.values, blocks
