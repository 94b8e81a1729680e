"""ISO-C: the sum of the increments with all its singular values made equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from deltavc.delta.ordered import ieee
from deltavc.merge.factor_space import finished, space
from deltavc.merge.options import Rational, Weights, option
from deltavc.merge.strategy import Operand, Outcome, Parameter, Strategy

__all__ = ["IsoC"]

LEAST = 2.0**-20  # of the largest singular value: below it stands the rounding of float32 factors


@dataclass(frozen=True)
class IsoC(Strategy):
    """m + s̄ U Vᵀ with Σ w_i d_i = U S Vᵀ and s̄ the mean of S."""

    name: ClassVar[str] = "iso-c"
    summary: ClassVar[str] = "the sum with its singular values made equal; stays low-rank"
    source: ClassVar[str] = "isotropic merging, arXiv:2502.04959"

    weights: tuple[Fraction, ...] | None = option(
        None, Weights(), "weight of each side; 1 each if not given"
    )
    lambda_: Fraction = option(Fraction(1), Rational(), "factor on the merged increment")

    def _combine(
        self,
        parameter: Parameter,
        operands: Sequence[Operand],
        threads: int,  # noqa: ARG002 -- milliseconds on one
    ) -> Outcome:
        with ieee():
            total = space(parameter, operands, self.lambda_)
            spectrum = total.spectrum(total.core())
            parts = spectrum.parts
            if parts.rank:
                parts = parts.above(LEAST * float(parts.values[0]))
                mean = math.fsum(parts.values.tolist()) / parts.rank
                parts = replace(parts, values=np.full(parts.rank, mean))
            return finished(parameter, operands, replace(spectrum, parts=parts), {})
