"""Byte planes: byte i of each element together, so that like stands beside like.

In float data the exponent bytes repeat and the low mantissa bytes are noise;
interleaved they hide each other from an entropy coder, apart the one shrinks
and the other is copied. Rotating each element left by one bit first brings the
whole exponent of IEEE floats into the top byte and the sign to the bottom.

Work goes through blocks of 2**16 elements, which stay in the second-level
cache: 6 to 7 GB/s for 2-byte elements, where whole arrays fall to 1 GB/s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.digest import Buffer

__all__ = ["WIDTHS", "join_planes", "split_planes"]

WIDTHS = (2, 4, 8)
BLOCK = 1 << 16


def split_planes(data: Buffer, width: int, *, rotate: bool) -> memoryview:
    """Returns the byte planes of little-endian elements, lowest byte first.

    Args:
        data: The elements; up to ``width - 1`` bytes beyond the last whole one
            are kept as they are, behind the planes.
        width: Bytes an element: 2, 4 or 8.
        rotate: Rotate each element left by one bit first.

    Returns:
        As many bytes as ``data`` has.
    """
    source = np.frombuffer(data, dtype=np.uint8)
    out = np.empty(source.size, dtype=np.uint8)
    count = source.size // width
    planes = out[: count * width].reshape(width, count)
    elements = np.empty(min(BLOCK, count), dtype=f"<u{width}")
    spare = np.empty_like(elements)
    for start in range(0, count, BLOCK):
        block = elements[: min(BLOCK, count - start)]
        # the copy aligns: parts start anywhere in a body
        block.view(np.uint8)[:] = source[start * width : (start + block.size) * width]
        if rotate:
            _rotate(block, 1, spare[: block.size])
        _split_block(block, width, planes[:, start : start + block.size])
    out[count * width :] = source[count * width :]
    return out.data


def join_planes(planes: Buffer, width: int, out: memoryview, *, rotate: bool) -> None:
    """Writes the elements whose byte planes are given.

    Args:
        planes: What :func:`split_planes` returned.
        width: Bytes an element: 2, 4 or 8.
        out: Where the elements go; as long as ``planes``.
        rotate: The elements were rotated left by one bit.
    """
    source = np.frombuffer(planes, dtype=np.uint8)
    target = np.frombuffer(out, dtype=np.uint8)
    count = source.size // width
    rows = source[: count * width].reshape(width, count)
    elements = np.empty(min(BLOCK, count), dtype=f"<u{width}")
    spare = np.empty_like(elements)
    for start in range(0, count, BLOCK):
        block = elements[: min(BLOCK, count - start)]
        _join_block(rows[:, start : start + block.size], width, block)
        if rotate:
            _rotate(block, 8 * width - 1, spare[: block.size])
        target[start * width : (start + block.size) * width] = block.view(np.uint8)
    target[count * width :] = source[count * width :]


def _rotate(block: NDArray[Any], by: int, spare: NDArray[Any]) -> None:
    """Rotates the elements left by a number of bits, in place."""
    kind = block.dtype.type
    np.right_shift(block, kind(8 * block.dtype.itemsize - by), out=spare)
    np.left_shift(block, kind(by), out=block)
    np.bitwise_or(block, spare, out=block)


def _split_block(block: NDArray[Any], width: int, planes: NDArray[np.uint8]) -> None:
    if width == 8:  # strided copies win from here on: 3.0 against 2.6 GB/s
        planes[:] = block.view(np.uint8).reshape(-1, 8).T
        return
    kind = block.dtype.type
    for byte in range(width):
        planes[byte] = (block >> kind(8 * byte)).astype(np.uint8)


def _join_block(planes: NDArray[np.uint8], width: int, block: NDArray[Any]) -> None:
    if width == 8:
        block.view(np.uint8).reshape(-1, 8)[:] = planes.T
        return
    kind = block.dtype.type
    block[:] = planes[width - 1]
    for byte in range(width - 2, -1, -1):
        np.left_shift(block, kind(8), out=block)
        np.bitwise_or(block, planes[byte], out=block)
