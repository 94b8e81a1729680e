"""The merged increment as a delta: rounded into the parameter's own dtype, sparse or dense."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta import kinds
from deltavc.delta.kinds import Stream
from deltavc.delta.merge_native import round_bf16
from deltavc.delta.residual import ESCAPE
from deltavc.delta.rounding import infinity_bits, magnitude_mask
from deltavc.delta.tensor import DTYPES, Bits, DType, Tensor
from deltavc.errors import NonFiniteTensor
from deltavc.merge.blocks import Blocks
from deltavc.merge.strategy import Fact, Outcome, Parameter
from deltavc.records.delta import SparseHeader

__all__ = ["Result", "work_dtype"]

SPARSE_BELOW = 0.45  # share of nonzeros; as for gaps in exact deltas, where it was measured


def stored_dtype(dtype: DType) -> DType:
    """Returns the dtype of merged increments: the parameter's own, but F32 for F64."""
    # Increments are float32 numbers: more digits than these would be noise.
    return DTYPES["F32"] if dtype.size == 8 else dtype


def work_dtype(dtype: DType) -> np.dtype[Any]:
    """Returns the dtype of arithmetic: float32 for 16-bit parameters, else float64."""
    return np.dtype(np.float32 if dtype.size == 2 else np.float64)


class Result:
    """Takes merged values block by block and makes the delta of them.

    Args:
        parameter: The parameter.
    """

    def __init__(self, parameter: Parameter) -> None:
        self._parameter = parameter
        self._dtype = stored_dtype(parameter.dtype)
        space = parameter.room(parameter.count * self._dtype.size)
        self._bits: Bits = np.frombuffer(space, dtype=self._dtype.bits)

    def put(self, values: NDArray[Any], start: int) -> int:
        """Rounds a run of values to nearest and keeps them.

        Args:
            values: Values in the work dtype; overwritten.
            start: Position of the first.

        Returns:
            How many are not zero.

        Raises:
            NonFiniteTensor: One is NaN or infinite, or too large for the dtype.
        """
        room = self._bits[start : start + values.size]
        found = round_bf16(values, room) if self._dtype.name == "BF16" else None
        if found is not None and found >= 0:
            return found
        bits = _rounded(values, self._dtype)
        sizes = bits & self._dtype.bits.type(magnitude_mask(self._dtype))
        if sizes.size and int(sizes.max()) >= infinity_bits(self._dtype):
            name = self._parameter.name
            raise NonFiniteTensor(
                f"the merged increment of '{name}' is too large for {self._dtype.name}",
                hint="give smaller weights, or a smaller lambda",
                parameter=name,
            )
        there = sizes != 0
        np.multiply(bits, there, out=room)  # -0.0 becomes +0.0
        return int(np.count_nonzero(there))

    def outcome(self, nonzero: int, facts: dict[str, Fact]) -> Outcome:
        """Returns the delta, sparse or dense, with what is to be told of it.

        Args:
            nonzero: Number of elements that are not zero.
            facts: What else is to be told.
        """
        count = self._parameter.count
        share = nonzero / max(count, 1)
        facts = {**facts, "nonzero": share}
        if self._parameter.base is not None and share < SPARSE_BELOW:
            return Outcome(delta=self._sparse(nonzero), facts={**facts, "stored": "sparse"})
        values = Tensor(self._dtype, self._parameter.shape, self._bits)
        return Outcome(delta=kinds.dense(values), facts={**facts, "stored": "dense"})

    def _sparse(self, nonzero: int) -> kinds.Delta:
        """Returns a sparse delta, its gaps coded block by block to save room."""
        width = self._dtype.size
        gaps = np.frombuffer(self._parameter.room(nonzero), dtype=np.uint8)
        values: Bits = np.frombuffer(self._parameter.room(nonzero * width), dtype=self._dtype.bits)
        escapes = []
        at, last = 0, -1
        blocks = Blocks(self._bits.size)
        for start, stop in blocks.within(0, self._bits.size):
            block = self._bits[start:stop]
            places = np.flatnonzero(block != 0)
            if not places.size:
                continue
            distances = np.diff(places + start, prepend=last) - 1
            last = start + int(places[-1])
            narrow = np.minimum(distances, ESCAPE).astype(np.uint8)
            gaps[at : at + places.size] = narrow
            values[at : at + places.size] = block[places]
            escapes.append(distances[narrow == ESCAPE].astype("<u8"))
            at += places.size
        long = np.concatenate([np.empty(0, dtype="<u8"), *escapes])
        return kinds.make(
            SparseHeader,
            [
                Stream("gaps", gaps.data),
                Stream("escapes", long.view(np.uint8).data, 8),
                Stream("values", values.view(np.uint8).data, width),
            ],
            shape=self._parameter.shape,
            dtype=self._dtype.name,
            count=nonzero,
            values="float",
            width=width,
        )


def _rounded(values: NDArray[Any], dtype: DType) -> Bits:
    """Returns bit patterns, rounded once to nearest, ties to even; overflow gives infinity."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype.name == "F16":
            return values.astype(np.float16).view(dtype.bits)
        if dtype.name == "F32":
            return values.astype(np.float32).view(dtype.bits)
    word = values.view(np.uint32)
    odd = (word >> np.uint32(16)) & np.uint32(1)
    finite = (word & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    odd += np.uint32(0x7FFF)
    odd *= finite  # a NaN must not be carried into a zero
    odd += word
    odd >>= np.uint32(16)
    return odd.astype(dtype.bits)
