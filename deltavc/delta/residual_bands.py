"""Residuals ordered by bands of the base's exponent: the coder ``bands``.

How far a trained weight moves, counted in neighbouring floats, goes with its
exponent, which the reader knows: each power of two less doubles the distance.
A Huffman table for each exponent is what saves bits; a few bands, the topmost
exponents in one and the rare low ones in another, save nearly as much as all
(bfloat16: 0.249 of a tensor with four, 0.245 with all, 0.288 with none), and
elements are put in order and back by shuffles of eight instead of one by one.

Nearly all residuals of 16-bit floats fit one byte. Only so many planes are kept;
the few residuals that do not fit stand apart.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.planes import join_planes, split_planes
from deltavc.delta.kinds import Delta, Stream
from deltavc.delta.ordinals import exponents
from deltavc.delta.residual import GROUPED_RUN, group, ungroup
from deltavc.delta.residual_native import MAX_BANDS, Bands, Read, kernels
from deltavc.delta.tensor import Bits, DType, Tensor
from deltavc.errors import ObjectCorrupt

__all__ = ["MIN_BANDED", "choose_bands", "decode_bands", "encode_bands", "read_bands"]

MIN_BANDED = 1 << 12  # elements; below, the header outweighs what bands save
USUAL_BANDS = 4  # three take 3 % more; six 1.4 % less, for half as much time again
TOP_SHARE = 0.2  # of the elements, in the top band: their residuals are 0 and 1 nearly all
LOW_SHARE = 0.01
MAX_ESCAPES = 0.02  # mostly 0.5 % in bfloat16; a plane less is hashed and expanded
MIN_APART = 1 << 14
_SAMPLE = 1 << 13


def choose_bands(folded: Bits, base: Bits, dtype: DType) -> Bands:
    """Returns the bands and the width that suit a residual, by a sample of its elements.

    Args:
        folded: Residual, one value for each element.
        base: The base's bit patterns.
        dtype: The base's dtype.
    """
    step = max(1, base.size // _SAMPLE) | 1  # odd, so that all columns are met
    edges = _edges(base[::step], dtype)
    few = folded[::step]
    for width in range(1, dtype.size):
        if np.count_nonzero(few >= _limit(width)) <= MAX_ESCAPES * few.size:
            return Bands(edges, width)
    return Bands(edges, dtype.size)


def _edges(base: Bits, dtype: DType) -> tuple[int, ...]:
    """Returns the least exponents of the bands that suit a sample of a base."""
    counts = np.bincount(exponents(base, dtype))
    above = np.cumsum(counts[::-1])[::-1]  # elements of this exponent or a larger one
    total = int(above[0]) if above.size else 0
    top = int(np.flatnonzero(above >= TOP_SHARE * total)[-1]) if total else 0
    lowest = max(1, top - USUAL_BANDS + 2)
    return tuple(e for e in range(lowest, top + 1) if total - above[e] >= LOW_SHARE * total)


def encode_bands(
    folded: Bits, base: Bits, dtype: DType, bands: Bands
) -> tuple[list[Stream], dict[str, Any]]:
    """Returns the streams of the coder ``bands`` and its settings for the header.

    Args:
        folded: Residual, one value for each element.
        base: The base's bit patterns.
        dtype: The base's dtype.
        bands: How to order and cut them.
    """
    native = kernels(dtype)
    if native is not None:
        planes, escapes = native.to_bands(folded, base, bands)
    else:
        arranged = group(folded, base, dtype, bands.edges)
        escapes = arranged[:0]
        if bands.width < dtype.size:
            over = arranged >= _limit(bands.width)
            escapes = arranged[over]
            arranged[over] = _limit(bands.width)
        split = split_planes(arranged.view(np.uint8).data, dtype.size, rotate=False)
        planes = np.frombuffer(split, dtype=np.uint8)[: bands.width * base.size]
    # few escapes share a frame with the header before them
    apart = dtype.size if escapes.nbytes >= MIN_APART else 1
    streams = [
        Stream("escapes", escapes.view(np.uint8).data, apart),
        Stream("residual", planes.data, runs=bands.width, block=GROUPED_RUN),
    ]
    return streams, {"bands": list(bands.edges), "width": bands.width}


def read_bands(delta: Delta, base: Tensor) -> Read | None:
    """Returns what reads the residual of an exact delta run by run; None without kernels.

    Args:
        delta: The delta.
        base: Its base.

    Raises:
        ObjectCorrupt: The delta is malformed.
    """
    native = kernels(base.dtype)
    if native is None:
        return None
    bands, planes, escapes = _streams(delta, base)
    read = native.bands(planes, escapes, base.bits, bands)
    if read is None:
        raise _unfit()
    return read


def decode_bands(delta: Delta, base: Tensor) -> Bits:
    """Returns the residual of all elements in their own order, without kernels.

    Args:
        delta: The delta.
        base: Its base.

    Raises:
        ObjectCorrupt: The delta is malformed.
    """
    bands, planes, escapes = _streams(delta, base)
    dtype = base.dtype
    all_planes = np.zeros(base.count * dtype.size, dtype=np.uint8)
    all_planes[: planes.size] = planes
    arranged = np.empty(base.count, dtype=dtype.bits)
    join_planes(all_planes.data, dtype.size, arranged.view(np.uint8).data, rotate=False)
    if bands.width < dtype.size:
        over = np.flatnonzero(arranged == _limit(bands.width))
        if over.size != escapes.size:
            raise _unfit()
        arranged[over] = escapes
    return ungroup(arranged, base.bits, dtype, bands.edges)


def _streams(delta: Delta, base: Tensor) -> tuple[Bands, NDArray[np.uint8], Bits]:
    """Returns bands, planes and escapes of a delta, found to fit each other but for their number.

    Raises:
        ObjectCorrupt: They do not.
    """
    dtype, params = base.dtype, delta.header.params
    width, edges = params.get("width"), params.get("bands")
    if type(width) is not int or not 1 <= width <= dtype.size:
        raise ObjectCorrupt("an exact delta lacks the width of its residuals")
    top = (1 << dtype.exponent) - 1
    if (
        not isinstance(edges, list)
        or len(edges) >= MAX_BANDS
        or any(type(edge) is not int or not 1 <= edge <= top for edge in edges)
        or any(low >= high for low, high in pairwise(edges))
    ):
        raise ObjectCorrupt("an exact delta does not say what its bands are")
    planes = np.frombuffer(delta.stream("residual"), dtype=np.uint8)
    raw = delta.stream("escapes")
    if planes.size != base.count * width or raw.nbytes % dtype.size:
        raise ObjectCorrupt(f"a residual has {planes.size} bytes for {base.count} elements")
    escapes = np.frombuffer(raw, dtype=dtype.bits)
    if escapes.size and (width == dtype.size or int(escapes.min()) < _limit(width)):
        raise _unfit()
    return Bands(tuple(edges), width), planes, escapes


def _limit(width: int) -> int:
    """Returns the least number that needs more than so many bytes, all ones being taken."""
    return (1 << (8 * width)) - 1


def _unfit() -> ObjectCorrupt:
    return ObjectCorrupt("an exact delta's escapes do not fit its residual")
