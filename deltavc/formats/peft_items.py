"""What an adapter changes, item by item, not yet on any base.

An item knows its module as the adapter names it and makes its delta once the
base's shape is known; finding the base's parameter is the work of
:mod:`deltavc.formats.peft_match`. The items that all kinds of adapter share
are here; what one kind has of its own is in :mod:`deltavc.formats.peft_kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.digest import object_id
from deltavc.delta.kinds import Delta, lowrank, replace_rows
from deltavc.delta.tensor import Tensor
from deltavc.errors import UnsupportedFormat
from deltavc.ids import BlobId

__all__ = [
    "AdapterItem",
    "Change",
    "Factors",
    "Place",
    "Rows",
    "Whole",
    "blob_of",
    "by_rank",
    "oriented",
]


@dataclass(frozen=True)
class Place:
    """A parameter of a base, to which a change is to be made.

    Attributes:
        shape: Its shape.
        transposed: It is the transpose of what the layer computes with.
        origin: Gives the base's tensor.
    """

    shape: tuple[int, ...]
    transposed: bool
    origin: Callable[[], Tensor]

    def values(self) -> NDArray[np.float64]:
        """Returns the base's values."""
        return self.origin().to_float64()


@dataclass(frozen=True, eq=False)
class AdapterItem:
    """One change that an adapter makes.

    Attributes:
        module: The module, as the adapter names it.
        suffix: The parameter in the module: weight, bias, ….
    """

    module: str
    suffix: str

    @property
    def kind(self) -> str:
        """What it is, for people and for the order of things."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The parameter, as the adapter names it."""
        return f"{self.module}.{self.suffix}" if self.module else self.suffix


@dataclass(frozen=True, eq=False)
class Change(AdapterItem):
    """A change of a parameter that adds up with others.

    Attributes:
        parts: The tensors that it is made of, by stream of the delta, as found.
        keys: Their keys in the adapter's file.
        optional: It is no error if the base lacks the parameter: a bias.
        verbatim: Whether the parts are the file's, and not made of them.
        shared: Parts that are kept as blobs, once for several deltas, and the blobs' ids.
    """

    parts: Mapping[str, Tensor]
    keys: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    optional: bool = field(default=False, kw_only=True)
    verbatim: bool = field(default=True, kw_only=True)
    shared: Mapping[str, BlobId] = field(default_factory=dict, kw_only=True)

    @property
    def kind(self) -> str:
        """``change``."""
        return "change"

    @property
    def layer(self) -> str:
        """What the adapter's layer was: linear, embedding or conv."""
        return "linear"

    def sharing(self) -> Self:
        """Returns the change with all its parts kept as blobs, for another one to use them too."""
        blobs = {part: blob_of(tensor) for part, tensor in self.parts.items()}
        return replace(self, shared=blobs)

    @property
    def told(self) -> str:
        """The shapes, for messages."""
        return " and ".join(f"{part} {tensor.shape}" for part, tensor in self.parts.items())

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns in which ways the change fits a parameter: as it is, transposed, both, none."""
        raise NotImplementedError

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter.

        Args:
            place: The parameter.

        Returns:
            The delta.

        Raises:
            UnsupportedFormat: It has no exact form that is as small as the adapter.
        """
        raise NotImplementedError

    def result(self, place: Place) -> NDArray[np.float64]:
        """Returns the changed parameter in float64, for changes without a form of their own.

        Args:
            place: The parameter.

        Returns:
            The values; sums in a fixed order, so that they are the same on every machine.

        Raises:
            UnsupportedFormat: It cannot be had in this way.
        """
        raise UnsupportedFormat(
            f"the change of '{self.name}' of shape {list(place.shape)} has no exact form",
            hint="merge the adapter with PEFT, then commit the full model",
            parameter=self.name,
        )

    def pieces(self, place: Place) -> Iterator[NDArray[np.float64]]:
        """Yields the changed parameter in flat order, in pieces that are not too large.

        Raises:
            UnsupportedFormat: It cannot be had in this way.
        """
        yield self.result(place)


@dataclass(frozen=True, eq=False)
class Factors(Change):
    """Low-rank factors.

    Attributes:
        scale: alpha / r, or the float64 nearest to alpha / sqrt(r).
        form: linear, embedding or conv.

    Shapes:
        b: (out, r), or (out, r, 1, …) of a convolution.
        a: (r, in), or (r, in, k, …).
    """

    scale: Fraction
    form: str

    @property
    def kind(self) -> str:
        """``lowrank``."""
        return "lowrank"

    @property
    def layer(self) -> str:
        """linear, embedding or conv."""
        return self.form

    @property
    def b(self) -> Tensor:
        """The factor B."""
        return self.parts["b"]

    @property
    def a(self) -> Tensor:
        """The factor A."""
        return self.parts["a"]

    @property
    def rank(self) -> int:
        """The factors' inner dimension."""
        return self.a.shape[0]

    @property
    def told(self) -> str:
        """The shapes, for messages."""
        return f"B {self.b.shape} and A {self.a.shape}"

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns in which ways the product fits a parameter: as it is, transposed, both, none."""
        product = (self.b.shape[0], *self.a.shape[1:])
        if self.layer == "conv":
            return (False,) if shape == product else ()
        if self.layer == "embedding":
            return (True,) if shape == product[::-1] else ()
        return oriented(product, shape)

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter; the base is not asked."""
        return lowrank(
            self.b, self.a, self.scale,
            shape=place.shape, transposed=place.transposed, layer=self.layer,
        )  # fmt: skip


def oriented(product: tuple[int, ...], shape: tuple[int, ...]) -> tuple[bool, ...]:
    """Returns in which ways a linear layer's (out, in) is a parameter's shape."""
    return tuple(t for t in (False, True) if shape == (product[::-1] if t else product))


@dataclass(frozen=True, eq=False)
class Rows(AdapterItem):
    """Trained rows of an embedding, which stand instead of the base's.

    Attributes:
        index: Ascending row numbers.
        values: The rows.
        key: Their key in the adapter's file.
    """

    index: NDArray[np.uint64]
    values: Tensor
    key: str = ""

    @property
    def kind(self) -> str:
        """``rows``."""
        return "rows"

    def delta(self, shape: tuple[int, ...], values: Tensor | None = None) -> Delta:
        """Returns the delta on a parameter of this shape.

        Args:
            shape: The parameter's shape.
            values: The rows in the parameter's dtype, where it is not the adapter's.

        Returns:
            The delta.
        """
        return replace_rows(self.index, self.values if values is None else values, shape)


@dataclass(frozen=True, eq=False)
class Whole(AdapterItem):
    """A parameter that the adapter brings whole.

    Attributes:
        values: The parameter.
        copied: It is the adapter's copy of what the base has under its factors.
        saved: The config names its module in ``modules_to_save``.
        key: Its key in the adapter's file.
    """

    values: Tensor
    copied: bool = False
    saved: bool = False
    key: str = ""

    @property
    def kind(self) -> str:
        """``bias`` or ``replace``."""
        return "bias" if self.suffix == "bias" else "replace"


def blob_of(tensor: Tensor) -> BlobId:
    """Returns the id of the blob that holds a tensor's bytes."""
    return BlobId(object_id("blob", [tensor.raw()]))


def by_rank(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns left @ right summed rank by rank, so that its bits are the same everywhere."""
    total = np.zeros((left.shape[0], right.shape[1]))
    for k in range(left.shape[1]):
        total += left[:, k, None] * right[k]
    return total
