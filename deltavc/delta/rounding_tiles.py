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

from deltavc.delta import rounding_extras as extras
from deltavc.delta.rounding import (
    infinity_bits,
    magnitude_mask,
    round_sticky,
    smallest_exponent,
)
from deltavc.delta.rounding_exact import ExactTiles, norms
from deltavc.delta.rounding_form import TAME, Index, LinearForm
from deltavc.delta.tensor import Bits, DType

__all__ = ["TILE", "TileKernel"]

TILE = 1 << 18  # elements; see docs/explanation/numerics.md for what was tried
MAX_TERMS = 1 << 14  # keeps gamma under 2**-38, see the margins below
MAX_GAMMA = 2.0**-38
UNIT = 2.0**-53
FLOOR = 2.0**-960  # covers all underflow of tame terms
F32_WINDOW = 1 << 16  # float64 steps on either side of a float32 boundary that count as near
F32_SPARE_BITS = 29
F32_SMALL, F32_LARGE = 2.0**-125, 2.0**127  # where float32 has its full significand
EXACT_SHARE = 1024  # with more marks than one in this many, ask whether sums were exact
_NONE: Index = np.empty(0, dtype=np.int64)
_scratch = threading.local()


class _Scratch:
    """Buffers of one thread for tiles of one size.

    They are kept between calls, since fresh pages cost more than the
    arithmetic, and so are the views of them, since making views costs a tenth of it.
    """

    def __init__(self, size: int) -> None:
        self.wide = torch.empty(size, dtype=torch.float64, device="cpu")
        self.wide_floats = self.wide.numpy()
        self.wide_bits = self.wide_floats.view(np.uint64)
        self.single = torch.empty(size, dtype=torch.float32, device="cpu")
        self.single_floats = self.single.numpy()
        self.single_bits = self.single_floats.view(np.uint32)
        self.words = np.empty(size, dtype=np.uint32)
        self.halves = np.empty(size, dtype=np.uint16)
        self.marks = bytearray(size)
        self.mask = np.frombuffer(self.marks, dtype=np.bool_)
        self.exact = np.empty(size, dtype=np.bool_)
        self.extra = 0.0  # bound of the magnitudes of the tile's terms beyond factors

    @cached_property
    def term(self) -> torch.Tensor:
        """One more buffer of float64, for sums of several planes."""
        return torch.empty_like(self.wide)

    @cached_property
    def other(self) -> torch.Tensor:
        """One more, for terms that need two."""
        return torch.empty_like(self.wide)

    @classmethod
    def of(cls, size: int) -> _Scratch:
        """Returns this thread's buffers of this size; the last two sizes are kept."""
        held: dict[int, _Scratch] | None = getattr(_scratch, "held", None)
        if held is None:
            held = _scratch.held = {}
        if size not in held:
            while len(held) > 1:
                held.pop(next(iter(held)))
            held[size] = cls(size)
        return held[size]

    def marked(self, limit: int) -> Index | None:
        """Returns where the mask is set; None for more than ``limit`` places.

        Numbers of marks are small: bytes are searched five times faster than
        NumPy counts and lists them.
        """
        places: list[int] = []
        at = self.marks.find(1)
        while at >= 0:
            places.append(at)
            if len(places) > limit:
                return None
            at = self.marks.find(1, at + 1)
        return np.array(places, dtype=np.int64)


def torch_view(bits: Bits, dtype: DType) -> torch.Tensor:
    """Returns bit patterns as a torch tensor of their values, over the same bytes."""
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
        inside = form.tame and extras.is_certifiable(form)
        self._sources = extras.sources(form, torch_view) if inside else []
        self._terms = extras.terms(form, torch_view) if inside else []
        self._left, self._right = _concatenated(form, inside)
        self._rank = int(self._left.shape[1])
        terms = self._rank + 2 * len(form.planes) + 3 * len(form.extras) + 8
        terms += sum(term.depth for term in self._terms)
        self.certifies = inside and terms <= MAX_TERMS
        self._gamma = 1.01 * terms * UNIT
        self._row_norms = norms(self._left.numpy(), 1)
        self._column_norms = norms(self._right.numpy(), 0)
        self._column_norm = float(self._column_norms.max(initial=0.0))
        self._infinity = infinity_bits(self.dtype)
        self._fold = self.dtype.bits.type(2 * (magnitude_mask(self.dtype) + 1 - self._infinity))
        # Beyond bound * margin the error is less than half a float32 step, or than the window.
        self._margin = 2.0**27 if self.dtype.size == 2 else 2.0**38
        self._least = 0.0 if self.dtype.size == 2 else F32_SMALL
        # One weighted tensor: |W0| can be left out of the bound, see the ADRs on rounding.
        self._plain = len(self._sources) == 1 and (
            self._sources[0].vector is not None or self._sources[0].weight == 1
        )
        if self._plain:
            widened = self._gamma * self._sources[0].ratio
            self._plain = widened < MAX_GAMMA
            self._gamma = widened if self._plain else self._gamma

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
        target = torch_view(out, self.dtype)
        undecided: list[Index] = []
        with np.errstate(all="ignore"):
            for row in range(start, stop, step):
                end = min(row + step, stop)
                low, high = (row - start) * columns, (end - start) * columns
                found = self._tile(row, end, out[low:high], target[low:high])
                if found.size:
                    undecided.append(found + low)
        if not undecided:
            return 0
        every = np.concatenate(undecided)
        out[every] = self.form.settle(every + start * columns)
        return int(every.size)

    def _tile(self, start: int, stop: int, out: Bits, target: torch.Tensor) -> Index:
        """Computes one tile; returns the elements that it could not decide."""
        columns = self.form.columns
        scratch = _Scratch.of(out.size)
        bound = self._fill(start, stop, scratch)
        if self.dtype.size == 4:
            target.copy_(scratch.wide)
            self._mark_near(scratch)
        else:
            scratch.single.copy_(scratch.wide)
            target.copy_(scratch.single)
            self._mark_halfway(scratch)
        few = max(16, out.size // EXACT_SHARE)
        found = scratch.marked(few)
        if found is None:
            found = self._crowd(start, stop, out, scratch)
        if self.dtype.name == "F16" and found.size:
            found = self._halfway(found, scratch)
        special = self._special(out, bound, scratch)
        if special.size:
            found = np.concatenate([found, special])
        if self.dtype.size == 4 and found.size and self._plain:
            found = self._near(start, found, scratch)
        for index in self._sparse:
            low, high = np.searchsorted(index, (start * columns, stop * columns))
            found = np.concatenate([found, index[low:high] - start * columns])
        return found

    def _crowd(self, start: int, stop: int, out: Bits, scratch: _Scratch) -> Index:
        """Returns those of many marked elements whose sums may not be exact.

        Exact sums are right as they are, but for those that float32 changed
        on the way to 16 bits, which are rounded again here.
        """
        if self._exact.find(start, stop, scratch.exact):
            if self.dtype.size == 2:
                self._round_once(np.flatnonzero(scratch.mask & scratch.exact), out, scratch)
            np.greater(scratch.mask, scratch.exact, out=scratch.mask)  # marked and not exact
        return np.flatnonzero(scratch.mask)

    def _round_once(self, found: Index, out: Bits, scratch: _Scratch) -> None:
        """Rounds exact sums to 16 bits where float32 changed them."""
        sums = scratch.wide_floats[found]
        changed = scratch.single_floats[found] != sums
        if changed.any():
            sums = sums[changed]
            out[found[changed]] = round_sticky(sums, np.zeros(sums.size), self.dtype)

    def _fill(self, start: int, stop: int, scratch: _Scratch) -> float:
        """Computes the sum in float64 and bounds its error.

        Returns:
            B, such that the error is at most gamma · |x| + B.
        """
        columns = self.form.columns
        low, high = start * columns, stop * columns
        wide = scratch.wide
        sizes = 0.0
        for number, source in enumerate(self._sources):
            if number == 0:
                source.write(wide, start, stop)
            else:
                source.add(wide, scratch.term, start, stop)
            if not self._plain:
                sizes += source.size * extras.largest(source.values, low, high)
        matrix = wide.view(stop - start, columns)
        beyond = 0.0
        if self._rank:
            left = self._left[start:stop]
            if self._sources:
                matrix.addmm_(left, self._right)
            else:
                torch.mm(left, self._right, out=matrix)
            beyond = float(self._row_norms[start:stop].max()) * self._column_norm
        elif not self._sources:
            wide.zero_()
        scratch.extra = 0.0
        if self._terms:
            rooms = [scratch.term.view_as(matrix), scratch.other.view_as(matrix)]
            scratch.extra = sum(term.add(matrix, rooms, start, stop) for term in self._terms)
            beyond += scratch.extra
        # |W0| <= |x| + error + product: doubled, the product stands for both.
        sizes += (2.0 if self._plain else 1.0) * beyond
        return 1.01 * self._gamma * sizes + FLOOR

    def _mark_halfway(self, scratch: _Scratch) -> None:
        """Marks float32 values that may be halfway between two numbers of a 16-bit target."""
        halves = scratch.halves
        np.copyto(halves, scratch.single_bits, casting="unsafe")
        if self.dtype.name == "BF16":
            np.equal(halves, np.uint16(0x8000), out=scratch.mask)
            return
        # Halfway for F16 means 13 spare bits 1000…, or, below 2**-14, more zeros than these.
        np.left_shift(halves, np.uint16(4), out=halves)
        np.equal(halves, np.uint16(0), out=scratch.mask)

    def _halfway(self, found: Index, scratch: _Scratch) -> Index:
        """Keeps those of the elements marked for F16 that are halfway indeed."""
        values = np.abs(scratch.single_floats[found].astype(np.float64))
        values = np.where(np.isfinite(values), values, 0.0)
        exponent = np.maximum(np.frexp(values)[1] - 1, smallest_exponent(self.dtype))
        half_steps = np.ldexp(values, self.dtype.mantissa + 1 - exponent)
        halfway: Index = found[np.fmod(half_steps, 2.0) == 1.0]
        return halfway

    def _mark_near(self, scratch: _Scratch) -> None:
        """Marks float64 values within the window about halfway between two float32."""
        words, half, window = scratch.words, 1 << (F32_SPARE_BITS - 1), F32_WINDOW
        drop = 32 - F32_SPARE_BITS
        np.copyto(words, scratch.wide_bits, casting="unsafe")
        np.add(words, np.uint32((window - half) % (1 << 32)), out=words)
        np.left_shift(words, np.uint32(drop), out=words)
        np.less(words, np.uint32(2 * window << drop), out=scratch.mask)

    def _near(self, start: int, found: Index, scratch: _Scratch) -> Index:
        """Keeps those float64 values that are within their own error of a float32 boundary."""
        # The tile's bound is that of its largest row and column; most are closer to the truth.
        values = np.abs(scratch.wide_floats[found])
        half = 1 << (F32_SPARE_BITS - 1)
        low = (scratch.wide_bits[found] & np.uint64(2 * half - 1)).astype(np.int64)
        rows, columns = np.divmod(found, self.form.columns)
        beyond = self._row_norms[start + rows] * self._column_norms[columns] + scratch.extra
        sizes = values + 2 * beyond
        error = (1.02 * self._gamma * sizes + FLOOR) / np.spacing(values)
        # In steps of float64: the boundary between these two float32, and that of the next binade.
        sure = (error < np.abs(low - half)) & (error < half >> 2)
        sure &= (values > F32_SMALL) & (values < F32_LARGE)
        near: Index = found[~sure]
        return near

    def _special(self, out: Bits, bound: float, scratch: _Scratch) -> Index:
        """Finds results that are zero, tiny against the error, or not finite."""
        tiny = _power_of_two_bits(max(bound * self._margin, self._least), self.dtype)
        if tiny >= self._infinity:
            return np.arange(out.size)
        scaled = scratch.halves if self.dtype.size == 2 else scratch.words
        threshold = int(self._fold) + 2 * tiny
        np.add(out, out, out=scaled)  # drops the sign
        np.add(scaled, self._fold, out=scaled)  # what is not finite overflows to the least
        if int(scaled.min()) > threshold:
            return _NONE
        np.less_equal(scaled, scaled.dtype.type(threshold), out=scratch.mask)
        return np.flatnonzero(scratch.mask)


def _concatenated(form: LinearForm, inside: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns all factors side by side, coefficients and gains folded in; none if out of range."""
    gained = extras.gained_factors(form) if inside else ([], [])
    lefts = [f.left * float(f.coefficient) for f in form.factors] if inside else []
    rights = [f.right for f in form.factors] if inside else []
    lefts = [np.zeros((form.rows, 0)), *lefts, *gained[0]]
    rights = [np.zeros((0, form.columns)), *rights, *gained[1]]
    return (
        torch.from_numpy(np.concatenate(lefts, axis=1)),
        torch.from_numpy(np.concatenate(rights, axis=0)),
    )


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
