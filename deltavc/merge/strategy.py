"""What a merge strategy is: a pure function of the increments of one parameter.

A merge works parameter by parameter. Each side i brings its increment
``d_i = D_i - D_m`` from the merge base m, as a formal sum of deltas: nothing is
computed before it must be. A strategy answers with what is added to m's own
vector: coefficients of the very increments (low rank stays low rank, nothing is
stored), or one new delta. It knows neither repositories nor commits.

What comes out depends on the increments, the options and the sides' keys alone:
not on threads, blocks, the machine or, for a symmetric strategy, the order in
which the sides are named.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

from deltavc.codec.room import Room, heap
from deltavc.delta.kinds import Delta
from deltavc.delta.rebuild import Term
from deltavc.delta.tensor import DType, Tensor
from deltavc.errors import MergeConflict, ShapeMismatch, UnsupportedFormat, UsageError
from deltavc.merge.options import Option, options_of
from deltavc.merge.selection import Share

__all__ = ["Fact", "Operand", "Outcome", "Parameter", "Side", "Strategy", "check_sides"]

Fact = float | int | str


@dataclass(frozen=True)
class Side:
    """One side's increment of one parameter: what it adds to the merge base.

    Attributes:
        terms: The formal sum of deltas; never empty.
        key: Stable identity of the side, its commit id: canonical order and random
            numbers follow it.
        share: What is kept of it, where the whole model decides that; see
            :func:`deltavc.merge.survey.survey`.
    """

    terms: tuple[Term, ...]
    key: str
    share: Share | None = None


@dataclass(frozen=True)
class Parameter:
    """The parameter that is merged.

    Attributes:
        name: Its name; random numbers depend on it.
        base: The base's tensor, needed by deltas that are relative to it; None for a
            parameter that the base lacks.
        dtype: Its dtype.
        shape: Its shape.
        room: Where arrays of its size go.
    """

    name: str
    base: Tensor | None
    dtype: DType
    shape: tuple[int, ...]
    room: Room = heap

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Shape as rows and columns: first dimension, product of the others."""
        rows = self.shape[0] if self.shape else 1
        columns = 1
        for size in self.shape[1:]:
            columns *= size
        return rows, columns

    @property
    def count(self) -> int:
        """Number of elements."""
        rows, columns = self.matrix_shape
        return rows * columns


@dataclass(frozen=True)
class Outcome:
    """What a merge adds to the merge base's vector; just one of the first two is set.

    Attributes:
        coefficients: One for each side, in the order given: the result is m plus the
            sum of coefficient · increment, formal and exact.
        delta: One new additive delta: the result is m plus this.
        facts: What it cost: share of nonzeros, rank, relative error, threshold, ….
    """

    coefficients: tuple[Fraction, ...] | None = None
    delta: Delta | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True)
class Operand:
    """A side in the order in which a strategy works.

    Attributes:
        side: The side.
        weight: Its weight; 1 where the strategy has none.
    """

    side: Side
    weight: Fraction

    @property
    def terms(self) -> tuple[Term, ...]:
        """The side's formal sum."""
        return self.side.terms

    @property
    def key(self) -> str:
        """The side's stable identity."""
        return self.side.key


@dataclass(frozen=True)
class Strategy(ABC):
    """A strategy with its options, all of them fields of a subclass.

    A subclass writes :meth:`_combine` and, where its options depend on each
    other or on the number of sides, extends :meth:`check`.

    Attributes:
        name: Its name on the command line and in commits.
        summary: What it does, one line.
        source: The paper, or where the formula is from.
        symmetric: Whether the sides' order means nothing.
        sides: Least and largest number of sides; None for no limit.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    symmetric: ClassVar[bool] = True
    sides: ClassVar[tuple[int, int | None]] = (1, None)

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Returns the options by name, in the order in which they are told."""
        return options_of(cls)

    def record(self) -> dict[str, str]:
        """Returns the name and all options as text, defaults included, for the commit.

        Weights that follow from the number of sides are left out.
        """
        written = {"strategy": self.name}
        for name, each in self.options().items():
            value: Any = getattr(self, each.field)
            if value is not None:
                written[name] = each.kind.write(value)
        return written

    @property
    def surveys(self) -> bool:
        """Whether a parameter's result depends on the other parameters, too.

        Then :func:`deltavc.merge.survey.survey` goes over all of them first.
        """
        return False

    def check(self, count: int) -> None:
        """Refuses a number of sides that does not fit.

        Args:
            count: The number of sides.

        Raises:
            UsageError: The strategy is for fewer or more sides, or its weights are.
        """
        least, most = self.sides
        if count < least or (most is not None and count > most):
            wanted = str(least) if most == least else f"{least} or more"
            raise UsageError(
                f"{self.name} merges {wanted} sides, not {count}",
                hint="merge one revision at a time, or choose another strategy",
                strategy=self.name,
                expected=least,
                found=count,
            )
        weights = getattr(self, "weights", None)
        if weights is not None and len(weights) != count:
            raise UsageError(
                f"{self.name} has {len(weights)} weights for {count} sides",
                hint="give one weight for each side, ours first",
                strategy=self.name,
                expected=count,
                found=len(weights),
            )

    def combine(self, parameter: Parameter, sides: Sequence[Side], *, threads: int = 1) -> Outcome:
        """Merges the increments of one parameter.

        Args:
            parameter: The parameter.
            sides: Ours first. Weights follow their side.
            threads: How many threads compute; the result does not depend on it.

        Returns:
            What is added to the merge base's vector.

        Raises:
            UsageError: The sides are too few or too many for the strategy.
            ShapeMismatch: An increment does not fit the parameter.
            MergeConflict: An increment replaces instead of adding.
            UnsupportedFormat: The parameter's dtype, or the kind of an increment, is not
                for this strategy.
            NonFiniteTensor: An increment, or what comes out, is not finite.
        """
        self.check(len(sides))
        check_sides(parameter, sides)
        order = list(range(len(sides)))
        if self.symmetric:
            order.sort(key=lambda i: sides[i].key)
        weights = self._weights(len(sides))
        operands = [Operand(sides[i], weights[i]) for i in order]
        outcome = self._combine(parameter, operands, threads)
        if outcome.coefficients is None:
            return outcome
        placed = dict(zip(order, outcome.coefficients, strict=True))
        return replace(outcome, coefficients=tuple(placed[i] for i in range(len(sides))))

    def _weights(self, count: int) -> tuple[Fraction, ...]:
        """Returns the sides' weights, in the order given."""
        weights: tuple[Fraction, ...] | None = getattr(self, "weights", None)
        return (Fraction(1),) * count if weights is None else weights

    @abstractmethod
    def _combine(self, parameter: Parameter, operands: Sequence[Operand], threads: int) -> Outcome:
        """Merges operands that fit, in canonical order if the strategy is symmetric."""


def check_sides(parameter: Parameter, sides: Sequence[Side]) -> None:
    """Refuses increments that no strategy can add up.

    Args:
        parameter: The parameter.
        sides: Its sides.

    Raises:
        UsageError: A side has no increment.
        ShapeMismatch: An increment does not fit the parameter.
        MergeConflict: An increment replaces instead of adding.
        UnsupportedFormat: The parameter's dtype has no increments.
    """
    if not parameter.dtype.arithmetic:
        raise UnsupportedFormat(
            f"'{parameter.name}' is {parameter.dtype.name}, which has no increments to merge",
            hint=f"take one side: --resolve '{parameter.name}=ours'",
            parameter=parameter.name,
        )
    for side in sides:
        if not side.terms:
            raise UsageError(f"a side of '{parameter.name}' has no increment")
        for term in side.terms:
            if term.delta.kind == "replace":
                raise MergeConflict(
                    f"'{parameter.name}' is replaced on one side, which cannot be added up",
                    hint=f"take one side: --resolve '{parameter.name}=ours'",
                    parameter=parameter.name,
                )
            if term.delta.shape != parameter.shape:
                raise ShapeMismatch(
                    f"'{parameter.name}' has the shape {list(parameter.shape)}, and an"
                    f" increment of {list(term.delta.shape)} cannot be merged into it",
                    hint=f"take one side: --resolve '{parameter.name}=ours'",
                    parameter=parameter.name,
                    expected=list(parameter.shape),
                    found=list(term.delta.shape),
                )
