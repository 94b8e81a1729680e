"""Lengths and angles of increments, as exact as the strategies on spheres need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from deltavc.delta.increment import Increment
from deltavc.merge.numbers import decimal
from deltavc.merge.reduce import gram
from deltavc.merge.strategy import Operand, Parameter

__all__ = ["Angles", "increments_of"]


def increments_of(parameter: Parameter, operands: Sequence[Operand]) -> list[Increment]:
    """Returns the operands' increments, ready to be computed."""
    return [
        Increment(
            parameter.base,
            operand.terms,
            parameter.shape,
            name=parameter.name,
            room=parameter.room,
        )
        for operand in operands
    ]


@dataclass(frozen=True)
class Angles:
    """Norms of increments and cosines between them, in decimals of the current precision.

    Attributes:
        norms: Frobenius norms.
        cosines: A symmetric matrix with a diagonal of 1; 0 beside an increment of zero.
    """

    norms: list[Decimal]
    cosines: list[list[Decimal]]

    @classmethod
    def between(cls, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Angles:
        """Returns norms and cosines of the operands' increments."""
        products = gram(increments_of(parameter, operands), threads)
        norms = [decimal(products[i][i]).sqrt() for i in range(len(operands))]
        cosines = [
            [
                Decimal(1) if i == j else _cosine(decimal(product), norms[i] * norms[j])
                for j, product in enumerate(row)
            ]
            for i, row in enumerate(products)
        ]
        return cls(norms, cosines)


def _cosine(product: Decimal, size: Decimal) -> Decimal:
    if not size:
        return Decimal(0)
    # Rounding may leave it a digit in the fiftieth place beyond 1.
    return max(Decimal(-1), min(Decimal(1), product / size))
