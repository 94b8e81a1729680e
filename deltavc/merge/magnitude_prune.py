"""Magnitude pruning: keep the largest changes of each side and add them up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from deltavc.merge.elementwise import Adding
from deltavc.merge.trim import Scoped

__all__ = ["MagnitudePrune"]


@dataclass(frozen=True)
class MagnitudePrune(Scoped, Adding):
    """m + λ Σ w_i x_i, x_i the increment's largest elements."""

    name: ClassVar[str] = "magnitude-prune"
    summary: ClassVar[str] = "keeps the largest changes of each side and adds them up"
    source: ClassVar[str] = "the trimming of arXiv:2306.01708, without its vote"
