"""Finds low rank in the change of a matrix, and the factors behind it.

A merged LoRA leaves ``new = round(base + B A)``: a matrix of small rank under
the rounding noise of every element. The noise is known (a third of half the
spacing of floats at each element, squared, on average), so what stands out of
it can be counted. The factors found by a sketch are then pulled into every
element's rounding cell by alternating projections, because the true factors
lie in all of them.

The results are floats and may differ in their last bits between machines; only
the encoder depends on them, since they are quantised and stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.ordinals import half_spacing, widen
from deltavc.delta.tensor import Bits, DType, Tensor

__all__ = ["Factors", "Pair", "find_factors", "leading_factors", "probe", "refine"]

SEED = 20240229
MIN_SIDE = 64  # below, factors cost as much as they save
PROBE_SIDE = 256  # for 16-bit floats, whose noise is high; half of it does for float32
PROBE_SKETCH = 32
WIDE_SIDE = 192  # the second probe tells ranks up to about 150 from full rank
MAX_SKETCH = 288
OVERSAMPLE = 16
MAX_MISFIT = (
    0.65  # of the changed elements merged LoRAs miss 0.26 to 0.59, full fine-tunes 0.70 and up
)
EDGE = 1.15  # singular values of pure noise end near 1.0 of the bound
_BLOCK = 1 << 14  # elements; a few float64 arrays of them stay in cache
_MARGIN = 0.9  # aim at the inner nine tenths of each rounding cell

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """A base matrix and the changed one, as bit patterns of one dtype.

    Attributes:
        dtype: Their dtype.
        base: Flat bit patterns of the base.
        new: Flat bit patterns of the changed matrix.
        rows: Number of rows.
        columns: Number of columns.
    """

    dtype: DType
    base: Bits
    new: Bits
    rows: int
    columns: int

    @classmethod
    def of(cls, base: Tensor, new: Tensor) -> Pair:
        """Returns the pair of two tensors of equal shape, seen as matrices."""
        rows, columns = base.matrix_shape
        return cls(base.dtype, base.bits, new.bits, rows, columns)

    def change(self, first: int, end: int) -> Matrix:
        """Returns the change of a run of rows as float64."""
        cut = slice(first * self.columns, end * self.columns)
        change = widen(self.new[cut], self.dtype)
        change -= widen(self.base[cut], self.dtype)
        return change.reshape(-1, self.columns)

    def cells(self, first: int, end: int) -> Matrix:
        """Returns half the width of each element's rounding cell in a run of rows."""
        cut = slice(first * self.columns, end * self.columns)
        return half_spacing(self.new[cut], self.dtype).reshape(-1, self.columns)

    def bands(self) -> Iterator[tuple[int, int]]:
        """Yields runs of rows that stay in cache."""
        step = max(1, _BLOCK // max(1, self.columns))
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)

    def sample(self, side: int, seed: int) -> Pair:
        """Returns the pair of a random submatrix of at most ``side`` rows and columns."""
        choose = np.random.default_rng(seed)
        rows = np.sort(choose.permutation(self.rows)[:side])
        columns = np.sort(choose.permutation(self.columns)[:side])
        where = (rows[:, None] * self.columns + columns[None, :]).reshape(-1)
        return Pair(self.dtype, self.base[where], self.new[where], rows.size, columns.size)


@dataclass(frozen=True, eq=False)
class Factors:
    """Float factors of a change: left (rows, rank) times right (rank, columns)."""

    left: Matrix
    right: Matrix

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return int(self.right.shape[0])


def probe(pair: Pair) -> int:
    """Returns about the rank that stands out of the noise of a random submatrix; 0 for none.

    Args:
        pair: The matrices.

    Returns:
        A rank to search from, or 0 when the change is zero, leaves rows
        alone, is nothing but rounding, or is of full rank.

    Cost:
        2 to 5 ms, whatever the size.
    """
    if min(pair.rows, pair.columns) < MIN_SIDE:
        return 0
    part = pair.sample(PROBE_SIDE if pair.dtype.size == 2 else PROBE_SIDE // 2, SEED)
    change, cells = part.change(0, part.rows), part.cells(0, part.rows)
    if np.count_nonzero(change.any(axis=1)) < 0.9 * part.rows:
        return 0  # rows left alone, as in embeddings: sparse, not low-rank
    left, values, right = _small_sketch(change, PROBE_SKETCH)
    found = _outstanding(values, _edge(cells))
    if found >= PROBE_SKETCH - 8:
        part, found = _probe_wide(pair)
        if found == 0:
            return 0
        change, cells = part.change(0, part.rows), part.cells(0, part.rows)
        left, values, right = _small_sketch(change, found + OVERSAMPLE)
    product = (left[:, :found] * values[:found]) @ right[:found]
    missed = np.count_nonzero(_outside(change, cells, product))
    return found if missed < MAX_MISFIT * np.count_nonzero(change) else 0


def _probe_wide(pair: Pair) -> tuple[Pair, int]:
    """Returns a random submatrix and its rank by QR, 0 if it looks full.

    Without pivots the k-th diagonal entry of R is the distance of column k from
    those before it: after as many random columns as the rank only noise is left.
    """
    part = pair.sample(WIDE_SIDE, SEED + 1)
    side = min(part.rows, part.columns)
    if side < WIDE_SIDE:
        return part, 0
    diagonal = np.abs(np.diag(np.linalg.qr(part.change(0, part.rows), mode="r")))
    found = _outstanding(diagonal, _edge(part.cells(0, part.rows)))
    return part, found if found <= 0.75 * side else 0


def find_factors(pair: Pair, expected: int) -> Factors | None:
    """Returns the factors of a change of low rank.

    Args:
        pair: The matrices.
        expected: Rank that :func:`probe` saw.

    Returns:
        The factors, or None if the rank does not end before the sketch does.

    Numerics:
        Randomised range finder without power steps, all in float64: float32
        would add more error than the rounding noise leaves.
    """
    limit = min(pair.rows, pair.columns)
    sketch = min(limit, 8 * -(-(expected + OVERSAMPLE) // 8))
    edge = _band_edge(pair)
    while True:
        values, right = _sketch(pair, sketch)
        rank = _outstanding(values, edge)
        if rank == 0 or rank * 3 > 2 * limit:
            return None
        if rank <= sketch - 8 or sketch == limit:
            return _fitted(pair, right[:rank])
        if sketch >= MAX_SKETCH:
            return None
        sketch = min(limit, 2 * sketch, MAX_SKETCH)


def leading_factors(pair: Pair, rank: int) -> Factors:
    """Returns nearly the best factors of a given rank, whatever the change's own rank is."""
    rank = min(rank, pair.rows, pair.columns)
    _, right = _sketch(pair, min(rank + OVERSAMPLE, pair.rows, pair.columns))
    return _fitted(pair, right[:rank])


def refine(pair: Pair, factors: Factors, steps: tuple[float, ...]) -> Factors:
    """Pulls factors towards the rounding cells of all elements.

    Alternating projections: what sticks out of the cells is projected back on
    both factors, over-relaxed, since the projection moves an element much less
    than it asks for.

    Args:
        pair: The matrices.
        factors: Where to start.
        steps: Relaxation of each pass; 4 to 6 at first, falling. Two passes leave
            a third of the wrong elements of the plain factors.

    Returns:
        New factors.

    Source:
        Projections onto convex sets; the rounding cells are a box.
    """
    left, right = factors.left.copy(), factors.right
    for step in steps:
        # orthonormal rows make the projection on the left factor a plain product
        basis, mix = np.linalg.qr(right.T)
        right = np.ascontiguousarray(basis.T)
        left = left @ mix.T
        pull = np.zeros_like(right)
        for first, end in pair.bands():
            change, cells = pair.change(first, end), pair.cells(first, end)
            cells *= _MARGIN
            band = left[first:end]
            band += step * (_outside(change, cells, band @ right) @ right.T)
            pull += band.T @ _outside(change, cells, band @ right)
        gram = left.T @ left
        gram[np.diag_indices_from(gram)] *= 1 + 1e-12
        right = right + step * np.linalg.solve(gram, pull)
    return _balance(left, right)


def _outside(change: Matrix, cells: Matrix, product: Matrix) -> Matrix:
    """Returns by how much the product misses each element's cell."""
    np.subtract(change, product, out=product)
    product -= np.clip(product, -cells, cells)
    return product


def _sketch(pair: Pair, size: int) -> tuple[NDArray[np.float64], Matrix]:
    """Returns the leading singular values and right vectors of a change, in two passes over it."""
    mixing = np.random.default_rng(SEED).standard_normal((pair.columns, size))
    image = np.empty((pair.rows, size))
    for first, end in pair.bands():
        np.matmul(pair.change(first, end), mixing, out=image[first:end])
    basis, _ = np.linalg.qr(image)
    core = np.zeros((basis.shape[1], pair.columns))
    for first, end in pair.bands():
        core += basis[first:end].T @ pair.change(first, end)
    _, values, right = np.linalg.svd(core, full_matrices=False)
    return values, right


def _fitted(pair: Pair, right: Matrix) -> Factors:
    """Returns the best factors whose right one spans the given orthonormal rows.

    The sketch's own left factor carries the noise of the sketch: with it, three
    times as many elements come out wrong.
    """
    left = np.empty((pair.rows, right.shape[0]))
    for first, end in pair.bands():
        np.matmul(pair.change(first, end), right.T, out=left[first:end])
    return _balance(left, right)


def _balance(left: Matrix, right: Matrix) -> Factors:
    """Returns factors of the same product whose columns and rows have equal norms.

    Fixed point then wastes no bits on one side. Signs are set so that the
    largest entry of each row of the right factor is positive.
    """
    norms = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    safe = [np.where(n > 0, n, 1.0) for n in norms]
    share = np.sqrt(safe[1] / safe[0])
    peak = right[np.arange(right.shape[0]), np.abs(right).argmax(axis=1)]
    share = np.where(peak < 0, -share, share)
    return Factors(left * share, right / share[:, None])


def _small_sketch(change: Matrix, size: int) -> tuple[Matrix, NDArray[np.float64], Matrix]:
    """Returns the leading singular vectors and values of a small matrix, roughly."""
    mixing = np.random.default_rng(SEED).standard_normal((change.shape[1], size))
    basis, _ = np.linalg.qr(change @ mixing)
    turn, values, right = np.linalg.svd(basis.T @ change, full_matrices=False)
    return basis @ turn, values, right


def _outstanding(values: NDArray[np.float64], edge: float) -> int:
    return int(np.count_nonzero(values > EDGE * edge))


def _edge(cells: Matrix) -> float:
    """Returns a bound on the singular values of the noise of rounding into these cells."""
    variance = np.square(cells) / 3
    return float(np.sqrt(variance.sum(axis=1).max()) + np.sqrt(variance.sum(axis=0).max()))


def _band_edge(pair: Pair) -> float:
    """Does as :func:`_edge`, band by band."""
    across, down = 0.0, np.zeros(pair.columns)
    for first, end in pair.bands():
        variance = np.square(pair.cells(first, end)) / 3
        across = max(across, float(variance.sum(axis=1).max()))
        down += variance.sum(axis=0)
    return float(np.sqrt(across) + np.sqrt(down.max(initial=0.0)))
