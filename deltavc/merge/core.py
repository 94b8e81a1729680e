"""Core-space merging: element-wise strategies on cores as small as the ranks together.

U are the left singular vectors of all left factors side by side, V the right
ones of all right factors. The cores M_i = Uᵀ d_i V lose nothing; they are merged
element by element, and U M Vᵀ is the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deltavc.delta.ordered import Matrix, ieee
from deltavc.delta.spectrum import Spectrum, Sum, Triplets, triplets
from deltavc.merge.dare import DareTies
from deltavc.merge.elementwise import Elementwise
from deltavc.merge.factor_space import finished, inner, product, significant, space, values_of
from deltavc.merge.strategy import Operand, Outcome, Parameter
from deltavc.merge.ties import TensorTies

__all__ = ["CoreDare", "CoreTies"]


@dataclass(frozen=True)
class _Core(Elementwise):
    """The frame: reference bases, an element-wise merge of cores, and back."""

    source: ClassVar[str] = "core space, arXiv:2509.17786"

    def _combine(self, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Outcome:
        with ieee():
            total = space(parameter, operands)
            left, right = _references(total)
            if not left.shape[0] or not right.shape[0]:
                return finished(parameter, operands, total.spectrum(total.core()), {})
            blocks = [product(product(left, core), right.T) for core in total.cores()]
        small, sides = inner(parameter, operands, blocks)
        merged, facts = values_of(super()._combine(small, sides, threads), small.shape)
        with ieee():
            parts = significant(triplets(merged))
            turned = Triplets(product(parts.left, left), parts.values, product(parts.right, right))
            spectrum = Spectrum(total.left, total.right, turned, total.exponent)
            return finished(parameter, operands, spectrum, facts)


@dataclass(frozen=True)
class CoreTies(_Core, TensorTies):
    """TIES on the cores."""

    name: ClassVar[str] = "core-ties"
    summary: ClassVar[str] = "ties on the sides' cores in shared bases; stays low-rank"
    source: ClassVar[str] = _Core.source


@dataclass(frozen=True)
class CoreDare(_Core, DareTies):
    """DARE, then the vote of TIES, on the cores."""

    name: ClassVar[str] = "core-dare"
    summary: ClassVar[str] = "dare-ties on the sides' cores in shared bases; stays low-rank"
    source: ClassVar[str] = _Core.source


def _references(total: Sum) -> tuple[Matrix, Matrix]:
    """Returns the reference bases as coordinates, (r, left.size) and (r, right.size).

    Each column and row counts with the root of its coefficient times scale.
    """
    roots = np.sqrt(np.abs(total.numbers))[:, np.newaxis]
    found = [
        significant(triplets(basis.coordinates * roots)).right
        for basis in (total.left, total.right)
    ]
    return found[0], found[1]
