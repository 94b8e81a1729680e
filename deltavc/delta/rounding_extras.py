"""How tiles add what is more than a plane or two factors: gains, blocks, products of products.

Each gives its part of a tile in float64, in any order of summation, and an upper
bound of the sum of magnitudes behind any element of it, from which the tile's
error is bounded; see ``docs/adr/0009-scaled-and-rotated-deltas.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deltavc.delta.exactsum import Vector
from deltavc.delta.rounding import infinity_bits, magnitude_mask
from deltavc.delta.rounding_exact import norms
from deltavc.delta.rounding_form import LinearForm, is_tame
from deltavc.delta.rounding_terms import Blocks, Experts, Gained, Hadamard, Kronecker, Scaled
from deltavc.delta.tensor import Bits, DType, Tensor

__all__ = ["Source", "TileTerm", "gained_factors", "is_certifiable", "largest", "sources", "terms"]

_View = Callable[[Bits, DType], torch.Tensor]


@dataclass(frozen=True)
class Source:
    """A tensor that covers all elements, as a tile adds it: widened and weighted.

    Attributes:
        values: The tensor.
        view: Its values for torch.
        weight: What all of it is multiplied by, where there is no vector.
        vector: (rows, 1) or (1, columns) weights.
        size: Upper bound of the magnitudes that make up any weight.
        ratio: Upper bound of their sum over the weight's own magnitude; infinite
            where weights cancel.
    """

    values: Tensor
    view: torch.Tensor
    weight: float
    vector: torch.Tensor | None = None
    size: float = 0.0
    ratio: float = 1.0

    def write(self, out: torch.Tensor, start: int, stop: int) -> None:
        """Writes the weighted values of some rows, flat."""
        self._widen(out, start, stop)
        if self.vector is None and self.weight != 1.0:
            out.mul_(self.weight)

    def add(self, total: torch.Tensor, room: torch.Tensor, start: int, stop: int) -> None:
        """Adds the weighted values of some rows, flat; ``room`` is a buffer like ``total``."""
        self._widen(room, start, stop)
        total.add_(room, alpha=self.weight)

    def _widen(self, out: torch.Tensor, start: int, stop: int) -> None:
        columns = out.numel() // (stop - start)
        out.copy_(self.view[start * columns : stop * columns])
        if self.vector is not None:
            part = self.vector if self.vector.shape[0] == 1 else self.vector[start:stop]
            out.view(stop - start, columns).mul_(part)


def sources(form: LinearForm, view: _View) -> list[Source]:
    """Returns the tensors of a sum that cover all elements, each with all its weights.

    Gains of a tensor that is there as it is, too, are added up to one weight for
    each row, or each column, so that a rebuilt DoRA reads its base once.
    """
    weights: dict[int, float] = {}
    tensors: dict[int, Tensor] = {}
    vectors: dict[tuple[int, int], list[Vector]] = {}
    for plane in form.planes:
        if plane.index is None:
            key = id(plane.values)
            tensors[key] = plane.values
            weights[key] = weights.get(key, 0.0) + float(plane.coefficient)
    for term in form.extras:
        if isinstance(term, Scaled):
            tensors[id(term.values)] = term.values
            gain = float(term.coefficient) * term.gain
            vectors.setdefault((id(term.values), term.axis), []).append(gain)
    found = []
    for key, values in tensors.items():
        seen = view(values.bits, values.dtype)
        scalar = weights.get(key)
        for axis in (0, 1):
            gains = vectors.get((key, axis))
            if gains:
                found.append(_weighted(values, seen, scalar or 0.0, gains, axis))
                scalar = None
        if scalar is not None:
            found.append(Source(values, seen, scalar, None, abs(scalar)))
    return found


def _weighted(
    values: Tensor, seen: torch.Tensor, scalar: float, gains: Sequence[Vector], axis: int
) -> Source:
    with np.errstate(all="ignore"):
        total, size = np.full_like(gains[0], scalar), np.full_like(gains[0], abs(scalar))
        for gain in gains:
            total, size = total + gain, size + 1.01 * np.abs(gain)
        ratios = np.where(size == 0, 1.0, size / np.abs(total))
    vector = torch.from_numpy(total[:, None] if axis == 0 else total[None])
    ratio = 1.01 * float(ratios.max(initial=1.0))
    return Source(values, seen, 1.0, vector, float(size.max(initial=0.0)), ratio)


def gained_factors(form: LinearForm) -> tuple[list[Vector], list[Vector]]:
    """Returns low-rank factors with gains and coefficients folded in."""
    lefts, rights = [], []
    for term in form.extras:
        if isinstance(term, Gained):
            left, right = float(term.coefficient) * term.left, term.right
            lefts.append(left if term.axis else left * term.gain[:, None])
            rights.append(right * term.gain if term.axis else right)
    return lefts, rights


def is_certifiable(form: LinearForm) -> bool:
    """Tells whether all operands of a sum's extra terms are in the range of the bounds."""
    operands: list[Vector] = []
    for term in form.extras:
        if isinstance(term, Scaled):
            operands.append(term.gain)
        elif isinstance(term, Gained):
            operands += [term.left, term.right, term.gain]
        elif isinstance(term, Blocks):
            operands += [term.blocks] if term.gain is None else [term.blocks, term.gain]
        elif isinstance(term, Experts):
            operands += [term.lefts, term.rights]
        elif isinstance(term, Hadamard):
            operands += [*term.first, *term.second]
        elif isinstance(term, Kronecker):
            pairs = (*term.factors.first, *term.factors.second)
            operands += [part for part in pairs if part is not None]
    return all(is_tame(operand) for operand in operands)


class TileTerm:
    """One term's part in tiles.

    Attributes:
        depth: Roundings that a product of it may pass through.
    """

    depth: int

    def add(
        self, wide: torch.Tensor, rooms: Sequence[torch.Tensor], start: int, stop: int
    ) -> float:
        """Adds some rows of the term, coefficient included, to a tile.

        Args:
            wide: (rows, columns) of the tile.
            rooms: Two buffers of the tile's shape.
            start: First row.
            stop: Row after the last.

        Returns:
            An upper bound of the sum of magnitudes behind any of the elements.
        """
        raise NotImplementedError


def terms(form: LinearForm, view: _View) -> list[TileTerm]:
    """Returns the terms of a sum that are neither weighted tensors nor factors."""
    found: list[TileTerm] = []
    for term in form.extras:
        if isinstance(term, Blocks):
            found.append(_BlockTiles(term, view))
        elif isinstance(term, Experts):
            found.append(_ExpertTiles(term))
        elif isinstance(term, Hadamard):
            found.append(_HadamardTiles(term))
        elif isinstance(term, Kronecker):
            found.append(_KroneckerTiles(term))
    return found


class _BlockTiles(TileTerm):
    def __init__(self, term: Blocks, view: _View) -> None:
        self._values, self._view = term.values, view(term.values.bits, term.values.dtype)
        # A batch that is not contiguous is copied anew for each tile.
        scaled = np.ascontiguousarray(float(term.coefficient) * term.blocks)
        self._blocks = torch.from_numpy(scaled)
        self._reach = 1.01 * float(np.abs(scaled).sum(axis=1).max(initial=0.0))
        self._gain = None if term.gain is None else torch.from_numpy(term.gain)
        self.depth = term.size + 6

    def add(
        self, wide: torch.Tensor, rooms: Sequence[torch.Tensor], start: int, stop: int
    ) -> float:
        count, size, _ = self._blocks.shape
        columns = wide.shape[1]
        low, high = start * columns, stop * columns
        rooms[0].view(-1).copy_(self._view[low:high])
        shaped = rooms[0].view(stop - start, count, size).permute(1, 0, 2)
        product = rooms[1].view(count, stop - start, size)
        torch.bmm(shaped, self._blocks, out=product)
        bound = self._reach * largest(self._values, low, high)
        if self._gain is not None:
            gain = self._gain[start:stop]
            product.mul_(gain[None, :, None])
            bound *= float(gain.abs().max())
        wide.view(stop - start, count, size).add_(product.permute(1, 0, 2))
        return bound


class _ExpertTiles(TileTerm):
    def __init__(self, term: Experts) -> None:
        weighted = float(term.coefficient) * term.lefts
        self._lefts, self._rights = torch.from_numpy(weighted), torch.from_numpy(term.rights)
        tops = (
            np.linalg.norm(part, axis=axis).max(initial=0.0)
            for part, axis in ((weighted, 2), (term.rights, 1))
        )
        self._reach = 1.01 * math.prod(float(top) for top in tops)
        self._by_row = term.by_row
        self.depth = term.width + 6

    def add(
        self,
        wide: torch.Tensor,
        rooms: Sequence[torch.Tensor],  # noqa: ARG002 -- needs none
        start: int,
        stop: int,
    ) -> float:
        height, width = self._lefts.shape[1], self._rights.shape[2]
        if not self._by_row:
            stack = wide.view(stop - start, height, width)
            stack.baddbmm_(self._lefts[start:stop], self._rights[start:stop])
            return self._reach
        row = start
        while row < stop:
            at, inside = divmod(row, height)
            end = min(stop, (at + 1) * height)
            left = self._lefts[at, inside : inside + end - row]
            wide[row - start : end - start].addmm_(left, self._rights[at])
            row = end
        return self._reach


class _HadamardTiles(TileTerm):
    def __init__(self, term: Hadamard) -> None:
        self._weight = float(term.coefficient)
        self._pairs = [
            (torch.from_numpy(np.ascontiguousarray(left)), torch.from_numpy(right))
            for left, right in (term.first, term.second)
        ]
        self._rows = [norms(left, 1) for left, _ in (term.first, term.second)]
        tops = [float(norms(right, 0).max(initial=0.0)) for _, right in (term.first, term.second)]
        self._reach = abs(self._weight) * tops[0] * tops[1]
        self.depth = term.first[0].shape[1] + term.second[0].shape[1] + 6

    def add(
        self, wide: torch.Tensor, rooms: Sequence[torch.Tensor], start: int, stop: int
    ) -> float:
        for (left, right), room in zip(self._pairs, rooms, strict=True):
            torch.mm(left[start:stop], right, out=room)
        wide.addcmul_(rooms[0], rooms[1], value=self._weight)
        tops = [float(rows[start:stop].max()) for rows in self._rows]
        return self._reach * tops[0] * tops[1]


class _KroneckerTiles(TileTerm):
    def __init__(self, term: Kronecker) -> None:
        self.depth = 6
        self._operands = []
        self._reach = 1.01 * abs(float(term.coefficient))
        for number, (left, right) in enumerate((term.factors.first, term.factors.second)):
            full = left if right is None else left @ right
            sizes = np.abs(left) if right is None else np.abs(left) @ np.abs(right)
            self._reach *= 1.01 * float(sizes.max(initial=0.0))
            self.depth += 0 if right is None else left.shape[1]
            weighted = full * float(term.coefficient) if number == 0 else full
            self._operands.append(torch.from_numpy(np.ascontiguousarray(weighted)))

    def add(
        self,
        wide: torch.Tensor,
        rooms: Sequence[torch.Tensor],  # noqa: ARG002 -- needs none
        start: int,
        stop: int,
    ) -> float:
        outer, inner = self._operands
        height = inner.shape[0]
        row = start
        while row < stop:
            index, inside = divmod(row, height)
            end = min(stop, (index + 1) * height)
            part = wide[row - start : end - start].view(end - row, outer.shape[1], inner.shape[1])
            part.addcmul_(outer[index][None, :, None], inner[inside : inside + end - row, None])
            row = end
        return self._reach


def largest(values: Tensor, low: int, high: int) -> float:
    """Returns the largest magnitude in part of a tensor; infinity or NaN count as infinity."""
    dtype = values.dtype
    mask = dtype.bits.type(magnitude_mask(dtype))
    top = (values.bits[low:high] & mask).max(initial=0)
    if int(top) >= infinity_bits(dtype):
        return math.inf
    return float(Tensor(dtype, (1,), np.array([top], dtype=dtype.bits)).to_float64()[0])
