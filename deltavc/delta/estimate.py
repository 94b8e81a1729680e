"""What streams will take up in the store, by samples.

Encoders choose among codings before anything is stored. Byte planes of evenly
spaced parts go through the same zstd settings as the store's; what is large
is not compressed twice as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import zstandard
from numpy.typing import NDArray

from deltavc.delta.kinds import Stream

__all__ = ["stored_size"]

FRAME_COST = 40  # table entry and zstd's own header
_PART_ELEMENTS = 1 << 14
_MIN_PARTS, _MAX_PARTS = 4, 32


class _Coder(threading.local):
    """zstd contexts may not be shared between threads."""

    def __init__(self) -> None:
        self.floats = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(
                strategy=zstandard.STRATEGY_FAST,
                min_match=7,
                hash_log=6,
                chain_log=6,
                window_log=17,
                target_length=0,
            )
        )


_CODER = _Coder()


def stored_size(streams: Iterable[Stream], *, whole: bool = False) -> int:
    """Returns about the number of bytes that streams take up in the store.

    Args:
        streams: The streams.
        whole: Compress all of them. Grouped residuals have other statistics at
            each end, which samples miss by up to a tenth.
    """
    return sum(_stream_size(stream, whole) for stream in streams)


def _stream_size(stream: Stream, whole: bool) -> int:
    data = np.frombuffer(stream.data, dtype=np.uint8)
    if stream.runs > 1 or stream.block:
        step = data.size // stream.runs
        each = (_run_size(data[i * step : (i + 1) * step], stream.block, whole)
                for i in range(stream.runs))  # fmt: skip
        return min(data.size, sum(each)) + FRAME_COST
    width = max(1, stream.planes)
    rows = data[: data.size // width * width].reshape(-1, width)
    if whole or rows.shape[0] <= 2 * _MIN_PARTS * _PART_ELEMENTS:
        return min(data.size, _planes_size(rows)) + FRAME_COST
    parts = min(_MAX_PARTS, max(_MIN_PARTS, rows.shape[0] // (16 * _PART_ELEMENTS)))
    starts = np.linspace(0, rows.shape[0] - _PART_ELEMENTS, parts).astype(np.int64)
    taken = sum(_planes_size(rows[start : start + _PART_ELEMENTS]) for start in starts.tolist())
    return int(min(1.0, taken / (parts * _PART_ELEMENTS * width)) * data.size) + FRAME_COST


def _run_size(run: NDArray[np.uint8], block: int, whole: bool) -> int:
    """Returns the size of one run, from some of its blocks unless the whole is asked for."""
    block = block or _PART_ELEMENTS
    starts = range(0, run.size, block)
    few = starts[:: max(1, len(starts) // _MAX_PARTS)]
    if not whole and len(few) < len(starts):
        taken = sum(len(_CODER.floats.compress(run[start : start + block].data)) for start in few)
        return int(taken / sum(min(block, run.size - start) for start in few) * run.size)
    return sum(len(_CODER.floats.compress(run[start : start + block].data)) for start in starts)


def _planes_size(rows: NDArray[np.uint8]) -> int:
    return sum(
        len(_CODER.floats.compress(np.ascontiguousarray(rows[:, byte]).data))
        for byte in range(rows.shape[1])
    )
