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
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.ordinals import half_spacing, widen
from deltavc.delta.tensor import Bits, DType, Tensor

__all__ = ["Factors", "Pair", "find_factors", "leading_factors", "probe", "refine"]

SEED = 20240229
MIN_SIDE = 64  # below, factors cost as much as they save
PROBE_SIDE = 192
PROBE_SKETCH = 26
WIDE_SIDE = 192  # QR tells ranks up to three quarters of that from full rank
MAX_SKETCH = 288
OVERSAMPLE = 16
MAX_MISFIT = (
    0.65  # of the changed elements merged LoRAs miss 0.26 to 0.59, full fine-tunes 0.70 and up
)
MAX_ENERGY = {2: 3.3, 4: 100.0}  # times that of the noise, by bytes an element
PRODUCT_ERROR = 2.0**-22
EDGE = 1.15  # singular values of pure noise end near 1.0 of the bound
_BLOCK = 1 << 14  # elements; a few float64 arrays of them stay in cache
_OTHERS = 24  # columns
_MARGIN = 0.9  # aim at the inner nine tenths of each rounding cell

Matrix = NDArray[Any]  # float32 or float64, as the pair says


@dataclass(frozen=True, eq=False)
class Pair:
    """A base matrix and the changed one, as bit patterns of one dtype.

    Attributes:
        dtype: Their dtype.
        base: Flat bit patterns of the base.
        new: Flat bit patterns of the changed matrix.
        rows: Number of rows.
        columns: Number of columns.
        kind: Float type to compute in: float32 does for 16-bit floats, at twice
            the speed, since their rounding noise is far above its error.
    """

    dtype: DType
    base: Bits
    new: Bits
    rows: int
    columns: int
    kind: type = np.float64

    @classmethod
    def of(cls, base: Tensor, new: Tensor, *, quick: bool = False) -> Pair:
        """Returns the pair of two tensors of equal shape, seen as matrices.

        Args:
            base: The base tensor.
            new: The changed tensor.
            quick: Compute in float32 where the dtype has 16 bits.
        """
        rows, columns = base.matrix_shape
        kind = np.float32 if quick and base.dtype.size == 2 else np.float64
        return cls(base.dtype, base.bits, new.bits, rows, columns, kind)

    def change(self, first: int, end: int) -> Matrix:
        """Returns the change of a run of rows."""
        cut = slice(first * self.columns, end * self.columns)
        change = widen(self.new[cut], self.dtype, self.kind)
        change -= widen(self.base[cut], self.dtype, self.kind)
        return change.reshape(-1, self.columns)

    def cells(self, first: int, end: int) -> Matrix:
        """Returns half the width of each element's rounding cell in a run of rows."""
        cut = slice(first * self.columns, end * self.columns)
        return half_spacing(self.new[cut], self.dtype, self.kind).reshape(-1, self.columns)

    def noise(self, first: int, end: int, change: Matrix) -> Matrix:
        """Returns half the width of what a merge may be off by: its cells and its product's error.

        A product summed up in float32 is off by about a spacing of its own size;
        that tells where a large change meets a small result.
        """
        noise = self.cells(first, end)
        if self.dtype.size == 2:
            return noise  # whose spacing is far above that error
        noise += np.abs(change) * change.dtype.type(PRODUCT_ERROR)
        return noise

    def bands(self) -> Iterator[tuple[int, int]]:
        """Yields runs of rows that stay in cache."""
        step = max(1, _BLOCK // max(1, self.columns))
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)

    def only_rows(self, rows: NDArray[np.int64]) -> Pair:
        """Returns the pair of some rows."""
        base = self.base.reshape(self.rows, self.columns)[rows]
        new = self.new.reshape(self.rows, self.columns)[rows]
        return Pair(
            self.dtype, base.reshape(-1), new.reshape(-1), rows.size, self.columns, self.kind
        )

    def sample(self, side: int, seed: int, across: int | None = None) -> Pair:
        """Returns the pair of a random submatrix.

        Args:
            side: Number of rows, and of columns unless ``across`` is given; at most.
            seed: Chooses them.
            across: Number of columns.
        """
        where = _submatrix(self.rows, self.columns, side, across or side, seed)
        base, new = self.base.take(where), self.new.take(where)
        rows, columns = min(side, self.rows), min(across or side, self.columns)
        return Pair(self.dtype, base, new, rows, columns, self.kind)


@lru_cache(maxsize=16)  # a model has few shapes, many times over
def _submatrix(rows: int, columns: int, side: int, across: int, seed: int) -> NDArray[np.int64]:
    """Returns the flat places of the elements where random rows and columns cross."""
    choose = np.random.default_rng(seed)
    down = np.sort(choose.permutation(rows)[:side])
    along = np.sort(choose.permutation(columns)[:across])
    return (down[:, None] * columns + along[None, :]).reshape(-1)


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
        0.3 ms where the change is plainly of full rank, else 1 to 4 ms; whatever the size.
    """
    if min(pair.rows, pair.columns) < MIN_SIDE:
        return 0
    coarse = pair.dtype.size == 2
    # beyond this rank factors cost as much as the change itself
    useful = int((0.33 if coarse else 0.4) * pair.base.size / (pair.rows + pair.columns))
    if _leaves_much(pair, useful):
        return 0
    side = min(WIDE_SIDE, 2 * useful)
    part = _Part.of(pair.sample(PROBE_SIDE if coarse else side, SEED))
    if np.count_nonzero(part.change.any(axis=1)) < 0.9 * part.change.shape[0]:
        return 0  # rows left alone, as in embeddings: sparse, not low-rank
    found, span = PROBE_SKETCH, 0
    if coarse:
        left, values = part.singular(PROBE_SKETCH)
        found = _outstanding(values, _edge(part.noise))
        span = found
    if found >= PROBE_SKETCH - 8:
        if coarse:
            part = part.corner(side)
        found = part.triangular_rank()
        if 0 < found <= useful:
            span = found + OVERSAMPLE
            left = part.range(span)
    if not 0 < found <= useful:
        return 0
    # the more of the submatrix its columns can follow, the less of it may be missed
    allowed = MAX_MISFIT * (1 - span / min(part.change.shape))
    return found if part.misfit(left[:, :span]) < allowed else 0


def _leaves_much(pair: Pair, useful: int) -> bool:
    """Tells whether columns leave more of others than rounding could, at any rank worth storing.

    By regression of some columns on more random columns than that rank, r: for a change of low rank
    what is left is known noise, here up to three times its energy, 1 + r / (taken - r), since the
    columns have noise too. Full fine-tunes leave 3.7 times as much in bfloat16 and
    a million times in float32, merged adapters of rank 8 leave 0.7 to 1.2.
    """
    rank = min(useful * 3 // 4, 3 * WIDE_SIDE // 4)  # little is gained just below useful ranks
    taken = rank + max(OVERSAMPLE, rank // 2)
    rows = taken + taken // 4
    if rows > pair.rows or taken + _OTHERS > pair.columns:
        return False
    part = _Part.of(pair.sample(rows, SEED, taken + _OTHERS))
    mixed = np.random.default_rng(SEED).permutation(taken + _OTHERS)
    change = part.change[:, mixed].astype(np.float64, copy=False)
    known, others = change[:, :taken], change[:, taken:]
    gram = known.T @ known
    scale = float(np.trace(gram))
    if not scale:
        return False
    gram[np.diag_indices_from(gram)] += 1e-14 * scale
    left = others - known @ np.linalg.solve(gram, known.T @ others)
    expected = np.square(part.noise[:, mixed[taken:]]).sum() / 3 * (1 - taken / rows)
    return bool(np.square(left).sum() > MAX_ENERGY[pair.dtype.size] * expected)


@dataclass(frozen=True, eq=False)
class _Part:
    """A submatrix of a change, small enough to be looked at closely."""

    change: Matrix
    noise: Matrix

    @classmethod
    def of(cls, pair: Pair) -> _Part:
        change = pair.change(0, pair.rows)
        return cls(change, pair.noise(0, pair.rows, change))

    def triangular_rank(self) -> int:
        """Returns the rank by QR, 0 if it looks full.

        Without pivots the k-th diagonal entry of R is the distance of column k from
        those before it: after as many random columns as the rank only noise is left.
        """
        diagonal = np.abs(np.diag(np.linalg.qr(self.change, mode="r")))
        found = _outstanding(diagonal, _edge(self.noise))
        return found if found <= 0.75 * min(self.change.shape) else 0

    def corner(self, side: int) -> _Part:
        """Returns a square of it, as random as itself."""
        return _Part(self.change[:side, :side].copy(), self.noise[:side, :side])

    def misfit(self, left: Matrix) -> float:
        """Returns the share of changed elements that a projection on orthonormal columns misses."""
        miss = self.change - left @ (left.T @ self.change)
        missed = int(np.count_nonzero(np.abs(miss, out=miss) > self.noise))
        return missed / max(1, int(np.count_nonzero(self.change)))

    def range(self, size: int) -> Matrix:
        """Returns orthonormal columns that span the leading left singular vectors, roughly."""
        mixing = _mixing(self.change.shape[1], size, self.change.dtype)
        return np.linalg.qr(self.change @ mixing)[0]

    def singular(self, size: int) -> tuple[Matrix, NDArray[np.float64]]:
        """Returns the leading left singular vectors and the values, roughly."""
        kind = self.change.dtype
        basis = self.range(size)
        core = basis.T @ self.change
        if kind == np.float32:  # three times faster, and the noise is far above its error
            core = core.astype(np.float64)
            squares, turn = np.linalg.eigh(core @ core.T)
            values = np.sqrt(np.maximum(squares[::-1], 0.0))
            turn = np.ascontiguousarray(turn[:, ::-1]).astype(kind)
        else:
            turn, values, _ = np.linalg.svd(core, full_matrices=False)
        return basis @ turn, values


def find_factors(pair: Pair, expected: int) -> Factors | None:
    """Returns the factors of a change of low rank.

    Args:
        pair: The matrices.
        expected: Rank that :func:`probe` saw.

    Returns:
        The factors, or None if the rank does not end before the sketch does.

    Numerics:
        Randomised range finder without power steps. For float32 it is all in float64:
        less would add more error than the rounding noise leaves.
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
    left: Matrix = factors.left.astype(pair.kind)
    right: Matrix = factors.right.astype(pair.kind)
    for step in steps:
        # orthonormal rows make the projection on the left factor a plain product
        basis, mix = np.linalg.qr(right.T)
        right = np.ascontiguousarray(basis.T)
        left = left @ mix.T
        pull = np.zeros_like(right)
        for first, end in pair.bands():
            change, cells = pair.change(first, end), pair.cells(first, end)
            cells *= pair.kind(_MARGIN)
            band = left[first:end]
            band += step * (_outside(change, cells, band @ right) @ right.T)
            pull += band.T @ _outside(change, cells, band @ right)
        gram = left.T @ left
        gram[np.diag_indices_from(gram)] *= 1 + 4 * np.finfo(pair.kind).eps
        right = right + step * np.linalg.solve(gram, pull)
    return _balance(left, right)


def _outside(change: Matrix, cells: Matrix, product: Matrix) -> Matrix:
    """Returns by how much the product misses each element's cell."""
    np.subtract(change, product, out=product)
    product -= np.clip(product, -cells, cells)
    return product


def _sketch(pair: Pair, size: int) -> tuple[NDArray[np.float64], Matrix]:
    """Returns the leading singular values and right vectors of a change, in two passes over it."""
    mixing = _mixing(pair.columns, size, pair.kind)
    image: Matrix = np.empty((pair.rows, size), dtype=pair.kind)
    for first, end in pair.bands():
        np.matmul(pair.change(first, end), mixing, out=image[first:end])
    basis, _ = np.linalg.qr(image)
    core: Matrix = np.zeros((basis.shape[1], pair.columns), dtype=pair.kind)
    for first, end in pair.bands():
        core += basis[first:end].T @ pair.change(first, end)
    _, values, right = np.linalg.svd(core, full_matrices=False)
    return values, right


def _mixing(columns: int, size: int, kind: Any) -> Matrix:
    """Returns a fixed random matrix to sketch with."""
    return np.random.default_rng(SEED).standard_normal((columns, size)).astype(kind, copy=False)


def _fitted(pair: Pair, right: Matrix) -> Factors:
    """Returns the best factors whose right one spans the given orthonormal rows.

    The sketch's own left factor carries the noise of the sketch: with it, three
    times as many elements come out wrong.
    """
    left: Matrix = np.empty((pair.rows, right.shape[0]), dtype=pair.kind)
    for first, end in pair.bands():
        np.matmul(pair.change(first, end), right.T, out=left[first:end])
    return _balance(left, right)


def _balance(left: Matrix, right: Matrix) -> Factors:
    """Returns factors of the same product whose columns and rows have equal norms.

    Fixed point then wastes no bits on one side. Signs are set so that the
    largest entry of each row of the right factor is positive.
    """
    left, right = left.astype(np.float64, copy=False), right.astype(np.float64, copy=False)
    norms = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    safe = [np.where(n > 0, n, 1.0) for n in norms]
    share = np.sqrt(safe[1] / safe[0])
    peak = right[np.arange(right.shape[0]), np.abs(right).argmax(axis=1)]
    share = np.where(peak < 0, -share, share)
    return Factors(left * share, right / share[:, None])


def _outstanding(values: NDArray[np.float64], edge: float) -> int:
    return int(np.count_nonzero(values > EDGE * edge))


def _edge(noise: Matrix) -> float:
    """Returns a bound on the singular values of noise of these half widths."""
    variance = np.square(noise) / 3
    return float(np.sqrt(variance.sum(axis=1).max()) + np.sqrt(variance.sum(axis=0).max()))


def _band_edge(pair: Pair) -> float:
    """Does as :func:`_edge`, band by band."""
    across, down = 0.0, np.zeros(pair.columns)
    for first, end in pair.bands():
        variance = np.square(pair.noise(first, end, pair.change(first, end))) / 3
        across = max(across, float(variance.sum(axis=1).max()))
        down += variance.sum(axis=0)
    return float(np.sqrt(across) + np.sqrt(down.max(initial=0.0)))
