"""What a live model needs to know of versions, whoever keeps them.

The repository's side is :mod:`deltavc.repo.living`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from deltavc.delta.rebuild import Rebuild
from deltavc.delta.tensor import DType, Tensor
from deltavc.delta.vector import Terms
from deltavc.ids import BaseId, CommitId

__all__ = ["Form", "LiveSource", "LiveVersion"]


@dataclass(frozen=True)
class Form:
    """Dtype and shape of a parameter."""

    dtype: DType
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.shape))}) {self.dtype.name.lower()}"


class LiveVersion(Protocol):
    """A version that can be rebuilt."""

    @property
    def commit(self) -> CommitId:
        """The commit."""

    @property
    def base(self) -> BaseId:
        """Fingerprint of the base that it stands on."""

    @property
    def params(self) -> Mapping[str, Terms]:
        """Terms of each parameter that is not the base's own."""

    @property
    def forms(self) -> Mapping[str, Form]:
        """Every parameter of the version: those of the base that it has, and its new ones."""

    def origin(self, param: str) -> Tensor | None:
        """Returns the base's tensor; None where the base lacks the parameter."""

    def rebuild(self, param: str) -> Rebuild:
        """Prepares the sum of a parameter: reads its deltas."""


class LiveSource(Protocol):
    """Where versions come from."""

    @property
    def tied(self) -> Mapping[str, str]:
        """Parameters that are one tensor with another: alias to name."""

    def open(self, rev: str) -> LiveVersion:
        """Opens a revision, after making sure that the base is still the one that was recorded."""
