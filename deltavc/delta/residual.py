"""Coders of residuals: what a prediction leaves, as streams that compress well.

A residual is one folded ordinal difference for each element. ``planes`` keeps
all of them, as elements whose byte planes the store compresses. ``gaps`` keeps
those that are not zero, with the distances between them: Huffman codes cannot
spend less than one bit on an element, gaps can. Either may run through the
elements *grouped* by the exponent of the base, which the reader repeats at no
cost in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.digest import Buffer
from deltavc.codec.planes import join_planes, split_planes
from deltavc.delta.kinds import Delta, Stream
from deltavc.delta.ordinals import blocks, exponents
from deltavc.delta.residual_native import check_gaps, kernels, kernels_of_width
from deltavc.delta.tensor import Bits, DType
from deltavc.errors import ObjectCorrupt

__all__ = [
    "Gaps",
    "Residual",
    "decode_gaps",
    "decode_planes",
    "decode_sparse_values",
    "encode_gaps",
    "encode_planes",
    "group",
    "joined",
    "read_gaps",
    "sparse_values",
    "ungroup",
]

Edges = Sequence[int]

ESCAPE = 255
GROUPED_RUN = 1 << 15  # bytes under one Huffman table: 64 KiB take 2 % more, 16 KiB 1 % less
GROUP_BLOCK = 1 << 14  # the order of a block, 128 KiB of int64, stays in cache


@dataclass(frozen=True, eq=False)
class Residual:
    """What a predictor leaves of a tensor.

    Attributes:
        folded: One folded difference of ordinals for each element.
        changed: How many are not 0.
        any: All of them or'ed, which tells how wide they are.
        finite: Whether base and tensor hold neither NaN nor infinity.
    """

    folded: Bits
    changed: int
    any: int
    finite: bool = True

    @classmethod
    def of(cls, folded: Bits, *, finite: bool = True) -> Residual:
        """Returns the residual of folded differences after looking at them."""
        whole = int(np.bitwise_or.reduce(folded)) if folded.size else 0
        return cls(folded, int(np.count_nonzero(folded)), whole, finite)

    @property
    def width(self) -> int:
        """Bytes that hold each of them: 1, 2, 4 or 8."""
        return next(width for width in (1, 2, 4, 8) if self.any < 1 << (8 * width))


def encode_planes(folded: Bits, dtype: DType, base: Bits | None = None) -> list[Stream]:
    """Returns the stream of the coder ``planes``.

    Args:
        folded: Residual, one value for each element.
        dtype: The tensor's dtype.
        base: The base's bit patterns, to order the elements by exponent; or None.
    """
    if base is not None:
        folded = group(folded, base, dtype)
    native = kernels(dtype)
    data: Buffer
    if native is not None:
        data = native.split(folded).data
    else:
        data = split_planes(folded.view(np.uint8).data, dtype.size, rotate=False)
    return [Stream("residual", data, runs=dtype.size, block=GROUPED_RUN)]


def decode_planes(delta: Delta, dtype: DType, count: int) -> NDArray[np.uint8]:
    """Reads the stream of the coder ``planes``: byte planes, one behind the other.

    Raises:
        ObjectCorrupt: It does not hold one value for each element.
    """
    data = delta.stream("residual")
    if data.nbytes != count * dtype.size:
        raise ObjectCorrupt(f"a residual has {data.nbytes} bytes for {count} elements")
    return np.frombuffer(data, dtype=np.uint8)


def joined(planes: NDArray[np.uint8], dtype: DType) -> Bits:
    """Returns the values whose byte planes are given."""
    values = np.empty(planes.size // dtype.size, dtype=dtype.bits)
    join_planes(planes.data, dtype.size, values.view(np.uint8).data, rotate=False)
    return values


def encode_gaps(residual: Residual) -> tuple[list[Stream], int, int]:
    """Returns the streams of the coder ``gaps``, the number of values and their width in bytes.

    Args:
        residual: Residual, one value for each element.
    """
    folded, width = residual.folded, residual.width
    native = kernels_of_width(folded.itemsize)
    if native is not None:
        gaps, escapes, values = native.gaps(folded, residual.changed, width)
    else:
        positions = np.flatnonzero(folded != 0)  # of bools: 5 times faster than of numbers
        distances = np.diff(positions, prepend=-1) - 1
        gaps = np.minimum(distances, ESCAPE).astype(np.uint8)
        escapes = distances[gaps == ESCAPE].astype("<u8")
        values = folded[positions].astype(f"<u{width}").view(np.uint8)
    streams = [
        Stream("gaps", gaps.data),
        Stream("escapes", escapes.view(np.uint8).data, 8),
        Stream("values", values.data, width),
    ]
    return streams, residual.changed, width


@dataclass(frozen=True, eq=False)
class Gaps:
    """Distances between the elements that have a value, found to be right.

    Attributes:
        gaps: For each of them its distance to the one before less one; 255 for long ones.
        escapes: Bytes of the long ones, eight each.
    """

    gaps: NDArray[np.uint8]
    escapes: NDArray[np.uint8]

    def positions(self) -> NDArray[np.int64]:
        """Returns the ascending positions that they lead to."""
        steps = self.gaps.astype(np.int64)
        steps[self.gaps == ESCAPE] = np.frombuffer(self.escapes, dtype="<i8")
        steps += 1
        positions: NDArray[np.int64] = np.cumsum(steps, out=steps)
        positions -= 1
        return positions


def read_gaps(delta: Delta, count: int, limit: int) -> Gaps:
    """Reads the streams ``gaps`` and ``escapes``.

    Args:
        delta: The delta.
        count: Number of positions.
        limit: Number of elements.

    Returns:
        Gaps that lead to positions below ``limit``.

    Raises:
        ObjectCorrupt: The streams do not hold just that.
    """
    gaps = np.frombuffer(delta.stream("gaps"), dtype=np.uint8)
    raw = np.frombuffer(delta.stream("escapes"), dtype=np.uint8)
    if not 0 <= count <= limit or gaps.size != count or raw.size % 8:
        raise ObjectCorrupt(f"a delta has {gaps.size} gaps for {count} of {limit} elements")
    wrong = check_gaps(gaps, raw, limit)
    if wrong is None:
        wrong = _wrong_gaps(gaps, raw, limit)
    if wrong:
        raise ObjectCorrupt(wrong)
    return Gaps(gaps, raw)


def _wrong_gaps(gaps: NDArray[np.uint8], raw: NDArray[np.uint8], limit: int) -> str:
    """Returns what is wrong with gaps, or nothing."""
    escapes = np.frombuffer(raw, dtype="<u8")
    if int(np.count_nonzero(gaps == ESCAPE)) != escapes.size or bool((escapes < ESCAPE).any()):
        return "a delta's long gaps do not fit its gaps"
    # summed as floats first: hostile gaps could wrap round in 64 bits
    short = int(gaps.sum(dtype=np.int64)) - ESCAPE * escapes.size + gaps.size
    if float(escapes.sum(dtype=np.float64)) > 2.0**52 or short + int(escapes.sum()) > limit:
        return "a delta's gaps lead past the end"
    return ""


def decode_gaps(delta: Delta, count: int, limit: int) -> NDArray[np.int64]:
    """Reads positions from the streams ``gaps`` and ``escapes``; see :func:`read_gaps`.

    Returns:
        Ascending positions below ``limit``.
    """
    return read_gaps(delta, count, limit).positions()


def sparse_values(delta: Delta, dtype: DType, count: int, width: int) -> NDArray[np.uint8]:
    """Reads the bytes of the stream ``values`` of the coder ``gaps``.

    Raises:
        ObjectCorrupt: It does not hold that many values of that width.
    """
    data = delta.stream("values")
    if width not in (1, 2, 4, 8) or width > dtype.size or data.nbytes != count * width:
        raise ObjectCorrupt(f"a delta has {data.nbytes} bytes for {count} values of {width}")
    return np.frombuffer(data, dtype=np.uint8)


def decode_sparse_values(delta: Delta, dtype: DType, count: int, width: int) -> Bits:
    """Reads the same, widened to the dtype's own width."""
    return np.frombuffer(sparse_values(delta, dtype, count, width), f"<u{width}").astype(dtype.bits)


def group(values: Bits, base: Bits, dtype: DType, edges: Edges | None = None) -> Bits:
    """Returns values ordered by the base's exponent, or by bands of it, then by position.

    Args:
        values: One value for each element.
        base: The base's bit patterns.
        dtype: The base's dtype.
        edges: The least exponent of each band but the first; None for all exponents apart.
    """
    native = kernels(dtype)
    if native is not None and edges is None:
        return native.group(values, base)
    grouped = np.empty_like(values)
    heads = _heads(base, dtype, edges)
    for start, stop in blocks(values.size, GROUP_BLOCK):
        keys, order = _block_order(base[start:stop], dtype, edges)
        ordered = values[start:stop][order]
        for key, low, high in _runs(keys):
            grouped[heads[key] : heads[key] + high - low] = ordered[low:high]
            heads[key] += high - low
    return grouped


def ungroup(grouped: Bits, base: Bits, dtype: DType, edges: Edges | None = None) -> Bits:
    """Returns values in their own order again; takes back :func:`group`."""
    values = np.empty_like(grouped)
    heads = _heads(base, dtype, edges)
    for start, stop in blocks(values.size, GROUP_BLOCK):
        keys, order = _block_order(base[start:stop], dtype, edges)
        ordered = np.empty(stop - start, dtype=values.dtype)
        for key, low, high in _runs(keys):
            ordered[low:high] = grouped[heads[key] : heads[key] + high - low]
            heads[key] += high - low
        values[start:stop][order] = ordered
    return values


def _keys(base: Bits, dtype: DType, edges: Edges | None) -> NDArray[np.uint8 | np.uint16]:
    field = exponents(base, dtype)
    if edges is not None:
        return np.searchsorted(np.array(edges, np.uint16), field, side="right").astype(np.uint8)
    return field.astype(np.uint8) if dtype.exponent <= 8 else field


def _heads(base: Bits, dtype: DType, edges: Edges | None) -> list[int]:
    """Returns where the group of each exponent begins."""
    sizes = np.zeros(1 << dtype.exponent, dtype=np.int64)
    for start, stop in blocks(base.size, GROUP_BLOCK):
        sizes += np.bincount(_keys(base[start:stop], dtype, edges), minlength=sizes.size)
    ends: list[int] = np.cumsum(sizes).tolist()
    return [0, *ends[:-1]]


def _block_order(
    base: Bits, dtype: DType, edges: Edges | None
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Returns the exponents' counts in a block and its elements' stable order by exponent."""
    keys = _keys(base, dtype, edges)
    return np.bincount(keys), np.argsort(keys, kind="stable")


def _runs(counts: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Returns the runs of equal exponent in an ordered block: exponent, first, end."""
    present = np.flatnonzero(counts)
    ends = np.cumsum(counts[present])
    starts = ends - counts[present]
    return list(zip(present.tolist(), starts.tolist(), ends.tolist(), strict=True))
