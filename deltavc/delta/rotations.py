"""Rotations of a parameter's rows: from an adapter's parameters to the matrix M of ``W0 * M``.

M is not stored: it is a function of the tensors that are, and its bits are part
of the format. So it is computed in float64 by single operations in one order
(IEEE additions, multiplications and divisions of whole arrays, never a BLAS or
LAPACK routine, whose order is nobody's promise), as the format's page tells.

Source:
    ``oft``: Qiu et al., 2306.07280; ``boft``: Liu et al., 2311.06243; ``hra``: Yuan et al.,
    2405.17484; products of reflections: Schreiber and Van Loan, 1989.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.body import Delta
from deltavc.delta.fits import oft_block
from deltavc.errors import NonFiniteTensor, UnsupportedFormat

__all__ = ["check_rotation", "gain", "matrix", "reflections"]

Array = NDArray[np.float64]

GRID = 2.0**64  # elements of M are multiples of 1 / GRID, far below any weight's last bit
CACHED = 1 << 16  # elements of blocks
LARGEST = 2.0**20  # beyond, the elimination has lost all digits


def check_rotation(delta: Delta) -> None:
    """Computes the rotation once, so that what cannot be rebuilt is refused when it is made.

    Raises:
        NonFiniteTensor: A tensor holds NaN or infinity.
        UnsupportedFormat: The matrix is too large or not finite.
    """
    for name, tensor in delta.tensors().items():
        if not tensor.is_finite():
            raise NonFiniteTensor(f"a rotation's '{name}' holds NaN or infinity")
    if delta.header.form == "hra":
        reflections(delta)
    else:
        matrix(delta)


def matrix(delta: Delta) -> Array:
    """Returns the blocks of M of a rotation that has blocks.

    Args:
        delta: A ``rightmul`` delta of the form oft or boft.

    Returns:
        (count, size, size), such that M is block-diagonal with these blocks.

    Raises:
        UnsupportedFormat: The matrix is too large or not finite.

    Numerics:
        The elimination needs no pivots, since the symmetric part of I - S is the
        identity; errors are near 1e-15 times the condition of I - S. Rounding
        to multiples of 2**-64 keeps what is added up within float64's range.
    """
    header = delta.header
    rotations = delta.tensor("r").to_float64()
    with np.errstate(all="ignore"):
        if header.form == "boft":
            return _on_grid(_butterfly(rotations))
        size = oft_block(rotations.shape[1])
        if "ball" in header.params:
            rotations = _in_ball(rotations, header.params["ball"])
        skew = _skew(rotations, size)
        terms, direct = header.params.get("terms", 0), bool(header.params.get("direct", 0))
        if terms:
            found = _in_cache(lambda part: _series(part, terms), skew if direct else -skew)
        else:
            found = _in_cache(_cayley, -skew if direct else skew)
    blocks = _on_grid(found)
    if header.params.get("share", 0):
        columns = int(np.prod(header.shape[1:], dtype=np.int64))
        return np.broadcast_to(blocks, (columns // size, size, size))
    return blocks


def gain(delta: Delta) -> Array | None:
    """Returns the gains of the rows that go with a rotation; None where there are none."""
    if delta.header.form != "boft":
        return None
    return delta.tensor("s").to_float64().reshape(-1)


def reflections(delta: Delta) -> tuple[Array, Array]:
    """Returns factors (U, N) with M = U @ N, of a product of reflections.

    Args:
        delta: A ``rightmul`` delta of the form hra.

    Returns:
        U (columns, r), the vectors as found or made orthogonal, and N (r, columns).

    Raises:
        UnsupportedFormat: A vector is zero, or too large or small.
    """
    vectors = delta.tensor("u").to_float64()
    rank = vectors.shape[1]
    with np.errstate(all="ignore"):
        rows = np.ascontiguousarray(vectors.T)
        if delta.header.params.get("orthogonal", 0):
            rows = _orthogonal(rows)
            vectors = np.ascontiguousarray(rows.T)
        inner = np.stack([_tree_sum(rows * row) for row in rows])
        triangle = np.zeros((rank, rank))
        for i in range(rank):
            weight = 2.0 / inner[i, i]
            triangle[i, i] = weight
            column = np.zeros(i)
            for k in range(i):
                column = column + triangle[:i, k] * inner[k, i]
            triangle[:i, i] = -(weight * column)
        right = np.zeros_like(rows)
        for k in range(rank):
            right = right + triangle[:, k, None] * rows[k]
    if not np.isfinite(right).all():
        raise UnsupportedFormat(
            "a reflection's vector is zero, or too large or small for float64",
            hint="store the rotated weights as exact",
        )
    return vectors, -right


def _orthogonal(rows: Array) -> Array:
    """Returns vectors of length 1, each made orthogonal to those before it, one after the other."""
    done: list[Array] = []
    for row in rows:
        rest = row
        for other in done:
            rest = rest - _tree_sum(other * rest) * other
        done.append(rest / np.sqrt(_tree_sum(rest * rest)))
    return np.stack(done)


def _in_ball(rotations: Array, ball: int) -> Array:
    """Returns blocks with those shrunk to a ball that are beyond it by more than a rounding.

    A block's size is the Frobenius norm of its skew-symmetric matrix. The ball's
    radius is given as the bits of a float64. Whoever trained the adapter shrank
    its blocks too, and rounded them, so 2**-18 of the radius is within the ball.
    """
    radius = float(np.array(ball, dtype=np.uint64).view(np.float64))
    sizes = np.sqrt(2.0 * _tree_sum(rotations * rotations))
    scale = np.where(sizes > radius * (1 + 2.0**-18), radius / sizes, 1.0)
    return rotations * scale[:, None]


def _tree_sum(values: Array) -> Array:
    """Returns sums along the last axis: halves are added to each other until one is left."""
    size = 1 << max(values.shape[-1] - 1, 0).bit_length()
    held = np.zeros((*values.shape[:-1], size))
    held[..., : values.shape[-1]] = values
    while size > 1:
        size //= 2
        held = held[..., :size] + held[..., size:]
    return held[..., 0]


def _on_grid(blocks: Array) -> Array:
    with np.errstate(all="ignore"):
        if not bool((np.abs(blocks) <= LARGEST).all()):
            raise UnsupportedFormat(
                "a rotation's matrix is too large for float64",
                hint="store the rotated weights as exact",
            )
        found: Array = np.rint(blocks * GRID) / GRID
    return found


def _skew(upper: Array, size: int) -> Array:
    """Returns skew-symmetric blocks from the elements above their diagonals, row by row."""
    found = np.zeros((upper.shape[0], size, size))
    rows, columns = np.triu_indices(size, 1)
    found[:, rows, columns] = upper
    found[:, columns, rows] = -upper
    return found


def _in_cache(solve: Callable[[Array], Array], blocks: Array) -> Array:
    """Does something to blocks, as many at a time as stay in cache."""
    step = max(1, CACHED // blocks[0].size)
    parts = [solve(blocks[at : at + step]) for at in range(0, len(blocks), step)]
    return np.concatenate(parts)


def _series(power: Array, terms: int) -> Array:
    """Returns 2 S + 2 S**2 + … + 2 S**(n - 2) + S**(n - 1), n the terms, but at least S**3 last."""
    if terms == 1:
        return np.zeros_like(power)
    total = 2.0 * power
    if terms == 2:
        return total
    first = power
    power = _product(power, first)
    total = total + 2.0 * power
    for _ in range(3, terms - 1):
        power = _product(power, first)
        total = total + 2.0 * power
    return total + _product(power, first)


def _fast_layout(blocks: Array) -> Array:
    """Returns blocks as (size, size, count), with the longest runs in memory innermost."""
    count, size, _ = blocks.shape
    if size > count:
        return np.moveaxis(blocks.copy(), 0, 2)
    return np.ascontiguousarray(np.moveaxis(blocks, 0, 2))


def _product(left: Array, right: Array) -> Array:
    """Returns products of blocks, each element summed in the order of the inner index."""
    a, b = _fast_layout(left), _fast_layout(right)
    total, room = np.zeros_like(a), np.empty_like(a)
    for k in range(a.shape[0]):
        np.multiply(a[:, k, None], b[None, k], out=room)
        total += room
    return np.moveaxis(total, 2, 0)


def _cayley(skew: Array) -> Array:
    """Returns 2 (I - S)**-1 S by elimination without pivots."""
    right = _fast_layout(skew)
    left, room = -right, np.empty_like(right)
    size = left.shape[0]
    for i in range(size):
        left[i, i] += 1.0
    for k in range(size):
        rest = size - k - 1
        factor = left[k + 1 :, k] / left[k, k]
        part = room[:rest, :rest]
        np.multiply(factor[:, None], left[None, k, k + 1 :], out=part)
        left[k + 1 :, k + 1 :] -= part
        np.multiply(factor[:, None], right[None, k], out=room[:rest])
        right[k + 1 :] -= room[:rest]
    for k in range(size - 1, -1, -1):
        right[k] /= left[k, k]
        np.multiply(left[:k, k, None], right[None, k], out=room[:k])
        right[:k] -= room[:k]
    return np.moveaxis(2.0 * right, 2, 0)


def _butterfly(rotations: Array) -> Array:
    """Returns R^T - I of a product of permuted block-diagonal rotations, the last on the left."""
    factors, count, size, _ = rotations.shape
    skew = 0.5 * (rotations - np.swapaxes(rotations, 2, 3))
    first = _in_cache(_cayley, skew[0])
    if factors == 1:
        return first
    wide = size << (factors - 1)  # what is mixed with each other after all factors
    identity = np.eye(size)
    held = np.zeros((count * size // wide, wide, wide))
    for block in range(wide // size):
        at = slice(block * size, (block + 1) * size)
        held[:, at, at] = first[block :: wide // size] + identity
    for level in range(1, factors):
        order = _butterfly_order(size, level, wide)
        blocks = (_in_cache(_cayley, skew[level]) + identity).reshape(
            len(held), wide // size, size, size
        )
        held = _times_permuted(held, blocks, order)
    return held - np.eye(wide)


def _butterfly_order(size: int, level: int, wide: int) -> NDArray[np.int64]:
    """Returns for each column of a wide block which column of the block-diagonal one it is."""
    half, span = size // 2, size << level
    runs = np.arange(span).reshape(-1, half)
    order = np.concatenate([runs[0::2].reshape(-1), runs[1::2].reshape(-1)])
    starts = np.arange(0, wide, span)
    found: NDArray[np.int64] = (starts[:, None] + order[None]).reshape(-1)
    return found


def _times_permuted(held: Array, blocks: Array, order: NDArray[np.int64]) -> Array:
    """Returns held times the permuted block-diagonal matrix, summed within each block in order."""
    count, wide, _ = held.shape
    per, size = blocks.shape[1], blocks.shape[2]
    moved = np.empty_like(held)
    moved[:, :, order] = held
    shaped = moved.reshape(count, wide, per, size)
    total = np.zeros_like(shaped)
    for k in range(size):
        total = total + shaped[:, :, :, k, None] * blocks[:, None, :, k]
    return total.reshape(count, wide, wide)[:, :, order]
