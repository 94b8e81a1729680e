"""Rebuilding a parameter: the base and a vector of deltas, added over the reals, rounded once.

``W = RN(W0 + Σ c_k · Δ_k)``, element by element, is a definition: it has one
value. This module turns kinds of delta into the sum that is meant, and picks
the cheapest way to its bits. Where the definition needs saying:

* Where W0 is not finite, its bits stay.
* Where the change is exactly zero, W0's bits stay, -0.0 included; where the
  total is zero and the change is not, the result is +0.0; a total that is not
  zero keeps its sign when it underflows.
* ``exact`` with the result W1 is the change W1 - W0; alone, with coefficient
  1, it gives W1's bits. So does ``sparse`` at the elements that it lists.
* ``rowscale``, ``colscale``, ``dora`` and ``rightmul`` are multiples of W0, whatever it is
  replaced by; elements of W0 that are not finite count as zero in a rotation's sums.
* ``dense`` is added to zeros where the base lacks the parameter; there, alone, with
  coefficient 1, it gives its own bits.
* ``replace`` stands instead of W0, or of some rows; deltas add to it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.room import Room, heap
from deltavc.delta.body import Delta
from deltavc.delta.contributions import KINDS, NEED_BASE, contribution
from deltavc.delta.finite import require_finite, require_finite_beside
from deltavc.delta.rounding_form import Factors, LinearForm, Plane, is_tame, spread
from deltavc.delta.rounding_native import NativeKernel, native_kernel
from deltavc.delta.rounding_terms import Experts, ExtraTerm
from deltavc.delta.tensor import Bits, DType, Tensor, dtype_named
from deltavc.errors import MergeConflict, ShapeMismatch, UnsupportedFormat
from deltavc.ids import short
from deltavc.records import canonical

__all__ = ["Rebuild", "Term", "increment_form"]

TASK = 1 << 22  # elements that one thread takes at a time; each ends with 0.2 ms of settling


@dataclass(frozen=True)
class Term:
    """One delta of a parameter's vector, with its coefficient."""

    delta: Delta
    coefficient: Fraction


class Rebuild:
    """The prepared sum of one parameter.

    Args:
        base: The base's tensor; None for a parameter that the base lacks.
        terms: The vector. Equal deltas are taken together, zero coefficients left out.
        name: The parameter's name, for messages.

    Attributes:
        dtype: The result's dtype.
        shape: Its shape.
        rows: Rows of it as a matrix: its first dimension; of a stack of experts, all their rows.
        columns: Columns: the product of the other dimensions.
        identity: Whether the result is the base's own bits because nothing is added.
        changed_rows: Rows that may differ from the base's; None if any may.

    Raises:
        ShapeMismatch: A delta does not fit the parameter, or nothing says what the
            parameter's shape and dtype are.
        MergeConflict: Replacements that exclude each other, have a coefficient other
            than 1, or do not fit what is added to them.
        NonFiniteTensor: A delta holds NaN or infinity where numbers are added.
        UnsupportedFormat: The sum is asked of a dtype without arithmetic.
    """

    def __init__(self, base: Tensor | None, terms: Sequence[Term], *, name: str = "") -> None:
        vector = _collected(terms)
        replacements = [t for t in vector if t.delta.kind == "replace"]
        additive = [t for t in vector if t.delta.kind != "replace"]
        self.identity = not vector
        self.changed_rows: NDArray[np.int64] | None = None
        self._patches: list[tuple[NDArray[np.int64], Bits]] = []
        self._form: LinearForm | None = None
        self._kernel: Any = None
        self._lock = threading.Lock()
        anchor = _anchor(base, replacements, additive, name)
        if replacements and not additive:
            self._patches = _patches(replacements, anchor, name)
        elif replacements:
            anchor = _patched(anchor, _patches(replacements, anchor, name))
        self.dtype: DType = anchor.dtype
        self.shape: tuple[int, ...] = anchor.shape
        self.rows, self.columns = anchor.matrix_shape
        self._result = anchor
        if not additive:
            if self.identity:
                self.changed_rows = np.empty(0, dtype=np.int64)
            elif self._patches:
                self.changed_rows = np.unique(np.concatenate([p[0] for p in self._patches]))
            return
        verbatim = None if replacements else _verbatim(base, additive, anchor, name)
        if verbatim is not None:
            self._result = verbatim
            return
        self._form = _form(base, anchor, additive, bool(replacements), name)
        self.rows, self.columns = self._form.rows, self._form.columns

    def compute(self, start: int, stop: int, out: Bits) -> None:
        """Computes some rows of the result.

        May be called from several threads at once.

        Args:
            start: First row.
            stop: Row after the last.
            out: Receives the rows' bit patterns, flat: (stop - start) · columns of them.

        Raises:
            ShapeMismatch: The rows are not there, or ``out`` does not fit them.
        """
        if not 0 <= start <= stop <= self.rows:
            raise ShapeMismatch(
                f"rows {start} to {stop} are asked of a tensor of {self.rows} rows", rows=self.rows
            )
        wanted = (stop - start) * self.columns
        if out.dtype != self.dtype.bits or out.shape != (wanted,) or not out.flags.c_contiguous:
            raise ShapeMismatch(
                f"the result's rows {start} to {stop} need {wanted} patterns of {self.dtype.name}",
                expected=wanted,
                found=int(out.size),
            )
        if not wanted:
            return
        if self._form is None:
            self._copy(start, stop, out)
            return
        native = self._native()
        if native is not None:
            native.compute(start, stop, out)
            return
        from deltavc.delta.rounding_arithmetic import plain_arithmetic

        with plain_arithmetic():
            if self.dtype.size == 8:
                first = start * self.columns
                out[:] = self._form.settle(np.arange(first, first + wanted))
                return
            self._tiles().compute(start, stop, out)

    @property
    def in_cache(self) -> bool:
        """Whether a few rows at a time cost no more than many, so that they stay in the cache."""
        return self._form is None or self._native() is not None

    def tensor(self, threads: int = 1) -> Tensor:
        """Returns the whole result.

        Args:
            threads: How many threads compute it; the bits do not depend on it.

        Returns:
            The tensor; the base's own, not a copy, if nothing was to be added.
        """
        if self._form is None and not self._patches:
            return self._result
        out = np.empty(self.rows * self.columns, dtype=self.dtype.bits)
        share = min(TASK, -(-out.size // (2 * max(threads, 1))))
        step = max(1, share // max(self.columns, 1))

        def task(start: int) -> None:
            stop = min(start + step, self.rows)
            self.compute(start, stop, out[start * self.columns : stop * self.columns])

        starts = range(0, self.rows, step)
        if threads > 1 and len(starts) > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(task, starts))
        else:
            for start in starts:
                task(start)
        return Tensor(self.dtype, self.shape, out)

    def _copy(self, start: int, stop: int, out: Bits) -> None:
        columns = self.columns
        out[:] = self._result.bits[start * columns : stop * columns]
        matrix = out.reshape(stop - start, columns)
        for index, values in self._patches:
            low, high = np.searchsorted(index, (start, stop))
            matrix[index[low:high] - start] = values[low:high]

    def _native(self) -> NativeKernel | None:
        """Returns the kernel in C where it is there and knows this sum; it needs no torch."""
        with self._lock:
            if self._kernel is None and self._form is not None:
                self._kernel = native_kernel(self._form)
            return self._kernel if isinstance(self._kernel, NativeKernel) else None

    def _tiles(self) -> Any:
        if self._kernel is None:
            from deltavc.delta.rounding_tiles import TileKernel

            # Two threads may both make one; they are equal, and either is kept.
            self._kernel = TileKernel(self._form)  # type: ignore[arg-type]
        return self._kernel


def _collected(terms: Sequence[Term]) -> list[Term]:
    """Returns the vector: equal deltas once, with the sum of their coefficients, zeros left out."""
    kept: list[Term] = []
    seen: dict[bytes, list[int]] = {}
    for term in terms:
        header = canonical.encode(term.delta.header)
        for place in seen.setdefault(header, []):
            if _same(kept[place].delta, term.delta):
                total = kept[place].coefficient + term.coefficient
                kept[place] = replace(kept[place], coefficient=total)
                break
        else:
            seen[header].append(len(kept))
            kept.append(term)
    return [term for term in kept if term.coefficient]


def _same(a: Delta, b: Delta) -> bool:
    """Tells whether two deltas with equal headers are equal."""
    if a is b:
        return True
    pairs = zip(a.streams, b.streams, strict=True)
    return all(
        x.length == y.length
        and (
            not x.length
            or np.array_equal(np.frombuffer(x.data, np.uint8), np.frombuffer(y.data, np.uint8))
        )
        for x, y in pairs
    )


def _anchor(
    base: Tensor | None, replacements: list[Term], additive: list[Term], name: str
) -> Tensor:
    """Returns what stands for W0, rows of replacements not yet put in."""
    for term in replacements:
        if term.coefficient != 1:
            raise MergeConflict(
                f"'{name}' is replaced with the coefficient {term.coefficient}, which must be 1",
                parameter=name,
                deltas=[term.delta.id()],
            )
    whole = [t.delta for t in replacements if not t.delta.header.rows]
    if whole:
        if len(replacements) > 1:
            _conflict(name, [t.delta for t in replacements])
        return whole[0].values()
    if base is not None:
        return base
    found = next((t.delta for t in additive if t.delta.kind == "dense"), None)
    if found is None:
        raise ShapeMismatch(
            f"'{name}' is not in the base, and no delta brings its values", parameter=name
        )
    dtype, shape = dtype_named(found.header.dtype), found.shape
    return Tensor(dtype, shape, np.zeros(int(np.prod(shape, dtype=np.int64)), dtype.bits))


def _conflict(name: str, deltas: list[Delta]) -> None:
    ids = [delta.id() for delta in deltas]
    listed = ", ".join(short(i) for i in ids)
    raise MergeConflict(
        f"'{name}' is replaced in ways that exclude each other: {listed}",
        parameter=name,
        deltas=ids,
    )


def _patches(
    replacements: list[Term], anchor: Tensor, name: str
) -> list[tuple[NDArray[np.int64], Bits]]:
    """Returns the replaced rows as row numbers and values; none for a whole replacement."""
    patches = []
    rows, columns = anchor.matrix_shape
    deltas = [t.delta for t in replacements if t.delta.header.rows]
    for delta in deltas:
        if delta.shape != anchor.shape or delta.header.dtype != anchor.dtype.name:
            raise ShapeMismatch(
                f"'{name}' has replaced rows of another shape or dtype",
                parameter=name,
                expected=[anchor.dtype.name, *anchor.shape],
                found=[delta.header.dtype, *delta.shape],
            )
        index = delta.row_index()
        if bool((index >= rows).any()) or bool((index[1:] <= index[:-1]).any()):
            raise ShapeMismatch(f"'{name}' has replaced rows that it does not have", parameter=name)
        patches.append((index.astype(np.int64), delta.values().bits.reshape(-1, columns)))
    for first in range(len(patches)):
        for second in range(first):
            _, a, b = np.intersect1d(
                patches[first][0], patches[second][0], assume_unique=True, return_indices=True
            )
            if not np.array_equal(patches[first][1][a], patches[second][1][b]):
                _conflict(name, [deltas[second], deltas[first]])
    return patches


def _patched(anchor: Tensor, patches: list[tuple[NDArray[np.int64], Bits]]) -> Tensor:
    if not patches:
        return anchor
    bits = anchor.bits.copy()
    matrix = bits.reshape(anchor.matrix_shape)
    for index, values in patches:
        matrix[index] = values
    return replace(anchor, bits=bits)


def _verbatim(
    base: Tensor | None, additive: list[Term], anchor: Tensor, name: str
) -> Tensor | None:
    """Returns the result where a vector is one delta that knows its bits; None elsewhere."""
    delta = additive[0].delta
    if len(additive) > 1 or additive[0].coefficient != 1:
        return None
    if delta.kind == "dense" and base is None:
        return delta.values()
    if base is None or delta.kind not in ("exact", "sparse"):
        return None
    _check_shape(delta, anchor, False, name)
    if delta.kind == "exact":
        return _decode_exact(delta, base)
    if delta.header.values != "ordinal":
        return None
    index, values = _decode_sparse(delta, base)
    bits = base.bits.copy()
    bits[index] = values.bits
    return replace(base, bits=bits)


def _decode_exact(delta: Delta, base: Tensor, room: Room = heap) -> Tensor:
    from deltavc.delta.exact import decode_exact

    return decode_exact(delta, base, room=room)


def _decode_sparse(delta: Delta, base: Tensor | None) -> tuple[NDArray[np.int64], Tensor]:
    from deltavc.delta.sparse import decode_sparse

    return decode_sparse(delta, base)


def _check_shape(delta: Delta, anchor: Tensor, replaced: bool, name: str) -> None:
    if delta.shape == anchor.shape:
        return
    text = f"'{name}' has the shape {list(anchor.shape)}, and a delta of {list(delta.shape)}"
    if replaced:
        raise MergeConflict(
            f"{text} cannot be added to its replacement", parameter=name, deltas=[delta.id()]
        )
    raise ShapeMismatch(
        f"{text} cannot be added to it",
        parameter=name,
        expected=list(anchor.shape),
        found=list(delta.shape),
    )


def _form(
    base: Tensor | None,
    anchor: Tensor,
    additive: list[Term],
    replaced: bool,
    name: str,
    room: Room = heap,
) -> LinearForm:
    """Returns the sum of a parameter: the anchor, and what each delta contributes to it."""
    if not anchor.dtype.arithmetic:
        raise UnsupportedFormat(
            f"'{name}' is {anchor.dtype.name}, to which nothing can be added",
            hint="replace the tensor as a whole",
            parameter=name,
        )
    share = {"anchor": Fraction(1), "base": Fraction(0)}
    planes: list[Plane] = []
    factors: list[Factors] = []
    extras: list[ExtraTerm] = []
    scales_base = False
    own_share = "base" if replaced else "anchor"
    for term in additive:
        delta, coefficient = term.delta, term.coefficient
        _check_shape(delta, anchor, replaced, name)
        if delta.kind in KINDS:
            added = contribution(delta, coefficient, base, name)
            factors += added.factors
            extras += added.extras
            share[own_share] += added.share
            scales_base |= delta.kind in NEED_BASE
            continue
        if delta.kind == "lowrank":
            factors.append(_factors(term, name))
            continue
        if delta.kind == "dense":
            planes.append(Plane(coefficient, require_finite(delta.values(), name)))
            continue
        if delta.kind == "sparse" and delta.header.values == "float":
            index, changes = _decode_sparse(delta, base)
            planes.append(
                spread(Plane(coefficient, require_finite(changes, name), index), anchor.shape)
            )
            continue
        if base is None:
            raise ShapeMismatch(
                f"'{name}' is not in the base, but a delta needs it there", parameter=name
            )
        if delta.kind == "exact":
            result = _decode_exact(delta, base, room)
            require_finite_beside(result, base, name)
            planes.append(Plane(coefficient, result))
            share[own_share] -= coefficient
            continue
        planes.extend(_listed(term, base, name))
    # Without a share of its own the anchor stays in the sum only to show what is not finite.
    shows = bool(share["anchor"]) or not anchor.is_finite()
    own = [Plane(share["anchor"], anchor)] if shows else []
    if share["base"] and base is not None:
        own.append(Plane(share["base"], base))
    if base is not None and replaced and (scales_base or len(planes) + len(own) > 1):
        require_finite_beside(base, anchor, name)
    view, extras = _view(anchor, factors, extras)
    return LinearForm(view, own + planes, factors, extras)


def _view(
    anchor: Tensor, factors: Sequence[Factors], extras: list[ExtraTerm]
) -> tuple[Tensor, list[ExtraTerm]]:
    """Returns the anchor as the matrix whose rows are computed together.

    A stack of experts has hundreds of matrices of millions of elements, so their
    rows are the sum's, unless another term wants each matrix as one row.
    """
    if factors or not extras or not all(isinstance(term, Experts) for term in extras):
        return anchor, extras
    rows = anchor.shape[0] * anchor.shape[1]
    view = Tensor(anchor.dtype, (rows, anchor.shape[2]), anchor.bits)
    return view, [replace(t, by_row=True) for t in extras if isinstance(t, Experts)]


def increment_form(
    base: Tensor | None,
    terms: Sequence[Term],
    shape: tuple[int, ...],
    name: str,
    room: Room = heap,
) -> LinearForm:
    """Returns the sum of a vector by itself, without W0, as float32.

    Args:
        base: The base's tensor; None for a parameter that the base lacks.
        terms: The vector, without replacements.
        shape: The parameter's shape.
        name: Its name, for messages.
        room: Where decoded tensors go.

    Returns:
        The sum; its anchor is a zero that takes no memory and is no plane of it.
    """
    count = int(np.prod(shape, dtype=np.int64))
    nothing = np.broadcast_to(np.zeros(1, dtype=np.uint32), (count,))
    anchor = Tensor(dtype_named("F32"), shape, nothing)
    form = _form(base, anchor, _collected(terms), True, name, room)
    planes = [plane for plane in form.planes if plane.values is not anchor]
    return LinearForm(form.anchor, planes, form.factors, form.extras)


def _factors(term: Term, name: str) -> Factors:
    delta = term.delta
    for factor in ("b", "a"):
        require_finite(delta.factor(factor), name)
    left, right = delta.matrices()
    wide = "F64" in (delta.header.b_dtype, delta.header.a_dtype)
    tame = not wide or (is_tame(left) and is_tame(right))
    return Factors(term.coefficient * delta.scale, left, right, tame)


def _listed(term: Term, base: Tensor, name: str) -> list[Plane]:
    """Returns the planes of listed elements: their values, and the base's taken off beneath."""
    index, values = _decode_sparse(term.delta, base)
    beneath = Tensor(base.dtype, (int(index.size),), base.bits[index])
    require_finite_beside(values, beneath, name)
    return [Plane(term.coefficient, values, index), Plane(-term.coefficient, beneath, index)]
