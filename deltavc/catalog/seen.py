"""Which ids have come before, in little memory and sometimes wrong in one direction."""

from __future__ import annotations

__all__ = ["Seen"]

_DIGITS = 7
_BITS = 4 * _DIGITS


class Seen:
    """Tells new ids from those that may have come before.

    One bit for the first 28 of an id: 32 MiB. Among a million ids, one in 270 new ones is
    taken for a repetition, and whoever asks looks it up then.
    """

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_BITS - 3))

    def again(self, oid: str) -> bool:
        """Takes note of an id.

        Args:
            oid: Hex digits.

        Returns:
            False if it has not come before; True if it has, and now and then if not.
        """
        number = int(oid[:_DIGITS], 16)
        at, bit = number >> 3, 1 << (number & 7)
        found = self._bits[at]
        self._bits[at] = found | bit
        return bool(found & bit)
