"""What the strategies in the space of low-rank factors have in common.

All increments of a parameter are brought into the bases of their columns and of
their rows together (:class:`deltavc.delta.spectrum.Sum`). There an increment is a small
matrix, its core. A strategy makes one core of several, or one set of rows, and
what it makes is stored as one pair of factors. Nothing dense is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from deltavc.delta import kinds
from deltavc.delta.factored import Form
from deltavc.delta.ordered import Matrix, combine, padded
from deltavc.delta.orthonormal import Rows, basis
from deltavc.delta.rebuild import Term
from deltavc.delta.spectrum import FACTORED, FLOOR, Spectrum, Sum, Triplets, triplets
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.delta.truncate import cut
from deltavc.errors import NonFiniteTensor, UnsupportedFormat
from deltavc.merge.strategy import Fact, Operand, Outcome, Parameter, Side

__all__ = ["finished", "in_rows", "inner", "product", "significant", "space", "values_of"]


def space(parameter: Parameter, operands: Sequence[Operand], factor: Fraction | None = None) -> Sum:
    """Returns the operands' increments in common bases.

    Args:
        parameter: The parameter.
        operands: The sides.
        factor: Multiplied with each side's weight; None to leave weights out.

    Raises:
        UnsupportedFormat: An increment has no factors.
        NonFiniteTensor: A factor holds NaN or infinity.
    """
    groups = []
    for operand in operands:
        weight = Fraction(1) if factor is None else factor * operand.weight
        for term in operand.terms:
            if term.delta.kind not in FACTORED:
                raise UnsupportedFormat(
                    f"a side's change of '{parameter.name}' is {term.delta.kind}, which has no"
                    " low-rank factors",
                    hint=f"use an element-wise strategy for it: --resolve '{parameter.name}=ties'",
                    parameter=parameter.name,
                    kind=term.delta.kind,
                )
        groups.append([(term.delta, term.coefficient * weight) for term in operand.terms])
    return Sum(groups, parameter.name)


def finished(
    parameter: Parameter,
    operands: Sequence[Operand],
    spectrum: Spectrum,
    facts: dict[str, Fact],
) -> Outcome:
    """Returns a matrix as the outcome of a merge: one low-rank delta with float32 factors.

    Args:
        parameter: The parameter.
        operands: The sides.
        spectrum: The matrix.
        facts: What else is to be told.
    """
    if not spectrum.parts.rank:
        return Outcome(coefficients=(Fraction(0),) * len(operands), facts={**facts, "rank": 0})
    deltas = [term.delta for operand in operands for term in operand.terms]
    delta, error, rank = cut(spectrum, Form.of(parameter.shape, deltas))
    if not all(delta.factor(name).is_finite() for name in ("b", "a")):
        raise NonFiniteTensor(
            f"the merged increment of '{parameter.name}' is too large for its factors",
            hint="give smaller weights, or a smaller lambda",
            parameter=parameter.name,
        )
    return Outcome(delta=delta, facts={**facts, "rank": rank, "relative_error": error})


def inner(
    parameter: Parameter, operands: Sequence[Operand], blocks: Sequence[Matrix]
) -> tuple[Parameter, list[Operand]]:
    """Returns small matrices as the increments of a parameter of their own.

    Element-wise strategies merge them as they do others: as float32 numbers, under the
    parameter's name and the sides' keys.

    Args:
        parameter: The parameter that the matrices belong to.
        operands: The sides.
        blocks: One matrix for each, all of one shape.
    """
    shape = blocks[0].shape
    small = Parameter(parameter.name, None, DTYPES["F32"], shape)
    made = []
    for operand, block in zip(operands, blocks, strict=True):
        values = Tensor.from_array(np.ascontiguousarray(block, dtype=np.float32))
        term = Term(kinds.dense(values), Fraction(1))
        made.append(Operand(Side((term,), operand.key), operand.weight))
    return small, made


def values_of(outcome: Outcome, shape: tuple[int, ...]) -> tuple[Matrix, dict[str, Fact]]:
    """Returns the values of an inner merge, and its facts."""
    facts = {key: value for key, value in outcome.facts.items() if key != "stored"}
    if outcome.delta is None:
        return np.zeros(shape), facts
    return outcome.delta.values().to_float64(), facts


def in_rows(total: Sum, left: Matrix, rows: Matrix) -> Spectrum:
    """Returns ``left`` of the left basis times rows of any kind.

    Shapes:
        left: (r, left.size) orthonormal coordinates; rows: (r, columns), finite.
    """
    made = Rows.of(padded(rows), rows.shape[1])
    assert made is not None  # float32 numbers
    right = basis(made)
    # Rows that were too small or too large for their squares stand in units of their own.
    powers = np.maximum(made.exponents, -1000)[:, np.newaxis].astype(np.int32)
    parts = significant(triplets(np.ldexp(right.coordinates, powers)))
    turned = Triplets(product(parts.left, left), parts.values, parts.right)
    return Spectrum(total.left, right, turned, total.exponent)


def significant(parts: Triplets) -> Triplets:
    """Returns triplets without those that are rounding of the largest."""
    return parts.above(FLOOR * float(parts.values[0])) if parts.rank else parts


def product(one: Matrix, other: Matrix) -> Matrix:
    """Returns the product of two small matrices."""
    return combine(one, padded(other))[:, : other.shape[1]]
