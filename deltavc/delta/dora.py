"""The gains of a DoRA: its magnitudes over the norms of the weights that it scales.

A gain is ``m / ||W0 + scale * B @ A||``, for each output feature, rounded to 36
significant bits: a definition again, so that what is stored does not depend on
the machine. Norms are computed in float64 with a bound of their error; the few
gains that the bound does not decide are computed again from exact sums.

36 bits leave an error of 7e-12. All 53 would cost an adapter of rank 4 in
float32 a tenth of its size; these cost 13 % of its bytes before compression. Where
they would cost more, they are not stored (:func:`weigh`): each rebuild computes them.

Source:
    Liu et al., DoRA, 2402.09353. Bounds: ``docs/adr/0009-scaled-and-rotated-deltas.md``.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.body import Delta
from deltavc.delta.exactsum import two_product, two_sum
from deltavc.delta.rounding_arithmetic import plain_arithmetic
from deltavc.delta.rounding_exact import norms
from deltavc.delta.rounding_form import Factors, LinearForm, Plane, is_tame
from deltavc.delta.rounding_tiles import torch_view
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UnsupportedFormat

__all__ = ["BITS", "gains", "gains_of", "weigh"]

Vector = NDArray[np.float64]

BITS = 36
SHARE_16, SHARE_32 = 0.35, 0.2  # of the bytes of an adapter that its gains may come to
BAND = 1 << 18
RUN = 16  # terms that are summed in any order
LEFT_OUT = Fraction(1, 1 << 95)
UNIT = 2.0**-53
RANGE = 2.0**200  # squares of such numbers, and their sums, neither overflow nor underflow


def gains(
    base: Tensor, b: Tensor, a: Tensor, m: Tensor, scale: Fraction, *, transposed: bool = False
) -> Vector:
    """Returns the gains of a DoRA.

    Args:
        base: The base's tensor.
        b: B as found.
        a: A as found.
        m: The magnitude as found, one number for each output feature.
        scale: What B @ A is multiplied by.
        transposed: The parameter is the transpose of B @ A; norms are then those of columns.

    Returns:
        One gain for each row, or column, of the parameter as a matrix.

    Raises:
        ShapeMismatch: The tensors do not fit the base's.
        NonFiniteTensor: One holds NaN or infinity.
        UnsupportedFormat: A norm is zero or beyond float64's range, so that there is no gain.

    Cost:
        One pass over the base with a float64 product; the machine's other
        threads are the caller's to use.
    """
    if not all(tensor.is_finite() for tensor in (b, a, m)):
        raise NonFiniteTensor("a DoRA's tensors hold NaN or infinity")
    outputs = base.matrix_shape[1 if transposed else 0]
    factors = kinds.lowrank(b, a, scale, shape=base.shape, transposed=transposed)
    left, right = factors.matrices()
    if (left.shape[0], right.shape[1]) != base.matrix_shape or m.count != outputs:
        raise ShapeMismatch(
            "a DoRA's tensors do not fit the weights that it scales",
            expected=list(base.shape),
            found=[list(b.shape), list(a.shape), list(m.shape)],
        )
    form = LinearForm(
        base,
        [Plane(Fraction(1), base)],
        [Factors(scale, left, right, is_tame(left) and is_tame(right))],
    )
    magnitudes = m.to_float64().reshape(-1)
    with plain_arithmetic(), np.errstate(all="ignore"):
        squares, error = _squares(form, 0 if transposed else 1)
        if not np.isfinite(squares).all() and not base.is_finite():
            raise NonFiniteTensor("the weights that a DoRA scales hold NaN or infinity")
        found = magnitudes / np.sqrt(squares)
        lower, upper = _shortened(found * (1 - error)), _shortened(found * (1 + error))
        inside = (squares > 1 / RANGE) & (squares < RANGE) & (np.abs(found) > 1 / RANGE)
        decided = (lower == upper) & inside & (np.abs(found) < RANGE)
        decided |= (magnitudes == 0) & (squares > 1 / RANGE)
        for at in np.flatnonzero(~decided).tolist():
            lower[at] = _settled(form, at, transposed, float(magnitudes[at]))
    return lower


def gains_of(delta: Delta, base: Tensor) -> Vector:
    """Returns the gains of a ``dora`` delta that does not hold them; see :func:`gains`.

    Args:
        delta: The delta.
        base: The base's tensor.
    """
    b, a, m = (delta.tensor(name) for name in ("b", "a", "m"))
    return gains(base, b, a, m, delta.scale, transposed=delta.header.transposed)


def weigh(b: Tensor, a: Tensor, m: Tensor) -> bool:
    """Tells whether gains are few enough beside an adapter's own tensors to be stored.

    A rebuild without them goes over the base twice. Compression takes 17 % off factors in
    float32 and 35 % in 16 bits, and that is what gains may take up: ranks from 3 on have
    them, as long as the weights are not four times as high as they are wide.
    """
    own = b.nbytes + a.nbytes + m.nbytes
    return m.count * BITS / 8 <= (SHARE_16 if b.dtype.size == 2 else SHARE_32) * own


def _squares(form: LinearForm, axis: int) -> tuple[Vector, Vector]:
    """Returns squared norms of rows (axis 1) or columns, and bounds of the norms' relative errors.

    Numerics:
        An element x of the sum has |x - v| <= gamma (|W0| + |L| |R|), and |W0| <= |x| + |L| |R|
        but for less than a hundredth. A square passes through a known number of additions.
    """
    rows, columns = form.rows, form.columns
    view = torch_view(form.anchor.bits, form.anchor.dtype)
    term = form.factors[0]
    left = torch.from_numpy(term.left * float(term.coefficient))
    right = torch.from_numpy(np.ascontiguousarray(term.right))
    sums = np.zeros(rows if axis else columns)
    step, depth = max(1, BAND // max(columns, 1)), 0
    room = torch.empty(min(step, rows) * columns, dtype=torch.float64)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        tile = room[: (stop - start) * columns]
        tile.copy_(view[start * columns : stop * columns])
        tile = tile.view(-1, columns).addmm_(left[start:stop], right)
        found, passed = _summed(tile.mul_(tile), axis)
        depth = max(depth, passed)
        if axis:
            sums[start:stop] = found
        else:
            sums += found
    size = norms(left.numpy(), 1) * float(np.linalg.norm(right.numpy())) * 1.001
    if not axis:
        size = float(np.linalg.norm(left.numpy())) * 1.001 * norms(right.numpy(), 0)
    gamma = 1.01 * (left.shape[1] + 10) * UNIT
    depth += 4 if axis else 4 - (-rows // step)
    relative = 1.02 * gamma * (1 + 2 * size / np.sqrt(sums))
    return sums, 1.05 * (relative + depth * UNIT)


def _summed(squares: torch.Tensor, axis: int) -> tuple[Vector, int]:
    """Returns sums along an axis, and through how many additions a term passes at most."""
    depth = 0
    while squares.shape[axis] > RUN:
        length = squares.shape[axis]
        run = next((n for n in range(RUN, 1, -1) if length % n == 0), 0)
        if not run:  # halves are added to each other, the odd one left alone
            half = length // 2
            squares.narrow(axis, 0, half).add_(squares.narrow(axis, length - half, half))
            squares, run = squares.narrow(axis, 0, length - half), 1
        elif axis:
            squares = squares.reshape(len(squares), run, length // run).sum(dim=1)
        else:
            squares = squares.reshape(run, length // run, squares.shape[1]).sum(dim=0)
        depth += run
    found: Vector = squares.sum(dim=axis).numpy()
    return found, depth + RUN


def _shortened(values: Vector) -> Vector:
    """Returns the nearest numbers of 36 significant bits, ties to even."""
    fraction, exponent = np.frexp(values)
    found: Vector = np.ldexp(np.rint(np.ldexp(fraction, BITS)), exponent - BITS)
    return found


def _settled(form: LinearForm, at: int, transposed: bool, magnitude: float) -> float:
    """Returns one gain from its definition."""
    if transposed:
        flat = np.arange(form.rows, dtype=np.int64) * form.columns + at
    else:
        flat = np.arange(form.columns, dtype=np.int64) + at * form.columns
    total = form.sums(flat)
    if total is not None and not total.lost.any():
        first, rest = total.levels[0], total.levels[1] + total.levels[2]
        high, low = two_product(first, first)
        square = _twofold(high, low + 2 * first * rest)
        square /= form.denominator**2
        # What is left out is below 2**-95 of the whole, and near no boundary but by chance.
        sides = [_gain(square * (1 + side), magnitude) for side in (-LEFT_OUT, LEFT_OUT)]
        if 1 / RANGE < square < RANGE and sides[0] == sides[1]:
            return sides[0]
    exact = sum((form.value(int(i)) ** 2 for i in flat), Fraction(0))
    if not exact:
        raise UnsupportedFormat(
            "a DoRA scales weights that are all zero",
            hint="store the changed weights as exact",
        )
    return _gain(exact, magnitude)


def _twofold(high: Vector, low: Vector) -> Fraction:
    """Returns the sum of numbers given as two float64 each, all of one sign, within 2**-98."""
    while high.size > 1:
        half = high.size // 2
        rest = high[2 * half :], low[2 * half :]
        total, error = two_sum(high[:half], high[half : 2 * half])
        low = low[:half] + low[half : 2 * half] + error
        high, low = np.concatenate([total, rest[0]]), np.concatenate([low, rest[1]])
    return Fraction(float(high[0])) + Fraction(float(low[0]))


def _gain(square: Fraction, magnitude: float) -> float:
    """Returns magnitude / sqrt(square), rounded to nearest, 36 significant bits."""
    if not magnitude or square <= 0:
        return 0.0
    ratio = Fraction(magnitude) ** 2 / square
    # Integer square roots of the ratio in units of a quarter of the last bit.
    top = (ratio.numerator.bit_length() - ratio.denominator.bit_length()) // 2
    shift = BITS + 2 - top
    scaled = ratio * Fraction(4) ** shift
    whole = scaled.numerator // scaled.denominator
    root = math.isqrt(whole)
    sticky = root * root != scaled
    spare = root.bit_length() - BITS
    kept, rest = root >> spare, root & ((1 << spare) - 1)
    half = 1 << (spare - 1)
    if rest > half or (rest == half and (sticky or kept & 1)):
        kept += 1
    try:
        return math.copysign(math.ldexp(kept, spare - shift), magnitude)
    except OverflowError as error:
        raise UnsupportedFormat(
            "a DoRA's gain is beyond float64's range", hint="store the changed weights as exact"
        ) from error
