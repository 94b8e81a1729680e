"""The exact sum of one parameter, element by element, and its exact rounding.

A :class:`LinearForm` is what is left of a vector of deltas once kinds are gone::

    v = Σ_p α_p · X_p  +  Σ_k q_k · (L_k @ R_k)  +  Σ_t q_t · T_t

with rational α and q, elementwise planes X, float64 factors and terms T of more
than two numbers (:mod:`deltavc.delta.rounding_terms`). ``settle``
rounds any selection of elements correctly: by exact float64 sums where these
suffice, by integers otherwise. It is the judge; the fast path only saves it work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.exactsum import (
    Accumulator,
    ExactRows,
    ExactSum,
    Vector,
    common_denominator,
    float_chunks,
    two_product,
)
from deltavc.delta.rounding import not_finite, round_fraction, round_sticky, sign_bit
from deltavc.delta.rounding_terms import ExtraTerm
from deltavc.delta.tensor import Bits, Tensor

__all__ = ["Factors", "LinearForm", "Plane", "is_tame", "spread"]

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

CHUNK = 4096  # elements settled at a time: a dozen temporaries of 32 KiB stay in cache
WIDE = 64  # pairs of a term; beyond, fewer elements at a time keep temporaries in cache
LISTED_SHARE = 64  # from one listed element in this many on, a plane of all is cheaper
FEW = 160  # below, a correctly rounded sum for each element beats some hundred array calls
TAME = 2.0**300
SMALL, LARGE = 2.0**-900, 2.0**960  # where near times the denominator's chunks is exact


def is_tame(values: Vector) -> bool:
    """Tells whether all magnitudes are zero or within 2**-300 … 2**300.

    Then the product of two of them and a chunk stays within 2**-960 … 2**960,
    where :func:`deltavc.delta.exactsum.two_product` is exact.
    """
    if not values.size:
        return True
    sizes = np.abs(values)
    return bool(((sizes <= TAME) & ((sizes >= 1 / TAME) | (sizes == 0))).all())


@dataclass(frozen=True)
class Plane:
    """Values of some or all elements, with their coefficient.

    Attributes:
        coefficient: What they are multiplied by.
        values: The values: a whole tensor, or one value for each of ``index``.
        index: Ascending flat element numbers; None for all elements.
    """

    coefficient: Fraction
    values: Tensor
    index: Index | None = None

    def gather(self, flat: Index) -> Vector:
        """Returns the values at flat element numbers; 0 where there is none."""
        if self.index is None:
            return self._floats(flat)
        if not self.index.size:
            return np.zeros(flat.size)
        at = np.minimum(np.searchsorted(self.index, flat), self.index.size - 1)
        return np.where(self.index[at] == flat, self._floats(at), 0.0)

    def _floats(self, at: Index) -> Vector:
        picked = self.values.bits[at]
        return Tensor(self.values.dtype, (picked.size,), picked).to_float64()


@dataclass(frozen=True)
class Factors:
    """A low-rank term: coefficient · left @ right.

    Shapes:
        left: (rows, r), right: (r, columns); float64, finite.
    """

    coefficient: Fraction
    left: Vector
    right: Vector
    tame: bool  # within the range of is_tame, as all of F32, F16 and BF16 are


def spread(plane: Plane, shape: tuple[int, ...]) -> Plane:
    """Returns a plane of many listed elements as one of all, zeros between them.

    Listed elements are settled one by one at some 0.4 us each; in a plane of all
    they cost what an addition does.

    Args:
        plane: The plane.
        shape: Shape of the parameter.

    Returns:
        The same values: the plane itself where it lists fewer than one element in 64.
    """
    count = math.prod(shape)
    if plane.index is None or plane.index.size * LISTED_SHARE < count:
        return plane
    dtype = plane.values.dtype
    bits = np.zeros(count, dtype=dtype.bits)
    bits[plane.index] = plane.values.bits
    return Plane(plane.coefficient, Tensor(dtype, shape, bits))


class LinearForm:
    """The sum of one parameter, ready to be settled anywhere.

    Args:
        anchor: W0, or what stands instead of it: gives the result's dtype and
            shape, and the bits of elements that are not finite in it.
        planes: Elementwise terms, the anchor's own share included; finite
            wherever the anchor is.
        factors: Low-rank terms.
        extras: Terms of more than two numbers.
    """

    def __init__(
        self,
        anchor: Tensor,
        planes: Sequence[Plane],
        factors: Sequence[Factors],
        extras: Sequence[ExtraTerm] = (),
    ) -> None:
        self.anchor = anchor
        self.dtype = anchor.dtype
        self.rows, self.columns = anchor.matrix_shape
        self.planes = tuple(planes)
        self.factors = tuple(factors)
        self.extras = tuple(extras)
        coefficients = [p.coefficient for p in self.planes]
        coefficients += [f.coefficient for f in self.factors]
        coefficients += [t.coefficient for t in self.extras]
        self.denominator = common_denominator(coefficients)
        self._factor_chunks: list[list[float]] = []
        self._plane_chunks: list[list[float]] = []
        self._extra_chunks: list[list[float]] = []
        self._denominator_chunks: list[float] = []
        self.tame = self._prepare()

    def _prepare(self) -> bool:
        """Scales the terms to integers and powers of two; False if they are too wild for it."""
        chunks = float_chunks(Fraction(self.denominator))
        if chunks is None:
            return False
        self._denominator_chunks = chunks
        for plane in self.planes:
            chunks = float_chunks(plane.coefficient * self.denominator)
            if chunks is None:
                return False
            self._plane_chunks.append(chunks)
        for term in self.factors:
            chunks = float_chunks(term.coefficient * self.denominator)
            if chunks is None or not term.tame:
                return False
            self._factor_chunks.append(chunks)
        for extra in self.extras:
            chunks = float_chunks(extra.coefficient * self.denominator)
            if chunks is None:
                return False
            self._extra_chunks.append(chunks)
        return True

    @cached_property
    def _columns(self) -> _Columns:
        """The factors' columns, scaled exactly by the denominator: two where one is too short."""
        lefts: list[Vector] = [np.empty((0, self.rows))]
        rights: list[Vector] = [np.empty((0, self.columns))]
        for term, chunks in zip(self.factors, self._factor_chunks, strict=True):
            left = np.ascontiguousarray(term.left.T)
            for part in (part for chunk in chunks for part in two_product(left, chunk)):
                if part.any():
                    lefts.append(part)
                    rights.append(term.right)
        left = lefts[1] if len(lefts) == 2 else np.concatenate(lefts)
        right = rights[1] if len(rights) == 2 else np.concatenate(rights)
        with np.errstate(all="ignore"):
            single = [bool((m.astype(np.float32) == m).all()) for m in (left, right)]
        return _Columns(left, right, all(single))

    # settling ------------------------------------------------------------

    def settle(self, flat: Index) -> Bits:
        """Returns the correctly rounded bits of some elements.

        Args:
            flat: Flat element numbers.

        Returns:
            Their bits, in that order.

        Cost:
            See ``docs/explanation/numerics.md``; integers, where float64 sums
            do not suffice, cost some 50 µs an element.
        """
        out = np.empty(flat.size, dtype=self.dtype.bits)
        step = CHUNK // max(1, max((t.width for t in self.extras), default=0) // WIDE)
        step = max(step, 16)
        with np.errstate(all="ignore"):
            for start in range(0, flat.size, step):
                out[start : start + step] = self._settle(flat[start : start + step])
        return out

    def _settle(self, flat: Index) -> Bits:
        kept = self.anchor.bits[flat]
        fixed = not_finite(kept, self.dtype)
        if fixed.any():
            moving = np.flatnonzero(~fixed)
            if moving.size:
                kept[moving] = self._settle(flat[moving])
            return kept
        bits, zero, known = self._by_floats(flat)
        for i in np.flatnonzero(~known):
            value = self.value(int(flat[i]))
            bits[i], zero[i] = round_fraction(value, self.dtype), value == 0
        # A sum of zero is +0.0, but where nothing changed, the anchor's own bits stay; for an
        # anchor of -0.0, and only there does it matter, the change is zero just when the sum is.
        minus = sign_bit(self.dtype)
        bits[zero] = np.where(kept[zero] == minus, minus, 0)
        return bits

    def sums(self, flat: Index) -> Accumulator | None:
        """Returns the exact sums times :attr:`denominator`; None if the terms are too wild for it.

        Args:
            flat: Flat element numbers, where the anchor is finite.

        Returns:
            The sums, each exact or marked as lost.
        """
        if not self.tame:
            return None
        total = Accumulator(flat.size)
        with np.errstate(all="ignore"):
            self._add_terms(total, flat)
        return total

    def _by_floats(self, flat: Index) -> tuple[Bits, Mask, Mask]:
        """Rounds exact float64 sums: bits, where the sum is zero, where both are certain."""
        if not self.tame:
            none = np.zeros(flat.size, dtype=np.bool_)
            return np.zeros(flat.size, self.dtype.bits), none, none.copy()
        total = (ExactRows if flat.size < FEW else Accumulator)(flat.size)
        self._add_terms(total, flat)
        near = total.estimate()
        if self.denominator != 1:
            # The quotient may be more than a step off; one correction brings it within.
            near = near / float(self.denominator)
            rest, _ = self._remainder(total, near).leading()
            near = near + rest / float(self.denominator)
        remainder = self._remainder(total, near)
        rest, known = remainder.leading()
        step = np.abs(np.nextafter(near, np.copysign(np.inf, rest)) - near)
        known &= np.abs(rest) * 1.02 < step * float(self.denominator)
        zero = (near == 0) & (rest == 0)
        sizes = np.abs(near)
        known &= zero | ((sizes > SMALL) & (sizes < LARGE))
        if self.dtype.size == 8:
            bits, sure = self._round_to_float64(remainder, near, rest, step)
            return bits, zero, known & (sure | zero)
        return round_sticky(near, rest, self.dtype), zero, known

    def _add_terms(self, total: ExactSum, flat: Index) -> None:
        """Adds all terms, times the common denominator."""
        for plane, chunks in zip(self.planes, self._plane_chunks, strict=True):
            values = plane.gather(flat)
            if plane.values.dtype.size == 8:
                sizes = np.abs(values)
                total.lost |= (sizes != 0) & ((sizes > TAME) | (sizes < 1 / TAME))
            for chunk in chunks:
                total.add_product(values, chunk)
        rows, columns = np.divmod(flat, max(self.columns, 1))
        for extra, chunks in zip(self.extras, self._extra_chunks, strict=True):
            pairs = extra.pairs(rows, columns)
            total.lost |= pairs.lost
            for part in two_product(pairs.left, pairs.right):
                if part.any():
                    for chunk in chunks:
                        total.add_products(part, chunk)
        if not self.factors:
            return
        left, right = self._columns.left[:, rows], self._columns.right[:, columns]
        if self._columns.single:
            total.add_all(left * right)
        else:
            for part in two_product(left, right):
                total.add_all(part)

    def _remainder(self, total: ExactSum, near: Vector) -> ExactSum:
        """Returns total - denominator · near, exactly."""
        rest = total.copy()
        for chunk in self._denominator_chunks:
            rest.add_product(-near, chunk)
        return rest

    def _round_to_float64(
        self, remainder: ExactSum, near: Vector, rest: Vector, step: Vector
    ) -> tuple[Bits, Mask]:
        """Rounds to float64 itself: compares the remainder with half a step."""
        half = np.copysign(step / 2, rest)
        beyond = remainder.copy()
        for chunk in self._denominator_chunks:
            beyond.add(-half * chunk)
        excess, known = beyond.leading()
        bits = near.view(np.uint64)
        odd = (bits & np.uint64(1)) == 1
        moves = (rest != 0) & ((np.sign(excess) == np.sign(rest)) | ((excess == 0) & odd))
        moved = np.nextafter(near, np.copysign(np.inf, rest))
        return np.where(moves, moved, near).view(self.dtype.bits), known

    def value(self, element: int) -> Fraction:
        """Returns the exact sum at one flat element number, where the anchor is finite."""
        flat = np.array([element], dtype=np.int64)
        total = Fraction(0)
        for plane in self.planes:
            total += plane.coefficient * Fraction(float(plane.gather(flat)[0]))
        row, column = divmod(element, max(self.columns, 1))
        for extra in self.extras:
            total += extra.coefficient * extra.value(row, column)
        for term in self.factors:
            pairs = zip(term.left[row].tolist(), term.right[:, column].tolist(), strict=True)
            total += term.coefficient * sum(
                (Fraction(x) * Fraction(y) for x, y in pairs if x and y), Fraction(0)
            )
        return total


@dataclass(frozen=True)
class _Columns:
    """All factors side by side, scaled by the denominator.

    Shapes:
        left: (terms, rows), right: (terms, columns).
    """

    left: Vector
    right: Vector
    single: bool  # all fit float32, so that the products are exact in float64
