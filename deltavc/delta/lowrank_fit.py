"""Fits low-rank predictors to changed matrices.

Wide factors miss fewer elements, narrow ones are smaller: 10 to 12 bits are
enough for bfloat16, whose own spacing is coarse, float32 wants all that exact
products leave. The width is chosen on some rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deltavc.delta.ordinals import fold, ordinals
from deltavc.delta.predict import LowRank
from deltavc.delta.rankfind import Factors, Pair, find_factors, leading_factors, probe, refine
from deltavc.delta.tensor import Tensor

__all__ = ["Settings", "fit_leading", "fit_lowrank"]

WIDTHS = {2: (8, 9, 10, 11, 12, 14), 4: (20, 22, 24, 25)}
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
    pair = Pair.of(base, new)
    expected = probe(pair)
    factors = find_factors(pair, expected) if expected else None
    if factors is None:
        return None
    choices = [factors]
    if settings.steps:
        choices.append(refine(pair, factors, settings.steps))
    return min((_narrowed(pair, choice) for choice in choices), key=lambda costed: costed[0])[1]


def fit_leading(base: Tensor, new: Tensor, rank: int) -> LowRank | None:
    """Returns a rough predictor from the leading factors of a change of any rank.

    Args:
        base: The base tensor.
        new: The changed tensor, of the same shape.
        rank: Rank of the factors; 8 bits each suffice, since they leave a residual anyway.
    """
    if base.dtype.size > 4 or min(base.matrix_shape) < MIN_LEADING_SIDE or len(base.shape) < 2:
        return None
    factors = leading_factors(Pair.of(base, new), rank)
    return LowRank.quantised(factors.left, factors.right, base.dtype, LEADING_WIDTH)


def _narrowed(pair: Pair, factors: Factors) -> tuple[float, LowRank]:
    """Returns the cheapest fixed-point form of factors, with its cost in bits."""
    costed = []
    for width in WIDTHS[pair.dtype.size]:
        fixed = LowRank.quantised(factors.left, factors.right, pair.dtype, width)
        numbers = fixed.rank * (pair.rows + pair.columns)
        costed.append((numbers * fixed.left_bits + _residual_bits(pair, fixed), fixed))
    return min(costed, key=lambda item: item[0])


def _residual_bits(pair: Pair, fixed: LowRank) -> float:
    """Returns about the bits of the residual, from some rows."""
    step = max(1, pair.rows * pair.columns // _SAMPLE)
    missed, size, seen = 0, 0.0, 0
    for row in range(0, pair.rows, step):
        cut = slice(row * pair.columns, (row + 1) * pair.columns)
        difference = ordinals(pair.new[cut]) - fixed.predict(pair.base[cut], cut.start)
        wrong = fold(difference[difference != 0])
        missed += wrong.size
        size += float(np.log2(wrong.astype(np.float64) + 1).sum())
        seen += pair.columns
    share = min(max(missed / seen, 1e-6), 1 - 1e-6)
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    return float(pair.rows * pair.columns * (entropy + size / seen))
