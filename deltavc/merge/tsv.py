"""TSV-M: the sides' leading singular vectors, made orthogonal to each other, recombined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from deltavc.delta.ordered import Matrix, ieee
from deltavc.delta.spectrum import triplets
from deltavc.merge.factor_space import finished, product, space
from deltavc.merge.options import Rational, Weights, option
from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["Tsv"]

DEPENDENT = 2.0**-20  # singular value of stacked unit vectors: rounding of float32 factors


@dataclass(frozen=True)
class Tsv(Strategy):
    """m + U⊥ S V⊥ᵀ from the stacked leading triplets of all sides.

    ``X⊥`` is the matrix with orthonormal columns nearest to X (Procrustes): the vectors of
    different sides no longer interfere.
    """

    name: ClassVar[str] = "tsv"
    summary: ClassVar[str] = "leading singular vectors of each side, decorrelated; stays low-rank"
    source: ClassVar[str] = "task singular vectors, arXiv:2412.00081"

    weights: tuple[Fraction, ...] | None = option(
        None, Weights(), "weight of each side; 1 each if not given"
    )
    lambda_: Fraction = option(Fraction(1), Rational(), "factor on the merged increment")
    share: Fraction | None = option(
        None,
        Rational(0, 1, above=True),
        "share of the joint rank that each side keeps; one side's part if not given",
    )

    def _combine(
        self,
        parameter: Parameter,
        operands: Sequence[Operand],
        threads: int,  # noqa: ARG002 -- milliseconds on one
    ) -> Outcome:
        share = Fraction(1, len(operands)) if self.share is None else self.share
        with ieee():
            total = space(parameter, operands, self.lambda_)
            joint = min(total.left.size, total.right.size)
            sides = [triplets(core).above(total.floor) for core in total.cores()]
            kept = [side.first(max(1, int(share * joint))) for side in sides]
            values = np.concatenate([side.values for side in kept])
            if not values.size:
                return finished(parameter, operands, total.spectrum(total.core()), {})
            left = _orthogonal(np.concatenate([side.left for side in kept]))
            right = _orthogonal(np.concatenate([side.right for side in kept]))
            core = product(left.T * values, right)
            energy = [_energy([s.values for s in part]) for part in (kept, sides)]
            facts = {"energy": energy[0] / energy[1]}
            return finished(parameter, operands, total.spectrum(core), {**facts})


def _orthogonal(rows: Matrix) -> Matrix:
    """Returns the nearest matrix with orthonormal rows; of fewer where they are dependent."""
    parts = triplets(rows).above(DEPENDENT)
    return product(parts.left.T, parts.right)


def _energy(values: Sequence[Matrix]) -> float:
    return math.fsum(np.square(np.concatenate(values)).tolist())
