"""Cutting a parameter into blocks and pieces, and going over them with threads.

A block's temporaries stay in cache. Blocks are whole rows where the
computation needs that. Consecutive blocks make up pieces, at most 64 of them:
one task each. Results are collected in order, and nothing that is computed
depends on where the cuts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Blocks"]

T = TypeVar("T")
BLOCK = 1 << 16  # elements; 256 KiB of float32, a dozen of which stay in a core's cache
PIECES = 64


@dataclass(frozen=True)
class Blocks:
    """A cut of flat elements.

    Attributes:
        count: Number of elements.
        align: Every cut is at a multiple of it, but for the end.
        block: About how many elements a block has.
    """

    count: int
    align: int = 1
    block: int = BLOCK

    @property
    def step(self) -> int:
        """Elements in a block."""
        return max(1, self.block // self.align) * self.align

    def pieces(self) -> list[tuple[int, int]]:
        """Returns the bounds of all pieces, in order."""
        blocks = -(-self.count // self.step)
        size = max(1, -(-blocks // PIECES)) * self.step
        return [(at, min(at + size, self.count)) for at in range(0, self.count, size)]

    def within(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yields the bounds of the blocks of a piece, in order."""
        for at in range(start, stop, self.step):
            yield at, min(at + self.step, stop)

    def map(self, task: Callable[[int, int], T], threads: int) -> list[T]:
        """Returns what a task gives for the bounds of each piece, in order.

        Args:
            task: Takes first and end element of a piece; called from several threads.
            threads: How many.
        """
        pieces = self.pieces()
        if threads < 2 or len(pieces) < 2:
            return [task(start, stop) for start, stop in pieces]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda bounds: task(*bounds), pieces))
