"""Increments as numbers: a formal sum of deltas, rounded once to float32.

Merging looks at what a version adds, not at what it is. An increment
``Σ c_k · Δ_k`` is the sum of the rebuild without W0; its elements are the
float32 nearest to the exact sum, so that everything computed from them by
plain element-wise arithmetic is the same on every machine. Nothing of the size
of the parameter is kept but what the deltas themselves decode to: values are
computed anew each time they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.room import Room, heap
from deltavc.delta.merge_native import sum_of_planes
from deltavc.delta.ordinals import widen
from deltavc.delta.rebuild import Term, increment_form
from deltavc.delta.rounding_form import Factors, LinearForm, Plane
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor

__all__ = ["Increment"]

Values = NDArray[np.float32]


class Increment:
    """The prepared increment of one parameter.

    Args:
        base: The base's tensor; None for a parameter that the base lacks.
        terms: The formal sum, without replacements.
        shape: The parameter's shape.
        name: Its name, for messages.
        room: Where decoded tensors go.

    Attributes:
        count: Number of elements.
        columns: Elements that belong together: runs of whole rows are computed at once.

    Raises:
        NonFiniteTensor: A delta, or the base where a delta stands on it, holds NaN or infinity.
        ShapeMismatch: A delta does not fit the parameter.
        UnsupportedFormat: A delta's kind has no value of its own.
    """

    def __init__(
        self,
        base: Tensor | None,
        terms: Sequence[Term],
        shape: tuple[int, ...],
        *,
        name: str = "",
        room: Room = heap,
    ) -> None:
        form = increment_form(base, terms, shape, name, room)
        for plane in form.planes:
            if not plane.values.is_finite():
                raise NonFiniteTensor(
                    f"'{name}' holds NaN or infinity, which has no increment",
                    hint=f"take one side: --resolve '{name}=ours'",
                    parameter=name,
                )
        self._form: LinearForm = form
        self.count = form.rows * form.columns
        whole = [p for p in form.planes if p.index is None]
        self._listed = [p.index for p in form.planes if p.index is not None]
        plain = not form.extras and _single_operation(form.factors, whole)
        self._whole = whole if plain else None
        # Planes alone can be cut anywhere; products want whole rows.
        self.columns = 1 if self._whole is not None else max(form.columns, 1)
        self._kernel: Any = None

    @property
    def factors(self) -> tuple[Factors, ...] | None:
        """The sum as products of factors with coefficients; None if it is not only that."""
        form = self._form
        return form.factors if form.factors and not form.planes and not form.extras else None

    def values(self, start: int, stop: int) -> Values:
        """Returns some elements.

        May be called from several threads at once.

        Args:
            start: First flat element number; a multiple of ``columns``.
            stop: Number after the last; likewise.

        Returns:
            A new array: the float32 nearest to each exact sum, +0.0 for zero.

        Numerics:
            What overflows float32 is infinite; the caller looks for it where it matters.
        """
        if self._whole is None:
            return self._products(start, stop)
        with _plain(), np.errstate(over="ignore", under="ignore"):
            out = _operation(self._whole, start, stop)
        for index in self._listed:
            low, high = np.searchsorted(index, (start, stop)).tolist()
            if low < high:
                flat = index[low:high]
                with _plain():
                    out[flat - start] = self._form.settle(flat).view(np.float32)
        return out

    def _products(self, start: int, stop: int) -> Values:
        from deltavc.delta.rounding_arithmetic import plain_arithmetic

        if self._kernel is None:
            from deltavc.delta.rounding_tiles import TileKernel

            # Two threads may both make one; they are equal, and either is kept.
            self._kernel = TileKernel(self._form)
        bits = np.zeros(stop - start, dtype=np.uint32)
        with plain_arithmetic():
            for first, end in self._runs(start // self.columns, stop // self.columns):
                part = bits[first * self.columns - start : end * self.columns - start]
                self._kernel.compute(first, end, part)
        return bits.view(np.float32)

    def _runs(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yields the runs of rows that are not zero for want of a factor.

        A zero is never decided by the fast path, and adapters have rows of nothing else.
        """
        if self._form.planes or self._form.extras:
            yield first, end
            return
        active = np.zeros(end - first, dtype=np.bool_)
        for term in self._form.factors:
            active |= term.left[first:end].any(axis=1)
        edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0))
        for low, high in edges.reshape(-1, 2).tolist():
            yield first + low, first + high


def _single_operation(factors: Sequence[Factors], whole: Sequence[Plane]) -> bool:
    """Tells whether one float32 addition of float32 numbers gives each sum, rounded once."""
    return (
        not factors
        and len(whole) <= 2
        and all(abs(p.coefficient) == 1 and p.values.dtype.size <= 4 for p in whole)
    )


def _operation(whole: Sequence[Plane], start: int, stop: int) -> Values:
    parts = [(p.values.bits[start:stop], 1 if p.coefficient > 0 else -1) for p in whole]
    if len({p.values.dtype for p in whole}) == 1:
        found = sum_of_planes(parts, whole[0].values.dtype)
        if found is not None:
            return found
    out: Values = np.zeros(stop - start, dtype=np.float32)
    for number, plane in enumerate(whole):
        part = widen(plane.values.bits[start:stop], plane.values.dtype, np.float32)
        if number:
            (np.add if plane.coefficient > 0 else np.subtract)(out, part, out=out)
        else:
            out = part if plane.coefficient > 0 else np.negative(part, out=part)
    out += np.float32(0)  # -0.0 becomes +0.0
    return out


@contextmanager
def _plain() -> Iterator[None]:
    """Gives IEEE arithmetic without importing torch where the thread has it anyway."""
    smallest_normal = 2.2250738585072014e-308
    if smallest_normal * float("0.5") and float("1") + float("1e-30") == 1.0:
        yield
        return
    from deltavc.delta.rounding_arithmetic import plain_arithmetic

    with plain_arithmetic():
        yield
