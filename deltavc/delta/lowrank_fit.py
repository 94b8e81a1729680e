"""Fits low-rank predictors to changed matrices.

Wide factors miss fewer elements, narrow ones are smaller: 10 to 12 bits are
enough for bfloat16, whose own spacing is coarse, float32 wants all that exact
products leave. The width is chosen on some rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.ordinals import fold, ordinals
from deltavc.delta.predict import LowRank
from deltavc.delta.rankfind import Factors, Pair, find_factors, leading_factors, probe, refine
from deltavc.delta.tensor import Tensor

__all__ = ["Settings", "fit_leading", "fit_lowrank"]

WIDTHS = {2: (12, 11, 10, 9), 4: (26, 25, 24, 22)}
LEADING_WIDTH = 8
MIN_LEADING_SIDE = 128
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Settings:
    """How factors are fitted.

    Attributes:
        steps: Relaxations of the passes of :func:`refine`.
    """

    steps: tuple[float, ...]


def fit_lowrank(base: Tensor, new: Tensor, settings: Settings) -> LowRank | None:
    """Returns a low-rank predictor of a changed matrix, or None if its change is not of low rank.

    Args:
        base: The base tensor.
        new: The changed tensor, of the same shape.
        settings: How to fit.
    """
    if base.dtype.size > 4 or len(base.shape) < 2:
        return None
    pair = Pair.of(base, new, quick=True)
    expected = probe(pair)
    factors = find_factors(pair, expected) if expected else None
    if factors is None:
        return None
    trial = _Trial.of(pair)
    if settings.steps:
        refined = refine(pair, factors, settings.steps)
        factors = min(factors, refined, key=lambda each: trial.cost(trial.fixed(each)))
    return min((trial.fixed(factors, width) for width in trial.widths), key=trial.cost)


def fit_leading(base: Tensor, new: Tensor, rank: int) -> LowRank | None:
    """Returns a rough predictor from the leading factors of a change of any rank.

    Args:
        base: The base tensor.
        new: The changed tensor, of the same shape.
        rank: Rank of the factors; 8 bits each suffice, since they leave a residual anyway.
    """
    if base.dtype.size > 4 or min(base.matrix_shape) < MIN_LEADING_SIDE or len(base.shape) < 2:
        return None
    factors = leading_factors(Pair.of(base, new, quick=True), rank)
    return LowRank.quantised(factors.left, factors.right, base.dtype, LEADING_WIDTH)


@dataclass(frozen=True, eq=False)
class _Trial:
    """Some rows of a pair, on which predictors are compared."""

    pair: Pair
    rows: NDArray[np.int64]
    part: Pair

    @classmethod
    def of(cls, pair: Pair) -> _Trial:
        wanted = max(1, _SAMPLE // max(1, pair.columns))
        rows = np.arange(0, pair.rows, max(1, pair.rows // wanted), dtype=np.int64)
        return cls(pair, rows, pair.only_rows(rows))

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths worth a try, the widest first."""
        return WIDTHS[self.pair.dtype.size]

    def fixed(self, factors: Factors, width: int | None = None) -> LowRank:
        """Returns the predictor of factors in fixed point."""
        width = width or self.widths[0]
        return LowRank.quantised(factors.left, factors.right, self.pair.dtype, width)

    def cost(self, fixed: LowRank) -> float:
        """Returns about the bits that a predictor and its residual take up."""
        numbers = fixed.rank * (self.pair.rows + self.pair.columns)
        each = _residual_bits(self.part, fixed.only_rows(self.rows))
        return numbers * fixed.left_bits + self.pair.base.size * each


def _residual_bits(part: Pair, fixed: LowRank) -> float:
    """Returns about the bits of the residual for an element."""
    wrong, size = 0, 0.0
    for start, stop in fixed.bounds(part.new.size):
        difference = ordinals(part.new[start:stop])
        difference -= fixed.predict(part.base[start:stop], start)
        folded = fold(difference[difference != 0])
        wrong += folded.size
        size += float(np.log2(folded.astype(np.float64) + 1).sum())
    share = min(max(wrong / part.new.size, 1e-6), 1 - 1e-6)
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    return float(entropy + size / part.new.size)
