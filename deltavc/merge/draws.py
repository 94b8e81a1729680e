"""Random numbers that depend on a seed and on what they are for, on nothing else.

Each element of each side's increment has a 32-bit word of its own, from
Philox 4x64-10 in counter mode. The layout, for good:

- key: the first 16 bytes of SHA-256 over ``deltavc merge 1``, the seed in decimal, the
  parameter's name and the side's key, in UTF-8 with a zero byte between, as a
  little-endian number;
- counter: the flat number of the element divided by 8, rounded down;
- word: the four 64-bit results of that counter, little-endian, are eight 32-bit words;
  the element's is the one at its number modulo 8.

An element is kept with probability p if its word is below p · 2**32.

Source:
    Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORDS", "key_for", "threshold", "words"]

WORDS = 1 << 32  # number of values of a word
_PER_COUNTER = 8
_COUNTERS = 1 << 256


def key_for(seed: int, parameter: str, side: str) -> int:
    """Returns the key of the random numbers of one side's increment of one parameter."""
    text = "\0".join(("deltavc merge 1", str(seed), parameter, side))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:16], "little")


def threshold(probability: Fraction) -> int:
    """Returns the number below which a word means yes."""
    return -(-probability.numerator * WORDS // probability.denominator)


def words(key: int, start: int, stop: int) -> NDArray[np.uint32]:
    """Returns the words of some elements.

    Args:
        key: From :func:`key_for`.
        start: First element.
        stop: Element after the last.
    """
    first, end = start // _PER_COUNTER, -(-stop // _PER_COUNTER)
    # NumPy counts up before it draws, the first time too.
    generator = np.random.Philox(key=key, counter=(first - 1) % _COUNTERS)
    drawn = generator.random_raw(4 * (end - first)).astype("<u8", copy=False)
    offset = start - first * _PER_COUNTER
    return drawn.view("<u4")[offset : offset + stop - start]
