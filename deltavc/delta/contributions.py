"""What scaled, rotated and factored deltas contribute to a parameter's sum.

The formulas are those of ``docs/reference/format/delta.md``: each delta becomes
terms over the frozen base, and a share of the base itself that goes with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.body import Delta
from deltavc.delta.fixedpoint import fixed_product
from deltavc.delta.product import check_exact, kron_factors
from deltavc.delta.rotations import gain, matrix, reflections
from deltavc.delta.rounding_form import Factors, is_tame
from deltavc.delta.rounding_terms import (
    Blocks,
    Experts,
    ExtraTerm,
    Gained,
    Hadamard,
    Kronecker,
    Scaled,
)
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch
from deltavc.records.model import fraction_from_text

__all__ = ["KINDS", "NEED_BASE", "Contribution", "contribution"]

Array = NDArray[np.float64]

NEED_BASE = frozenset({"rowscale", "colscale", "dora", "rightmul"})
KINDS = NEED_BASE | {"product"}


@dataclass(frozen=True)
class Contribution:
    """Parts of a sum.

    Attributes:
        factors: Low-rank terms.
        extras: Terms of more than two numbers.
        share: What the base itself is multiplied by, beside them.
    """

    factors: list[Factors] = field(default_factory=list)
    extras: list[ExtraTerm] = field(default_factory=list)
    share: Fraction = Fraction(0)


def contribution(
    delta: Delta, coefficient: Fraction, base: Tensor | None, name: str
) -> Contribution:
    """Returns what a delta of one of :data:`KINDS` contributes.

    Args:
        delta: The delta.
        coefficient: Its coefficient.
        base: The base's tensor; None where the base lacks the parameter.
        name: The parameter's name, for messages.

    Returns:
        Its parts of the sum.

    Raises:
        ShapeMismatch: The base lacks the parameter, or it does not fit there.
        NonFiniteTensor: The delta holds NaN or infinity.
        UnsupportedFormat: Its factors are not exact, or its rotation is too wild.
    """
    for part, tensor in delta.tensors().items():
        if not tensor.is_finite():
            raise NonFiniteTensor(
                f"a delta of '{name}' holds NaN or infinity", parameter=name, tensor=part
            )
    if delta.kind == "product":
        return _product(delta, coefficient)
    if base is None:
        raise ShapeMismatch(
            f"'{name}' is not in the base, but a delta needs it there", parameter=name
        )
    if base.shape != delta.shape or not base.dtype.arithmetic:
        raise ShapeMismatch(
            f"a delta of '{name}' does not fit the base's tensor",
            parameter=name,
            expected=list(delta.shape),
            found=[base.dtype.name, *base.shape],
        )
    if delta.kind == "dora":
        return _dora(delta, coefficient, base)
    if delta.kind == "rightmul":
        return _rotation(delta, coefficient, base, name)
    values = delta.tensor("v").to_float64().reshape(-1)
    offset = fraction_from_text(delta.header.offset)
    axis = 0 if delta.kind == "rowscale" else 1
    if axis:
        values = np.repeat(values, int(np.prod(delta.shape[2:], dtype=np.int64)))
    return Contribution(
        extras=[Scaled(coefficient, base, values, axis)], share=coefficient * offset
    )


def _dora(delta: Delta, coefficient: Fraction, base: Tensor) -> Contribution:
    if "gain" in delta.header.tensors:
        gains = delta.tensor("gain").to_float64()
    else:
        from deltavc.delta.dora import gains_of

        gains = gains_of(delta, base)
    axis = int(delta.header.transposed)
    left, right = delta.matrices()
    extras: list[ExtraTerm] = [
        Scaled(coefficient, base, gains, axis),
        Gained(coefficient * delta.scale, left, right, gains, axis),
    ]
    return Contribution(extras=extras, share=-coefficient)


def _product(delta: Delta, coefficient: Fraction) -> Contribution:
    check_exact(delta)
    weight, form = coefficient * delta.scale, delta.header.form
    values = {name: tensor.to_float64() for name, tensor in delta.tensors().items()}
    if form == "hadamard":
        first, second = ((values[f"w{i}a"], values[f"w{i}b"]) for i in (1, 2))
        if delta.header.transposed:
            first, second = (
                (np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)) for a, b in (first, second)
            )
        return Contribution(extras=[Hadamard(weight, first, second)])
    if form == "experts":
        lefts, rights = _experts(values, delta.shape[0], delta.header.transposed)
        return Contribution(extras=[Experts(weight, lefts, rights)])
    if form == "kron":
        return Contribution(extras=[Kronecker(weight, kron_factors(values))])
    left, right = delta.matrices()
    return Contribution(factors=[Factors(weight, left, right, is_tame(left) and is_tame(right))])


def _experts(values: dict[str, Array], count: int, transposed: bool) -> tuple[Array, Array]:
    """Returns the factors of each expert: (experts, rows, r) and (experts, r, columns)."""
    a, b = values["a"], values["b"]
    rights = a.reshape(count, -1, a.shape[1])
    lefts = b.reshape(b.shape[0], -1, count).transpose(2, 0, 1)
    if transposed:
        lefts, rights = rights.transpose(0, 2, 1), lefts.transpose(0, 2, 1)
    return np.ascontiguousarray(lefts), np.ascontiguousarray(rights)


def _rotation(delta: Delta, coefficient: Fraction, base: Tensor, name: str) -> Contribution:
    if delta.header.form != "hra":
        gains = gain(delta)
        extras: list[ExtraTerm] = [Blocks(coefficient, base, matrix(delta), gains)]
        if gains is None:
            return Contribution(extras=extras)
        extras.append(Scaled(coefficient, base, gains, 0))
        return Contribution(extras=extras, share=-coefficient)
    vectors, right = reflections(delta)
    left = fixed_product(base, vectors)
    if not np.isfinite(left).all():
        raise NonFiniteTensor(f"a rotation of '{name}' is too large", parameter=name)
    return Contribution(
        factors=[Factors(coefficient, left, right, is_tame(left) and is_tame(right))]
    )
