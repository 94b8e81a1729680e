"""Coders of residuals: what a prediction leaves, as streams that compress well.

A residual is one folded ordinal difference for each element. ``planes`` keeps
all of them, as elements whose byte planes the store compresses. ``gaps`` keeps
those that are not zero, with the distances between them: Huffman codes cannot
spend less than one bit on an element, gaps can. Either may run through the
elements *grouped* by the exponent of the base, which the reader repeats at no
cost in bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta, Stream
from deltavc.delta.ordinals import blocks, exponents
from deltavc.delta.tensor import Bits, DType
from deltavc.errors import ObjectCorrupt

__all__ = [
    "decode_gaps",
    "decode_planes",
    "decode_sparse_values",
    "encode_gaps",
    "encode_planes",
    "group",
    "ungroup",
]

ESCAPE = 255
GROUP_BLOCK = 1 << 14  # the order of a block, 128 KiB of int64, stays in cache


def encode_planes(folded: Bits) -> list[Stream]:
    """Returns the stream of the coder ``planes``."""
    return [Stream("residual", folded.view(np.uint8).data, folded.dtype.itemsize)]


def decode_planes(delta: Delta, dtype: DType, count: int) -> Bits:
    """Reads the stream of the coder ``planes``.

    Raises:
        ObjectCorrupt: It does not hold one value for each element.
    """
    data = delta.stream("residual")
    if data.nbytes != count * dtype.size:
        raise ObjectCorrupt(f"a residual has {data.nbytes} bytes for {count} elements")
    return np.frombuffer(data, dtype=dtype.bits)


def encode_gaps(folded: Bits) -> tuple[list[Stream], int, int]:
    """Returns the streams of the coder ``gaps``, the number of values and their width in bytes.

    Args:
        folded: Residual, one value for each element.
    """
    positions = np.flatnonzero(folded != 0)  # of bools: 5 times faster than of numbers
    values = folded[positions]
    largest = int(values.max()) if values.size else 0
    width = next(w for w in (1, 2, 4, 8) if largest < 1 << (8 * w))
    distances = np.diff(positions, prepend=-1) - 1
    gaps = np.minimum(distances, ESCAPE).astype(np.uint8)
    escapes = distances[gaps == ESCAPE].astype("<u8")
    narrow = values.astype(f"<u{width}")
    streams = [
        Stream("gaps", gaps.data),
        Stream("escapes", escapes.view(np.uint8).data, 8),
        Stream("values", narrow.view(np.uint8).data, width),
    ]
    return streams, int(positions.size), width


def decode_gaps(delta: Delta, count: int, limit: int) -> NDArray[np.int64]:
    """Reads positions from the streams ``gaps`` and ``escapes``.

    Args:
        delta: The delta.
        count: Number of positions.
        limit: Number of elements.

    Returns:
        Ascending positions below ``limit``.

    Raises:
        ObjectCorrupt: The streams do not hold just that.
    """
    gaps = np.frombuffer(delta.stream("gaps"), dtype=np.uint8)
    raw = delta.stream("escapes")
    if not 0 <= count <= limit or gaps.size != count or raw.nbytes % 8:
        raise ObjectCorrupt(f"a delta has {gaps.size} gaps for {count} of {limit} elements")
    escapes = np.frombuffer(raw, dtype="<u8")
    escaped = gaps == ESCAPE
    if int(escaped.sum()) != escapes.size or bool((escapes < ESCAPE).any()):
        raise ObjectCorrupt("a delta's long gaps do not fit its gaps")
    # summed as floats first: hostile gaps could wrap round in 64 bits
    if float(escapes.sum(dtype=np.float64)) + float(gaps.sum(dtype=np.float64)) > 2.0**52:
        raise ObjectCorrupt("a delta's gaps lead past the end")
    steps = gaps.astype(np.int64)
    steps[escaped] = escapes.astype(np.int64)
    steps += 1
    positions: NDArray[np.int64] = np.cumsum(steps, out=steps)
    positions -= 1
    if count and int(positions[-1]) >= limit:
        raise ObjectCorrupt("a delta's gaps lead past the end")
    return positions


def decode_sparse_values(delta: Delta, dtype: DType, count: int, width: int) -> Bits:
    """Reads the stream ``values`` of the coder ``gaps``, widened to the dtype's own width.

    Raises:
        ObjectCorrupt: It does not hold that many values of that width.
    """
    data = delta.stream("values")
    if width not in (1, 2, 4, 8) or width > dtype.size or data.nbytes != count * width:
        raise ObjectCorrupt(f"a delta has {data.nbytes} bytes for {count} values of {width}")
    return np.frombuffer(data, dtype=f"<u{width}").astype(dtype.bits)


def group(values: Bits, base: Bits, dtype: DType) -> Bits:
    """Returns values ordered by the base's exponent, then by position.

    Args:
        values: One value for each element.
        base: The base's bit patterns.
        dtype: The base's dtype.
    """
    grouped = np.empty_like(values)
    heads = _heads(base, dtype)
    for start, stop in blocks(values.size, GROUP_BLOCK):
        keys, order = _block_order(base[start:stop], dtype)
        ordered = values[start:stop][order]
        for key, low, high in _runs(keys):
            grouped[heads[key] : heads[key] + high - low] = ordered[low:high]
            heads[key] += high - low
    return grouped


def ungroup(grouped: Bits, base: Bits, dtype: DType) -> Bits:
    """Returns values in their own order again; takes back :func:`group`."""
    values = np.empty_like(grouped)
    heads = _heads(base, dtype)
    for start, stop in blocks(values.size, GROUP_BLOCK):
        keys, order = _block_order(base[start:stop], dtype)
        ordered = np.empty(stop - start, dtype=values.dtype)
        for key, low, high in _runs(keys):
            ordered[low:high] = grouped[heads[key] : heads[key] + high - low]
            heads[key] += high - low
        values[start:stop][order] = ordered
    return values


def _keys(base: Bits, dtype: DType) -> NDArray[np.uint8] | NDArray[np.uint16]:
    field = exponents(base, dtype)
    return field.astype(np.uint8) if dtype.exponent <= 8 else field


def _heads(base: Bits, dtype: DType) -> list[int]:
    """Returns where the group of each exponent begins."""
    sizes = np.zeros(1 << dtype.exponent, dtype=np.int64)
    for start, stop in blocks(base.size, GROUP_BLOCK):
        sizes += np.bincount(_keys(base[start:stop], dtype), minlength=sizes.size)
    ends: list[int] = np.cumsum(sizes).tolist()
    return [0, *ends[:-1]]


def _block_order(base: Bits, dtype: DType) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Returns the exponents' counts in a block and its elements' stable order by exponent."""
    keys = _keys(base, dtype)
    return np.bincount(keys), np.argsort(keys, kind="stable")


def _runs(counts: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Returns the runs of equal exponent in an ordered block: exponent, first, end."""
    present = np.flatnonzero(counts)
    ends = np.cumsum(counts[present])
    starts = ends - counts[present]
    return list(zip(present.tolist(), starts.tolist(), ends.tolist(), strict=True))
