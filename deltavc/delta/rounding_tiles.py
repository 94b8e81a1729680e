"""The fast path: tiles in float64, rounded by torch, with a proof for all but a few elements.

A tile is computed with one float64 GEMM, converted to float32 and from there
to the target. That is right wherever the float32 is no boundary of the
target's rounding and not tiny against the error of the float64; what remains
goes to :meth:`deltavc.delta.rounding_form.LinearForm.settle`. The bounds, and why they hold
for every order of summation, are derived in
``docs/adr/0003-certified-rounding.md``; names here follow it.
"""

from __future__ import annotations

import math
import threading
from functools import cached_property

import numpy as np
import torch

from deltavc.delta.rounding import (
    infinity_bits,
    magnitude_mask,
    round_sticky,
    smallest_exponent,
)
from deltavc.delta.rounding_exact import ExactTiles
from deltavc.delta.rounding_form import TAME, Index, LinearForm, Mask, Plane
from deltavc.delta.tensor import Bits, DType, Tensor

__all__ = ["TILE", "TileKernel"]

TILE = 1 << 18  # elements; see docs/explanation/numerics.md for what was tried
MAX_TERMS = 1 << 14  # keeps gamma under 2**-38, see the margins below
UNIT = 2.0**-53
FLOOR = 2.0**-960  # covers all underflow of tame terms
F32_WINDOW = 1 << 16  # float64 steps on either side of a float32 boundary that count as near
F32_SPARE_BITS = 29
EXACT_SHARE = 1024  # with more marks than one in this many, ask whether sums were exact
_scratch = threading.local()


class _Scratch:
    """Buffers of one thread, kept between calls: fresh pages cost more than the arithmetic."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.wide = torch.empty(size, dtype=torch.float64)
        self.term = torch.empty(0, dtype=torch.float64)
        self.single = torch.empty(size, dtype=torch.float32)
        self.single_bits = self.single.numpy().view(np.uint32)
        self.wide_bits = self.wide.numpy().view(np.uint64)
        self.words = np.empty(size, dtype=np.uint32)
        self.halves = np.empty(size, dtype=np.uint16)
        self.mask = np.empty(size, dtype=np.bool_)
        self.exact = np.empty(size, dtype=np.bool_)

    @classmethod
    def of(cls, size: int) -> _Scratch:
        """Returns this thread's buffers, of at least this size."""
        held: _Scratch | None = getattr(_scratch, "held", None)
        if held is None or held.size < size:
            held = _scratch.held = cls(max(size, TILE))
        return held


def torch_view(tensor: Tensor) -> torch.Tensor:
    """Returns a tensor's values as a flat torch tensor over the same bytes; only for reading."""
    return _aliased(tensor.bits, tensor.dtype)


def _aliased(bits: Bits, dtype: DType) -> torch.Tensor:
    # torch warns of read-only arrays, such as mapped files; nothing here writes to them.
    array = bits if bits.flags.writeable else np.asarray(_Writable(bits))
    array = array.view(np.dtype(f"<i{dtype.size}"))
    return torch.from_numpy(array).view(getattr(torch, dtype.torch))


class _Writable:
    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        interface = dict(bits.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


class TileKernel:
    """The fast path for one parameter in F16, BF16 or F32.

    Args:
        form: The parameter's sum.
    """

    def __init__(self, form: LinearForm) -> None:
        self.form = form
        self.dtype = form.dtype
        self._planes = [p for p in form.planes if p.index is None]
        self._sparse = [p.index for p in form.planes if p.index is not None]
        self._sources = [torch_view(p.values) for p in self._planes]
        self._left, self._right = _concatenated(form)
        self._rank = int(self._left.shape[1])
        terms = self._rank + 2 * len(self._planes) + 8
        self.certifies = form.tame and terms <= MAX_TERMS
        self._gamma = 1.01 * terms * UNIT
        norms = np.sqrt((self._left.numpy() ** 2).sum(axis=1)) * 1.001
        self._row_norms = norms + FLOOR
        norms = np.sqrt((self._right.numpy() ** 2).sum(axis=0)) * 1.001
        self._column_norms = norms + FLOOR
        self._column_norm = float(norms.max(initial=0.0)) + FLOOR
        self._plain = len(self._planes) == 1 and self._planes[0].coefficient == 1

    @cached_property
    def _exact(self) -> ExactTiles:
        return ExactTiles(self.form, self._planes, self._left.numpy(), self._right.numpy())

    def compute(self, start: int, stop: int, out: Bits) -> int:
        """Computes rows [start, stop) into ``out``.

        Args:
            start: First row.
            stop: Row after the last.
            out: Flat bit patterns of these rows.

        Returns:
            How many elements had to be settled.
        """
        columns = self.form.columns
        if not self.certifies:
            out[:] = self.form.settle(np.arange(start * columns, stop * columns))
            return int(out.size)
        step = max(1, TILE // max(columns, 1))
        scratch = _Scratch.of(step * columns)
        undecided: list[Index] = []
        for row in range(start, stop, step):
            end = min(row + step, stop)
            part = out[(row - start) * columns : (end - start) * columns]
            found = self._tile(row, end, part, scratch)
            if found.size:
                undecided.append(found + (row - start) * columns)
        if not undecided:
            return 0
        every = np.concatenate(undecided)
        out[every] = self.form.settle(every + start * columns)
        return int(every.size)

    def _tile(self, start: int, stop: int, out: Bits, scratch: _Scratch) -> Index:
        """Computes one tile; returns the elements that it could not decide."""
        columns = self.form.columns
        count = out.size
        wide = scratch.wide[:count]
        bound = self._fill(start, stop, wide, scratch)
        target = _aliased(out, self.dtype)
        mask = scratch.mask[:count]
        if self.dtype.size == 4:
            target.copy_(wide)
            self._mark_near(mask, scratch)
        else:
            single = scratch.single[:count]
            single.copy_(wide)
            target.copy_(single)
            self._mark_halfway(mask, scratch)
        # Sums that are exact are right as they are, but for those that float32 rounded before.
        exact = scratch.exact[:count]
        crowded = np.count_nonzero(mask) > count // EXACT_SHARE
        if crowded and self._exact.find(start, stop, exact):
            if self.dtype.size == 2:
                self._round_once(np.flatnonzero(mask & exact), out, scratch)
            np.greater(mask, exact, out=mask)  # marked and not exact
        found = np.flatnonzero(mask)
        if found.size:
            found = (self._near if self.dtype.size == 4 else self._halfway)(start, found, scratch)
        parts = [found, self._special(out, bound, scratch)]
        for index in self._sparse:
            low, high = np.searchsorted(index, (start * columns, stop * columns))
            parts.append(index[low:high] - start * columns)
        parts = [part for part in parts if part.size]
        return np.concatenate(parts) if parts else found

    def _round_once(self, found: Index, out: Bits, scratch: _Scratch) -> None:
        """Rounds exact sums to 16 bits where float32 changed them."""
        sums = scratch.wide.numpy()[found]
        changed = scratch.single.numpy()[found] != sums
        if changed.any():
            sums = sums[changed]
            out[found[changed]] = round_sticky(sums, np.zeros(sums.size), self.dtype)

    def _fill(self, start: int, stop: int, wide: torch.Tensor, scratch: _Scratch) -> float:
        """Computes the sum in float64 and bounds its error.

        Returns:
            B, such that the error is at most gamma · |x| + B.
        """
        columns = self.form.columns
        low, high = start * columns, stop * columns
        sizes = 0.0
        for number, (plane, source) in enumerate(zip(self._planes, self._sources, strict=True)):
            part = source[low:high]
            factor = float(plane.coefficient)
            if number == 0:
                wide.copy_(part)
                if factor != 1.0:
                    wide.mul_(factor)
            else:
                if scratch.term.numel() < wide.numel():
                    scratch.term = torch.empty(scratch.size, dtype=torch.float64)
                term = scratch.term[: wide.numel()]
                term.copy_(part)
                wide.add_(term, alpha=factor)
            if not self._plain:
                sizes += abs(factor) * _largest(plane, low, high)
        if self._rank:
            matrix = wide.view(stop - start, columns)
            left = self._left[start:stop]
            if self._planes:
                matrix.addmm_(left, self._right)
            else:
                torch.mm(left, self._right, out=matrix)
            # |W0| <= |x| + error + product: doubled, the product stands for both.
            factor = 2.0 if self._plain else 1.0
            sizes += factor * float(self._row_norms[start:stop].max()) * self._column_norm
        elif not self._planes:
            wide.zero_()
        return 1.01 * self._gamma * sizes + FLOOR

    def _mark_halfway(self, mask: Mask, scratch: _Scratch) -> None:
        """Marks float32 values that may be halfway between two numbers of a 16-bit target."""
        halves = scratch.halves[: mask.size]
        np.copyto(halves, scratch.single_bits[: mask.size], casting="unsafe")
        if self.dtype.name == "BF16":
            np.equal(halves, np.uint16(0x8000), out=mask)
            return
        # Halfway for F16 means 13 spare bits 1000…, or, below 2**-14, more zeros than these.
        np.left_shift(halves, np.uint16(4), out=halves)
        np.equal(halves, np.uint16(0), out=mask)

    def _halfway(self, start: int, found: Index, scratch: _Scratch) -> Index:  # noqa: ARG002
        """Keeps those of the marked elements that are halfway indeed."""
        if self.dtype.name == "BF16":
            return found
        values = np.abs(scratch.single.numpy()[found].astype(np.float64))
        values = np.where(np.isfinite(values), values, 0.0)
        exponent = np.maximum(np.frexp(values)[1] - 1, smallest_exponent(self.dtype))
        half_steps = np.ldexp(values, self.dtype.mantissa + 1 - exponent)
        halfway: Index = found[np.fmod(half_steps, 2.0) == 1.0]
        return halfway

    def _mark_near(self, mask: Mask, scratch: _Scratch) -> None:
        """Marks float64 values within the window about halfway between two float32."""
        words = scratch.words[: mask.size]
        half, window = 1 << (F32_SPARE_BITS - 1), F32_WINDOW
        drop = 32 - F32_SPARE_BITS
        np.copyto(words, scratch.wide_bits[: mask.size], casting="unsafe")
        np.add(words, np.uint32((window - half) % (1 << 32)), out=words)
        np.left_shift(words, np.uint32(drop), out=words)
        np.less(words, np.uint32(2 * window << drop), out=mask)

    def _near(self, start: int, found: Index, scratch: _Scratch) -> Index:
        """Keeps those of the marked elements that are halfway within their own error."""
        if not self._plain:
            return found
        # The tile's bound is that of its largest row and column; most are closer to the truth.
        values = np.abs(scratch.wide.numpy()[found])
        half = 1 << (F32_SPARE_BITS - 1)
        low = (scratch.wide_bits[found] & np.uint64(2 * half - 1)).astype(np.int64)
        distance = np.abs(low - half) * np.spacing(values)
        rows, columns = np.divmod(found, self.form.columns)
        sizes = values + 2 * self._row_norms[start + rows] * self._column_norms[columns]
        near: Index = found[~(distance > 1.02 * self._gamma * sizes + FLOOR)]
        return near

    def _special(self, out: Bits, bound: float, scratch: _Scratch) -> Index:
        """Finds results that are zero, tiny against the error, or not finite."""
        dtype = self.dtype
        # Beyond the limit the error is less than half a float32 step, or than the window.
        limit = bound * 2.0**27 if dtype.size == 2 else max(bound * 2.0**38, 2.0**-125)
        top = 2 * infinity_bits(dtype)
        tiny = _power_of_two_bits(limit, dtype)
        if tiny >= infinity_bits(dtype):
            return np.arange(out.size)
        scaled = (scratch.halves if dtype.size == 2 else scratch.words)[: out.size]
        kind = dtype.bits.type
        np.add(out, out, out=scaled)  # drops the sign
        np.add(scaled, kind((2 * (magnitude_mask(dtype) + 1)) - top), out=scaled)
        threshold = 2 * (magnitude_mask(dtype) + 1) - top + 2 * tiny
        if not out.size or int(scaled.min()) > threshold:
            return np.empty(0, dtype=np.int64)
        mask = scratch.mask[: out.size]
        np.less_equal(scaled, kind(threshold), out=mask)
        return np.flatnonzero(mask)


def _concatenated(form: LinearForm) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns all factors side by side, coefficients folded into the left ones."""
    if not form.factors or not form.tame:
        left = torch.zeros(form.rows, 0, dtype=torch.float64)
        return left, torch.zeros(0, form.columns, dtype=torch.float64)
    lefts = [f.left * float(f.coefficient) for f in form.factors]
    rights = [f.right for f in form.factors]
    return (
        torch.from_numpy(np.concatenate(lefts, axis=1)),
        torch.from_numpy(np.concatenate(rights, axis=0)),
    )


def _largest(plane: Plane, low: int, high: int) -> float:
    """Returns the largest magnitude in part of a plane; infinity or NaN count as infinity."""
    dtype = plane.values.dtype
    mask = dtype.bits.type(magnitude_mask(dtype))
    top = (plane.values.bits[low:high] & mask).max(initial=0)
    if int(top) >= infinity_bits(dtype):
        return math.inf
    return float(Tensor(dtype, (1,), np.array([top], dtype=dtype.bits)).to_float64()[0])


def _power_of_two_bits(limit: float, dtype: DType) -> int:
    """Returns the pattern of a power of two that is at least ``limit``, rounded."""
    if not limit < TAME:
        return infinity_bits(dtype)
    exponent = math.frexp(limit)[1]
    lowest = smallest_exponent(dtype)
    if exponent > lowest:
        return min((exponent - lowest + 1) << dtype.mantissa, infinity_bits(dtype))
    shift = exponent - lowest + dtype.mantissa
    return 1 << shift if shift >= 0 else 0
