"""Exact deltas: a tensor's very bits as prediction from the base plus residual.

The body is told in ``docs/reference/format/delta.md``. Decoding uses integers,
and float64 products that are exact in any order of summation, so that it gives
the same bits on every machine; the result's xxh3-64 is checked each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deltavc.codec.digest import fast64, sha256_hex
from deltavc.codec.room import Room, heap
from deltavc.delta import kinds
from deltavc.delta.kinds import Delta, Stream
from deltavc.delta.ordinals import all_finite, fold, ordinals, unfold
from deltavc.delta.predict import Drift, LowRank, Predictor, read_predictor
from deltavc.delta.residual import (
    Residual,
    decode_gaps,
    decode_planes,
    decode_sparse_values,
    encode_gaps,
    encode_planes,
    group,
    joined,
    read_gaps,
    sparse_values,
    ungroup,
)
from deltavc.delta.residual_bands import (
    MIN_BANDED,
    choose_bands,
    decode_bands,
    encode_bands,
    read_bands,
)
from deltavc.delta.residual_native import Goal, Kernels, Read, Step, kernels
from deltavc.delta.tensor import DTYPES, Bits, DType, Tensor
from deltavc.errors import ObjectCorrupt
from deltavc.records.delta import ExactHeader

__all__ = ["GAPS_BELOW", "Coded", "code", "decode_exact", "finish", "leads_to", "residual"]

GAPS_BELOW = 0.45  # share of changed elements; at 0.33 gaps save 18 %, at 0.55 nothing


@dataclass(frozen=True, eq=False)
class Coded:
    """A predictor with a coded residual: all of an exact delta but the hashes."""

    coding: str
    params: dict[str, Any]
    streams: tuple[Stream, ...]


def residual(base: Tensor, new: Tensor, predictor: Predictor) -> Residual:
    """Returns what a predictor leaves: one folded ordinal difference for each element."""
    folded = np.empty(new.count, dtype=new.dtype.bits)
    native = kernels(new.dtype)
    if native is None:
        for start, stop in predictor.bounds(new.count):
            difference = ordinals(new.bits[start:stop])
            difference -= predictor.predict(base.bits[start:stop], start)
            folded[start:stop] = fold(difference)
        finite = all_finite(base.bits, base.dtype) and all_finite(new.bits, new.dtype)
        return Residual.of(folded, finite=finite)
    changed, whole, finite = 0, 0, True
    for start, stop, step in _steps(predictor, base):
        found = native.measure(step, new.bits[start:stop], folded[start:stop])
        changed, whole, finite = changed + found[0], whole | found[1], finite and found[2]
    return Residual(folded, changed, whole, finite)


def code(
    base: Tensor, predictor: Predictor, left: Residual, *, grouped: bool | None = None
) -> Coded:
    """Returns a residual coded by gaps, planes or bands, whichever fits it.

    Args:
        base: The base tensor.
        predictor: What the residual was taken against.
        left: From :func:`residual`.
        grouped: Order the elements by the base's exponent, each apart: 2 to 7 % smaller
            in float32, 15 to 20 % in bfloat16. None for what saves nearly as much
            at a third of the time, where it is worth that: bands of exponents in 16-bit floats.
    """
    params = predictor.params()
    by_gaps = left.changed < GAPS_BELOW * left.folded.size
    if grouped is None and not by_gaps and base.dtype.size == 2 and base.count >= MIN_BANDED:
        bands = choose_bands(left.folded, base.bits, base.dtype)
        streams, own = encode_bands(left.folded, base.bits, base.dtype, bands)
        return Coded("bands", params | own, (*predictor.streams(), *streams))
    if grouped:
        params["grouped"] = True
    if by_gaps:
        if grouped:
            left = replace(left, folded=group(left.folded, base.bits, base.dtype))
        streams, count, width = encode_gaps(left)
        params |= {"count": count, "width": width}
        return Coded("gaps", params, (*predictor.streams(), *streams))
    streams = encode_planes(left.folded, base.dtype, base.bits if grouped else None)
    return Coded("planes", params, (*predictor.streams(), *streams))


def finish(coded: Coded, new: Tensor, base_sha256: str) -> Delta:
    """Returns the delta of a coded residual."""
    return kinds.make(
        ExactHeader,
        coded.streams,
        shape=new.shape,
        dtype=new.dtype.name,
        base=base_sha256,
        result=sha256_hex(new.raw()),
        check=f"{fast64(new.raw()):016x}",
        coding=coded.coding,
        params=coded.params,
    )


def decode_exact(
    delta: Delta, base: Tensor, out: Bits | None = None, *, room: Room = heap
) -> Tensor:
    """Rebuilds the tensor that an exact delta was made from.

    Args:
        delta: An exact delta.
        base: The base tensor.
        out: Where the bits go, flat; a new array if None.
        room: Where new arrays of the tensor's size go.

    Returns:
        The tensor.

    Raises:
        ObjectCorrupt: The delta is malformed, or the result is not the recorded
            one: damage, or another base.

    Cost:
        About 3 GB/s a thread without a predictor, 1.5 where elements are grouped; a
        third of that without the kernels.
    """
    header, dtype = _header(delta, base)
    if out is None:
        out = np.frombuffer(room(base.nbytes), dtype=dtype.bits)
    elif out.size != base.count or out.dtype != dtype.bits:
        raise ObjectCorrupt("an exact delta does not fit the room for its result")
    _rebuild(delta, base, Goal(out), room)
    found = f"{fast64(out.view(np.uint8).data):016x}"
    if found != header.check:
        raise ObjectCorrupt(
            "an exact delta does not lead to the recorded tensor",
            expected=header.check,
            found=found,
        )
    return Tensor(dtype, base.shape, out)


def leads_to(delta: Delta, base: Tensor, new: Tensor) -> bool:
    """Tells whether an exact delta decodes to the very bits of a tensor, without keeping them.

    Args:
        delta: An exact delta.
        base: The base tensor.
        new: The tensor.

    Raises:
        ObjectCorrupt: The delta is malformed.
    """
    _, dtype = _header(delta, base)
    if dtype is not new.dtype or base.shape != new.shape:
        return False
    return _rebuild(delta, base, Goal(None, new.bits))


def _header(delta: Delta, base: Tensor) -> tuple[ExactHeader, DType]:
    """Returns the header and the dtype of an exact delta that fits its base."""
    header = delta.header
    if not isinstance(header, ExactHeader):
        raise ObjectCorrupt(f"a {delta.kind} delta is not an exact one")
    dtype = DTYPES.get(header.dtype)
    if dtype is None or not dtype.arithmetic:
        raise ObjectCorrupt(f"an exact delta has the dtype '{header.dtype[:20]}'")
    if dtype is not base.dtype or header.shape != base.shape:
        raise ObjectCorrupt(
            "an exact delta does not fit its base", shape=list(header.shape), base=list(base.shape)
        )
    return header, dtype


def _rebuild(delta: Delta, base: Tensor, goal: Goal, room: Room = heap) -> bool:
    """Decodes an exact delta into a goal; tells whether that came out."""
    predictor = read_predictor(delta, base.dtype, *base.matrix_shape)
    native = kernels(base.dtype)
    if native is not None:
        read = _reader(delta, base, predictor, native, room)
        return all(read(*each, goal) for each in _steps(predictor, base))
    folded = _folded(delta, base)
    return all(
        goal.take(start, stop, _added(folded[start:stop], base, predictor, start))
        for start, stop in predictor.bounds(base.count)
    )


def _added(folded: Bits, base: Tensor, predictor: Predictor, start: int) -> Bits:
    """Returns bit patterns: residuals on their prediction."""
    moved = unfold(folded)
    moved += predictor.predict(base.bits[start : start + folded.size], start)
    return ordinals(moved)


def _steps(predictor: Predictor, base: Tensor) -> Iterator[tuple[int, int, Step]]:
    """Yields the predictions of an exact delta for the kernels, in the runs that they take."""
    if isinstance(predictor, LowRank):
        for start, stop in predictor.bounds(base.count):
            yield start, stop, Step(predictor.patterns(base.bits[start:stop], start))
    elif isinstance(predictor, Drift):
        yield 0, base.count, Step(base.bits, predictor.table, base.dtype.mantissa)
    else:
        yield 0, base.count, Step(base.bits)


def _reader(delta: Delta, base: Tensor, predictor: Predictor, native: Kernels, room: Room) -> Read:
    """Returns what reads the residual of an exact delta run by run."""
    grouped = _is_grouped(delta)
    if delta.header.coding == "bands":
        read = read_bands(delta, base)
        assert read is not None
        return read
    if delta.header.coding == "gaps" and not grouped:
        count, width = _count_and_width(delta)
        gaps = read_gaps(delta, count, base.count)
        values = sparse_values(delta, base.dtype, count, width)
        return native.sequence(gaps.gaps, gaps.escapes, values, width)
    if delta.header.coding == "planes" and not (grouped and isinstance(predictor, LowRank)):
        planes = decode_planes(delta, base.dtype, base.count)
        return native.groups(planes, base.bits, room) if grouped else native.planes(planes)
    return native.planes(native.split(_folded(delta, base)))


def _folded(delta: Delta, base: Tensor) -> Bits:
    """Returns the residual of all elements in their own order."""
    dtype, coding = base.dtype, delta.header.coding
    if coding == "planes":
        folded = joined(decode_planes(delta, dtype, base.count), dtype)
    elif coding == "gaps":
        count, width = _count_and_width(delta)
        folded = np.zeros(base.count, dtype=dtype.bits)
        values = decode_sparse_values(delta, dtype, count, width)
        folded[decode_gaps(delta, count, base.count)] = values
    elif coding == "bands":
        return decode_bands(delta, base)
    else:
        raise ObjectCorrupt(f"an exact delta has the unknown coding '{coding[:20]}'")
    return ungroup(folded, base.bits, dtype) if _is_grouped(delta) else folded


def _is_grouped(delta: Delta) -> bool:
    grouped = delta.header.params.get("grouped", False)
    if type(grouped) is not bool:
        raise ObjectCorrupt("an exact delta does not say whether its elements are grouped")
    return grouped


def _count_and_width(delta: Delta) -> tuple[int, int]:
    count, width = (delta.header.params.get(key) for key in ("count", "width"))
    if type(count) is not int or type(width) is not int:
        raise ObjectCorrupt("an exact delta lacks the number or the width of its values")
    return count, width
