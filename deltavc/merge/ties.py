"""TIES: trim, elect a sign, add up those that agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from deltavc.merge.elementwise import Electing
from deltavc.merge.trim import Scoped, Trimming

__all__ = ["TensorTies", "Ties"]


@dataclass(frozen=True)
class TensorTies(Trimming, Electing):
    """TIES of one matrix by itself: what the strategies in other spaces make use of."""

    source: ClassVar[str] = "arXiv:2306.01708"


@dataclass(frozen=True)
class Ties(Scoped, TensorTies):
    """Each side keeps its largest elements; those that have the elected sign are averaged."""

    name: ClassVar[str] = "ties"
    summary: ClassVar[str] = "keeps the largest changes of each side and averages those that agree"
